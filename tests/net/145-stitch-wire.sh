#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch on a wire that loses, doubles and reorders (tools/wire.c), both ways and all the time: all
# connections come about, none gets a wrong octet, and each octet that goes to the SOCKS server is one
# that must. Whoever computes checksums, the sender, a device or the receiver: every segment's is right.
. "$(dirname "$0")/lib.sh"
[[ -c /dev/net/tun ]] || skip_all "no /dev/net/tun"
topology
. "$LIB_DIR/stitch_wire.sh"
start sink -- ns net "$TOOLS/pattern" serve :: 9004
start banner -- ns net "$TOOLS/pattern" serve -B :: 9005
for port in 9004 9005; do wait_port net tcp :: $port; done
PEER_NAME=serve peer_serve net "$NET4" 1082
PEER_NAME=serve6 peer_serve net "$NET6" 1082
PEER_NAME=slow peer_bad net "$NET4" 1083 slow 5
PEER_NAME=slow6 peer_bad net "$NET6" 1083 slow 5
PEER_NAME=glued peer_bad net "$NET4" 1084 glued
PEER_NAME=glued6 peer_bad net "$NET6" 1084 glued

# Both families at once, each with a stitch and a cgroup of its own.
cg_new app6
app6() { cg app6 ns client "$@"; }
stitches() { # PORT
    stitch "socks5://$NET4:$1"
    start stitch6 -- ns client "$TOOLS/stitch" -i 1 -t 100 "$(cg_path app6)" "socks5://[$NET6]:$1"
    wait_log stitch6 '^ready' || bail "stitch by IPv6"
}
unstitches() {
    unstitch
    stop stitch6
    rm -f "${LOG[stitch6]}"
}
# both N PORT BYTES DESCRIPTION: so many streams of each family; then what was on the wire
both() {
    APP=app6 OUT=$TMP/many6 many "$1" "$NET6" "$2" "$3" >"$TMP/good6" &
    local six=$!
    is "$(many "$1" "$NET4" "$2" "$3")" "$1" "IPv4, $4: $1 streams, each octet right"
    wait $six
    is "$(<"$TMP/good6")" "$1" "IPv6, $4: $1 streams, each octet right"
    is "$(bad) $(told stitch error) $(told stitch6 error)" "0 0 0 0 0" "and on the wire each checksum, and nothing raw"
}

# --- loss, doubles, order
for percent in 1 5 10; do
    wire -l $percent -d $percent -h 20 -m 60
    stitches 1082
    both 150 9004 20K "$percent % lost, $percent % doubled, 20 % late"
    num "$(told wire lost)" -gt 0 "it was lossy ($(told stitch again) SYNs again, and $(told stitch6 again))"
    unstitches
done
wire -l 5 -d 30 -h 30 -m 1500
stitches 1082
both 300 9004 8K "doubles and what is late up to 1.5 s"
unstitches
stitches 1083
wire -l 2 -d 10 -h 40 -m 30
both 40 9004 5K "answers in single octets, out of order"
unstitches
done_testing
