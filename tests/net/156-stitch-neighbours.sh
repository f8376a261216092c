#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Two daemons in one network namespace, each with a cgroup of its own and without rules for nftables: the
# filters on the interfaces are the first one's, the second relays, and neither disturbs the other.
. "$(dirname "$0")/lib.sh"

need python3 tc nft
topology
net_who 9000
. "$LIB_DIR/stitch.sh"
cg_new second
CAPTURE_KEYS=('udp = "bypass"' 'dns = "bypass"')
peer_microsocks proxy "$PROXY4" 1080

# second_config FAST-PATH [KEY-OF-CAPTURE...]
second_config() {
    echo "control = \"$TMP/second.sock\""
    echo "fast-path = \"$1\""
    echo "upstream \"one\" { url = \"socks5://$PROXY4:1080\" }"
    echo "capture \"second\" { hook = \"cgroup\" cgroup = \"/$US-second\" upstream = \"one\""
    printf '    %s\n' "${@:2}"
    echo '}'
}
second() { us_daemon client second < <(second_config "$@" "${CAPTURE_KEYS[@]}"); }
second_seen() { cg second ns client timeout 30 "$TOOLS/who" "$@" 2>&1; }
second_way() { us_status second "'%(stitched)s %(why_relayed)s' % s['captures'][0]"; }
filters() { ns client tc filter show dev up0 "$1" | grep -o ' id [0-9]*'; }
both() { echo "$(filters egress)$(filters ingress)"; }

up "socks5://$PROXY4:1080"
is "$(seen "$NET4" 9000) $(st granted)" "$EXIT4 1" "the first daemon stitches"
before=$(both)

for way in stitch auto; do
    second $way
    like "$(second_way)" "^False another undersock daemon has this network namespace" "a second one ($way): relays, and says why"
    is "$(second_seen "$NET4" 9000)" "$EXIT4" "and that works"
    is "$(both)" "$before" "the filters are the first one's"
    granted=$(st granted)
    is "$(seen "$NET4" 9000) $(st granted)" "$EXIT4 $((granted + 1))" "which goes on stitching"
    stop second
    is "$(both)" "$before" "and the filters stay when the second one ends"
done

# One that has nothing to stitch, and so nothing of its own to put there, must not clear up either.
second copy
is "$(both)" "$before" "a second one that stitches nothing leaves the filters alone"
stop second
second_config stitch >"$TMP/refused.conf"
start refused -- ns client "$UNDERSOCK" daemon -c "$TMP/refused.conf"
wait_exit refused 20
like "$(<"${LOG[refused]}")" '^undersock: error: .*another undersock running in this network namespace\?$' "one that needs rules is refused, with one line"
is "$(wc -l <"${LOG[refused]}")" 1 "and no other"
is "$(both)" "$before" "before it has touched a filter"
is "$(seen "$NET4" 9000)" "$EXIT4" "and the first one stitches"

# The first one goes: a reload is when the second one looks again.
second stitch
kill_it
is "$(second_seen "$NET4" 9000)" "$EXIT4" "the first one is killed: the second one relays"
us_reload second >"$TMP/reload.log" 2>&1 || bail "reload: $(<"$TMP/reload.log")"
is "$(second_way)" "True None" "after a reload it stitches"
is "$(second_seen "$NET4" 9000) $(us_status second "s['stitch']['granted']")" "$EXIT4 1" "and that works"
isnt "$(both)" "$before" "by filters of its own"
stop second
is "$(both)" "" "which it takes away"
is "$(tables_of client)" "" "and no table is left"

# The guard of on-exit = "closed" is the first one's, whatever the second one does.
us_daemon client < <(CAPTURE_KEYS+=('on-exit = "closed"'); config "socks5://$PROXY4:1080")
guard() { ns client nft list table inet undersock-guard 2>&1 | grep -c reject; }
before=$(guard)
num "$before" -gt 0 "on-exit = \"closed\": there is a guard"
second stitch
is "$(guard)" "$before" "it stays when a second daemon starts"
second_config copy 'on-exit = "closed"' "${CAPTURE_KEYS[@]}" | sed 's/second.sock/third.sock/' >"$TMP/refused.conf"
start guarded -- ns client "$UNDERSOCK" daemon -c "$TMP/refused.conf"
ended guarded 20
like "$ENDED $(<"${LOG[guarded]}")" '^1 undersock: error: .*another undersock running in this network namespace\?$' "one that wants a guard of its own is refused"
kill_it
us_reload second >"$TMP/reload.log" 2>&1 || bail "reload: $(<"$TMP/reload.log")"
is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "the first one is killed, and it refuses, also when the second one has reloaded"
stop second
is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "and has ended"
ns client "$UNDERSOCK" stop -s "$TMP/undersock.sock" >/dev/null 2>&1
is "$(tables_of client)" "" "a stop of the first one's lifts it"

# Nobody stitches: two get along, and hold no table.
us_daemon client < <(config "socks5://$PROXY4:1080" | sed 's/"stitch"/"copy"/')
is "$(tables_of client)" "" "a daemon that needs no rules, and no filters, has no table"
us_reload undersock >"$TMP/reload.log" 2>&1 || bail "reload: $(<"$TMP/reload.log")"
is "$(tables_of client)" "" "nor after a reload"
second stitch
is "$(second_way)" "True None" "and leaves stitching to another one"
is "$(second_seen "$NET4" 9000) $(seen "$NET4" 9000)" "$EXIT4 $EXIT4" "both work"
done_testing
