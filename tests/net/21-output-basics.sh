#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# `undersock daemon` with hook = "output": what is selected goes through the proxy and nothing else
# does, a reload changes the selection under living flows, the rules are the ones that `rules` prints
# and go with the daemon however it ends, and bad configurations and missing privileges install nothing.
. "$(dirname "$0")/lib.sh"

need python3 nft setpriv
topology
net_who 9000
start who2 -- ns net "$TOOLS/who" serve 9001
start near -- ns proxy "$TOOLS/who" serve 9002
start echo -- ns net "$TOOLS/load" server 0.0.0.0 9003
wait_port net tcp :: 9001
wait_port proxy tcp :: 9002
wait_port net tcp 0.0.0.0 9003
peer_serve proxy "$PROXY4" 1080
# An upstream whose address no default exclusion covers.
PEER_NAME=outer peer_serve proxy "$EXIT4" 1081

# Where an ordinary user can read them.
install -m 755 "$UNDERSOCK" "$TOOLS/who" "$TMP" || bail "install"
UID_A=41001 UID_B=41002
CONF=$TMP/undersock.conf

config() { # KEYS-OF-THE-CAPTURE...
    echo "control = \"$TMP/undersock.sock\""
    echo 'upstream "proxy" {'
    echo "    url = \"${URL:-socks5://$PROXY4:1080}\""
    echo '}'
    echo 'capture "host" {'
    echo '    hook = "output"'
    echo '    upstream = "proxy"'
    printf '    %s\n' "$@"
    echo '}'
}
# select KEYS...: a reload with this selection.
selection() {
    config "$@" >"$CONF"
    us_reload undersock || bail "reload: $*"
}
seen() { ns client "$TMP/who" "$@"; }
seen_as() { # UID ADDR PORT
    ns client setpriv --reuid "$1" --clear-groups --inh-caps=-all "$TMP/who" "${@:2}"
}

# --- the daemon comes up
before_tables=$(tables_of client)
before_pids=$(ns_pids client)
is "$(seen "$NET4" 9000)" "$CLIENT4" "without us the target sees the client"
us_daemon client < <(config)
is "$(grep -Ev '^undersock: (ready: |at most .* flows a worker)' "${LOG[undersock]}")" "" "it starts without a word that is not its own"
is "$(tables_of client)" "$before_tables${before_tables:+ }table inet undersock" "it has one nft table"
is "$(seen -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "IPv4: through the proxy, peer as asked for"
is "$(seen -p "$NET6" 9000)" "$EXIT6 peer=[$NET6]:9000" "IPv6: through the proxy, peer as asked for"
is "$(seen -M "$NET4" 9000)" "$EXIT4" "a v4-mapped destination"
is "$(seen_as $UID_A "$NET4" 9000)" "$EXIT4" "an ordinary user's connections too"
is "$(ns client curl -qsS --max-time 20 "http://$NET4:9000/")" "$EXIT4" "curl, IPv4"
is "$(ns client curl -qgsS --max-time 20 "http://[$NET6]:9000/")" "$EXIT6" "curl, IPv6"

# --- the rules
same_rules() { # DESCRIPTION [FILTER]
    local installed printed
    installed=$(installed_rules client | "${2:-without_seats}")
    printed=$(ns client "$UNDERSOCK" rules -c "$CONF" | "${2:-without_seats}")
    is "$installed" "$printed" "rules prints what is installed: $1"
}
same_rules "no selection" cat
isnt "$("$UNDERSOCK" rules -c "$CONF" | grep -c redirect)" 0 "and that is not nothing"

# --- a socket that is bound to an interface: nothing of it gets out, and it is told
cat >"$TMP/bound.py" <<'PY'
# HOST PORT OWN-PORT [DEVICE]: what becomes of a request.
import errno, socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.settimeout(30)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', int(sys.argv[3])))
if sys.argv[4:]:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[4].encode())
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b'?\n')
    print(s.recv(100).decode().strip())
except OSError as e:
    print(errno.errorcode.get(e.errno, 'no answer'))
PY
bound() { ns client python3 "$TMP/bound.py" "$@"; }
ns proxy nft -f - <<-'NFT' || bail "nft"
	table netdev strays {
	    counter seen {
	    }
	    chain ingress {
	        type filter hook ingress device "down0" priority 0; policy accept;
	        ip daddr 127.0.0.0/8 counter name "seen"
	        ip6 daddr ::1 counter name "seen"
	    }
	}
