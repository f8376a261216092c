#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A client of a gateway that takes the same port for the same destination again, at once. Where we
# have closed first, this host has the destination's address and that port in TIME-WAIT for a minute:
# whether we are still there, have been killed, have stopped or do not select the client any more, it
# must not keep the client's SYN from where it belongs.
. "$(dirname "$0")/lib.sh"
. "$LIB_DIR/lan.sh"

need python3 nft
topology
lan
net_who 9000
# Ends a connection when it is asked to.
start ends -- ns net python3 -c "
import socket
import threading
def end(s):
    s.recv(1)
    s.close()
l = socket.create_server(('$NET4', 9001))
while True:
    threading.Thread(target=end, args=(l.accept()[0],), daemon=True).start()
"
wait_port net tcp "$NET4" 9001
peer_serve proxy "$PROXY4" 1080

config() { # ON-EXIT [PORTS]
    echo "control = \"$TMP/undersock.sock\""
    echo "upstream \"u\" { url = \"socks5://$PROXY4:1080\" }"
    echo 'capture "c" {'
    echo '    hook       = "gateway"'
    echo '    interfaces = { "br-lan" }'
    echo '    upstream   = "u"'
    echo "    tcp-ports  = { ${2:-\"9000\", \"9001\"} }"
    echo "    on-exit    = \"$1\""
    echo '}'
}
# port.py ADDRESS LOCAL-PORT: whom the destination has seen; it closes first.
cat >"$TMP/port.py" <<'PY'
import errno, socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', int(sys.argv[2])))
s.settimeout(10)
try:
    s.connect((sys.argv[1], 9000))
    s.sendall(b'?\n')
    seen = b''
    while True:
        part = s.recv(100)
        if not part:
            break
        seen += part
    print(seen.decode().strip())
except socket.timeout:
    print('no answer')
except OSError as e:
    print(errno.errorcode[e.errno])
PY
seen() { ns one python3 "$TMP/port.py" "$@"; }
PORT=30000
# from PORT DESCRIPTION WANT4 WANT6
from() { is "$(seen "$NET4" $1) $(seen "$NET6" $1)" "$3 $4" "$2"; }
serve() { # WHEN
    PORT=$((PORT + 1))
    from $PORT "$1: served" "$EXIT4" "$EXIT6"
    num "$(ns client ss -tanH state time-wait "sport = :9000 and dport = :$PORT" | wc -l)" -eq 2 "$1: and has left its TIME-WAIT"
}
kill_keeper() {
    kill -KILL "${PID[undersock]}"
    ended undersock 10 2>/dev/null
    wait_for 10 eval '[[ $(tables_of client) != *"table inet undersock"?( *) ]]' || bail "the table stays"
}
swept() { [[ -z $(ns client ss -tanH state time-wait 'sport = :9000') ]]; }

us_daemon client < <(config open)
serve "a daemon"
from $PORT "from the same port again" "$EXIT4" "$EXIT6"
from $PORT "and again" "$EXIT4" "$EXIT6"

config open '"9002"' >"$TMP/undersock.conf"
check "a reload that does not select it any more" -- us_reload undersock
check "takes the TIME-WAIT away" -- wait_for 10 swept
from $PORT "and the port is free to go direct" "$ONE4" "$ONE6"

# What is open at a reload is finished as it began, and leaves its TIME-WAIT later.
config open >"$TMP/undersock.conf"
check "a reload that does" -- us_reload undersock
PORT=$((PORT + 1))
cat >"$TMP/late.py" <<'PY'
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', int(sys.argv[2])))
s.connect((sys.argv[1], 9001))
print('open', flush=True)
sys.stdin.readline()
s.sendall(b'q')
assert s.recv(1) == b''
print('done', flush=True)
PY
# The second one stays, and its worker with it: what the first leaves does not wait for that.
for n in late stays; do
    mkfifo "$TMP/$n"
    start $n -- ns one sh -c "exec python3 -u '$TMP/late.py' $NET4 $PORT <>'$TMP/$n'"
    wait_log $n '^open' 20 || bail "no connection"
    PORT=$((PORT + 1))
done
config open '"9002"' >"$TMP/undersock.conf"
check "a reload under an open connection" -- us_reload undersock
echo >"$TMP/late"
check "it ends as it began" -- wait_log late '^done' 20
check "nor does that stay" -- wait_for 10 eval '[[ -z $(ns client ss -tanH state time-wait "sport = :9001") ]]'
check "though another is still open" -- running stays
stop late
echo >"$TMP/stays"
check "the last one ends" -- wait_log stays '^done' 20
check "and leaves nothing either" -- wait_for 10 eval '[[ -z $(ns client ss -tanH state time-wait "sport = :9001") ]]'
stop stays
check "stop" -- "$UNDERSOCK" stop -s "$TMP/undersock.sock"
ended undersock 10

for exit in open closed; do
    after4=$ONE4 after6=$ONE6
    [[ $exit == closed ]] && after4=ECONNREFUSED after6=ECONNREFUSED

    us_daemon client < <(config $exit)
    serve "$exit"
    kill_keeper
    check "$exit: SIGKILL: no TIME-WAIT stays" -- wait_for 10 swept
    from $PORT "$exit: SIGKILL: the same port" $after4 $after6

    us_daemon client < <(config $exit)
    serve "$exit, again"
    kill -TERM "${PID[undersock]}"
    ended undersock 10
    from $PORT "$exit: SIGTERM: the same port" $after4 $after6

    us_daemon client < <(config $exit)
    serve "$exit, once more"
    check "$exit: stop" -- "$UNDERSOCK" stop -s "$TMP/undersock.sock"
    ended undersock 10
    from $PORT "$exit: stop: the same port" "$ONE4" "$ONE6"
done
# This host's own are none of ours.
us_daemon client < <(config open)
start own -- ns client "$TOOLS/who" serve 9500
wait_port client tcp :: 9500
ns one python3 - "$LAN4" <<'PY' || bail "no connection to the gateway itself"
import socket, sys
s = socket.create_connection((sys.argv[1], 9500), 10)
s.sendall(b'?\n')
while s.recv(100):
    pass
PY
own=$(ns client ss -tanH state time-wait 'sport = :9500' | wc -l)
# Each worker holds the pipe on whose end the janitor waits: it must not look before they are gone.
janitor=$(pgrep -P "${PID[undersock]}" -x undersock-clean) || bail "no janitor"
pipe=$(readlink -f "/proc/$janitor/fd/"* | grep -o 'pipe:\[[0-9]*\]' | sort -u)
is "$(for w in $(us_workers undersock); do ls -l "/proc/$w/fd" | grep -cF "$pipe"; done | paste -sd ' ')" "1 1" "its workers hold the janitor's pipe"
kill_keeper
check "the janitor ends" -- wait_for 10 eval '! kill -0 $janitor 2>/dev/null'
is "$own $(ns client ss -tanH state time-wait 'sport = :9500' | wc -l)" "1 1" "a TIME-WAIT of this host's own stays"
done_testing
