#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# doctor: each thing that can stand in the way is broken alone, in namespaces, and doctor names it; where it
# gives a command that mends it, the command is run and the complaint is gone. Nothing is changed by
# looking. What cannot be broken here (a kernel without nftables, iptables-legacy) is in
# tests/unit/doctor.
#
#     host  10.78.1.1 fd78:1::1  ───  10.78.1.2 fd78:1::2  far
. "$(dirname "$0")/lib.sh"

need_root
need ip nft nsenter unshare setpriv python3
need "$UNDERSOCK"
ns_add host far
ns_link host br-lan "10.78.1.1/24 fd78:1::1/64" far eth0 "10.78.1.2/24 fd78:1::2/64"

SECRET=S3cret-Wb7
FAR=10.78.1.2
CONF=$TMP/doctor.conf
printf '%s\n' "$SECRET" >"$TMP/password"
printf 'Wr0ng-Kq4\n' >"$TMP/wrong"
chmod 600 "$TMP/password" "$TMP/wrong"

# --- asking ----------------------------------------------------------------------------------------

# doctor [CMD...]: the report on $CONF into $TMP/report, by way of CMD (a wrapper such as nofile 64).
# RC is its exit status.
doctor() {
    argv_of ns host "$@"
    "${ARGV[@]}" "$UNDERSOCK" doctor --json -c "$CONF" >"$TMP/report" 2>"$TMP/said"
    RC=$?
}

# report EXPRESSION: a Python expression over the report `s`; find(id, level) is the list of findings.
report() {
    python3 - "$TMP/report" "$1" <<-'PY'
	import json, sys
	s = json.load(open(sys.argv[1]))
	def find(id, level=None):
	    return [f for f in s["findings"] if f["id"] == id and level in (None, f["level"])]
	print(eval(sys.argv[2]))
	PY
}

text() { report "' | '.join(f['text'] for f in find('$1', '$2'))"; }
mend() { report "find('$1', '$2')[0]['mend']"; }

complaints() { report "' '.join(sorted({f['id'] for f in s['findings'] if f['level'] != 'ok'} - {'fd-limit', 'bpf-extras', 'unprivileged-bpf', 'dns-server'}))"; }

# named ID LEVEL REGEX: the last report has this finding, and the exit status fits.
named() {
    like "$(text "$1" "$2")" "$3" "$1 is named: $2"
    if [[ $2 == fail ]]; then is $RC 1 "$1: exit status 1"; fi
}

# mended ID LEVEL: its command, run where doctor was, ends the complaint.
mended() {
    local command
    command=$(mend "$1" "$2")
    ns host sh -c "$command" >"$TMP/mend.log" 2>&1 || diag "$(cat "$TMP/mend.log")"
    doctor
    is "$(text "$1" "$2")" "" "$1 is mended by: $command"
}

sysctl_set() { ns host sh -c "echo $2 >/proc/sys/net/$1"; }

# --- nothing in the way --------------------------------------------------------------------------------

start good -- ns far "$TOOLS/badsocks" good $FAR 1080
wait_port far tcp $FAR 1080

output() { # the usual configuration: this host, by nft; more keys of the upstream on standard input
    {
        echo "control = \"$TMP/doctor.sock\""
        echo "max-flows = 100"
        echo "upstream \"corp\" { url = \"${1:-socks5h://$FAR:1080}\""
        [[ -t 0 ]] || cat
        echo '}'
        echo 'capture "host" { hook = "output"'
        echo 'upstream = "corp" }'
    } >"$CONF"
}

gateway() {
    output </dev/null
    sed -i 's/hook = "output"/hook = "gateway"\ninterfaces = { "br-lan" }/' "$CONF"
}

everything() { ns host nft list ruleset; ns host ip rule; ns host ip -6 rule; ns host ip addr; }

