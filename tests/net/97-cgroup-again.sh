#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A captured cgroup that is removed and made again, as a service's own one is whenever that service is
# restarted: it is captured again, by itself, for TCP (relayed and stitched), UDP and names, with its
# place in the order of captures, and with on-exit = "closed"; also where a directory above has gone
# with it. Meanwhile the daemon says so, and can be reloaded.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/datagrams.sh"

need python3 nft
topology
net_who 9002
datagrams_net
ask_py
serve_knows serve 1080
cg_new app
CONF=$TMP/undersock.conf
INNER=inner.slice/job.service
AT=$(cg_path app)/$INNER

config() { # FAST-PATH [KEY]
    cat <<-CONF
	control = "$TMP/undersock.sock"
	fast-path = "$1"
	upstream "u" { url = "socks5h://$PROXY4:1080" }
	capture "first" {
	    hook = "cgroup"
	    cgroup = "/$US-app/$INNER"
	    upstream = "direct"
	    tcp-ports = { "9003" }
	}
	capture "job" {
	    hook = "cgroup"
	    cgroup = "/$US-app/$INNER"
	    upstream = "u"
	    ${2:-}
	}
	CONF
}
job() { cg "app/$INNER" ns client "$@"; }
seen() { job timeout 20 "$TOOLS/who" "$@" 2>&1; }
udp() {
    job python3 - "$NET4" <<'PY' 2>&1
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(b'who?', (sys.argv[1], 9000))
print(s.recv(100).decode())
PY
}
installed() { us_status undersock "[c['installed'] for c in s['captures']]"; }
is_installed() { [[ $(installed) == "[$1, $1]" ]]; }
gone() { rmdir "$AT" && wait_for 10 is_installed False; }
back() { mkdir -p "$AT" && wait_for 10 is_installed True; }
attached() { cgroup_objects "$AT" | cut -d' ' -f1 | sort | uniq -c | xargs; }
ruled() { ns client nft list ruleset | grep -c "$INNER"; }

mkdir -p "$AT" || bail "mkdir"
for FAST in relay stitch; do
    us_daemon client < <(config $FAST)
    rules=$(ruled)
    num "$rules" -gt 0 "$FAST: there are rules that name it"
    stitched=$([[ $FAST == stitch ]] && echo True || echo False)
    everything() { # WHEN
        is "$(seen "$NET4" 9002) $(seen "$NET6" 9002)" "$EXIT4 $EXIT6" "$FAST, $1: TCP goes through the proxy"
        is "$(seen "$NET4" 9003)" "$CLIENT4" "$FAST, $1: but for what the first capture leaves alone"
        is "$(udp)" "$EXIT4" "$FAST, $1: UDP"
        is "$(us_status undersock "s['captures'][1]['stitched']")" "$stitched" "$FAST, $1: stitched is $stitched"
    }
    [[ $FAST == relay ]] && start who3 -- ns net "$TOOLS/who" serve 9003 && wait_port net tcp :: 9003
    everything "at the start"
    attached=$(attached)

    check "$FAST: it goes, and status says so" -- gone
    like "$(ns client "$UNDERSOCK" status -s "$TMP/undersock.sock" 2>&1)" 'capture job: waits for its cgroup' "$FAST: in words, too"
    check "$FAST: and the log" -- wait_log undersock "capture job: the cgroup .*$INNER.* is gone"
    check "$FAST: a reload meanwhile is no fault" -- us_reload undersock
    is "$(installed)" "[False, False]" "$FAST: and goes on waiting"
    check "$FAST: it is back" -- back
    everything "after it came back"
    is "$(ruled)" "$rules" "$FAST: the rules name it as before"
    is "$(attached)" "$attached" "$FAST: and as many programs are on it"

    rmdir "$AT" "${AT%/*}" && wait_for 10 is_installed False
    check "$FAST: it is back, and the directory above, that had gone with it" -- back
    everything "and again"

    fds=$(fd_count "${PID[undersock]}")
    for i in {1..30}; do rmdir "$AT" && mkdir "$AT"; done
    # Who is asked twice has looked once since the first time.
    for i in 1 2; do is_installed True; done
    check "$FAST: thirty times in a hurry" -- wait_for 10 is_installed True
    everything "after that"
    # Once more between two of its captures: the first one is asked first all the same.
    asked=
    for i in {1..12}; do
        python3 -c "import os
