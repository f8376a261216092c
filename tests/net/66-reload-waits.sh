#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A reload whose upstreams have names that the name server keeps to itself, until it is told to answer. The
# daemon does not wait with it: a cgroup that is made anew is captured, a worker that has died is started
# again, questions are answered, and an end is an end. The reload, and who has asked for it, go on when
# there is an answer. A start waits, but for its end.
. "$(dirname "$0")/lib.sh"

need python3 nft unshare
topology
net_who 9002
peer_serve proxy "$PROXY4" 1080
cg_new app
AT=$(cg_path app)/job.service
mkdir "$AT" || bail "mkdir"

# Told on standard input: "answer" from now on, or "hold". What begins with "late" is the proxy.
mkfifo "$TMP/say"
cat >"$TMP/late.py" <<'PY'
import os, select, socket, struct, sys
server, proxy = sys.argv[1:3]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((server, 53))
held, holding = [], True
def answer(query, peer):
    end = query.index(b'\0', 12) + 5
    known = query[13:].startswith(b'late')
    found = known and query[end - 4:end - 2] == b'\0\1'
    reply = query[:2] + struct.pack('!5H', 0x8180 if known else 0x8183, 1, int(found), 0, 0) + query[12:end]
    if found:
        reply += struct.pack('!HHHIH', 0xc00c, 1, 1, 0, 4) + socket.inet_aton(proxy)
    s.sendto(reply, peer)
print('ready', flush=True)
while True:
    for f in select.select([s, 0], [], [])[0]:
        if f == 0:
            holding = os.read(0, 100).split()[-1] == b'hold'
        else:
            held.append(s.recvfrom(512))
            print('asked', held[-1][0][13:13 + held[-1][0][12]].decode(), flush=True)
    while held and not holding:
        answer(*held.pop(0))
PY
start late -- ns net sh -c "exec python3 '$TMP/late.py' '$NET4' '$PROXY4' <>'$TMP/say'"
wait_log late ready || bail "no name server"
say() { echo "$1" >"$TMP/say"; }

printf 'nameserver %s\noptions timeout:30 attempts:5\n' "$NET4" >"$TMP/resolv.conf"
cat >"$TMP/named" <<SH
#!/bin/sh
exec unshare -m --propagation private sh -c 'mount --bind "$TMP/resolv.conf" /etc/resolv.conf && exec "\$@"' \
    sh "$UNDERSOCK" "\$@"
SH
chmod +x "$TMP/named"
UNDERSOCK=$TMP/named

config() { # UPSTREAM LATE-HOST [WORKERS]
    cat <<-CONF
	control = "$TMP/undersock.sock"
	fast-path = "relay"
	workers = ${3:-1}
	upstream "u" { url = "socks5h://$PROXY4:1080" }
	upstream "late" { url = "socks5h://$2:1080" }
	capture "job" { hook = "cgroup" cgroup = "/$US-app/job.service" upstream = "$1" }
	CONF
}
seen() { cg app/job.service ns client timeout 20 "$TOOLS/who" "$NET4" 9002 2>&1; }
is_installed() { [[ $(us_status undersock "s['captures'][0]['installed']") == "$1" ]]; }
uses() { us_status undersock "s['captures'][0]['upstream']"; }
another_worker() { [[ $(us_workers undersock) != @("$1"|) ]]; }
workers_are() { [[ $(us_status undersock 'len(s["workers"])') == "$1" ]]; }
reloads_are() { [[ $(grep -c "reloaded " "${LOG[undersock]}") == "$1" ]]; }
waits_for() { # HOST: a reload, until the name server has been asked
    : >"${LOG[late]}"
    start reload -- ns client "$UNDERSOCK" reload -s "$TMP/undersock.sock"
    wait_log late "asked $1" || bail "nobody asks for $1"
}
still() { if has_ended reload; then echo "has ended"; else echo waits; fi; }
all_dead() { local p; for p; do dead "$p" || return 1; done; }

us_daemon client < <(config u "$PROXY4")
is "$(seen)" "$EXIT4" "through the proxy"

