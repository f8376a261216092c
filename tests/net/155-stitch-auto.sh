#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# fast-path = "auto": stitched when the kernel has proved that it can, and a connection never fails that a
# relay would not have failed. What has a choice that a script has not is relayed: for good, or until the
# relay has seen how the upstream answers.
. "$(dirname "$0")/lib.sh"

need python3 nft setpriv unshare microsocks
topology
net_who 9000
cg_new app
impatient client

# A /run/undersock and an /etc/hosts of our own: the proof is the machine's, and others test here, too.
mkdir -p /run/undersock "$TMP/run"
printf '%s\n' "127.0.0.1 localhost" "$PROXY4 both.test" "$PROXY6 both.test" \
    "$PROXY4 twins.test" "$EXIT4 twins.test" >"$TMP/hosts"
cat >"$TMP/alone" <<SH
#!/bin/sh
exec unshare -m sh -c 'mount --make-rprivate / && mount --bind "$TMP/run" /run/undersock &&
    mount --bind "$TMP/hosts" /etc/hosts && exec "\$@"' sh "$UNDERSOCK" "\$@"
SH
cat >"$TMP/less" <<SH
#!/bin/sh
exec setpriv --inh-caps=-sys_admin --bounding-set=-sys_admin "\$@"
SH
cat >"$TMP/weak" <<SH
#!/bin/sh
exec unshare -m sh -c 'mount --make-rprivate / && mount --bind "$TMP/run" /run/undersock &&
    mount --bind "$TMP/hosts" /etc/hosts && exec "\$@"' sh "$TMP/less" "$UNDERSOCK" "\$@"
SH
chmod +x "$TMP/alone" "$TMP/less" "$TMP/weak"
PROOF=$TMP/run/stitch-proof
REAL=$UNDERSOCK

peer_microsocks proxy "$PROXY4" 1080
PEER_NAME=second peer_microsocks proxy "$EXIT4" 1081
PEER_NAME=secret peer_microsocks proxy "$PROXY4" 1082 alice sesame
seen() { cg app ns client timeout 20 "$TOOLS/who" "$@" 2>&1; }
# status NAME KEY of the capture; what went which way.
capture() { us_status undersock "[c for c in s['captures'] if c['name'] == 'app'][0]['$1']"; }
stitched_is() { [[ $(capture stitched) == "$1" ]]; }
ways() { us_status undersock "'stitched %d, relayed %d, failed %d' % (s.get('stitch', {}).get('granted', 0), sum(w['granted'] for w in s['workers']), s.get('stitch', {}).get('failed', 0))"; }
config() { # UPSTREAM-URL [MORE]
    echo "control = \"$TMP/undersock.sock\""
    echo "upstream \"one\" { url = \"$1\" }"
    echo "upstream \"two\" { url = \"socks5://$EXIT4:1081\" }"
    echo 'group "pair" { members = { "one", "two" } }'
    echo "capture \"app\" { hook = \"cgroup\" cgroup = \"/$US-app\" upstream = \"${2:-one}\" }"
}

# --- the proof
out=$(ns client "$TMP/alone" prove 2>&1)
is "$? $out" "0 connections can be stitched here" "prove: says so"
is "$(stat -c '%U %a' "$PROOF")" "root 644" "and keeps it"
rm "$PROOF"
out=$(ns client "$TMP/weak" prove 2>&1)
is "$?" 3 "prove, without the right to: exit status 3"
like "$out" 'undersock: error: the proof that connections can be stitched: .*not permitted' "and one line"
check "and nothing is kept" -- test ! -e "$PROOF"
out=$(ns client "$TMP/alone" prove extra 2>&1)
is "$?" 2 "prove takes no arguments"
out=$(ns client "$TMP/alone" prove -c "$TMP/not-there" 2>&1)
is "$?" 2 "but a configuration, which has to be there"

# --- a daemon that may not try it
UNDERSOCK=$TMP/weak
us_daemon client < <(config "socks5://$PROXY4:1080")
UNDERSOCK=$REAL
is "$(capture stitched)" False "no proof, and no right to make one: relayed"
like "$(capture why_relayed)" 'the proof that connections can be stitched: ' "status says why"
is "$(seen "$NET4" 9000) $(ways)" "$EXIT4 stitched 0, relayed 1, failed 0" "and it works"
stop undersock
echo "00000000-0000-0000-0000-000000000000 0:0 0 0.0" >"$PROOF"
UNDERSOCK=$TMP/weak
us_daemon client < <(config "socks5://$PROXY4:1080")
is "$(UNDERSOCK=$REAL capture stitched)" False "another boot's proof is none"
stop undersock
ns client "$TMP/alone" prove >"$TMP/prove.out" || bail "prove"
chmod 666 "$PROOF"
us_daemon client < <(config "socks5://$PROXY4:1080")
is "$(UNDERSOCK=$REAL capture stitched)" False "nor one that everybody may write"
stop undersock
chmod 644 "$PROOF"
us_daemon client < <(config "socks5://$PROXY4:1080")
UNDERSOCK=$REAL
is "$(capture stitched)" True "undersock prove, and the same daemon stitches"
is "$(seen "$NET4" 9000) $(ways)" "$EXIT4 stitched 1, relayed 0, failed 0" "from its first connection"
stop undersock

