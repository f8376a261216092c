#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch on a bad path: whatever segment of the handshake is lost, in whichever direction, it comes
# again, and what follows is an ordinary connection. Answers in single bytes, too.
#
# The SOCKS servers are behind a router that loses: who drops what itself sends is told so, and a
# server gives up a connection whose SYN-ACK cannot be sent again.
. "$(dirname "$0")/lib.sh"

need nft
topology
cg_new app
start verdicts -- ns net "$TOOLS/verdicts" serve :: 1090 1091
start sink -- ns net "$TOOLS/pattern" serve :: 9004
wait_port net tcp :: 1090
wait_port net tcp :: 9004
PEER_NAME=serve peer_serve net "$NET4" 1082
PEER_NAME=slow peer_bad net "$NET4" 1085 slow 5

app() { cg app ns client "$@"; }
stitch() {
    start stitch -- ns client "$TOOLS/stitch" "$(cg_path app)" "$@"
    wait_log stitch '^ready' || bail "stitch $*"
}
unstitch() { stop stitch; rm -f "${LOG[stitch]}"; }
loss() { # PERCENT
    ns proxy nft -f - <<-NFT
	table inet test_loss
	delete table inet test_loss
	table inet test_loss {
	    chain forward { type filter hook forward priority 0
	        meta l4proto tcp numgen random mod 100 < $1 drop; }
	}
	NFT
}

loss 10 2>/dev/null || skip_all "this nft cannot drop at random"
for url in "socks5://$NET4:1090" "socks5://[$NET6]:1090"; do
    to=$NET4
    [[ $url == *[* ]] && to=$NET6
    # As many losses as it takes: the handshake's own time must not be over before connect()'s is.
    stitch -t 100 "$url"
    waited=()
    for verdict in "150 20000" "100 20007" "100 20006"; do
        app "$TOOLS/connects" -q -t 120 -n ${verdict% *} "$to" ${verdict#* } >"$TMP/verdict.${verdict#* }" &
        waited+=($!)
    done
    wait "${waited[@]}"
    is "$(<"$TMP/verdict.20000")" "150 20000 OK" "$to: every tenth segment is lost, each way: all connect, and arrive once"
    is "$(<"$TMP/verdict.20007")" "100 20007 ECONNREFUSED" "$to: and every refusal is one"
    is "$(<"$TMP/verdict.20006")" "100 20006 EHOSTUNREACH" "$to: unreachable likewise"
    unstitch
done
stitch "socks5://$NET4:1085"
loss 3
check "answers in single bytes, some of them lost" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9004 64K
unstitch
stitch "socks5://$NET4:1082"
loss 1
check "8 MiB each way, half-close" -- app "$TOOLS/pattern" both -t 100 "$NET4" 9004 8M
unstitch
done_testing
