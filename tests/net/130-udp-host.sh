#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# UDP of this host: what a program's sockets see of it under `undersock run`, hook = "output" and
# hook = "cgroup"; through the embedded server and Dante; upstreams that have no UDP; a hostile one;
# and what is left afterwards.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/datagrams.sh"

need python3 nft danted microsocks setpriv
topology
datagrams_net
datagrams_watch
ask_py
cg_new app
serve_knows serve 1080
peer_dante proxy "$PROXY4" 1090
peer_microsocks proxy "$PROXY4" 1091
NET4B=203.0.113.12

# Who runs a program inside the capture: run, output, cgroup.
RUN=(ns client "$UNDERSOCK" run)
via() { # HOOK [URL]
    case $1 in
    run) WHERE=("${RUN[@]}" -u "${2:-socks5h://$PROXY4:1080}" --) ;;
    output) WHERE=(ns client) ;;
    cgroup) WHERE=(cg app ns client) ;;
    esac
}
capture() { # NAME HOOK UPSTREAM LINE...
    printf 'capture "%s" {\n    hook = "%s"\n    upstream = "%s"\n' "$1" "$2" "$3"
    [[ $2 == cgroup ]] && printf '    cgroup = "/%s"\n' "$US-app"
    printf '    %s\n' "${@:4}"
    echo '}'
}
config() { # URL CAPTURE-ARGS...
    printf 'control = "%s"\nworkers = 2\nupstream "u" { url = "%s" }\n' "$TMP/undersock.sock" "$1"
    capture "${@:2}"
}
# What is there of policy rules and tables, in both families.
rules() { ns client sh -c 'ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list tables' | sort; }
direct_ones() { grep -Ec "peer=($CLIENT4|$CLIENT6) " "${LOG[echo]}"; }

before=$(rules)

# everything HOOK [URL]: what a program's sockets see, a line for each thing.
cat >"$TMP/everything.py" <<'PY'
from ask import *
four, other, six, here = sys.argv[1:]
def line(f):
    try: print(*f(), flush=True)
    except Exception as e: print(repr(e), flush=True)
def several():
    s = udp()
    return [unconnected(a, p, s=s)[1:] for a, p in ((four, 9000), (other, 443), (other, 9000), (four, 443))]
def both():
    s = udp(socket.AF_INET6)
    return unconnected('::ffff:' + four, s=s)[0], unconnected(six, s=s)[0]
def bursts():  # the manners of QUIC: a connected socket, no fragments
    s = udp()
    s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: DO
    s.connect((four, 443))
    sent, got = [b'%04d' % i + b'q' * 1246 for i in range(200)], []
    for i in range(0, 200, 10):
        for d in sent[i:i + 10]: s.send(d)
        got += [s.recv(2000) for d in range(10)]
    return sorted(got) == sent,
def bound():
    s = udp()
    s.bind((here, 40123))
    return *unconnected(four, data=b'', s=s), *s.getsockname()
line(lambda: unconnected(four) + connected(four))
line(lambda: unconnected(six) + connected(six))
line(lambda: unconnected('::ffff:' + four) + connected('::ffff:' + four))
line(several)
line(both)
line(lambda: (unconnected(four, data=b'x' * 61440)[0], connected(six, data=b'y' * 61440)[0]))
line(bursts)
line(bound)
PY
everything() {
    local h=$1 seen
    via "$@"
    mapfile -t seen < <(ask "${WHERE[@]}" python "$(<"$TMP/everything.py")" "$NET4" "$NET4B" "$NET6" "$CLIENT4")
    h+=${2:+ ${2%%:*}}
    is "${seen[0]:-}" "$EXIT4 $NET4 9000 $EXIT4 $NET4 9000" "$h: IPv4, unconnected and connected"
    is "${seen[1]:-}" "$EXIT6 $NET6 9000 $EXIT6 $NET6 9000" "$h: IPv6"
    is "${seen[2]:-}" "$EXIT4 ::ffff:$NET4 9000 $EXIT4 ::ffff:$NET4 9000" "$h: v4-mapped"
    is "${seen[3]:-}" "('$NET4', 9000) ('$NET4B', 443) ('$NET4B', 9000) ('$NET4', 443)" \
        "$h: several remotes on one socket, each answers as itself"
    is "${seen[4]:-}" "$EXIT4 $EXIT6" "$h: both families on one socket"
    is "${seen[5]:-}" "61440 61440" "$h: datagrams of 60 KiB"
    is "${seen[6]:-}" True "$h: bursts of 1250 bytes to port 443, all of them, unchanged"
    is "${seen[7]:-}" " $NET4 9000 $CLIENT4 40123" "$h: a bound socket, an empty datagram"
}

