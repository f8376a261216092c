#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 600
#
# hook = "gateway": what a LAN sends through this host goes through the proxy, by TPROXY, both
# families; what is excluded, comes in by another interface or is for the gateway itself does not.
# 4 GiB are compared byte for byte, 1,000 flows stand at once, a reload under load loses nothing, and
# the rules of firewalls and of containers stay as they are.
#
# UNDERSOCK_BULK=SIZE instead of 4 GiB.
. "$(dirname "$0")/lib.sh"
. "$LIB_DIR/lan.sh"

need python3 nft
topology
lan
net_who 9000
start who2 -- ns net "$TOOLS/who" serve 9004
start near -- ns proxy "$TOOLS/who" serve 9002
start gate -- ns client "$TOOLS/who" serve 22
start pattern -- ns net "$TOOLS/pattern" serve -t 0 :: 9001
start load -- ns net "$TOOLS/load" server :: 9003
for p in 9001 9003 9004; do wait_port net tcp :: $p; done
wait_port proxy tcp :: 9002
wait_port client tcp :: 22
# Addresses of the gateway that no default exclusion covers, and a second one that has port 9000 too.
ns_addresses client lo "198.51.100.1/32 2001:db8:51::1/128"
peer_serve proxy "$PROXY4" 1080
BULK=${UNDERSOCK_BULK:-4G}
CONF=$TMP/undersock.conf

config() { # KEYS-OF-THE-CAPTURE...
    echo "control = \"$TMP/undersock.sock\""
    echo 'workers = 2'
    echo "upstream \"proxy\" { url = \"socks5://$PROXY4:1080\" }"
    echo 'capture "lan" {'
    echo '    hook = "gateway"'
    echo '    upstream = "proxy"'
    printf '    %s\n' "$@"
    echo '}'
}
selection() {
    config "$@" >"$CONF"
    us_reload undersock || bail "reload: $*"
}
seen() { ns "$1" "$TOOLS/who" "${@:2}"; }
both_seen() { echo "$(seen "$1" "$NET4" "${2:-9000}") $(seen "$1" "$NET6" "${2:-9000}")"; }
# Word for word after a start; a reload has other seats.
same_rules() { # DESCRIPTION [FILTER]
    is "$(installed_rules client | ${2:-without_seats})" \
        "$(ns client "$UNDERSOCK" rules -c "$CONF" | ${2:-without_seats})" "rules prints what is installed: $1"
}
policy_routes() {
    ns client ip rule; ns client ip -6 rule
    ns client ip route show table all; ns client ip -6 route show table all
}

# --- it comes up
tables=$(tables_of client)
routes=$(policy_routes)
is "$(both_seen one)" "$ONE4 $ONE6" "without us the target sees the client"
us_daemon client < <(config)
is "$(tables_of client)" "$tables${tables:+ }table inet undersock" "it has one nft table"
isnt "$(policy_routes)" "$routes" "and its policy routes"
same_rules "no selection" cat
is "$(seen one -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "IPv4: through the proxy, the client is connected to what it asked for"
is "$(seen one -p "$NET6" 9000)" "$EXIT6 peer=[$NET6]:9000" "IPv6: through the proxy, the client is connected to what it asked for"
is "$(both_seen two)" "$EXIT4 $EXIT6" "a second client"
is "$(both_seen guest)" "$EXIT4 $EXIT6" "and one at another interface"

# --- whose flows they are
hold() { # NAME NS COUNT ADDR
    mkfifo "$TMP/$1.in" 2>/dev/null
    start "$1" -- ns "$2" sh -c "exec '$TOOLS/load' hold -c 100 -n $3 $4 9003 <>'$TMP/$1.in'"
}
held() { # NAME COUNT
    wait_log "$1" '"phase": "open"' 60
    like "$(grep '"open"' "${LOG[$1]}")" "\"want\": $2, \"open\": $2, .*\"errors\": \\{\\}" "$1: $2 flows stand"
}
release() { # NAME COUNT DESCRIPTION
    kill -s USR1 "${PID[$1]}"
    wait_exit "$1" 60
    like "$(grep '"end"' "${LOG[$1]}")" "\"open\": $2, .*\"errors\": \\{\\}" "$3"
    stop "$1"
    rm -f "${LOG[$1]}"
}
by_client() { us_flows undersock '" ".join(sorted("%s>%s" % (f["client"].rsplit(":", 1)[0], f["destination"]) for f in s))'; }
hold one4 one 1 "$NET4"
hold two4 two 1 "$NET4"
hold one6 one 1 "$NET6"
hold two6 two 1 "$NET6"
for n in one4 two4 one6 two6; do held $n 1; done
is "$(by_client)" "$ONE4>$NET4:9003 $TWO4>$NET4:9003 [$ONE6]>[$NET6]:9003 [$TWO6]>[$NET6]:9003" \
    "flows --json: each with its own client and destination"
