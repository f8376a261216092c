#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# hook = "gateway": the UDP and the DNS of a LAN. Applications behind the gateway talk to the
# addresses they chose, through a proxy; what it does not carry is refused at once; names are
# resolved by nobody but the proxy; and what a reload, a crash and the end of the daemon do to it.
. "$(dirname "$0")/lib.sh"
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/datagrams_lan.sh"

need python3 nft iperf3 dig curl microsocks
topology
lan
datagram_tools
start echo -- ns net python3 "$TMP/echo.py" 9000
RESOLVER4=203.0.113.12 RESOLVER6=2001:db8:113::12
start names -- ns net python3 "$TMP/names.py" "$NET4" "$RESOLVER4" "$RESOLVER6"
start iperf -- ns net iperf3 -s -B "$NET4" -p 5201
start web -- ns net python3 -c 'import http.server, socket
socket.getfqdn = lambda name: name  # no name server is asked
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(("%s for %s" % (self.client_address[0].replace("::ffff:", ""), self.headers["Host"])).encode())
http.server.ThreadingHTTPServer.address_family = socket.AF_INET6
http.server.ThreadingHTTPServer(("::", 80), H).serve_forever()'
wait_port net udp 0.0.0.0 9000
wait_port net udp :: 9000
wait_port net udp "$RESOLVER6" 53
wait_port net tcp "$RESOLVER6" 53
wait_port net tcp "$NET4" 5201
wait_port net tcp :: 80
proxy_with_names serve 1080
peer_microsocks proxy "$PROXY4" 1081
watch_uplink
CONF=$TMP/undersock.conf

config() { # SCHEME PORT KEYS-OF-THE-CAPTURE...
    echo "control = \"$TMP/undersock.sock\""
    echo 'workers = 2'
    echo "upstream \"proxy\" { url = \"$1://$PROXY4:$2\" }"
    echo 'capture "lan" {'
    echo '    hook = "gateway"'
    echo '    interfaces = { "br-lan" }'
    echo '    upstream = "proxy"'
    printf '    %s\n' "${@:3}"
    echo '}'
}
configure() {
    config "$@" >"$CONF"
    us_reload undersock || bail "reload: $*"
}
WHO='print(ask(udp(sys.argv[1], 9000), b"who?").decode())'
seen() { app "$1" "$WHO" "$2"; }
udp_sees() { is "$(seen one "$NET4") $(seen one "$NET6")" "$1 $2" "$3"; }
udp_flows() { us_flows undersock "$1"; }
nothing_around() { is "$(uplink around)" 0 "$1"; }

# --- sockets
routes=$(ns client ip rule; ns client ip -6 rule)
udp_sees "$ONE4" "$ONE6" "without us the target sees the client"
num "$(uplink around)" -ge 2 "which the counter sees"
us_daemon client < <(config socks5 1080 'udp = "associate"' 'dns = "bypass"')
udp_sees "$EXIT4" "$EXIT6" "through the proxy"
is "$(seen two "$NET4") $(seen two "$NET6")" "$EXIT4 $EXIT6" "a second client"
nothing_around "nothing went around it"
is "$(seen guest "$NET4") $(seen guest "$NET6")" "$GUEST4 $GUEST6" "another interface is left alone"
num "$(uplink around)" -ge 2 "which the counter sees"
for target in "$NET4" "$NET6"; do
    is "$(app one 's = udp(sys.argv[1])
others = [sys.argv[1][:-1] + str(k) for k in range(4)]
for i in range(25):
    for o in others: s.sendto(b"%s %d" % (o.encode(), i), (o, 9000))
    got = sorted(s.recvfrom(70000) for o in others)
    want = sorted((b"%s %d" % (o.encode(), i), o) for o in others)
    assert [(g[0], g[1][0]) for g in got] == want and all(g[1][1] == 9000 for g in got), got
print("all")' "$target")" all "one unconnected socket, four remotes, each answer from its own address ($target)"
    is "$(app one 's = udp(sys.argv[1], 9000)
for n in (0, 1, 1452, 1472, 1473, 4000, 20000, 61440):
    assert ask(s, pattern(n)) == pattern(n), n
