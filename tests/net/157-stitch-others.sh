#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch where packets do not come to our filters: beside somebody else's programs on the same interface, which are
# asked before ours and end the matter (Cilium's, a meter's, an administrator's own), and with IPsec. Ours go
# before theirs where the kernel can; where it cannot, connections are relayed. Nothing hangs, whoever comes when.
# And where this host translates addresses, so that a socket knows others than its packets have.
. "$(dirname "$0")/lib.sh"

need python3 tc nft
topology
net_who 9000
. "$LIB_DIR/stitch.sh"
CAPTURE_KEYS=('udp = "bypass"' 'dns = "bypass"')
PEER_NAME=serve peer_serve proxy "$PROXY4" 1081
start sink -- ns net "$TOOLS/pattern" serve :: 9004
wait_port net tcp :: 9004

others() { start "other-$1" -- ns client "$TOOLS/tcx" up0 "$@" && wait_log "other-$1" ready; }
programs() { ns client "$TOOLS/tcx" up0 "$1" count; }
whole() { # WHAT
    is "$(seen -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "$1: connected"
    is "$(app "$TOOLS/connects" -q -n 20 "$NET4" 9001 | awk '{print $1, $3}')" "20 ECONNREFUSED" "$1: refusals are told"
    check "$1: 2 MiB each way" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9004 2M
}
# One connection may meet what nobody has told us of: it is ended at once.
meets() { is "$(app timeout 10 "$TOOLS/who" "$NET4" 9000 2>&1)" "connect=ECONNABORTED" "$1: the first connection is ended, and does not hang"; }
# What the log has said of it, by the daemon of now.
begin_relaying() {
    us_daemon client < <(config "socks5://$PROXY4:1081")
    LOG_BEFORE=$(wc -l <"${LOG[undersock]}")
}
begin() {
    begin_relaying
    stitched_is True || bail "not stitched"
}
say() { tail -n +"$((LOG_BEFORE + 1))" "${LOG[undersock]}" | grep -cF "$1"; }
went_first() { say "lets packets past our filters; ours are asked before it now"; }
gave_up() { say "connections are relayed, until the next reload"; }
stitches() { # WHAT: all of them
    local before
    before="$(st begun) $(relayed)"
    whole "$1"
    is "$(st begun) $(relayed)" "$((${before% *} + 22)) ${before#* }" "$1: all of them stitched"
}
relays() { # WHAT
    is "$(seen "$NET4" 9000) $(stitched)" "$EXIT4 False" "$1: relayed"
    like "$(us_status undersock "s['captures'][0]['why_relayed']")" "do not come to its filters" "$1: status says why"
    whole "$1"
    is "$(gave_up)" 1 "$1: the log says so, once"
}

# --- IPsec without an interface of its own: what leaves is wrapped before it comes to the filters
declare -A other=([in]=out [out]=in)
secure() { # add|delete [MARK...]: mark 0 mask 0xff is whatever has no mark
    local how=$1 dir spi=0x100 from=$CLIENT4 to=$PROXY4 key=() template=()
    shift
    [[ $how == add ]] && template=(tmpl proto esp mode transport) &&
        key=(mode transport auth 'hmac(sha256)' "0x$(printf '%064d' 7)" enc 'cbc(aes)' "0x$(printf '%032d' 9)")
    for dir in out in; do
        ns client ip xfrm state "$how" src "$from" dst "$to" proto esp spi $spi "${key[@]}" 2>/dev/null &&
            ns proxy ip xfrm state "$how" src "$from" dst "$to" proto esp spi $spi "${key[@]}" || return
        ns client ip xfrm policy "$how" src "$from" dst "$to" dir $dir "$@" "${template[@]}"
        ns proxy ip xfrm policy "$how" src "$from" dst "$to" dir "${other[$dir]}" "${template[@]}"
        spi=0x200 from=$PROXY4 to=$CLIENT4
    done
}
why() { us_status undersock "s['captures'][0]['why_relayed']"; }
ipsec_relays() { # WHAT
    local before
    like "$(why)" 'IPsec \("ip xfrm policy"\)' "$1: status says why"
    before=$(st begun)
    whole "$1"
    is "$(st begun) $(gave_up)" "$before 0" "$1: nothing is stitched"
}
if secure add; then
    begin_relaying
    ipsec_relays "IPsec from the start"
    secure delete
    check "without it they are stitched" -- wait_for 20 stitched_is True
    stitches "without IPsec"
    secure add
    check "with it again they are not" -- wait_for 20 stitched_is False
    ipsec_relays "IPsec, later"
    secure delete
    check "and again" -- wait_for 20 stitched_is True
    secure add mark 0 mask 0xff
    meets "a policy that is not understood"
    relays "a policy that is not understood"
    # "ip" does not find a policy of that mark to delete it.
    for n in client proxy; do
        ns $n ip xfrm policy flush
        ns $n ip xfrm state flush
    done
    use "socks5://$PROXY4:1081"
    stitches "without IPsec, and after a reload"
    stop undersock
