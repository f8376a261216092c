#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The in-kernel fast path over a network that loses packets, with receive buffers so small that
# senders cut their segments anew: what is repeated comes in other pieces than before, some bytes
# twice. The stream that arrives has each byte once.
. "$(dirname "$0")/lib.sh"

FLOWS=100
need python3 nft
topology
for n in client proxy net; do
    ns $n sh -c 'echo "4096 16384 32768" >/proc/sys/net/ipv4/tcp_rmem
        echo "4096 16384 32768" >/proc/sys/net/ipv4/tcp_wmem' || bail "buffer sizes in $n"
done
start sink -- ns net "$TOOLS/pattern" serve -t 0 :: 9001
wait_port net tcp :: 9001
peer_serve proxy "$PROXY4" 1080

us_daemon client <<CONF
fast-path = "sockmap"
workers = 2
upstream "proxy" { url = "socks5://$PROXY4" }
capture "output" {
    hook = "output"
    upstream = "proxy"
}
CONF
[[ $(us_status undersock "[w['sockmap'] for w in s['workers']]") == "['proven', 'proven']" ]] ||
    skip_all "no sockmap here: $(us_status undersock "[w['sockmap_why'] for w in s['workers']]")"

loss() { # NAMESPACE
    ns "$1" nft -f - <<-NFT
	table inet test_loss {
	    chain in {
	        type filter hook prerouting priority -400
	        iif != lo meta l4proto tcp numgen random mod 100 < 1 drop
	    }
	}
	NFT
}
for round in whole lossy; do
    if [[ $round == lossy ]]; then
        loss client && loss proxy || skip_all "this nft cannot drop at random"
    fi
    # Stopped for long enough that windows close, are probed, and open by less than a segment.
    kill -STOP "${PID[sink]}"
    for ((i = 0; i < FLOWS; i++)); do
        mode=both
        ((i % 4)) && mode=send
        start "flow$i" -- ns client "$TOOLS/pattern" $mode -t 100 "$NET4" 9001 2M
    done
    sleep 8
    kill -CONT "${PID[sink]}"
    out=''
    for ((i = 0; i < FLOWS; i++)); do
        ended "flow$i" 110
        [[ $ENDED == 0 ]] || out+=" flow$i: $(tail -n 1 "${LOG[flow$i]}")"
        rm -f "${LOG[flow$i]}"
    done
    is "$out" "" "$round: $FLOWS flows: each byte once, and in order"
done
is "$(us_status undersock "[sum(w[k] for w in s['workers']) for k in ('sockmap_lost', 'sockmap_overrun')]")" "[0, 0]" "nothing was lost or overran"
num "$(us_sum undersock bytes_redirected)" -gt 1000000 "the kernel has moved bytes"
num "$(us_sum undersock sockmap_demoted)" -gt 10 "and was relieved of some"
is "$(leaks sink)" 0 "nothing went direct"
done_testing
