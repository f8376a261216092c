# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# A LAN behind the client of lib.sh, which becomes its gateway. To be read after lib.sh; `lan` after
# `topology`.
#
#     one    10.77.2.11  fd77:2::11  ──┐
#                                      ├── br-lan 10.77.2.1  fd77:2::1 ──┐
#     two    10.77.2.12  fd77:2::12  ──┘                                 client ── up0, as ever
#     guest  10.77.3.13  fd77:3::13  ───── guest0 10.77.3.1  fd77:3::1 ──┘
#
# Nothing translates addresses: what is only forwarded arrives at the target from the address of one,
# two or guest.

ONE4=10.77.2.11    ONE6=fd77:2::11
TWO4=10.77.2.12    TWO6=fd77:2::12
GUEST4=10.77.3.13  GUEST6=fd77:3::13
LAN4=10.77.2.1     LAN6=fd77:2::1
LAN_ADDRESSES="10\.77\.[23]\.[0-9]+|fd77:[23]::[0-9a-f]+"

lan_member() { # NS DEVICE-IN-CLIENT ADDRESSES GATEWAY4 GATEWAY6 [ADDRESSES-IN-CLIENT]
    ns_add "$1"
    ns_link "$1" eth0 "$3" client "$2" "${6:-}"
    ns "$1" ip route add default via "$4"
    ns "$1" ip -6 route add default via "$5"
}

lan() {
    ns client ip link add br-lan type bridge 2>/dev/null || skip_all "this kernel has no bridge"
    # With br_netfilter in between, TPROXY loses its socket: nft/gateway.c, and `doctor` names it.
    ns client sh -c 'for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do
        [ ! -e $f ] || echo 0 >$f; done'
    ns_addresses client br-lan "$LAN4/24 $LAN6/64"
    ns client ip link set br-lan up
    lan_member one lan1 "$ONE4/24 $ONE6/64" "$LAN4" "$LAN6"
    lan_member two lan2 "$TWO4/24 $TWO6/64" "$LAN4" "$LAN6"
    ns client ip link set lan1 master br-lan
    ns client ip link set lan2 master br-lan
    lan_member guest guest0 "$GUEST4/24 $GUEST6/64" 10.77.3.1 fd77:3::1 "10.77.3.1/24 fd77:3::1/64"
    ns_forward client
    ns proxy ip route add 10.77.2.0/23 via "$CLIENT4"
    ns proxy ip -6 route add fd77:2::/31 via "$CLIENT6"
    wait_for 10 lan_carrier || bail "the LAN does not come up"
}

lan_carrier() {
    local n
    command -v ping >/dev/null || return 0
    for n in one two guest; do
        ns $n ping -q -c 1 -W 1 "$NET4" && ns $n ping -q -c 1 -W 1 "$NET6" || return 1
    done
}

# lan_leaks PROCESS...: connections in the logs of these targets (who, pattern) that came from the LAN
# itself and not from the proxy.
lan_leaks() {
    local n
    for n; do grep -hE "peer=\[?(::ffff:)?($LAN_ADDRESSES)(\]|:[0-9]|$)" "${LOG[$n]}"; done | wc -l
}

# watch_forward PORTS: counts, in proxy, the packets to these ports (an nft set) that go around the
# SOCKS server, on the way from client to net. passed_by prints the count and sets it to 0.
watch_forward() {
    ns proxy nft -f - <<-NFT || bail "the counter in proxy"
	table inet watch {
	    counter seen {
	    }
	    chain forward {
	        type filter hook forward priority 0; policy accept;
	        iifname "down0" tcp dport $1 counter name "seen"
	    }
	}
	NFT
}
passed_by() { ns proxy nft reset counter inet watch seen | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