for i in range(50): os.rmdir('$AT'); os.mkdir('$AT')"
        for k in 1 2; do is_installed True; done
        asked+=" $(seen "$NET4" 9003)"
    done
    is "$(xargs -n1 <<<"$asked" | sort | uniq -c | xargs)" "12 $CLIENT4" "$FAST: in a greater hurry, and in order"
    num "$(fd_count "${PID[undersock]}")" -le "$fds" "$FAST: no descriptor is left of it"
    is "$(cat "${LOG[who]}" "${LOG[echo]}" | grep -Ec "peer=($CLIENT4|$CLIENT6)( |$)")" 0 "$FAST: and nothing of it all has gone past the proxy"
    stop undersock
    [[ $FAST == stitch ]] || check "$FAST: nothing is left on the cgroup" -- wait_for 10 eval '[[ -z $(cgroup_objects "$AT") ]]'
done

# --- another order of the captures of one cgroup is in force after a reload, wherever the cgroup is by then
swapped() { awk '/^capture "first"/ {hold = 1} hold {kept = kept $0 "\n"; if (/^}/) hold = 0; next} {print} END {printf "%s", kept}'; }
hup() { # WHAT-HAPPENS-MEANWHILE...: the keeper meets SIGHUP first
    kill -STOP "${PID[undersock]}"
    kill -HUP "${PID[undersock]}"
    "$@"
    kill -CONT "${PID[undersock]}"
}
again() { rmdir "$AT" && mkdir "$AT"; }
us_daemon client < <(config relay)
said() { (($(grep -c "$1" "${LOG[undersock]}") >= $2)); }
for again in "" ", and it was made anew meanwhile"; do
    config relay | swapped >"$CONF"
    check "a reload with another order" -- us_reload undersock
    is "$(seen "$NET4" 9003)" "$EXIT4" "it is in force: the second one is asked first"
    config relay >"$CONF"
    if [[ $again ]]; then
        so_far=$(grep -c reloaded "${LOG[undersock]}")
        hup again
        check "and back again$again" -- wait_for 10 said reloaded $((so_far + 1))
        check "and captured" -- wait_for 10 is_installed True
    else
        check "and back again" -- us_reload undersock
    fi
    is "$(seen "$NET4" 9003) $(seen "$NET4" 9002)" "$CLIENT4 $EXIT4" "as at the start$again"
done
stop undersock

# --- a cgroup that is made anew, or goes, while a reload is under way, whether that succeeds or not
bad() { # FAST-PATH
    config "$1"
    echo "capture \"bad\" { hook = \"cgroup\" cgroup = \"/$US-nowhere\" upstream = \"u\" }"
}
# Who was sent to workers that never come to be would be told ETIMEDOUT.
impatient client
cat >"$TMP/connects.py" <<'PY'
import os, socket, sys, threading
told, n, begun = set(), 0, False
def connects():
    global n, begun
    while not os.path.exists(sys.argv[2]):
        s = socket.socket()
        told.add(os.strerror(s.connect_ex((sys.argv[1], 9002))))
        s.close()
        n += 1
        if n > 20 and not begun: begun = True; print('begun', flush=True)
