#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
# timeout: 400
#
# Stitch and an upstream that is not as one would like it: what has to be relayed because the families
# differ, and what is learnt from an upstream that does not want the password, wants another, says nothing,
# or is not there. Meanwhile connections are relayed, and afterwards stitched again.
#
# One daemon; each upstream is put in force by a reload.
. "$(dirname "$0")/lib.sh"

need python3 nft danted microsocks
topology
impatient client
. "$LIB_DIR/stitch.sh"
CAPTURE_KEYS=('dns = "bypass"' 'udp = "bypass"')
net_who 9000
start sink -- ns net "$TOOLS/pattern" serve :: 9004
wait_port net tcp :: 9004
secret microsocks 's3cret:@/%'
secret wrong 'not this one'
printf 'carol:pass word\n' >"$TMP/users"
chmod 600 "$TMP/users"
peer_dante proxy "$PROXY4" 1101
PEER_NAME=dante6 peer_dante proxy "$PROXY6" 1101
PEER_NAME=dante-password peer_dante proxy "$PROXY4" 1102 alice 'open sesame'
peer_microsocks proxy "$PROXY4" 1103
PEER_NAME=microsocks-password peer_microsocks proxy "$PROXY4" 1104 bob 's3cret:@/%'
peer_serve proxy "$PROXY4" 1106
PEER_NAME=serve-password peer_serve proxy "$PROXY4" 1107 "$TMP/users"

us_daemon client < <(config "socks5://$PROXY4:1106")

# --- the other family: relayed
cat >"$TMP/hold.py" <<'PY'
import socket, sys, time
s = socket.create_connection((sys.argv[1], 9004), timeout=20)
print('connected', flush=True)
time.sleep(60)
PY
other() { # WHAT URL RELAYED-ADDRESS FROM STITCHED-ADDRESS FROM
    local granted
    use "$2"
    granted=$(st granted)
    is "$(stitched) $(seen -p "$3" 9000) $(seen "$5" 9000)" "True $4 peer=${7}:9000 $6" "$1"
    is "$(($(st granted) - granted)) $(us_serving undersock granted)" "1 1" "$1: the one is stitched, the other relayed"
    check "$1, relayed: 2 MiB each way" -- app "$TOOLS/pattern" both -t 60 "$3" 9004 2M
    start hold -- cg app ns client python3 "$TMP/hold.py" "$3"
    wait_log hold connected
    relays() { [[ $(us_flows undersock "len([f for f in s if f['upstream'] == 'up$N' and f['engine'] in ('copy', 'splice', 'sockmap')])") == 1 ]]; }
    check "$1: flows says another engine" -- wait_for 10 relays
    isnt "$(us_flows undersock "[f['engine'] for f in s if f['destination'].endswith(':9004') and f['state'] == 'relay' and f['upstream'] == 'up$N']")" "['stitch']" "$1: flows does not say stitch"
    stop hold
}
other "IPv6 destination, IPv4 server" "socks5://$PROXY4:1101" "$NET6" "$EXIT6" "$NET4" "$EXIT4" "[$NET6]"
other "IPv4 destination, IPv6 server" "socks5://[$PROXY6]:1101" "$NET4" "$EXIT4" "$NET6" "$EXIT6" "$NET4"

# --- a socket that is bound to loopback, from where a listener of ours can be reached, and no server
cat >"$TMP/bound.py" <<'PY'
import socket, sys
s = socket.create_connection((sys.argv[1], 9000), timeout=20, source_address=(sys.argv[2], 0))
s.sendall(b'who\n')
print(s.recv(100).decode().strip())
PY
bound() { # URL ADDRESS SOURCE FROM
    local granted
    use "$1"
    granted=$(st granted)
    like "$(app python3 "$TMP/bound.py" "$2" "$3" 2>&1)" "$4" "bound to $3: connected"
    is "$(($(st granted) - granted)) $(us_serving undersock granted)" "0 1" "bound to $3: relayed"
}
bound "socks5://$PROXY4:1101" "$NET4" 127.0.0.1 "$EXIT4"
bound "socks5://[$PROXY6]:1101" "$NET6" ::1 "$EXIT6"

# --- link-local: which interface it is on cannot be told to connect()
ns proxy ip address add fe80::77/64 dev down0 nodad
start link-local -- ns proxy "$UNDERSOCK" serve -l "[::]:1109"
wait_port proxy tcp :: 1109
use 'socks5://[fe80::77%up0]:1109'
is "$(seen "$NET4" 9000) $(seen "$NET6" 9000) $(stitched)" "$EXIT4 $EXIT6 False" "a link-local server: relayed"
like "$(us_status undersock "s['captures'][0]['why_relayed']")" "link-local" "status says why"