output </dev/null
before=$(everything)
doctor
is "$RC" 0 "where all is well, the exit status is 0"
is "$(complaints)" "" "and there is no complaint"
is "$(report "s['fail']")" 0 "the report counts no failure"
is "$(report "all(set(f) == {'id', 'level', 'text', 'mend'} for f in s['findings'])")" True "each finding has its four fields"
like "$(text upstream ok)" "corp .*answers and lets us in" "the upstream was tried"
is "$(everything)" "$before" "nothing was changed by looking"

said=$(ns host "$UNDERSOCK" doctor -c "$CONF")
like "$said" $'(^|\n)ok    lo  ' "the text has a line for a finding"
like "$said" $'\n0 fail, [0-9]+ warn, [0-9]+ ok$' "and a summary at its end"
ns host ip link set lo down
said=$(ns host "$UNDERSOCK" doctor -c "$CONF")
like "$said" $'\nfail  lo .*\n      mend: ip link set lo up\n' "a complaint is followed by what mends it"
ns host ip link set lo up

if [[ -e /etc/undersock/undersock.conf ]]; then
    skip "without a configuration" "this machine has /etc/undersock/undersock.conf" 2
else
    ns host "$UNDERSOCK" doctor --json >"$TMP/report"
    is $? 0 "without a configuration: exit status 0"
    like "$(text config ok)" "no configuration" "and it says that there is none"
fi
check_status 2 "an unknown option is a usage error" -- "$UNDERSOCK" doctor --nonsense

# --- the configuration ------------------------------------------------------------------------------------

echo 'upstream "x" { url = "gopher://h" }' >"$CONF"
doctor
named config fail "^$CONF:1: .*gopher"
CONF=$TMP/absent doctor
named config fail 'cannot be read'

# --- the loopback ------------------------------------------------------------------------------------

output </dev/null
ns host ip link set lo down
doctor
named lo fail 'down'
mended lo fail

ns host nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }; add rule inet fw in ct state established accept; add rule inet fw in ip saddr 10.78.1.2 accept'
doctor
named listener fail '127.0.0.1 .*inet fw in'
mended listener fail
ns host nft flush ruleset

# Only what comes from 127.0.0.1 is let through: a redirected connection has another source.
ns host nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }; add rule inet fw in iifname lo ip saddr 127.0.0.1 accept; add rule inet fw in ip6 saddr ::1 accept; add rule inet fw in ip saddr 10.78.1.2 accept; add rule inet fw in ct state established accept'
doctor
named listener fail 'own address .*inet fw in'
mended listener fail
ns host nft flush ruleset

sysctl_set ipv6/conf/lo/disable_ipv6 1
doctor
named listener6 warn '::1'
sysctl_set ipv6/conf/lo/disable_ipv6 0

# --- rules of others -----------------------------------------------------------------------------------

ns host nft 'add table ip nat; add chain ip nat far { tcp dport 4444 redirect to :9; }; add chain ip nat OUT { type nat hook output priority -190; tcp dport 4444 jump far; }'
doctor
named foreign-nat fail 'ip nat OUT .*priority -190'
ns host nft flush ruleset

# Where Docker and iptables have theirs it comes after ours.
ns host nft 'add table ip nat; add chain ip nat DOCKER { tcp dport 4444 dnat to 192.0.2.1; }; add chain ip nat OUTPUT { type nat hook output priority -100; fib daddr type local jump DOCKER; }'
doctor
is "$(complaints)" "" "a nat chain with Docker's priority is in order"
like "$(text docker ok)" "Docker" "and Docker is named"
ns host nft flush ruleset

ns host nft 'add table inet firewalld; add chain inet firewalld filter_INPUT; add table ip filter; add chain ip filter ufw-user-input'
doctor
like "$(text firewalld ok)" firewalld "firewalld is named"
like "$(text ufw ok)" ufw "ufw is named"
ns host nft flush ruleset

ns host nft 'add table inet fw; add chain inet fw out { type filter hook output priority 0; ct state invalid drop; }'
doctor
named ct-invalid warn 'inet fw out'
ns host nft flush ruleset

