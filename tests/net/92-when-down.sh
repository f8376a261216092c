#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# when-down, for every hook, while the upstream is gone, silent or unreachable, and when it is back:
# refuse lets nothing past, direct lets the daemon itself connect to the destination. A destination
# that the upstream refuses is no reason for either, nor is an upstream that closes what it takes, as a
# full one does; and no flow that stands changes its way.
. "$(dirname "$0")/lib.sh"
. "$LIB_DIR/lan.sh"

need python3 nft
topology
lan
impatient client one
cg_new app
net_who 9000
start refusing -- ns net "$TOOLS/who" serve 9001
start load -- ns net "$TOOLS/load" server :: 9003
start group -- ns net "$TOOLS/who" serve 9006
for p in 9001 9003 9006; do wait_port net tcp :: $p; done
# What must never come by: 9001 is refused, and nobody listens on 9005.
watch_forward '{ 9001, 9005 }'

captures() { # HOOK [KEY]
    cat <<-CONF
	capture "$1-direct" {
	    hook      = "$1"
	    ${2:-}
	    upstream  = "u"
	    tcp-ports = { "9000", "9003", "9005" }
	    when-down = "direct"
	}
	capture "$1-refuse" {
	    hook      = "$1"
	    ${2:-}
	    upstream  = "u"
	    tcp-ports = { "9001" }
	    when-down = "refuse"
	}
	capture "$1-group" {
	    hook      = "$1"
	    ${2:-}
	    upstream  = "two"
	    tcp-ports = { "9006" }
	    when-down = "direct"
	}
	CONF
}
UPSTREAM=$PROXY4:1080
conf() {
    cat <<-CONF
	control = "$TMP/undersock.sock"
	workers = 1
	upstream "u" {
	    url = "socks5://$UPSTREAM"
	    connect-timeout = "300ms"
	    handshake-timeout = "300ms"
	}
	upstream "spare" {
	    url = "socks5://$PROXY4:1081"
	    connect-timeout = "300ms"
	    handshake-timeout = "300ms"
	}
	group "two" {
	    members = { "u", "spare" }
	}
	CONF
    # Of two captures of this host's connections the nftables one would see the other's too.
    captures cgroup "cgroup = \"/$US-app\""
    captures output "not-uid = { \"41001\" }"
    captures gateway
}
HOOKS=(output cgroup gateway)
within() {
    APP=(ns client)
    [[ $1 == cgroup ]] && APP=(ns client cg app)
    [[ $1 == gateway ]] && APP=(ns one)
}
seen() { "${APP[@]}" "$TOOLS/who" "$@"; }
sees() { # PORT WANT4 WANT6 DESCRIPTION
    is "$(seen "$NET4" "$1") $(seen "$NET6" "$1")" "$2 $3" "$4"
}
REFUSED=connect=ECONNREFUSED
fails() { # PORT DESCRIPTION
    sees "$1" $REFUSED $REFUSED "$2"
}
# The same of every hook at once, for answers that do not come: all_fail ERROR DESCRIPTION after begin_all.
begin_all() { # PORT
    local h
    for h in "${HOOKS[@]}"; do
        within "$h"
        start "all-$h-4" -- "${APP[@]}" "$TOOLS/who" "$NET4" "$1"
        start "all-$h-6" -- "${APP[@]}" "$TOOLS/who" "$NET6" "$1"
    done
}
all_fail() {
    local h f
    for h in "${HOOKS[@]}"; do
        for f in 4 6; do
            wait_exit "all-$h-$f" 10
            is "$(<"${LOG[all-$h-$f]}")" "$1" "$h: $2 (IPv$f)"
            stop "all-$h-$f"
            rm -f "${LOG[all-$h-$f]}"
        done
    done
}
up() {
    PEER_NAME=u peer_serve proxy "$PROXY4" 1080
}
down() { stop u KILL 2>/dev/null; }

# --- all is well
up
PEER_NAME=spare peer_serve proxy "$PROXY4" 1081
us_daemon client < <(conf)
for h in "${HOOKS[@]}"; do
    within "$h"
    sees 9000 "$EXIT4" "$EXIT6" "$h: direct, the upstream is up: through it"
    sees 9001 "$EXIT4" "$EXIT6" "$h: refuse, the upstream is up: through it"
    sees 9006 "$EXIT4" "$EXIT6" "$h: a group that is up: through it"
    fails 9005 "$h: direct, the upstream refuses a destination: it fails"
    sees 9000 "$EXIT4" "$EXIT6" "$h: and the upstream is not taken to be down"
done
is "$(passed_by)" 0 "what the upstream refuses is not tried directly"
# Later it is, and only 9001 must not come by.
ns proxy nft delete table inet watch
watch_forward 9001

# idle NAME: a flow of every hook that stands.
idle() {
    local h
    for h in "${HOOKS[@]}"; do
        within "$h"
        mkfifo "$TMP/$1-$h.in"
        start "$1-$h" -- "${APP[@]}" sh -c "exec '$TOOLS/load' hold -n 5 $NET4 9003 <>'$TMP/$1-$h.in'"
    done
    for h in "${HOOKS[@]}"; do
        wait_log "$1-$h" '"phase": "open", "want": 5, "open": 5' 20 || bail "no idle flows ($h)"
    done
}
ask() { # NAME OPEN DESCRIPTION
    local h
    for h in "${HOOKS[@]}"; do
        kill -s USR1 "${PID[$1-$h]}"
        wait_exit "$1-$h" 30
        like "$(tail -n 1 "${LOG[$1-$h]}")" "\"phase\": \"end\", .*\"open\": $2," "$h: $3"
        stop "$1-$h"
        rm -f "${LOG[$1-$h]}"
    done
}