print(s.getpeername()[0])' "$target")" "$target" "a connected one, up to 60 KiB through an MTU of 1500, each way ($target)"
done
like "$(ns client ip link show br-lan)" 'mtu 1500' "(it is 1500)"
for target in "$NET4 203.0.113.17" "$NET6 2001:db8:113::17"; do
    read -r asked stranger <<<"$target"
    is "$(app one 's = udp(sys.argv[1])
for i in range(3):
    s.sendto(b"call " + sys.argv[2].encode(), (sys.argv[1], 9000))
    data, peer = s.recvfrom(70000)
    s.sendto(b"who?", (sys.argv[2], 9000))
    answer = s.recvfrom(70000)
print(data.decode(), peer[0], answer[0].decode(), answer[1][0])' "$asked" "$stranger")" \
        "from $stranger $stranger $([[ $asked == *:* ]] && echo "$EXIT6" || echo "$EXIT4") $stranger" \
        "a stranger calls (full cone), under its own name, and is answered through the proxy"
done
nothing_around "nothing went around the proxy"

# --- whose they are
start_app held one 's = udp(sys.argv[1], 9000, source=("'"$ONE4"'", 40000))
while True:
    try: ask(s, b"x")
    except OSError as e: print(e)
    time.sleep(0.05)' "$NET4"
has_held() { [[ $(udp_flows 'len([f for f in s if f["client"] == "'"$ONE4"':40000" and f["bytes_down"] > 0])') == 1 ]]; }
check "flows lists it" -- wait_for 10 has_held
is "$(udp_flows '[(f["proto"], f["destination"], f["capture"], f["upstream"], f["state"]) for f in s if f["client"] == "'"$ONE4"':40000"][0]')" \
    "('udp', '$NET4:9000', 'lan', 'proxy', 'relay')" "with protocol, destination, capture, upstream"
stop held

# --- iperf3, whose control connection is TCP
bulk() { # DESCRIPTION OPTION...
    ns one bounded 30 iperf3 -c "$NET4" -p 5201 -u -b 20M -l 1200 -t 2 --json "${@:2}" >"$TMP/iperf.json" 2>&1
    like "$(python3 -c 'import json, sys
e = json.load(open(sys.argv[1]))
s = e["end"]["sum"]
print(e.get("error", "fine"), "packets" if s["packets"] > 3000 else s["packets"], "arrive" if s["lost_percent"] < 5 else s["lost_percent"])' "$TMP/iperf.json" 2>&1 | tail -1)" '^fine packets arrive$' "iperf3 -u, 20 Mbit/s, $1"
}
bulk up
bulk down -R
is "$(grep -c "Accepted connection from $EXIT4," "${LOG[iperf]}")" 2 "through the proxy, both"
nothing_around "all of it"

# --- reload, and worker's death, in the middle of a conversation
TALK='s = udp(sys.argv[1], 9000, timeout=0.2)
n = 0
while True:
    n += 1
    try:
        got = ask(s, b"%d" % n)
        while int(got) < n: got = s.recv(100)  # an answer that has been given up
        got = got == b"%d" % n
    except socket.timeout: got = "lost"
    except OSError as e: got = errno.errorcode[e.errno]
    print(n, got)
    time.sleep(0.02)'
start_app talk4 one "$TALK" "$NET4"
start_app talk6 two "$TALK" "$NET6"
wait_log talk4 '^5 True' && wait_log talk6 '^5 True' || bail "no conversation"
lines() { wc -l <"${LOG[$1]}"; }
goes_on() { # DESCRIPTION FROM4 FROM6: ten answers in a row after it
    local t n=$2
    for t in talk4 talk6; do
        check "$1: $t goes on" -- wait_for 10 eval "[[ \$(tail -n +$((n + 1)) '${LOG[$t]}' | tail -n 10 | grep -c ' True\$') == 10 ]]"
        num "$(tail -n "+$((n + 1))" "${LOG[$t]}" | grep -vc ' True$')" -le 5 "$1: within a second"
        n=$3
    done
}
for i in 1 2 3; do
    from4=$(lines talk4) from6=$(lines talk6)
    configure socks5 1080 'udp = "associate"' 'dns = "bypass"'
    goes_on "reload $i" $from4 $from6