# What a kill switch lets out: nothing that is redirected, or TCP alone.
kill_switch() { # RULE...
    local r
    ns host nft 'add table inet fw; add chain inet fw out { type filter hook output priority 0; policy drop; }'
    for r in 'oifname lo' 'ct state established,related' "ip daddr $FAR" 'icmpv6 type nd-neighbor-solicit' "$@"; do
        ns host nft add rule inet fw out "$r" accept
    done
    doctor
}
for rule in 'tcp dport 22' 'meta mark & 0xffff8000 == 0x55538000'; do
    kill_switch "$rule"
    named foreign-output fail 'inet fw out drops by default, .* granted'
    mended foreign-output fail
    ns host nft flush ruleset
done
sed -i 's/hook = "output"/hook = "output"\nconnect = "early"/' "$CONF"
kill_switch
named foreign-output fail 'inet fw out drops by default'
mended foreign-output fail
is "$(complaints)" "" "and nothing else is in the way"
ns host nft flush ruleset
# A table of iptables' that has an expression it does not know could not be changed by it any more.
if command -v iptables >/dev/null && [[ $(iptables -V) == *nf_tables* ]]; then
    tables_fine() { ns host iptables -S OUTPUT; }
    ns host sh -ec "iptables -A OUTPUT -o lo -j ACCEPT
        iptables -A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
        iptables -A OUTPUT -d $FAR -j ACCEPT; iptables -P OUTPUT DROP"
    doctor
    named foreign-output fail 'ip filter OUTPUT drops by default'
    mended foreign-output fail
    is "$(complaints)" "" "and nothing else is in the way"
    check "and iptables reads its table" -- tables_fine
    ns host nft flush ruleset
else
    skip foreign-output "iptables is not installed" 5
fi
output </dev/null

# --- a gateway -----------------------------------------------------------------------------------------

gateway
ns_forward host
doctor
is "$(complaints)" "" "a gateway where all is well"

for s in "ipv4/ip_forward ip-forward" "ipv6/conf/all/forwarding ip6-forward"; do
    sysctl_set "${s% *}" 0
    doctor
    named "${s#* }" warn 'not forwarded'
    mended "${s#* }" warn
done
sysctl_set ipv4/conf/br-lan/rp_filter 1
doctor
named rp-filter warn 'strict on br-lan'
mended rp-filter warn
sysctl_set ipv4/conf/all/rp_filter 0
sysctl_set ipv4/conf/br-lan/rp_filter 0
sysctl_set ipv4/conf/all/route_localnet 1
doctor
named route-localnet warn 'br-lan'
mended route-localnet warn
sysctl_set ipv4/conf/br-lan/src_valid_mark 1
doctor
named src-valid-mark fail 'br-lan'
mended src-valid-mark fail

ns host nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }; add rule inet fw in iifname lo accept; add rule inet fw in ct state established accept; add rule inet fw in icmpv6 type nd-neighbor-solicit accept'
doctor
named foreign-input fail 'inet fw in .* the UDP that TPROXY'
mended foreign-input fail
ns host nft flush ruleset
# TCP alone: a SYN that was held comes in by lo, and what follows is established.
cp "$CONF" "$TMP/with-udp"
sed -i 's/hook = "gateway"/hook = "gateway"\nudp = "bypass"\ndns = "bypass"/' "$CONF"
input_fw() { # RULE...
    local r
    ns host nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }'
    for r in 'icmpv6 type nd-neighbor-solicit accept' 'ip saddr 10.78.1.2 accept' "$@"; do
        ns host nft add rule inet fw in "$r"
    done
    doctor
}
for states in established '{ established, related }' 'vmap { established : accept, invalid : drop }'; do
    [[ $states == vmap* ]] || states="$states accept"
    input_fw "ct state $states" 'iifname lo accept'
    is "$(report "' '.join(f['id'] for f in s['findings'] if f['id'] == 'foreign-input')")" "" "an input chain with lo and ct state $states is in order"
    ns host nft flush ruleset