is "$(us_flows undersock 'set((f["capture"], f["upstream"], f["uid"], f["pid"]) for f in s)')" \
    "{('lan', 'proxy', None, None)}" "whose process it is cannot be known: null"
for n in one4 two4 one6 two6; do release $n 1 "$n works"; done

# --- what is never taken
before=$(us_serving undersock accepted)
is "$(seen one "$PROXY4" 9002) $(seen one "$PROXY6" 9002)" "$ONE4 $ONE6" "a private destination goes direct"
is "$(seen one "$TWO4" 9000) $(seen guest "$ONE6" 9000)" "connect=ECONNREFUSED connect=ECONNREFUSED" "and within the LAN"
GATEWAYS=("$LAN4" "$LAN6" "$CLIENT4" "$CLIENT6" 198.51.100.1 2001:db8:51::1)
own() { for a in "${GATEWAYS[@]}"; do seen one "$a" 22; done | sort -u | paste -sd ' '; }
is "$(own)" "$ONE4 $ONE6" "port 22 of the gateway itself, at each of its addresses: untouched"
is "$(seen client "$NET4" 9000) $(seen client "$NET6" 9000)" "$CLIENT4 $CLIENT6" "what the gateway itself sends goes direct"
is "$(ns one curl -qsS --max-time 20 -x "socks5://$PROXY4:1080" "http://$NET4:9000/")" "$EXIT4" "a client that speaks to the proxy itself can"
is "$(us_serving undersock accepted)" "$before" "the daemon has seen none of these"

# --- selection
selection 'private = true'
same_rules "private"
is "$(seen one "$PROXY4" 9002) $(seen one "$PROXY6" 9002)" "$PROXY4 $PROXY6" "private = true: through the proxy"
is "$(own)" "$ONE4 $ONE6" "private = true: the gateway's own addresses are untouched still"
is "$(both_seen one)" "$EXIT4 $EXIT6" "private = true: all the rest as before"
selection 'interfaces = { "br-lan" }'
same_rules "interfaces"
is "$(both_seen one) $(both_seen two)" "$EXIT4 $EXIT6 $EXIT4 $EXIT6" "interfaces: a bridge"
is "$(both_seen guest)" "$GUEST4 $GUEST6" "interfaces: not another one"
selection 'interfaces = { "guest0", "nosuch0" }'
is "$(both_seen one) $(both_seen guest)" "$ONE4 $ONE6 $EXIT4 $EXIT6" "interfaces: the other way round, one that is not there beside it"
selection 'not-to = { "203.0.113.12/31", "2001:db8:113::12" }' 'tcp-ports = { "9000-9003" }'
same_rules "not-to, tcp-ports"
is "$(seen one 203.0.113.13 9000) $(seen one 2001:db8:113::12 9000)" "$ONE4 $ONE6" "not-to: an excluded destination goes direct"
is "$(both_seen one)" "$EXIT4 $EXIT6" "not-to: others do not"
is "$(both_seen one 9004)" "$ONE4 $ONE6" "tcp-ports: other ports go direct"
selection 'to = { "203.0.113.11", "2001:db8:113::10/127" }'
same_rules "to"
is "$(seen one 203.0.113.11 9000) $(seen one 203.0.113.12 9000)" "$EXIT4 $ONE4" "to (IPv4)"
is "$(seen one 2001:db8:113::11 9000) $(seen one 2001:db8:113::12 9000)" "$EXIT6 $ONE6" "to (IPv6)"

