#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# SIGKILL during traffic. Of a worker: its flows are reset at both ends, the others do not notice,
# and no new connection is refused. Of the keeper or of `run`: every flow is reset, nothing stays.
. "$(dirname "$0")/lib.sh"

need python3 nft
topology
net_who
cg_new app
peer_serve proxy "$PROXY4" 1080
peer_bad proxy "$PROXY4" 1081 hang
# Transfers stand still while somebody is killed: a client that receives is stopped, and so is the
# target of those that send.
start source -- ns net "$TOOLS/pattern" serve :: 9001
start sink -- ns net "$TOOLS/pattern" serve :: 9002
start load -- ns net "$TOOLS/load" server :: 9003
for p in 9001 9002 9003; do wait_port net tcp :: $p; done

conf() {
    cat <<-CONF
	workers = 2
	fast-path = "relay"
	upstream "u" {
	    url = "socks5://$PROXY4:1080"
	}
	upstream "hanging" {
	    url = "socks5://$PROXY4:1081"
	    handshake-timeout = "1h"
	}
	capture "hanging" {
	    hook      = "output"
	    upstream  = "hanging"
	    tcp-ports = { "9009" }
	    connect   = "early"
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
}
daemon() { us_daemon client "$1" < <(conf); }

# transfer NAME-recv|NAME-send output|cgroup ADDRESS: in the background; a small receive buffer and
# a pace, so that it does not come to its end before it is stopped.
transfer() {
    local wrap=(ns client) mode=(recv -N -R 16384 -r 4096 -p 1000 -t 120 "$3" 9001 4M)
    # More than all the buffers on the way hold.
    [[ $1 == *-send ]] && mode=(send -N -t 120 "$3" 9002 64M)
    [[ $2 == cgroup ]] && wrap+=(cg app)
    start "$1" -- "${wrap[@]}" "$TOOLS/pattern" "${mode[@]}"
    TRANSFERS+=("$1")
}
moving() { [[ $(us_flows "$1" 'len([f for f in s if f["bytes_up"] + f["bytes_down"] > 4096])') -ge $2 ]]; }
signal() { kill -s "$1" "${PID[$2]}"; }
halt() { # DAEMON: all transfers are under way, and stand still
    local t
    wait_for 20 moving "$1" ${#TRANSFERS[@]} || bail "no traffic"
    for t in "${TRANSFERS[@]}"; do signal STOP "$t"; done
}
go_on() {
    local t
    for t in "${TRANSFERS[@]}"; do signal CONT "$t"; done
    signal CONT sink
}
# OF[transfer]: the number of the worker that has it, found by the connection's port.
assign() {
    local t port worker pid
    declare -A by_port=() by_pid=()
    while read -r port worker; do by_port[$port]=$worker; done < <(us_flows "$1" \
        '"\n".join(f["client"].split(":")[-1] + " " + str(int(f["id"], 16) >> 56) for f in s)')
    while read -r port pid; do by_pid[$pid]=${by_port[$port]:-}; done < <(ns client ss -Htnp state established |
        sed -nE 's/^[0-9]+ +[0-9]+ +[^ ]*:([0-9]+) .*\("pattern",pid=([0-9]+),.*/\1 \2/p')
    for t in "${TRANSFERS[@]}"; do OF[$t]=${by_pid[${PID[$t]}]:-none}; done
}
result_of() { # NAME: waits for its end; its last line
    wait_exit "$1" 60
    tail -n 1 "${LOG[$1]}"
}
reset_at_target() { grep -c 'recv_error=ECONNRESET' "${LOG[sink]}"; }
answered() { [[ $(ns client "$@") == "$EXIT4" ]]; }

# --- a worker
daemon undersock
TRANSFERS=()
declare -A OF HAS
signal STOP sink
for ((i = 1; i <= 10; i++)); do
    for c in output cgroup; do
        transfer "t$i-$c-recv" $c "$NET4"
        transfer "t$i-$c-send" $c "$NET4"
    done
    ((i < 3)) && continue
    halt undersock
    assign undersock
    for t in "${TRANSFERS[@]}"; do HAS[${OF[$t]}-${t##*-}]=1; done
    [[ ${HAS[0-recv]:-} && ${HAS[0-send]:-} && ${HAS[1-recv]:-} && ${HAS[1-send]:-} ]] && break
done
is "$(printf '%s\n' "${!HAS[@]}" | sort | paste -sd ' ')" "0-recv 0-send 1-recv 1-send" "each of the two workers receives and sends (${#TRANSFERS[@]} flows)"
mkfifo "$TMP/idle.in"
start idle -- ns client sh -c "exec '$TOOLS/load' hold -n 40 $NET4 9003 <>'$TMP/idle.in'"
wait_log idle '"phase": "open", "want": 40, "open": 40' 20 || bail "no idle flows"
start waiting -- ns client "$TOOLS/who" -t 100 "$NET4" 9009
waiting_for_reply() { us_flows undersock '[f["state"] for f in s if f["upstream"] == "hanging"]' | grep -q handshake; }
wait_for 10 waiting_for_reply

victim=$(us_status undersock '[w["pid"] for w in s["workers"] if w["worker"] == 0][0]')
idle_there=$(us_flows undersock 'len([f for f in s if f["destination"].endswith(":9003") and int(f["id"], 16) >> 56 == 0])')
hanging_there=$(us_flows undersock 'len([f for f in s if f["upstream"] == "hanging" and int(f["id"], 16) >> 56 == 0])')
: >"${LOG[sink]}"
kill -KILL "$victim"
check "the keeper logs it" -- wait_log undersock "worker 0 \(pid $victim\) was killed by signal 9"
# From here on: whatever connects now is to be served, though it may have to wait for the new worker.
check "500 connections right after it: none is refused" -- ns client "$TOOLS/load" conn -n 500 -c 16 "$NET4" 9003
check "500 by the cgroup hook" -- ns client cg app "$TOOLS/load" conn -n 500 -c 16 "$NET6" 9003
go_on
sends=0 lost=0
for t in "${TRANSFERS[@]}"; do
    out=$(result_of "$t")
    if [[ ${OF[$t]} == 0 ]]; then
        lost=$((lost + 1))
        [[ $t == *send ]] && sends=$((sends + 1))
        [[ $t == *recv ]] && like "$out" 'recv BAD .* recv_error=ECONNRESET' "$t of the killed worker: the client's stream is reset, not ended"
        [[ $t == *send ]] && like "$out" 'send BAD ' "$t of the killed worker: has failed"
    else
        like "$out" "${t##*-} good " "$t of the other worker: to the last byte"
    fi
done
num $lost -ge 2 "($lost flows were lost)"
is "$(reset_at_target)" $sends "at the target the flows of the killed worker are reset, not ended"
signal USR1 idle
out=$(result_of idle)
like "$out" "\"open\": $((40 - idle_there))," "idle flows: those of the other worker are alive"
if ((idle_there)); then
    like "$out" "\"errors\": \\{(\"(ECONNRESET|EPIPE)\": [0-9]+(, )?)+\\}" "idle flows: the others were reset"
else
    like "$out" '"errors": \{\}' "idle flows: none was the killed worker's"
fi
if ((hanging_there)); then
    is "$(result_of waiting)" "lost=RST" "a flow in the middle of its handshake is reset"
else
    running waiting
    is $? 0 "a flow in the middle of its handshake, of the other worker, waits on"
fi
both() { [[ $(us_status undersock 'len(s["workers"])') == 2 ]]; }
check "there are two workers again" -- wait_for 10 both
isnt "$(us_status undersock '[w["pid"] for w in s["workers"] if w["worker"] == 0][0]')" "$victim" "a new one among them"

# Both of them, again and again: it is restarted each time.
for round in 1 2 3; do
    for pid in $(us_workers undersock); do kill -KILL "$pid"; done
    check "both workers killed ($round): the next connection is served" -- wait_for 20 answered "$TOOLS/who" -t 15 "$NET4" 9000
done

# --- the keeper
# left DAEMON: what is there of it. Nothing must be.
left() {
    local p
    for p in $(ns_pids client); do
        [[ " $BEFORE " == *" $p "* ]] || echo "process $p $(tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | cut -c1-60)"
    done
    tables_of client
    ns client ss -Hlnt
    bpf_left "$OBJECTS"
}
gone() { [[ -z $(left | tr -d ' \n') ]]; }
nothing_left() { # WHEN
    wait_for 15 gone
    is "$(left | paste -sd ';' | tr -d ' ;')" "" "$1: no worker, table, listener, BPF link, program or map is left"
}

stop waiting
stop undersock
wait_for 10 gone
BEFORE=$(ns_pids client)
for family in 4 6; do
    daemon "keeper$family"
    OBJECTS=$(cgroup_objects "$(cg_path app)")
    num "$(grep -c . <<<"$OBJECTS")" -gt 4 "IPv$family: links, programs and maps are there"
    isnt "$(tables_of client)" "" "and a table"
    TRANSFERS=()
    signal STOP sink
    for c in output cgroup; do
        [[ $family == 4 ]] && to=$NET4 || to=$NET6
        transfer "k$family-$c-recv" $c "$to"
        transfer "k$family-$c-send" $c "$to"
    done
    halt "keeper$family"
    : >"${LOG[sink]}"
    stop "keeper$family" KILL
    go_on
    for t in "${TRANSFERS[@]}"; do
        [[ $t == *recv ]] && like "$(result_of "$t")" 'recv BAD .* recv_error=ECONNRESET' "SIGKILL of the keeper: $t is reset, not ended"
        [[ $t == *send ]] && like "$(result_of "$t")" 'send BAD ' "SIGKILL of the keeper: $t has failed"
    done
    two_resets() { [[ $(reset_at_target) == 2 ]]; }
    wait_for 10 two_resets
    is "$(reset_at_target)" 2 "at the target too"
    nothing_left "SIGKILL of the keeper (IPv$family)"
    is "$(ns client "$TOOLS/who" "$NET4" 9000) $(ns client cg app "$TOOLS/who" "$NET4" 9000)" "$CLIENT4 $CLIENT4" "on-exit = open: connections go direct"
done

# --- run
TRANSFERS=()
signal STOP sink
start run -- ns client "$UNDERSOCK" run -u "socks5://$PROXY4" -o fast-path=relay -o "control=$TMP/run.sock" -- \
    "$TOOLS/pattern" send -N "$NET4" 9002 64M
wait_for 20 answers run
wait_for 20 moving run 1 || bail "no traffic of run"
OBJECTS=$(cgroup_objects "$CGROUP2/undersock-run-${PID[run]}")
num "$(grep -c . <<<"$OBJECTS")" -gt 4 "run: links, programs and maps are there"
: >"${LOG[sink]}"
dir=$CGROUP2/undersock-run-${PID[run]}
stop run KILL
go_on
one_reset() { [[ $(reset_at_target) == 1 ]]; }
wait_for 10 one_reset
is "$(reset_at_target)" 1 "SIGKILL of run: the target's stream is reset, not ended"
nothing_left "SIGKILL of run"
no_directory() { [[ ! -d $dir ]]; }
check "and no cgroup" -- wait_for 10 no_directory

# --- again and again: at each stage of the start, and under traffic
OBJECTS=''
table() { [[ $(tables_of client) ]]; }
workers() { [[ $(us_workers again) ]]; }
for ((i = 0; i < 20; i++)); do
    conf >"$TMP/again.conf"
    echo "control = \"$TMP/again.sock\"" >>"$TMP/again.conf"
    : >"$TMP/again.log"
    start again -- ns client "$UNDERSOCK" daemon -c "$TMP/again.conf"
    case $((i % 5)) in
    0) wait_for 10 grep -qs 'again.sock' "/proc/${PID[again]}/net/unix" ;;
    1) wait_for 10 table ;;
    2) wait_for 10 workers ;;
    *)
        wait_for 20 answers again || bail "round $i: the daemon is not up"
        OBJECTS=$(cgroup_objects "$(cg_path app)")
        start "traffic$i" -- ns client "$TOOLS/load" conn -T 60 -c 8 -t 5 "$NET4" 9003
        wait_for 10 us_is again granted -gt 20
        ;;
    esac
    stop again KILL
    [[ ${PID[traffic$i]:-} ]] && stop "traffic$i"
    wait_for 15 gone || break
