#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch when there is no room, and whatever happens in the middle of handshakes: the daemon's death, its
# restart, its end; interfaces that go down, get another name, lose their filters, or are new. connect()
# ends in a connection that is right or in an error, and the SOCKS server is never told anything but what
# is due (tools/strict).
. "$(dirname "$0")/lib.sh"

need python3 tc nft
topology
net_who 9000
cg_new app
ns client sh -c 'cd /proc/sys/net/ipv4 && echo 2 >tcp_syn_retries &&
    { [ ! -e tcp_syn_linear_timeouts ] || echo 0 >tcp_syn_linear_timeouts; }'
PEER_NAME=serve peer_serve proxy "$PROXY4" 1081
start verdicts -- ns proxy "$TOOLS/verdicts" serve :: 1090 1091
start strict -- ns proxy "$TOOLS/strict" serve -g "$TMP/gate" :: 1095
for port in 1090 1095; do wait_port proxy tcp :: $port; done

app() { cg app ns client "$@"; }
seen() { app timeout 20 "$TOOLS/who" "$@" 2>&1; }
st() { us_status undersock "s['stitch']['$1']"; }
config() { # URL [LINE...]
    cat <<-CONF
	control = "$TMP/undersock.sock"
	fast-path = "stitch"
	upstream "one" { url = "$1" connect-timeout = "60s" }
	capture "app" { hook = "cgroup" cgroup = "/$US-app" upstream = "one" }
	CONF
}
up() {
    us_daemon client < <(config "$@")
    [[ $(us_status undersock "s['captures'][0]['stitched']") == True ]] || bail "not stitched"
}
gone() { [[ -z $(ps -o stat= -p "$(tr ' ' , <<<"$*")" | grep -v '^Z') ]]; }
kill_it() {
    local all
    all=$(descendants "${PID[undersock]}")
    stop undersock KILL 2>/dev/null
    wait_for 10 gone $all
}
ports() { ns client sh -c "echo '$1' >/proc/sys/net/ipv4/ip_local_port_range"; }

# --- no room: 15,360 handshakes wait for an answer, and 1,024 places are left for who was faster
up "socks5://$PROXY4:1081"
ns proxy nft -f - <<-'NFT' || skip_all "nft cannot drop by ports here"
	table inet test_silence {
	    chain input { type filter hook input priority 0
	        tcp dport 1081 tcp sport 10000-54999 drop; }
	}
	NFT
ports "10000 54999"
start silent -- nofile 20000 cg app ns client "$TOOLS/connects" -q -t 100 -r 5 -n 15360 "$NET4" 9000
st_is() { test "$(st "$1")" "$2" "$3"; }
check "15,360 handshakes under way" -- wait_for 60 st_is begun -eq 15360
ports "55000 60000"
before=$(us_sum undersock accepted)
is "$(seen -p "$NET4" 9000) $(seen "$NET4" 9000)" "$EXIT4 peer=$NET4:9000 $EXIT4" "connect() with a full table: a connection, and who was asked for"
is "$(us_sum undersock accepted)" $((before + 2)) "by the relay"
is "$(st begun) $(st full) $(us_status undersock "s['captures'][0]['stitched']")" "15360 0 True" "no SYN was dropped"
is "$(app "$TOOLS/connects" -q -c 50 -n 1000 "$NET4" 9001 | awk '{print $1, $3}')" "1000 ECONNREFUSED" "1,000 refusals, too"
ns proxy nft delete table inet test_silence
ended silent 60
before=$(st granted)
is "$(seen "$NET4" 9000)" "$EXIT4" "when they have their answers there is room again"
is "$(st granted)" $((before + 1)) "by stitch"
stop undersock

# --- 70 deaths: guards and filters are left behind, and the next one takes them away
programs() { bpftool cgroup show "$(cg_path "${1:-app}")" | awk '{print $NF}' | grep -c "us_st_guard"; }
filters() { ns client tc filter show dev up0 "${1:-egress}" | grep -c us_st_; }
if ! command -v bpftool >/dev/null; then
    skip "70 deaths" "bpftool is not installed" 9
else
    for ((i = 0; i < 70; i++)); do
        up "socks5://$PROXY4:1081"
        ((i % 10)) || seen "$NET4" 9000 >/dev/null
        kill_it
    done
    is "$(programs) $(filters) $(filters ingress)" "2 1 1" "70 deaths leave what one leaves"
    # Somebody else's, on the same cgroup: a living one from another network namespace, and what is no guard.
    cg_new other
    start elsewhere -- ns net "$TOOLS/stitch" "$(cg_path app)" "socks5://$EXIT4:1081"
    wait_log elsewhere '^ready'
    is "$(programs)" 4 "another network namespace guards the same cgroup"
    up "socks5://$PROXY4:1081"
    is "$(programs)" 4 "a start takes away two of four, and adds two"
    is "$(seen "$NET4" 9000)" "$EXIT4" "and stitches"
    is "$(st granted)" 1 "indeed"
    stop elsewhere KILL 2>/dev/null
    kill_it
    up "socks5://$PROXY4:1081"
    is "$(programs)" 4 "those of another network namespace stay, dead or alive"
    kill_it
    us_daemon client < <(config "socks5://$PROXY4:1081" | sed 's/"stitch"/"auto"/; s/^capture.*/capture "app" { hook = "cgroup" cgroup = "\/'"$US"'-app" upstream = "one" when-down = "direct" }/')
    is "$(programs) $(filters) $(filters ingress)" "2 0 0" "a start that stitches nothing takes them away, too"
    stop undersock
    is "$(ns client tc qdisc show dev up0 | grep -c clsact)" 0 "and the qdisc"
fi
done_testing
