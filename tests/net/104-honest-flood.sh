#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# alone
# Its flood fills the queue that each CPU has for all namespaces: SYNs of others are dropped there, too.
#
# A SYN flood from the LAN: 100,000 SYNs that nobody completes, for each family, from addresses that
# answer nothing and from addresses that nobody has. It costs no more upstream connections than
# max-held, established flows go on, byte for byte, and when it is over so is what it cost.
#
# UNDERSOCK_MANY=N (10,000 at least) instead of 100,000.
. "$(dirname "$0")/lib.sh"
FAST_PATH=${FAST_PATH:-relay} # what is stitched is not held by us, and outlives us
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/honest.sh"

need python3 nft
topology
lan
honest_sysctls client one
verdict_server
peer_serve proxy "$PROXY4" 1090
start pattern -- ns net "$TOOLS/pattern" serve -t 0 :: 9001
wait_port net tcp :: 9001
LIMIT=300 KEPT=40 OTHER=4 MANY=${UNDERSOCK_MANY:-100000}

us_daemon client <<CONF
workers = 2
max-held = $LIMIT
upstream "verdicts" {
    url = "socks5://$PROXY4:$VERDICTS"
    handshake-timeout = "5s"
}
upstream "real" { url = "socks5://$PROXY4:1090" }
capture "bulk" {
    hook      = "gateway"
    upstream  = "real"
    tcp-ports = { "9001" }
}
capture "lan" {
    hook     = "gateway"
    upstream = "verdicts"
}
CONF
read -r -d '' -a processes < <(us_workers undersock; echo "${PID[undersock]}")

# `two` sends it. Half of the LAN's addresses are its own, and what comes for them disappears.
ns two ip route add local 10.77.2.128/25 dev lo
ns two nft -f - <<-'NFT' || bail "a host that does not answer"
	table inet deaf {
	    chain input {
	        type filter hook input priority 0; policy accept;
	        tcp flags & (syn | ack) == (syn | ack) drop
	    }
	}
	NFT
# The kernel says that neighbours do not answer; that is no news here.
ns client sh -c 'echo 4096 >/proc/sys/net/ipv4/neigh/default/gc_thresh3
    echo 4096 >/proc/sys/net/ipv6/neigh/default/gc_thresh3' 2>/dev/null

# --- what stands before
mkfifo "$TMP/never"
for f in 4 6; do
    a=NET$f
    start "kept$f" -- ns one sh -c "exec '$TOOLS/connects' -k ${!a} $(seq -s ' ' 40000 25 $((40000 + 25 * (KEPT / 2 - 1))))"
    wait_log "kept$f" "^open $((KEPT / 2))" 20 || bail "the flows do not stand"
done
start bulk4 -- ns one "$TOOLS/pattern" both -p 500 -t 200 "$NET4" 9001 64M
start bulk6 -- ns one "$TOOLS/pattern" both -p 500 -t 200 "$NET6" 9001 64M
moving() { [[ $(us_flows undersock 'len([f for f in s if f["bytes_up"] and f["bytes_down"]])') -ge 2 ]]; }
wait_for 20 moving || bail "the transfers do not begin"
rss=$(rss_kb "${processes[@]}")

# --- the flood: upstreams that grant at once, that refuse and that say nothing
flood() { # WHAT ADDRESS PREFIX
    local n
    verdicts forget >/dev/null
    start flood -- ns two "$TOOLS/synflood" -r 20000 "$3" "$2" 20000-20024 "$MANY"
    start other -- ns guest "$TOOLS/connects" -n 20 -c $OTHER -t 60 "$2" 45000
    while ! has_ended flood; do
        us_sum undersock flows 2>/dev/null
        sleep 0.2
    done >"$TMP/flows"
    is "$(tail -n 1 "${LOG[flood]}")" "sent $MANY failed 0" "$1: $MANY SYNs were sent"
    n=$(sort -n "$TMP/flows" | tail -n 1)
    diag "$1: at most $n flows seen; $(verdicts seen)"
    num "$(verdicts requests)" -ge $LIMIT "$1: the limit was reached"
    # The other connections are real, and beyond max-held they are connected early; one may begin while
    # the one before it is being closed.
    num "$(verdicts peak)" -le $((LIMIT + KEPT + 2 * OTHER)) "$1: never more upstream connections than max-held and those of real flows"
    wait_exit other 80
    is "$(awk '{print $2}' "${LOG[other]}" | sort | uniq -c | awk '{print $2 "=" $1}')" "OK=20" "$1: 20 other connections meanwhile are made"
    stop other
    stop flood
    rm -f "${LOG[other]}" "${LOG[flood]}"
    check "$1: when it is over, nothing of it stays upstream" -- wait_for 60 verdicts_are open -eq $KEPT
    diag "$1: $(verdicts seen), $(us_sum undersock flows) flows"
    is "$(ns one "$TOOLS/connects" -t 20 "$NET4" 45000 | awk '{print $2}') $(ns one "$TOOLS/connects" -t 20 "$NET6" 45007 | awk '{print $2}')" \
        "OK ECONNREFUSED" "$1: new connections are as before"
}
flood "IPv4" "$NET4" 10.77.2.0/24
flood "IPv6" "$NET6" fd77:2::/64
diag "memory: $rss kB before, $(rss_kb "${processes[@]}") kB after"
is "$(us_workers undersock) ${PID[undersock]}" "${processes[*]:0:2}  ${processes[2]}" "no worker has died"

# --- what stood
for f in 4 6; do
    kill -s USR1 "${PID[kept$f]}"
    wait_exit "kept$f" 30
    is "$(grep -c 'again=OK' "${LOG[kept$f]}")" $((KEPT / 2)) "IPv$f: the flows that stood answer once more"
    ended "bulk$f" 120
    is "$ENDED" 0 "IPv$f: the transfer of 64 MiB each way comes to its end, byte for byte"
done
nothing_left "the end"
done_testing
