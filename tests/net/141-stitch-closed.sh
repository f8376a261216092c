#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch fails closed: whatever is missing, bytes of an application never reach the SOCKS port raw. No
# filters on an interface, filters taken away, an interface that is new, the death of who put them there.
. "$(dirname "$0")/lib.sh"

need tc python3
topology
net_who 9000
cg_new app
impatient client
start verdicts -- ns proxy "$TOOLS/verdicts" serve :: 1090 1091
wait_port proxy tcp :: 1090
PEER_NAME=serve peer_serve proxy "$PROXY4" 1082
cat >"$TMP/eat.py" <<'PY'
import socket, sys, threading
s = socket.create_server((sys.argv[1], 1095), backlog=64)
print("listening", flush=True)
def eat(c):
    while True:
        try: b = c.recv(4096)
        except OSError: break
        if not b: break
        print("ate", b[:40], flush=True)
while True:
    c, peer = s.accept()
    print("accepted", flush=True)
    threading.Thread(target=eat, args=(c,), daemon=True).start()
PY
start eater -- ns proxy python3 "$TMP/eat.py" "$PROXY4"
wait_log eater listening
cat >"$TMP/talk.py" <<'PY'
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], 9000), timeout=4)
    s.sendall(b"SECRET OF THE APPLICATION\n")
    s.settimeout(2)
    print("connected", s.recv(100))
except OSError as e:
    print("failed", e)
PY

app() { cg app ns client "$@"; }
verdicts() { app "$TOOLS/connects" -c 1 -t 10 "$@" | awk '{print $1 "=" $2}' | paste -sd ' '; }
# connecting N: so many sockets wait for an answer to their SYN
connecting() { [[ $(ns client ss -Htn state syn-sent | grep -c .) == "$1" ]]; }
filtered() { ns client tc filter show dev "$1" egress | grep -q us_st_out; }
stitch() {
    start stitch -- ns client "$TOOLS/stitch" "$(cg_path app)" "$@"
    wait_log stitch '^ready' || bail "stitch $*"
}
unstitch() { stop stitch "${1:-TERM}" 2>/dev/null; rm -f "${LOG[stitch]}"; }
counter() {
    : >"${LOG[stitch]}"
    kill -USR1 "${PID[stitch]}"
    wait_log stitch '^counters' || return 1
    sed -n "s/^counters.* $1=\([0-9]*\).*/\1/p" "${LOG[stitch]}"
}

# --- taken away, by whomever, while nobody can put them back
stitch "socks5://$PROXY4:1095"
kill -STOP "${PID[stitch]}"
ns client tc filter del dev up0 egress
app timeout 20 python3 "$TMP/talk.py" "$NET4" >"$TMP/talk" 2>&1
like "$(cat "$TMP/talk")" "^failed" "without the filter of what goes out no connection"
unlike "$(cat "${LOG[eater]}")" "ate" "and nothing is said"
kill -CONT "${PID[stitch]}"
check "the filters come back" -- wait_for 5 filtered up0
kill -STOP "${PID[stitch]}"
ns client tc filter del dev up0 ingress
app timeout 20 python3 "$TMP/talk.py" "$NET4" >"$TMP/talk" 2>&1
like "$(cat "$TMP/talk")" "^failed" "without the filter of what comes in no connection"
kill -CONT "${PID[stitch]}"
wait_for 5 eval 'ns client tc filter show dev up0 ingress | grep -q us_st_in'
kill -STOP "${PID[stitch]}"
ns client tc qdisc del dev up0 clsact
app timeout 20 python3 "$TMP/talk.py" "$NET4" >"$TMP/talk" 2>&1
like "$(cat "$TMP/talk")" "^failed" "without either no connection"
unlike "$(cat "${LOG[eater]}")" "ate.*SECRET" "and nothing of the application's is said, ever"
kill -CONT "${PID[stitch]}"
check "both come back" -- wait_for 5 filtered up0
num "$(counter guarded)" -gt 0 "it was the guard"
kill -STOP "${PID[stitch]}"
ns client tc qdisc del dev up0 clsact
sed -i s/timeout=4/timeout=20/ "$TMP/talk.py"
app timeout 20 python3 "$TMP/talk.py" "$NET4" >"$TMP/talk" 2>&1 &
talk=$!
wait_for 10 connecting 1
ended_before=$(grep -c . "${LOG[eater]}")
kill -TERM "${PID[stitch]}"
kill -CONT "${PID[stitch]}"
unstitch
wait $talk
like "$(cat "$TMP/talk")" "^failed.*abort" "who waits when it ends in order is ended"
sleep 1.5
unlike "$(tail -n +$((ended_before + 1)) "${LOG[eater]}")" "ate" "and never reaches the server by itself"

