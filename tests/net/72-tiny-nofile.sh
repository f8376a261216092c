#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A tiny RLIMIT_NOFILE: what does not fit is refused and counted, in one line of the log and without a
# spin; the flows that there are do not notice; when they end, there is room again.
. "$(dirname "$0")/lib.sh"

topology
need python3 prlimit setpriv
net_who
cg_new app
peer_serve proxy "$PROXY4" 1080
start load -- ns net "$TOOLS/load" server :: 9003
start source -- ns net "$TOOLS/pattern" serve :: 9001
wait_port net tcp :: 9003
wait_port net tcp :: 9001
mkfifo "$TMP/never"
# Of these a worker has most for itself, and room for some ten flows; datagrams would take more.
TINY=88

cat >"$TMP/tiny.conf" <<CONF
workers = 1
fast-path = "relay"
control = "$TMP/tiny.sock"
upstream "u" {
    url = "socks5://$PROXY4:1080"
}
capture "output" {
    hook     = "output"
    upstream = "u"
    udp      = "bypass"
    dns      = "bypass"
}
capture "cgroup" {
    hook     = "cgroup"
    cgroup   = "/$US-app"
    upstream = "u"
    udp      = "bypass"
    dns      = "bypass"
}
CONF
start tiny -- ns client nofile $TINY "$UNDERSOCK" daemon -c "$TMP/tiny.conf"
wait_for 20 answers tiny
check "RLIMIT_NOFILE $TINY: the daemon starts" -- running tiny
check "and says how many flows that allows" -- grep -q 'at most [0-9]* flows a worker, as the limit of open files is '$TINY "${LOG[tiny]}"
worker=$(us_workers tiny | tr -d ' ')
room=$(us_status tiny 's["workers"][0]["max_flows"]')
num "$room" -ge 4 "room for a few flows ($room)"