# is_down HOW ERROR: what each capture does then; where it refuses, connect() fails with this error.
is_down() {
    begin_all 9001
    for h in "${HOOKS[@]}"; do
        within "$h"
        sees 9000 "$CLIENT4" "$CLIENT6" "$h: direct, the upstream $1: the daemon connects"
        check "$h: direct, the upstream $1: 100 connections, none fails" -- "${APP[@]}" "$TOOLS/load" conn -n 100 -c 4 "$NET6" 9003
        is "$(seen "$NET4" 9005)" $REFUSED "$h: direct, a destination that refuses: it fails"
        sees 9006 "$EXIT4" "$EXIT6" "$h: a group with another member: through that one"
    done
    all_fail "connect=$2" "refuse, the upstream $1: it fails"
    is "$(passed_by)" 0 "refuse, the upstream $1: not one packet got past"
}
# is_back HOW: and it is used again. One flow every two seconds finds out.
through() { [[ $(seen "$NET4" 9000) == "$EXIT4" ]]; }
is_back() {
    for h in "${HOOKS[@]}"; do
        within "$h"
        check "$h: direct, the upstream $1: used again" -- wait_for 10 through
        sees 9000 "$EXIT4" "$EXIT6" "$h: direct, the upstream $1: always"
        sees 9001 "$EXIT4" "$EXIT6" "$h: refuse, the upstream $1: served"
    done
}

idle before
down
ask before 0 "the flows that stood are reset when the upstream dies"
is_down "is gone" ECONNREFUSED
is "$(within output; us_flows undersock 'len(s)')" 0 "no flow is left"
idle direct
is "$(us_flows undersock 'sorted(set((f["capture"], f["upstream"]) for f in s))')" \
    "[('cgroup-direct', 'direct'), ('gateway-direct', 'direct'), ('output-direct', 'direct')]" "flows says that they go direct"
up
is_back "is back"
ask direct 5 "the flows that went direct go on"

kill -STOP "${PID[u]}"
is_down "does not answer" ETIMEDOUT
kill -CONT "${PID[u]}"
is_back "answers again"

# Its host is silent: to the port of the upstream alone.
ns proxy nft add chain inet watch input '{ type filter hook input priority 0; }'
ns proxy nft add rule inet watch input tcp dport 1080 drop
is_down "cannot be reached" ECONNREFUSED
ns proxy nft flush chain inet watch input
is_back "can be reached again"

# --- it is there, and ends each connection in the handshake: whoever comes first could bring that about
down
for mode in close reset 'drop 1' garbage; do
    # shellcheck disable=SC2086
    PEER_NAME=useless peer_bad proxy "$PROXY4" 1080 $mode
    for h in "${HOOKS[@]}"; do
        within "$h"
        fails 9000 "$h: direct, an upstream of the kind $mode: it fails"
        fails 9000 "$h: direct, an upstream of the kind $mode: and again"
        sees 9006 "$EXIT4" "$EXIT6" "$h: a group with another member: through that one"
    done
    stop useless KILL
done
up
is_back "does its work again"

# --- it is we who have no port left to ask it from, which a client of the gateway can bring about
ports=$(ns client cat /proc/sys/net/ipv4/ip_local_port_range)
ns client sh -c 'echo 47000 47009 >/proc/sys/net/ipv4/ip_local_port_range'
within gateway
start many -- "${APP[@]}" "$TOOLS/load" hold -n 10 "$NET4" 9003
wait_log many '"phase": "open", "want": 10, "open": 10' 20 || bail "the ports are not in use"
fails 9000 "gateway: direct, all ports to the upstream are in use: it fails"
fails 9000 "gateway: direct, all ports to the upstream are in use: and again"
stop many KILL
echo "$ports" | ns client sh -c 'cat >/proc/sys/net/ipv4/ip_local_port_range'
is_back "can be asked again"

# --- both members of a group
down
stop spare KILL 2>/dev/null
for h in "${HOOKS[@]}"; do
    within "$h"
    sees 9006 "$CLIENT4" "$CLIENT6" "$h: a group none of whose members answers: the daemon connects"
done
PEER_NAME=spare peer_serve proxy "$PROXY4" 1081
for h in "${HOOKS[@]}"; do
    within "$h"
    check "$h: one of them is back: used again" -- wait_for 10 eval '[[ $(seen "$NET4" 9006) == "$EXIT4" ]]'
done

# --- down from the beginning
stop undersock
us_daemon client < <(conf)
for h in "${HOOKS[@]}"; do
    within "$h"
    sees 9000 "$CLIENT4" "$CLIENT6" "$h: direct, the upstream is down from the beginning: the daemon connects"
    fails 9001 "$h: refuse, the upstream is down from the beginning: refused"
done
up
is_back "comes up at last"

# --- the other way round by a reload
down
sed -i 's/when-down = "direct"/when-down = "swap"/; s/when-down = "refuse"/when-down = "direct"/; s/when-down = "swap"/when-down = "refuse"/' "$TMP/undersock.conf"
check "a reload that exchanges the two" -- us_reload undersock
for h in "${HOOKS[@]}"; do
    within "$h"
    fails 9000 "$h: reload: refuse"
    sees 9001 "$CLIENT4" "$CLIENT6" "$h: reload: direct"
done
done_testing
