#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Real SOCKS servers, each with every version and method it speaks, under both captures: the bytes
# arrive, in order, to the last one before FIN, and they came from the proxy.
#
# One daemon has an upstream for each server and scheme, and two captures for each upstream: one by
# cgroup and one by nft, chosen by the destination's port.
. "$(dirname "$0")/lib.sh"

need python3 nft danted microsocks tor ssh sshd
topology
impatient client
cg_new app

# --- the servers
PEER_NAME=dante peer_dante proxy "$PROXY4" 1101
PEER_NAME=dante-password peer_dante proxy "$PROXY4" 1102 alice 'open sesame'
PEER_NAME=microsocks peer_microsocks proxy "$PROXY4" 1103
PEER_NAME=microsocks-password peer_microsocks proxy "$PROXY4" 1104 bob 's3cret:@/%'
PEER_NAME=ssh peer_ssh proxy "$PROXY4" 1105
PEER_NAME=serve peer_serve proxy "$PROXY4" 1106
printf 'carol:pass word\ndave:x\n' >"$TMP/users"
chmod 600 "$TMP/users"
PEER_NAME=serve-password peer_serve proxy "$PROXY4" 1107 "$TMP/users"
PEER_NAME=serve6 peer_serve proxy "$PROXY6" 1108
PEER_NAME=tor peer_tor proxy "$PROXY4" 1109
# The second hop is elsewhere: what leaves it comes from NET4, and what reaches it from EXIT4.
PEER_NAME=far peer_microsocks net "$NET4" 1110

# --- the configuration, and a table of what to try
CONF='' PORT=9100
declare -A AT
UPSTREAMS=()

peer() { # NAME URL [KEY...]
    local hook
    CONF+="upstream \"$1\" {
    url = \"$2\"
    $(printf '    %s\n' "${@:3}")
}
"
    [[ ${HOP:-} ]] && return
    PORT=$((PORT + 1))
    AT[$1]=$PORT
    UPSTREAMS+=("$1")
    for hook in cgroup output; do
        CONF+="capture \"$1-$hook\" {
    hook = \"$hook\"
    upstream = \"$1\"
    tcp-ports = { \"$PORT\" }
"
        [[ $hook == cgroup ]] && CONF+="    cgroup = \"/$US-app\""$'\n'
        [[ ${PRIVATE:-} ]] && CONF+='    private = true'$'\n'
        CONF+='}'$'\n'
    done
}
secret() { # NAME PASSWORD: a password file
    printf '%s\n' "$2" >"$TMP/$1.password"
    chmod 600 "$TMP/$1.password"
    echo "password-file = \"$TMP/$1.password\""
}
peer dante-5 "socks5://$PROXY4:1101"
peer dante-5h "socks5h://$PROXY4:1101"
peer dante-4 "socks4://$PROXY4:1101"
peer dante-password "socks5://alice@$PROXY4:1102" "$(secret dante 'open sesame')"
peer microsocks-5 "socks5://$PROXY4:1103"
peer microsocks-5h "socks5h://$PROXY4:1103"
peer microsocks-password "socks5://bob@$PROXY4:1104" "$(secret microsocks 's3cret:@/%')"
peer microsocks-url "socks5://bob:s3cret%3a%40%2F%25@$PROXY4:1104"
peer ssh-5 "socks5://$PROXY4:1105"
peer ssh-5h "socks5h://$PROXY4:1105"
peer ssh-4 "socks4://$PROXY4:1105"
peer ssh-4a "socks4a://$PROXY4:1105"
peer serve-5 "socks5://$PROXY4:1106"
peer serve-5h "socks5h://$PROXY4:1106"
peer serve-4 "socks4://user@$PROXY4:1106"
peer serve-4a "socks4a://user@$PROXY4:1106"
peer serve-password "socks5h://carol@$PROXY4:1107" "$(secret serve 'pass word')"
peer serve-ipv6 "socks5://[$PROXY6]:1108"
peer chain "socks5://$NET4:1110" 'via = "dante-5"'
peer chain-password "socks5h://$NET4:1110" 'via = "serve-password"'
peer chain-4 "socks5://$NET4:1110" 'via = "ssh-4"'
TARGETS=("${UPSTREAMS[@]}")
PRIVATE=1 peer tor "socks5://$PROXY4:1109" 'handshake-timeout = "2s"'

for name in "${TARGETS[@]}"; do start "at-$name" -- ns net "$TOOLS/pattern" serve :: "${AT[$name]}"; done
for name in "${TARGETS[@]}"; do wait_port net tcp :: "${AT[$name]}"; done
us_daemon client <<<"$CONF"

