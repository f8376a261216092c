#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# Stitch when there is no room: a full table of handshakes means that what comes is relayed, and what dead
# daemons have left on the cgroup and the interfaces is taken away by the next one, or leaves room to others.
. "$(dirname "$0")/lib.sh"

need python3 tc nft
topology
net_who 9000
. "$LIB_DIR/stitch.sh"
UPSTREAM_KEYS=('connect-timeout = "60s"')
PEER_NAME=serve peer_serve proxy "$PROXY4" 1081

# --- no room: 15,360 handshakes wait for an answer, and 1,024 places are left for who was faster
up "socks5://$PROXY4:1081"
ns proxy nft -f - <<-'NFT' || skip_all "nft cannot drop by ports here"
	table inet test_silence {
	    chain input { type filter hook input priority 0
	        tcp dport 1081 tcp sport 10000-54999 drop; }
	}
	NFT
ports "10000 54999"
start silent -- nofile 20000 cg app ns client "$TOOLS/connects" -q -t 100 -r 5 -n 15360 "$NET4" 9000
check "15,360 handshakes under way" -- wait_for 60 st_is begun -eq 15360
ports "55000 60000"
before=$(relayed)
is "$(seen -p "$NET4" 9000) $(seen "$NET4" 9000)" "$EXIT4 peer=$NET4:9000 $EXIT4" "connect() with a full table: a connection, and who was asked for"
is "$(relayed)" $((before + 2)) "by the relay"
is "$(st begun) $(st full) $(us_status undersock "s['captures'][0]['stitched']")" "15360 0 True" "no SYN was dropped"
is "$(app "$TOOLS/connects" -q -c 50 -n 1000 "$NET4" 9001 | awk '{print $1, $3}')" "1000 ECONNREFUSED" "1,000 refusals, too"
ns proxy nft delete table inet test_silence
# A server that is slow drops SYNs, which come again after up to 32 seconds.
ended silent 110
again() {
    local before
    before=$(st granted)
    [[ $(seen "$NET4" 9000) == "$EXIT4" ]] && st_is granted -gt "$before"
}
check "when they have their answers there is room again" -- wait_for 30 again
# More refusals than there are places: what is over is taken out, and counted.
ports "10000 60000"
is "$(app "$TOOLS/connects" -q -c 200 -n 40000 "$NET4" 9001 | awk '{print $1, $3}')" "40000 ECONNREFUSED" "40,000 refusals"
check "and there is room again" -- wait_for 30 again
stop undersock

# --- deaths leave guards and filters behind, and the next one takes them away
programs() { bpftool cgroup show "$(cg_path app)" | awk '{print $NF}' | grep -c "us_st_guard${1:-}"; }
filters() { ns client tc filter show dev up0 "${1:-egress}" | grep -c us_st_; }
if ! command -v bpftool >/dev/null || ! command -v setpriv >/dev/null; then
    skip "what is left behind" "bpftool or setpriv is not installed" 19
else
    is "$(programs)" 0 "nothing is left of the one above"
    # Without CAP_SYS_ADMIN, as the service: nobody can take them away.
    for ((i = 0; i < 70; i++)); do
        start dies -- ns client setpriv --bounding-set -sys_admin "$TOOLS/stitch" "$(cg_path app)" "socks5://$PROXY4:1081"
        wait_for 20 eval 'grep -q "^ready" "${LOG[dies]}" || has_ended dies'
        running dies || break
        stop dies KILL 2>/dev/null
        rm -f "${LOG[dies]}"
    done
    is "$(programs '$') $(programs _in)" "48 48" "70 deaths of who may not take them away: 48 guards, and no more"
    printf '#!/bin/sh\nexec setpriv --bounding-set -sys_admin "%s" "$@"\n' "$UNDERSOCK" >"$TMP/limited"
    chmod 755 "$TMP/limited"
    UNDERSOCK="$TMP/limited" us_daemon client < <(config "socks5://$PROXY4:1081")
    like "$(us_status undersock "s['captures'][0]['stitched'], s['captures'][0]['why_relayed']")" "False, 'it has no guard" "then the daemon starts, and says why it relays"
    is "$(seen -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "and does"
    kill_it
    check "prove, which the service runs before it, with all rights" -- ns client "$UNDERSOCK" prove -c "$TMP/undersock.conf"
    is "$(programs '$') $(programs _in)" "0 0" "takes them away"
    UNDERSOCK="$TMP/limited" us_daemon client < <(config "socks5://$PROXY4:1081")
    is "$(seen "$NET4" 9000) $(st granted)" "$EXIT4 1" "and that daemon stitches"
    check "prove, while it is alive" -- ns client "$UNDERSOCK" prove -c "$TMP/undersock.conf"
    is "$(programs '$') $(programs _in)" "1 1" "leaves it its guards"
    kill_it
    up "socks5://$PROXY4:1081"
    is "$(programs '$') $(programs _in)" "1 1" "a daemon that has the right takes them away itself"
    is "$(seen "$NET4" 9000) $(st granted)" "$EXIT4 1" "and stitches"
    kill_it
    is "$(programs) $(filters) $(filters ingress)" "2 1 1" "after one more death"
    # A living one from another network namespace on the same cgroup.
    start elsewhere -- ns net "$TOOLS/stitch" "$(cg_path app)" "socks5://$EXIT4:1081"
    wait_log elsewhere '^ready'
    is "$(programs)" 4 "another network namespace guards the same cgroup"
    up "socks5://$PROXY4:1081"
    is "$(programs)" 4 "a start takes away two of the four, and adds two"
    stop elsewhere KILL 2>/dev/null
    is "$(seen "$NET4" 9000) $(st granted)" "$EXIT4 1" "and stitches, beside the guards of a namespace that is no business of ours"
    kill_it
    us_daemon client < <(config "socks5://$PROXY4:1081" -- 'when-down = "direct"')
    is "$(programs) $(filters) $(filters ingress)" "2 0 0" "a start that stitches nothing takes them away, too"
    is "$(ns client tc qdisc show dev up0 | grep -c clsact)" 0 "and the qdisc"
    stop undersock
    MORE="capture \"more\" { hook = \"cgroup\" cgroup = \"/$US-app\" upstream = \"one\" tcp-ports = { \"7000\" } }"
    up "socks5://$PROXY4:1081"
    is "$(programs)" 4 "two captures of one cgroup share theirs, and leave them in place"
    stop undersock
    is "$(programs)" 2 "and take their own away"
fi
done_testing
