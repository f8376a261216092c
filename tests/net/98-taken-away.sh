#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What others take away is put back: the policy routes of UDP and DNS, which systemd-networkd removes when
# it starts, for a daemon and for a run; and the table of on-exit = "closed", which nobody owns, after an
# `nft flush ruleset`. Our own table cannot be taken.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/datagrams.sh"

need python3 nft
topology
net_who 9002
datagrams_net
serve_knows serve 1080
TABLE=21843

cat >"$TMP/udp.py" <<'PY'
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(5)
try:
    s.sendto(b'who?', (sys.argv[1], 9000))
    print(s.recv(100).decode())
except OSError as e:
    print(e.strerror or 'no answer')
PY
udp() { ns client python3 "$TMP/udp.py" "$1" 2>&1; }
is_udp() { [[ "$(udp "$NET4") $(udp "$NET6")" == "$EXIT4 $EXIT6" ]]; }
ours() { ns client sh -c "ip rule; ip -6 rule; ip route show table $TABLE; ip -6 route show table $TABLE" | grep "proto 85" | sort; }
take_rules() {
    ns client sh -c '
        for f in -4 -6; do
            for p in "$@"; do while ip $f rule del priority "$p" 2>/dev/null; do :; done; done
        done' sh "$@"
}
take_routes() { ns client ip route flush table "$1" && ns client ip -6 route flush table "$1"; }

us_daemon client < <(
    cat <<-CONF
	control = "$TMP/undersock.sock"
	upstream "u" { url = "socks5h://$PROXY4:1080" }
	capture "host" { hook = "output" upstream = "u" on-exit = "closed" }
	CONF
)
before=$(ours)
check "UDP goes through the proxy" -- is_udp

# --- policy rules, routes
take_rules 5552 5553
is "$(ns client timeout 20 "$TOOLS/who" "$NET4" 9002)" "$EXIT4" "TCP needs none"
check "they are put back" -- wait_for 10 eval '[[ $(ours) == "$before" ]]'
check "and UDP goes through the proxy" -- is_udp
check "with a line in the log" -- wait_log undersock 'removed our policy routes'
lines=$(grep -c 'removed our policy routes' "${LOG[undersock]}")
take_routes $TABLE
check "the routes are put back" -- wait_for 10 eval '[[ $(ours) == "$before" ]]'
check "and UDP goes through the proxy" -- is_udp
num "$(grep -c 'removed our policy routes' "${LOG[undersock]}")" -gt "$lines" "with another line"

# --- tables
tables=$(tables_of client)
ns client nft flush ruleset
is "$(ns client timeout 20 "$TOOLS/who" "$NET4" 9002) $(udp "$NET4")" "$EXIT4 $EXIT4" "nft flush ruleset makes no difference while the daemon is there"
check "the guard is put back" -- wait_for 10 eval '[[ $(tables_of client) == "$tables" ]]'
check "with a line in the log" -- wait_log undersock 'removed the table undersock-guard'
stop undersock KILL 2>/dev/null
is "$(ns client timeout 20 "$TOOLS/who" "$NET4" 9002)" "connect=ECONNREFUSED" "and refuses when the daemon has been killed"
is "$(udp "$NET4")" "Operation not permitted" "UDP, too"
ns client "$UNDERSOCK" stop -s "$TMP/undersock.sock" >/dev/null 2>&1
is "$(tables_of client)" "" "until a stop lifts it"
take_rules 5552 5553
take_routes $TABLE

# --- a run
start run -- ns client "$UNDERSOCK" run -u "socks5h://$PROXY4:1080" -- sh -c '
    while :; do python3 "$0" "$1"; sleep 0.2; done' "$TMP/udp.py" "$NET4"
check "a run: UDP goes through the proxy" -- wait_log run "^$EXIT4"
priority=$(ns client ip rule | sed -n 's/^\([0-9]*\):.*proto 85.*/\1/p' | head -1)
num "$priority" -gt 5553 "it has a rule of its own"
take_rules "$priority"
check "somebody removes it" -- wait_log run 'removed our policy routes'
lines=$(grep -c "^$EXIT4" "${LOG[run]}")
check "UDP goes on" -- wait_for 10 eval '(( $(grep -c "^$EXIT4" "${LOG[run]}") > lines ))'
is "$(grep -Ec "peer=($CLIENT4|$CLIENT6) " "${LOG[echo]}")" 0 "and nothing has ever gone past the proxy"
stop run
is "$(ours)" "" "nothing is left of it"
done_testing
