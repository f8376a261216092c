#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Where the proof of the sockmap fails, as here without loopback, the daemon says so in one line and
# in `status`, and serves by copying and splicing; where it is not wanted, it is not tried.
. "$(dirname "$0")/lib.sh"

need python3 nft
topology
start sink -- ns net "$TOOLS/pattern" serve -t 0 :: 9001
start load -- ns net "$TOOLS/load" server :: 9002
wait_port net tcp :: 9001
wait_port net tcp :: 9002
peer_serve proxy "$PROXY4" 1080

config() { # FAST-PATH [ADDRESS OF THE UPSTREAM]
    cat <<-CONF
	fast-path = "$1"
	workers = 2
	upstream "proxy" { url = "socks5://$PROXY4" }
	capture "output" {
	    hook = "output"
	    upstream = "proxy"
	}
	CONF
}
states() { us_status "$1" "sorted(set(w['sockmap'] for w in s['workers']))"; }

for FAST in copy splice; do
    us_daemon client $FAST < <(config $FAST)
    is "$(states $FAST)" "['not asked for']" "$FAST: not asked for"
    unlike "$(cat "${LOG[$FAST]}")" 'fast path' "$FAST: and nothing is said"
    check "$FAST: round trips" -- ns client "$TOOLS/load" rr -n 200 "$NET4" 9002
    is "$(us_sum $FAST sockmap_joined)" 0 "$FAST: nothing goes there"
    stop $FAST
done

us_daemon client works < <(config auto)
state=$(states works)
stop works
[[ $state == "['proven']" ]] || skip "where it works" "no sockmap here"

# Nothing on loopback is answered.
ns client nft -f - <<NFT
table ip test_lo {
    chain in {
        type filter hook input priority -300
        iif lo tcp dport 1024-65535 tcp flags syn drop
    }
}
NFT
for FAST in auto sockmap; do
    us_daemon client off-$FAST < <(config $FAST)
    is "$(states off-$FAST)" "['off']" "$FAST, no loopback: off"
    is "$(grep -c 'the in-kernel fast path is off: ' "${LOG[off-$FAST]}")" 1 "$FAST, no loopback: one line says so"
    like "$(us_status off-$FAST "s['workers'][0]['sockmap_why']")" 'loopback' "$FAST, no loopback: status has the reason"
    like "$("$UNDERSOCK" status -s "$TMP/off-$FAST.sock")" 'sockmap off: no connection over loopback' "$FAST, no loopback: also in words"
    stop off-$FAST
done
ns client nft delete table ip test_lo
done_testing
