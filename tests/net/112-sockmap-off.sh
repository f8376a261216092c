#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Where the proof of the sockmap fails, or cannot be tried, as here without loopback, the daemon says so
# in one line and in `status`, and serves by copying and splicing; where it is not wanted, it is not
# tried. What it came to holds as long as the daemon lives.
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

# What loopback loses from now on.
lose() {
    ns client nft -f - <<-NFT
	table ip test_lo {
	    chain in {
	        type filter hook input priority -300
	        iif lo tcp dport 1024-65535 tcp flags $1 drop
	    }
	}
	NFT
}
lose_nothing() { ns client nft delete table ip test_lo; }
pids() { us_status "$1" "sorted(w['pid'] for w in s['workers'])"; }
# Other workers, two of them.
reload() {
    local before
    before=$(pids "$1")
    us_reload "$1" && wait_for 10 two_others "$1" "$before"
}
two_others() { [[ $(pids "$1") != "$2" && $(us_workers "$1" | wc -w) == 2 ]]; }

us_daemon client works < <(config auto)
state=$(states works)
if [[ $state == "['proven']" ]]; then
    lose syn
    check "reload, where it could not be proven now" -- reload works
    is "$(states works)" "['proven']" "it is not proven again"
    lose_nothing
    check "round trips of the new workers" -- ns client "$TOOLS/load" rr -n 200 "$NET4" 9002
    num "$(us_sum works sockmap_joined)" -gt 0 "they use it"
else
    skip "where it works" "no sockmap here"
fi
stop works

if [[ $state == "['proven']" ]]; then
    lose rst
    us_daemon client fails < <(config auto)
    lose_nothing
    is "$(states fails)" "['off']" "without resets: off"
    check "reload, where it could be proven now" -- reload fails
    is "$(states fails)" "['off']" "it is not tried again"
    like "$(us_status fails "s['workers'][0]['sockmap_why']")" 'failed its proof: a reset' "status has the reason of the first time"
    check "round trips" -- ns client "$TOOLS/load" rr -n 200 "$NET4" 9002
    stop fails
fi

lose syn
for FAST in sockmap auto; do
    us_daemon client off-$FAST < <(config $FAST)
    is "$(states off-$FAST)" "['off']" "$FAST, no loopback: off"
    is "$(grep -c 'the in-kernel fast path is off: ' "${LOG[off-$FAST]}")" 1 "$FAST, no loopback: one line says so"
    like "$(us_status off-$FAST "s['workers'][0]['sockmap_why']")" 'loopback' "$FAST, no loopback: status has the reason"
    like "$("$UNDERSOCK" status -s "$TMP/off-$FAST.sock")" 'sockmap off: no connection over loopback' "$FAST, no loopback: also in words"
    [[ $FAST == auto ]] && continue
    stop off-$FAST
done
lose_nothing
if [[ $state == "['proven']" ]]; then
    check "with loopback again: reload" -- reload off-auto
    is "$(states off-auto)" "['proven']" "what could not be tried is tried again"
fi
done_testing
