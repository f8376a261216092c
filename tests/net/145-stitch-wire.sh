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

# --- loss, doubles, order
for family in 4 6; do
    to=$NET4 at=$NET4
    ((family == 6)) && to=$NET6 at="[$NET6]"
    for percent in 1 5 10; do
        wire -l $percent -d $percent -h 20 -m 60
        stitch "socks5://$at:1082"
        is "$(many 150 "$to" 9004 20K)" 150 "IPv$family, $percent % lost, $percent % doubled, 20 % late: 150 streams, each octet right"
        is "$(bad) $(told stitch error)" "0 0 0 0" "and on the wire each checksum, and nothing raw"
        num "$(told wire lost)" -gt 0 "it was lossy ($(told stitch again) SYNs again)"
        unstitch
    done
    wire -l 5 -d 30 -h 30 -m 1500
    stitch "socks5://$at:1082"
    is "$(many 300 "$to" 9004 8K)" 300 "IPv$family, doubles and what is late up to 1.5 s: 300 streams"
    is "$(bad)" "0 0 0" "and nothing wrong on the wire"
    unstitch
    stitch "socks5://$at:1083"
    wire -l 2 -d 10 -h 40 -m 30
    is "$(many 40 "$to" 9004 5K)" 40 "IPv$family, answers in single octets, out of order: 40 streams"
    is "$(bad)" "0 0 0" "and nothing wrong on the wire"
    unstitch
done
done_testing
