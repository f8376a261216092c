#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# Stitch without the daemon: the kernel does the SOCKS handshake inside the application's own connection.
# Both families, each version of SOCKS with and without credentials, names, chains; what the upstream
# says is what connect() returns; bytes and ends; hostile servers; and nothing raw ever reaches one.
. "$(dirname "$0")/lib.sh"

need microsocks tc
topology
net_who 9000
start sink -- ns net "$TOOLS/pattern" serve :: 9004
start banner -- ns net "$TOOLS/pattern" serve -B :: 9005
start ends -- ns net "$TOOLS/end" serve :: 9006
for port in 9004 9005 9006; do wait_port net tcp :: $port; done
cg_new app
impatient client
PEER_NAME=plain peer_microsocks proxy "$PROXY4" 1080
PEER_NAME=plain6 peer_microsocks proxy "$PROXY6" 1080
PEER_NAME=locked peer_microsocks proxy "$PROXY4" 1081 alice wonder
echo alice:wonder >"$TMP/users"
chmod 600 "$TMP/users"
PEER_NAME=serve peer_serve proxy "$PROXY4" 1082
PEER_NAME=users peer_serve proxy "$PROXY4" 1084 "$TMP/users"
PEER_NAME=serve6 peer_serve proxy "$PROXY6" 1082
PEER_NAME=near peer_serve client 127.0.0.1 1083
start verdicts -- ns proxy "$TOOLS/verdicts" serve "$PROXY4" 1090 1091
start verdicts6 -- ns proxy "$TOOLS/verdicts" serve "$PROXY6" 1090 1091
wait_port proxy tcp "$PROXY4" 1090
wait_port proxy tcp "$PROXY6" 1090
FAKE4=198.18.7.7

app() { cg app ns client "$@"; }
seen() { app timeout 20 "$TOOLS/who" "$@" 2>&1; }
# stitch ARG...: in force until unstitch
stitch() {
    start stitch -- ns client "$TOOLS/stitch" "$@"
    wait_log stitch '^ready' || bail "stitch $*"
}
unstitch() {
    stop stitch
    rm -f "${LOG[stitch]}"
}
counter() {
    : >"${LOG[stitch]}"
    kill -USR1 "${PID[stitch]}"
    wait_log stitch '^counters' || return 1
    sed -n "s/^counters.* $1=\([0-9]*\).*/\1/p" "${LOG[stitch]}"
}
direct() { stitch "$(cg_path app)" "$@"; }

# --- versions, families, credentials, names, chains
direct "socks5://$PROXY4:1082"
is "$(seen -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "SOCKS5: IPv4, and the peer is who was asked for"
is "$(seen -M -p "$NET4" 9000)" "$EXIT4 peer=[::ffff:$NET4]:9000" "an IPv6 socket with a v4-mapped address"
is "$(ns client "$TOOLS/who" "$NET4" 9000)" "$CLIENT4" "who is not in the cgroup goes direct"
check "32 MiB each way, half-close" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9004 32M
check "behind a banner" -- app "$TOOLS/pattern" both -B -t 60 "$NET4" 9005 1M
is "$(counter granted) $(counter carried) $(counter guarded) $(counter error)" "4 4 0 0" "all of them were stitched, and nothing else is left"
unstitch
direct "socks5://[$PROXY6]:1082"
is "$(seen -p "$NET6" 9000)" "$EXIT6 peer=[$NET6]:9000" "SOCKS5: IPv6, and the peer is who was asked for"
check "IPv6: 32 MiB each way, half-close" -- app "$TOOLS/pattern" both -t 60 "$NET6" 9004 32M
check "IPv6: behind a banner" -- app "$TOOLS/pattern" both -B -t 60 "$NET6" 9005 1M
unstitch
direct "socks5://alice:wonder@$PROXY4:1081"
is "$(seen "$NET4" 9000)" "$EXIT4" "SOCKS5 with a password"
unstitch
direct "socks5://alice:wrong@$PROXY4:1081"
like "$(seen "$NET4" 9000)" "ECONNREFUSED" "a wrong password is a refusal"
check "and is reported" -- wait_log stitch '^failed hop step=1 '
unstitch
for url in "socks5h://$PROXY4:1082" "socks4://$PROXY4:1082" "socks4a://bob@$PROXY4:1082"; do
    direct -n "$NET4=$FAKE4" "$url"
    is "$(seen "$NET4" 9000)" "$EXIT4" "${url%%:*}: an address"
    is "$(seen -p "$FAKE4" 9000)" "$EXIT4 peer=$FAKE4:9000" "${url%%:*}: a name"
    unstitch
