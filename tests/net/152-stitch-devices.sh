#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
# timeout: 400
#
# Stitch over whatever leads to the server: devices with and without an Ethernet header, those that
# stand upon others (bridge, VLAN, bond, macvlan) and those that wrap packets (VXLAN, WireGuard, GRE);
# several of them with the route moving from one to another; policy routing; interfaces that are renamed,
# go and come. On each a few connections of both families with bytes both ways, stitched, and without
# waiting for anybody's timer; and before our filters are there, nothing gets out by it.
#
# The server has addresses of its own on proxy's loopback, and so has the application's end, so that only
# the routes say by which device they meet.
. "$(dirname "$0")/lib.sh"

need python3 nft tc
topology
net_who 9000
start sink -- ns net "$TOOLS/pattern" serve -B :: 9004
start echo -- ns net "$TOOLS/load" server :: 9003
for port in 9003 9004; do wait_port net tcp :: $port; done
cg_new app
impatient client
SERVER4=10.99.0.1 SERVER6=fd99::1 HERE4=10.98.0.2 HERE6=fd98::2
ns_addresses proxy lo "$SERVER4/32 $SERVER6/128"
ns_addresses client lo "$HERE4/32 $HERE6/128"
NOBODY4=203.0.113.99 NOBODY6=2001:db8:113::99
ns proxy ip route add unreachable "$NOBODY4/32"
ns proxy ip -6 route add unreachable "$NOBODY6/128"
PEER_NAME=four peer_serve proxy "$SERVER4" 1080
PEER_NAME=six peer_serve proxy "$SERVER6" 1080
PEER_NAME=slow4 peer_bad proxy "$SERVER4" 1081 slow 200
PEER_NAME=slow6 peer_bad proxy "$SERVER6" 1081 slow 200
# What comes to the servers, by interface.
ns proxy nft -f - <<-'NFT' || bail "nft"
table inet watch {
    set by { type ifname; flags dynamic; counter; size 64; }
    chain input {
        type filter hook input priority 0;
        tcp dport { 1080, 1081 } update @by { iifname }
    }
}
NFT
came_by() { # DEVICE: packets to the servers
    ns proxy nft list set inet watch by | grep -o "\"$1\" counter packets [0-9]*" | sed 's/.* //' | grep . || echo 0
}
forget_packets() { ns proxy nft flush set inet watch by; }

app() { cg app ns client "$@"; }
seen() { app timeout 20 "$TOOLS/who" "$@" 2>&1; }
st() { us_status undersock "s['stitch']['$1']"; }
relayed() { us_status undersock "sum(w['accepted'] for w in s['workers'])"; }
filtered() { ns client tc filter show dev "$1" "${2:-egress}" | grep -q us_st_; }
is_filtered() { filtered "$1" ingress && filtered "$1" egress; }

# route DEVICE FAR-DEVICE [GATEWAY4 FAR-GATEWAY4 GATEWAY6 FAR-GATEWAY6]: by these they meet.
route() {
    ns client ip route replace "$SERVER4/32" ${3:+via "$3"} dev "$1" src "$HERE4" || return 1
    ns proxy ip route replace "$HERE4/32" ${4:+via "$4"} dev "$2" || return 1
    ns client ip -6 route replace "$SERVER6/128" ${5:+via "$5"} dev "$1" src "$HERE6" || return 1
    ns proxy ip -6 route replace "$HERE6/128" ${6:+via "$6"} dev "$2"
}
# addressed DEVICE FAR-DEVICE N: up, with addresses of net N, and the routes.
addressed() {
    ns client ip link set "$1" up
    ns proxy ip link set "$2" up
    ns_addresses client "$1" "10.78.$3.2/24 fd78:$3::2/64"
    ns_addresses proxy "$2" "10.78.$3.1/24 fd78:$3::1/64"
    route "$1" "$2" "10.78.$3.1" "10.78.$3.2" "fd78:$3::1" "fd78:$3::2"
}