else
    skip "packets that IPsec wraps" "no ESP in this kernel"
fi
policy() { # add|delete DESTINATION DIRECTION [MORE...]
    local template=()
    [[ $1 == add ]] && template=(tmpl proto esp mode transport)
    ns client ip xfrm policy "$1" src 0.0.0.0/0 dst "$2" dir "$3" "${@:4}" "${template[@]}" 2>/dev/null
}
if policy add 10.77.0.0/16 out; then
    begin_relaying
    is "$(stitched)" False "a policy for the server's network: not stitched"
    like "$(why)" 'IPsec \("ip xfrm policy"\)' "status says why"
    policy delete 10.77.0.0/16 out
    check "without it they are" -- wait_for 20 stitched_is True
    policy add 10.78.0.0/16 out
    policy add 10.77.0.0/16 in
    policy add 10.77.0.0/16 fwd
    ns client ip xfrm policy add src 0.0.0.0/0 dst 10.77.0.0/16 proto udp dir out tmpl proto esp mode transport
    policy add 10.77.0.0/16 out if_id 7
    use "socks5://$PROXY4:1081"
    is "$(stitched)" True "other policies are no reason"
    PEER_NAME=local peer_serve client 127.0.0.1 1085
    policy add 0.0.0.0/0 out
    check "one for everything is" -- wait_for 20 stitched_is False
    use socks5://127.0.0.1:1085
    check "but not for a server on this host" -- wait_for 20 stitched_is True
    ns client ip xfrm policy flush
    stop undersock
else
    skip "IPsec's policies" "no IPsec in this kernel"
fi

# --- this host translates addresses: the socket's are not those on the interface
nat() { # HOOK PRIORITY RULE
    ns client nft -f - <<<"table inet test_nat { chain c { type nat hook $1 priority $2; $3; }; }" || bail "nft: $3"
}
no_nat() { ns client nft delete table inet test_nat; }
begin
nat postrouting 100 "oifname up0 meta l4proto tcp masquerade to :30000-39999"
stitches "other ports on the wire"
no_nat
# On the wire the first one's port is the second one's, and a record of it stays for a while.
cat >"$TMP/from.py" <<'PY'
import errno, socket, sys
s = socket.socket()
s.settimeout(10)
s.bind(('', int(sys.argv[1])))
print(errno.errorcode.get(s.connect_ex((sys.argv[2], int(sys.argv[3]))), 'connected'))
PY
nat postrouting 100 "oifname up0 tcp sport 40001 masquerade to :40002; oifname up0 tcp sport 40002 masquerade to :40003"
is "$(app python3 "$TMP/from.py" 40001 "$NET4" 1 2>&1)" ECONNREFUSED "a port that is another's on the wire: refused"
is "$(app python3 "$TMP/from.py" 40002 "$NET4" 9000 2>&1) $(stitched)" "connected True" "and that other: connected"
no_nat
PEER_NAME=moved peer_serve proxy "$PROXY4" 1087 # a port that no configuration has had
nat output -100 "ip daddr 10.77.1.77 tcp dport 1086 dnat ip to $PROXY4:1087"
use "socks5://10.77.1.77:1086"
stitches "a server with another address and port on the wire"
is "$(seen 203.0.113.99 9000)" "connect=EHOSTUNREACH" "and its answer by ICMP is translated, too"
no_nat
PEER_NAME=serve6 peer_serve proxy "$PROXY6" 1081
use "socks5://[$PROXY6]:1081"
nat postrouting 100 "oifname up0 meta l4proto tcp masquerade to :30000-39999"
before="$(st begun) $(relayed)"
is "$(seen -p "$NET6" 9000) $(seen "$NET6" 1)" "$EXIT6 peer=[$NET6]:9000 connect=ECONNREFUSED" "IPv6: connected, refused"
is "$(st begun) $(relayed)" "$((${before% *} + 2)) ${before#* }" "IPv6: stitched"
no_nat
stop undersock