done
direct "socks5://$PROXY4:1082" "socks5://alice:wonder@$PROXY4:1084" "socks4://$PROXY4:1082" "socks5://$PROXY4:1082"
is "$(seen "$NET4" 9000)" "$EXIT4" "a chain of four"
check "8 MiB each way through it" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9004 8M
unstitch
direct "socks5://$PROXY4:1080"
is "$(seen "$NET4" 9000)" "$EXIT4" "microsocks"
unstitch
direct "socks5://127.0.0.1:1083"
is "$(seen "$NET4" 9000)" "$CLIENT4" "a server on loopback"
check "8 MiB each way through it, behind a banner" -- app "$TOOLS/pattern" both -B -t 60 "$NET4" 9005 8M
unstitch

# --- what the upstream says
verdicts() { app "$TOOLS/connects" -c 1 -t 10 "$@" | awk '{print $1 "=" $2}' | paste -sd ' '; }
direct "socks5://$PROXY4:1090"
is "$(verdicts "$NET4" 20000-20010)" \
    "20000=OK 20001=OK 20002=OK 20003=ECONNREFUSED 20004=ECONNREFUSED 20005=ENETUNREACH 20006=EHOSTUNREACH 20007=ECONNREFUSED 20008=EHOSTUNREACH 20009=ECONNREFUSED 20010=ECONNREFUSED" \
    "each verdict, IPv4"
is "$(verdicts "$NET4" 20011-20013) $(verdicts "$NET4" 20015 20018 20019 20023 20024)" \
    "20011=ECONNREFUSED 20012=ECONNREFUSED 20013=ECONNREFUSED 20015=ECONNREFUSED 20018=ECONNREFUSED 20019=EHOSTUNREACH 20023=ECONNREFUSED 20024=ECONNREFUSED" \
    "and what is no verdict, or late"
is "$(verdicts "$NET4" 20014)" "20014=ETIMEDOUT" "no verdict is silence"
is "$(app "$TOOLS/connects" -q -n 1000 "$NET4" 20000)" "1000 20000 OK" "1,000 at once"
is "$(app "$TOOLS/connects" -q -b -c 4 -n 300 "$NET4" 20007)" "300 20007 ECONNREFUSED" "300 refusals, in four threads"
is "$(verdicts -P "$NET4" 20000 20007)" "20000=OK 20007=ECONNREFUSED" "MPTCP"
unstitch
direct "socks5://[$PROXY6]:1090"
is "$(verdicts "$NET6" 20000-20010)" \
    "20000=OK 20001=OK 20002=OK 20003=ECONNREFUSED 20004=EACCES 20005=ENETUNREACH 20006=EHOSTUNREACH 20007=ECONNREFUSED 20008=EHOSTUNREACH 20009=ECONNREFUSED 20010=ECONNREFUSED" \
    "each verdict, IPv6"
is "$(app "$TOOLS/connects" -q -n 1000 "$NET6" 20000)" "1000 20000 OK" "1,000 at once, IPv6"
unstitch
direct "socks5://$PROXY4:1099"
is "$(verdicts "$NET4" 20000)" "20000=ECONNREFUSED" "nobody listens at the upstream"
unstitch