done
from4=$(lines talk4) from6=$(lines talk6)
for p in $(us_status undersock '" ".join(str(w["pid"]) for w in s["workers"] if not w["draining"])'); do kill -KILL "$p"; done
goes_on "SIGKILL of the workers" $from4 $from6
nothing_around "nothing went around the proxy meanwhile"
stop talk4
stop talk6

# --- what is not carried
REFUSED='s = udp(sys.argv[1], 9000, timeout=5)
before = time.monotonic()
print(error_of(lambda: ask(s, b"x")))'
QUIC='s = udp(sys.argv[1], 80, timeout=5)
e = error_of(lambda: ask(s, b"\xc0" + b"\0" * 1199))
t = socket.create_connection((sys.argv[1], 80), 10)
t.sendall(b"GET / HTTP/1.0\r\nHost: h3\r\n\r\n")
answer = b""
while True:
    b = t.recv(4096)
    if not b: break
    answer += b
print(e, answer.split(b"\r\n\r\n")[1].decode())'
refused() { # DESCRIPTION
    local t
    for t in "$NET4 $EXIT4" "$NET6 $EXIT6"; do
        read -r target exit <<<"$t"
        is "$(app one "$REFUSED" "$target")" ECONNREFUSED "$1: refused ($target)"
        is "$(app one "$QUIC" "$target")" "ECONNREFUSED $exit for h3" "$1: what tries QUIC goes by TCP ($target)"
    done
    nothing_around "$1: and nothing goes around the proxy"
}
configure socks5 1080 'udp = "reject"' 'dns = "bypass"'
refused 'udp = "reject"'
configure socks5 1081 'udp = "associate"' 'dns = "bypass"'
refused 'a proxy without UDP'
configure socks5 1081 'dns = "bypass"'
refused 'the same, udp = "auto"'
configure socks5 1080 'udp = "bypass"' 'dns = "bypass"'
udp_sees "$ONE4" "$ONE6" 'udp = "bypass": it goes direct'

# --- DNS
digs() { ns "$1" dig +tries=1 +time=8 +noedns "${@:2}" 2>&1; }
echo "nameserver $RESOLVER4" >"$TMP/resolv.one"
curls() { ns one unshare -m --propagation private sh -c 'mount --bind "$0" /etc/resolv.conf && exec curl -sS --noproxy "*" -m 10 "$@"' "$TMP/resolv.one" "$@" 2>&1; }
is "$(digs one +short @"$RESOLVER4" four.test)" "$NET4" "DNS goes direct so far"
num "$(uplink dns)" -gt 0 "which the counter sees"
uplink around >/dev/null
for answer in auto explicit; do
    : >"${LOG[names]}"
    case $answer in
    auto) configure socks5h 1080 ;;
    explicit) configure socks5h 1080 'dns = "fake"' 'udp = "associate"' ;;
    esac
    like "$(digs one +short @"$RESOLVER4" four.test A)" '^198\.1[89]\.[0-9]+\.[0-9]+$' "fake ($answer): dig, A"
    like "$(digs one +short @"$RESOLVER4" six.test AAAA)" '^fdf6:6931:7149:' "fake ($answer): dig, AAAA"
    like "$(digs one +short @"$RESOLVER6" six.test AAAA)" '^fdf6:6931:7149:' "fake ($answer): dig, by IPv6"
    is "$(grep -c . "${LOG[names]}")" 0 "fake ($answer): no name server has been asked"
    is "$(curls http://four.test/)" "$EXIT4 for four.test" "fake ($answer): curl, by name"
    is "$(curls http://six.test/)" "$EXIT6 for six.test" "fake ($answer): curl, a name that has IPv6 only"
    is "$(curls -6 http://both.test/ | sed 's/.* for/for/')" "for both.test" "fake ($answer): curl -6: to an IPv6 address"
    is "$(curls http://none.test/ | tail -1 | cut -c 1-9)" "curl: (7)" "fake ($answer): a name that is none"
    isnt "$(grep -c 'query=four.test' "${LOG[names]}")" 0 "fake ($answer): the proxy has resolved it"
    is "$(grep -vc "from=$EXIT4 \|from=$NET4 " "${LOG[names]}")" 0 "fake ($answer): and nobody else"