hold() { start "$1" -- "${@:3}" sh -c "exec '$TOOLS/load' hold -n $2 $NET4 9003 <>'$TMP/never'"; }
opened() { sed -n 's/.*"phase": "open".* "open": \([0-9]*\),.*/\1/p' "${LOG[$1]}"; }
release() { # NAME N DESCRIPTION
    kill -s USR1 "${PID[$1]}"
    wait_exit "$1" 20
    like "$(tail -n 1 "${LOG[$1]}")" "\"phase\": \"end\", .*\"open\": $2, " "$3"
}
# A while that is no fixed time, and the clock ticks that the worker has used in it. One that spins
# uses half of a processor even on a busy machine, several hundred ticks.
spin() {
    local i before
    before=$(cpu_ticks "$worker")
    for ((i = 0; i < 300; i++)); do ns client true; done
    echo $(($(cpu_ticks "$worker") - before))
}
lines() { grep -Ec "$1" "${LOG[tiny]}"; }
refuses() { [[ $(tail -n 1 "${LOG[$1]}") =~ \"errors\":\ \{\"ECONNREFUSED\":\ [0-9]+\} ]]; }

# --- more than fit
hold first $((room - 2)) ns client
wait_log first '"phase": "open"' 20
is "$(opened first)" $((room - 2)) "as many as fit but two"
hold surplus 30 ns client
wait_log surplus '"phase": "open"' 20
is "$(opened surplus)" 2 "30 more: two fit"
check "the other 28 are refused, none is connected, reset or left hanging" -- refuses surplus
hold surplus-cgroup 30 ns client cg app
wait_log surplus-cgroup '"phase": "open"' 20
is "$(opened surplus-cgroup)" 0 "30 more by the cgroup hook: none fits"
check "all are refused" -- refuses surplus-cgroup
is "$(us_sum tiny refused_full)" 58 "each is counted as refused_full"
is "$(us_sum tiny flows)" "$room" "the table is full"
num "$(lines 'flow table is full|limit of open files is reached')" -eq 1 "one line in the log"
is "$(lines 'flow table is full .*max-flows') $(lines "flow table is full \\($room\\): .* raise the limit of open files")" "0 1" "which says what to raise"
num "$(spin)" -le 10 "the worker does not spin"
check "a full daemon still answers" -- "$UNDERSOCK" flows -s "$TMP/tiny.sock"
is "$(ns client "$TOOLS/who" "$NET4" 9000)" "connect=ECONNREFUSED" "one more is refused"

# --- existing flows go on, and then there is room again
release first $((room - 2)) "the flows that there are work"
wait_for 10 us_is tiny flows -eq 2
is "$(ns client "$TOOLS/who" "$NET4" 9000) $(ns client cg app "$TOOLS/who" "$NET4" 9000)" "$EXIT4 $EXIT4" "when they have ended there is room again"
check "to the last byte, by splice, in so little room" -- ns client "$TOOLS/pattern" both -t 60 "$NET4" 9001 16M
release surplus 2 "those two work as well"
stop surplus
stop surplus-cgroup
wait_for 10 us_is tiny flows -eq 0
is "$(us_sum tiny flows)" 0 "no flow is left behind"

# --- the limit sinks below what is open: accept() itself fails
# limit N: the worker may have descriptors below N only. By the worker's own user: root without
# CAP_SYS_RESOURCE, as in a container, may not.
limit() {
    setpriv --reuid "$(stat -c %u "/proc/$worker")" --regid "$(stat -c %g "/proc/$worker")" --clear-groups \
        prlimit --pid "$worker" --nofile="$1:$TINY" || bail "prlimit"
}
lowest_free() { local fd=0; while [[ -e /proc/$worker/fd/$fd ]]; do fd=$((fd + 1)); done; echo $fd; }
idle_fds=$(fd_count "$worker")
hold few 3 ns client
wait_log few '"open": 3,' 20 || bail "three flows"
full=$(us_sum tiny refused_full)
failed=$(us_sum tiny failed)
logged=$(lines 'limit of open files is reached')
# No free number below the limit: neither for accept(), nor for what comes in its place.
limit "$(lowest_free)"
hold none 20 ns client
wait_log none '"phase": "open"' 20
is "$(opened none)" 0 "no descriptor is left: nobody is connected"
check "all are refused" -- refuses none
num "$(spin)" -le 10 "the worker does not spin"
# It takes a descriptor to ask it.
limit $TINY
is "$(($(us_sum tiny refused_full) - full)) $(($(us_sum tiny failed) - failed))" "20 0" "and counted"
num "$(lines 'limit of open files is reached')" -le $((logged + 1)) "in one line at most"

# One descriptor is free: enough for the upstream, too few for accept().
stop none
wait_for 10 us_is tiny flows -eq 3
limit $(($(lowest_free) + 1))
hold one 20 ns client cg app
wait_log one '"phase": "open"' 20
like "$(tail -n 1 "${LOG[one]}")" '"open": 0, .*"errors": \{("ECONNRESET": 1, "ECONNREFUSED": 19|"EPIPE": 1, "ECONNREFUSED": 19|"ECONNREFUSED": 19, "EPIPE": 1)\}' \
    "one descriptor is left: for whom it was used is reset, the others are refused"
num "$(spin)" -le 10 "the worker does not spin"
stop one
limit $TINY
is "$(us_status tiny 's["upstreams"][0]["healthy"]')" True "our own want is not the upstream's failure"
release few 3 "the flows that there are have not noticed"
stop few
is "$(ns client "$TOOLS/who" "$NET4" 9000) $(ns client cg app "$TOOLS/who" "$NET6" 9000)" "$EXIT4 $EXIT6" "with the limit back it works again"
wait_for 10 us_is tiny flows -eq 0
is "$(us_sum tiny flows)" 0 "no flow is left behind"
is "$(fd_count "$worker")" "$idle_fds" "nor a descriptor"
is "$(grep -c 'was killed\|ended with status' "${LOG[tiny]}")" 0 "the worker is the same all the time"

# --- so tiny that nothing works
stop tiny
start tinier -- ns client nofile 12 "$UNDERSOCK" daemon -c "$TMP/tiny.conf"
check "RLIMIT_NOFILE 12: it ends" -- wait_exit tinier 10
wait "${PID[tinier]}"
isnt $? 0 "with a failure"
check "and a line that names the limit" -- grep -Eqi 'open files|LimitNOFILE' "${LOG[tinier]}"
is "$(tables_of client)" "" "nothing is left installed"
done_testing
