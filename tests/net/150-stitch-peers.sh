#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# Stitch with real SOCKS servers, each with the versions and methods it speaks, over a link and on this
# host's loopback, both families, by address and by name: files arrive as they are, what the server says
# of a destination is what connect() says, and no worker has anything to do with it.
#
# One daemon; each upstream is put in force by a reload.

# The servers and the daemon know names that the application does not: a hosts file of our own.
if ((EUID == 0)) && [[ ${UNDERSOCK_PRIVATE:-} != "$$" ]]; then
    UNDERSOCK_PRIVATE=$$ exec unshare -m --propagation slave bash "$0" "$@"
fi
. "$(dirname "$0")/lib.sh"

need python3 nft curl danted microsocks tor ssh sshd setpriv getent
getent passwd games >/dev/null || skip_all "there is no user games"
topology
impatient client
. "$LIB_DIR/stitch.sh"
NOBODY4=203.0.113.99 NOBODY6=2001:db8:113::99
for n in client proxy; do
    ns $n ip route add unreachable "$NOBODY4/32"
    ns $n ip -6 route add unreachable "$NOBODY6/128"
done
printf '%s\n' '127.0.0.1 localhost' '::1 localhost' >"$TMP/hosts.app"
printf '%s\n' '127.0.0.1 localhost' '::1 localhost' "$PROXY4 proxy.test" "$PROXY6 proxy.test" \
    "$NET4 four.test" "$NET6 six.test" >"$TMP/hosts"
echo "nameserver $NET4" >"$TMP/resolv.conf"
mount --bind "$TMP/hosts" /etc/hosts || bail "hosts"

# --- the far end: gives its file, takes another
cat >"$TMP/web.py" <<'PY'
import http.server, os, socket, sys
where = sys.argv[1]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = open(where + '/down', 'rb').read()
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_PUT(self):
        with open(where + '/up.' + os.path.basename(self.path), 'wb') as f:
            f.write(self.rfile.read(int(self.headers['Content-Length'])))
        self.send_response(201)
        self.send_header('Content-Length', '0')
        self.end_headers()
        print('put', self.client_address[0], flush=True)
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
socket.getfqdn = lambda name='': name  # no name server is asked
Server(('::', 8000), Handler).serve_forever()
PY
head -c 3000000 /dev/urandom >"$TMP/down"
head -c 3000000 /dev/urandom >"$TMP/up"
start http -- ns net python3 "$TMP/web.py" "$TMP"
wait_port net tcp :: 8000
net_who 9000

# --- the servers: PORT, the same on proxy and on the loopback of client
secret dante 'open sesame'
secret microsocks 's3cret:@/%'
secret serve 'pass word'
printf 'carol:pass word\n' >"$TMP/users"
chmod 600 "$TMP/users"
peer_ss() { # NS ADDR PORT SERVER-PORT
    local n=$PEER_NAME
    # It asks the name server before it looks at the file of hosts: one that refuses at once.
    start "$n-server" -- ns "$1" ss-server -d 127.0.0.1 -s "$2" -p "$4" -k secret -m aes-256-gcm -t 60
    wait_port "$1" tcp "$2" "$4"
    start "$n" -- ns "$1" ss-local -s "$2" -p "$4" -b "$2" -l "$3" -k secret -m aes-256-gcm -t 60
    wait_port "$1" tcp "$2" "$3"
}
servers() { # NS ADDR
    local t=$1-$([[ $2 == *:* ]] && echo 6 || echo 4)
    PEER_NAME=dante-$t peer_dante "$1" "$2" 1101
    PEER_NAME=microsocks-$t peer_microsocks "$1" "$2" 1103
    PEER_NAME=microsocks-password-$t peer_microsocks "$1" "$2" 1104 bob 's3cret:@/%'
    PEER_NAME=ssh-$t peer_ssh "$1" "$2" 1105 $([[ $t == *6 ]] && echo 2226 || echo 2224)
    PEER_NAME=serve-$t peer_serve "$1" "$2" 1106
    PEER_NAME=serve-password-$t peer_serve "$1" "$2" 1107 "$TMP/users"
    command -v ss-local >/dev/null && PEER_NAME=ss-$t peer_ss "$1" "$2" 1108 2108
}
servers proxy "$PROXY4"
servers proxy "$PROXY6"
EXIT4=$CLIENT4 EXIT6=$CLIENT6 servers client 127.0.0.1
EXIT4=$CLIENT4 EXIT6=$CLIENT6 servers client ::1
PEER_NAME=dante-password-4 peer_dante proxy "$PROXY4" 1102 alice 'open sesame'
PEER_NAME=dante-password-6 peer_dante proxy "$PROXY6" 1102 alice 'open sesame'
PEER_NAME=tor peer_tor proxy "$PROXY4" 1109

