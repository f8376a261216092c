#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch, whatever happens in the middle of handshakes: the daemon's death, its restart, its end; interfaces
# that go down, get another name, lose their filters, or are new. connect() ends in a connection that is
# right or in an error, and the SOCKS server is never told anything but what is due (tools/strict).
. "$(dirname "$0")/lib.sh"

need python3 tc
topology
net_who 9000
. "$LIB_DIR/stitch.sh"
UPSTREAM_KEYS=('connect-timeout = "60s"' 'handshake-timeout = "60s"')
# patience N: so often is a SYN repeated, after 1, 2, 4, ... seconds.
patience() {
    ns client sh -c "cd /proc/sys/net/ipv4 && echo $1 >tcp_syn_retries &&
        { [ ! -e tcp_syn_linear_timeouts ] || echo 0 >tcp_syn_linear_timeouts; }"
}
patience 5
start verdicts -- ns proxy "$TOOLS/verdicts" serve :: 1090 1091
start strict -- ns proxy "$TOOLS/strict" serve -g "$TMP/gate" :: 1095
for port in 1090 1095; do wait_port proxy tcp :: $port; done

# --- in the middle of handshakes: eight that wait for the answer to their greeting, eight for the last one
said() { grep -c "^$1" "${LOG[strict]}"; }
said_more() { (($(said "$1") >= $2)); }
# between ADDR: on the way, and nobody answers them
between() {
    local requests greetings
    requests=$(said request)
    touch "$TMP/gate.request"
    start talk1 -- cg app ns client "$TOOLS/strict" talk -n 8 -c 8 -t 90 "$1" 9000
    wait_for 10 said_more request $((requests + 8)) || bail "no requests"
    greetings=$(said greeting)
    touch "$TMP/gate.greeting"
    start talk2 -- cg app ns client "$TOOLS/strict" talk -n 8 -c 8 -t 90 "$1" 9000
    wait_for 10 said_more greeting $((greetings + 8)) || bail "no greetings"
    is "$(st begun) $(relayed)" "16 0" "$2: 16 handshakes under way, none relayed"
}
answer() { rm -f "$TMP/gate.request" "$TMP/gate.greeting"; }
# after WHAT [REGEX]: each is a connection that is right, or an error of connect(); all together REGEX
after() {
    local out
    ended talk1 100
    ended talk2 100
    out=$(cat "${LOG[talk1]}" "${LOG[talk2]}")
    rm -f "${LOG[talk1]}" "${LOG[talk2]}"
    out=$(awk '{n[$2] += $1} END {for (r in n) print n[r], r}' <<<"$out" | sort -n | paste -sd ' ')
    like "$out" "${2:-^(16 OK|([0-9]+ (OK|ECONNABORTED|ECONNREFUSED|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|EPERM)( |$))+)$}" "$1: each is a connection or an error"
    diag "$out"
    is "$(grep -c '^RAW' "${LOG[strict]}")" 0 "$1: and nothing raw"
}
ALL='^16 OK$' NONE='^16 ECONNABORTED$' SOME='^([0-9]+ (ETIMEDOUT|ECONNREFUSED|ECONNABORTED)( |$))+$'
for to in "$NET4" "$NET6"; do
    url="socks5://$PROXY4:1095" family=IPv4
    [[ $to == *:* ]] && url="socks5://[$PROXY6]:1095" family=IPv6
    at="$family, killed"
    up "$url"
    between "$to" "$at"
    kill_it
    answer
    after "$at" "$ALL"
    is "$(app "$TOOLS/who" "$NET4" 9000)" "$CLIENT4" "$at: nobody else is turned anywhere"
    at="$family, killed and started again"
    up "$url"
    between "$to" "$at"
    kill_it
    up "$url"
    answer
    after "$at" "$NONE"
    is "$(app timeout 20 "$TOOLS/strict" talk -n 10 "$to" 9000)" "10 OK" "$at: the next ones are stitched"
    stop undersock
    at="$family, killed, and somebody takes its filters away"
    patience 1
    up "$url"
    between "$to" "$at"
    kill_it
    ns client tc qdisc del dev up0 clsact
    answer
    after "$at" "$SOME"
    patience 5
    at="$family, stopped"
    up "$url"
    between "$to" "$at"
    bounded 60 "$UNDERSOCK" stop -s "$TMP/undersock.sock"
    wait_for 60 has_ended undersock
    answer
    after "$at" "$NONE"
    at="$family, workers killed, and another upstream by a reload"
    up "$url"
    between "$to" "$at"
    kill -KILL $(us_workers undersock)
    config "socks5://$PROXY4:1090" >"$TMP/undersock.conf"
    us_reload undersock
    answer
    after "$at" "$ALL"
    stop undersock
done

