#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# Stitch in each state that the checksum of a packet can be in, on its way out and on its way in: left
# to the device, computed, verified by the device, summed by it, or by nobody. Whatever is put
# together of the packet at hand, a segment, a reset or an ICMP error, is right for who receives it.
. "$(dirname "$0")/lib.sh"

need nft python3
[[ -c /dev/net/tun ]] || skip_all "no /dev/net/tun"
topology
. "$LIB_DIR/stitch_wire.sh"
impatient client
start sink -- ns net "$TOOLS/pattern" serve :: 9004
start banner -- ns net "$TOOLS/pattern" serve -B :: 9005
start verdicts -- ns net "$TOOLS/verdicts" serve :: 1090 1091
for port in 9004 9005 1090; do wait_port net tcp :: $port; done
PEER_NAME=serve peer_serve net "$NET4" 1082
PEER_NAME=serve6 peer_serve net "$NET6" 1082
PEER_NAME=glued peer_bad net "$NET4" 1084 glued
PEER_NAME=glued6 peer_bad net "$NET6" 1084 glued
ns proxy sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit'

verdicts() { app "$TOOLS/connects" -c 1 -t 10 "$@" | awk '{print $2}' | paste -sd ' '; }
refuse() { # port that a router lets nobody reach
    ns proxy nft -f - <<-NFT
	table inet test_sums {
	    chain c { type filter hook forward priority 0; tcp dport 1099 reject with icmpx type host-unreachable; }
	}
	NFT
}
refuse || bail "nft"
# In which states more than a few packets came in.
states() {
    local name
    for name in complete unnecessary other; do
        (($(told sums $name) > 10)) && echo $name
    done | paste -sd ' '
}
# by URL: stitched, and sums sees the packets before the filters, which go before whom they find.
by() {
    local before
    stitch "$1"
    running sums || return 0
    before=$(grep -c ^first "${LOG[sums]}")
    kill -USR2 "${PID[sums]}"
    wait_for 5 eval '(($(grep -c ^first "${LOG[sums]}") > before))' || bail "sums is not first"
}
# each WHAT LOOKER STATES: everything that is made of a packet, both families, on what is between client
# and proxy; LOOKER has seen it there; STATES: how packets came in (tools/sums.c)
each() {
    local what=$1 who=$2 want=$3 family to at
    stop sums
    rm -f "$TMP/sums.log"
    start sums -- ns client "$TOOLS/sums" up0
    wait_for 5 eval 'has_ended sums || grep -q ready "$TMP/sums.log"'
    for family in 4 6; do
        to=$NET4 at=$NET4
        ((family == 6)) && to=$NET6 at="[$NET6]"
        by "socks5://$at:1082"
        check "$what, IPv$family: 2 MiB each way" -- app "$TOOLS/pattern" both -t 30 "$to" 9004 2M
        unstitch
        by "socks5://$at:1084"
        check "behind a banner in the segment of the reply" -- app "$TOOLS/pattern" both -B -t 30 "$to" 9005 64K
        unstitch
        by "socks5://$at:1090"
        is "$(verdicts "$to" 20000 20005 20006 20007)" "OK ENETUNREACH EHOSTUNREACH ECONNREFUSED" "verdicts, as ICMP and as a reset"
        is "$(told stitch error)" 0 "nothing could not be done"
        unstitch
        by "socks5://$at:1099"
        is "$(verdicts "$to" 20000)" EHOSTUNREACH "an ICMP error of a router"
        unstitch
    done
    is "$(bad "$who")" "0 0 0" "$what: every checksum was right on the wire, and nothing raw"
    if running sums; then
        is "$(states)" "$want" "and packets came in as they were meant to"
    else
        skip "the state that packets come in in" "no tcx in this kernel"
    fi
    stop sums
}

# --- a device that is ours
wire -s partial -o
each "left to the devices, both ways" wire other
num "$(told wire gso)" -gt 0 "also segmentation"
wire
each "computed before the device, verified by the receiver" wire other
is "$(told wire partial) $(told wire gso)" "0 0" "all of them"
wire -s valid -o
each "verified by the device, which computes what goes out" wire unnecessary
wire -L -s partial -o
each "a device without a header, left to it" wire other
wire -L
each "a device without a header, computed" wire other

# --- a tunnel: what comes out of it has been summed
unlinked
start wire -- "$TOOLS/wire" join "/run/netns/$US-client" under0 "/run/netns/$US-proxy" under0
wait_log wire '^ready' || bail wire
ns_addresses client under0 10.79.0.2/24
ns_addresses proxy under0 10.79.0.1/24
for n in client proxy; do ns $n ip link set under0 up; done
tunnel() { ns "$1" ip link add "$2" type vxlan id 7 dstport 4789 dev under0 local "$3" remote "$4" udpcsum; }
watch() { # who comes in at the proxy
    stop watch
    rm -f "$TMP/watch.log"
    start watch -- ns proxy "$TOOLS/wire" watch "${PROLOGUES[@]}" down0
    wait_log watch '^ready' || bail "watch"
}
if tunnel client up0 10.79.0.2 10.79.0.1 2>/dev/null && tunnel proxy down0 10.79.0.1 10.79.0.2; then
    linked
    watch
    each "summed by the device" watch complete
else
    skip "summed by the device" "no VXLAN in this kernel"
fi
unlinked
ns client ip link del under0 2>/dev/null

# --- veth, with this and that switched off
cat >"$TMP/offload.py" <<'PY'
import array, fcntl, socket, struct, sys
SET = {"rx": 0x15, "tx": 0x17, "sg": 0x19, "tso": 0x1f, "gso": 0x24, "gro": 0x2c}  # ETHTOOL_S*
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for name in sys.argv[2:]:
    value = array.array("B", struct.pack("II", SET[name], 0))
    fcntl.ioctl(s, 0x8946, struct.pack("16sP", sys.argv[1].encode(), value.buffer_info()[0]))
PY
off() { ns "$1" python3 "$TMP/offload.py" "${@:2}" || bail "offloads of $2"; }
pair() {
    unlinked
    ip link add up0 netns "$US-client" type veth peer name down0 netns "$US-proxy" || bail veth
    linked
}
veth() { # WHAT STATES: with what is switched off by now
    watch
    each "veth, $1" watch "$2"
}
pair
veth "as it is" other
num "$(told watch partial)" -gt 0 "which is: left to the devices"
pair
off client up0 tx
veth "the client's tx off" other
is "$(told watch partial)" 0 "which is: computed"
pair
off client up0 rx
veth "the client's rx off" other
pair
off proxy down0 tx rx tso gso gro sg
veth "everything off at the proxy's end" other
pair
off client up0 tx rx tso gso gro sg
off proxy down0 tx rx tso gso gro sg
veth "everything off" other
unlinked
done_testing