# --- a new interface, a new name
stitch "socks5://[$PROXY6]:1090"
kill -STOP "${PID[stitch]}"
ns_link client new0 "10.77.9.2/24 fd77:9::2/64" proxy new1 "10.77.9.1/24 fd77:9::1/64"
ns client ip -6 route add "$PROXY6/128" via fd77:9::1 dev new0 src "$CLIENT6"
ns proxy ip -6 route add "$CLIENT6/128" via fd77:9::2 dev new1
total=$(ns proxy "$TOOLS/verdicts" ask 127.0.0.1 1091 total)
is "$(verdicts "$NET6" 20000)" "20000=ETIMEDOUT" "an interface that nobody has seen lets nothing through"
is "$(ns proxy "$TOOLS/verdicts" ask 127.0.0.1 1091 total)" "$total" "not even a SYN"
app "$TOOLS/connects" -c 1 -t 10 "$NET6" 20000 >"$TMP/late" &
late=$!
wait_for 10 connecting 1
kill -CONT "${PID[stitch]}"
wait $late
like "$(cat "$TMP/late")" "^20000 OK" "once it is seen, the SYN that comes again gets through"
num "$(counter unready)" -gt 0 "it was the guard"
ns client ip link set new0 down
ns client ip link set new0 name other0
ns client ip link set other0 up
ns client ip -6 addr replace fd77:9::2/64 dev other0 nodad
ns client ip -6 route replace "$PROXY6/128" via fd77:9::1 dev other0 src "$CLIENT6"
is "$(verdicts "$NET6" 20000 20007)" "20000=OK 20007=ECONNREFUSED" "another name changes nothing"
ns client ip link del other0
is "$(verdicts "$NET6" 20000)" "20000=OK" "without the interface the old one serves again"
unstitch

# --- death in the middle of a handshake
stitch "socks5://$PROXY4:1090"
app "$TOOLS/connects" -c 1 -t 10 "$NET4" 20002 >"$TMP/late" &
late=$!
app "$TOOLS/connects" -c 1 -t 10 "$NET4" 20016 >"$TMP/refused" &
refused=$!
wait_for 2 connecting 2
unstitch KILL
wait $late $refused
like "$(cat "$TMP/late")" "^20002 OK" "who is killed in the middle of a handshake leaves it to its end"
like "$(cat "$TMP/refused")" "^20016 ECONNREFUSED" "also to a bad one"
is "$(app "$TOOLS/who" "$NET4" 9000)" "$CLIENT4" "and nobody else is turned anywhere"

# --- in order: what is under way ends, what stands goes on without any program
stitch "socks5://$PROXY4:1082"
cat >"$TMP/long.py" <<'PY'
import socket, sys, time
s = socket.create_connection((sys.argv[1], 9000), timeout=10)
print("connected", flush=True)
sys.stdin.readline()
s.sendall(b"GET / HTTP/1.0\r\n\r\n")
print("got", s.recv(100))
PY
mkfifo "$TMP/go"
app timeout 20 python3 "$TMP/long.py" "$NET4" <"$TMP/go" >"$TMP/long" 2>&1 &
long=$!
exec 7>"$TMP/go"
wait_for 10 grep -q connected "$TMP/long"
unstitch
echo >&7
wait $long
like "$(cat "$TMP/long")" "got b'.*$EXIT4" "what is established goes on without any program of ours"
is "$(ns client tc filter show dev up0 egress | grep -c us_st_)" 0 "there is none"
unlike "$(ns client tc qdisc show dev up0)" clsact "nor a qdisc for them"

# --- somebody else's filter on the same qdisc stays
stitch "socks5://$PROXY4:1082"
if ns client tc filter add dev up0 egress pref 7 protocol ip u32 match u32 0 0 action pass 2>/dev/null ||
    ns client tc filter add dev up0 egress pref 7 bpf da obj "$B/bpf/hold.bpf.o" sec cgroup_skb/egress 2>/dev/null ||
    ns client tc filter add dev up0 egress pref 7 bpf da obj "$B/bpf/stitch.bpf.o" sec tc 2>/dev/null; then
    unstitch
    like "$(ns client tc filter show dev up0 egress)" "pref 7" "another's filter stays"
    unlike "$(ns client tc filter show dev up0 egress)" "pref 1 " "and ours are gone"
else
    skip "another's filter stays" "tc can add none here" 2
    unstitch
fi
done_testing
