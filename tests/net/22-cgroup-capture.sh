#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# `undersock daemon` with hook = "cgroup": the members of that cgroup and of those below it go through
# the proxy and see the peer they asked for, nobody else does, a member in another network namespace
# is refused (or direct, as configured) with one line, its UDP too, and the programs go with the daemon.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/datagrams.sh"

need python3 nft setpriv
topology
net_who 9000
start who2 -- ns net "$TOOLS/who" serve 9001
start near -- ns proxy "$TOOLS/who" serve 9002
start load -- ns net "$TOOLS/load" server :: 9003
start sink -- ns net "$TOOLS/pattern" serve :: 9004
for port in 9001 9003 9004; do wait_port net tcp :: $port; done
wait_port proxy tcp :: 9002
datagrams_net
ask_py
peer_serve proxy "$PROXY4" 1080
PEER_NAME=outer peer_serve proxy "$EXIT4" 1081
cg_new app
cg_new second
mkdir "$(cg_path app)/nested" || bail "mkdir nested"
install -m 755 "$TOOLS/who" "$TMP" || bail "install"
CONF=$TMP/undersock.conf
UID_A=41001 UID_B=41002

capture() { # NAME CGROUP UPSTREAM KEYS...
    printf 'capture "%s" {\n    hook = "cgroup"\n    cgroup = "/%s"\n    upstream = "%s"\n' "$1" "$2" "$3"
    printf '    %s\n' "${@:4}"
    echo '}'
}
upstreams() {
    echo "control = \"$TMP/undersock.sock\""
    echo "upstream \"proxy\" { url = \"socks5://$PROXY4:1080\" }"
    echo "upstream \"outer\" { url = \"socks5://$EXIT4:1081\" }"
}
config() { upstreams; capture app "$US-app" "${UPSTREAM:-proxy}" "$@"; }
reload() { us_reload undersock || bail "reload"; }
selection() { config "$@" >"$CONF"; reload; }
app() { cg app ns client "$@"; }
seen() { app "$TMP/who" "$@"; }
# told CMD... to HOST...: what UDP to these comes to, unconnected and connected, and a query: the address
# that the far end saw, or an error.
told() {
    local where=()
    while [[ $1 != to ]]; do where+=("$1"); shift; done
    ask "${where[@]}" python 'def said(f, *how):
    try: return f(*how)[0]
    except OSError as e: return errno.errorcode.get(e.errno, "nothing")
def query(host):
    s = udp(family_of(host))
    s.sendto(b"\1\1\1\0\0\1" + bytes(6) + b"\3who\4test\0\0\20\0\1", (host, 53))
    return "answered" if s.recv(2000) else "", s
# In one piece: undersock may have a line to say just then.
sys.stdout.write(" ".join(said(f, host) for host in sys.argv[1:] for f in (unconnected, connected, query)) + "\n")' "${@:2}"
}
seen_as() { app setpriv --reuid "$1" --clear-groups --inh-caps=-all "$TMP/who" "${@:2}"; }

before_pids=$(ns_pids client)
before_tables=$(tables_of client)
us_daemon client < <(config)
is "$(installed_rules client)" "$(ns client "$UNDERSOCK" rules -c "$CONF")" "rules prints what is installed"
objects=$(cgroup_objects "$(cg_path app)")
num "$(grep -c '^link' <<<"$objects")" -ge 5 "there are links on the cgroup"
is "$(tables_of client)" "$before_tables${before_tables:+ }table inet undersock" "and an nft table, for UDP and DNS"