# --- the daemon
# The application knows no names.
app() {
    cg app ns client unshare -m --propagation private sh -c "mount --bind '$TMP/hosts.app' /etc/hosts &&
        mount --bind '$TMP/resolv.conf' /etc/resolv.conf && exec \"\$@\"" sh "$@"
}
CAPTURE_KEYS=('dns = "fake"' 'udp = "reject"')
us_daemon client < <(config "socks5://$PROXY4:1106")

# said URL ADDRESS PORT: how it refuses that destination, as curl is told: by a code; "closed", without one
# (ssh -D); "granted", and only then closed (ss-local).
said() {
    local out rc
    out=$(ns client curl -qgsS --max-time 20 -x "$1" "http://$2:$3/" 2>&1)
    rc=$?
    out=$(sed -n 's/.*connect.* to .*(\([0-9]*\)).*/\1/p' <<<"$out")
    [[ $rc == 97 ]] && echo "${out:-closed}" || echo granted
}
errno_of() { # CODE SOCKET-FAMILY
    case $1 in
    3) echo connect=ENETUNREACH ;;
    4 | 6) echo connect=EHOSTUNREACH ;;
    2) [[ $2 == 6 ]] && echo connect=EACCES || echo connect=ECONNREFUSED ;;
    granted) echo connected ;;
    *) echo connect=ECONNREFUSED ;;
    esac
}
connected() { [[ $1 == connect=* ]] && echo "$1" || echo connected; }

# files WHAT URL-HOST CURL-OPTION...: each way, compared. (Without "Expect", which costs a second.)
files() {
    local what=$1 host=$2
    shift 2
    rm -f "$TMP/got" "$TMP"/up.file
    app curl -qgsS --max-time 40 "$@" -o "$TMP/got" "http://$host:8000/" 2>"$TMP/curl.log" &&
        app curl -qgsS --max-time 40 "$@" -H 'Expect:' -T "$TMP/up" "http://$host:8000/file" 2>"$TMP/curl.log"
    check "$what: 3 MB each way" -- eval 'cat "$TMP/curl.log" && cmp "$TMP/down" "$TMP/got" && cmp "$TMP/up" "$TMP/up.file"'
}

