#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# UDP ASSOCIATE of the embedded server, across a network: both families on both sides, names, dig,
# datagrams that IP fragments, who may send and who may answer, and how an association ends. The
# same client against Dante, so that it is not only right in our own eyes.
. "$(dirname "$0")/lib.sh"

need python3 nft dig danted
topology
CLIENT4B=10.77.1.3
ns_addresses client up0 "$CLIENT4B/24"

# --- the far side: an echo on every address, which says who asked, and a name server
cat >"$TMP/echo.py" <<'PY'
import select, socket, sys
socks = []
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        s.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from where it was sent to
    s.bind((address, int(sys.argv[1])))
    socks.append(s)
while True:
    for s in select.select(socks, [], [])[0]:
        data, control, _, peer = s.recvmsg(70000, 200)
        print('peer=%s port=%d len=%d' % (peer[0], peer[1], len(data)), flush=True)
        if s.family == socket.AF_INET:
            control = [(socket.IPPROTO_IP, 8, b'\0\0\0\0' + c[2][4:8] + b'\0\0\0\0') for c in control]
        s.sendmsg([peer[0].encode() if data == b'who?' else data], control, 0, peer)
PY
cat >"$TMP/names.py" <<'PY'
# Answers: four.test A, six.test AAAA, both.test both, big.test TXT of many strings; others not.
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
four, six = socket.inet_aton(sys.argv[2]), socket.inet_pton(socket.AF_INET6, sys.argv[3])
while True:
    q, peer = s.recvfrom(4096)
    end, labels = 12, []
    while q[end]:
        labels.append(q[end + 1:end + 1 + q[end]].decode().lower())
        end += q[end] + 1
    kind = struct.unpack('!H', q[end + 1:end + 3])[0]
    name, records, code = '.'.join(labels), [], 0
    print('query=%s from=%s' % (name, peer[0]), flush=True)
    if name in ('four.test', 'both.test') and kind == 1: records = [four]
    elif name in ('six.test', 'both.test') and kind == 28: records = [six]
    elif name == 'big.test' and kind == 16: records = [bytes([200]) + b'%03d' % i + b'x' * 197 for i in range(14)]
    elif name not in ('four.test', 'six.test', 'both.test', 'big.test'): code = 3
    out = q[:2] + struct.pack('!HHHHH', 0x8580 | code, 1, len(records), 0, 0) + q[12:end + 5]
    for r in records: out += b'\xc0\x0c' + struct.pack('!HHIH', kind, 1, 60, len(r)) + r
    s.sendto(out, peer)
PY
start echo -- ns net python3 "$TMP/echo.py" 9000
start names -- ns net python3 "$TMP/names.py" "$NET4" "$NET4" "$NET6"
wait_port net udp 0.0.0.0 9000
wait_port net udp :: 9000
wait_port net udp "$NET4" 53

# --- the server, root, with the names of that name server and a hosts file of its own
echo "nameserver $NET4" >"$TMP/resolv.conf"
printf '127.0.0.1 localhost\n%s hosts.test\n' 203.0.113.11 >"$TMP/hosts"
serve_on() { # NAME PORT [OPTION...]
    local n=$1 port=$2
    shift 2
    start "$n" -- ns proxy unshare -m --propagation private sh -c "
        mount --bind '$TMP/resolv.conf' /etc/resolv.conf && mount --bind '$TMP/hosts' /etc/hosts &&
        exec '$UNDERSOCK' serve -l '$PROXY4:$port' -l '[$PROXY6]:$port' $*"
    wait_port proxy tcp "$PROXY4" "$port"
    wait_port proxy tcp "$PROXY6" "$port"
}
serve_on serve 1080
serve_on serve-idle 1081 --udp-idle 1
serve_on serve-none 1082 --no-udp