# --- where the traffic goes
is "$(seen -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "IPv4: through the proxy, peer as asked for"
is "$(seen -p "$NET6" 9000)" "$EXIT6 peer=[$NET6]:9000" "IPv6: through the proxy, peer as asked for"
is "$(seen -M -p "$NET4" 9000)" "$EXIT4 peer=[::ffff:$NET4]:9000" "v4-mapped: through the proxy, peer as asked for"
is "$(seen -V "$NET6" 9000)" "$EXIT6" "an IPv6-only socket"
is "$(ns client "$TMP/who" "$NET4" 9000) $(ns client "$TMP/who" "$NET6" 9000)" "$CLIENT4 $CLIENT6" "who is not in the cgroup goes direct"
is "$(cg second ns client "$TMP/who" "$NET4" 9000)" "$CLIENT4" "who is in another cgroup goes direct"
is "$(cg app/nested ns client "$TMP/who" "$NET4" 9000) $(cg app/nested ns client "$TMP/who" "$NET6" 9000)" \
    "$EXIT4 $EXIT6" "who is in a cgroup below goes through the proxy"
is "$(app curl -qsS --max-time 20 "http://$NET4:9000/")" "$EXIT4" "curl, IPv4 (connects without blocking)"
is "$(app curl -qgsS --max-time 20 "http://[$NET6]:9000/")" "$EXIT6" "curl, IPv6"
for f in 4 6; do
    client=CLIENT$f exit=EXIT$f
    is "$(app curl -qgsS --max-time 20 --interface "${!client}" "http://$([[ $f == 6 ]] && echo "[$NET6]" || echo "$NET4"):9000/")" \
        "${!exit}" "a socket bound to an address of this host (IPv$f)"
done
check "bytes, half-close: v4-mapped" -- app "$TOOLS/pattern" both -M -t 60 "$NET4" 9004 8M
check "bytes, half-close: IPv6" -- app "$TOOLS/pattern" both -t 60 "$NET6" 9004 8M

# --- what the application sees of its socket
cat >"$TMP/peer.py" <<'PY'
import socket, sys
def connected(family, how):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(20)
    how(s)
    return s
def connect(address):
    return lambda s: s.connect((address, 9003))
def later(address):
    def how(s):
        import select
        s.setblocking(False)
        e = s.connect_ex((address, 9003))
        assert e in (0, 115), e
        assert select.select([], [s], [], 20)[1]
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    return how
for family, address in ((socket.AF_INET, sys.argv[1]), (socket.AF_INET6, sys.argv[2]),
                        (socket.AF_INET6, '::ffff:' + sys.argv[1])):
    for how in connect, later:
        s = connected(family, how(address))
        print(s.getpeername()[:2])
        again = s.dup()
        print(again.getpeername()[:2] == s.getpeername()[:2])
PY
is "$(app python3 "$TMP/peer.py" "$NET4" "$NET6" 2>&1)" "$(ns client python3 "$TMP/peer.py" "$NET4" "$NET6" 2>&1)" \
    "python3: getpeername(), blocking or not, as without us"

# --- whose flow it is
cat >"$TMP/hold.py" <<'PY'
import os, socket, sys
s = socket.socket()
os.setuid(int(sys.argv[2]))
s.settimeout(20)
s.connect((sys.argv[1], 9003))
s.sendall(b'q')
print(s.recv(1).decode(), flush=True)
s.settimeout(None)
s.recv(1)
PY
start holder -- cg app/nested ns client python3 "$TMP/hold.py" "$NET4" $UID_A
wait_log holder '^r' || bail "the flow does not stand"
is "$(us_flows undersock "[(f['proto'], f['destination'], f['capture'], f['upstream'], f['state'], f['pid'], f['comm'], f['uid']) for f in s]")" \
    "[('tcp', '$NET4:9003', 'app', 'proxy', 'relay', ${PID[holder]}, 'python3', $UID_A)]" "flows knows whose it is"
like "$(us_flows undersock "s[0]['cgroup']")" "/$US-app/nested$" "and its cgroup"