# --- passwords
wrong() { # WHAT PORT USER
    use "socks5://$3@$PROXY4:$2" "password-file = \"$TMP/wrong.password\""
    is "$(stitched) $(seen "$NET4" 9000)" "True connect=ECONNREFUSED" "$1: a wrong password is refused"
    check "$1: the log says why" -- wait_log undersock "upstream up$N.*refused the user name or password"
    check "$1: and it is relayed" -- wait_for 10 stitched_is False
    is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "$1: which is refused as well"
}
wrong "Dante" 1102 alice
wrong "undersock serve" 1107 carol
wrong "microsocks" 1104 bob
# The right one, for the same upstream.
NAME=up$N config "socks5://bob@$PROXY4:1104" "password-file = \"$TMP/microsocks.password\"" >"$TMP/undersock.conf"
us_reload undersock || bail "reload"
back() { seen "$NET4" 9000 >/dev/null; stitched_is True; }
is "$(seen "$NET4" 9000)" "$EXIT4" "the right one: it works"
check "and is stitched again" -- wait_for 40 back

# A password for who wants none: it is learnt once.
cat >"$TMP/none.py" <<'PY'
import socket, sys, threading
# Whatever is offered: no authentication.
def take(c, n):
    b = b''
    while len(b) < n:
        more = c.recv(n - len(b))
        if not more: raise OSError
        b += more
    return b
def one(c):
    try:
        print('offered', list(take(c, take(c, 2)[1])), flush=True)
        c.sendall(b'\5\0')
        head = take(c, 4)
        host = socket.inet_ntoa(take(c, 4))
        out = socket.create_connection((host, int.from_bytes(take(c, 2), 'big')))
        c.sendall(b'\5\0\0\1\0\0\0\0\0\0')
        def copy(a, b):
            while data := a.recv(65536): b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        threading.Thread(target=copy, args=(c, out), daemon=True).start()
        copy(out, c)
    except OSError: c.close()
s = socket.create_server((sys.argv[1], 1121), backlog=64)
while True: threading.Thread(target=one, args=(s.accept()[0],), daemon=True).start()
PY
start none -- ns proxy python3 "$TMP/none.py" "$PROXY4"
wait_port proxy tcp "$PROXY4" 1121
learnt() { # WHAT PORT
    local granted
    use "socks5://somebody:something@$PROXY4:$2"
    granted=$(st granted)
    is "$(stitched) $(seen "$NET4" 9000)" "True connect=ECONNREFUSED" "$1 is offered a password that it does not want: refused, once"
    check "$1: the log says what is learnt" -- wait_log undersock "upstream up$N: it wants no password: stitched without"
    is "$(seen "$NET4" 9000) $(seen "$NET4" 9000)" "$EXIT4 $EXIT4" "$1: without"
    is "$(stitched) $(($(st granted) - granted)) $(us_serving undersock accepted)" "True 2 0" "$1: by stitch"
    NAME=up$N config "socks5://somebody:something@$PROXY4:$2" 'handshake-timeout = "9s"' >"$TMP/undersock.conf"
    us_reload undersock || bail "reload"
    is "$(stitched) $(seen "$NET4" 9000)" "True $EXIT4" "$1: it is still known after a reload"
}
learnt "a server that says so anyway" 1121
is "$(grep -c offered "${LOG[none]}") $(sed -n 1p "${LOG[none]}") $(sed -n 2p "${LOG[none]}")" "4 offered [2] offered [0]" "what it was offered"
learnt "Dante" 1101
learnt "microsocks" 1103
stop microsocks
peer_microsocks proxy "$PROXY4" 1103 somebody something
is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "then it wants it after all: refused, once"
check "and relayed" -- wait_for 10 stitched_is False
check "it is answered by a relay: stitched again" -- wait_for 40 back
is "$(seen "$NET4" 9000)" "$EXIT4" "with the password"
stop microsocks
peer_microsocks proxy "$PROXY4" 1103
learnt "undersock serve" 1106
# Nothing that we have is good enough.
PEER_NAME=picky peer_bad proxy "$PROXY4" 1122 no-method
use "socks5://somebody:something@$PROXY4:1122"
is "$(seen "$NET4" 9000) $(seen "$NET4" 9000)" "connect=ECONNREFUSED connect=ECONNREFUSED" "neither with nor without: refused"
check "and relayed" -- wait_for 10 stitched_is False
check "with a line" -- wait_log undersock "upstream up$N.*(does not accept the authentication|accepts none of our)"

