#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# alone
#
# SIGKILL of a worker with thousands of flows in the sockmap, some of them with bytes that nobody
# reads: both ends of each see a reset, nothing hangs, and no program, map or socket stays. Then as many
# flows that end by themselves: nothing stays either.
#
# Those that do not read use keepalive. Whoever is killed sends one reset for each socket, numbered after
# all that it had sent. When the receiver's kernel had no memory for the last of that, the number is
# not the next one, and the reset is not believed but questioned (RFC 5961), or, if a packet was
# questioned within the last 500 ms, ignored. Then it takes a packet of the application to bring another.
. "$(dirname "$0")/lib.sh"

FLOWS=3000 STALLED=100
need python3 nft
topology
cg_new app
ulimit -n "$(ulimit -Hn)"
start load -- ns proxy "$TOOLS/load" server -S "$PROXY4" 1080
start source -- ns net "$TOOLS/pattern" serve -t 0 :: 9001
wait_port proxy tcp "$PROXY4" 1080
wait_port net tcp :: 9001
peer_serve proxy "$PROXY4" 1081

us_daemon client <<CONF
fast-path = "sockmap"
workers = 1
upstream "u" { url = "socks5://$PROXY4:1080" }
upstream "real" { url = "socks5://$PROXY4:1081" }
capture "stalled" {
    hook      = "cgroup"
    cgroup    = "/$US-app"
    tcp-ports = { "9001" }
    upstream  = "real"
    connect   = "early"
}
capture "idle" {
    hook      = "output"
    connect   = "early"
    upstream  = "u"
}
CONF
[[ $(us_status undersock "[w['sockmap'] for w in s['workers']]") == "['proven']" ]] ||
    skip_all "no sockmap here: $(us_status undersock "[w['sockmap_why'] for w in s['workers']]")"
worker=$(us_workers undersock | tr -d ' ')

# What the maps and programs of a worker are, and which of them are left.
objects() { ls -l "/proc/$1/fd" | sed -n 's/.* \([0-9]*\) -> anon_inode:bpf-\(map\|prog\)$/\1 \2/p' | while read -r fd kind; do
    sed -n "s/^\(map\|prog\)_id:\t/$kind /p" "/proc/$1/fdinfo/$fd"
done | sort -u; }
mkfifo "$TMP/never"
hold() { start "$1" -- ns client sh -c "exec '$TOOLS/load' hold -c 100 -n $FLOWS $NET4 9003 <>'$TMP/never'"; }
joined() { us_flows undersock "len([f for f in s if f['engine'] == 'sockmap'])"; }
many_joined() { [[ $(joined) -ge $1 ]]; }

check "warm-up" -- ns client "$TOOLS/load" conn -n 500 -c 16 "$NET4" 9003
hold idle
check "$FLOWS flows" -- wait_log idle "\"open\": $FLOWS" 60
for ((i = 0; i < STALLED; i++)); do
    start "stalled$i" -- cg app ns client "$TOOLS/pattern" recv -N -S -t 100 "$NET4" 9001 64M
done
check "$((FLOWS + STALLED)) flows are in the sockmap" -- wait_for 30 many_joined $((FLOWS + STALLED))
diag "$(us_flows undersock "{e: len([f for f in s if f['engine'] == e]) for e in ('copy', 'splice', 'sockmap', '')}")"
# Without those that the keeper has, too.
held=$(comm -23 <(objects "$worker") <(objects "${PID[undersock]}"))
num "$(wc -l <<<"$held")" -ge 5 "the worker has maps and programs"

# Each is in the middle of its 64 MiB. One that only stops after SIGCONT would never go on.
stopped() {
    local i
    for ((i = 0; i < STALLED; i++)); do
        [[ $(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/${PID[stalled$i]}/status") == T ]] || return 1
    done
}
check "$STALLED applications have ceased to read" -- wait_for 30 stopped

kill -KILL "$worker"
for ((i = 0; i < STALLED; i++)); do kill -CONT "${PID[stalled$i]}"; done
check "the keeper logs it" -- wait_log undersock "was killed by signal 9"
check "every idle application's connection is reset" -- wait_for 20 eval "! ns client ss -Htn state established | grep -q '$NET4:9003'"
out=''
for ((i = 0; i < STALLED; i++)); do
    wait_exit "stalled$i" 60
    grep -q 'recv_error=ECONNRESET' "${LOG[stalled$i]}" || out+=" $i: $(tail -n 1 "${LOG[stalled$i]}")"
    stop "stalled$i"
done
is "$out" "" "every application that did not read sees a reset, not an end"
at_proxy() { ns proxy ss -Htn state established "sport = :1080 or sport = :1081" | wc -l; }
none_at_proxy() { [[ $(at_proxy) == 0 ]]; }
check "nothing is left at the upstream either" -- wait_for 20 none_at_proxy
stop idle
# The verdict program goes with the last socket that was in a map, so nothing of them is left.
gone() { [[ -z $(bpf_left "$held") ]]; }
check "the maps and programs are gone" -- wait_for 20 gone
new_worker() { [[ $(us_workers undersock | wc -w) == 1 && $(us_workers undersock | tr -d ' ') != "$worker" ]]; }
check "another worker is there" -- wait_for 20 new_worker

# --- and those that end in order
worker=$(us_workers undersock | tr -d ' ')
pss=$(pss_kb "$worker") fds=$(fd_count "$worker")
for round in 1 2; do
    hold idle
    check "round $round: $FLOWS flows" -- wait_log idle "\"open\": $FLOWS" 60
    check "round $round: in the sockmap" -- wait_for 30 many_joined $FLOWS
    is $(($(fd_count "$worker") - fds)) $((2 * FLOWS)) "round $round: two descriptors a flow"
    num $((($(pss_kb "$worker") - pss) * 1024 / FLOWS)) -le 512 "round $round: at most 512 bytes a flow ($((($(pss_kb "$worker") - pss) * 1024 / FLOWS)))"
    kill -TERM "${PID[idle]}"
    stop idle
    check "round $round: no flow is left" -- wait_for 20 us_is undersock flows -eq 0
    is $(($(fd_count "$worker") - fds)) 0 "round $round: no descriptor"
done
is "$(us_sum undersock sockmap_lost)" 0 "nothing was lost"
done_testing