done
fake4=$(digs one +short @"$RESOLVER4" four.test A)
fake6=$(digs one +short @"$RESOLVER4" both.test AAAA)
is "$(app one 's = udp(sys.argv[1])
s.sendto(b"who?", (sys.argv[1], 9000))
d, p = s.recvfrom(70000)
print(d.decode(), p[0])' "$fake4")" "$EXIT4 $fake4" "UDP by name: the answer comes from the address that stands for it"
like "$(app one 's = udp(sys.argv[1], 9000)
print(ask(s, b"who?").decode(), s.getpeername()[0])' "$fake6")" "^($EXIT4|$EXIT6) $fake6\$" "and by IPv6"
for server in "$LAN4" "$LAN6"; do
    like "$(digs one +short @"$server" four.test A)" '^198\.1[89]\.' "fake: the gateway's own address answers ($server)"
done
like "$(digs two -x "$fake4" @"$RESOLVER4")" NXDOMAIN "fake: the name of such an address is nobody else's business"
is "$(digs one +short big.test TXT +bufsize=4096 @"$RESOLVER4" | wc -l)" 14 "fake: what is no address, from the name server"
num "$(grep -c "query=big.test type=16 from=$EXIT4 by=tcp" "${LOG[names]}")" -ge 1 "which was asked by TCP, through the proxy"
is "$(app one "$REFUSED" 198.18.200.200)" ECONNREFUSED "an address that stands for nothing is refused"
is "$(uplink dns)" 0 "fake: nothing for port 53 on the uplink"
nothing_around "fake: nor for a target's address"

: >"${LOG[names]}"
configure socks5 1080 'dns = "tcp"' 'udp = "associate"'
is "$(digs one +short @"$RESOLVER4" four.test A) $(digs one +short @"$RESOLVER6" six.test AAAA)" "$NET4 $NET6" "tcp: dig"
like "$(digs one none.test @"$RESOLVER4")" NXDOMAIN "tcp: a name that is none"
is "$(digs one +short +ignore big.test TXT @"$RESOLVER4" | wc -l) $(digs one +short big.test TXT @"$RESOLVER4" | grep -c xxx)" "0 14" "tcp: a long answer is cut, and asked for by TCP"
is "$(curls http://four.test/)" "$EXIT4 for four.test" "tcp: curl, by name"
is "$(grep -c 'by=udp' "${LOG[names]}") $(grep -Ec "from=($ONE4|$ONE6|$CLIENT4|$CLIENT6) " "${LOG[names]}")" "0 0" "tcp: the name servers were asked by TCP and by the proxy only"
num "$(grep -c "from=$EXIT4 by=tcp" "${LOG[names]}")" -ge 3 "(and they were)"
configure socks5 1080 'dns = "tcp"' "dns-server = \"$RESOLVER4\""
# A link-local address is where router advertisements send clients.
local6=$(ns client ip -6 -o addr show dev br-lan scope link | awk '{sub("/.*", "", $4); print $4; exit}')
for server in "$LAN4" "$LAN6" "$local6%eth0" 198.51.100.77; do
    is "$(digs one +short @"$server" four.test A)" "$NET4" "tcp, dns-server: the answer comes from $server"
    is "$(digs one +short +bufsize=512 @"$server" big.test TXT | wc -l)" 14 "and a long one, by TCP"
done
is "$(uplink dns)" 0 "tcp: nothing for port 53 on the uplink"
nothing_around "tcp: nor for a target's address"