NFT
strays() { ns proxy nft list counter netdev strays seen | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
for connect in early honest; do
    selection "connect = \"$connect\""
    [[ $connect == early ]] && how='^ECONNREFUSED$' || how='^ECONNRE(FUSED|SET)$'
    for f in 4 6; do
        target=NET$f exit=EXIT$f
        like "$(bound "${!target}" 9000 4001$f up0)" "$how" "bound to an interface, $connect, IPv$f: refused"
        is "$(bound "${!target}" 9000 4001$f)" "${!exit}" "and from that port without it: proxied"
    done
done
is "$(strays)" 0 "nothing of that has got out"
ns proxy nft delete table netdev strays

# --- selection
selection "uid = { \"$UID_A\" }"
is "$(seen_as $UID_A "$NET4" 9000)" "$EXIT4" "uid: this user's (IPv4)"
is "$(seen_as $UID_A "$NET6" 9000)" "$EXIT6" "uid: this user's (IPv6)"
is "$(seen_as $UID_B "$NET4" 9000)" "$CLIENT4" "uid: not another user's (IPv4)"
is "$(seen_as $UID_B "$NET6" 9000)" "$CLIENT6" "uid: not another user's (IPv6)"
same_rules "uid"

selection "not-uid = { \"$UID_B\" }"
is "$(seen_as $UID_A "$NET4" 9000)" "$EXIT4" "not-uid: another user's"
is "$(seen_as $UID_B "$NET4" 9000)" "$CLIENT4" "not-uid: not this user's (IPv4)"
is "$(seen_as $UID_B "$NET6" 9000)" "$CLIENT6" "not-uid: not this user's (IPv6)"
same_rules "not-uid"

selection 'to = { "203.0.113.11", "2001:db8:113::10/127" }'
is "$(seen 203.0.113.11 9000)" "$EXIT4" "to: this destination (IPv4)"
is "$(seen 203.0.113.12 9000)" "$CLIENT4" "to: not another one (IPv4)"
is "$(seen 2001:db8:113::11 9000)" "$EXIT6" "to: this prefix (IPv6)"
is "$(seen 2001:db8:113::12 9000)" "$CLIENT6" "to: not beyond it (IPv6)"
same_rules "to"

selection 'not-to = { "203.0.113.12/31", "2001:db8:113::12" }'
is "$(seen 203.0.113.11 9000)" "$EXIT4" "not-to: another destination (IPv4)"
is "$(seen 203.0.113.13 9000)" "$CLIENT4" "not-to: not this prefix (IPv4)"
is "$(seen 2001:db8:113::11 9000)" "$EXIT6" "not-to: another destination (IPv6)"
is "$(seen 2001:db8:113::12 9000)" "$CLIENT6" "not-to: not this one (IPv6)"
same_rules "not-to"

selection 'tcp-ports = { "80", "8999-9000" }'
is "$(seen "$NET4" 9000)" "$EXIT4" "tcp-ports: within the range (IPv4)"
is "$(seen "$NET4" 9001)" "$CLIENT4" "tcp-ports: not beyond it (IPv4)"
is "$(seen "$NET6" 9000)" "$EXIT6" "tcp-ports: within the range (IPv6)"
is "$(seen "$NET6" 9001)" "$CLIENT6" "tcp-ports: not beyond it (IPv6)"
same_rules "tcp-ports"

selection 'mark = 0x51'
is "$(seen -m 0x51 "$NET4" 9000)" "$EXIT4" "mark: marked (IPv4)"
is "$(seen -m 0x51 "$NET6" 9000)" "$EXIT6" "mark: marked (IPv6)"
is "$(seen "$NET4" 9000)" "$CLIENT4" "mark: not without"
is "$(seen -m 0x52 "$NET4" 9000)" "$CLIENT4" "mark: not another"
same_rules "mark"

selection "uid = { \"$UID_A\" }" 'tcp-ports = { "9000" }' 'to = { "203.0.113.10/32" }'
is "$(seen_as $UID_A "$NET4" 9000)" "$EXIT4" "several selectors: all match"
is "$(seen_as $UID_B "$NET4" 9000)$(seen_as $UID_A "$NET4" 9001)$(seen_as $UID_A 203.0.113.11 9000)" \
    "$CLIENT4$CLIENT4$CLIENT4" "several selectors: not when one does not match"
same_rules "several selectors"

{
    config 'tcp-ports = { "9000" }' 'to = { "203.0.113.11" }' | sed 's/"host"/"first"/; s/upstream = "proxy"/upstream = "direct"/'
    config | sed -n '/^capture/,$p'
} >"$TMP/two.conf"
# A start, not a reload: that one keeps the listeners it has, and so their ports.
stop undersock
us_daemon client <"$TMP/two.conf"
is "$(seen 203.0.113.11 9000) $(seen "$NET4" 9000)" "$CLIENT4 $EXIT4" "two captures: the first match wins, direct is direct"
same_rules "two captures"
sed -i 's/"direct"/"refuse"/' "$CONF"
us_reload undersock || bail "reload: refuse"
is "$(seen 203.0.113.11 9000) $(seen "$NET4" 9000)" "connect=ECONNREFUSED $EXIT4" "upstream = \"refuse\" refuses"
# A reload leaves chains where they are in the listing.
cp "$CONF" "$TMP/two.conf"
stop undersock
us_daemon client <"$TMP/two.conf"
same_rules "refuse"

# --- what is never selected
stop undersock
us_daemon client < <(config)
before=$(us_serving undersock accepted)
is "$(seen "$PROXY4" 9002)" "$CLIENT4" "a private destination goes direct (IPv4)"
is "$(seen "$PROXY6" 9002)" "$CLIENT6" "a private destination goes direct (IPv6)"
is "$(us_serving undersock accepted)" "$before" "the daemon has not seen them"
selection 'private = true'
is "$(seen "$PROXY4" 9002)" "$PROXY4" "private = true: through the proxy (IPv4)"
is "$(seen "$PROXY6" 9002)" "$PROXY6" "private = true: through the proxy (IPv6)"
same_rules "private"
before=$(us_serving undersock accepted)
is "$(ns client curl -qsS --max-time 20 -x "socks5://$PROXY4:1080" "http://$NET4:9000/")" "$EXIT4" \
    "the upstream's own address: direct, though private = true"
URL=socks5://$EXIT4:1081
is "$(us_serving undersock accepted)" "$before" "the daemon has not seen it"
selection
is "$(seen "$NET4" 9000)" "$EXIT4" "an upstream in the selected range works"
before=$(us_serving undersock accepted)
is "$(ns client curl -qsS --max-time 20 -x "socks5://$EXIT4:1081" "http://$NET4:9000/")" "$EXIT4" \
    "and a connection of somebody else to it is direct"
is "$(us_serving undersock accepted)" "$before" "the daemon has not seen that either"
unset URL

# --- a loop is impossible: our own listener as a destination
port=$(ns client ss -Hlnt | awk '{print $4}' | sed -n 's/^127.0.0.1:\(6108.\)$/\1/p' | head -n 1)
selection 'private = true'
like "$(seen -t 10 127.0.0.1 "$port")" '^(lost=RST|connect=ECONNREFUSED)$' "a direct connection to our listener is reset"
num "$(us_sum undersock refused_stray)" -ge 1 "and counted"

# --- reload keeps the flows
selection
cat >"$TMP/echo.py" <<'PY'
import os, socket, sys, time
s = socket.create_connection((sys.argv[1], 9003), 20)
def ask(word):
    s.sendall(word)
    got = b''
    while len(got) < len(word):
        part = s.recv(100)
        if not part: raise SystemExit("lost")
        got += part
    print(got.decode(), flush=True)
s.sendall(b'e')
ask(b'before')
for i in range(600):
    if os.path.exists(sys.argv[2]): break
    time.sleep(0.05)
ask(b'after')
PY
start flow -- ns client python3 "$TMP/echo.py" "$NET4" "$TMP/go"
wait_log flow before || bail "the flow does not stand"
is "$(us_flows undersock "[(f['destination'], f['state'], f['capture'], f['upstream']) for f in s]")" \
    "[('$NET4:9003', 'relay', 'host', 'proxy')]" "flows shows it"
selection 'tcp-ports = { "9001" }'
is "$(seen "$NET4" 9000) $(seen "$NET4" 9001)" "$CLIENT4 $EXIT4" "reload: the new selection is in force"
config 'uid = { "nobody-of-that-name" }' >"$CONF"
line=$(grep -n nobody-of "$CONF" | cut -d: -f1)
us_reload undersock >"$TMP/reload.out" 2>&1
isnt $? 0 "reload of a bad configuration fails"
like "$(<"$TMP/reload.out")" "$CONF:$line: " "and says where"
config | sed "s/socks5:/http:/" >"$CONF"
us_reload undersock >"$TMP/reload.out" 2>&1
is $? 2 "reload of one with an HTTP proxy fails"
like "$(<"$TMP/reload.out")" "$CONF:[0-9]+: url .*http:// is not in this version" "and says where"
is "$(seen "$NET4" 9000) $(seen "$NET4" 9001)" "$CLIENT4 $EXIT4" "the old selection stays in force"
config 'tcp-ports = { "9000" }' >"$CONF"
kill -HUP "${PID[undersock]}"
check "SIGHUP reloads too" -- wait_for 10 eval '[[ $(seen "$NET4" 9000) == "$EXIT4" ]]'
touch "$TMP/go"
ended flow 20
is "$ENDED $(tail -n 1 "${LOG[flow]}")" "0 after" "a flow from before the reloads lives on"

# --- two at a time
config >"$CONF"
us_reload undersock
start second -- ns client "$UNDERSOCK" daemon -c "$CONF"
ended second 10
is "$ENDED" 1 "a second daemon on the same control socket ends: exit 1"
like "$(<"${LOG[second]}")" "another undersock answers" "and says why"
sed "s#$TMP/undersock.sock#$TMP/third.sock#" "$CONF" >"$TMP/third.conf"
start third -- ns client "$UNDERSOCK" daemon -c "$TMP/third.conf"
ended third 10
is "$ENDED" 1 "one with a control socket of its own ends too: exit 1"
like "$(<"${LOG[third]}")" "undersock: error: .*(table|already|another)" "and says why"
is "$(wc -l <"${LOG[third]}")" 1 "in one line"
is "$(seen "$NET4" 9000)" "$EXIT4" "the first one works on"
same_rules "after the second and the third"

# --- the end
# gone WHEN: table and processes.
is_gone() { [[ $(tables_of client) == "$before_tables" && $(ns_pids client) == "$before_pids" ]]; }
gone() {
    wait_for 15 is_gone
    is "$(tables_of client)" "$before_tables" "$1: the table is gone"
    is "$(ns_pids client)" "$before_pids" "$1: no process is left"
    is "$(seen "$NET4" 9000)" "$CLIENT4" "$1: traffic is direct again"
}
"$UNDERSOCK" stop -s "$TMP/undersock.sock"
is $? 0 "stop"
ended undersock 10
is "$ENDED" 0 "the daemon ends with status 0"
gone "after stop"
check "and its socket is gone" -- test ! -e "$TMP/undersock.sock"

us_daemon client < <(config)
is "$(seen "$NET4" 9000)" "$EXIT4" "it comes up again"

# A small one is up soon, and must not meet what is left of the one before.
cat >"$TMP/small.conf" <<CONF
control = "$TMP/undersock.sock"
workers = 1
upstream "u" { url = "socks5://$PROXY4" }
capture "host" { hook = "output" upstream = "u" }
CONF
for ((i = 0; i < 20; i++)); do
    "$UNDERSOCK" stop -s "$TMP/undersock.sock" || break
    start undersock -- ns client "$UNDERSOCK" daemon -c "$TMP/small.conf"
    wait_for 20 answers_or_ended undersock
    has_ended undersock && break
done
is "$i $(seen "$NET4" 9000)" "20 $EXIT4" "when stop returns the next one can start, twenty times"
"$UNDERSOCK" stop -s "$TMP/undersock.sock"
us_daemon client < <(config)
kill -TERM "${PID[undersock]}"
ended undersock 10
is "$ENDED" 0 "SIGTERM: status 0"
gone "after SIGTERM"

us_daemon client < <(config)
start traffic -- ns client "$TMP/who" -l "$NET4" 9000
check "under traffic" -- wait_log traffic "^$EXIT4"
kill -KILL "${PID[undersock]}"
ended undersock 10
stop traffic
gone "after SIGKILL of the keeper"
us_daemon client < <(config)
is "$(seen "$NET4" 9000)" "$EXIT4" "after SIGKILL it comes up again, over the socket that was left"
stop undersock
gone "after that one"

# --- bad configurations: FILE:LINE, exit 2, nothing installed
bad_config() { # LINE REGEX DESCRIPTION, the configuration on standard input
    local out
    cat >"$TMP/bad.conf"
    out=$("$UNDERSOCK" check -c "$TMP/bad.conf" 2>&1)
    is $? 2 "check: $3: exit 2"
    like "$out" "$TMP/bad.conf:$1: .*$2" "check: $3: file and line"
}
proxy="upstream \"proxy\" { url = \"socks5://$PROXY4\" }"
bad_config 2 'tcp-prots' "unknown key" <<<"$proxy"$'\ncapture "a" { tcp-prots = { "80" } }'
bad_config 3 'nowhere' "unknown upstream" <<<"$proxy"$'\ncapture "a" {\n upstream = "nowhere" }'
bad_config 2 'proxy' "duplicate name" <<<"$proxy"$'\n'"$proxy"
bad_config 3 '70000' "impossible port" <<<"$proxy"$'\ncapture "a" { upstream = "proxy"\n tcp-ports = { "70000" } }'
bad_config 3 '300' "impossible prefix" <<<"$proxy"$'\ncapture "a" { upstream = "proxy"\n to = { "300.0.0.0/8" } }'
bad_config 3 'no-such-user' "unknown user" <<<"$proxy"$'\ncapture "a" { upstream = "proxy"\n uid = { "no-such-user" } }'
bad_config 3 'inward' "unknown hook" <<<"$proxy"$'\ncapture "a" { upstream = "proxy"\n hook = "inward" }'
bad_config 1 'gopher' "unknown scheme" <<<'upstream "proxy" { url = "gopher://x" }'
bad_config 2 'via' "a chain that loops" <<<$'upstream "a" { url = "socks5://192.0.2.1"\n via = "b" }\nupstream "b" { url = "socks5://192.0.2.2"\n via = "a" }'
bad_config 2 'soon' "bad duration" <<<"$proxy"$'\nidle-timeout = "soon"'
bad_config 2 'http:// is not in this version: use a SOCKS server' "an HTTP proxy" <<<$'upstream "a" {\n url = "http://192.0.2.1" }'
is "$("$UNDERSOCK" check -c "$TMP/bad.conf" 2>&1 | wc -l)" 1 "in one line"
check_status 2 "daemon: likewise" -- ns client timeout 10 "$UNDERSOCK" daemon -c "$TMP/bad.conf"
like "$("$UNDERSOCK" doctor -c "$TMP/bad.conf" 2>&1)" "fail  config +$TMP/bad.conf:2: .*http:// is not in this version" "doctor: likewise"
cat >"$TMP/idle.conf" <<-CONF
	upstream "idle" {
	    url  = "socks5://$PROXY4"
	    warm = 4
	}
	metrics = "127.0.0.1:9180"
	CONF
is "$("$UNDERSOCK" check -c "$TMP/idle.conf" 2>/dev/null)" "$TMP/idle.conf: good: 1 upstreams, 0 groups, 0 captures" "check: keys without effect: good"
like "$("$UNDERSOCK" check -c "$TMP/idle.conf" 2>&1 >/dev/null)" 'warning: upstream idle: warm .*not in this version.*warning: metrics: ' "and said to have none"
out=$("$UNDERSOCK" check -c "$TMP/missing.conf" 2>&1)
is $? 2 "check: no such file: exit 2"
like "$out" "$TMP/missing.conf" "check: no such file: it is named"
config >"$CONF"
check "check: a good one: exit 0" -- "$UNDERSOCK" check -c "$CONF"
echo 'capture "b" { upstream = "nowhere" }' >>"$CONF"
start bad -- ns client "$UNDERSOCK" daemon -c "$CONF"
ended bad 10
is "$ENDED" 2 "daemon: a bad configuration: exit 2"
gone "after a bad configuration"

# --- a missing privilege: one line, exit 3, nothing installed
mkdir "$TMP/open" && chmod 777 "$TMP/open"
config | sed "s#$TMP/undersock.sock#$TMP/open/control.sock#" >"$CONF"
chmod 644 "$CONF"
start ordinary -- ns client setpriv --reuid 65534 --clear-groups --inh-caps=-all "$TMP/undersock" daemon -c "$CONF"
ended ordinary 10
is "$ENDED" 3 "daemon: as an ordinary user: exit 3"
like "$(<"${LOG[ordinary]}")" 'CAP_[A-Z_]+' "and names the capability"
is "$(wc -l <"${LOG[ordinary]}")" 1 "in one line"
is "$(ls -A "$TMP/open")" "" "and makes no socket"
gone "after that"
for cap in net_admin bpf; do
    [[ $cap == bpf ]] && hook=cgroup || hook=output
    config | sed "s/\"output\"/\"$hook\"/; \$i cgroup = \"/$US-none\"" >"$CONF"
    [[ $hook == output ]] && sed -i /cgroup/d "$CONF"
    start "without-$cap" -- ns client setpriv --bounding-set "-$cap,-sys_admin" --inh-caps "-$cap,-sys_admin" "$UNDERSOCK" daemon -c "$CONF"
    ended "without-$cap" 10
    is "$ENDED" 3 "root without CAP_${cap^^}: exit 3"
    like "$(<"${LOG[without-$cap]}")" "CAP_${cap^^}" "and it is named"
    gone "after that"
done
done_testing
