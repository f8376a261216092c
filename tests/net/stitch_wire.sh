# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the scenarios of stitch on the level of packets share: source it after lib.sh. A cgroup "app", a
# stitch for it (tools/stitch.c), a wire between client and proxy that is ours (tools/wire.c), and what
# must be on it.

cg_new app

app() { cg app ns client "$@"; }
stitch() { # URL: with time for a bad path
    start stitch -- ns client "$TOOLS/stitch" -t 100 "$(cg_path app)" "$@"
    wait_log stitch '^ready' || bail "stitch $*"
}
unstitch() { stop stitch; rm -f "${LOG[stitch]}"; }
# told PROCESS NAME: a number of its counters
COUNTERS='^(wire|counters|sums) '
told() {
    local before
    before=$(grep -cE "$COUNTERS" "${LOG[$1]}")
    kill -USR1 "${PID[$1]}"
    wait_for 5 told_more "$1" "$before"
    grep -E "$COUNTERS" "${LOG[$1]}" | tail -n 1 | grep -oE " $2=-?[0-9]+" | cut -d= -f2
}
told_more() { (($(grep -cE "$COUNTERS" "${LOG[$1]}") > $2)); }
wire() { # OPTION...: in place of what is between client and proxy
    unlinked
    start wire -- "$TOOLS/wire" join "${PROLOGUES[@]}" "$@" "/run/netns/$US-client" up0 "/run/netns/$US-proxy" down0
    wait_log wire '^ready' || bail "wire $*"
    linked
}
unlinked() {
    stop wire
    rm -f "$TMP/wire.log"
    ns client ip link del up0 2>/dev/null
    ns proxy ip link del down0 2>/dev/null
}
linked() {
    ns_addresses client up0 "$CLIENT4/24 $CLIENT6/64"
    ns_addresses proxy down0 "$PROXY4/24 $PROXY6/64"
    ns proxy ip link set down0 up
    ns client ip link set up0 up
    ns client ip route replace default via "$PROXY4" dev up0
    ns client ip -6 route replace default via "$PROXY6" dev up0
    wait_for 5 carrier || bail "nothing gets through between client and proxy"
}
# What each stream to a SOCKS server must begin with: the greeting and the request. 1082 and 1083 are
# asked for NET4 or NET6 and port 9004, 1084 for 9005.
request4=05010005010001$(printf %02x 203 0 113 10)
request6=0501000501000420010db8011300000000000000000010
PROLOGUES=()
for port in 1082 1083; do PROLOGUES+=(-p "4:$port=${request4}232c" -p "6:$port=${request6}232c"); done
PROLOGUES+=(-p "4:1084=${request4}232d" -p "6:1084=${request6}232d")
# many N TO PORT BYTES [OPTION...]: so many at a time; how many had every byte of both directions right.
# APP: `app` of another cgroup, with OUT for what they say.
many() {
    local out=${OUT:-$TMP/many}
    # shellcheck disable=SC2016
    "${APP:-app}" bash -c 'for ((i = 0; i < $0; i++)); do "$TOOLS/pattern" both -t 150 "${@:4}" "$1" "$2" "$3" & done; wait' "$@" >"$out" 2>&1
    grep -c '^both good' "$out"
}
# What must not be on a wire, by whoever looks at it: wrong checksums, raw octets, options.
bad() { echo "$(told "${1:-wire}" sum) $(told "${1:-wire}" raw) $(told "${1:-wire}" option)"; }