# --- sources that are somebody else's: of the world, and of the gateway itself
configure socks5h 1080 'dns = "fake"' 'udp = "associate"'
for a in 203.0.113.15/32 2001:db8:113::15/128 "$CLIENT6/128"; do ns one ip addr add "$a" dev lo; done
start own -- ns client python3 -c 'import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 7777))
while True: print("from", s.recvfrom(2000)[1][0], flush=True)'
wait_port client udp :: 7777
forge() { # SOURCE RESOLVER TARGET NOBODY: a query, a datagram, one that is refused, a SYN
    app one 'source = (sys.argv[1], 7777)
for to, data in (((sys.argv[2], 53), b"\x12\x34\1\0\0\1" + b"\0" * 6 + b"\4four\4test\0\0\1\0\1"),
                 ((sys.argv[3], 9000), b"who?"), ((sys.argv[4], 9), b"past the proxy")):
    s = udp(to[0], source=source)
    s.sendto(data, to)
    s.close()
s = socket.socket(s.family)
s.bind(source)
s.setblocking(False)
s.connect_ex((sys.argv[3], 80))' "$@"
}
forge 203.0.113.15 "$RESOLVER4" "$NET4" 198.18.200.200
forge 2001:db8:113::15 "$RESOLVER6" "$NET6" fdf6:6931:7149::ffff
forge "$CLIENT6" "$RESOLVER6" "$NET6" fdf6:6931:7149::ffff
udp_sees "$EXIT4" "$EXIT6" "who is what it says is served"
like "$(digs one +short @"$RESOLVER4" four.test A)" '^198\.1[89]\.' "and gets DNS"
app one 'udp(sys.argv[1], 7777).send(b"x")' "$LAN6"
check "a service of the gateway hears from a client" -- wait_log own "^from $ONE6\$"
is "$(grep -vc "^from $ONE6\$" "${LOG[own]}")" 0 "but not by a source that is the gateway's own"
is "$(udp_flows '[f["client"] for f in s if f["client"].endswith(":7777")]')" "[]" "and no flow is for a forged source"
nothing_around "nobody gets an answer, a refusal, or a SYN-ACK by asking from an address beyond the uplink"
stop own
for a in 203.0.113.15/32 2001:db8:113::15/128 "$CLIENT6/128"; do ns one ip addr del "$a" dev lo; done

# --- the proxy's end
configure socks5 1080 'udp = "associate"' 'dns = "tcp"'
udp_sees "$EXIT4" "$EXIT6" "the proxy is up"
start_app talk4 one "$TALK" "$NET4"
wait_log talk4 '^5 True' || bail "no conversation"
stop serve KILL 2>/dev/null
check "the proxy is killed: a conversation is refused" -- wait_log talk4 ' ECONNREFUSED$'
is "$(app one "$REFUSED" "$NET4") $(app one "$REFUSED" "$NET6")" "ECONNREFUSED ECONNREFUSED" "so are new ones"
like "$(digs one @"$RESOLVER4" four.test A)" SERVFAIL "and DNS says so"
nothing_around "nothing goes around it"
from4=$(lines talk4)
proxy_with_names serve 1080
check "it comes back: the conversation goes on" -- wait_for 15 eval "[[ \$(tail -n +$((from4 + 1)) '${LOG[talk4]}' | tail -n 5 | grep -c ' True\$') == 5 ]]"
stop talk4
udp_sees "$EXIT4" "$EXIT6" "and new ones are served"
stop serve KILL 2>/dev/null
configure socks5 1080 'udp = "associate"' 'dns = "tcp"' 'when-down = "direct"'
udp_sees "$CLIENT4" "$CLIENT6" 'when-down = "direct": it goes directly, from the gateway'
configure socks5 1081 'udp = "associate"' 'dns = "bypass"' 'when-down = "direct"'
is "$(app one "$REFUSED" "$NET4") $(app one "$REFUSED" "$NET6")" "ECONNREFUSED ECONNREFUSED" "but not because a proxy that is up has no UDP"
proxy_with_names serve 1080

