#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# alone
#
# 100,000 short connections, by both hooks: none fails, and neither descriptors nor memory grow.
. "$(dirname "$0")/lib.sh"

topology
need python3
cg_new app
# Connection tracking keeps what has ended for two minutes; that is not what is measured here.
for n in client proxy; do
    ns $n sh -c 'echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait' 2>/dev/null
done
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
read -r -d '' -a processes < <(us_workers undersock; echo "${PID[undersock]}")
total=0
connections() { # N: that many by each hook, both at once
    local hook
    start output -- ns client "$TOOLS/load" conn -n "$1" -c 16 "$NET4" 9003
    start cgroup -- ns client cg app "$TOOLS/load" conn -n "$1" -c 16 "$NET6" 9003
    total=$((total + 2 * $1))
    for hook in output cgroup; do
        wait_exit $hook 200
        like "$(tail -n 1 "${LOG[$hook]}")" "\"done\": $1, .*\"errors\": \\{\\}" "$hook: $1 connections, none fails"
        stop $hook
    done
    wait_for 20 us_is undersock flows -eq 0
}

connections 10000
fds=$(fd_count "${processes[@]}")
rss=$(rss_kb "${processes[@]}")
connections 40000
is $total 100000 "100,000 connections"
is "$(us_sum undersock granted)" 100000 "each was a flow"
is "$(us_sum undersock finished)" 100000 "and each ended in order"
is "$(us_sum undersock failed) $(us_sum undersock reset) $(us_sum undersock refused_full)" "0 0 0" "nothing failed, was reset or refused"
is "$(us_sum undersock flows)" 0 "no flow is left behind"
is "$(fd_count "${processes[@]}")" "$fds" "as many descriptors as after 20,000"
after=$(rss_kb "${processes[@]}")
diag "resident memory after 20,000: $rss kB, after 100,000: $after kB"
num $((after - rss)) -le 512 "no more memory than after 20,000 (512 kB for three processes)"
is "$(us_flows undersock 'len(s)')" 0 "flows lists none"
done_testing