# --- a daemon that may
rm "$PROOF"
UNDERSOCK=$TMP/alone
us_daemon client < <(config "socks5://$PROXY4:1080")
UNDERSOCK=$REAL
is "$(capture stitched)" True "a daemon with all rights proves it itself"
check "and keeps it" -- test -s "$PROOF"
is "$(seen "$NET4" 9000) $(ways)" "$EXIT4 stitched 1, relayed 0, failed 0" "and stitches"

# --- what the relay has to find out first
reload() { config "$@" >"$TMP/undersock.conf"; us_reload undersock || bail "reload"; }
restart() {
    stop undersock
    UNDERSOCK=$TMP/alone
    us_daemon client < <(config "$@")
    UNDERSOCK=$REAL
}
reload "socks5://alice:sesame@$PROXY4:1082"
is "$(capture stitched)" False "a password: relayed at first"
like "$(capture why_relayed)" 'yet to answer a relayed connection' "status says for how long"
is "$(seen "$NET4" 9000)" "$EXIT4" "the first connection"
check "stitched from then on" -- wait_for 10 stitched_is True
is "$(seen "$NET4" 9000) $(ways)" "$EXIT4 stitched 2, relayed 1, failed 0" "with the password"
restart "socks5://alice:sesame@$PROXY4:1080"
is "$(capture stitched) $(seen "$NET4" 9000)" "False $EXIT4" "a password that is not wanted: relayed at first"
check "stitched from then on" -- wait_for 10 stitched_is True
is "$(seen "$NET4" 9000) $(ways)" "$EXIT4 stitched 1, relayed 1, failed 0" "without the password: no connection has failed"

# It changes its mind: a connection fails, the next ones are relayed, and stitched as the relay was answered.
PEER_NAME=fickle peer_microsocks proxy "$PROXY4" 1083 alice sesame
restart "socks5://alice:sesame@$PROXY4:1083"
is "$(seen "$NET4" 9000)" "$EXIT4" "a password that is wanted"
wait_for 10 stitched_is True
stop fickle
PEER_NAME=fickle peer_microsocks proxy "$PROXY4" 1083
is "$(seen "$NET4" 9000) $(capture stitched)" "connect=ECONNREFUSED False" "and then is not: refused once, and relayed"
again() { [[ $(seen "$NET4" 9000) == "$EXIT4" ]] && stitched_is True; }
is "$(seen "$NET4" 9000)" "$EXIT4" "which works"
check "stitched again" -- wait_for 20 again
is "$(seen "$NET4" 9000)" "$EXIT4" "without it"
like "$(ways)" '^stitched [1-9][0-9]*, relayed [1-9][0-9]*, failed 1$' "by stitch, and nothing else has failed"

# A chain: what its last one wants is known when that one has answered.
chain() { # HOP-PORT...: the last one is "one"
    config "socks5://alice:sesame@$EXIT4:$1" | sed "s|^upstream \"one\" {|upstream \"near\" { url = \"socks5://$PROXY4:1080\" }\n& via = \"near\"|"
}
stop undersock
PEER_NAME=end peer_bad proxy "$EXIT4" 1084 close
UNDERSOCK=$TMP/alone
us_daemon client < <(chain 1084)
UNDERSOCK=$REAL
like "$(seen "$NET4" 9000)" '^connect=E' "a chain whose end says nothing: relayed, and refused"
sleep 1
is "$(capture stitched)" False "its first member's answer is not enough"
stop end
PEER_NAME=end peer_microsocks proxy "$EXIT4" 1084
is "$(seen "$NET4" 9000)" "$EXIT4" "its end answers, and wants no password"
check "stitched from then on" -- wait_for 10 stitched_is True
is "$(seen "$NET4" 9000) $(ways)" "$EXIT4 stitched 1, relayed 1, failed 0" "without the password: no connection has failed"

# --- names with several addresses
restart "socks5://both.test:1080"
is "$(capture stitched)" False "a proxy with addresses of both versions: relayed at first"
is "$(seen "$NET4" 9000)" "$EXIT4" "the first connection"
check "stitched from then on" -- wait_for 10 stitched_is True
is "$(seen "$NET4" 9000) $(seen "$NET6" 9000)" "$EXIT4 $EXIT6" "both kinds of sockets, of which it listens for one"
is "$(ways)" "stitched 1, relayed 2, failed 0" "the other is relayed, and nothing has failed"
restart "socks5://twins.test:1081"
is "$(seen "$NET4" 9000) $(seen "$NET4" 9000) $(ways)" "$EXIT4 $EXIT4 stitched 0, relayed 2, failed 0" "two addresses of a version: relayed"
like "$(capture why_relayed)" 'other addresses to ask' "status says why"

# --- groups
restart "socks5://$PROXY4:1099" pair
is "$(seen "$NET4" 9000) $(seen "$NET4" 9000) $(ways)" "$EXIT4 $EXIT4 stitched 0, relayed 2, failed 0" "a group whose first member is down: relayed, and nothing fails"
like "$(capture why_relayed)" 'other members to ask' "status says why"
stop undersock
done_testing
