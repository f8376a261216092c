#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# BIND of the embedded server, as it is used: a client asks a server over one connection (CONNECT)
# to send a file over another, which that server opens (BIND), as active FTP does. SOCKS5, 4 and 4a,
# both families; a passer-by gets in nobody's way.
. "$(dirname "$0")/lib.sh"

need python3
topology

# --- the far side: "SEND HOST PORT BYTES FROM" has it connect there, from FROM, with so many bytes
cat >"$TMP/active.py" <<'PY'
import errno, socket, socketserver, sys, threading
def pattern(n): return (bytes(range(251)) * (n // 251 + 1))[:n]
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            _, host, port, n, source = line.decode().split()
            print('asked-by=%s' % self.client_address[0], flush=True)
            try:
                data = socket.create_connection((host, int(port)), 20, (source, 0))
                data.sendall(pattern(int(n)))
                data.shutdown(socket.SHUT_WR)
                got = b''
                while True:
                    more = data.recv(65536)
                    if not more: break
                    got += more
                self.wfile.write(b'got %d %s\n' % (len(got), b'right' if got == pattern(len(got)) else b'wrong'))
            except OSError as e: # ENOTCONN: shutdown() just after the reset
                if e.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN): raise
                self.wfile.write(b'reset\n')
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    def __init__(self, family, where):
        self.address_family = family
        super().__init__(where, Handler)
    def server_bind(self):
        if self.address_family == socket.AF_INET6: self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()
servers = [Server(socket.AF_INET, ('0.0.0.0', 9021)), Server(socket.AF_INET6, ('::', 9021))]
for s in servers[1:]: threading.Thread(target=s.serve_forever, daemon=True).start()
servers[0].serve_forever()
PY
start active -- ns net python3 "$TMP/active.py"
wait_port net tcp 0.0.0.0 9021
wait_port net tcp :: 9021
printf '127.0.0.1 localhost\n%s four.test\n%s six.test\n' "$NET4" "$NET6" >"$TMP/hosts"
start serve -- ns proxy unshare -m --propagation private sh -c "
    mount --bind '$TMP/hosts' /etc/hosts &&
    exec '$UNDERSOCK' serve -l '$PROXY4:1080' -l '[$PROXY6]:1080' -l 127.0.0.1:1080"
start serve-none -- ns proxy "$UNDERSOCK" serve -l "$PROXY4:1081" --no-bind
for addr in "$PROXY4" "$PROXY6" 127.0.0.1; do wait_port proxy tcp "$addr" 1080; done
wait_port proxy tcp "$PROXY4" 1081

# --- the client
cat >"$TMP/bind.py" <<'PY'
import ipaddress, socket, struct, sys
def pattern(n): return (bytes(range(251)) * (n // 251 + 1))[:n]
class Client:
    """One SOCKS connection; version 4, '4a' or 5. bound: what each reply said."""
    def __init__(self, version, server, command, host, port, socks_port=1080):
        self.version, self.bound = version, []
        self.s = socket.create_connection((server, socks_port), 30)
        if version == 5:
            try:
                a = ipaddress.ip_address(host)
                where = bytes([1 if a.version == 4 else 4]) + a.packed
            except ValueError:
                where = bytes([3, len(host)]) + host.encode()
            self.s.sendall(b'\5\1\0' + bytes([5, command, 0]) + where + struct.pack('!H', port))
            assert self.exactly(2) == b'\5\0'
        elif version == 4:
            self.s.sendall(bytes([4, command]) + struct.pack('!H', port) + ipaddress.ip_address(host).packed + b'me\0')
        else:
            self.s.sendall(bytes([4, command]) + struct.pack('!H', port) + b'\0\0\0\1me\0' + host.encode() + b'\0')
        self.reply()
    def exactly(self, n):
        b = b''
        while len(b) < n:
            more = self.s.recv(n - len(b))
            assert more, 'the end'
            b += more
        return b
    def reply(self):
        if self.version == 5:
            r = self.exactly(4)
            n = {1: 4, 4: 16}[r[3]]
            b = self.exactly(n + 2)
            if r[1]: raise SystemExit('refused %d' % r[1])
            self.bound.append((str(ipaddress.ip_address(b[:n])), struct.unpack('!H', b[n:])[0]))
        else:
            b = self.exactly(8)
            if b[1] != 0x5a: raise SystemExit('refused %d' % b[1])
            self.bound.append((str(ipaddress.ip_address(b[4:])), struct.unpack('!H', b[2:4])[0]))
def active(version, server, host, target, n, source, strangers=0, peer=None):
    """A file of n bytes from target, which connects back from source; and as many back."""
    control = Client(version, server, 1, host, 9021)
    data = Client(version, server, 2, peer or host, 9021)
    where, port = data.bound[0]
    lines = control.s.makefile('rb')
    for i in range(strangers):
        control.s.sendall(b'SEND %s %d 100000 203.0.113.19\n' % (where.encode(), port))
        assert lines.readline() == b'reset\n'
    control.s.sendall(b'SEND %s %d %d %s\n' % (where.encode(), port, n, source.encode()))
    data.reply()
    assert data.bound[1][0] == source, data.bound
    got = b''
    while True:
        more = data.s.recv(65536)
        if not more: break
        got += more
    assert got == pattern(n), (len(got), n)
    data.s.sendall(pattern(n))
    data.s.shutdown(socket.SHUT_WR)
    said = lines.readline().decode().strip()
    assert said == 'got %d right' % n, said
    return where
PY
client() { ns "${NS:-client}" bounded 60 env PYTHONPATH="$TMP" PYTHONDONTWRITEBYTECODE=1 python3 -c "from bind import *
$1" "${@:2}" 2>&1; }

for case in "5 $PROXY4 $NET4 $NET4 $EXIT4" "5 $PROXY6 $NET4 $NET4 $EXIT4" "5 $PROXY4 $NET6 $NET6 $EXIT6" "5 $PROXY6 $NET6 $NET6 $EXIT6" \
    "5 $PROXY4 four.test $NET4 $EXIT4" "5 $PROXY4 six.test $NET6 $EXIT6" "4 $PROXY4 $NET4 $NET4 $EXIT4" "4a $PROXY4 four.test $NET4 $EXIT4"; do
    read -r version server host target exit <<<"$case"
    is "$(client 'v = sys.argv[1]
print(active(v if v == "4a" else int(v), *sys.argv[2:5], 3000000, sys.argv[4]))' "$version" "$server" "$host" "$target")" \
        "$exit" "SOCKS$version at $server: $host sends a file, and gets it back"
done
is "$(client 'print(active(5, *sys.argv[1:4], 1000, sys.argv[3], strangers=5))' "$PROXY4" "$NET4" "$NET4")" "$EXIT4" "SOCKS5: a passer-by is reset, the peer served"
is "$(client 'print(active(4, *sys.argv[1:4], 1000, sys.argv[3], strangers=5))' "$PROXY4" "$NET4" "$NET4")" "$EXIT4" "SOCKS4: a passer-by is reset, the peer served"
for any in 0.0.0.0 ::; do
    target=$NET4 server=$PROXY4
    [[ $any == :: ]] && target=$NET6 server=$PROXY6
    is "$(client 'print(active(5, sys.argv[1], sys.argv[2], sys.argv[2], 1000, sys.argv[2], peer=sys.argv[3]))' "$server" "$target" "$any")" \
        "$server" "a peer that is not named ($any): told where the client came in"
done
# The client at 127.0.0.1 is told an address that others can use.
ns proxy ip route add default via "$NET4"
is "$(NS=proxy client 'print(active(5, "127.0.0.1", sys.argv[1], sys.argv[1], 1000, sys.argv[1], peer="0.0.0.0"))' "$NET4")" "$EXIT4" "a client on the server's own host"

is "$(client 'Client(5, sys.argv[1], 2, "198.51.100.1", 21)' "$PROXY6")" "" "a peer behind the default route"
ns proxy ip route del default
is "$(client 'Client(5, sys.argv[1], 2, "198.51.100.1", 21)' "$PROXY4")" "refused 3" "a peer without a route"
is "$(client 'Client(5, sys.argv[1], 2, sys.argv[2], 21, 1081)' "$PROXY4" "$NET4")" "refused 7" "--no-bind: command not supported"
is "$(client 'Client(4, sys.argv[1], 2, sys.argv[2], 21, 1081)' "$PROXY4" "$NET4")" "refused 91" "--no-bind, SOCKS4"
listeners() { ns proxy ss -Hlnt | grep -vEc ':(1080|1081) '; }
no_listeners() { [[ $(listeners) == 0 ]]; }
check "no listener is left" -- wait_for 10 no_listeners
is "$(sed -n 's/^asked-by=//p' "${LOG[active]}" | sort -u | paste -sd ' ')" "$EXIT6 $EXIT4" "the far side was asked by the proxy only"
running serve && ok "the server is up" || not_ok "the server is up"
done_testing
