#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# DNS of this host under `undersock run` and hook = "output": names become addresses that stand for
# them, or are asked for over TCP through the upstream; the upstream resolves what only it knows;
# nothing of it goes another way; and what was given out outlives reloads and workers.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/datagrams.sh"

need python3 nft dig curl
topology
datagrams_net
datagrams_watch
ask_py
cg_new app
net_who 80
serve_knows serve 1080
PEER_NAME=plain peer_microsocks proxy "$PROXY4" 1091

# A command in the namespace of the client, with a resolv.conf and a hosts file of its own.
resolving() { # RESOLVER COMMAND...: sets HERE
    echo "nameserver $1" >"$TMP/resolv.$1"
    HERE=(ns client unshare -m --propagation private sh -c "mount --bind '$TMP/resolv.$1' /etc/resolv.conf &&
        mount --bind '$TMP/hosts.client' /etc/hosts && exec \"\$@\"" sh "${@:2}")
}
RUN=(timeout -k 2 40 "$UNDERSOCK" run)
# What a script says; of undersock itself, nothing.
says() { "${HERE[@]}" sh -c "$1" sh "${@:2}" 2>&1 | grep --line-buffered -v '^undersock: '; }
q="dig +short +time=3 +tries=1"
rules() { ns client sh -c 'ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list tables' | sort; }
before=$(rules)

# questions HOOK: dns = fake. One program asks everything; a line for each.
cat >"$TMP/questions.sh" <<'SH'
q="dig +short +time=3 +tries=1"
echo "$($q a.secret A)" "$($q a.secret AAAA)"
echo "$($q @203.0.113.11 a.secret A)" "$($q @2001:db8:113::10 a.secret A)" "$($q a.secret A)"
echo "$($q @127.0.0.53 a.secret A | tail -n 1)"
echo "$($q +notcp a.secret ANY)"
echo "$($q -x "$($q a.secret A)") $($q -x "$($q a.secret AAAA)")"
echo "$($q -x 192.0.2.1)"
echo "$($q small.test TXT) $($q who.test TXT)"
dig +time=3 +tries=1 a.secret HTTPS | sed -n 's/.*status: \([A-Z]*\),.*/\1/p; s/.*ANSWER: \([0-9]*\),.*/\1/p' | paste -sd ' '
dig +time=3 +tries=1 big.test TXT | sed -n 's/.*\(retrying in TCP\).*/\1/p; s/.*ANSWER: \([0-9]*\),.*/\1/p' | paste -sd ' '
echo "$($q +tcp who.test TXT)"
echo "$($q localhost A) $($q printer A)"
dig +time=3 +tries=1 nobody.test TXT | sed -n 's/.*status: \([A-Z]*\),.*/\1/p'
SH
questions() { # NAME NAMES-THE-STUB
    local h=$1 seen
    mapfile -t seen < <(says ". '$TMP/questions.sh'")
    like "${seen[0]:-}" '^198\.1[89]\.[0-9.]+ fdf6:6931:7149:[0-9a-f:]+$' "$h: A and AAAA are of the ranges that stand for names"
    is "$(tr ' ' '\n' <<<"${seen[1]:-} ${seen[0]%% *}" | sort -u | wc -l)" 1 "$h: whoever is asked, the same answer"
    [[ $2 ]] && is "${seen[2]:-}" "${seen[0]%% *}" "$h: 127.0.0.53, too"
    is "${seen[3]:-}" "${seen[0]%% *}" "$h: ANY"
    is "${seen[4]:-}" "a.secret. a.secret." "$h: PTR of what stands for a name"
    is "${seen[5]:-}" back.test. "$h: PTR of a real address"
    is "${seen[6]:-}" "\"small\" \"tcp $EXIT4\"" "$h: TXT, by TCP, from the proxy"
    is "${seen[7]:-}" "NOERROR 0" "$h: HTTPS is empty"
    is "${seen[8]:-}" "retrying in TCP 14" "$h: an answer that is too long comes by TCP"
    is "${seen[9]:-}" "\"tcp $EXIT4\"" "$h: dig +tcp"
    like "${seen[10]:-}" '^127\.0\.0\.1 ' "$h: localhost"
    is "${seen[11]:-}" NXDOMAIN "$h: what does not exist"
}
H5=socks5h://$PROXY4:1080
curls="curl -sS --max-time 20"