# --- among a router's other duties: a strict reverse path, and masquerading of what leaves
ns client sh -c 'for k in all up0 br-lan; do echo 1 >/proc/sys/net/ipv4/conf/$k/rp_filter; done'
ns client nft -f - <<-NFT || bail "nft"
	table inet router {
	    chain postrouting {
	        type nat hook postrouting priority 100;
	        oifname "up0" masquerade
	    }
	    chain prerouting {
	        type filter hook prerouting priority -110;
	        fib saddr . mark . iif oif missing drop
	    }
	    chain forward {
	        type filter hook forward priority 0;
	        ct state invalid drop
	    }
	    chain output {
	        type filter hook output priority 0;
	        ct state invalid drop
	    }
	}
NFT
configure socks5 1080 'udp = "associate"' 'dns = "fake"'
udp_sees "$EXIT4" "$EXIT6" "with strict reverse paths, masquerading, and invalid packets dropped"
is "$(app one 's = udp(sys.argv[1], 9000)
print(ask(s, pattern(61440)) == pattern(61440))' "$NET4")" True "so do fragments"
like "$(digs one +short @"$RESOLVER4" four.test A)" '^198\.1[89]\.' "and DNS"
configure socks5 1080 'udp = "reject"' 'dns = "bypass"'
is "$(app one "$REFUSED" "$NET4") $(app one "$REFUSED" "$NET6")" "ECONNREFUSED ECONNREFUSED" "and refusals"
configure socks5 1081 'udp = "associate"' 'dns = "bypass"'
is "$(app one "$REFUSED" "$NET4") $(app one "$REFUSED" "$NET6")" "ECONNREFUSED ECONNREFUSED" "also those of a worker"
ns client nft delete table inet router
ns client sh -c 'for k in all up0 br-lan; do echo 0 >/proc/sys/net/ipv4/conf/$k/rp_filter; done'
uplink around >/dev/null
uplink dns >/dev/null

# --- the daemon's end
kill_keeper() {
    kill -KILL "${PID[undersock]}"
    ended undersock 10 2>/dev/null
}
configure socks5 1080 'udp = "associate"' 'dns = "fake"' 'on-exit = "closed"'
udp_sees "$EXIT4" "$EXIT6" 'on-exit = "closed": served'
uplink around >/dev/null
kill_keeper
check "closed: after SIGKILL its own table goes" -- wait_for 15 eval '[[ $(tables_of client) != *"table inet undersock"?( *) ]]'
# The guard says "prohibited", not "nobody there".
is "$(app one "$REFUSED" "$NET4") $(app one "$REFUSED" "$NET6")" "EHOSTUNREACH EACCES" "closed: UDP is refused at once"
like "$(digs one @"$RESOLVER4" four.test A)" 'refused|no servers could be reached' "closed: so is DNS"
is "$(uplink dns)" 0 "closed: nothing for port 53 on the uplink"
nothing_around "closed: nor anything else"
us_daemon client < <(config socks5 1080 'udp = "associate"' 'dns = "fake"' 'on-exit = "closed"')
udp_sees "$EXIT4" "$EXIT6" "closed: the next start serves"
configure socks5 1080 'udp = "associate"' 'dns = "fake"' 'on-exit = "open"'
start_app talk4 one "$TALK" "$NET4"
wait_log talk4 '^5 True' || bail "no conversation"
kill_keeper
check 'open, after SIGKILL: UDP goes direct' -- wait_for 15 eval '[[ $(seen one "$NET4") == "$ONE4" && $(seen one "$NET6") == "$ONE6" ]]'
from4=$(lines talk4)
check "open: a conversation goes on, directly" -- wait_for 10 eval "[[ \$(tail -n +$((from4 + 1)) '${LOG[talk4]}' | tail -n 5 | grep -c ' True\$') == 5 ]]"
is "$(digs one +short @"$RESOLVER4" four.test A)" "$NET4" "open: so does DNS"
us_daemon client < <(config socks5 1080 'udp = "associate"' 'dns = "fake"')
udp_sees "$EXIT4" "$EXIT6" "open: the next start serves"
check "stop" -- "$UNDERSOCK" stop -s "$TMP/undersock.sock"
ended undersock 10
is "$(ns client ip rule; ns client ip -6 rule)" "$routes" "and no policy route is left"
udp_sees "$ONE4" "$ONE6" "it goes direct"
done_testing