done
input_fw 'iifname lo accept' 'iifname br-lan ct state established accept'
named foreign-input fail 'inet fw in .* held until'
mended foreign-input fail
ns host nft flush ruleset
sed -i 's/hook = "gateway"/hook = "gateway"\nconnect = "early"/' "$CONF"
input_fw 'iifname lo accept' 'ct state established accept'
named foreign-input fail 'inet fw in .* what TPROXY'
mended foreign-input fail
ns host nft flush ruleset
cp "$TMP/with-udp" "$CONF"

ns host nft 'add table inet px; add chain inet px pre { type filter hook prerouting priority -150; meta l4proto tcp meta mark 0x77 tproxy to :9; }'
doctor
named foreign-tproxy warn 'inet px pre'
ns host nft flush ruleset

sed -i 's/br-lan/br-gone/' "$CONF"
doctor
named interface warn 'br-gone'

if ns host ip link add br0 type bridge 2>/dev/null && ns host test -e /proc/sys/net/bridge/bridge-nf-call-iptables; then
    sed -i 's/br-gone/br0/' "$CONF"
    sysctl_set bridge/bridge-nf-call-iptables 1
    doctor
    named bridge-netfilter fail 'br0'
    mended bridge-netfilter fail
else
    skip bridge-netfilter "no bridge or br_netfilter in this kernel" 3
fi
ns host ip link del br0 2>/dev/null

# --- upstreams -----------------------------------------------------------------------------------------

output "socks5://$FAR:1" </dev/null
doctor
named upstream-connect fail 'corp .*Connection refused'
check "and what to look at: $(mend upstream-connect fail)" -- ns host sh -c "$(mend upstream-connect fail)"
output "socks5://no-such-host.invalid:1080" </dev/null
doctor
named upstream-resolve fail 'corp.*no-such-host.invalid'
PEER_NAME=http peer_bad far $FAR 1081 http
output "socks5://$FAR:1081" </dev/null
doctor
named upstream-handshake fail 'its answer is not SOCKS'
PEER_NAME=mute peer_bad far $FAR 1082 mute
output "socks5://$FAR:1082" <<<'handshake-timeout = "200ms"'
doctor
named upstream-handshake fail 'no answer'
PEER_NAME=dropping peer_bad far $FAR 1085 drop 1
output "socks5://$FAR:1085" </dev/null
doctor
named upstream-handshake fail 'closed the connection'

PEER_NAME=slow peer_bad far $FAR 1086 slow 20
output "socks5://$FAR:1086" </dev/null
doctor
is "$RC $(complaints)" "0 " "an answer that comes byte by byte is an answer"

PEER_NAME=auth peer_bad far $FAR 1083 auth alice "$SECRET"
output "socks5://alice@$FAR:1083" <<<"password-file = \"$TMP/wrong\""
doctor
named upstream-handshake fail 'refused the user name or password'
like "$(mend upstream-handshake fail)" "$TMP/wrong" "and the file with the password"
output "socks5://$FAR:1083" </dev/null
doctor
named upstream-handshake fail 'none of our authentication methods'
output "socks5://alice@$FAR:1083" <<<"password-file = \"$TMP/password\""
doctor
is "$RC $(complaints)" "0 " "with the right password nothing is wrong"
unlike "$(cat "$TMP/report" "$TMP/said")" "$SECRET" "and no password is in the report"

output "socks4://$FAR:1080" </dev/null
doctor
like "$(text upstream ok)" 'can be connected to' "SOCKS4: a connection is all that can be tried"

# A chain: its first hop is asked for the second, which is where it fails.
output "socks5://$FAR:1083" <<<'via = "first"'
echo "upstream \"first\" { url = \"socks5://$FAR:1080\" }" >>"$CONF"
doctor
named upstream-handshake fail 'hop 2 .*none of our authentication methods'
num "$(grep -c '^request' "${LOG[good]}")" -ge 1 "the first hop is asked for the second"
is "$(grep -c '^request' "${LOG[auth]}")" 0 "and the last hop for nothing"

# --- an upstream on this host ----------------------------------------------------------------------------