# --- how long connect() waits: as long as there can be an answer, and no longer
patient() { ns client sh -c 'echo 6 >/proc/sys/net/ipv4/tcp_syn_retries'; }
cat >"$TMP/syns.py" <<'PY'
import socket, sys
s = socket.socket()
if len(sys.argv) > 2:
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, int(sys.argv[2]))
s.connect((sys.argv[1], 9000))
print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT))
PY
patient
use "socks5://$PROXY4:1101"
granted=$(st granted)
is "$(app timeout 20 python3 "$TMP/syns.py" "$NET4" 2>&1) $(app timeout 20 python3 "$TMP/syns.py" "$NET4" 2 2>&1) $(ns client timeout 20 python3 "$TMP/syns.py" "$NET4" 2>&1)" "4 2 6" "the SYNs of a connection end with its timeouts, or when the application says"
is "$(($(st granted) - granted))" 2 "two of them were stitched"
PEER_NAME=dumb peer_bad proxy "$PROXY4" 1124 mute
use "socks5://$PROXY4:1124" 'connect-timeout = "1s"' 'handshake-timeout = "1s"'
is "$(stitched) $(seen "$NET4" 9000)" "True connect=ETIMEDOUT" "ETIMEDOUT long before the kernel would give up"
stop dumb
impatient client

# --- silence
# silent WHAT ERRNO COMMAND-THAT-MENDS...: the upstream in force does not answer.
silent() {
    local what=$1 errno=$2
    shift 2
    is "$(stitched) $(seen "$NET4" 9000)" "True connect=$errno" "$what: $errno"
    check "$what: it is held" -- wait_for 10 stitched_is False
    like "$(us_status undersock "s['captures'][0]['why_relayed']")" 'failed' "$what: status says why"
    like "$(seen "$NET4" 9000)" '^connect=E' "$what: a worker finds the same"
    "$@"
    check "$what: it speaks again: stitched again" -- wait_for 40 back
    is "$(seen "$NET4" 9000)" "$EXIT4" "$what: and works"
}
PEER_NAME=dumb peer_bad proxy "$PROXY4" 1123 mute
use "socks5://$PROXY4:1123" 'connect-timeout = "1s"' 'handshake-timeout = "1s"'
speak() { stop dumb; PEER_NAME=dumb peer_microsocks proxy "$PROXY4" 1123; }
silent "a server that says nothing" ETIMEDOUT speak
ns proxy nft -f - <<-'NFT' || bail "nft"
table inet hush {
    chain input {
        type filter hook input priority 0
        tcp dport 1103 drop
    }
}
NFT
use "socks5://$PROXY4:1103" 'connect-timeout = "1s"' 'handshake-timeout = "1s"'
listen() { ns proxy nft delete table inet hush; }
silent "a server whose SYNs are dropped" ECONNREFUSED listen

# --- it goes, and comes back
use "socks5://$PROXY4:1101"
is "$(stitched) $(seen "$NET4" 9000)" "True $EXIT4" "Dante, before"
stop dante
is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "it is gone: refused"
check "and relayed" -- wait_for 10 stitched_is False
is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "which says the same"
peer_dante proxy "$PROXY4" 1101
check "it is back: stitched again" -- wait_for 40 back
is "$(seen "$NET4" 9000)" "$EXIT4" "and works"

# --- on this host, and not there at the start
stop undersock
NAME=late us_daemon client < <(NAME=late config "socks5://127.0.0.1:1130")
is "$(stitched) $(seen "$NET4" 9000)" "False connect=ECONNREFUSED" "on this host, not there at the start: relayed, and refused"
like "$(us_status undersock "s['captures'][0]['why_relayed']")" 'on this host' "status says why"
PEER_NAME=late peer_microsocks client 127.0.0.1 1130
check "it comes: a worker finds it, and then it is stitched" -- wait_for 40 back
granted=$(st granted)
accepted=$(us_serving undersock accepted)
n=0
# Until the keeper has looked once more who listens there, which it does every second.
for ((end = SECONDS + 3; SECONDS < end; n++)); do
    out=$(seen "$NET4" 9000)
    [[ $out == "$CLIENT4" ]] || break
done
is "$out $(($(st granted) - granted)) $(($(us_serving undersock accepted) - accepted))" "$CLIENT4 $n 0" "by stitch, and for good"
unlike "$(<"${LOG[undersock]}")" 's3cret|open sesame|pass word|not this one|something' "no password is in the log"
done_testing
