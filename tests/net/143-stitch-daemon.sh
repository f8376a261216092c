#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch by the daemon and by `run`: fast-path = "stitch" on a cgroup capture. The upstream's verdicts
# are connect()'s, status and flows tell, reload, stop and SIGKILL do no harm to what is connected, and
# an upstream that fails is the relay's until it works again.
. "$(dirname "$0")/lib.sh"

need python3 tc nft
topology
net_who 9000
start sink -- ns net "$TOOLS/pattern" serve :: 9004
cat >"$TMP/echo.py" <<'PY'
import socket, sys, threading
def echo(c):
    while b := c.recv(65536):
        c.sendall(b)
s = socket.create_server(("::", 9003), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()
PY
start echo -- ns net python3 "$TMP/echo.py"
for port in 9003 9004; do wait_port net tcp :: $port; done
cg_new app
impatient client
start verdicts -- ns proxy "$TOOLS/verdicts" serve :: 1090 1091
wait_port proxy tcp :: 1090
PEER_NAME=one peer_serve proxy "$PROXY4" 1081
PEER_NAME=two peer_serve proxy "$EXIT4" 1082
PEER_NAME=six peer_serve proxy "$PROXY6" 1083
cat >"$TMP/hold.py" <<'PY'
import socket, sys
s = socket.create_connection((sys.argv[1], 9003), timeout=20)
s.settimeout(20)
def turn(text):
    s.sendall(text)
    got = b""
    while len(got) < len(text):
        more = s.recv(65536)
        if not more:
            raise SystemExit("closed")
        got += more
    print("turn", len(got), flush=True)
go = open(sys.argv[2], "r+b", buffering=0)
while True:
    line = b""
    while not line.endswith(b"\n"):
        line += go.read(1)
    turn(b"x" * int(line))
PY
app() { cg app ns client "$@"; }
seen() { app timeout 20 "$TOOLS/who" "$@" 2>&1; }
verdicts() { app "$TOOLS/connects" -c 1 -t 10 "$@" | awk '{print $1 "=" $2}' | paste -sd ' '; }
st() { us_status undersock "s['stitch']['$1']"; }
st_is() { test "$(st "$1")" "$2" "$3"; }
stitched() { us_status undersock "[c for c in s['captures'] if c['name'] == '${1:-app}'][0]['stitched']"; }
stitched_is() { [[ $(stitched) == "$1" ]]; }
CONF=$TMP/undersock.conf
config() { # UPSTREAM [LINE...]
    echo "control = \"$TMP/undersock.sock\""
    echo 'fast-path = "stitch"'
    echo "upstream \"one\" { url = \"socks5://$PROXY4:1081\" }"
    echo "upstream \"two\" { url = \"socks5://$EXIT4:1082\" }"
    echo "upstream \"six\" { url = \"socks5://[$PROXY6]:1083\" }"
    echo "upstream \"odd\" { url = \"socks5://$PROXY4:1090\" }"
    echo 'group "pair" { members = { "one", "two" } }'
    echo "capture \"app\" { hook = \"cgroup\" cgroup = \"/$US-app\" upstream = \"$1\""
    printf '    %s\n' "${@:2}"
    echo '}'
}
reload() { config "$@" >"$CONF"; us_reload undersock || bail "reload"; }
filtered() { ns client tc filter show dev up0 egress | grep -q us_st_out; }

us_daemon client < <(config two)
is "$(stitched) $(st state)" "True on" "status: the capture is stitched"

# --- bytes, and what is told
is "$(seen -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "IPv4: through the proxy, and the peer is who was asked for"
check "8 MiB each way, half-close" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9004 8M
is "$(st granted) $(st failed)" "2 0" "both were stitched"
is "$(us_status undersock "sum(w['accepted'] for w in s['workers'])")" 0 "no worker had anything to do with it"
is "$(seen "$NET6" 9000)" "$EXIT6" "an IPv6 socket and an IPv4 proxy: relayed"
mkfifo "$TMP/go"
start held -- cg app ns client python3 "$TMP/hold.py" "$NET4" "$TMP/go"
exec 7<>"$TMP/go"
echo 1000 >&7
wait_log held 'turn 1000'
flow() { us_flows undersock "[f for f in s if f['engine'] == 'stitch'][0]['$1']"; }
is "$(flow engine) $(flow capture) $(flow upstream) $(flow state) $(flow age_ms)" "stitch app two relay None" "flows: a stitched connection"
is "$(flow destination) $(flow bytes_up) $(flow bytes_down)" "$NET4:9003 1000 1000" "where it goes, and how much went"
is "$(flow comm) $(flow cgroup) $(flow uid)" "python3 /$US-app 0" "and whose it is"
is "$(us_flows undersock "len([f for f in s if f['engine'] == 'stitch'])")" 1 "it is the only one"
like "$(bounded 10 "$UNDERSOCK" flows -s "$TMP/undersock.sock")" " stitch +relay +- +1000 +1000 " "in a line"
like "$(bounded 10 "$UNDERSOCK" status -s "$TMP/undersock.sock")" 'stitch: on: begun 3, granted 3, failed 0' "status in a line"

# --- reload: another upstream, and what is connected lives on
reload one
is "$(stitched)" True "stitched after a reload"
is "$(seen "$NET4" 9000)" "$EXIT4" "and through the other proxy"
is "$(st granted)" 4 "by stitch"
echo 2000 >&7
check "who was connected before the reload still is" -- wait_log held 'turn 2000'
is "$(flow upstream) $(flow bytes_up)" "two 3000" "through the upstream that it began with"
reload six
is "$(seen -p "$NET6" 9000)" "$EXIT6 peer=[$NET6]:9000" "IPv6, stitched"
is "$(st granted)" 5 "by stitch"
for line in 'connect = "early"' 'when-down = "direct"'; do
    reload one "$line"
    is "$(stitched)" False "$line: relayed"
    is "$(seen "$NET4" 9000)" "$EXIT4" "and it works"
done
like "$(us_status undersock "s['captures'][0]['why_relayed']")" 'when-down' "status says why"
is "$(st granted)" 5 "not by stitch"

# --- what the upstream says
reload odd
is "$(verdicts "$NET4" 20000-20010)" \
    "20000=OK 20001=OK 20002=OK 20003=ECONNREFUSED 20004=ECONNREFUSED 20005=ENETUNREACH 20006=EHOSTUNREACH 20007=ECONNREFUSED 20008=EHOSTUNREACH 20009=ECONNREFUSED 20010=ECONNREFUSED" \
    "each verdict"
num "$(st failed)" -ge 7 "told by the kernel"

# --- a group: the first member goes, and comes back
reload pair
is "$(stitched)" True "a group of policy failover is stitched to its first member"
stop one
app timeout 20 "$TOOLS/who" "$NET4" 9000 >/dev/null 2>&1
check "the first member is gone: relayed" -- wait_for 10 stitched_is False
check "one line says so" -- wait_log undersock 'upstream one: .*; relayed, not stitched, until it answers'
is "$(seen "$NET4" 9000)" "$EXIT4" "and the second member is used"
before=$(st begun)
is "$(seen "$NET4" 9000)" "$EXIT4" "again"
is "$(st begun)" "$before" "nothing is tried by stitch meanwhile"
PEER_NAME=one peer_serve proxy "$PROXY4" 1081
back() { seen "$NET4" 9000 >/dev/null; stitched_is True; }
check "it is back: stitched again" -- wait_for 40 back
before=$(st granted)
is "$(seen "$NET4" 9000)" "$EXIT4" "through it"
is "$(st granted)" $((before + 1)) "by stitch"

# --- stop
echo 3000 >&7
wait_log held 'turn 3000'
bounded 20 "$UNDERSOCK" stop -s "$TMP/undersock.sock"
check "stopped" -- wait_for 10 has_ended undersock
check_status 1 "no filter is left" -- filtered
is "$(ns client tc qdisc show | grep -c clsact)" 0 "and no qdisc"
echo 4000 >&7
check "who was connected still is" -- wait_log held 'turn 4000'
is "$(seen "$NET4" 9000)" "$CLIENT4" "and the next connection goes direct"
stop held

# --- SIGKILL in the middle of handshakes: nothing gets out raw
cat >"$TMP/slow.py" <<'PY'
import socket, sys, threading, time
s = socket.create_server((sys.argv[1], 1095), backlog=64)
print("listening", flush=True)
def eat(c):
    time.sleep(3)
    c.sendall(b"\5\0")
    while True:
        try: b = c.recv(4096)
        except OSError: break
        if not b: break
        print("ate", b, flush=True)
while True:
    c, peer = s.accept()
    print("accepted", flush=True)
    threading.Thread(target=eat, args=(c,), daemon=True).start()
PY
cat >"$TMP/talk.py" <<'PY'
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], 9000), timeout=12)
    s.sendall(b"SECRET OF THE APPLICATION\n")
    print("connected")