start local-root -- ns host "$TOOLS/badsocks" good 127.0.0.1 1090
wait_port host tcp 127.0.0.1 1090
output "socks5://127.0.0.1:1090" </dev/null
doctor
named upstream-owner fail '127.0.0.1:1090 is badsocks .*not-uid = \{ "root" \}'
stop local-root
start local-user -- ns host setpriv --reuid 64123 --regid 64123 --clear-groups "$TOOLS/badsocks" good 127.0.0.1 1090
wait_port host tcp 127.0.0.1 1090
doctor
named upstream-owner warn '127.0.0.1:1090 is badsocks .*64123'
sed -i 's/hook = "output"/hook = "output"\nnot-uid = { "64123" }/' "$CONF"
doctor
is "$(complaints)" "" "whose user is left alone already is no complaint"
stop local-user

# --- limits, cgroups, privileges, the daemon -----------------------------------------------------------

output </dev/null
sed -i 's/max-flows = 100/max-flows = 10000/' "$CONF"
doctor nofile 1000
named fd-limit warn '1000.*LimitNOFILE='
doctor nofile 100
named fd-limit fail ' 100'

output </dev/null
sed -i "s|hook = \"output\"|hook = \"cgroup\"\ncgroup = \"/$US-gone\"|" "$CONF"
if [[ $CGROUP2 ]]; then
    doctor
    named cgroup-path fail "$US-gone"
    CGROUPS+=(gone)
    mended cgroup-path fail
else
    skip cgroup-path "no cgroup2 is mounted" 3
fi

# Files of the kernel that are hidden or replaced, in a mount namespace of its own.
hide() { # SHELL-TEXT: doctor after that
    argv_of ns host
    "${ARGV[@]}" unshare -m --propagation private sh -c "$1"' && exec "$@"' sh \
        "$UNDERSOCK" doctor --json -c "$CONF" >"$TMP/report" 2>"$TMP/said"
    RC=$?
}
hide "while awk '\$3 == \"cgroup2\" {print \$2}' /proc/mounts | grep -q .; do umount -l \"\$(awk '\$3 == \"cgroup2\" {print \$2; exit}' /proc/mounts)\"; done"
named cgroup2 fail 'no cgroup2'
if [[ -d /sys/kernel/btf ]]; then
    hide 'mount -t tmpfs none /sys/kernel/btf'
    named btf fail 'vmlinux is missing'
else
    skip btf "this kernel has no BTF anyway" 2
fi
if [[ -d /sys/kernel/security ]]; then
    hide 'mount -t tmpfs none /sys/kernel/security && echo "none integrity [confidentiality]" >/sys/kernel/security/lockdown'
    named lockdown warn 'confidentiality'
else
    skip lockdown "no /sys/kernel/security"
fi
hide "echo 0 >$TMP/zero && mount --bind $TMP/zero /proc/sys/kernel/unprivileged_bpf_disabled"
named unprivileged-bpf warn 'every user'

output </dev/null
chmod 644 "$CONF"
doctor setpriv --reuid 65534 --regid 65534 --clear-groups
named privileges fail 'CAP_NET_ADMIN'
like "$(text firewall warn)" 'cannot be read' "and what could not be looked at is said"

doctor
like "$(text control ok)" "no daemon" "no daemon runs"
python3 -c "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind('$TMP/doctor.sock')"
doctor
named control warn 'no daemon answers'
rm "$TMP/doctor.sock"
us_daemon host doctor <<<"$(<"$CONF")" # which is the file that it writes
doctor
like "$(text control ok)" "daemon \(pid ${PID[doctor]}\)" "a running daemon is found"
is "$(complaints)" "" "and its rules are not taken for somebody else's"
prlimit --pid "${PID[doctor]}" --nofile=100:100
doctor
named fd-limit fail 'of the running daemon is 100'
like "$(mend fd-limit fail)" "^prlimit --pid ${PID[doctor]} --nofile=" "and so is what mends it for the running one"
stop doctor

done_testing
