#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 600
#
# Much data: 4 GiB each way compared byte for byte, every engine under both captures, odd sizes, many
# streams at once, and readers that stop reading: the sender stops too, nothing piles up in the daemon,
# and nothing is lost when they go on.
#
# UNDERSOCK_BULK=SIZE instead of 4 GiB.
. "$(dirname "$0")/lib.sh"

need python3 nft
topology
cg_new app
start sink -- ns net "$TOOLS/pattern" serve -t 0 :: 9001
start stalling -- ns net "$TOOLS/pattern" serve -t 0 :: 9002
for port in 9001 9002; do wait_port net tcp :: $port; done
peer_serve proxy "$PROXY4" 1080
BULK=${UNDERSOCK_BULK:-4G}

config() { # FAST-PATH
    cat <<-CONF
	fast-path = "$1"
	upstream "proxy" { url = "socks5://$PROXY4" }
	capture "cgroup" {
	    hook = "cgroup"
	    cgroup = "/$US-app"
	    upstream = "proxy"
	}
	capture "output" {
	    hook = "output"
	    upstream = "proxy"
	}
	CONF
}
within() { # HOOK
    app() { ns client "$@"; }
    [[ $1 == cgroup ]] && app() { cg app ns client "$@"; }
}
all_pss() { pss_kb $(descendants "${PID[$1]}"); }

# --- every engine, both captures, both families
for FAST in copy splice sockmap; do
    us_daemon client $FAST < <(config $FAST)
    for HOOK in cgroup output; do
        within $HOOK
        at="$FAST, $HOOK"
        check "$at: 256 MiB each way, IPv4" -- app "$TOOLS/pattern" both -t 120 "$NET4" 9001 256M
        check "$at: 256 MiB each way, IPv6" -- app "$TOOLS/pattern" both -t 120 "$NET6" 9001 256M
        check "$at: 64 MiB each way in writes and reads of 1 to 70000 bytes" -- app "$TOOLS/pattern" both -w 70000 -r 70000 -t 120 "$NET4" 9001 64M
        check "$at: 1 MiB each way in writes and reads of 1 to 50 bytes" -- app "$TOOLS/pattern" both -w 50 -r 50 -t 120 "$NET4" 9001 1M
    done
    stop $FAST
done

# --- auto
us_daemon client auto < <(config auto)
before=$(all_pss auto)
for HOOK in cgroup output; do
    within $HOOK
    at="auto, $HOOK"
    check "$at: 256 MiB each way, IPv6" -- app "$TOOLS/pattern" both -t 120 "$NET6" 9001 256M
    # Large and small pieces in turn: the engine changes its mind under the stream.
    check "$at: 64 MiB each way in writes and reads of 1 to 70000 bytes" -- app "$TOOLS/pattern" both -w 70000 -r 70000 -t 120 "$NET4" 9001 64M
    check "$at: 1 MiB each way in writes and reads of 1 to 50 bytes" -- app "$TOOLS/pattern" both -w 50 -r 50 -t 120 "$NET4" 9001 1M
    for ((i = 0; i < 8; i++)); do
        start "stream$i" -- $([[ $HOOK == cgroup ]] && echo cg app) ns client "$TOOLS/pattern" both -w $((1000 * 10 ** (i % 3))) -t 120 "$NET4" 9001 16M
    done
    out=''
    for ((i = 0; i < 8; i++)); do
        ended "stream$i" 120
        out+=$ENDED
    done
    is "$out" 00000000 "$at: 8 streams of 16 MiB each way at once"
done
within cgroup
out=$(app "$TOOLS/pattern" both -t 500 "$NET4" 9001 "$BULK" 2>&1)
is $? 0 "auto, cgroup: $BULK each way, byte for byte"
diag "$out"
[[ $BULK == 4G ]] && like "$out" ' sent=4294967296 .* peer_received=4294967296 .* received=4294967296 ' "that is 4 GiB each way"
is "$(us_status auto "[sum(w[k] for w in s['workers']) > 0 for k in ('bytes_copied', 'bytes_spliced', 'to_splice')]")" "[True, True, True]" "auto has used both engines"

# --- readers that stop
# The bytes that the flows of a port have moved, all in all.
moved() { us_flows auto "sum(f['bytes_up'] + f['bytes_down'] for f in s if f['destination'].endswith(':9002'))"; }
# Until nothing has moved between three looks.
stalled() {
    local now
    now=$(moved)
    if [[ $now == "$LAST" && $now != 0 ]]; then
        SAME=$((SAME + 1))
    else
        SAME=0 LAST=$now
    fi
    ((SAME >= 3))
}
for HOOK in cgroup output; do
    for who in application server; do
        at="auto, $HOOK"
        N=16
        mode='recv -S'
        [[ $who == server ]] && mode=send
        [[ $who == server ]] && kill -STOP "${PID[stalling]}"
        for ((i = 0; i < N; i++)); do
            start "stall$i" -- $([[ $HOOK == cgroup ]] && echo cg app) ns client "$TOOLS/pattern" $mode -t 120 "$NET4" 9002 128M
        done
        LAST=0
        wait_for 30 stalled
        is $? 0 "$at: a stopped $who stops the other side ($N flows)"
        num "$LAST" -lt $((N * 128 * 1024 * 1024)) "$at: most of it has not been taken ($((LAST / 1048576)) of $((N * 128)) MiB)"
        now=$(all_pss auto)
        # Pipes and socket buffers are the kernel's; what is ours does not grow with what waits.
        num $((now - before)) -lt 16384 "$at: the daemon holds nothing of it (PSS $before KiB before, $now KiB now)"
        ticks=$(cpu_ticks $(us_workers auto))
        SAME=0
        wait_for 10 stalled
        num $(($(cpu_ticks $(us_workers auto)) - ticks)) -lt 20 "$at: and does not spin"
        [[ $who == server ]] && kill -CONT "${PID[stalling]}"
        [[ $who == application ]] && for ((i = 0; i < N; i++)); do kill -CONT "${PID[stall$i]}"; done
        out=''
        for ((i = 0; i < N; i++)); do
            ended "stall$i" 120
            out+=$ENDED
        done
        is "$out" "$(printf '0%.0s' $(seq $N))" "$at: when the $who goes on, nothing is lost"
    done
done
check "no flow is left" -- wait_for 20 eval '[[ $(us_sum auto flows) == 0 ]]'
is "$(us_status auto "[sum(w[k] for w in s['workers']) for k in ('failed', 'refused_full', 'reset')]")" "[0, 0, 0]" "nothing failed or was reset"
now=$(all_pss auto)
num $((now - before)) -lt 16384 "the daemon is as small as before (PSS $before KiB, $now KiB)"
is "$(leaks sink stalling)" 0 "nothing went direct"
done_testing