done
is "$i" 20 "SIGKILL of the keeper, 20 times"
nothing_left "after 20 times"

# --- orderly: SIGTERM, `undersock stop`; what systemd is told
cat >"$TMP/notify.py" <<'PY'
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("listening", flush=True)
while True:
    print(s.recv(4096).decode().replace("\n", " "), flush=True)
PY
start notify -- python3 "$TMP/notify.py" "$TMP/notify.sock"
wait_log notify listening || bail "no notify socket"
export NOTIFY_SOCKET=$TMP/notify.sock
for how in SIGTERM stop; do
    : >"${LOG[notify]}"
    daemon "$how"
    check "$how: systemd is told READY=1" -- wait_log notify '^READY=1'
    check "$how: reload" -- us_reload "$how"
    reloading() { [[ $(paste -sd ' ' "${LOG[notify]}") =~ READY=1.*RELOADING=1.*READY=1 ]]; }
    check "$how: RELOADING=1 and READY=1 again" -- wait_for 10 reloading
    OBJECTS=$(cgroup_objects "$(cg_path app)")
    TRANSFERS=()
    signal STOP sink
    transfer "$how-recv" output "$NET4"
    transfer "$how-send" cgroup "$NET4"
    halt "$how"
    : >"${LOG[sink]}"
    if [[ $how == stop ]]; then
        check "undersock stop" -- "$UNDERSOCK" stop -s "$TMP/stop.sock"
    else
        kill -TERM "${PID[$how]}"
    fi
    check "$how: it ends" -- wait_exit "$how" 10
    wait "${PID[$how]}"
    is $? 0 "$how: exit status 0"
    go_on
    check "$how: systemd is told STOPPING=1" -- wait_log notify '^STOPPING=1'
    check "$how: the log says so" -- grep -q 'stopping: ' "${LOG[$how]}"
    like "$(result_of "$how-recv")" 'recv_error=ECONNRESET' "$how: the flows that are left are reset, not ended"
    wait_for 10 one_reset
    is "$(reset_at_target)" 1 "$how: at the target too"
    nothing_left "$how"
    is "$(ls "$TMP/$how.sock" 2>/dev/null)" "" "$how: nor the control socket"
done
unset NOTIFY_SOCKET
done_testing