# filtered INTERFACE: both ways
filtered() {
    local way
    for way in ingress egress; do
        [[ $(ns client tc filter show dev "$1" $way) == *bpf* ]] || return 1
    done
}
# connections: those that the server has
connections() { ns proxy ss -Htn state established sport = :1095 | wc -l; }
reset_to() { (($(connections) <= $1)); }
routes() {
    ns client ip route replace default via "$PROXY4"
    ns client ip -6 addr replace "$CLIENT6/64" dev "${1:-up0}" nodad
    ns client ip -6 route replace default via "$PROXY6"
}
for to in "$NET4" "$NET6"; do
    url="socks5://$PROXY4:1095" family=IPv4 proxy=$PROXY4 own=$CLIENT4 via=10.77.9.1 back=10.77.9.2
    [[ $to == *:* ]] && url="socks5://[$PROXY6]:1095" family=IPv6 proxy=$PROXY6 own=$CLIENT6 via=fd77:9::1 back=fd77:9::2
    at="$family, the interface goes down and comes back"
    up "$url"
    between "$to" "$at"
    ns client ip link set up0 down
    answer
    ns client ip link set up0 up
    routes
    after "$at"
    stop undersock
    at="$family, the interface gets another name"
    up "$url"
    between "$to" "$at"
    ns client ip link set up0 name renamed0 2>/dev/null || {
        ns client ip link set up0 down
        ns client ip link set up0 name renamed0
        ns client ip link set renamed0 up
        routes renamed0
    }
    answer
    after "$at"
    is "$(app timeout 20 "$TOOLS/strict" talk -n 10 "$to" 9000)" "10 OK" "$at: the next ones too"
    ns client ip link set renamed0 down
    ns client ip link set renamed0 name up0
    ns client ip link set up0 up
    routes
    stop undersock
    at="$family, the interface loses its filters, and has them again"
    up "$url"
    between "$to" "$at"
    ns client tc qdisc del dev up0 clsact
    wait_for 10 filtered up0
    answer
    after "$at" "$ALL"
    stop undersock
    # Its kernel takes an answer to the greeting for somebody else's, and resets.
    at="$family, the interface has no filters when it is answered"
    up "$url"
    between "$to" "$at"
    kill -STOP "${PID[undersock]}"
    ns client tc qdisc del dev up0 clsact
    answer
    wait_for 10 reset_to 8
    is "$(connections) $(filtered up0; echo $?)" "8 1" "$at: eight are reset, and nobody has seen to it"
    kill -CONT "${PID[undersock]}"
    wait_for 10 filtered up0
    after "$at"
    stop undersock
    for old in stays goes; do
        at="$family, a new interface leads there, the old one $old"
        up "$url"
        between "$to" "$at"
        ns_link client new0 "10.77.9.2/24 fd77:9::2/64" proxy new1 "10.77.9.1/24 fd77:9::1/64"
        ns client ip route replace "$proxy" via "$via" dev new0 src "$own"
        ns proxy ip route replace "$own" via "$back" dev new1
        # Its addresses of IPv6 would go with it.
        ns proxy ip addr add "$PROXY6/128" dev lo nodad
        [[ $old == stays ]] || ns proxy ip link set down0 down
        answer
        after "$at"
        is "$(app timeout 40 "$TOOLS/strict" talk -n 10 "$to" 9000)" "10 OK" "$at: the next ones too"
        is "$(relayed)" 0 "$at: none by the relay"
        ns client ip link del new0
        ns proxy ip link set down0 up
        ns proxy ip addr del "$PROXY6/128" dev lo
        ns proxy ip -6 addr replace "$PROXY6/64" dev down0 nodad
        routes
        stop undersock
    done
done

# --- a socket that was refused, and is used again when the daemon is dead, speaks to whom it connects to
cat >"$TMP/again.py" <<'PY'
import errno, socket, sys
to, ports = sys.argv[1], [int(p) for p in sys.argv[2:]]
sockets = [socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) for _ in ports]
for s in sockets:
    assert s.connect_ex((to, 20007)) == errno.ECONNREFUSED
print("refused", flush=True)
sys.stdin.readline()
for s, port in zip(sockets, ports):
    s.settimeout(20)
    s.connect((to, port))
    s.sendall(b"hello")
    s.shutdown(socket.SHUT_WR)
    print(s.recv(100).decode(), flush=True)
PY
cat >"$TMP/echo.py" <<'PY'
import socket, sys, threading
def serve(port):
    l = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        c = l.accept()[0]
        c.sendall(b"heard " + c.recv(100))
        c.close()
for port in sys.argv[1:]: threading.Thread(target=serve, args=(int(port),)).start()
PY
start echo -- ns net python3 "$TMP/echo.py" 9100 1090 # the second is the SOCKS server's port, too
for port in 9100 1090; do wait_port net tcp :: $port; done
mkfifo "$TMP/go"
patience 2
for to in "$NET4" "$NET6"; do
    url="socks5://$PROXY4:1090" family=IPv4
    [[ $to == *:* ]] && url="socks5://[$PROXY6]:1090" family=IPv6
    up "$url"
    start again -- cg app ns client sh -c "exec python3 '$TMP/again.py' '$to' 9100 1090 <'$TMP/go'"
    exec {go}>"$TMP/go"
    wait_log again '^refused' || bail "again.py"
    is "$(relayed)" 0 "$family: both were stitched"
    kill_it
    echo >&$go
    exec {go}>&-
    ended again 60
    is "$(tail -n +2 "${LOG[again]}" | paste -sd ' ')" "heard hello heard hello" "$family, killed: a socket that is used again is not stitched"
    rm -f "${LOG[again]}"
done
done_testing
