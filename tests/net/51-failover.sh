#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Groups and chains when a part is down: the next member of a group is used before the application
# notices anything; without any that answers connect() fails; a chain fails as one upstream, and says
# which hop it was.
. "$(dirname "$0")/lib.sh"
# By force a connection keeps to the member that it began with: nothing for this file.
[[ ${FAST_PATH:-} == stitch ]] && FAST_PATH=auto

need python3
topology
impatient client
cg_new app
start who -- ns net "$TOOLS/who" serve 9000
wait_port net tcp :: 9000

first() { PEER_NAME=first peer_bad proxy "$PROXY4" 1101 "$@"; }
second() { PEER_NAME=second peer_bad proxy "$PROXY4" 1102 "$@"; }
asked() { grep -c '^request' "${LOG[$1]}"; }

us_daemon client <<CONF
workers = 1
upstream "first" {
    url = "socks5://$PROXY4:1101"
    handshake-timeout = "250ms"
}
upstream "second" {
    url = "socks5://$PROXY4:1102"
    handshake-timeout = "250ms"
}
upstream "entry" {
    url = "socks5://$PROXY4:1103"
}
upstream "last" {
    url = "socks5://$EXIT4:1104"
    via = "entry"
}
group "pair" {
    members = { "first", "second" }
    policy  = "failover"
}
group "chained" {
    members = { "last", "second" }
}
capture "chain" {
    hook      = "output"
    upstream  = "last"
    tcp-ports = { "9000" }
    to        = { "203.0.113.11", "2001:db8:113::11" }
}
capture "chain-or-second" {
    hook     = "output"
    upstream = "chained"
    to       = { "203.0.113.12" }
}
capture "output" {
    hook     = "output"
    upstream = "pair"
}
capture "cgroup" {
    hook     = "cgroup"
    cgroup   = "/$US-app"
    upstream = "pair"
}
CONF

REFUSED=connect=ECONNREFUSED

# Through both hooks and both families.
through() { # WANT4 WANT6 DESCRIPTION
    is "$(ns client "$TOOLS/who" "$NET4" 9000) $(ns client "$TOOLS/who" "$NET6" 9000)" "$1 $2" "$3 (output)"
    is "$(ns client cg app "$TOOLS/who" "$NET4" 9000) $(ns client cg app "$TOOLS/who" "$NET6" 9000)" "$1 $2" "$3 (cgroup)"
}
healthy() { us_status undersock "[u for u in s['upstreams'] if u['name'] == '$1'][0]['healthy']"; }

first good
second good
through "$EXIT4" "$EXIT6" "both answer"
is "$(asked first) $(asked second)" "4 0" "only the first is asked"

# --- the first is down, in each way that makes it the upstream's fault
for mode in gone reset close hang 'drop 1' garbage no-method method; do
    stop first
    stop second
    : >"${LOG[second]}"
    # shellcheck disable=SC2086
    [[ $mode == gone ]] || first $mode
    second good
    through "$EXIT4" "$EXIT6" "first $mode: the second is used"
    is "$(asked second)" 4 "first $mode: by all of them"
done
is "$(healthy first) $(healthy second)" "False True" "status: the first is down, the second is not"
check "the log says so" -- grep -q 'upstream first: ' "${LOG[undersock]}"
is "$(us_sum undersock failed)" 0 "no flow has failed"

# --- a refusal by the destination is an answer: nobody else is asked
stop first
stop second
first good
: >"${LOG[first]}"
second good
: >"${LOG[second]}"
# The second is preferred as long as the first has not answered again: let it fail once.
stop second
is "$(ns client "$TOOLS/who" "$NET4" 9000)" "$EXIT4" "the first is back, the second gone: the first is used"
second good
: >"${LOG[first]}"
is "$(ns client "$TOOLS/who" "$NET4" 1)" $REFUSED "the destination refuses: connect() says so"
is "$(asked first) $(asked second)" "1 0" "and the second is not asked too"
is "$(healthy first)" True "the first is healthy again"

# --- both down, and back
stop first
stop second
through $REFUSED $REFUSED "both gone: refused"
second good
through "$EXIT4" "$EXIT6" "the second is back: it is used at once"
first good
stop second
through "$EXIT4" "$EXIT6" "then only the first: it is used"
stop first
first hang
second drop-reset 3
through $REFUSED $REFUSED "both there, both useless: what is said last counts"
stop first
first drop-reset 3
stop second
second hang
silent=()
for to in "$NET4" "$NET6"; do
    for hook in output cgroup; do
        [[ $hook == cgroup ]] && wrap=(cg app) || wrap=()
        start "silent-$hook-$to" -- ns client "${wrap[@]}" "$TOOLS/who" "$to" 9000
        silent+=("silent-$hook-$to")
    done
done
for n in "${silent[@]}"; do
    wait_exit "$n" 10
    is "$(<"${LOG[$n]}")" "connect=ETIMEDOUT" "both there, the last one silent: so are we ($n)"
done
stop second
stop first

# --- a chain
PEER_NAME=entry peer_bad proxy "$PROXY4" 1103 good
PEER_NAME=last peer_bad proxy "$EXIT4" 1104 good
second good
chain() { ns client "$TOOLS/who" "$1" 9000; }
is "$(chain 203.0.113.11) $(chain 2001:db8:113::11)" "$EXIT4 $EXIT6" "chain: through both hops"
check "the first hop is asked for the second" -- grep -q "address=$EXIT4 port=1104" "${LOG[entry]}"
check "the second for the destination" -- grep -q "address=203.0.113.11 port=9000" "${LOG[last]}"
stop last
is "$(chain 203.0.113.11) $(chain 2001:db8:113::11)" "$REFUSED $REFUSED" "chain: the second hop is gone: refused"
check "the log names the hop" -- grep -Eq "upstream last: hop 1 .*: reply 0x05" "${LOG[undersock]}"
is "$(chain 203.0.113.12)" "$EXIT4" "a chain in a group: the other member is used"
PEER_NAME=last peer_bad proxy "$EXIT4" 1104 close
is "$(chain 203.0.113.11) $(chain 2001:db8:113::11)" "$REFUSED $REFUSED" "chain: the second hop closes: refused"
is "$(us_status undersock "[u for u in s['upstreams'] if u['name'] == 'last'][0]['last_error']")" \
    "hop 2 ($EXIT4:1104): it closed the connection during the handshake" "status names the hop"
stop last
PEER_NAME=last peer_bad proxy "$EXIT4" 1104 good
is "$(chain 203.0.113.11) $(chain 2001:db8:113::11)" "$EXIT4 $EXIT6" "chain: the second hop is back"
stop entry
is "$(chain 203.0.113.11)" $REFUSED "chain: the first hop is gone: refused"
is "$(chain 203.0.113.12)" "$EXIT4" "a chain in a group: the other member is used"

is "$(leaks who)" 0 "not one connection went around the upstreams"
wait_for 10 us_is undersock flows -eq 0
is "$(us_sum undersock flows)" 0 "no flow is left behind"
done_testing
