#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# alone
#
# Back-pressure: 500 receivers that do not read, with senders that push, in both directions and by
# both hooks. What the daemon holds is bounded, however much they push; as soon as the receivers
# read, every byte arrives. With each engine.
. "$(dirname "$0")/lib.sh"

FLOWS=500 SIZE=1M
topology
need python3
cg_new app
# Small buffers in the kernel, so that they are not what the megabytes are in.
for n in client proxy net; do
    ns $n sh -c 'echo "4096 16384 32768" >/proc/sys/net/ipv4/tcp_rmem
        echo "4096 16384 32768" >/proc/sys/net/ipv4/tcp_wmem' || bail "buffer sizes in $n"
done
peer_serve proxy "$PROXY4" 1080
start source -- ns net "$TOOLS/pattern" serve :: 9001
start sink -- ns net "$TOOLS/pattern" serve :: 9002
wait_port net tcp :: 9001
wait_port net tcp :: 9002

conf() {
    cat <<-CONF
	workers = 1
	control = "$TMP/undersock.sock"
	fast-path = "$1"
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
}

# crowd NAME MODE PORT CMD...: a quarter of the flows, all in one process group.
QUARTER=$((FLOWS / 4))
crowd() {
    start "$1" -- "${@:4}" sh -c "i=0; while [ \$i -lt $QUARTER ]; do '$TOOLS/pattern' $2 -t 200 $NET4 $3 $SIZE & i=\$((i + 1)); done; wait"
}
all_relay() { [[ $(us_flows undersock 'len([f for f in s if f["state"] in ("relay", "half-closed")])') == "$FLOWS" ]]; }
moved() { us_flows undersock 'sum(f["bytes_up"] + f["bytes_down"] for f in s)'; }
# Nothing has moved between two looks, several times in a row.
stalled() {
    local i now
    LAST=$(moved)
    for ((i = 0; i < 4; i++)); do
        now=$(moved)
        [[ $now == "$LAST" && $now -gt $((FLOWS * 1000)) ]] || return 1
    done
}
# What the sockets of the worker hold in the kernel, in bytes: both queues.
queued() { ns client ss -Htnp | awk -v p="pid=$worker," 'index($0, p) {s += $2 + $3} END {print s + 0}'; }
engine_of() { us_sum undersock "$1"; }

us_daemon client < <(conf relay) # what is stitched costs a daemon nothing
for engine in relay again copy splice sockmap; do
    if [[ $engine != relay && $engine != again ]]; then
        conf $engine >"$TMP/undersock.conf"
        us_reload undersock || bail "reload"
    fi
    one_worker() { [[ $(us_workers undersock | wc -w) == 1 ]]; }
    wait_for 10 one_worker
    worker=$(us_workers undersock | tr -d ' ')
    [[ $engine != again ]] && pss=$(pss_kb "$worker")
    # Everybody connects; nobody pushes yet.
    kill -STOP "${PID[source]}" "${PID[sink]}"
    crowd recv recv 9001 ns client
    crowd recv-cgroup recv 9001 ns client cg app
    crowd send send 9002 ns client
    crowd send-cgroup send 9002 ns client cg app
    check "$engine: $FLOWS flows" -- wait_for 60 all_relay
    # Now all push, and no receiver reads.
    kill -STOP -- "-${PID[recv]}" "-${PID[recv-cgroup]}"
    kill -CONT "${PID[source]}"
    wait_for 60 stalled
    is $? 0 "$engine: those who push come to a halt"
    full=$(pss_kb "$worker")
    diag "$engine: memory $pss kB before, $full kB with all stalled; $(($(queued) / 1024)) kB in the kernel's queues, $((LAST / 1024)) kB passed on"
    # At most one read of 64 KiB in our hands for each flow.
    num $((full - pss)) -le $((FLOWS * 72)) "$engine: the memory of the daemon is bounded by its flows, not by what is pushed"
    num $(($(queued) / FLOWS)) -le $((1024 * 1024)) "$engine: what the kernel holds for them is the size of their buffers"
    is "$(us_sum undersock flows)" $FLOWS "$engine: none is lost"
    before=$(cpu_ticks "$worker")
    stalled
    num $(($(cpu_ticks "$worker") - before)) -le 20 "$engine: waiting costs nothing"
    # They read.
    kill -CONT "${PID[sink]}" -- "-${PID[recv]}" "-${PID[recv-cgroup]}"
    for c in recv recv-cgroup send send-cgroup; do
        wait_exit $c 120
        is "$(grep -c " good " "${LOG[$c]}") $(grep -vc " good " "${LOG[$c]}")" "$QUARTER 0" "$engine: $c: every byte of all $QUARTER arrives"
        stop $c
        rm -f "${LOG[$c]}"
    done
    wait_for 20 us_is undersock flows -eq 0
    is "$(us_sum undersock flows)" 0 "$engine: no flow is left behind"
    # The allocator keeps what it has for the next time; so a second time costs little: how many flows hold
    # something at once is not the same twice. The first time has cost 5,000.
    [[ $engine == again ]] && num $((full - first)) -le 2500 "$engine: the same crowd a second time costs little more than the first"
    first=$full
done
done_testing
