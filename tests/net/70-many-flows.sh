#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# 10,000 flows at once in one daemon, half of them by each hook: all are established, all answer, all
# are listed; each costs two descriptors and little memory, and both come back. The SOCKS server is
# the load tool's own, which serves what it grants: so many flows are a third of the descriptors.
. "$(dirname "$0")/lib.sh"

HALF=5000
topology
need python3
cg_new app
# The server has all of them in one process, a worker half of them, twice, and some more.
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
num "$(ulimit -n)" -ge 13000 "as many descriptors as it takes can be had"
start load -- ns proxy "$TOOLS/load" server -S "$PROXY4" 1080
wait_port proxy tcp "$PROXY4" 1080

us_daemon client <<CONF
workers = 2
upstream "u" {
    url = "socks5://$PROXY4:1080"
}
capture "output" {
    hook     = "output"
    upstream = "u"
}
capture "cgroup" {
    hook     = "cgroup"
    cgroup   = "/$US-app"
    upstream = "u"
}
CONF
read -r -d '' -a workers < <(us_workers undersock)
is "${#workers[@]}" 2 "two workers"

# What the first few flows allocate for good is no part of the comparison.
check "warm-up" -- ns client "$TOOLS/load" conn -n 500 -c 16 "$NET4" 9003
check "warm-up" -- ns client cg app "$TOOLS/load" conn -n 500 -c 16 "$NET6" 9003
wait_for 10 us_is undersock flows -eq 0
fds=$(fd_count "${workers[@]}")
pss=$(pss_kb "${workers[@]}")
keeper=$(fd_count "${PID[undersock]}")

mkfifo "$TMP/never"
hold() { start "$1" -- "${@:3}" sh -c "exec '$TOOLS/load' hold -c 100 -n $HALF $2 9003 <>'$TMP/never'"; }
phase() { grep "\"phase\": \"$2\"" "${LOG[$1]}"; }
flows_gone() { us_is undersock flows -eq 0; }

for round in 1 2; do
    hold output "$NET4" ns client
    hold cgroup "$NET6" ns client cg app
    for hook in output cgroup; do
        wait_log $hook '"phase": "open"' 120
        like "$(phase $hook open)" "\"want\": $HALF, \"open\": $HALF, .*\"errors\": \\{\\}" "round $round, $hook: $HALF flows are established and have answered"
    done
    is "$(us_sum undersock flows)" $((2 * HALF)) "all at once, in one daemon"
    is "$(fd_count "${PID[undersock]}")" "$keeper" "the keeper has nothing to do with them"
    peak=$(fd_count "${workers[@]}")
    is $((peak - fds)) $((4 * HALF)) "two descriptors a flow"
    full=$(pss_kb "${workers[@]}")
    diag "memory per flow: $(((full - pss) * 1024 / (2 * HALF))) bytes"
    num $(((full - pss) * 1024 / (2 * HALF))) -le 1024 "1024 bytes of memory a flow, at most"
    # What the cgroup redirects has a destination for each worker, and the same port for two of them.
    us_flows undersock '"%d %d %d %s" % (len(s), len(set(f["id"] for f in s)), len(set((f["client"], f["capture"] == "cgroup" and int(f["id"], 16) >> 56) for f in s)), " ".join(sorted(set(f["state"] for f in s))))' >"$TMP/listed"
    is "$(cat "$TMP/listed")" "$((2 * HALF)) $((2 * HALF)) $((2 * HALF)) relay" "flows --json lists each of them once"
    is "$("$UNDERSOCK" flows -s "$TMP/undersock.sock" | wc -l)" $((2 * HALF + 1)) "so does flows"
    for hook in output cgroup; do kill -s USR1 "${PID[$hook]}"; done
    for hook in output cgroup; do
        wait_exit $hook 120
        like "$(phase $hook end)" "\"open\": $HALF, .*\"errors\": \\{\\}" "round $round, $hook: each answers once more"
        stop $hook
        rm -f "${LOG[$hook]}"
    done
    wait_for 60 flows_gone
    is "$(us_sum undersock flows)" 0 "they end: no flow is left"
    is "$(fd_count "${workers[@]}")" "$fds" "the descriptors are back"
    after=$(pss_kb "${workers[@]}")
    diag "memory: $pss kB before, $full kB with the flows, $after kB after them"
    # The slots of the table that were used once stay with the process.
    num $((after - pss)) -le $((2 * HALF * 1024 / 1024)) "the memory that stays is that of the table"
    [[ $round == 1 ]] && first=$after
done
num $((after - first)) -le 1024 "the second 10,000 cost no more than the first"
is "$(us_sum undersock failed) $(us_sum undersock refused_full) $(us_sum undersock reset)" "0 0 0" "nothing failed, was refused or reset"
done_testing