# carries WHAT: a few connections of both families; they are stitched, and nobody had to wait for a SYN
# that came again (a busy machine makes one or two of these).
carries() {
    local granted again
    granted=$(st granted) again=$(st again)
    is "$(seen -p "$NET4" 9000) $(seen -p "$NET6" 9000)" "$EXIT4 peer=$NET4:9000 $EXIT6 peer=[$NET6]:9000" "$1: through the proxy"
    check "$1: 2 MiB each way, IPv4" -- app "$TOOLS/pattern" both -B -t 60 "$NET4" 9004 2M
    check "$1: 2 MiB each way, IPv6" -- app "$TOOLS/pattern" both -B -t 60 "$NET6" 9004 2M
    check "$1: 20 more, IPv4" -- app "$TOOLS/load" conn -n 20 -c 4 "$NET4" 9003
    check "$1: 20 more, IPv6" -- app "$TOOLS/load" conn -n 20 -c 4 "$NET6" 9003
    is "$(seen "$NET4" 1) $(seen "$NET6" 1)" "connect=ECONNREFUSED connect=ECONNREFUSED" "$1: refused by the proxy"
    is "$(seen "$NOBODY4" 1) $(seen "$NOBODY6" 1)" "connect=EHOSTUNREACH connect=EHOSTUNREACH" "$1: unreachable, says the proxy"
    is "$(relayed) $(($(st granted) - granted))" "0 44" "$1: all of them stitched"
    num $(($(st again) - again)) -lt 10 "$1: and at once"
    is "$(st error)" 0 "$1: no packet that could not be made"
}

# closed WHAT FAR-DEVICE: the keeper is stopped, so the device has no filters.
closed() {
    local four six
    app timeout 20 "$TOOLS/who" "$NET6" 9000 >"$TMP/closed6" 2>&1 &
    six=$!
    forget_packets
    four=$(seen "$NET4" 9000)
    wait $six
    is "$four $(<"$TMP/closed6") $(came_by "$2")" "connect=ETIMEDOUT connect=ETIMEDOUT 0" "$1: without filters not even a SYN"
}

# over WHAT DEVICE FAR-DEVICE N: both devices are there, since the keeper was stopped.
over() {
    addressed "$2" "$3" "$4" || bail "routes over $1"
    closed "$1" "$3"
    kill -CONT "${PID[undersock]}"
    wait_for 10 is_filtered "$2" || not_ok "$1: there are no filters on $2"
    forget_packets
    carries "$1"
    num "$(came_by "$3")" -gt 100 "$1: they came by $3"
}
hush() { kill -STOP "${PID[undersock]}"; }
can() { # DEVICE WHAT ip-link-arguments: whether this kernel makes such a device; a skip if not
    if ns client ip link add "$1" "${@:3}" 2>"$TMP/can"; then
        return 0
    fi
    skip "$2" "this kernel has no $2 ($(tail -n 1 "$TMP/can"))"
    return 1
}
gone() { # DEVICE...: of both sides
    local d
    for d; do
        ns client ip link del "$d" 2>/dev/null
        ns proxy ip link del "$d" 2>/dev/null
    done
    kill -CONT "${PID[undersock]}"
}

route up0 down0 "$PROXY4" "$CLIENT4" "$PROXY6" "$CLIENT6"
us_daemon client <<CONF
fast-path = "stitch"
upstream "four" { url = "socks5://$SERVER4:1080" }
upstream "six" { url = "socks5://[$SERVER6]:1080" }
upstream "slow4" { url = "socks5://$SERVER4:1081" }
upstream "slow6" { url = "socks5://[$SERVER6]:1081" }
$(for u in slow4 slow6 four six; do
    echo "capture \"$u\" { hook = \"cgroup\" cgroup = \"/$US-app\" upstream = \"$u\" udp = \"bypass\" dns = \"bypass\""
    [[ $u == *6 || $u == six ]] && echo "to = { \"$NET6_PREFIX\" }" || echo "to = { \"$NET4_PREFIX\" }"
    [[ $u == slow* ]] && echo 'tcp-ports = { "9005" }'
    echo '}'
done)
CONF
is "$(us_status undersock "[c['stitched'] for c in s['captures']]")" "[True, True, True, True]" "the captures are stitched"
carries "veth"

