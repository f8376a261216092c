#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch and what TCP can be asked to do: Fast Open and MPTCP, whose options are taken out of the SYN
# and whose data come later, timestamps, SACK, window scaling and ECN on or off at either end, SYN
# cookies, small segments. A wire of ours (tools/wire.c) sees each segment to the SOCKS server.
. "$(dirname "$0")/lib.sh"

need python3
[[ -c /dev/net/tun ]] || skip_all "no /dev/net/tun"
topology
. "$LIB_DIR/stitch_wire.sh"
start sink -- ns net "$TOOLS/pattern" serve :: 9004
start banner -- ns net "$TOOLS/pattern" serve -B :: 9005
start verdicts -- ns net "$TOOLS/verdicts" serve :: 1090 1091
for port in 9004 9005 1090; do wait_port net tcp :: $port; done
PEER_NAME=serve peer_serve net "$NET4" 1082
PEER_NAME=serve6 peer_serve net "$NET6" 1082
PEER_NAME=glued peer_bad net "$NET4" 1084 glued
PEER_NAME=glued6 peer_bad net "$NET6" 1084 glued
PROLOGUES+=(-p "4:1090=$request4" -p "6:1090=$request6") # of any port

# set_in NAMESPACE NAME=VALUE...: false when this kernel does not have it
set_in() {
    local n=$1 pair
    shift
    for pair; do ns "$n" sysctl -qw "net.$pair" 2>/dev/null || return 1; done
}
target() { # 4|6: sets `to` and `at`
    to=$NET4 at=$NET4
    (($1 == 6)) && to=$NET6 at="[$NET6]"
    return 0
}

# --- Fast Open: first without a cookie, then with one, then with data in each SYN
FAST='client net'
fast() { local n; for n in $FAST; do set_in "$n" ipv4.tcp_fastopen=$(($1)) || return 1; done; }
cat >"$TMP/fastopen.py" <<'PY'
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_STREAM)
s.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
s.settimeout(15)
s.connect((sys.argv[1], 20000))
s.sendall(b"x" * 700 + b"\n")
answer = b""
while not answer.endswith(b"\n"):
    answer += s.recv(100)
print(answer.decode().strip())
PY
if fast 0x603; then
    wire
    for family in 4 6; do
        target $family
        ns client "$TOOLS/connects" -q -T 600 -n 3 -c 1 "$to" 1090 >/dev/null 2>&1
    done
    num "$(told wire option)" -gt 0 "the wire knows Fast Open when it sees it"
    num "$(told wire raw)" -gt 0 "and data in a SYN"
    for mode in 0x603 0x607; do
        fast $mode
        wire
        for family in 4 6; do
            target $family
            stitch "socks5://$at:1090"
            is "$(app "$TOOLS/connects" -q -t 20 -T 1400 -n 30 "$to" 20000)" "30 20000 OK" "IPv$family, Fast Open ($mode): 1400 octets with the SYN arrive once"
            is "$(app timeout 20 python3 "$TMP/fastopen.py" "$to" 2>&1)" "$at:20000 701" "and of TCP_FASTOPEN_CONNECT"
            is "$(bad)" "0 0 0" "but not in the SYN, which has no such option"
            unstitch
        done
    done
    fast 1
else
    skip "Fast Open" "no net.ipv4.tcp_fastopen here"
fi

# --- MPTCP
if set_in client mptcp.enabled=1 && set_in net mptcp.enabled=1 && ns client "$TOOLS/connects" -P -q "$NET4" 1090 | grep -vq EPROTONOSUPPORT; then
    wire
    ns client "$TOOLS/connects" -P -q "$NET4" 1090 >/dev/null
    num "$(told wire option)" -gt 0 "the wire knows MPTCP when it sees it"
    wire
    for family in 4 6; do
        target $family
        stitch "socks5://$at:1090"
        is "$(app "$TOOLS/connects" -P -q -t 20 -n 50 "$to" 20000) $(app "$TOOLS/connects" -P -q -t 20 -n 20 "$to" 20007)" "50 20000 OK 20 20007 ECONNREFUSED" "IPv$family, MPTCP sockets"
        unstitch
    done
    is "$(bad)" "0 0 0" "without the option"
else
    skip "MPTCP" "no MPTCP here" 4
fi

