# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the scenarios about UDP and DNS share: targets, servers, watches, and a client.
#
#     datagrams_net       echoes on all addresses of net, ports 9000 and 443, and name servers (UDP
#                         and TCP) on all addresses of it
#     datagrams_watch     counts what comes from client to proxy: what is for others, and port 53
#     watched NAME        one of these counters: leak, dns, both; watch_reset: from 0 again
#     serve_knows NAME PORT [OPTION...]
#                         `undersock serve` in proxy, which knows names that nobody else does
#     ask ... python TEXT ARG...
#                         runs this program, with the functions of ask.py, where "..." says; what
#                         undersock itself says is left out
#
# The echo answers "who?" with the address it was asked from, so EXIT4 or EXIT6 through the proxy.

echo_and_names() {
    cat >"$TMP/echo.py" <<'PY'
import select, socket, sys
socks = []
for port in sys.argv[1:]:
    for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            s.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from where it was sent to
        s.bind((address, int(port)))
        socks.append(s)
while True:
    for s in select.select(socks, [], [])[0]:
        data, control, _, peer = s.recvmsg(70000, 200)
        print('peer=%s port=%d len=%d' % (peer[0], peer[1], len(data)), flush=True)
        if s.family == socket.AF_INET:
            control = [(socket.IPPROTO_IP, 8, b'\0\0\0\0' + c[2][4:8] + b'\0\0\0\0') for c in control]
        s.sendmsg([peer[0].encode() if data == b'who?' else data], control, 0, peer)
PY
    # four.test A, six.test AAAA, both.test both, big.test TXT of 14 strings of 200 bytes, small.test
    # TXT, who.test TXT: who asked, and how; proxy.test A, of the proxy; the reverse of 192.0.2.1; others do not exist.
    cat >"$TMP/names.py" <<'PY'
import os, socket, socketserver, struct, sys, threading
four, six = socket.inet_aton(sys.argv[1]), socket.inet_pton(socket.AF_INET6, sys.argv[2])
known = {'four.test': {1: [four]}, 'six.test': {28: [six]}, 'both.test': {1: [four], 28: [six]},
         'big.test': {16: [bytes([200]) + b'%03d' % i + b'x' * 197 for i in range(14)]},
         'small.test': {16: [b'\5small']}, 'proxy.test': {1: [socket.inet_aton(os.environ['PROXY'])]},
         '1.2.0.192.in-addr.arpa': {12: [b'\4back\4test\0']}}
def answer(q, peer, how, most):
    end, labels = 12, []
    while q[end]:
        labels.append(q[end + 1:end + 1 + q[end]].decode('latin1').lower())
        end += q[end] + 1
    kind = struct.unpack('!H', q[end + 1:end + 3])[0]
    name = '.'.join(labels)
    print('query=%s type=%d by=%s from=%s' % (name, kind, how, peer[0]), flush=True)
    if name == 'who.test':
        said = ('%s %s' % (how, peer[0])).encode()
        records, code = [bytes([len(said)]) + said] if kind == 16 else [], 0
    else:
        records, code = known.get(name, {}).get(kind, []), 0 if name in known else 3
    out = q[:2] + struct.pack('!HHHHH', 0x8580 | code, 1, len(records), 0, 0) + q[12:end + 5]
    for r in records: out += b'\xc0\x0c' + struct.pack('!HHIH', kind, 1, 60, len(r)) + r
    if len(out) > most:
        out = q[:2] + struct.pack('!HHHHH', 0x8780 | code, 1, 0, 0, 0) + q[12:end + 5]
    return out
class Tcp(socketserver.BaseRequestHandler):
    def handle(self):
        f = self.request.makefile('rb')
        while True:
            try: n = f.read(2)
            except ConnectionResetError: return
            if len(n) < 2: return
            out = answer(f.read(struct.unpack('!H', n)[0]), self.client_address, 'tcp', 65535)
            self.request.sendall(struct.pack('!H', len(out)) + out)
class Server(socketserver.ThreadingTCPServer): allow_reuse_address = daemon_threads = True
def udp(address):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((address, 53))
    while True:
        q, peer = s.recvfrom(4096)
        s.sendto(answer(q, peer, 'udp', 512), peer)
for address in sys.argv[3:]:
    class Here(Server): address_family = socket.AF_INET6 if ':' in address else socket.AF_INET
    threading.Thread(target=Here((address, 53), Tcp).serve_forever).start()
    threading.Thread(target=udp, args=(address,)).start()
PY
}