# --- without an Ethernet header
hush
start tun -- "$TOOLS/tunnel" "/run/netns/$US-client" tun0 "/run/netns/$US-proxy" tun0
if wait_log tun ready 5; then
    over "tun" tun0 tun0 1
    stop tun
    # One that does not say what its packets begin with.
    hush
    rm -f "${LOG[tun]}"
    start tun -- "$TOOLS/tunnel" -T 32 "/run/netns/$US-client" odd0 "/run/netns/$US-proxy" odd0
    wait_log tun ready 5
    addressed odd0 odd0 2
    closed "a link type that nobody knows" odd0
    gone odd0
    stop tun
    rm -f "${LOG[tun]}"
    # And with one.
    hush
    start tun -- "$TOOLS/tunnel" -t "/run/netns/$US-client" tap0 "/run/netns/$US-proxy" tap0
    wait_log tun ready 5
    over "tap" tap0 tap0 3
    stop tun
else
    skip "tun and tap" "there is no /dev/net/tun here (or no tun module)"
    kill -CONT "${PID[undersock]}"
fi

# --- upon others
hush
if can br0 "bridge" type bridge; then
    ip link add port0 netns "$US-client" type veth peer name port0 netns "$US-proxy" || bail "veth"
    ns client ip link set port0 master br0 up
    over "a bridge with a veth as its port" br0 port0 4
fi
gone br0 port0
hush
if can mv0 "macvlan" link up0 type macvlan mode bridge; then
    over "macvlan" mv0 down0 5
fi
gone mv0
ns proxy ip addr flush dev down0 to 10.78.5.1/24
hush
if can vlan5 "VLAN interfaces" link up0 type vlan id 5; then
    ns proxy ip link add vlan5 link down0 type vlan id 5
    over "VLAN" vlan5 vlan5 6
    hush
    ns client ip link add vlan5.7 link vlan5 type vlan id 7
    ns proxy ip link add vlan5.7 link vlan5 type vlan id 7
    over "VLAN in VLAN" vlan5.7 vlan5.7 7
    ns client ip link del vlan5.7
fi
gone vlan5
hush
if can bond0 "bond" type bond mode active-backup miimon 50; then
    for i in 0 1; do
        ip link add port$i netns "$US-client" type veth peer name port$i netns "$US-proxy" || bail "veth"
        ns client ip link set port$i master bond0
        ns client ip link set port$i up
    done
    ns proxy ip link add bond0 type bridge
    for i in 0 1; do ns proxy ip link set port$i master bond0 up; done
    over "bond" bond0 bond0 8
    ns client ip link set port0 down
    carries "bond, one of its two links is down"
fi
gone bond0 port0 port1
hush
if can ipvl0 "ipvlan" link up0 type ipvlan mode l2; then
    # It takes only what is for an address of its own: an ARP reply to HERE4, which is lo's, is not.
    ns client sh -c 'echo 2 >/proc/sys/net/ipv4/conf/ipvl0/arp_announce'
    over "ipvlan" ipvl0 down0 9
fi
gone ipvl0
ns proxy ip addr flush dev down0 to 10.78.9.1/24