# --- a server that refused is reset when it closes, whatever a firewall of the host thinks of its FIN
lingering() { ns proxy ss -Htan state fin-wait-1 state fin-wait-2 state closing state last-ack '( sport = :1082 )'; }
nothing_lingers() { [[ -z $(lingering) ]]; }
ns client nft -f - <<-NFT || bail "nft"
	table inet test_firewall {
	    counter late { }
	    chain c { type filter hook input priority 0; tcp sport 1082 ct state invalid counter name late drop; }
	}
	NFT
for family in 4 6; do
    to=$NET4 at=$PROXY4
    ((family == 6)) && to=$NET6 at="[$PROXY6]"
    direct "socks5://$at:1082"
    is "$(app "$TOOLS/connects" -q -c 4 -n 50 "$to" 9999)" "50 9999 ECONNREFUSED" "IPv$family: 50 refusals behind a firewall"
    check "IPv$family: none of them lingers at the server" -- wait_for 5 nothing_lingers
    is "$(seen "$to" 9000)" "$([[ $family == 4 ]] && echo "$EXIT4" || echo "$EXIT6")" "IPv$family: and the next is granted"
    unstitch
done
like "$(ns client nft list counter inet test_firewall late)" "packets 0 " "and the firewall was never asked"
ns client nft delete table inet test_firewall

# --- how streams end
direct "socks5://$PROXY4:1082"
for mode in client-fin server-fin client-rst server-rst client-fin-server-rst server-fin-client-rst server-unread client-exit server-close; do
    check "$mode" -- app "$TOOLS/end" "$mode" "$NET4" 9006
done
unstitch

# --- servers that behave in no good way: a refusal, whatever they send, and an answer that is right
port=1200
bad() { # WANT MODE [ARG...]
    port=$((port + 1))
    PEER_NAME=bad peer_bad proxy "$PROXY4" $port "${@:2}"
    direct -t 3 "socks5://$PROXY4:$port"
    is "$(app timeout 20 "$TOOLS/connects" -c 1 -t 15 "$NET4" 9000 | awk '{print $2}')" "$1" "badsocks ${*:2}"
    unstitch
    stop bad
}
for n in 1 2 3 7 11; do bad ECONNREFUSED drop $n; bad ECONNREFUSED drop-reset $n; done
for mode in reset close garbage endless endless-reply http version reply-version atyp method password no-method; do bad ECONNREFUSED $mode; done
for mode in hang-greeting hang-request; do bad ETIMEDOUT $mode; done
good() { # MODE [ARG...]
    port=$((port + 1))
    PEER_NAME=bad peer_bad proxy "$PROXY4" $port "$@"
    direct "socks5://$PROXY4:$port"
    check "badsocks $*: behind a banner" -- app "$TOOLS/pattern" both -B -t 30 "$NET4" 9005 64K
    unstitch
    stop bad
}
for mode in good name bound6 glued reserved; do good $mode; done
good slow 20

# --- nothing raw: without filters no connection, and none that was raw before
direct "socks5://$PROXY4:1090"
ns client tc filter del dev up0 egress 2>/dev/null
filtered() { ns client tc filter show dev "$1" egress | grep -q us_st_out; }
check "filters that were taken away come back" -- wait_for 5 filtered up0
is "$(verdicts "$NET4" 20000)" "20000=OK" "and it works again"
stop stitch KILL
rm -f "${LOG[stitch]}"
is "$(ns client tc filter show dev up0 egress | grep -c us_st_out)" 1 "after SIGKILL the filters stay"
is "$(app "$TOOLS/who" "$NET4" 9000)" "$CLIENT4" "and nobody is turned anywhere"
direct "socks5://$PROXY4:1090"
is "$(verdicts "$NET4" 20000 20007)" "20000=OK 20007=ECONNREFUSED" "the next one takes over"
is "$(ns client tc filter show dev up0 egress | grep -c us_st_out)" 1 "with one filter"
unstitch
is "$(ns client tc filter show dev up0 egress | grep -c us_st_)" 0 "after an orderly end nothing is left"
done_testing
