#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# While SYNs are held: a worker is killed, and the next one asks again; the configuration is reloaded,
# and nobody notices; the daemon is killed, and on-exit says what becomes of them. In no case does an
# application hang, or get through where it must not.
. "$(dirname "$0")/lib.sh"
FAST_PATH=${FAST_PATH:-relay}
# Whose SYNs we hold: what is stitched outlives us, which 154 is about.
HELD=(output gateway cgroup)
[[ $FAST_PATH == stitch ]] && HELD=(output gateway)
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/honest.sh"

need python3 nft
topology
lan
cg_new app
honest_sysctls client one
# More patience here: SYNs at 0, 1, 3, 7 and 15 seconds.
for n in client one; do ns $n sh -c 'echo 4 >/proc/sys/net/ipv4/tcp_syn_retries'; done
verdict_server
# The destination itself, for what goes there directly.
for port in 20000 20014 20020; do
    start "direct-$port" -- ns net "$TOOLS/who" serve $port
    wait_port net tcp :: $port
done

config() { # KEYS...
    local hook
    echo "control = \"$TMP/undersock.sock\""
    echo 'workers = 2'
    echo "upstream \"verdicts\" { url = \"socks5://$PROXY4:$VERDICTS\" handshake-timeout = \"20s\" }"
    for hook in output gateway cgroup; do capture_text $hook all verdicts "$@"; done
}
# each NAME OPTIONS... -- PORTS...; results NAME: those of all, counted.
each() {
    local name=$1 hook f a WHERE
    local -a options=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    for hook in output gateway cgroup; do
        for f in 4 6; do
            a=NET$f
            where $hook
            start "$name-$hook-$f" -- "${WHERE[@]}" "$TOOLS/connects" "${options[@]}" "${!a}" "$@"
        done
    done
}
results() { # NAME HOOK: RESULT=COUNT of both families
    local f
    for f in 4 6; do
        wait_exit "$1-$2-$f" 60 || echo "hung=1"
        awk 'NF == 3 {print $2}' "${LOG[$1-$2-$f]}"
        stop "$1-$2-$f" >/dev/null 2>&1
        rm -f "${LOG[$1-$2-$f]}"
    done | sort | uniq -c | awk '{print $2 "=" $1}' | paste -sd ' '
}
worker_pids() { us_status undersock '" ".join(str(w["pid"]) for w in s["workers"])'; }

# --- a worker dies between the SYN and the answer
us_daemon client < <(config)
each held -n 10 -t 40 -- 20020
wait_for 10 verdicts_are waiting -eq 60
is "$(verdicts waiting)" 60 "60 SYNs are held"
before=$(worker_pids)
# shellcheck disable=SC2086
kill -KILL $before
check "both workers are killed, and what they had asked for is gone" -- wait_for 10 verdicts_are waiting -lt 60
check "the applications ask again, and so do the new workers" -- wait_for 20 verdicts_are waiting -eq 60
verdicts release 0 >/dev/null
for hook in output gateway cgroup; do
    is "$(results held $hook)" "OK=20" "$hook: all are connected, as if nothing had been"
done
nothing_left "after the workers"
for n in 1 2; do check "worker $n was said to have died" -- test "$(grep -c 'was killed by signal 9' "${LOG[undersock]}")" -ge "$n"; done

# Somebody dies now and then, at any moment between SYN and end. Whoever was being connected is
# connected later, or reset after that; nobody is refused and nobody hangs.
each busy -n 1500 -c 16 -t 40 -- 20000
for ((i = 0; i < 6; i++)); do
    sleep 0.4
    read -r victim _ < <(worker_pids)
    [[ $victim ]] && kill -KILL "$victim" 2>/dev/null
done
for hook in output gateway cgroup; do
    r=$(results busy $hook)
    diag "$hook: $r"
    like "$r" '^OK=[0-9]+( lost=RST=[0-9]+)?$' "$hook: workers die during 3,000 connections: connected, or reset then"
    num "$(sed -E 's/^OK=([0-9]+).*/\1/' <<<"$r")" -ge 2700 "$hook: nearly all of them"
done
nothing_left "after dying workers"
is "$(grep -c . "${LOG[direct-20000]}")" 0 "none has got through directly"

# --- a reload
verdicts forget >/dev/null
each held -n 10 -t 40 -- 20020
wait_for 10 verdicts_are waiting -eq 60
for i in 1 2 3; do
    config "not-to = { \"192.0.2.$i/32\" }" >"$TMP/undersock.conf"
    us_reload undersock || bail "reload"
done
num "$(verdicts waiting)" -ge 60 "three reloads while 60 SYNs are held: they are held still"
each new -n 10 -t 40 -- 20000
for hook in output gateway cgroup; do
    is "$(results new $hook)" "OK=20" "$hook: new ones are connected meanwhile"