# --- run, dns = fake (auto with socks5h)
resolving "$NET4" "${RUN[@]}" -u "$H5" --
questions run stub
is "$(says "$curls http://hosts.secret/; $curls http://six.secret/; $curls -4 http://other.secret/")" \
    "$EXIT4"$'\n'"$EXIT6"$'\n'"$EXIT4" "run: names that only the proxy knows"
is "$(ask "${HERE[@]}" python 's = udp()
a = [socket.getaddrinfo(n, 9000, socket.AF_INET)[0][4] for n in ("hosts.secret", "other.secret")]
got = [unconnected(*x, s=s) for x in a]
print([g[0] for g in got], [g[1:] for g in got] == a, connected(*a[0])[1] == a[0][0])')" "['$EXIT4', '$EXIT4'] True True" \
    "run: UDP to names: the answers come from what was asked"
like "$(says "$curls http://missing.secret/; echo \$?")" '(^|'$'\n'')(7|28|52|56|97)$' "run: a name that nobody knows fails in curl"
is "$(ask "${HERE[@]}" python 'print(refused("198.19.255.1"))')" ECONNREFUSED "run: UDP to an address that stands for nothing is refused"
resolving 127.0.0.53 "${RUN[@]}" -u "$H5" --
is "$(says "$curls http://hosts.secret/")" "$EXIT4" "run: with the stub in resolv.conf"
ns client "$TOOLS/who" 127.0.0.1 53 >/dev/null 2>&1
is "$(watched dns) $(watched leak)" "0 0" "run: no query and no packet to a target left this host"
num "$(watched both)" -gt 50 "which the watch would have seen"
is "$(grep -c 'query=a.secret' "${LOG[names]}")" 0 "run: a name that is only asked for is nobody's to hear"
is "$(rules)" "$before" "run: nothing of it is left"

# --- run, dns = tcp
resolving "$NET4" "${RUN[@]}" -u "socks5://$PROXY4:1091" --
is "$(says "$q four.test A; $q six.test AAAA; $q -x 192.0.2.1; $q who.test TXT; $q @203.0.113.11 who.test TXT; $q @$NET6 who.test TXT; $curls http://four.test/")" \
    "$NET4
$NET6
back.test.
\"tcp $EXIT4\"
\"tcp $EXIT4\"
\"tcp $EXIT6\"
$EXIT4" "run: dns = tcp (auto with socks5): real addresses, through a proxy without UDP"
is "$(says 'dig +time=3 +tries=1 big.test TXT | sed -n "s/.*\(retrying in TCP\).*/\1/p; s/.*ANSWER: \([0-9]*\),.*/\1/p" | paste -sd " "
dig +time=3 +tries=1 +bufsize=4096 big.test TXT | sed -n "s/.*\(retrying in TCP\).*/\1/p; s/.*ANSWER: \([0-9]*\),.*/\1/p"')" \
    $'retrying in TCP 14\n14' "run: dns = tcp: cut to what the client takes"
# A stub's own address is the proxy's, once there; and who asks by TCP, be it for a long answer, means the same server.
for path in auto relay; do
    resolving "$NET4" "${RUN[@]}" -u "$H5" -o dns=tcp -o "fast-path=$path" --
    is "$(says "$q @127.0.0.53 who.test TXT; $q +tcp @127.0.0.53 who.test TXT; $q @127.0.0.53 big.test TXT | grep -c xxx")" "\"tcp $EXIT4\"
\"tcp $EXIT4\"
14" "run, fast-path = $path: the resolver behind the stub is asked, by TCP too"
    resolving "$NET4" "${RUN[@]}" -u "$H5" -o dns=tcp -o "dns-server=$NET6" -o "fast-path=$path" --
    is "$(says "$q @198.51.100.1 who.test TXT; $q @127.0.0.53 who.test TXT; $q +tcp @198.51.100.1 who.test TXT; $q +tcp @127.0.0.53 who.test TXT" | uniq -c | xargs)" \
        "4 tcp $EXIT6" "run, fast-path = $path: dns-server is asked whoever was meant, by TCP too"
done
is "$(watched dns) $(watched leak)" "0 0" "run: dns = tcp: no query left this host either"