ns proxy nft -f - <<'NFT' || bail "nft"
table inet count {
    chain output {
        type filter hook output priority 0;
        meta l4proto udp oif lo return
        meta l4proto udp meta mark & 0xffffff00 == 0x55530000 counter name "ours" return
        meta l4proto udp counter name "unmarked"
    }
    counter ours { }
    counter unmarked { }
}
NFT
counter() { ns proxy nft list counter inet count "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }

# --- the client: RFC 1928 by hand
cat >"$TMP/socks.py" <<'PY'
import ipaddress, socket, struct, sys
def atyp(host, port):
    try:
        a = ipaddress.ip_address(host)
        return bytes([1 if a.version == 4 else 4]) + a.packed + struct.pack('!H', port)
    except ValueError:
        return bytes([3, len(host)]) + host.encode() + struct.pack('!H', port)
def parse(b):
    n = {1: 4, 4: 16}[b[0]]
    return str(ipaddress.ip_address(b[1:1 + n])), struct.unpack('!H', b[1 + n:3 + n])[0], 3 + n
class Refused(Exception): pass
class Association:
    def __init__(self, server, port, source=None, said=('0.0.0.0', 0)):
        self.tcp = socket.create_connection((server, port), 20)
        self.tcp.sendall(b'\5\1\0' + b'\5\3\0' + atyp(*said))
        r = self.exactly(6)
        assert r[:2] == b'\5\0' and r[2] == 5, r
        if r[3]: raise Refused(r[3])
        self.relay = parse(r[5:] + self.exactly({1: 6, 4: 18}[r[5]]))[:2]
        self.udp = socket.socket(self.tcp.family, socket.SOCK_DGRAM)
        self.udp.settimeout(20)
        self.udp.bind((source or self.tcp.getsockname()[0], 0))
    def exactly(self, n):
        b = b''
        while len(b) < n:
            more = self.tcp.recv(n - len(b))
            assert more, 'the control connection ended'
            b += more
        return b
    def send(self, host, port, data): self.udp.sendto(b'\0\0\0' + atyp(host, port) + data, self.relay)
    def recv(self):
        b, peer = self.udp.recvfrom(70000)
        assert peer[:2] == self.relay, peer
        assert b[:3] == b'\0\0\0', b[:3]
        host, port, n = parse(b[3:])
        return host, port, b[3 + n:]
    def ask(self, host, port, data):
        self.send(host, port, data)
        return self.recv()
    def closed(self):
        try: return self.tcp.recv(1) == b''
        except ConnectionResetError: return True
PY
socks() { ns "${NS:-client}" bounded 60 env PYTHONPATH="$TMP" PYTHONDONTWRITEBYTECODE=1 python3 -c "from socks import *
$1" "${@:2}" 2>&1; }

# --- every family to every family, and names
for server in "$PROXY4" "$PROXY6"; do
    for target in "$NET4 $EXIT4 $NET4" "203.0.113.12 $EXIT4 203.0.113.12" "$NET6 $EXIT6 $NET6" \
        "four.test $EXIT4 $NET4" "six.test $EXIT6 $NET6" "hosts.test $EXIT4 203.0.113.11"; do
        read -r name exit from <<<"$target"
        is "$(socks 'a = Association(sys.argv[1], 1080)
print(a.relay[0], *a.ask(sys.argv[2], 9000, b"who?"))' "$server" "$name")" \
            "$server $from 9000 b'$exit'" "through $server to $name"
    done
done
is "$(socks 'a = Association(sys.argv[1], 1080)
for i in range(50):
    for k in range(4): a.send(sys.argv[2 + k], 9000, b"%d" % (4 * i + k))
    got = sorted(int(a.recv()[2]) for k in range(4))
    assert got == list(range(4 * i, 4 * i + 4)), got
print("all")' "$PROXY4" "$NET4" "$NET6" both.test four.test)" all "one association, four targets at once"
like "$(socks 'a = Association(sys.argv[1], 1080)
a.send("nothing.test", 9000, b"lost")
print(*a.ask(sys.argv[2], 9000, b"who?"))' "$PROXY4" "$NET4")" "$NET4 9000 b'$EXIT4'" "a name that is none does not stop the others"

# --- sizes that IP fragments
is "$(socks 'a = Association(sys.argv[1], 1080)
for target in sys.argv[2:]:
    for n in (0, 1, 1452, 1473, 4000, 20000, 65000, 65485):
        data = bytes(i * 7 % 251 for i in range(n))
        if n == 0: a.send(target, 9000, data); assert a.recv()[2] == b""
        else: assert a.ask(target, 9000, data)[2] == data, n
print("all")' "$PROXY4" "$NET4" "$NET6")" all "datagrams up to 65485 bytes, each way"

# --- dig
cat >"$TMP/shim.py" <<'PY'
# A resolver for dig: what comes to 127.0.0.1:5300 goes through an association.
from socks import *
import select
a = Association(sys.argv[1], 1080)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 5300))
asked = {}
while True:
    for r in select.select([s, a.udp], [], [])[0]:
        if r is s:
            q, peer = s.recvfrom(4096)
            asked[q[:2]] = peer
            a.send(sys.argv[2], 53, q)
        else:
            host, port, data = a.recv()
            s.sendto(data, asked.pop(data[:2]))
PY
start shim -- ns client env PYTHONPATH="$TMP" PYTHONDONTWRITEBYTECODE=1 python3 "$TMP/shim.py" "$PROXY4" "$NET4"
wait_port client udp 127.0.0.1 5300
digs() { ns client dig +tries=1 +time=10 +noedns +ignore @127.0.0.1 -p 5300 "$@" 2>&1; }
is "$(digs +short four.test A)" "$NET4" "dig, A"
is "$(digs +short six.test AAAA)" "$NET6" "dig, AAAA"
like "$(digs none.test A)" "status: NXDOMAIN" "dig, a name that is none"
is "$(digs +short big.test TXT | sort | cut -c 2-5 | paste -sd ' ')" \
    "$(for i in {0..13}; do printf '%03dx\n' "$i"; done | paste -sd ' ')" "dig, an answer of two fragments"
