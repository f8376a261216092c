# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Far sides and applications for scenarios about UDP and DNS behind a gateway. To be read after lib.sh
# and lan.sh; the files are made in $TMP by `datagram_tools`.
#
#   echo.py PORT          on every address: a datagram comes back from the address it was sent to;
#                         "who?" is answered with the sender's address, "call H" makes a stranger,
#                         an address of the same family, send there. Logs peer, port, length
#   names.py ADDRESS...   a name server by UDP and TCP, for *.test; logs name, type, who asked, how
#   app.py                what applications do: `app NS CODE [ARG...]` has it imported

datagram_tools() {
    cat >"$TMP/echo.py" <<'PY'
import select, socket, sys
socks, port = [], int(sys.argv[1])
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        s.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from where it was sent to
    s.bind((address, port))
    socks.append(s)
while True:
    for s in select.select(socks, [], [])[0]:
        data, control, _, peer = s.recvmsg(70000, 200)
        if data[:1] != b'q': print('peer=%s port=%d len=%d' % (peer[0], peer[1], len(data)), flush=True)
        if data.startswith(b'call '):
            other = socket.socket(s.family, socket.SOCK_DGRAM)
            other.bind((data[5:].decode(), 0))
            other.sendto(b'from ' + data[5:], peer)
            continue
        if s.family == socket.AF_INET:
            control = [(socket.IPPROTO_IP, 8, b'\0\0\0\0' + c[2][4:8] + b'\0\0\0\0') for c in control]
        s.sendmsg([peer[0].encode() if data == b'who?' else data], control, 0, peer)
PY
    cat >"$TMP/names.py" <<'PY'
# four.test has A, six.test AAAA, both.test both, big.test many TXT; all others are not there.
import os, select, socket, struct, sys
four, six = socket.inet_aton(os.environ['NET4']), socket.inet_pton(socket.AF_INET6, os.environ['NET6'])
def answer(q, peer, how):
    end, labels = 12, []
    while q[end]:
        labels.append(q[end + 1:end + 1 + q[end]].decode().lower())
        end += q[end] + 1
    kind = struct.unpack('!H', q[end + 1:end + 3])[0]
    name, records, code = '.'.join(labels), [], 0
    print('query=%s type=%d from=%s by=%s' % (name, kind, peer, how), flush=True)
    if name in ('four.test', 'both.test') and kind == 1: records = [four]
    elif name in ('six.test', 'both.test') and kind == 28: records = [six]
    elif name == 'big.test' and kind == 16: records = [bytes([200]) + b'%03d' % i + b'x' * 197 for i in range(14)]
    elif name not in ('four.test', 'six.test', 'both.test', 'big.test'): code = 3
    out = q[:2] + struct.pack('!HHHHH', 0x8580 | code, 1, len(records), 0, 0) + q[12:end + 5]
    for r in records: out += b'\xc0\x0c' + struct.pack('!HHIH', kind, 1, 60, len(r)) + r
    return out
listeners, udp = [], []
for a in sys.argv[1:]:
    family = socket.AF_INET6 if ':' in a else socket.AF_INET
    udp.append(socket.socket(family, socket.SOCK_DGRAM))
    udp[-1].bind((a, 53))
    listeners.append(socket.create_server((a, 53), family=family))
streams = {}
while True:
    for s in select.select(listeners + udp + list(streams), [], [])[0]:
        if s in listeners:
            c, peer = s.accept()
            streams[c] = (b'', peer[0])
        elif s in udp:
            q, peer = s.recvfrom(4096)
            s.sendto(answer(q, peer[0], 'udp'), peer)
        else:
            try: more = s.recv(65536)
            except OSError: more = b''
            b, peer = streams.pop(s)
            if not more:
                s.close()
                continue
            b += more
            while len(b) > 2 and len(b) >= 2 + struct.unpack('!H', b[:2])[0]:
                n = struct.unpack('!H', b[:2])[0]
                a = answer(b[2:2 + n], peer, 'tcp')
                s.sendall(struct.pack('!H', len(a)) + a)
                b = b[2 + n:]
            streams[s] = (b, peer)
PY
    cat >"$TMP/app.py" <<'PY'
import errno, os, socket, sys, time
def udp(host, connect=None, source=None, timeout=10):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(timeout)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    if source: s.bind(source)
    if connect: s.connect((host, connect))
    return s
def pattern(n): return (bytes(i * 7 % 251 for i in range(251)) * (n // 251 + 1))[:n]
def error_of(f):
    """What f() meets: "ok", "timeout", or a name of errno."""
    try: f()
    except socket.timeout: return 'timeout'
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
    return 'ok'
def ask(s, data):
    s.send(data)
    return s.recv(70000)
PY
}

# app NS CODE [ARG...]: its output, with standard error.
app() { ns "$1" bounded 40 env PYTHONPATH="$TMP" PYTHONDONTWRITEBYTECODE=1 python3 -c "from app import *
$2" "${@:3}" 2>&1; }

# start_app NAME NS CODE [ARG...]: in the background.
start_app() { start "$1" -- ns "$2" env PYTHONPATH="$TMP" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 python3 -c "from app import *
$3" "${@:4}"; }

# proxy_with_names NAME PORT [OPTION...]: `undersock serve` that asks the name server at NET4, and
# nobody else.
proxy_with_names() {
    local n=$1 port=$2
    shift 2
    echo "nameserver $NET4" >"$TMP/resolv.proxy"
    start "$n" -- ns proxy nofile "${SERVE_FILES:-$(ulimit -Hn)}" unshare -m --propagation private sh -c "
        mount --bind '$TMP/resolv.proxy' /etc/resolv.conf &&
        exec '$UNDERSOCK' serve -l '$PROXY4:$port' -l '[$PROXY6]:$port' $*"
    wait_port proxy tcp "$PROXY4" "$port"
}

# watch_uplink: counts, where they leave the gateway's uplink, packets for anybody but the proxy
# (around) and those for port 53 (dns). uplink COUNTER prints and sets to 0.
watch_uplink() {
    ns proxy nft -f - <<-NFT || bail "the counters in proxy"
	table inet uplink {
	    counter around { }
	    counter dns { }
	    chain prerouting {
	        type filter hook prerouting priority -400; policy accept;
	        iifname != "down0" return
	        meta l4proto { tcp, udp } th dport 53 counter name "dns"
	        meta l4proto != { tcp, udp } return
	        ip daddr != $PROXY4 counter name "around"
	        ip6 daddr != $PROXY6 counter name "around"
	    }
	}
	NFT
}
uplink() { ns proxy nft reset counter inet uplink "$1" | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