# --- run, dns = associate
resolving "$NET4" "${RUN[@]}" -u "$H5" -o dns=associate --
is "$(says "$q who.test TXT; $q @127.0.0.53 who.test TXT")" "\"udp $EXIT4\"
\"udp $EXIT4\"" "run: dns = associate, and the resolver behind the stub"
resolving "$NET4" "${RUN[@]}" -u "$H5" -o dns=associate -o "dns-server=$NET6" --
is "$(says "$q who.test TXT; $q @198.51.100.1 who.test TXT; $q @127.0.0.53 who.test TXT; $q @$NET6 who.test TXT; $q +tcp @198.51.100.1 who.test TXT" | uniq -c | xargs)" \
    "4 udp $EXIT6 1 tcp $EXIT6" "run: dns = associate: dns-server is asked whoever was meant"
is "$(watched dns) $(watched leak)" "0 0" "run: none left directly"

# --- run, dns = bypass: directly, whatever becomes of other UDP
for option in "-o udp=associate" "-o udp=reject"; do
    # shellcheck disable=SC2086
    resolving "$NET4" "${RUN[@]}" -u "$H5" -o dns=bypass $option --
    is "$(says "$q who.test TXT; $q +tcp who.test TXT")" "\"udp $CLIENT4\"
\"tcp $EXIT4\"" "run: dns = bypass $option: by UDP directly, by TCP like any connection"
done
resolving "$NET4" "${RUN[@]}" -u "$H5" -o dns=bypass -o udp=bypass --
is "$(says "$q who.test TXT")" "\"udp $CLIENT4\"" "run: both bypass: direct"
num "$(watched dns)" -gt 0 "which the watch sees"
watch_reset
resolving "$NET4" "${RUN[@]}" -u "socks5h://$PROXY4:9" --
like "$(says 'dig +time=3 +tries=1 who.test TXT | sed -n "s/.*status: \([A-Z]*\),.*/\1/p"')" SERVFAIL "run: the upstream is down: SERVFAIL"
is "$(watched dns) $(watched leak)" "0 0" "run: and nothing went direct"

# --- hook = "output"
config() { # URL LINE...
    printf 'control = "%s"\nworkers = 2\nupstream "u" { url = "%s" }\n' "$TMP/undersock.sock" "$1"
    printf 'capture "all" {\n    hook = "output"\n    upstream = "u"\n'
    printf '    %s\n' "${@:2}"
    echo '}'
}
us_daemon client < <(config "$H5")
resolving "$NET4"
questions output ''
given=$(says "$q hosts.secret A")
is "$(says "$curls http://hosts.secret/")" "$EXIT4" "output: a name that only the proxy knows"
flow_has_name() { [[ $(us_flows undersock "len([f for f in s if f['name'] == 'hosts.secret' and f['proto'] == '$1'])") -ge 1 ]]; }
start keeper -- ns net python3 -c 'import socket
s = socket.create_server(("203.0.113.11", 8080)); kept = []
while True: kept.append(s.accept())'
wait_port net tcp 203.0.113.11 8080
mkfifo "$TMP/never"
start held -- "${HERE[@]}" sh -c "exec curl -sSN --max-time 60 telnet://hosts.secret:8080 <>'$TMP/never'"
check "output: flows shows the name, TCP" -- wait_for 10 flow_has_name tcp
is "$(ask ns client python 'print(unconnected(sys.argv[1])[:2])' "$given")" "('$EXIT4', '$given')" "output: UDP to the name's address"
check "output: flows shows the name, UDP" -- wait_for 10 flow_has_name udp
us_reload undersock >/dev/null || bail "reload"
is "$(ns client curl -sS --max-time 20 "http://$given/") $(says "$q hosts.secret A")" "$EXIT4 $given" "output: over a reload an address stands for its name"
victims=$(us_workers undersock)
for p in $victims; do kill -KILL "$p"; done
workers_are_new() { [[ $(us_workers undersock | wc -w) -ge 2 && $(us_workers undersock) != *"${victims%% *}"* ]] && answers undersock; }
check "output: the workers are killed and come again" -- wait_for 10 workers_are_new
is "$(ns client curl -sS --max-time 20 "http://$given/") $(says "$q hosts.secret A")" "$EXIT4 $given" "output: and over the end of the workers"
stop held

# Others at the same time have names of their own.
resolving "$NET4" "${RUN[@]}" -u "$H5" --
is "$(says "for i in 1 2 3 4 5 6; do $q other.secret A >/dev/null; done; $curls http://other.secret/; $curls http://hosts.secret/")" \
    "$EXIT4
