#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Which traffic, and where to: several captures of every hook at once, each with its own upstream, the
# first that matches wins; marks of the administrator's own ruleset; connections that are older than
# the rules, kept or reset.
. "$(dirname "$0")/lib.sh"
. "$LIB_DIR/lan.sh"

need python3 nft setpriv
topology
lan
cg_new app
net_who 9000
start who2 -- ns net "$TOOLS/who" serve 9001
start load -- ns net "$TOOLS/load" server :: 9003
start load2 -- ns net "$TOOLS/load" server :: 9004
for p in 9001 9003 9004; do wait_port net tcp :: $p; done
# Three upstreams, and the target sees which: the proxy's own address, one's, two's.
peer_serve proxy "$PROXY4" 1080
PEER_NAME=serve-one peer_serve one "$ONE4" 1080
PEER_NAME=serve-two peer_serve two "$TWO6" 1080
install -m 755 "$TOOLS/who" "$TOOLS/load" "$TMP" || bail "install"
UID_A=41001 UID_B=41002
CONF=$TMP/undersock.conf

upstreams() {
    cat <<-CONF
	control = "$TMP/undersock.sock"
	workers = 2
	upstream "proxy" { url = "socks5://$PROXY4:1080" }
	upstream "one"   { url = "socks5://$ONE4:1080" }
	upstream "two"   { url = "socks5://[$TWO6]:1080" }
	CONF
}
capture() { # NAME HOOK UPSTREAM KEY...
    echo "capture \"$1\" {"
    echo "    hook = \"$2\""
    echo "    upstream = \"$3\""
    [[ $2 == cgroup ]] && echo "    cgroup = \"/$US-app\""
    printf '    %s\n' "${@:4}"
    echo '}'
}
reload() { # the captures on standard input
    { upstreams; cat; } >"$CONF"
    us_reload undersock || bail "reload"
}
# A reload keeps the listeners of captures that stay; `rules` has the ports of a new start.
same_rules() {
    is "$(installed_rules client | without_seats | without_ports)" \
        "$(ns client "$UNDERSOCK" rules -c "$CONF" | without_seats | without_ports)" "rules prints what is installed: $1"
}
without_ports() { sed -E 's/61[0-9]{3}/PORT/g; s/(0x5553|5553:)8[23][0-9a-f]{2}/EARLY/g; s/( . PORT,).* . SEAT/\1 SEAT/'; }
seen() { ns client "$TMP/who" "$@"; }
seen_as() { ns client setpriv --reuid "$1" --regid "$1" --clear-groups --inh-caps=-all "$TMP/who" "${@:2}"; }
seen_app() { ns client cg app "$TMP/who" "$@"; }
# both CMD... PORT: from both families.
both() { echo "$("${@:1:$#-1}" "$NET4" "${!#}") $("${@:1:$#-1}" "$NET6" "${!#}")"; }
VIA_PROXY="$EXIT4 $EXIT6" VIA_ONE="$ONE4 $ONE6" VIA_TWO="$TWO4 $TWO6" DIRECT="$CLIENT4 $CLIENT6"
NONE="connect=ECONNREFUSED connect=ECONNREFUSED"

# --- this host: the first match wins
ports() { capture ports output one 'tcp-ports = { "9001" }'; }
places() { capture places output two 'to = { "203.0.113.11", "2001:db8:113::11" }'; }
user() { capture user output direct "uid = { \"$UID_A\" }"; }
other() { capture other output refuse "uid = { \"$UID_B\" }"; }
rest() { capture rest output proxy; }
{ upstreams; ports; places; user; other; rest; } >"$TMP/first.conf"
us_daemon client <"$TMP/first.conf"
same_rules "five captures"
is "$(both seen 9000)" "$VIA_PROXY" "what matches nothing else: the last capture's upstream"
is "$(both seen 9001)" "$VIA_ONE" "a port: its capture's upstream"
is "$(seen 203.0.113.11 9000) $(seen 2001:db8:113::11 9000)" "$VIA_TWO" "a destination: its capture's upstream"
is "$(seen 203.0.113.11 9001) $(seen 2001:db8:113::11 9001)" "$VIA_ONE" "both: that of the first"
is "$(both seen_as $UID_A 9000)" "$DIRECT" "a user: direct"
is "$(both seen_as $UID_A 9001)" "$VIA_ONE" "that user at that port: the first again"
is "$(both seen_as $UID_B 9000)" "$NONE" "another user: refused"
is "$(both seen_as $UID_B 9001)" "$VIA_ONE" "but not at that port"
{ user; other; places; ports; rest; } | reload
same_rules "in another order"
is "$(both seen_as $UID_A 9001)" "$DIRECT" "in another order: the user is first now"
is "$(both seen_as $UID_B 9001)" "$NONE" "so is the other one"
is "$(seen 203.0.113.11 9001) $(seen 2001:db8:113::11 9001)" "$VIA_TWO" "and the destination goes before the port"
is "$(both seen 9001)" "$VIA_ONE" "the port is itself still"
{ ports; capture rest output proxy 'not-to = { "203.0.113.0/24" }'; } | reload
is "$(both seen 9000)" "$CLIENT4 $EXIT6" "not-to of one family leaves the other"
is "$(both seen 9001)" "$VIA_ONE" "and is only of its own capture"

# --- every hook at once
everything() {
    capture c-ports cgroup two 'tcp-ports = { "9001" }'
    capture c-rest cgroup one
    capture o-ports output one 'tcp-ports = { "9001" }'
    capture o-rest output proxy
    capture g-guest gateway two 'interfaces = { "guest0" }' 'tcp-ports = { "9001" }'
    capture g-rest gateway proxy 'interfaces = { "guest0" }'
}
everything | reload
same_rules "every hook"
seen_guest() { ns guest "$TMP/who" "$@"; }
is "$(both seen_app 9000) $(both seen_app 9001)" "$VIA_ONE $VIA_TWO" "in the cgroup: by its captures alone"
is "$(both seen 9000) $(both seen 9001)" "$VIA_PROXY $VIA_ONE" "on the host: by its own"
is "$(both seen_guest 9000) $(both seen_guest 9001)" "$VIA_PROXY $VIA_TWO" "forwarded: by the gateway's"
hold() { # NAME PORT CMD...
    mkfifo -m 666 "$TMP/$1.in"
    start "$1" -- "${@:3}" sh -c "exec '$TMP/load' hold -n 3 $NET4 $2 <>'$TMP/$1.in'"
    wait_log "$1" '"phase": "open", "want": 3, "open": 3' 20 || bail "$1 does not stand"
}
# release NAME OPEN DESCRIPTION: so many answer once more; the others are reset.
release() {
    kill -s USR1 "${PID[$1]}"
    wait_exit "$1" 30
    like "$(tail -n 1 "${LOG[$1]}")" "\"phase\": \"end\", .*\"open\": $2, .*\"errors\": \\{(\"(ECONNRESET|EPIPE)\": [0-9]+(, )?)*\\}" "$3"
    stop "$1"
    rm -f "${LOG[$1]}" "$TMP/$1.in"
}
hold h-app 9003 ns client cg app
hold h-host 9003 ns client
hold h-guest 9003 ns guest
# What is stitched has the address that leads to the upstream.
is "$(us_flows undersock 'sorted(set((f["capture"], f["upstream"], "127.0.0.1" if f["engine"] == "stitch" else f["client"].rsplit(":", 1)[0]) for f in s))' | sed "s/'127[0-9.]*'/'$CLIENT4'/")" \
    "[('c-rest', 'one', '$CLIENT4'), ('g-rest', 'proxy', '$GUEST4'), ('o-rest', 'proxy', '$CLIENT4')]" "flows names capture and upstream of each"
capture o-rest output two | reload
is "$(both seen 9000)" "$VIA_TWO" "another upstream by reload"
release h-app 3 "flows of a capture that is gone go on (cgroup)"
release h-host 3 "flows of before go on (output)"
release h-guest 3 "flows of a capture that is gone go on (gateway)"

# --- marks
# The administrator's own chains, on standard input. nft looks for cgroups in one place only.
admin() {
    ns client nft delete table inet admin 2>/dev/null
    { echo 'table inet admin {'; cat; echo '}'; } | ns client unshare -m --propagation private sh -c '
        [ "$CGROUP2" = /sys/fs/cgroup ] || mount --bind "$CGROUP2" /sys/fs/cgroup
        exec nft -f -' || bail "the administrator's table"
}
{ capture marked output one 'mark = 0x51'; capture marked-gw gateway two 'mark = 0x51'; } | reload
same_rules "mark"
is "$(both seen 9000) $(both seen_as $UID_A 9000) $(both seen_guest 9000)" "$DIRECT $DIRECT $GUEST4 $GUEST6" "mark: nothing is marked yet"
admin <<-NFT
	chain output {
	    type route hook output priority mangle; policy accept;
	    meta skuid $UID_A meta mark set 0x51
	    meta skuid $UID_B ip daddr 203.0.113.11 meta mark set 0x51
	    meta skuid $UID_B ip6 daddr 2001:db8:113::11 tcp dport 9001 meta mark set 0x51
	    meta skuid 0 tcp dport 9001 meta mark set 0x52
	}
	chain prerouting {
	    type filter hook prerouting priority mangle - 10; policy accept;
	    iifname "guest0" tcp dport 9001 meta mark set 0x51
	}
	NFT
is "$(both seen_as $UID_A 9000)" "$VIA_ONE" "mark: a user whom the administrator's rules mark"
is "$(both seen_as $UID_B 9000)" "$DIRECT" "mark: not another one"
is "$(seen_as $UID_B 203.0.113.11 9000) $(seen_as $UID_B 203.0.113.12 9000)" "$ONE4 $CLIENT4" "mark: a user and a destination"
is "$(seen_as $UID_B 2001:db8:113::11 9001) $(seen_as $UID_B 2001:db8:113::11 9000)" "$ONE6 $CLIENT6" "mark: a user, a destination and a port"
is "$(both seen 9001)" "$DIRECT" "mark: not another mark"
is "$(both seen_guest 9001) $(both seen_guest 9000)" "$VIA_TWO $GUEST4 $GUEST6" "mark: forwarded traffic"
is "$(us_sum undersock refused_loop)" 0 "mark: no loop"
# The administrator's table came after ours; at the next start it is before.
before=$(ns client nft list table inet admin)
stop undersock
cp "$CONF" "$TMP/again"
us_daemon client <"$TMP/again"
is "$(both seen_as $UID_A 9000) $(both seen_as $UID_B 9000)" "$VIA_ONE $DIRECT" "mark: whichever of the two tables was first"
is "$(both seen_guest 9001) $(both seen_guest 9000)" "$VIA_TWO $GUEST4 $GUEST6" "mark: forwarded traffic too"
is "$(ns client nft list table inet admin)" "$before" "the administrator's table is untouched"
admin <<-NFT
	chain output {
	    type filter hook output priority -130; policy accept;
	    socket cgroupv2 level 1 "$US-app" meta mark set 0x51
	}
	NFT
is "$(both seen_app 9000) $(both seen 9000)" "$VIA_ONE $DIRECT" "mark: a cgroup"
stop undersock
ns client nft delete table inet admin

# --- connections that are older than the rules
# A firewall tracks them; without one nobody would know them.
ns client nft -f - <<-'NFT'
	table inet admin {
	    chain input {
	        type filter hook input priority 0; policy accept;
	        ct state invalid drop
	    }
	    chain forward {
	        type filter hook forward priority 0; policy accept;
	        ct state invalid drop
	    }
	}
	NFT
older() {
    hold old-host 9003 ns client
    hold old-port 9004 ns client
    hold old-user 9003 ns client setpriv --reuid $UID_A --regid $UID_A --clear-groups --inh-caps=-all
    hold old-lan 9003 ns one
    hold old-guest 9003 ns guest
}
old() { # KEY...
    capture host output proxy 'tcp-ports = { "9000-9003" }' "not-uid = { \"$UID_A\" }" "$@"
    capture lan gateway proxy 'tcp-ports = { "9000-9003" }' 'interfaces = { "br-lan" }' "$@"
}
older
us_daemon client < <(upstreams; old)
is "$(both seen 9000) $(both ns one "$TMP/who" 9000)" "$VIA_PROXY $VIA_PROXY" "established = keep: new connections go through the proxy"
for n in host port user lan guest; do release old-$n 3 "established = keep: connections from before go on (old-$n)"; done
is "$(us_flows undersock 'len(s)')" 0 "established = keep: directly"
stop undersock

older
us_daemon client < <(upstreams; old 'established = "reset"')
is "$(both seen 9000) $(both ns one "$TMP/who" 9000)" "$VIA_PROXY $VIA_PROXY" "established = reset: new connections go through the proxy"
release old-host 0 "established = reset: those that are selected are reset (output)"
release old-lan 0 "established = reset: those that are selected are reset (gateway)"
release old-port 3 "established = reset: another port goes on"
release old-user 3 "established = reset: a user who is not selected goes on"
release old-guest 3 "established = reset: another interface goes on"
# Those of the daemon itself are younger than its rules, and a reload makes them no older.
hold new-host 9003 ns client
hold new-lan 9003 ns one
check "a reload" -- us_reload undersock
release new-host 3 "established = reset: a reload resets nothing that goes through us (output)"
release new-lan 3 "established = reset: a reload resets nothing that goes through us (gateway)"
done_testing