# --- around others: what goes out by the device below is not TCP
wraps() { # NAME WHAT N LOCAL REMOTE ip-link-arguments..., in which LOCAL and REMOTE stand for addresses
    local name=$1 what=$2 n=$3 here=$4 far=$5 a out=() back=()
    shift 5
    for a; do
        case $a in
        LOCAL) out+=("$here") back+=("$far") ;;
        REMOTE) out+=("$far") back+=("$here") ;;
        *) out+=("$a") back+=("$a") ;;
        esac
    done
    hush
    if can "$name" "$what" "${out[@]}"; then
        ns proxy ip link add "$name" "${back[@]}" || bail "$what"
        over "$what" "$name" "$name" "$n"
    fi
    gone "$name"
}
wraps vx0 "VXLAN" 10 "$CLIENT4" "$PROXY4" type vxlan id 7 local LOCAL remote REMOTE dstport 4789
wraps vx6 "VXLAN over IPv6" 11 "$CLIENT6" "$PROXY6" type vxlan id 8 local LOCAL remote REMOTE dstport 4790 udp6zerocsumtx udp6zerocsumrx
wraps gre1 "GRE" 12 "$CLIENT4" "$PROXY4" type gre local LOCAL remote REMOTE ttl 64
wraps sit1 "SIT" 13 "$CLIENT4" "$PROXY4" type sit mode any local LOCAL remote REMOTE ttl 64
wraps tnl6 "IP in IPv6" 14 "$CLIENT6" "$PROXY6" type ip6tnl mode any local LOCAL remote REMOTE
wraps gen0 "GENEVE" 15 "$CLIENT4" "$PROXY4" type geneve id 9 remote REMOTE
hush
if command -v wg >/dev/null; then
    if can wg0 "WireGuard" type wireguard; then
        ns proxy ip link add wg0 type wireguard
        for n in client proxy; do
            (umask 077 && wg genkey >"$TMP/wg.$n")
            wg pubkey <"$TMP/wg.$n" >"$TMP/wg.$n.pub"
        done
        ns client wg set wg0 private-key "$TMP/wg.client" listen-port 51820 \
            peer "$(<"$TMP/wg.proxy.pub")" endpoint "$PROXY4:51820" allowed-ips 0.0.0.0/0,::/0
        ns proxy wg set wg0 private-key "$TMP/wg.proxy" listen-port 51820 \
            peer "$(<"$TMP/wg.client.pub")" endpoint "$CLIENT4:51820" allowed-ips 0.0.0.0/0,::/0
        over "WireGuard" wg0 wg0 16
    fi
else
    skip "WireGuard" "wg is not installed"
fi
gone wg0

# --- several uplinks
ip link add up1 netns "$US-client" type veth peer name down1 netns "$US-proxy" || bail "veth"
addressed up1 down1 17
wait_for 10 is_filtered up1
by0() { route up0 down0 "$PROXY4" "$CLIENT4" "$PROXY6" "$CLIENT6"; }
by1() { route up1 down1 10.78.17.1 10.78.17.2 fd78:17::1 fd78:17::2; }
forget_packets
carries "another uplink"
num "$(came_by down0)" -eq 0 "none of it by the first"
by0
forget_packets
carries "the first one again"
num "$(came_by down1)" -eq 0 "none of it by the other"

# In the middle of a handshake, whose messages take turns of 200 ms.
begun_is() { test "$(st begun)" -ge "$1"; }
moves() { # WHAT COMMAND...: after their first SYNs
    local what=$1 begun granted
    shift
    begun=$(st begun) granted=$(st granted)
    for f in 4 6; do
        local to=NET$f
        start move$f -- cg app ns client "$TOOLS/connects" -r 6 -c 1 -t 40 "${!to}" 9005
    done
    wait_for 10 begun_is $((begun + 2)) || not_ok "$what: they have begun"
    sleep 0.1
    "$@"
    ended move4 40
    ended move6 40
    is "$(sed 's/ [0-9]*$//' "${LOG[move4]}" "${LOG[move6]}" | paste -sd ' ') $(($(st granted) - granted))" "9005 OK 9005 OK 2" "$what"
    rm -f "${LOG[move4]}" "${LOG[move6]}"
}
start late4 -- ns net python3 -c 'import socket, threading
def one(c):
    f = c.makefile("rb")
    name = c.getsockname()
    while line := f.readline():
        host = name[0].removeprefix("::ffff:")
        c.sendall(b"%s:%d %d\n" % ((b"[%s]" if ":" in host else b"%s") % host.encode(), name[1], len(line)))