# --- VLANs
if ns client ip link add link guest0 name guest0.7 type vlan id 7 2>/dev/null; then
    ns_addresses client guest0.7 "10.77.7.1/24 fd77:7::1/64"
    ns client ip link set guest0.7 up
    ns guest ip link add link eth0 name eth0.7 type vlan id 7
    ns_addresses guest eth0.7 "10.77.7.13/24 fd77:7::13/64"
    ns guest ip link set eth0.7 up
    ns guest ip route add 203.0.113.11/32 via 10.77.7.1
    ns guest ip -6 route add 2001:db8:113::11/128 via fd77:7::1
    ns proxy ip route add 10.77.7.0/24 via "$CLIENT4"
    ns proxy ip -6 route add fd77:7::/64 via "$CLIENT6"
    selection 'interfaces = { "guest0.7" }'
    is "$(seen guest 203.0.113.11 9000) $(seen guest 2001:db8:113::11 9000)" "$EXIT4 $EXIT6" "interfaces: a VLAN"
    is "$(both_seen guest)" "$GUEST4 $GUEST6" "interfaces: not the untagged traffic below it"
else
    skip "interfaces: a VLAN" "this kernel has no VLAN interfaces" 2
fi

# --- much at once
selection 'interfaces = { "br-lan" }'
: >"${LOG[who]}"
for f in 4 6; do
    target=$NET4
    [[ $f == 6 ]] && target=$NET6
    hold one 'one' 500 $target
    hold two 'two' 500 $target
    held one 500
    held two 500
    is "$(us_flows undersock 'len(s), len(set(f["client"] for f in s)), len(set(f["client"].rsplit(":", 1)[0] for f in s))')" \
        "(1000, 1000, 2)" "IPv$f: 1,000 flows at once, each of its own"
    release one 500 "IPv$f: each answers once more"
    release two 500 "IPv$f: those of the other client too"
done
check "no flow is left" -- wait_for 20 us_is undersock flows -eq 0
check "IPv4: $BULK each way, byte for byte" -- ns one "$TOOLS/pattern" both -t 500 "$NET4" 9001 "$BULK"
check "IPv6: 4 GiB each way, byte for byte" -- ns two "$TOOLS/pattern" both -t 500 "$NET6" 9001 "$BULK"
is "$(lan_leaks pattern)" 0 "all of it through the proxy"

# --- reload under load
hold held one 50 "$NET4"
held held 50
start bulk -- ns one "$TOOLS/pattern" both -t 100 "$NET6" 9001 256M
start conn4 -- ns two "$TOOLS/load" conn -T 4 -c 8 "$NET4" 9003
start conn6 -- ns one "$TOOLS/load" conn -T 4 -c 8 "$NET6" 9003
watch_forward '{ 9001, 9003 }'
# Other rules every time, and the last word is that everything is selected.
out=''
for ((i = 0; i < 6; i++)); do
    config 'interfaces = { "br-lan" }' "not-to = { \"192.0.2.$i/32\" }" >"$CONF"
    us_reload undersock >/dev/null 2>&1
    out+=$?
    same=$(ns client nft list table inet undersock | grep -c "192.0.2.$i")
    ((same)) || out+='!'
done
is "$out" 000000 "six reloads, each with other rules"
for n in conn4 conn6 bulk; do
    ended $n 100
    is "$ENDED" 0 "$n: under six reloads not one connection was lost ($(tail -n 1 "${LOG[$n]}" | grep -o '"done": [0-9]*'))"
done
release held 50 "the flows that stood before them work"
is "$(passed_by)" 0 "not one packet went around the proxy"
check "the old workers go" -- wait_for 20 eval '[[ $(us_workers undersock | wc -w) == 2 ]]'

# --- a second daemon
sed "s#$TMP/undersock.sock#$TMP/second.sock#" "$CONF" >"$TMP/second.conf"
start second -- ns client "$UNDERSOCK" daemon -c "$TMP/second.conf"
ended second 10
is "$ENDED" 1 "a second daemon on this host ends: exit status 1"
is "$(both_seen one)" "$EXIT4 $EXIT6" "and has not harmed the first"