datagrams_net() {
    echo_and_names
    start echo -- ns net python3 "$TMP/echo.py" 9000 443
    start names -- ns net env "PROXY=$PROXY4" python3 "$TMP/names.py" "$NET4" "$NET6" "$NET4" 203.0.113.11 "$NET6"
    wait_port net udp 0.0.0.0 9000
    wait_port net udp :: 443
    wait_port net udp "$NET6" 53
    wait_port net tcp "$NET4" 53
    echo "nameserver $NET4" >"$TMP/resolv.conf"
    printf '127.0.0.1 localhost\n' >"$TMP/hosts.client"
    printf '127.0.0.1 localhost\n%s\n' "203.0.113.11 hosts.secret" "203.0.113.12 other.secret" \
        "2001:db8:113::12 six.secret" >"$TMP/hosts"
}

datagrams_watch() {
    ns proxy nft -f - <<-'NFT' || bail "nft"
	table inet watch {
	    counter leak { }
	    counter dns { }
	    counter both { }
	    chain prerouting {
	        type filter hook prerouting priority -300;
	        iifname != "down0" return
	        meta l4proto != { tcp, udp } return
	        counter name "both"
	        th dport 53 counter name "dns"
	        fib daddr type != local counter name "leak"
	    }
	}
	NFT
}
watched() { ns proxy nft list counter inet watch "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }
watch_reset() { ns proxy nft reset counters table inet watch >/dev/null; }

serve_knows() { # NAME PORT [OPTION...]
    start "$1" -- ns proxy unshare -m --propagation private sh -c "
        mount --bind '$TMP/resolv.conf' /etc/resolv.conf && mount --bind '$TMP/hosts' /etc/hosts &&
        exec '$UNDERSOCK' serve -l '$PROXY4:$2' -l '[$PROXY6]:$2' ${*:3}"
    wait_port proxy tcp "$PROXY4" "$2"
}

# The client's side: what a program sees of its sockets.
ask_py() {
    cat >"$TMP/ask.py" <<'PY'
import errno, select, socket, sys, time
def udp(family=socket.AF_INET, timeout=10):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(timeout)
    return s
def family_of(host): return socket.AF_INET6 if ':' in host else socket.AF_INET
def unconnected(host, port=9000, data=b'who?', s=None):
    s = s or udp(family_of(host))
    s.sendto(data, (host, int(port)))
    got, peer = s.recvfrom(70000)
    return got.decode() if len(got) < 100 else len(got), peer[0], peer[1]
def connected(host, port=9000, data=b'who?'):
    s = udp(family_of(host))
    s.connect((host, int(port)))
    s.send(data)
    got = s.recv(70000)
    return got.decode() if len(got) < 100 else len(got), *s.getpeername()[:2]
def refused(host, port=9000, limit=5):
    "What a connected socket is told, or what came."
    s = udp(family_of(host), limit)
    s.connect((host, int(port)))
    s.send(b'who?')  # a rejection is for the next call, as from anybody far away
    try: return s.recv(2000).decode()
    except OSError as e: return errno.errorcode.get(e.errno, 'timeout')
PY
}
ask() { # COMMAND... python PYTHON ARG...
    local where=()
    while [[ $1 != python ]]; do where+=("$1"); shift; done
    shift
    "${where[@]}" env PYTHONPATH="$TMP" PYTHONDONTWRITEBYTECODE=1 timeout -k 2 40 python3 -c "from ask import *
$1" "${@:2}" 2>&1 | grep --line-buffered -v '^undersock: '
}
