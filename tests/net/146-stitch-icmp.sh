#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# ICMP errors about a stitched SYN, which quote another number than the application's kernel knows: what
# connect() says, and when, is what it says to an application that needs no stitch. Of routers, of
# the first hop's firewall, of nobody at all; and what only looks like one is not believed. The daemon
# hears of it and relays.
. "$(dirname "$0")/lib.sh"

need nft tc python3
topology
net_who 9000
cg_new app
cg_new app6
impatient client
ns_quick() { ns "$1" sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit
    echo 100000 >/proc/sys/net/ipv4/icmp_msgs_per_sec; echo 100000 >/proc/sys/net/ipv4/icmp_msgs_burst' 2>/dev/null; }
ns_quick proxy
ns_quick net
start verdicts -- ns net "$TOOLS/verdicts" serve :: 1090 1091
wait_port net tcp :: 1090

app() { cg app ns client "$@"; }
result() { "$@" -c 1 -t 10 | awk '{print $2}'; }
native() { result ns client "$TOOLS/connects" "$@" 1090; }
stitched() { result app "$TOOLS/connects" "$@" 20000; }
stitched6() { result cg app6 ns client "$TOOLS/connects" "$@" 20000; }
stitch() {
    start stitch -- ns client "$TOOLS/stitch" "$(cg_path app)" "$@"
    wait_log stitch '^ready' || bail "stitch $*"
}
unstitch() { stop stitch; rm -f "${LOG[stitch]}"; }
# at_once COMMAND...: each is a word with its arguments, and they wait side by side; what they say, in order.
at_once() {
    local i pids=()
    for ((i = 1; i <= $#; i++)); do
        # shellcheck disable=SC2086
        eval "${!i}" >"$TMP/at_once.$i" &
        pids+=($!)
    done
    wait "${pids[@]}"
    for ((i = 1; i <= $#; i++)); do cat "$TMP/at_once.$i"; done | paste -sd ' '
}
rule() { # NS HOOK STATEMENT...: of what goes to the server
    ns "$1" nft -f - <<-NFT
	table inet test_icmp
	delete table inet test_icmp
	table inet test_icmp {
	    chain c { type filter hook $2 priority 0; tcp dport 1090 ${*:3}; }
	}
	NFT
}
no_rule() { ns "$1" nft delete table inet test_icmp; }

# --- routers and firewalls
for family in 4 6; do
    to=$NET4 at=$NET4 icmp=icmp
    kinds=(net-unreachable host-unreachable prot-unreachable port-unreachable net-prohibited host-prohibited admin-prohibited)
    if ((family == 6)); then
        to=$NET6 at="[$NET6]" icmp=icmpv6
        kinds=(no-route admin-prohibited addr-unreachable port-unreachable)
    fi
    stitch "socks5://$at:1090"
    for kind in "${kinds[@]}"; do
        rule proxy forward reject with $icmp type $kind || bail "nft: $kind"
        : >"${LOG[stitch]}"
        read -r -a both < <(at_once "stitched $to" "stitched -b $to" "native $to" "native -b $to")
        is "${both[*]:0:2}" "${both[*]:2}" "IPv$family, a router: $kind"
        check "and is reported" -- wait_log stitch '^failed unreachable step=0 '
    done
    no_rule proxy
    rule net input reject with $icmp type port-unreachable
    is "$(stitched $to)" "$(native $to)" "IPv$family, the server's firewall: port unreachable"
    is "$(stitched $to)" ECONNREFUSED "which is a refusal"
    rule net input reject with tcp reset
    is "$(stitched $to)" "$(native $to)" "IPv$family, the server's firewall: reset"
    no_rule net
    is "$(stitched $to)" OK "IPv$family: and without any of them it works"
    is "$(app "$TOOLS/connects" -q -t 30 -n 200 "$to" 20000)" "200 20000 OK" "IPv$family: 200 of them"
    # One hop too few: who forwards says "time exceeded".
    hops() { ns client sysctl -qw "$([[ $family == 4 ]] && echo net.ipv4.ip_default_ttl || echo net.ipv6.conf.up0.hop_limit)=$1"; }
    hops 1
    : >"${LOG[stitch]}"
    is "$(stitched $to)" "$(native $to)" "IPv$family, a router: time exceeded"
    check "and is reported" -- wait_log stitch '^failed unreachable step=0 '
    hops 64
    unstitch
done

# --- forged: each SYN that would be forwarded gets one of these as its answer, and what it says is
# believed of a stitched connection just when it is of a native one
cat >"$TMP/forge.py" <<'PY'
import socket, struct, sys
device, kind = sys.argv[1], sys.argv[2]
def fold(b):
    b += b"\0" * (len(b) % 2)
    s = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
KINDS = {  # type, code, the word behind, octets of TCP, change of its number; the same of ICMPv6
    "whole": (3, 1, 0, 60, 0, 1, 3, 0), "least": (3, 1, 0, 8, 0, 1, 3, 0), "cut": (3, 1, 0, 7, 0, 1, 3, 0),
    "low": (3, 1, 0, 20, -1, 1, 3, 0), "high": (3, 1, 0, 20, 5, 1, 3, 0), "far": (3, 1, 0, 20, 1 << 30, 1, 3, 0),
    "port": (3, 3, 0, 8, 0, 1, 4, 0), "time": (11, 0, 0, 8, 0, 3, 0, 0), "parameter": (12, 0, 0, 8, 0, 4, 0, 0),
    "size": (3, 4, 700, 8, 0, 2, 0, 1300), "code": (3, 77, 0, 8, 0, 1, 77, 0), "quench": (4, 0, 0, 8, 0, 1, 7, 0),
    "sum": (3, 1, 0, 8, 0, 1, 3, 0)}
t4, c4, w4, octets, by, t6, c6, w6 = KINDS[kind]
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
s.bind((device, 3))
out4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
out6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
print("ready", flush=True)
while True:
    p, where = s.recvfrom(2048)
    v4 = p[0] >> 4 == 4
    n = 20 if v4 else 40
    if p[9 if v4 else 6] != 6 or where[2] == 4 or struct.unpack("!H", p[n + 2:n + 4])[0] != 1090 or p[n + 13] & 0x12 != 2:
        continue
    seq = (struct.unpack("!I", p[n + 4:n + 8])[0] + by) & 0xffffffff
    tcp = (p[n:n + 4] + struct.pack("!I", seq) + p[n + 8:])[:octets]
    m = struct.pack("!BBHI", t4 if v4 else t6, c4 if v4 else c6, 0, w4 if v4 else w6) + p[:n] + tcp
    pseudo = b"" if v4 else p[24:40] + p[8:24] + struct.pack("!II", len(m), 58)
    m = m[:2] + struct.pack("!H", fold(pseudo + m) ^ (kind == "sum")) + m[4:]
    if v4:
        out4.sendto(m, (socket.inet_ntop(socket.AF_INET, p[12:16]), 0))
    else:
        m = struct.pack("!IHBB", 6 << 28, len(m), 58, 64) + p[24:40] + p[8:24] + m
        out6.sendto(m, (socket.inet_ntop(socket.AF_INET6, p[8:24]), 0, 0, 0))
PY
mtu_to() { ns client ip route get "$1" | grep -o 'mtu [0-9]*'; }
forget() { ns client ip route flush cache; ns client ip -6 route flush cache; }
rule proxy forward drop
for kind in whole least port time parameter cut low high code sum size; do
    rm -f "$TMP/forge.log"
    start forge -- ns proxy python3 "$TMP/forge.py" down0 $kind
    wait_log forge ready || bail "forge $kind"
    start stitch -- ns client "$TOOLS/stitch" "$(cg_path app)" "socks5://$NET4:1090"
    start stitch6 -- ns client "$TOOLS/stitch" -i 1 "$(cg_path app6)" "socks5://[$NET6]:1090"
    for s in stitch stitch6; do wait_log $s '^ready' || bail "$s"; done
    if [[ $kind == size ]]; then
        want="$(at_once "native $NET4" "native $NET6") $(mtu_to "$NET4") $(mtu_to "$NET6")"
        forget
        got="$(at_once "stitched $NET4" "stitched6 $NET6") $(mtu_to "$NET4") $(mtu_to "$NET6")"
    else
        read -r -a said < <(at_once "native $NET4" "native $NET6" "stitched $NET4" "stitched6 $NET6")
        want=${said[*]:0:2} got=${said[*]:2}
    fi
    unstitch
    stop stitch6
    rm -f "${LOG[stitch6]}"
    is "$got" "$want" "forged: $kind"
    case $kind in
    whole | least | time) is "$got" "EHOSTUNREACH EHOSTUNREACH" "which is believed" ;;
    low | high | sum) is "$got" "ETIMEDOUT ETIMEDOUT" "which is not believed" ;;
    size) like "$got" "^ETIMEDOUT ETIMEDOUT mtu 700" "which is no error, but a smaller MTU" ;;
    esac
    stop forge
done
no_rule proxy
forget

# --- the daemon hears of it, and relays
PEER_NAME=first peer_serve proxy "$PROXY4" 1081
PEER_NAME=second peer_serve proxy "$EXIT4" 1082
us_daemon client <<CONF
fast-path = "stitch"
upstream "first" { url = "socks5://$PROXY4:1081" }
upstream "second" { url = "socks5://$EXIT4:1082" }
group "pair" { members = { "first", "second" } }
capture "app" { hook = "cgroup" cgroup = "/$US-app" upstream = "pair" }
CONF
who() { app timeout 20 "$TOOLS/who" "$NET4" 9000 2>&1; }
relayed() { [[ $(us_status undersock "s['captures'][0]['stitched']") == False ]]; }
is "$(who) $(us_status undersock "s['stitch']['granted']")" "$EXIT4 1" "stitched to the first of a group"
ns proxy nft -f - <<NFT
table inet test_icmp {
    chain c { type filter hook input priority 0; tcp dport 1081 reject with icmpx type host-unreachable; }
}
NFT
like "$(who)" "EHOSTUNREACH" "the first cannot be reached: so says connect()"
check "and it is relayed" -- wait_for 5 relayed
check "with a line that says why" -- wait_log undersock 'cannot be reached'
is "$(who) $(us_status undersock "s['stitch']['granted']")" "$EXIT4 1" "by the second, with the next connection"
stop undersock
done_testing