except OSError as e:
    print("failed", e)
PY
start slow -- ns proxy python3 "$TMP/slow.py" "$PROXY4"
wait_log slow listening
rm -f "${LOG[undersock]}"
us_daemon client < <(config one | sed "s/:1081/:1095/")
app timeout 20 python3 "$TMP/talk.py" "$NET4" >"$TMP/talk" 2>&1 &
talk=$!
wait_log slow accepted
kill -KILL "${PID[undersock]}"
wait_for 10 has_ended undersock
wait $talk
like "$(cat "$TMP/talk")" "^failed" "killed in mid-handshake: no connection that was not granted"
like "$(cat "${LOG[slow]}")" "ate" "the handshake went on without us"
unlike "$(cat "${LOG[slow]}")" SECRET "and nothing raw reached the server"
check "the filters are still there" -- filtered
us_daemon client < <(config one)
is "$(stitched) $(seen "$NET4" 9000) $(st granted)" "True $EXIT4 1" "the next daemon stitches as ever"
stop undersock
check_status 1 "and takes the filters of both" -- filtered

# --- run
us_run() { ns client "$UNDERSOCK" run -u "socks5://$PROXY4:1081" -o fast-path=stitch "$@"; }
is "$(us_run -- "$TOOLS/who" -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "run: through the proxy"
like "$(us_run -- sh -c "'$TOOLS/who' $NET4 9000; tc filter show dev up0 egress")" us_st_out "run: by stitch"
check_status 1 "and nothing is left of it" -- filtered
like "$(us_run -o udp=bypass -o dns=bypass -- sh -c "'$TOOLS/who' $NET4 9000; tc filter show dev up0 egress")" us_st_out "also without UDP and DNS"
is "$(leaks sink)" 0 "no byte came from the client itself"

done_testing