$EXIT4" "a run beside the daemon"
resolving "$NET4"
is "$(says "$curls http://hosts.secret/; $q hosts.secret A")" "$EXIT4
$given" "the daemon has its own, after it"
is "$(watched dns) $(watched leak)" "0 0" "output: no query and no packet to a target left this host"
config "$H5" 'dns = "tcp"' "dns-server = \"$NET6\"" >"$TMP/undersock.conf"
us_reload undersock >/dev/null || bail "reload"
is "$(says "$q who.test TXT; $q four.test A")" "\"tcp $EXIT6\"
$NET4" "output: dns = tcp and dns-server after a reload"
is "$(ns client curl -sS --max-time 20 "http://$given/")" "$EXIT4" "output: what was given out before keeps its meaning"
config "$H5" 'dns = "bypass"' 'udp = "bypass"' >"$TMP/undersock.conf"
us_reload undersock >/dev/null || bail "reload"
is "$(watched dns) $(watched leak)" "0 0" "output: nothing left until now"
is "$(says "$q who.test TXT")" "\"udp $CLIENT4\"" "output: dns and udp = bypass: direct"
stop undersock
is "$(rules)" "$before" "output: nothing of it is left"

# --- The upstream has a name itself. Each reload asks for that, and the resolver is one of this network, which
# the proxy cannot reach.
cat >"$TMP/named" <<SH
#!/bin/sh
exec unshare -m --propagation private sh -c 'mount --bind "$TMP/resolv.named" /etc/resolv.conf &&
    mount --bind "$TMP/hosts.client" /etc/hosts && exec "\$@"' sh "$UNDERSOCK" "\$@"
SH
chmod +x "$TMP/named"
printf 'nameserver %s\nsearch test\n' "$NET4" >"$TMP/resolv.named"
UNDERSOCK=$TMP/named
asked_by() { sed -n "s/^query=proxy.test type=1 by=\(.*\)/\1/p" "${LOG[names]}" | sort -u | paste -sd ';'; }
block() { # NAMESPACE [VERDICT]: what it sends itself to a name server is rejected
    ns "$1" nft -f - <<-NFT || bail "nft"
	table inet lan {
	    chain output {
	        type filter hook output priority 10;
	        tcp dport 53 ${2:-reject with tcp reset}
	        udp dport 53 meta mark 0 reject
	    }
	}
	NFT
}
block proxy
for way in "$H5" "socks5h://proxy.test:1080" "socks5://proxy.test:1080" "socks5h://PROXY:1080" "socks5h://proxy.test:1080 associate"; do
    read -r url how <<<"$way"
    us_daemon client < <(config "$url" "dns = \"${how:-auto}\"")
    : >"${LOG[names]}"
    check "$way: a reload" -- us_reload undersock
    is "$(ns client "$TOOLS/who" "$NET4" 80)" "$EXIT4" "and it works"
    if [[ $url == "$H5" ]]; then
        like "$(says "$q proxy.test A")" '^198\.1[89]\.' "a name like others gets an address that stands for it"
        is "$(asked_by)" "" "and nobody is asked"
    else
        is "$(says "$q proxy.test A; $q Proxy.Test A")" "$PROXY4"$'\n'"$PROXY4" "its own name has its own address"
        is "$(asked_by)" "tcp from=$CLIENT4" "which has been asked for directly"
        if [[ ${how:-} == associate ]]; then
            is "$(says "$q who.test TXT")" "\"udp $EXIT4\"" "other questions go through the association"
        else
            like "$(says "$q who.test TXT; $q below.proxy.test TXT")" "^(;;.*)?$" "other questions go to the proxy, which cannot ask either"
            is "$(grep -c "who.test\|below" "${LOG[names]}")" 0 "and nowhere else"
        fi
    fi
    stop undersock
done
# An upstream by a name that the daemon hears of by the reload itself.
for how in auto associate; do
    us_daemon client < <(config "$H5" "dns = \"$how\"")
    config "socks5h://proxy.test:1080" "dns = \"$how\"" >"$TMP/undersock.conf"
    : >"${LOG[names]}"
    check "dns = $how: a reload brings the name of an upstream" -- us_reload undersock
    is "$(asked_by)" "tcp from=$CLIENT4" "which has been asked for directly"
    is "$(ns client "$TOOLS/who" "$NET4" 80)" "$EXIT4" "and it works"
    stop undersock