# --- a name that would steer root's terminal, forge a line, and is no UTF-8: ESC ]0;a BEL 0xff LF é DEL
cat >"$TMP/named.py" <<'PY'
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b'\x1b]0;a\x07\xff\nb\xc3\xa9\x7f', 0, 0, 0)
s = socket.create_connection((sys.argv[1], 9003), 20)
s.sendall(b'q')
print(s.recv(1).decode(), flush=True)
s.settimeout(None)
s.recv(1)
PY
start named -- cg app ns client python3 "$TMP/named.py" "$NET4"
wait_log named '^r' || bail "the flow of the named does not stand"
"$UNDERSOCK" flows -s "$TMP/undersock.sock" >"$TMP/flows.out"
is "$(grep -c ' ?\]0;a???b???$' "$TMP/flows.out") $(wc -l <"$TMP/flows.out")" "1 3" "flows: one line, with ? for what is not printable"
is "$(LC_ALL=C tr -d '\n -~' <"$TMP/flows.out" | wc -c)" 0 "and nothing of it reaches the terminal"
"$UNDERSOCK" flows --json -s "$TMP/undersock.sock" >"$TMP/flows.json"
is "$(python3 -c 'import json, sys; print([ascii(f["comm"]) for f in json.load(open(sys.argv[1], encoding="utf-8")) if f["comm"] != "python3"])' "$TMP/flows.json" 2>&1)" \
    "$(python3 -c 'print([ascii("\x1b]0;a\x07\ufffd\nb\xe9\x7f")])')" "flows --json: valid, with the name as far as it is one"
is "$(LC_ALL=C tr -d '\n\t -~' <"$TMP/flows.json" | wc -c)" 0 "and in ASCII"
stop named

# --- selection
selection "uid = { \"$UID_A\" }"
is "$(seen_as $UID_A "$NET4" 9000) $(seen_as $UID_A "$NET6" 9000)" "$EXIT4 $EXIT6" "uid: this user's"
is "$(seen_as $UID_B "$NET4" 9000) $(seen_as $UID_B "$NET6" 9000)" "$CLIENT4 $CLIENT6" "uid: not another user's"
selection "not-uid = { \"$UID_A\" }"
is "$(seen_as $UID_A "$NET4" 9000) $(seen_as $UID_B "$NET6" 9000)" "$CLIENT4 $EXIT6" "not-uid"
selection 'to = { "203.0.113.11", "2001:db8:113::10/127" }'
is "$(seen 203.0.113.11 9000) $(seen 203.0.113.12 9000)" "$EXIT4 $CLIENT4" "to (IPv4)"
is "$(seen -M 203.0.113.11 9000) $(seen -M 203.0.113.12 9000)" "$EXIT4 $CLIENT4" "to (v4-mapped)"
is "$(seen 2001:db8:113::11 9000) $(seen 2001:db8:113::12 9000)" "$EXIT6 $CLIENT6" "to (IPv6)"
selection 'not-to = { "203.0.113.12/31", "2001:db8:113::12" }'
is "$(seen 203.0.113.11 9000) $(seen 203.0.113.13 9000)" "$EXIT4 $CLIENT4" "not-to (IPv4)"
is "$(seen 2001:db8:113::11 9000) $(seen 2001:db8:113::12 9000)" "$EXIT6 $CLIENT6" "not-to (IPv6)"
selection 'tcp-ports = { "80", "8999-9000" }'
is "$(seen "$NET4" 9000) $(seen "$NET4" 9001)" "$EXIT4 $CLIENT4" "tcp-ports (IPv4)"
is "$(seen "$NET6" 9000) $(seen "$NET6" 9001)" "$EXIT6 $CLIENT6" "tcp-ports (IPv6)"
selection 'mark = 0x51'
is "$(seen -m 0x51 "$NET4" 9000) $(seen "$NET4" 9000) $(seen -m 0x51 "$NET6" 9000)" "$EXIT4 $CLIENT4 $EXIT6" "mark"
UPSTREAM=refuse selection 'to = { "203.0.113.11", "2001:db8:113::11" }'
is "$(seen 203.0.113.11 9000) $(seen 2001:db8:113::11 9000) $(seen "$NET4" 9000)" \
    "connect=ECONNREFUSED connect=ECONNREFUSED $CLIENT4" "upstream = \"refuse\""
{
    upstreams
    capture one "$US-app" direct 'to = { "203.0.113.11" }'
    capture two "$US-app" proxy
} >"$CONF"
reload
is "$(seen 203.0.113.11 9000) $(seen "$NET4" 9000)" "$CLIENT4 $EXIT4" "two captures on one cgroup: the first match wins"

