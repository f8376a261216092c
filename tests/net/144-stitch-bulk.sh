#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# Stitch, much and often: 6 GiB each way, so over the end of TCP's numbers, compared byte for byte, while
# the daemon stays, is killed, and is restarted; and 10,000 short connections over 200 ports, so that each
# tuple comes again and again, also while the other end still remembers it.
#
# UNDERSOCK_BULK=SIZE (as 3G; it must take longer than a restart) instead of 6 GiB, UNDERSOCK_MANY=N (1,000
# at least) instead of 10,000.
. "$(dirname "$0")/lib.sh"

need python3 tc
topology
BULK=${UNDERSOCK_BULK:-6G}
bytes=$(numfmt --from=iec "$BULK") || bail "UNDERSOCK_BULK"
. "$LIB_DIR/stitch.sh"
start sink -- ns net "$TOOLS/pattern" serve -t 0 :: 9004
wait_port net tcp :: 9004
PEER_NAME=serve peer_serve proxy "$PROXY4" 1081
PEER_NAME=serve6 peer_serve proxy "$PROXY6" 1081
start strict -- ns proxy "$TOOLS/strict" serve "$PROXY4" 1095
start strict6 -- ns proxy "$TOOLS/strict" serve "$PROXY6" 1095
wait_port proxy tcp "$PROXY4" 1095
wait_port proxy tcp "$PROXY6" 1095

up() {
    us_daemon client < <(config "$1")
    is "$(us_status undersock "s['captures'][0]['stitched']") $(st state)" "True on" "$1: stitched"
}
# The bytes that the one stitched connection has moved, both ways.
moved() { us_flows undersock "sum(f['bytes_up'] + f['bytes_down'] for f in s if f['engine'] == 'stitch')"; }
moved_more() { (($(moved) > $1)); }
# bulk MODE ADDR WHAT: begins a transfer, and returns in the middle of it.
bulk() {
    start bulk -- cg app ns client "$TOOLS/pattern" "$1" -t 120 "$2" 9004 "$BULK"
    wait_for 60 moved_more $((64 * 1024 * 1024)) || bail "no bytes"
    is "$(us_flows undersock "len(s), s[0]['engine']")" "(1, 'stitch')" "$3: stitched"
}
# again URL: `up`, which on a busy machine takes longer than the transfer has left.
again() {
    kill -STOP "${PID[bulk]}"
    up "$1"
    kill -CONT "${PID[bulk]}"
}
# arrived WHAT UP DOWN: the transfer of bulk() ends, and well.
arrived() {
    ended bulk 120
    local line
    line=$(tail -n 1 "${LOG[bulk]}")
    is "$ENDED" 0 "$1: byte for byte, and the half-close where it belongs"
    like "$line" " sent=$2 .* peer_received=$2 peer_bad=none peer_fin=1 received=$3 bad=none " "$1: all of it"
    diag "$line"
    rm -f "${LOG[bulk]}"
}

# --- 6 GiB: undisturbed, killed, restarted
up "socks5://$PROXY4:1081"
bulk send "$NET4" "IPv4, up"
arrived "IPv4, up" "$bytes" 0
bulk recv "$NET4" "IPv4, down"
arrived "IPv4, down" 0 "$bytes"
is "$(st granted) $(st failed) $(relayed)" "2 0 0" "no relay had anything to do with it"
bulk both "$NET4" "IPv4, both, the daemon killed"
kill_it
check "it is killed in the middle" -- running bulk
again "socks5://$PROXY4:1081"
check "and another one is there before the end" -- running bulk
arrived "IPv4, both, the daemon killed" "$bytes" "$bytes"
stop undersock
up "socks5://[$PROXY6]:1081"
bulk both "$NET6" "IPv6, both, the daemon restarted"
bounded 20 "$UNDERSOCK" stop -s "$TMP/undersock.sock"
wait_for 10 has_ended undersock
check "it is stopped in the middle" -- running bulk
is "$(ns client tc filter show dev up0 egress | grep -c us_st_)" 0 "without a filter"
again "socks5://[$PROXY6]:1081"
check "and started again before the end" -- running bulk
arrived "IPv6, both, the daemon restarted" "$bytes" "$bytes"
is "$(relayed) $(leaks sink)" "0 0" "nothing was relayed, nothing went direct"
stop undersock

# --- a tuple comes again
ns client sh -c 'echo "30000 30199" >/proc/sys/net/ipv4/ip_local_port_range'
waiting() { ns proxy ss -Htn state time-wait "( sport = :1095 )" | wc -l; }
for family in 4 6; do
    if [[ $family == 4 ]]; then to=$NET4 at=$PROXY4 log=strict; else to=$NET6 at="[$PROXY6]" log=strict6; fi
    up "socks5://$at:1095"
    is "$(app timeout 100 "$TOOLS/strict" talk -C -n 600 -c 4 "$to" 9000)" "600 OK" "IPv$family: 600 connections over 200 ports that the client closes: none fails, each has its own bytes"
    n=${UNDERSOCK_MANY:-10000}
    ((family == 4)) || n=$((n / 5))
    is "$(app timeout 100 "$TOOLS/strict" talk -S -n "$n" -c 8 "$to" 9000)" "$n OK" "IPv$family: $n that the server closes"
    # So each of those was used $n / 200 times at least, and most of the time remembered there.
    num "$(waiting)" -ge 50 "IPv$family: the server still has them in TIME_WAIT"
    num "$(waiting)" -le 200 "IPv$family: 200 at most, so each tuple came again and again"
    is "$(grep -c '^line ' "${LOG[$log]}")" $((n + 600)) "IPv$family: the server had each once"
    is "$(grep -c '^RAW' "${LOG[$log]}")" 0 "IPv$family: and nothing else"
    is "$(st granted) $(st failed) $(st full) $(relayed)" "$((n + 600)) 0 0 0" "IPv$family: all of them stitched"
    diag "$(us_status undersock "s['stitch']")"
    stop undersock
done
done_testing