done
# Long enough for SYNs to come again, at 1 and 3 seconds.
sleep 3.5
verdicts release 0 >/dev/null
# What was asked a second time is told, too.
sleep 0.5
verdicts release 0 >/dev/null
for hook in output gateway cgroup; do
    is "$(results held $hook)" "OK=20" "$hook: the held ones are connected when it is granted"
done
num "$(verdicts port:20020)" -le 240 "and were asked for once by each configuration at most"
# The other verdicts, likewise.
each held -n 10 -t 40 -- 20020
wait_for 10 verdicts_are waiting -ge 60
config >"$TMP/undersock.conf"
us_reload undersock || bail "reload"
sleep 1.5
verdicts release 4 >/dev/null
sleep 0.5
verdicts release 4 >/dev/null
for hook in output gateway cgroup; do
    is "$(results held $hook)" "EHOSTUNREACH=20" "$hook: or told that the host is unreachable"
done

# --- a capture goes with a reload while its SYNs are held: what comes again goes the new way
each held -n 5 -t 40 -- 20020
wait_for 10 verdicts_are waiting -ge 30
config 'not-to = { "203.0.113.0/24", "2001:db8:113::/64" }' >"$TMP/undersock.conf"
us_reload undersock || bail "reload"
verdicts release 5 >/dev/null
for hook in output gateway; do
    like "$(results held $hook)" '^(ECONNREFUSED=10|WRONG=10|ECONNREFUSED=[0-9]+ WRONG=[0-9]+)$' "$hook: no longer selected: refused, or direct by then, not hanging"
done
results held cgroup >/dev/null
config >"$TMP/undersock.conf"
us_reload undersock || bail "reload"
# Questions that nobody waits for any more: they end when they are answered, and what was granted to
# nobody, further up, after 15 seconds.
answered() { verdicts release 5 && us_is undersock flows -eq 0; }
wait_for 30 answered
nothing_left "after the reloads"
check "the old workers go" -- wait_for 20 eval '[[ $(us_workers undersock | wc -w) == 2 ]]'

# --- the daemon is killed
for exit in open closed; do
    stop undersock
    rm -f "${LOG[undersock]}"
    for p in 20000 20014 20020; do : >"${LOG[direct-$p]}"; done
    us_daemon client < <(config "on-exit = \"$exit\"")
    # who, as it says whom the other end has seen.
    for hook in "${HELD[@]}"; do
        where $hook
        for f in 4 6; do
            a=NET$f
            start "killed-$hook-$f" -- "${WHERE[@]}" "$TOOLS/who" -t 60 "${!a}" 20020
        done
    done
    n=$((2 * ${#HELD[@]}))
    wait_for 10 verdicts_are waiting -eq $n
    is "$(verdicts waiting)" $n "on-exit = \"$exit\": $n SYNs are held"
    kill -KILL "${PID[undersock]}"
    ended undersock 10 2>/dev/null
    check "on-exit = \"$exit\": the daemon is killed, its upstream connections go with it" -- wait_for 15 verdicts_are open -eq 0
    for hook in "${HELD[@]}"; do
        for f in 4 6; do
            wait_exit "killed-$hook-$f" 40
            got=$(tail -n 1 "${LOG[killed-$hook-$f]}")
            from=CLIENT$f
            [[ $hook == gateway ]] && from=ONE$f
            case $exit-$hook in
            open-cgroup)
                # Its socket is on the way to a listener of ours that is gone.
                like "$got" "^(connect=ECONNREFUSED|${!from})$" "on-exit = \"open\": $hook, IPv$f: refused or direct, not hanging"
                ;;
            open-*) is "$got" "${!from}" "on-exit = \"open\": $hook, IPv$f: the SYN that comes again goes direct" ;;
            closed-*) is "$got" "connect=ECONNREFUSED" "on-exit = \"closed\": $hook, IPv$f: the SYN that comes again is refused" ;;
            esac
            stop "killed-$hook-$f"
            rm -f "${LOG[killed-$hook-$f]}"
        done
    done
    [[ $exit == closed ]] && is "$(cat "${LOG[direct-20020]}")" "" "on-exit = \"closed\": nothing gets through directly"
    if [[ $exit == open ]]; then
        is "$(tables_of client | grep -c undersock)" 0 "on-exit = \"open\": no table of ours is left"
    fi
done
# Back again: the next start finds whatever was left.
us_daemon client < <(config)
for hook in output gateway cgroup; do
    where $hook
    is "$("${WHERE[@]}" "$TOOLS/connects" "$NET4" 20000 20006 20007 | sort | awk '{print $2}' | paste -sd ' ')" \
        "OK EHOSTUNREACH ECONNREFUSED" "$hook: after the next start everything is as before"
done
nothing_left "the end"
done_testing
