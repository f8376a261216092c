#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# undersock probe: what real servers can do, in words and as JSON; servers that hang, talk nonsense or
# want a password; wrong usage. A password is nowhere to be seen.
. "$(dirname "$0")/lib.sh"

need python3 microsocks danted sshd ssh
topology
# What nobody has is unreachable at once.
ns proxy ip route add unreachable 192.0.2.0/24
ns proxy ip -6 route add unreachable 2001:db8::/64

# probed NAME URL...: what is said, and the exit status behind it
probed() { ns client timeout 100 "$UNDERSOCK" probe "$@" 2>&1; echo "exit $?"; }
# of KEY: that line of $said, without its time
of() { sed -En "s/^$1 +([0-9.]+ ms,? ?)?(.*)$/\2/p" <<<"$said"; }
summary() {
    local a
    for a in connect-ipv4 connect-ipv6 connect-name udp-associate bind pipelining; do of "$a" | awk '{printf "%s ", $1}'; done
}

peer_serve proxy "$PROXY4" 1080
said=$(probed "socks5h://$PROXY4:1080")
is "$(of methods); $(of handshake)" "none; nothing asked" "serve: methods and handshake"
is "$(of connect-ipv4), $(of connect-ipv6)" "yes     (host unreachable), yes     (host unreachable)" "serve: addresses"
like "$(of connect-name)" '^(yes|unknown) ' "serve: a name" # what its resolver says in here is not ours to know
like "$(of udp-associate)" "^yes +\(at $PROXY4:[0-9]+\)$" "serve: UDP"
like "$(of bind)" '^yes +\(at [0-9.]+:[0-9]+\)$' "serve: BIND"
like "$(of pipelining)" '^yes +\(greeting and request in one go\)$' "serve: pipelining"
like "$(of connect)" '^$' "serve: the time of the connection"
is "$(of address) $(of exit)" "$PROXY4:1080 0" "serve: its address; exit 0"
said=$(probed "socks4a://$PROXY4:1080")
is "$(summary)$(of exit)" "unknown no unknown no yes no 0" "serve, socks4a"
said=$(probed "socks4://$PROXY4:1080")
like "$(of connect-name)" '^no +\(socks4a:// has names\)$' "serve, socks4"
stop serve
PEER_NAME=serve6 peer_serve proxy "$PROXY6" 1080
said=$(probed "socks5://[$PROXY6]:1080")
like "$(of address) $(summary)$(of exit)" "^\[$PROXY6\]:1080 yes yes (yes|unknown) yes yes yes 0\$" "serve, by IPv6"

printf 'alice:S3cret\n' >"$TMP/users"
chmod 600 "$TMP/users"
PEER_NAME=serve-users peer_serve proxy "$PROXY4" 1084 "$TMP/users"
said=$(UNDERSOCK_PASSWORD=S3cret probed "socks5h://alice@$PROXY4:1084")
like "$(of pipelining)" '^yes +\(greeting, password and request in one go\)$' "serve with users: pipelining, the password too"
rm "$TMP/users"

peer_microsocks proxy "$PROXY4" 1081 alice S3cret
said=$(UNDERSOCK_PASSWORD=S3cret probed "socks5h://alice@$PROXY4:1081")
is "$(of methods); $(of handshake)" "password; user and password accepted" "microsocks: it wants a password, and takes ours"
like "$(summary)$(of exit)" '^yes yes (yes|unknown) no no no 0$' "microsocks: what it can do"
like "$(of bind)" 'command not supported' "microsocks: and says"
said=$(UNDERSOCK_PASSWORD=wrong probed "socks5h://alice@$PROXY4:1081")
like "$said" 'error: socks5h://10.77.1.1:1081: it does not let alice in: user or password refused' "a wrong password"
is "$(of methods) $(of exit)" "password 1" "a wrong password: exit 1, and the methods all the same"
said=$(probed "socks5h://$PROXY4:1081")
like "$said" 'does not let us in without a user: socks5h://USER@HOST, and UNDERSOCK_PASSWORD' "no password"
is "$(of exit)" 1 "no password: exit 1"

peer_dante proxy "$PROXY4" 1082
said=$(probed "socks5h://$PROXY4:1082")
is "$(of methods) $(of exit)" "none 0" "dante: methods"
like "$(of udp-associate) $(of bind)" "^yes +\(at $PROXY4:[0-9]+\) yes +\(at .*\)$" "dante: UDP and BIND"
peer_ssh proxy "$PROXY4" 1083
said=$(probed "socks5h://$PROXY4:1083")
is "$(of udp-associate | awk '{print $1}') $(of bind | awk '{print $1}') $(of exit)" "no no 0" "ssh -D: neither UDP nor BIND"

# --- JSON, options on either side
ns client "$UNDERSOCK" probe "socks5h://[$PROXY6]:1080" --json >"$TMP/a.json"
ns client "$UNDERSOCK" probe --json "socks5h://$PROXY4:1" >"$TMP/b.json" 2>/dev/null
is "$(python3 - "$TMP/a.json" "$TMP/b.json" <<'PY'
import json, sys
a, b = (json.load(open(f)) for f in sys.argv[1:])
print(a["methods"], a["error"], a["password_accepted"], a["bind"]["supported"], 0 <= a["handshake_ms"] < 1000, a.keys() == b.keys())
print(b["methods"], b["error"], b["connect_ms"], b["bind"]["supported"], b["bind"]["text"])
PY
)" "['none'] None False True True True
None cannot connect: Connection refused None None None" "--json, on either side of the URL: the same fields whatever happens"

# --- servers that are none
number=1090
for mode in mute garbage; do
    PEER_NAME=$mode peer_bad proxy "$PROXY4" $number $mode
    said=$(probed "socks5://$PROXY4:$number")
    case $mode in
    mute) like "$said" 'no answer to the greeting within 3 s' "a server that says nothing" ;;
    garbage) like "$said" 'does not speak SOCKS5' "a server that speaks something else" ;;
    esac
    is "$(of exit)" 1 "$mode: exit 1"
    number=$((number + 1))
done
said=$(probed "socks5://nowhere.invalid:1")
like "$said" 'cannot resolve "nowhere.invalid"' "a name that is none"
said=$(probed "socks5://$PROXY4:1")
like "$said" 'cannot connect: Connection refused' "nobody there"

# --- usage
like "$(probed)" 'which upstream.*exit 2' "without a URL"
like "$(probed "socks9://$PROXY4")" 'unknown scheme.*exit 2' "a scheme that is none"
like "$(probed "socks5://$PROXY4" extra)" 'unexpected argument "extra".*exit 2' "one argument too many"
like "$(probed "http://$PROXY4")" 'http:// is not in this version.*exit 2' "http://"
like "$(probed --frobnicate)" 'unknown option.*exit 2' "an option that is none"
is "$(grep -rc S3cret "$TMP" | awk -F: '{n += $2} END {print n}')" 0 "the password is in no file"
done_testing
