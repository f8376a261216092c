#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# Honest connect: whatever the upstream says, at once or late, is what connect() returns, by every hook,
# for both families, to every kind of application; a verdict that comes at once costs no second SYN.
. "$(dirname "$0")/lib.sh"
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/honest.sh"

need python3 nft busybox
topology
lan
cg_new app
honest_sysctls client one
honest_servers
honest_clients
count_syns client
count_syns one

# at_once HOOK: 20 connections one after the other for each verdict that comes at once. A machine that
# is busy elsewhere may need a few SYNs more.
at_once() {
    local port a n total=0 WHERE sender=client before
    where "$1"
    before=$(stitched_syns)
    rm -f "$TMP/at-once.$1"
    [[ $1 == gateway ]] && sender=one
    syns_sent $sender >/dev/null
    for a in "$NET4" "$NET6"; do
        for port in 20000 20004 20005 20006 20007 30002; do
            "${WHERE[@]}" "$TOOLS/connects" -c 1 -n 20 -q "$a" $port >>"$TMP/at-once.$1"
            total=$((total + 20))
        done
    done
    n=$(($(syns_sent $sender) + $(stitched_syns) - before))
    diag "$1: $total connections, $n SYNs"
    num "$n" -ge $total "$1: $total connections one after the other send a SYN each"
    num "$n" -le $((total + total / 20)) "$1: and no second one"
    is "$(awk '{n[$2 "=" $3] += $1} END {for (i in n) print i "*" n[i]}' "$TMP/at-once.$1" | sort | paste -sd ' ')" \
        "20000=OK*40 20004=EACCES*20 20004=ECONNREFUSED*20 20005=ENETUNREACH*40 20006=EHOSTUNREACH*40 20007=ECONNREFUSED*40 30002=ECONNREFUSED*40" \
        "$1: with the same verdict every time"
}

# The cgroup by the relay, and by the kernel alone.
for way in output gateway cgroup stitch; do
    hook=${way/stitch/cgroup}
    [[ $way == stitch ]] && FAST_PATH=stitch || FAST_PATH=relay
    us_daemon client < <(honest_config $hook)
    matrix "$way" $hook
    at_once $hook
    nothing_left "$way"
    "$UNDERSOCK" stop -s "$TMP/undersock.sock"
    ended undersock 10
    is "$ENDED" 0 "$way: it ends in order"
done

# `run` is such a capture too, without a file.
start run -- ns client "$UNDERSOCK" run -u "socks5://$PROXY4:$VERDICTS" -- "$STATIC" "$NET4" $(expected_ports 4 20000 29999)
start run6 -- ns client "$UNDERSOCK" run -u "socks5://$PROXY4:$VERDICTS" -- "$STATIC" "$NET6" $(expected_ports 6 20000 29999)
ended run 40
is "$ENDED" 0 "run: IPv4: it ends"
ended run6 40
is "$ENDED" 0 "run: IPv6: it ends"
as_expected "run: IPv4: each verdict" "${LOG[run]}" 4 20000 29999
as_expected "run: IPv6: each verdict" "${LOG[run6]}" 6 20000 29999
done_testing