# --- what goes on meanwhile
config late late >"$TMP/undersock.conf"
waits_for late
rmdir "$AT"
check "a reload waits for a name; the cgroup goes" -- wait_for 10 is_installed False
mkdir "$AT"
check "it is back, another one, and captured" -- wait_for 10 is_installed True
is "$(seen), the reload $(still)" "$EXIT4, the reload waits" "through the proxy, before there is an answer"
worker=$(us_workers undersock)
kill -KILL "${worker% }"
check "a worker that dies is started again" -- wait_for 10 another_worker "$worker"
is "$(seen), the reload $(still)" "$EXIT4, the reload waits" "and works, before there is an answer"
is "$(uses)" u "the configuration is the one of before"
out=$(us_reload undersock 2>&1)
is $? 1 "another reload fails"
is "$out" "undersock: a reload is under way, and waits for the addresses of upstreams; ask again when it has ended" "and says why"
config late late 2 >"$TMP/undersock.conf"
kill -HUP "${PID[undersock]}"
check "by SIGHUP it is remembered" -- wait_log undersock "is read again when the reload under way has ended"
is "$(still)" waits "the first one still waits"
say answer
ended reload 20
is "$ENDED $(<"${LOG[reload]}")" "0 " "there is an answer: it succeeds"
check "and so does the other one" -- wait_for 20 reloads_are 2
is "$(uses)" late "what they say is in force"
check "of the second, too" -- wait_for 20 workers_are 2
is "$(seen)" "$EXIT4" "and it works"
is "$(grep -Ec "peer=$CLIENT4( |$)" "${LOG[who]}")" 0 "nothing of it all has gone past the proxy"

# --- an answer that is none
settled() { config late "$PROXY4" >"$TMP/undersock.conf" && us_reload undersock && wait_for 10 workers_are 1; }
# What two workers had goes with the second.
check "reloads without names" -- eval "settled && settled"
fds=$(fd_count "${PID[undersock]}")
say hold
config u never >"$TMP/undersock.conf"
waits_for never
say answer
ended reload 20
is $ENDED 1 "no such name: the reload fails"
like "$(<"${LOG[reload]}")" 'upstream late: cannot resolve "never"' "and says so"
is "$(uses) $(seen)" "late $EXIT4" "the daemon goes on as it was"
is "$(fd_count "${PID[undersock]}")" "$fds" "with as many descriptors as before"
config u late >"$TMP/undersock.conf"
check "a name with an answer" -- us_reload undersock
check "and without one again" -- settled
is "$(fd_count "${PID[undersock]}")" "$fds" "as many descriptors"

# --- the end
say hold
for end in SIGTERM stop; do
    running undersock || us_daemon client < <(config u "$PROXY4")
    config late late >"$TMP/undersock.conf"
    : >"$TMP/reload.log"
    waits_for late
    read -ra below <"/proc/${PID[undersock]}/task/${PID[undersock]}/children"
    num ${#below[@]} -eq 2 "$end: there are a worker and who asks"
    if [[ $end == stop ]]; then
        check "$end" -- bounded 20 "$UNDERSOCK" stop -s "$TMP/undersock.sock"
    else
        kill -TERM "${PID[undersock]}"
    fi
    ended undersock 20
    is "$ENDED" 0 "$end: the daemon ends, before there is an answer"
    check "$end: and so have they" -- all_dead "${below[@]}"
    is "$(tables_of client)$(cgroup_objects "$AT")" "" "$end: nothing is left"
    ended reload 20
    is "$ENDED $(<"${LOG[reload]}")" "1 undersock: the daemon ends; the reload was under way" "$end: who waits is told"
done

# --- the same at a start
: >"${LOG[late]}"
start early -- ns client "$UNDERSOCK" daemon -c "$TMP/undersock.conf"
check "a start waits for a name" -- wait_log late "asked late"
kill -TERM "${PID[early]}"
ended early 20
is "$ENDED $(<"${LOG[early]}")" "0 undersock: stopping: Terminated" "SIGTERM ends it before there is an answer"
: >"${LOG[late]}"
start run -- ns client "$UNDERSOCK" run -u socks5h://later:1080 -- touch "$TMP/ran"
check "so does a run" -- wait_log late "asked later"
kill -TERM "${PID[run]}"
ended run 20
is "$ENDED" 143 "SIGTERM ends it"
is "$(ls "$TMP/ran" "$TMP/undersock.sock" 2>/dev/null)$(tables_of client)" "" "and nothing is left of either"
done_testing