# cone HOOK: a remote that nobody asked calls the address that the association has at the proxy.
cone() {
    local port
    via "$1"
    rm -f "$TMP/cone"
    ask "${WHERE[@]}" python 's = udp()
unconnected(sys.argv[1], data=b"port?", s=s)
print("ready", flush=True)
for i in range(2):
    data, peer = s.recvfrom(2000)
    s.sendto(b"got " + data, peer)
    print(data.decode(), *peer, flush=True)' "$NET4" >"$TMP/cone" &
    local job=$!
    wait_for 15 grep -q ready "$TMP/cone"
    port=$(sed -n 's/.* port=\([0-9]*\) len=5$/\1/p' "${LOG[echo]}" | tail -1)
    is "$(ns net timeout 15 python3 -c 'import socket, sys
for a in ("203.0.113.15", "203.0.113.16"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.bind((a, 7000))
    s.sendto(b"from " + a.encode(), (sys.argv[1], int(sys.argv[2])))
    print(*s.recvfrom(2000)[0].decode().split())' "$EXIT4" "${port:-1}")" \
        $'got from 203.0.113.15\ngot from 203.0.113.16' "$1: strangers are answered"
    wait $job
    is "$(tail -n +2 "$TMP/cone")" $'from 203.0.113.15 203.0.113.15 7000\nfrom 203.0.113.16 203.0.113.16 7000' \
        "$1: and seen as themselves"
}

# --- run
everything run
cone run
everything run "socks5://$PROXY4:1090" # Dante
is "$(rules)" "$before" "run: nothing of it is left"
is "$(ask "${RUN[@]}" -u "socks5://[$PROXY6]:1080" -- python 'print(unconnected(sys.argv[1])[0], unconnected(sys.argv[2])[0])' "$NET4" "$NET6")" \
    "$EXIT4 $EXIT6" "run: through an upstream on IPv6"
num "$(watched both)" -gt 400 "the watch sees the clients of the proxy"
is "$(watched leak) $(direct_ones)" "0 0" "not one datagram went around it"

# --- run: an upstream without UDP
for url in "socks5://$PROXY4:1091" "socks4a://$PROXY4:1080"; do
    for option in "" "-o udp=associate"; do
        # shellcheck disable=SC2086
        is "$(ask "${RUN[@]}" -u "$url" $option -- python 'print(refused(sys.argv[1]), refused(sys.argv[2]))' "$NET4" "$NET6")" \
            "ECONNREFUSED ECONNREFUSED" "run: no UDP at ${url%%:*} $option: refused at once"
    done
done
is "$(ask "${RUN[@]}" -u "socks5h://$PROXY4:1080" -o udp=reject -- python 'print(refused(sys.argv[1]), refused(sys.argv[2]))' "$NET4" "$NET6")" \
    "ECONNREFUSED ECONNREFUSED" "run: udp = reject, of an upstream that could"
is "$(watched leak) $(direct_ones)" "0 0" "none of these went around it"
is "$(ask "${RUN[@]}" -u "socks5h://$PROXY4:1080" -o udp=bypass -- python 'print(connected(sys.argv[1])[0], connected(sys.argv[2])[0])' "$NET4" "$NET6")" \
    "$CLIENT4 $CLIENT6" "run: udp = bypass goes direct"
num "$(watched leak)" -gt 0 "which the watch sees"
watch_reset
: >"${LOG[echo]}"
is "$(ask "${RUN[@]}" -u "socks5h://$PROXY4:1080" -- python 's = udp()
a = socket.socket(); a.bind(("127.0.0.1", 0))
s.bind(("127.0.0.1", 0)); t = udp(); t.sendto(b"near", s.getsockname()); print(*s.recvfrom(100)[0].decode().split())')" \
    near "run: loopback stays what it is"
is "$(ask "${RUN[@]}" -u "socks5h://$PROXY4:1080" -- python 'try:
    s = udp(timeout=3); s.setsockopt(socket.SOL_SOCKET, 25, b"up0"); print(unconnected(sys.argv[1], s=s)[0])
except OSError as e: print("nothing")' "$NET4")" nothing "run: a socket bound to a device does not get out"

# Reverse path checks: firewalld's, which is of IPv6, the same for IPv4, and at other places where
# somebody may have them.
check_paths() {
    local p
    for p in raw -155 'filter + 10' 190; do
        ns client nft -f - <<-NFT || bail "a reverse path check"
	table inet rpfilter {
	    chain at_${p//[^a-z0-9]/} {
	        type filter hook prerouting priority $p; policy accept;
	        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
	        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
	        meta nfproto ipv4 fib saddr . mark . iif oif missing drop
	    }
	}
	NFT
    done
}
# beside_checks HOOK: what it sees while they are there.
beside_checks() {
    check_paths
    via "$1"
    is "$(ask "${WHERE[@]}" python 'line = lambda a: print(*unconnected(a), *connected(a))
line(sys.argv[1]); line(sys.argv[2])' "$NET4" "$NET6")" \
        "$EXIT4 $NET4 9000 $EXIT4 $NET4 9000"$'\n'"$EXIT6 $NET6 9000 $EXIT6 $NET6 9000" \
        "$1: both families, beside reverse path checks"
    ns client nft delete table inet rpfilter
}
beside_checks run

# beside_kill_switch HOOK CONFIG-ARGS...: what it sees beside an output chain that drops by default, once
# doctor's rule is in it.
beside_kill_switch() {
    local try='def tcp():
    socket.create_connection((sys.argv[1], 53), 10).close()
    return "connected"
def line(f):
    try: return f()
    except OSError as e: return e.strerror
print(line(tcp), line(lambda: unconnected(sys.argv[1])[0]))'
    config "socks5h://$PROXY4:1080" "${@:2}" >"$TMP/doctor.conf"
    via "$1"
    ns client nft -f - <<-NFT || bail "a kill switch"
	table inet fw {
	    chain out {
	        type filter hook output priority 0; policy drop;
	        oifname "lo" accept
	        ct state established,related accept
	        ip daddr $PROXY4 accept
	        meta l4proto ipv6-icmp accept
	    }
	}
	NFT
    is "$(ask "${WHERE[@]}" python "${try/line(tcp)/1}" "$NET4")" "1 Operation not permitted" "$1: a kill switch stops its UDP"
    ns client sh -c "$(ns client "$UNDERSOCK" doctor --json -c "$TMP/doctor.conf" | python3 -c 'import json, sys
print(*[f["mend"] for f in json.load(sys.stdin)["findings"] if f["id"] == "foreign-output"])')"
    is "$(ask "${WHERE[@]}" python "$try" "$NET4")" "connected $EXIT4" "$1: beside a kill switch with doctor's rule, TCP and UDP"
    ns client nft delete table inet fw
}
beside_kill_switch run app cgroup u

# --- hook = "output"
config "socks5h://$PROXY4:1080" all output u 'dns = "tcp"' >"$TMP/first"
us_daemon client <"$TMP/first"
everything output
beside_checks output
beside_kill_switch output all output u
cone output
is "$(us_flows undersock "sorted({(f['proto'], f['capture'], f['state']) for f in s if f['destination'].endswith(':443')})")" \
    "[('udp', 'all', 'relay')]" "output: flows has them"
with() { # CONFIG-ARGS...: reload
    config "$@" >"$TMP/undersock.conf"
    us_reload undersock >/dev/null || bail "reload"
}
with "socks5://$PROXY4:1091" all output u
is "$(ask ns client python 'print(refused(sys.argv[1]), refused(sys.argv[2]))' "$NET4" "$NET6")" \
    "ECONNREFUSED ECONNREFUSED" "output: no UDP at microsocks: refused at once"
is "$(watched leak) $(direct_ones)" "0 0" "output: nothing went around it"
with "socks5://$PROXY4:1080" all output u 'udp = "bypass"'
is "$(ask ns client python 'print(connected(sys.argv[1])[0], connected(sys.argv[2])[0])' "$NET4" "$NET6")" \
    "$CLIENT4 $CLIENT6" "output: udp = bypass goes direct"
watch_reset
: >"${LOG[echo]}"
with "socks5://$PROXY4:1080" all output u 'tcp-ports = { 443 }' 'udp-ports = { 443 }' 'udp = "associate"'
is "$(ask ns client python 'print(connected(sys.argv[1], 443)[0], connected(sys.argv[1])[0])' "$NET4")" \
    "$EXIT4 $CLIENT4" "output: udp-ports"

# A client keeps its socket over a reload, and over the end of a worker.
watch_reset
: >"${LOG[echo]}"
with "socks5://$PROXY4:1080" all output u
mkfifo "$TMP/go"
start keeps -- ns client env PYTHONPATH="$TMP" PYTHONDONTWRITEBYTECODE=1 python3 -uc 'from ask import *
s = udp()
for line in open(sys.argv[2]):
    # The first datagram may be what a dying worker has taken with it.
    for i in range(10):
        s.settimeout(1)
        try: print(line.strip(), *unconnected(sys.argv[1], s=s)[:2]); break
        except OSError: pass' "$NET4" "$TMP/go"
exec 9>"$TMP/go"
keeps() { echo "$1" >&9; wait_log keeps "^$1 $EXIT4 $NET4" 15; }
check "output: a socket" -- keeps first
us_reload undersock >/dev/null || bail "reload"
check "output: lives over a reload" -- keeps second
victims=$(us_workers undersock)
for p in $victims; do kill -KILL "$p"; done
workers_are_new() { [[ $(us_workers undersock | wc -w) -ge 2 && $(us_workers undersock) != "$victims" ]] && answers undersock; }
check "output: workers are killed and come again" -- wait_for 10 workers_are_new
check "output: and over the end of its worker" -- keeps third
exec 9>&-
is "$(watched leak) $(direct_ones)" "0 0" "output: nothing went around it meanwhile"
check "stop" -- bounded 15 "$UNDERSOCK" stop -s "$TMP/undersock.sock"
ended undersock 10
is "$(rules)" "$before" "output: nothing of it is left"

# --- hook = "cgroup", by a daemon
us_daemon client < <(config "socks5h://$PROXY4:1080" app cgroup u)
everything cgroup
beside_checks cgroup
cone cgroup
is "$(watched leak) $(direct_ones)" "0 0" "cgroup: nothing went around it"
is "$(ask ns client python 'print(connected(sys.argv[1])[0])' "$NET4")" "$CLIENT4" "cgroup: who is not in it goes direct"

# Two `run`s at the same time, and one of them within the daemon's cgroup.
watch_reset
: >"${LOG[echo]}"
n_tables=$(ns client nft list tables | wc -l)
start one -- "${RUN[@]}" -u "socks5h://$PROXY4:1080" -- sh -c "while [ ! -e '$TMP/enough' ]; do sleep 0.1; done"
start two -- cg app "${RUN[@]}" -u "socks5://$PROXY4:1090" -- sh -c "while [ ! -e '$TMP/enough' ]; do sleep 0.1; done"
# Tables that are there.
tables_are() { [[ $(ns client nft list tables | wc -l) == "$1" ]]; }
wait_for 10 tables_are $((n_tables + 2)) || not_ok "each run has a table"
is "$(ask cg app "${RUN[@]}" -u "socks5h://$PROXY4:1080" -- python 'print(connected(sys.argv[1])[0])' "$NET4")" "$EXIT4" "a run within a captured cgroup"
is "$(ask "${RUN[@]}" -u "socks5://$PROXY4:1090" -- python 'print(connected(sys.argv[1])[0])' "$NET4")" "$EXIT4" "a run beside it"
is "$(ask cg app ns client python 'print(connected(sys.argv[1])[0])' "$NET4")" "$EXIT4" "the daemon's own, meanwhile"
: >"$TMP/enough"
ended one 10
ended two 10
wait_for 5 tables_are "$n_tables"
is "$(ask cg app ns client python 'print(connected(sys.argv[1])[0])' "$NET4")" "$EXIT4" "and after they have ended"
is "$(watched leak) $(direct_ones)" "0 0" "none of it went around the proxies"
stop undersock
is "$(rules)" "$before" "cgroup: nothing of it is left after a signal"

# --- a hostile upstream: what is wrong reaches nobody, and is counted
cat >"$TMP/hostile.py" <<'PY'
# A SOCKS5 server whose relay answers each datagram with `many` of the wrong kind that the payload
# names, and then with the right one.
import socket, struct, sys, threading
here = sys.argv[1]
four = lambda a, port: b'\1' + socket.inet_aton(a) + struct.pack('!H', port)
def wrong(kind, asked):
    "asked: ATYP, address and port of the request."
    good, port = b'\0\0\0' + asked, asked[-2:]
    return {
        'frag': [b'\0\0' + bytes([f]) + asked + b'BAD' for f in (1, 2, 127, 128, 255)],
        'short': [good[:n] for n in range(len(good))],
        'type': [b'\0\0\0' + bytes([t]) + asked[1:] + b'BAD' for t in (0, 2, 5, 255)],
        'source': [b'\0\0\0' + four(a, 9000) + b'BAD' for a in ('0.0.0.0', '127.0.0.1', '255.255.255.255', '224.0.0.1', '0.1.2.3')]
            + [b'\0\0\0\1' + asked[1:-2] + b'\0\0BAD', b'\0\0\0\4' + b'\0' * 16 + port + b'BAD', b'\0\0\0\4' + b'\x20\1\r\xb8' + b'\0' * 12 + port + b'BAD'],
        'name': [b'\0\0\0\3' + bytes([len(n)]) + n + port + b'BAD' for n in (b'', b'a.test', b'x' * 255, b'\0' * 9, b'..', b'a b')]
            + [b'\0\0\0\3\xffabc'],
        'long': [b'\0\0\0\4' + socket.inet_pton(socket.AF_INET6, '2001:db8:113::10') + port + b'B' * 65400],
    }[kind]
def relay(u):
    while True:
        data, peer = u.recvfrom(70000)
        asked, payload = data[3:10], data[10:].decode()
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind((here, 0))
        bad = wrong(payload, asked) if payload != 'port' else []
        for b in bad: u.sendto(b, peer)
        # From another port than the relay's, which the kernel is to drop.
        other.sendto(b'\0\0\0' + asked + b'BAD', peer)
        u.sendto(b'\0\0\0' + asked + b'%d' % len(bad), peer)
def serve(c):
    c.recv(300)
    c.sendall(b'\5\0')
    c.recv(300)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind((here, 0))
    threading.Thread(target=relay, args=(u,), daemon=True).start()
    # More on the control connection than anybody asked for.
    c.sendall(b'\5\0\0' + four('0.0.0.0', u.getsockname()[1]) + b'\5\0\0\1' * 2000)
    while c.recv(300): pass
s = socket.create_server((here, 1092))
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
PY
start hostile -- ns proxy python3 "$TMP/hostile.py" "$PROXY4"
wait_port proxy tcp "$PROXY4" 1092
us_daemon client < <(config "socks5://$PROXY4:1092" all output u)
# What `udp` counters of all workers were, by name.
udp_sum() { us_status undersock "' '.join(str(sum(w['udp'][k] for w in s['workers'])) for k in '$1'.split())"; }
hostile() { # KIND COUNTER: all that were sent are counted there
    local was got
    was=$(udp_sum "$2")
    got=$(ask ns client python 's = udp()
print(*unconnected(sys.argv[1], data=sys.argv[2].encode(), s=s)[:2])
s.settimeout(0.3)
try: print(*s.recvfrom(70000))
except OSError: pass' "$NET4" "$1")
    like "$got" "^[0-9]+ $NET4\$" "hostile, $1: the application gets the right one alone"
    [[ $2 ]] && is "$(($(udp_sum "$2") - was))" "${got%% *}" "hostile, $1: counted as $2"
}
hostile frag dropped_fragment
hostile short dropped_header
hostile type dropped_header
hostile source dropped_source
hostile long dropped_source
hostile port dropped_header
was=$(udp_sum "dropped_header dropped_source")
got=$(ask ns client python 'print(unconnected(sys.argv[1], data=b"name")[0])' "$NET4")
now=$(udp_sum "dropped_header dropped_source")
is "$((${now% *} + ${now#* } - ${was% *} - ${was#* }))" "$got" "hostile, name: names that nobody asked for, headers or sources"
stop undersock
is "$(rules)" "$before" "nothing is left after it either"

# --- SIGKILL of a run: its routes may stay until the next one
start killed -- "${RUN[@]}" -u "socks5h://$PROXY4:1080" -- sleep 100
wait_for 10 tables_are 1
stop killed KILL
wait_for 5 tables_are 0
diag "left after SIGKILL of run: $(diff <(echo "$before") <(rules) | grep '^[<>]' | paste -sd ';')"
is "$(ns client nft list tables)" "" "SIGKILL of run: no table is left"
is "$(ask "${RUN[@]}" -u "socks5h://$PROXY4:1080" -- python 'print(connected(sys.argv[1])[0])' "$NET4")" "$EXIT4" "the next run works"
is "$(rules)" "$before" "and leaves nothing of the one before either"
done_testing