# --- what is never selected
selection
before=$(us_serving undersock accepted)
is "$(seen "$PROXY4" 9002) $(seen "$PROXY6" 9002)" "$CLIENT4 $CLIENT6" "a private destination goes direct"
is "$(us_serving undersock accepted)" "$before" "the daemon has not seen it"
selection 'private = true'
is "$(seen "$PROXY4" 9002) $(seen "$PROXY6" 9002)" "$PROXY4 $PROXY6" "private = true: through the proxy"
UPSTREAM=outer selection
is "$(seen "$NET4" 9000)" "$EXIT4" "an upstream in the selected range works"
before=$(us_serving undersock accepted)
is "$(app curl -qsS --max-time 20 -x "socks5://$EXIT4:1081" "http://$NET4:9000/")" "$EXIT4" "an application's own connection to it is direct"
is "$(us_serving undersock accepted)" "$before" "the daemon has not seen it"

# --- reload
selection
check "the flow from before eleven reloads lives" -- running holder
is "$(us_flows undersock "[f['destination'] for f in s]")" "['$NET4:9003']" "and flows still knows it"
stop holder
{
    upstreams
    capture app "$US-second" proxy
} >"$CONF"
reload
is "$(seen "$NET4" 9000) $(cg second ns client "$TMP/who" "$NET4" 9000)" "$CLIENT4 $EXIT4" "a reload moves the capture to another cgroup"
is "$(cgroup_objects "$(cg_path app)")" "" "and leaves nothing on the first"
{
    upstreams
    capture app "$US-app" proxy
    capture gone "$US-nonexistent" proxy
} >"$CONF"
us_reload undersock >"$TMP/reload.out" 2>&1
isnt $? 0 "a reload that names no cgroup fails"
like "$(<"$TMP/reload.out")" "$US-nonexistent.*No such file" "and says which"
is "$(seen "$NET4" 9000) $(cg second ns client "$TMP/who" "$NET4" 9000)" "$CLIENT4 $EXIT4" "what was in force stays in force"
is "$(cgroup_objects "$(cg_path app)")" "" "with nothing half attached"

# --- another network namespace
selection
for i in 1 2 3; do
    is "$(cg app ns net "$TMP/who" "$NET4" 9000)" "connect=ECONNREFUSED" "a member in another network namespace is refused ($i)"
done
is "$(cg app ns net "$TMP/who" "$NET6" 9000) $(cg app ns net "$TMP/who" -M "$NET4" 9000)" \
    "connect=ECONNREFUSED connect=ECONNREFUSED" "with IPv6 and v4-mapped too"
is "$(seen "$NET4" 9000)" "$EXIT4" "those in the daemon's own are not"
wait_log undersock 'another network namespace'
is "$(grep -c 'another network namespace' "${LOG[undersock]}")" 1 "one line says so"
like "$(grep 'another network namespace' "${LOG[undersock]}")" 'who \(pid [0-9]+\).*are refused' "with the name of the program"
is "$(cg app ns proxy "$TMP/who" "$NET4" 9000)" "connect=ECONNREFUSED" "a member in a third one is refused too"
check "and has a line of its own" -- wait_for 10 eval '[[ $(grep -c "another network namespace" "${LOG[undersock]}") == 2 ]]'
for i in 1 2; do
    is "$(told cg app ns proxy to "$NET4" "$NET6")" "ECONNREFUSED ECONNREFUSED ECONNREFUSED ECONNREFUSED ECONNREFUSED ECONNREFUSED" \
        "UDP and DNS of a member in another network namespace are refused ($i)"
    selection 'udp = "reject"'