# --- what can be switched off, or on, at either end
everything() { # WHAT
    local family to at
    wire
    for family in 4 6; do
        target $family
        stitch "socks5://$at:1082"
        is "$(many 12 "$to" 9004 100K)" 12 "$1, IPv$family: 12 streams"
        unstitch
        stitch "socks5://$at:1084"
        check "and behind a banner" -- app "$TOOLS/pattern" both -B -t 30 "$to" 9005 64K
        unstitch
    done
    is "$(bad)" "0 0 0" "and nothing wrong on the wire"
}
for option in timestamps sack window_scaling; do
    for where in client net 'client net'; do
        for n in $where; do set_in "$n" ipv4.tcp_$option=0; done
        everything "no $option at ${where/ /, }"
        for n in $where; do set_in "$n" ipv4.tcp_$option=1; done
    done
done
for n in client net; do set_in $n ipv4.tcp_timestamps=0 ipv4.tcp_sack=0 ipv4.tcp_window_scaling=0; done
everything "none of the three"
for n in client net; do set_in $n ipv4.tcp_timestamps=1 ipv4.tcp_sack=1 ipv4.tcp_window_scaling=1 ipv4.tcp_ecn=1; done
everything "ECN"
set_in client ipv4.tcp_ecn=0
everything "ECN at the server"
set_in client ipv4.tcp_ecn=1
set_in net ipv4.tcp_ecn=0
everything "ECN at the client"
if set_in client ipv4.tcp_ecn=3 && set_in net ipv4.tcp_ecn=3; then
    everything "accurate ECN"
else
    skip "accurate ECN" "not in this kernel"
fi
for n in client net; do set_in $n ipv4.tcp_ecn=2; done

# --- SYN cookies, also when segments are lost and there is nothing but the cookie
if set_in net ipv4.tcp_syncookies=2; then
    everything "SYN cookies"
    set_in net ipv4.tcp_timestamps=0
    everything "SYN cookies without timestamps"
    set_in net ipv4.tcp_timestamps=1
    wire -l 5 -d 5 -h 20
    stitch "socks5://$NET4:1082"
    is "$(many 60 "$NET4" 9004 4K)" 60 "SYN cookies on a bad path"
    unstitch
    set_in net ipv4.tcp_syncookies=1
else
    skip "SYN cookies" "no CONFIG_SYN_COOKIES"
fi

# --- small segments: announced by the client, by the server, and found out on the way
advertise() { # NS NUMBER: 0 takes it back
    local via4=$PROXY4 via6=$PROXY6 dev=up0
    [[ $1 == net ]] && via4=$EXIT4 via6=$EXIT6 dev=eth0
    ns "$1" ip route replace default via $via4 dev $dev ${2:+advmss "$2"}
    ns "$1" ip -6 route replace default via $via6 dev $dev ${2:+advmss "$2"}
}
small() { # WHAT OF-THE-CLIENT OF-THE-SERVER
    local family to at
    wire
    advertise client "$2"
    advertise net "$3"
    for family in 4 6; do
        target $family
        stitch "socks5://$at:1082"
        is "$(many 4 "$to" 9004 50K)" 4 "$1, IPv$family: 4 streams"
        unstitch
        stitch "socks5://$at:1084"
        check "and behind a banner" -- app "$TOOLS/pattern" both -B -t 30 "$to" 9005 20K
        unstitch
    done
    is "$(bad)" "0 0 0" "and nothing wrong on the wire"
    advertise net ''
}
small "a client that wants segments of 100" 100 ''
small "a server that wants segments of 100" '' 100
small "both" 100 100
wire
ns client ip link set up0 mtu 1280
stitch "socks5://[$NET6]:1082"
is "$(many 8 "$NET6" 9004 200K)" 8 "MTU 1280, IPv6: 8 streams"
unstitch
ns client ip link set up0 mtu 576
stitch "socks5://$NET4:1082"
is "$(many 8 "$NET4" 9004 200K)" 8 "MTU 576, IPv4: 8 streams"
unstitch
is "$(bad)" "0 0 0" "and nothing wrong on the wire"
# The server does not know, and is told by the router; so is the client.
wire
ns proxy ip link set down0 mtu 1280
stitch "socks5://[$NET6]:1082"
is "$(many 8 "$NET6" 9004 200K)" 8 "MTU 1280 on the way, IPv6: 8 streams"
unstitch
ns proxy ip link set down0 mtu 576
stitch "socks5://$NET4:1082"
is "$(many 8 "$NET4" 9004 200K)" 8 "MTU 576 on the way, IPv4: 8 streams"
unstitch
is "$(bad)" "0 0 0" "and nothing wrong on the wire"
unlinked
done_testing