# try WHAT FROM4 FROM6 ASK URL [KEY...]: all that a server can be asked. ASK: how curl asks it itself.
try() {
    local what=$1 from4=$2 from6=$3 ask=$4 url=$5 granted want=3 scheme=${5%%:*} CLOSED=
    shift 4
    use "$@"
    is "$(stitched)" True "$what: it is stitched"
    granted=$(st granted)
    is "$(seen -p "$NET4" 9000)" "$from4 peer=$NET4:9000" "$what: IPv4, through it"
    files "$what, IPv4" "$NET4"
    # A name is the server's to resolve, whichever family it is reached by.
    case $scheme in
    socks4) ;;
    socks4a)
        files "$what, a name" four.test -4
        files "$what, a name, by IPv6 to the server" four.test -6
        want=7
        ;;
    *)
        is "$(seen -p "$NET6" 9000)" "$from6 peer=[$NET6]:9000" "$what: IPv6, through it"
        files "$what, IPv6" "[$NET6]"
        files "$what, a name" four.test -4
        files "$what, a name of an IPv6 host" six.test -6
        want=10
        ;;
    esac
    says "$what" "$ask" 4 "$NET4" "$NOBODY4"
    [[ $scheme == socks4* ]] || says "$what" "$ask" 6 "$NET6" "$NOBODY6"
    # To close the connection is no answer: the upstream is to blame, as it is for a worker.
    if [[ $CLOSED ]]; then
        is "$(stitched)" False "$what: which is its fault, so it is relayed"
        check "$what: with a line" -- wait_log undersock "upstream up$N.*closed the connection during the handshake"
        is "$(($(st granted) - granted))" "$want" "$what: all of it by stitch until then"
        return
    fi
    is "$(($(st granted) - granted)) $(us_serving undersock accepted)" "$want 0" "$what: all of it by stitch, nothing by a worker"
    is "$(stitched)" True "$what: and it still is"
}
# says WHAT ASK FAMILY ADDRESS NOBODY: what becomes of a port where nobody listens, and of a host that nobody
# reaches. Adds to `want`, sets CLOSED.
says() {
    local code host seen want_seen=() codes=()
    for host in "$4 7000" "$5 8000"; do
        # shellcheck disable=SC2086
        set -- "$1" "$2" "$3" "$4" "$5" $host
        code=$(said "$2" "$([[ $3 == 6 ]] && echo "[$6]" || echo "$6")" "$7")
        [[ $code == granted ]] && want=$((want + 1))
        [[ $code == closed ]] && CLOSED=1
        codes+=("$code")
        want_seen+=("$(errno_of "$code" "$3")")
    done
    # Who is connected in spite of it may not hear of it (ss-local): connect() is what is looked at.
    seen -t 4 "$5" 8000 >"$TMP/unreachable" &
    seen="$(connected "$(seen -t 4 "$4" 7000)")"
    wait $!
    seen+=" $(connected "$(<"$TMP/unreachable")")"
    is "$seen" "${want_seen[*]}" "$1, IPv$3: nobody listens (${codes[0]}), unreachable (${codes[1]}): as the server says"
}
both() { # WHAT PORT SCHEME [KEY...]: over the link, and on this host
    try "$1, over a link" "$EXIT4" "$EXIT6" "${3%%[ha]}://${ASK:-}$PROXY4:$2" "$3://${USER_AT:-}proxy.test:$2" "${@:4}"
    try "$1, on this host" "$CLIENT4" "$CLIENT6" "${3%%[ha]}://${ASK:-}127.0.0.1:$2" "$3://${USER_AT:-}localhost:$2" "${@:4}"
}
both "Dante, SOCKS5" 1101 socks5
both "microsocks" 1103 socks5h
USER_AT=bob@ ASK='bob:s3cret%3a%40%2F%25@' both "microsocks, password" 1104 socks5 "password-file = \"$TMP/microsocks.password\""
both "ssh -D, SOCKS5" 1105 socks5
both "ssh -D, SOCKS4a" 1105 socks4a
both "undersock serve" 1106 socks5h
USER_AT=carol@ ASK='carol:pass%20word@' both "undersock serve, password" 1107 socks5 "password-file = \"$TMP/serve.password\""
if command -v ss-local >/dev/null; then
    both "ss-local" 1108 socks5
else
    skip "ss-local" "shadowsocks-libev is not installed" 2
fi
try "Dante, SOCKS4" "$EXIT4" - "socks4://$PROXY4:1101" "socks4://proxy.test:1101"
try "Dante, password" "$EXIT4" "$EXIT6" "socks5://alice:open%20sesame@$PROXY4:1102" "socks5://alice@proxy.test:1102" "password-file = \"$TMP/dante.password\""
try "ssh -D, SOCKS4" "$EXIT4" - "socks4://$PROXY4:1105" "socks4://proxy.test:1105"
try "undersock serve, SOCKS4" "$CLIENT4" - "socks4://user@127.0.0.1:1106" "socks4://user@localhost:1106"
try "undersock serve, SOCKS4a" "$EXIT4" - "socks4a://user@$PROXY4:1106" "socks4a://user@proxy.test:1106"

# --- tor, as far as it goes without a network: a destination that it refuses, and one it never reaches
use "socks5://$PROXY4:1109" 'handshake-timeout = "1s"' 'connect-timeout = "1s"' -- 'private = true'
is "$(seen 10.99.99.99 9000)" "connect=ECONNREFUSED" "tor refuses an internal address"
is "$(seen "$NET4" 9000)" "connect=ETIMEDOUT" "tor has no answer"
is "$(stitched) $(us_serving undersock accepted)" "True 0" "tor: by stitch, and it is not to blame"

# --- in the captured cgroup itself, as a user that is left alone
start inside -- cg app ns client setpriv --reuid games --regid "$(id -g games)" --clear-groups --inh-caps=-all microsocks -i 127.0.0.1 -p 1120
wait_port client tcp 127.0.0.1 1120
try_inside() {
    use "socks5://127.0.0.1:1120"
    local granted
    granted=$(st granted)
    is "$(stitched) $(seen "$NET4" 9000)" "True $CLIENT4" "a server in the captured cgroup, by another user"
    files "a server in the captured cgroup" "$NET4"
    is "$(($(st granted) - granted)) $(us_serving undersock accepted) $(us_serving undersock refused_loop)" "3 0 0" "each by stitch, no loop"
}
try_inside

done_testing