through() { # HOOK CMD...
    local hook=$1
    shift
    if [[ $hook == cgroup ]]; then cg app ns client "$@"; else ns client "$@"; fi
}

# --- bytes through all of them
for name in "${TARGETS[@]}"; do
    options=()
    # It closes both directions at the first FIN.
    [[ $name == microsocks* || $name == chain* ]] && options=(-N)
    for hook in cgroup output; do
        check "$name, $hook: 2 MiB each way, IPv4" -- \
            through $hook "$TOOLS/pattern" both -t 60 "${options[@]}" "$NET4" "${AT[$name]}" 2M
        [[ $name == *-4* ]] && continue
        check "$name, $hook: 2 MiB each way, IPv6" -- \
            through $hook "$TOOLS/pattern" both -t 60 "${options[@]}" "$NET6" "${AT[$name]}" 2M
    done
    case $name in
    chain*) want="$NET4" want6="|$NET6" ;;
    *) want="$EXIT4" want6="|$EXIT6" ;;
    esac
    [[ $name == *-4* ]] && want6=
    peers=$(sed -n 's/^serve peer=\[\?\(::ffff:\)\?\(.*[0-9a-f]\)\]\?:[0-9]* .*/\2/p' "${LOG[at-$name]}" | tr -d '[]' | sort -u | paste -sd '|')
    is "$peers" "$(printf '%s\n' ${want//|/ } ${want6//|/ } | sort -u | paste -sd '|')" "$name: all of them came from there"
done

# --- SOCKS4 has no IPv6
for name in dante-4 serve-4; do
    for hook in cgroup output; do
        through $hook "$TOOLS/pattern" both -t 20 "$NET6" "${AT[$name]}" 1K >"$TMP/v6.out" 2>&1
        isnt $? 0 "$name, $hook: an IPv6 destination is refused, not sent elsewhere"
    done
done
is "$(grep -c "peer=\[$CLIENT6\]" "$TMP"/at-*.log | awk -F: '{n += $NF} END {print n}')" 0 "nothing has gone direct"

# --- the chain is one
wait_log far "$NET4:${AT[chain]}|$NET4"
is "$(sed -n 's/^client\[[0-9]*\] \([^ ]*\): connected to.*/\1/p' "${LOG[far]}" | sort -u)" "$EXIT4" "the second hop was reached through the first only"

# --- tor, as far as it goes without a network
for hook in cgroup output; do
    start "tor-$hook" -- $([[ $hook == cgroup ]] && echo cg app) ns client "$TOOLS/who" -t 60 "$NET4" "${AT[tor]}"
    check "tor, $hook: it has agreed on a method and has the request" -- \
        wait_for 10 eval "[[ \$(us_flows undersock \"[f['state'] for f in s if f['upstream'] == 'tor']\") == \"['handshake']\" ]]"
    ended "tor-$hook" 30
    is "$(<"${LOG[tor-$hook]}")" 'connect=ETIMEDOUT' "tor, $hook: no answer ends as such"
done
check "tor: the line says so" -- wait_log undersock 'upstream tor.*no answer within handshake-timeout'
# What they were asked for may end after connect() has, and is a failure then.
no_tor() { [[ $(us_flows undersock "[f['id'] for f in s if f['upstream'] == 'tor']") == "[]" ]]; }
check "tor: nothing is under way any more" -- wait_for 40 no_tor
for hook in cgroup output; do
    is "$(through $hook "$TOOLS/who" -t 60 10.99.99.99 "${AT[tor]}")" 'connect=ECONNREFUSED' "tor, $hook: an internal address is refused by its reply"
done
check "tor has read the request" -- grep -q 'Rejecting SOCKS request' "${LOG[tor]}"
like "$(us_status undersock "[u['last_error'] for u in s['upstreams'] if u['name'] == 'tor']")" 'reply 0x01' "and status has its reply code"

# --- every upstream but that one is in order
is "$(us_status undersock "sorted({u['name'] for u in s['upstreams'] if not u['healthy']} - {'tor'})")" "[]" "status: all others are healthy"
is "$(us_status undersock "sorted({u['name'] for u in s['upstreams']} - {u['name'] for u in s['upstreams'] if u['granted']})")" "['tor']" "status: all others have granted"
unlike "$(<"${LOG[undersock]}")" 's3cret|open sesame|pass word' "no password is in the log"
done_testing