done
# Whoever was killed and has left on-exit = "closed" refuses his own next start's query.
us_daemon client < <(config "socks5h://proxy.test:1080" 'on-exit = "closed"')
is "$(ns client "$TOOLS/who" "$NET4" 80)" "$EXIT4" "closed: it works"
kill -KILL "${PID[undersock]}"
ended undersock 10 2>/dev/null
is "$(ns client "$TOOLS/who" "$NET4" 80)" "connect=ECONNREFUSED" "closed, and killed: it is refused"
is "$(ns client sh -c "$q proxy.test A" 2>&1 | grep -c "^$PROXY4")" 0 "so are queries"
: >"${LOG[names]}"
: >"${LOG[undersock]}"
us_daemon client < <(config "socks5h://proxy.test:1080" 'on-exit = "closed"')
works() { [[ $(ns client "$TOOLS/who" "$NET4" 80) == "$EXIT4" ]]; }
check "the next start works all the same" -- wait_for 40 works
is "$(asked_by)" "tcp from=$CLIENT4" "when it has been asked for by a worker"
is "$(grep -c "reloaded " "${LOG[undersock]}")" 1 "once"
check "and stop lifts what is closed" -- "$UNDERSOCK" stop -s "$TMP/undersock.sock"
ended undersock 10
is "$(tables_of client)" "" "nothing is left"
# The workers that were told of it die before there is an answer; those in their place are asked again.
us_daemon client < <(config "$H5")
config "socks5h://proxy.test:1080" >"$TMP/undersock.conf"
kill -STOP "${PID[names]}"
start reload -- ns client "$UNDERSOCK" reload -s "$TMP/undersock.sock"
asks() { ns client ss -Htn state established dst "$NET4" dport = :53 | grep -q .; }
check "a reload waits for a name" -- wait_for 20 asks
workers=$(us_workers undersock)
# shellcheck disable=SC2086
kill -KILL $workers
others() { [[ $(us_workers undersock | wc -w) == $(wc -w <<<"$workers") && " $(us_workers undersock)" != *" ${workers%% *} "* ]]; }
check "its workers die, and others start" -- wait_for 20 others
kill -CONT "${PID[names]}"
ended reload 40
is "$ENDED $(<"${LOG[reload]}")" "0 " "these know what they are asked for"
is "$(ns client "$TOOLS/who" "$NET4" 80)" "$EXIT4" "and it works"
stop undersock
# The host has moved to another network, and then reloads.
printf 'nameserver 203.0.113.11\nsearch test\n' >"$TMP/resolv.named"
us_daemon client < <(config "socks5h://proxy.test:1080")
: >"${LOG[names]}"
is "$(says "$q proxy.test A")" "" "a name server that is not this host's resolver is not asked directly, whoever names it"
is "$(asked_by)" "" "(the proxy cannot)"
printf 'nameserver %s\nsearch test\n' "$NET4" >"$TMP/resolv.named"
check "another resolver, and a reload" -- us_reload undersock
is "$(says "$q proxy.test A")" "$PROXY4" "it is asked from then on"
is "$(asked_by)" "tcp from=$CLIENT4" "directly"
stop undersock
ns proxy nft delete table inet lan
us_daemon client < <(config "socks5h://proxy.test:1080")
block client
: >"${LOG[names]}"
is "$(says "$q proxy.test A")" "$PROXY4" "where no such query gets out, through the proxy"
is "$(asked_by)" "tcp from=$EXIT4" "as the name server has seen it"
ns client nft delete table inet lan
check "a reload, for new connections" -- us_reload undersock
block client drop
: >"${LOG[names]}"
is "$(says "dig +short +time=10 +tries=1 proxy.test A")" "$PROXY4" "where it gets no answer, too"
is "$(asked_by)" "tcp from=$EXIT4" "as the name server has seen it"
block proxy
us_reload undersock >"$TMP/reload.out" 2>&1
isnt $? 0 "where nobody answers, a reload fails"
# The resolver goes on to look below its search domains, where every name has an address that stands for it.
like "$(<"$TMP/reload.out")" 'upstream u: "proxy.test" resolves to [^ ]*, which stands for a name' "and says what the name has come to"
is "$(ns client "$TOOLS/who" "$NET4" 80)" "$EXIT4" "the daemon goes on as it was"
stop undersock
ns client nft delete table inet lan
ns proxy nft delete table inet lan
done_testing