# --- a filter of the administrator's on the same qdisc, younger than ours
pass_all() { ns client tc filter add dev up0 "$1" protocol all pref 1 handle 1 bpf bytecode '1,6 0 0 4294967295' flowid 1:1; }
begin
stitches "alone"
pass_all egress || bail "tc filter"
pass_all ingress || bail "tc filter"
# What meets it first is a SYN with data (Fast Open, without a cookie): nobody is there to take them out.
cat >"$TMP/fast.py" <<'PY'
import errno, socket, sys
s = socket.socket()
try:
    s.sendto(b'x' * 1000, socket.MSG_FASTOPEN, (sys.argv[1], int(sys.argv[2])))
    print(len(s.recv(100)))
except OSError as e:
    print('connect=' + errno.errorcode[e.errno])
PY
data_in_syns() { ns proxy nft list counter inet test_syns data | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
ns proxy nft 'table inet test_syns {
    counter data { };
    chain c { type filter hook prerouting priority 0; tcp dport 1081 tcp flags & (syn | ack) == syn meta length > 500 counter name data; };
}' || bail "nft"
if ns client sysctl -qw net.ipv4.tcp_fastopen=5 2>/dev/null; then
    is "$(cg app ns client timeout 10 python3 "$TMP/fast.py" "$NET4" 9000 2>&1)" "connect=ECONNABORTED" "a filter before ours: the first connection is ended, and does not hang"
    is "$(data_in_syns)" 0 "and nothing of what it sent with its SYN has gone past"
    ns client timeout 10 python3 "$TMP/fast.py" "$PROXY4" 1081 >/dev/null 2>&1
    is "$(data_in_syns)" 1 "which would be seen"
    ns client sysctl -qw net.ipv4.tcp_fastopen=1
else
    skip "a SYN with data" "no net.ipv4.tcp_fastopen here" 2
    meets "a filter before ours"
fi
if ! ns client "$TOOLS/tcx" up0 in count >/dev/null 2>&1; then
    relays "without tcx"
    ns client tc qdisc del dev up0 clsact
    use "socks5://$PROXY4:1081"
    stitches "after it has gone, and a reload"
    skip "what comes before every qdisc" "no tcx in this kernel" 1
    done_testing
    exit
fi
stitches "before it"
is "$(programs in) $(programs out) $(went_first) $(gave_up)" "1 1 1 0" "by tcx, as the log says"
# Interfaces that come have it at once, and those that go take it with them.
covered() { [[ $(ns client "$TOOLS/tcx" "$1" "$2" count 2>/dev/null) == 1 ]]; }
before=$(fd_count "${PID[undersock]}")
for ((i = 0; i < 5; i++)); do
    ns client ip link add here0 type veth peer name here1
    wait_for 10 covered here0 out && wait_for 10 covered here1 out || break
    ns client ip link del here0
done
is $i 5 "also on interfaces that come later"
same_fds() { [[ $(fd_count "${PID[undersock]}") == "$before" ]]; }
check "and nothing is left of those that go" -- wait_for 10 same_fds
stop undersock
is "$(programs in) $(programs out)" "0 0" "nothing of ours stays"
ns client tc qdisc del dev up0 clsact

# --- somebody who was there already
others in 0
others out 0
begin
stitches "he came first"
is "$(programs in) $(programs out) $(went_first) $(gave_up)" "2 2 0 0" "ours are before him, and nobody had to be ended"
kill_it
is "$(programs in) $(programs out)" "1 1" "a kill takes ours away"
is "$(seen "$NET4" 9000)" "$CLIENT4" "and connections go direct"
begin
stitches "after the next start"

# --- somebody who comes before us on purpose, and later
for where in in out; do
    stop "other-$where"
    others "$where" 0 first
    meets "before ours, $where"
    relays "before ours, $where"
    stop "other-$where"
    use "socks5://$PROXY4:1081"
    stitches "when he has gone, and after a reload"
    LOG_BEFORE=$(wc -l <"${LOG[undersock]}")
done
stop undersock
is "$(programs in) $(programs out)" "0 0" "nothing of ours stays"

# --- one that lets others be asked is no reason for anything
begin
others in -1
others out -1 first
stitches "beside a meter"
is "$(programs in) $(programs out) $(went_first) $(gave_up)" "1 1 0 0" "ours stay where they were"
done_testing