is "$(grep -c "from=$CLIENT4\b" "${LOG[names]}")" 0 "the name server saw the proxy only"

# --- who may send
is "$(socks 'a = Association(sys.argv[1], 1080)
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
other.bind((sys.argv[3], 0))
wrong = b"\0\0\0" + atyp(sys.argv[2], 9000)
other.sendto(wrong + b"too early", a.relay)
first = a.ask(sys.argv[2], 9000, b"first")
other.sendto(wrong + b"too late", a.relay)
second = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # the right address, another port
second.bind((a.udp.getsockname()[0], 0))
second.sendto(wrong + b"another port", a.relay)
for i in range(3): last = a.ask(sys.argv[2], 9000, b"last%d" % i)
print(first[2], last[2])' "$PROXY4" "$NET4" "$CLIENT4B")" "b'first' b'last2'" "the client is served while others try"
is "$(grep -Ec 'len=(8|9|12)$' "${LOG[echo]}")" 0 "what others sent arrived nowhere"
is "$(NS=net socks 'a = Association(sys.argv[1], 1080)
print(*a.ask(sys.argv[2], 9000, b"who?"))' "$PROXY4" 203.0.113.11)" "203.0.113.11 9000 b'$EXIT4'" "a client on the other side of it"

# --- who may answer: anybody, and the header says who
is "$(socks 'a = Association(sys.argv[1], 1080)
a.ask(sys.argv[2], 9000, b"port?")
print("ready", flush=True)
got = [a.recv() for i in range(2)]
print(sorted((g[0], g[2]) for g in got))' "$PROXY4" "$NET4" >"$TMP/cone" &
    CONE=$!
    wait_for 10 grep -q ready "$TMP/cone"
    PORT=$(sed -n 's/.* port=\([0-9]*\) len=5$/\1/p' "${LOG[echo]}" | tail -1)
    ns net python3 -c 'import socket, sys
for a in ("203.0.113.15", "203.0.113.16"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((a, 0))
    s.sendto(b"from " + a.encode(), (sys.argv[1], int(sys.argv[2])))' "$EXIT4" "$PORT"
    wait $CONE
    tail -1 "$TMP/cone")" "[('203.0.113.15', b'from 203.0.113.15'), ('203.0.113.16', b'from 203.0.113.16')]" \
    "others answer, unasked, and are named"

# --- no way there
is "$(socks 'a = Association(sys.argv[1], 1080)
for target in ("198.51.100.1", "2001:db8:ffff::1", "203.0.113.99", "224.0.0.251", "255.255.255.255", "ff02::1"):
    a.send(target, 9000, b"lost")
    a.send(sys.argv[2], 9, b"nobody listens")
    assert a.ask(sys.argv[2], 9000, b"on")[2] == b"on"
print("all")' "$PROXY4" "$NET4")" all "unreachable destinations do not stop the others"

# --- the end
is "$(socks 'a = Association(sys.argv[1], 1080)
a.ask(sys.argv[2], 9000, b"x"); a.ask(sys.argv[3], 9000, b"x")
a.tcp.shutdown(socket.SHUT_WR)
print(a.closed())' "$PROXY4" "$NET4" "$NET6")" True "the client ends it"
stop shim
no_sockets() { [[ -z $(ns proxy ss -Hanu) ]]; }
check "and no UDP socket is left" -- wait_for 10 no_sockets
is "$(socks 'a = Association(sys.argv[1], 1081)
a.ask(sys.argv[2], 9000, b"x")
print(a.closed())' "$PROXY4" "$NET4")" True "--udp-idle: silence ends it"
is "$(socks 'a = Association(sys.argv[1], 1082)' "$PROXY4" | tail -1)" "socks.Refused: 7" "--no-udp: command not supported"

# --- the mark
num "$(counter ours)" -gt 300 "what it sends carries the mark"
is "$(counter unmarked)" 0 "all of it, its questions to the name server too"
is "$(grep -Ec "peer=($CLIENT4|$CLIENT4B|$CLIENT6) " "${LOG[echo]}")" 0 "nothing went direct"
running serve && ok "the server is up" || not_ok "the server is up"

# --- the same client, another server
peer_dante proxy "$PROXY4" 1090
for target in "$NET4 $EXIT4" "$NET6 $EXIT6"; do
    read -r name exit <<<"$target"
    is "$(socks 'a = Association(sys.argv[1], int(sys.argv[2]))
print(*a.ask(sys.argv[3], 9000, b"who?"))' "$PROXY4" 1090 "$name")" "$name 9000 b'$exit'" "the same from Dante, to $name"
done
done_testing