threads = [threading.Thread(target=connects) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(*told)
PY
for FAST in relay stitch; do
    us_daemon client < <(config $FAST)
    bad $FAST >"$CONF"
    start connects -- cg "app/$INNER" ns client python3 "$TMP/connects.py" "$NET4" "$TMP/enough"
    wait_log connects begun || bail "nobody connects"
    for i in {1..8}; do us_reload undersock 2>>"$TMP/refused"; done
    touch "$TMP/enough"
    wait_exit connects 60
    is "$(tail -n 1 "${LOG[connects]}")" "Success" "$FAST: reloads fail at the last capture: who connects meanwhile is connected"
    rm "$TMP/enough" "${LOG[connects]}"
    : >"${LOG[undersock]}"
    hup again
    so_far=$(grep -c reloaded "${LOG[undersock]}")
    check "$FAST: a reload that fails while the cgroup is made anew" -- wait_log undersock "$US-nowhere"
    check "$FAST: it is captured" -- wait_for 10 is_installed True
    is "$(seen "$NET4" 9002) $(seen "$NET4" 9003)" "$EXIT4 $CLIENT4" "$FAST: by workers that know it"
    config $FAST >"$CONF"
    hup rmdir "$AT"
    check "$FAST: a reload while it goes is no fault" -- wait_for 10 said reloaded $((so_far + 1))
    check "$FAST: status says that it is gone" -- wait_for 10 is_installed False
    check "$FAST: and back" -- back
    is "$(seen "$NET4" 9002) $(us_status undersock "s['captures'][1]['stitched']")" "$EXIT4 $([[ $FAST == stitch ]] && echo True || echo False)" "$FAST: all is as it was"
    stop undersock
done

# --- a cgroup that comes and goes all the time, in the middle of reloads of either order
cat >"$TMP/churn.py" <<'PY'
import os, random, sys, time
while True:
    os.rmdir(sys.argv[1]); time.sleep(random.random() / 5)
    os.mkdir(sys.argv[1]); time.sleep(random.random() / 5)
PY
for FAST in relay stitch; do
    us_daemon client < <(config $FAST)
    start churn -- python3 "$TMP/churn.py" "$AT"
    failed=
    for i in {1..20}; do
        if ((i % 2)); then config $FAST | swapped >"$CONF"; else config $FAST >"$CONF"; fi
        failed+=$(us_reload undersock 2>&1)
    done
    stop churn
    is "$failed" "" "$FAST: twenty reloads while it comes and goes: none fails"
    check "$FAST: it is back" -- back
    is "$(seen "$NET4" 9002) $(seen "$NET4" 9003)" "$EXIT4 $CLIENT4" "$FAST: and captured, in order"
    stop undersock
done

# --- the daemon is killed
us_daemon client < <(config relay 'on-exit = "closed"')
check "closed: it goes" -- gone
check "closed: and is back" -- back
# Somebody's table is in the way of the guard's other rules, and goes again.
guard_names_it() { ns client nft list table inet undersock-guard | grep -q "$INNER"; }
check "closed: the guard names it" -- guard_names_it
mkfifo "$TMP/nft"
start owner -- ns client sh -c "exec nft -i <>'$TMP/nft'"
echo 'add table inet undersock-guard-next { flags owner; }' >"$TMP/nft"
in_the_way() { [[ $(tables_of client) == *guard-next* ]]; }
wait_for 10 in_the_way || bail "no table of somebody"
gone && back
check "closed: another one, which the guard cannot name" -- wait_log undersock "the rules for a cgroup that is another one now"
stop owner
check "closed: as soon as it can it does" -- wait_for 10 guard_names_it
stop undersock KILL 2>/dev/null
is "$(seen "$NET4" 9002) $(seen "$NET6" 9002)" "connect=ECONNREFUSED connect=ECONNREFUSED" "closed: the guard knows the new one when the daemon has been killed"

# --- what has never been there is a mistake, as ever
rmdir "$AT"
config relay >"$CONF"
start bad -- ns client "$UNDERSOCK" daemon -c "$CONF"
ended bad 10
is "$ENDED" 1 "a start without it: exit 1"
like "$(<"${LOG[bad]}")" "$INNER.*No such file.*mkdir" "and the line says what to do"
ns client "$UNDERSOCK" stop -s "$TMP/undersock.sock" >/dev/null 2>&1
is "$(tables_of client)" "" "and a stop lifts what was closed"
done_testing