s = socket.create_server(("::", 9005), family=socket.AF_INET6, dualstack_ipv6=True)
while True: threading.Thread(target=one, args=(s.accept()[0],), daemon=True).start()'
wait_port net tcp :: 9005
moves "a handshake on one way"  true
moves "the route moves in the middle of a handshake" by1
down() { ns client ip link set up1 down; by0; }
moves "an uplink goes in the middle of a handshake" down
ns client ip link set up1 up
ns_addresses client up1 "fd78:17::2/64" 2>/dev/null

# --- policy routing: the other uplink for some
rules() { # add|del SELECTOR...
    ns client ip rule "$1" priority 100 "${@:2}" lookup 117
    ns client ip -6 rule "$1" priority 100 "${@:2}" lookup 117
}
ns client ip route add "$SERVER4/32" via 10.78.17.1 dev up1 src "$HERE4" table 117
ns client ip -6 route add "$SERVER6/128" via fd78:17::1 dev up1 src "$HERE6" table 117
# A neighbour must not be found where the route does not lead.
ns client ip neigh flush all
policy() { # WHAT who-OPTION... -- SELECTOR...
    local what=$1 options=() again
    shift
    while [[ $1 != -- ]]; do options+=("$1"); shift; done
    shift
    rules add "$@"
    forget_packets
    again=$(st again)
    is "$(seen "${options[@]}" "$NET4" 9000) $(seen "${options[@]}" "$NET6" 9000)" "$EXIT4 $EXIT6" "$what: through the proxy"
    check "$what: 20 more, IPv4" -- app "${AS[@]}" "$TOOLS/load" conn -n 20 -c 4 "$NET4" 9003
    num "$(came_by down1)" -gt 0 "$what: by the other uplink"
    [[ ${options[*]} ]] || is "$(came_by down0)" 0 "$what: and by no other"
    num $(($(st again) - again)) -lt 6 "$what: at once"
    rules del "$@"
}
AS=()
policy "ip rule: a mark" -m 0x51 -- fwmark 0x51
policy "ip rule: the source" -- from all iif lo
policy "ip rule: a port" -- ipproto tcp dport 1080
install -m 755 "$TOOLS/who" "$TOOLS/load" "$TMP" || bail "install"
seen() { app setpriv --reuid 41001 --clear-groups --inh-caps=-all timeout 20 "$TMP/who" "$@" 2>&1; }
AS=(setpriv --reuid 41001 --clear-groups --inh-caps=-all)
TOOLS=$TMP policy "ip rule: a user" -- uidrange 41001-41001
seen() { app timeout 20 "$TOOLS/who" "$@" 2>&1; }

# --- another name, another namespace and back
ns client ip link set up1 down
ns client ip link set up1 name renamed1
ns client ip link set renamed1 up
addressed renamed1 down1 18
forget_packets
carries "an interface with another name"
num "$(came_by down1)" -gt 100 "it was that interface"
by0
ns client ip link set renamed1 netns "$US-net"
check "an interface that has left is forgotten" -- seen "$NET4" 9000
hush
ns net ip link set renamed1 netns "$US-client"
addressed renamed1 down1 19
over_again() {
    closed "an interface that comes back" down1
    kill -CONT "${PID[undersock]}"
    wait_for 10 is_filtered renamed1
    carries "an interface that comes back"
}
over_again
ns client ip link del renamed1
by0
carries "the first uplink, after all of them"

# --- the end
is "$(relayed)" 0 "nothing was relayed in all this"
is "$(leaks sink)" 0 "no byte came from the client itself"
bounded 20 "$UNDERSOCK" stop -s "$TMP/undersock.sock"
check "stopped" -- wait_for 10 has_ended undersock
is "$(for d in $(ns client sh -c 'ls /proc/sys/net/ipv4/conf' | grep -vE '^(all|default)$'); do ns client tc qdisc show dev "$d"; done | grep -c clsact)" 0 "no qdisc is left on any interface"
done_testing