# --- the kernel's own reverse path check, in its strictest form
paths() { ns client sh -c 'for d in all default br-lan up0; do
    echo $1 >/proc/sys/net/ipv4/conf/$d/rp_filter
    echo $1 >/proc/sys/net/ipv4/conf/$d/src_valid_mark; done' sh "$1"; }
paths 1
is "$(both_seen one) $(both_seen guest)" "$EXIT4 $EXIT6 $GUEST4 $GUEST6" "rp_filter = 1 with src_valid_mark = 1: everything as before"
paths 0

# --- other people's rules
foreign() { ns client nft -s list ruleset | sed '/^table inet undersock/,/^}/d'; }
# what_works DESCRIPTION: proxied, excluded and local traffic.
what_works() {
    is "$(both_seen one) $(both_seen two)" "$EXIT4 $EXIT6 $EXIT4 $EXIT6" "$1: the LAN goes through the proxy"
    check "$1: 16 MiB each way, IPv4" -- ns one "$TOOLS/pattern" both -t 20 "$NET4" 9001 16M
    check "$1: 16 MiB each way, IPv6" -- ns two "$TOOLS/pattern" both -t 20 "$NET6" 9001 16M
    check "$1: 500 connections" -- ns two "$TOOLS/load" conn -n 500 -c 8 "$NET4" 9003
}
ns client nft -f - <<'NFT' || bail "rules like firewalld's"
table inet firewalld {
    chain mangle_PREROUTING {
        type filter hook prerouting priority mangle + 10; policy accept;
    }
    chain nat_PREROUTING {
        type nat hook prerouting priority dstnat + 10; policy accept;
    }
    chain nat_POSTROUTING {
        type nat hook postrouting priority srcnat + 10; policy accept;
        oifname "up0" ip saddr 10.77.0.0/16 masquerade
    }
    chain filter_PREROUTING {
        type filter hook prerouting priority filter + 10; policy accept;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy drop;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        meta l4proto { icmp, ipv6-icmp } accept
        iifname "br-lan" accept
        tcp dport 22 accept
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy drop;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        iifname { "br-lan", "guest0" } oifname "up0" accept
        reject with icmpx admin-prohibited
    }
}
NFT
before=$(foreign)
what_works "firewalld's rules, the LAN in a trusted zone"
selection 'interfaces = { "br-lan" }' 'connect = "early"'
what_works "firewalld's rules, connect = early"
is "$(both_seen guest)" "$CLIENT4 $GUEST6" "firewalld's rules: what is not selected goes direct, masqueraded"
is "$(own)" "$ONE4 $ONE6" "firewalld's rules: the gateway can be reached"
us_reload undersock
is "$(foreign)" "$before" "firewalld's rules are what they were"
selection 'interfaces = { "br-lan" }'

# The same check for IPv4, too, and at every place where others might have it.
for p in raw -155 filter 190; do
    ns client nft -f - <<-NFT || bail "a reverse path check"
	table inet rpfilter {
	    chain at_${p#-} {
	        type filter hook prerouting priority $p; policy accept;
	        fib saddr . mark . iif oif missing counter drop
	    }
	}
	NFT
done
what_works "reverse path checks of both families"
ns client nft delete table inet rpfilter
if command -v iptables >/dev/null; then
    for c in iptables ip6tables; do
        ns client $c -w -t raw -A PREROUTING -m rpfilter --invert -j DROP || bail "$c -m rpfilter"
    done
    what_works "iptables -m rpfilter"
    for c in iptables ip6tables; do ns client $c -w -t raw -F PREROUTING; done
    for f in ip ip6; do ns client nft delete table $f raw 2>/dev/null; done # not with iptables-legacy
else
    skip "iptables -m rpfilter" "iptables is not installed" 4
fi

# A zone that lets nothing in: TPROXY brings the packets in by input. They must not leak, and one
# line of the administrator's mends it. A SYN that was held comes in by lo.
ns client nft -f - <<'NFT'
flush chain inet firewalld filter_INPUT
table inet firewalld {
    chain filter_INPUT {
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport 22 accept
        reject with icmpx admin-prohibited
    }
}
NFT
passed_by >/dev/null
is "$(seen one "$NET4" 9000)" "$EXIT4" "a zone that lets nothing in: a SYN that was held is let in"
selection 'interfaces = { "br-lan" }' 'connect = "early"'
like "$(seen one -t 5 "$NET4" 9003)" '^(connect=.*|)$' "a zone that lets nothing in, connect = early: no connection"
is "$(passed_by)" 0 "and not let past"
mark=$(ns client nft list table inet undersock | sed -n 's/.*meta mark set \(0x[0-9a-f]*\) accept.*/\1/p' | head -n 1)
isnt "$mark" "" "the mark of what is brought in can be read from the rules"
ns client nft insert rule inet firewalld filter_INPUT meta mark "$mark" accept
what_works "a zone that lets nothing in but our mark, connect = early"
"$UNDERSOCK" stop -s "$TMP/undersock.sock"
ended undersock 10
us_daemon client < <(config 'interfaces = { "br-lan" }')
ns client nft delete table inet firewalld

# Containers: published ports, masquerading, and a forward chain that drops by default. guest is one.
ns client nft -f - <<NFT || bail "rules like Docker's"
table ip nat {
    chain DOCKER {
        iifname "guest0" return
        iifname != "guest0" tcp dport 8080 dnat to $GUEST4:9000
    }
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump DOCKER
    }
    chain OUTPUT {
        type nat hook output priority -100; policy accept;
        ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER
    }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.77.3.0/24 oifname != "guest0" masquerade
    }
}
table ip filter {
    chain DOCKER-USER {
        iifname "br-lan" accept
        oifname "br-lan" accept
        return
    }
    chain DOCKER {
        ip daddr $GUEST4 iifname != "guest0" oifname "guest0" tcp dport 9000 accept
    }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump DOCKER-USER
        oifname "guest0" ct state established,related accept
        oifname "guest0" jump DOCKER
        iifname "guest0" oifname != "guest0" accept
    }
}
NFT
before=$(foreign)
start container -- ns guest "$TOOLS/who" serve 9000
wait_port guest tcp :: 9000
what_works "Docker's rules"
is "$(seen guest "$NET4" 9000)" "$CLIENT4" "Docker's rules: a container that is not selected goes direct, masqueraded"
is "$(seen one 198.51.100.1 8080) $(seen proxy "$CLIENT4" 8080)" "$ONE4 $PROXY4" "Docker's rules: a published port is reached, from the LAN and from outside"
selection
same_rules "with Docker's beside them"
is "$(both_seen guest)" "$EXIT4 $EXIT6" "Docker's rules: a container that is selected goes through the proxy"
is "$(seen one 198.51.100.1 8080) $(seen proxy "$CLIENT4" 8080)" "$ONE4 $PROXY4" "Docker's rules: its published port is reached still"
is "$(foreign)" "$before" "Docker's rules are what they were"

# --- the end
check "no flow is left" -- wait_for 20 us_is undersock flows -eq 0
is "$(us_status undersock '[sum(w[k] for w in s["workers"]) for k in ("refused_loop", "refused_stray", "refused_full")]')" "[0, 0, 0]" "nothing was refused"
kill -KILL "${PID[undersock]}"
ended undersock 10 2>/dev/null
check "after SIGKILL its table goes with its workers" -- wait_for 15 eval '[[ $(tables_of client) != *undersock* ]]'
is "$(seen one "$NET4" 9000) $(seen one "$NET6" 9000)" "$ONE4 $ONE6" "after SIGKILL the LAN goes direct"
us_daemon client < <(config)
is "$(both_seen one)" "$EXIT4 $EXIT6" "the next start works, whatever was left"
"$UNDERSOCK" stop -s "$TMP/undersock.sock"
ended undersock 10 2>/dev/null
is "$ENDED" 0 "stop: exit status 0"
is "$(foreign)" "$before" "Docker's rules are what they were, to the end"
ns client nft delete table ip nat
ns client nft delete table ip filter
is "$(tables_of client)" "$tables" "our table is gone"
is "$(policy_routes)" "$routes" "our policy routes are gone"
done_testing