done
is "$(ask cg app ns net python 'print(unconnected("127.0.0.1")[0])')" 127.0.0.1 "its loopback is not"
selection 'udp-ports = { 443 }' 'tcp-ports = { "1-65535" }'
is "$(told cg app ns proxy to "$NET4")" "$EXIT4 $EXIT4 answered" "nor what is not selected"
selection 'udp = "bypass"'
is "$(told cg app ns proxy to "$NET4")" "$EXIT4 $EXIT4 ECONNREFUSED" "udp = \"bypass\": only DNS is"
selection 'udp = "bypass"' 'dns = "bypass"'
is "$(told cg app ns proxy to "$NET4" "$NET6")" "$EXIT4 $EXIT4 answered $EXIT6 $EXIT6 answered" "dns = \"bypass\", too: nothing is"
selection
is "$(told cg app ns proxy "$UNDERSOCK" run -u "socks5://$PROXY4:1080" -- to "$NET4")" "$EXIT4 $EXIT4 answered" \
    "undersock run in that namespace takes it"
is "$(told ns client "$UNDERSOCK" run -u "socks5://$PROXY4:1080" -- nsenter --net="/run/netns/$US-proxy" -- to "$NET4")" \
    "ECONNREFUSED ECONNREFUSED ECONNREFUSED" "undersock run: who goes to another network namespace is refused, too"
selection 'when-down = "direct"'
is "$(told cg app ns proxy to "$NET4" "$NET6")" "$EXIT4 $EXIT4 answered $EXIT6 $EXIT6 answered" "when-down = \"direct\": UDP is direct"
is "$(cg app ns net "$TMP/who" "$NET4" 9000) $(cg app ns net "$TMP/who" "$NET6" 9000)" "$NET4 $NET6" "when-down = \"direct\": direct"
is "$(seen "$NET4" 9000)" "$EXIT4" "those in the daemon's own go through the proxy as before"
stop undersock
us_daemon client < <(config 'when-down = "direct"')
: >"${LOG[undersock]}"
is "$(cg app ns net "$TMP/who" "$NET4" 9000) $(cg app ns net "$TMP/who" "$NET4" 9000)" "$NET4 $NET4" "and so from the start"
wait_log undersock 'another network namespace.*go direct'
is "$(grep -c 'another network namespace' "${LOG[undersock]}")" 1 "with one line"

# --- the end
is_gone() { bpf_gone "$objects" && [[ $(ns_pids client) == "$before_pids" ]]; }
gone() {
    wait_for 15 is_gone
    is "$(bpf_left "$objects")" "" "$1: no BPF link, program or map is left"
    is "$(ns_pids client)" "$before_pids" "$1: no process is left"
    is "$(seen "$NET4" 9000)" "$CLIENT4" "$1: traffic is direct again"
    check "$1: the cgroup is still there" -- test -d "$(cg_path app)"
}
for how in stop TERM KILL; do
    running undersock || us_daemon client < <(config)
    objects=$(cgroup_objects "$(cg_path app)")
    is "$(seen "$NET6" 9000)" "$EXIT6" "before $how: through the proxy"
    case $how in
    stop) "$UNDERSOCK" stop -s "$TMP/undersock.sock" ;;
    *) kill -s $how "${PID[undersock]}" ;;
    esac
    ended undersock 10
    if [[ $how == KILL ]]; then
        # The filters of stitch stay, for handshakes under way; they do nothing else.
        wait_for 15 eval '[[ $(ns_pids client) == "$before_pids" ]]'
        is "$(seen "$NET4" 9000) $(seen "$NET6" 9000)" "$CLIENT4 $CLIENT6" "after KILL: traffic is direct again"
        us_daemon client < <(config)
        stop undersock
        gone "after KILL, and the next start and stop"
        continue
    fi
    is "$ENDED" 0 "$how: status 0"
    gone "after $how"
done
{
    upstreams
    capture app "$US-app" proxy
    capture gone "$US-nonexistent" proxy
} >"$CONF"
start bad -- ns client "$UNDERSOCK" daemon -c "$CONF"
ended bad 10
is "$ENDED" 1 "a cgroup that does not exist: exit 1"
like "$(<"${LOG[bad]}")" "$US-nonexistent.*No such file.*mkdir" "and the line says what to do"
is "$(cgroup_objects "$(cg_path app)")" "" "nothing is half attached"
done_testing
