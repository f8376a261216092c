#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What connection tracking remembers of a connection whose end it never saw (a laptop that was moved, a
# server that has vanished) must not let a new one from the same port past us: to connection tracking
# the SYN belongs to the old one, and nat looks only at new ones, nor at what is not tracked. It may be
# refused; it may not go out.
. "$(dirname "$0")/lib.sh"
FAST_PATH=${FAST_PATH:-relay} # what is stitched goes elsewhere from the start
. "$LIB_DIR/lan.sh"

need python3 nft
topology
lan
cg_new app
net_who 9000
peer_serve proxy "$PROXY4" 1080
watch_forward '{ 9000, 9005 }'
# Something must track connections before we do.
ns client nft -f - <<-NFT || bail "no connection tracking"
	table inet track {
	    chain output {
	        type filter hook output priority 0; policy accept;
	        ct state new counter
	    }
	    chain forward {
	        type filter hook forward priority 0; policy accept;
	        ct state new counter
	    }
	}
NFT
# port.py ADDRESS PORT [hold]: whom the destination has seen; or waits for a line, and resets.
cat >"$TMP/port.py" <<'PY'
import errno, socket, struct, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.bind(('', int(sys.argv[2])))
s.settimeout(30)
try:
    s.connect((sys.argv[1], 9000))
    if sys.argv[3:]:
        print('open', flush=True)
        sys.stdin.readline()
        sys.exit()
    s.sendall(b'?\n')
    print(s.recv(100).decode().strip())
except socket.timeout:
    print('no answer')
except OSError as e:
    print(errno.errorcode[e.errno])
PY
PORT=25000 # of nobody who is given any
# stale: connections of both families from the next port whose end the client's host does not see, nor
# the server. ESTABLISHED stays.
stale() {
    PORT=$((PORT + 1))
    for f in 4 6; do
        local target=NET$f
        rm -f "$TMP/go$f"
        mkfifo "$TMP/go$f"
        start open$f -- "${APP[@]}" sh -c "exec python3 '$TMP/port.py' ${!target} $PORT hold <>'$TMP/go$f'"
        wait_log open$f '^open' 20 || bail "no connection"
    done
    ns client nft -f - <<-NFT || bail "nft"
	table inet lose {
	    chain output {
	        type filter hook output priority -400; policy accept;
	        tcp dport 9000 tcp sport $PORT drop
	    }
	    chain prerouting {
	        type filter hook prerouting priority -400; policy accept;
	        tcp dport 9000 tcp sport $PORT drop
	        tcp sport 9000 tcp dport $PORT drop
	    }
	}
	NFT
    for f in 4 6; do
        echo >"$TMP/go$f"
        ended open$f 10
        rm -f "${LOG[open$f]}"
    done
    # Without a word that could be repeated later.
    ns net ss -Kt state established "sport = :9000" >/dev/null
    ns client nft delete table inet lose
    passed_by >/dev/null
}
both() { echo "$("${APP[@]}" python3 "$TMP/port.py" "$NET4" $PORT) $("${APP[@]}" python3 "$TMP/port.py" "$NET6" $PORT)"; }
config() { # HOOK CONNECT ON-EXIT
    echo "upstream \"u\" { url = \"socks5://$PROXY4:1080\" }"
    echo 'capture "c" {'
    echo "    hook      = \"$1\""
    [[ $1 == cgroup ]] && echo "    cgroup    = \"/$US-app\""
    [[ $1 == gateway ]] && echo '    interfaces = { "br-lan" }'
    echo '    upstream  = "u"'
    echo '    tcp-ports = { "9000" }'
    echo "    connect   = \"$2\""
    echo "    on-exit   = \"$3\""
    echo '}'
}

# --- SYNs of which connection tracking makes no entry, so that nat never sees them.
# The destination calls us from where it is called next, and is reset: until the kernel has forgotten, our
# SYN to there is invalid.
cat >"$TMP/called.py" <<'PY'
import errno, socket, struct, sys
four = ':' not in sys.argv[1]
s = socket.socket(socket.AF_INET if four else socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', int(sys.argv[2])))
s.listen()
print('listens', flush=True)
c = s.accept()[0]
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
c.recv(1)
c.close()
s.close()
print('reset', flush=True)
sys.stdin.readline()
s = socket.socket(socket.AF_INET if four else socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', int(sys.argv[2])))
s.settimeout(30)
try:
    s.connect((sys.argv[1], int(sys.argv[3])))
    print('connected')
except OSError as e:
    print(errno.errorcode.get(e.errno, 'no answer'))
PY
cat >"$TMP/caller.py" <<'PY'
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[4])))
s.settimeout(30)
s.connect((sys.argv[2], int(sys.argv[3])))
s.send(b'?')
try: s.recv(1)
except ConnectionResetError: print('reset', flush=True)
PY
# called ADDRESS OWN: what connect() says to who has called us.
called() {
    PORT=$((PORT + 1))
    rm -f "$TMP/go" "${LOG[called]:-}"
    mkfifo "$TMP/go"
    start called -- ns client sh -c "exec python3 '$TMP/called.py' $1 $PORT 9005 <>'$TMP/go'"
    wait_log called '^listens' 20
    is "$(ns net timeout 20 python3 "$TMP/caller.py" "$1" "$2" $PORT 9005)" reset "$at, $1: who calls us is reset"
    wait_log called '^reset' 20
    passed_by >/dev/null
    echo >"$TMP/go"
    ended called 40
    is "$(tail -1 "${LOG[called]}")" ECONNREFUSED "$at, $1: who has called us: refused"
    is "$(passed_by)" 0 "$at, $1: nothing gets away"
}
for connect in honest early; do
    us_daemon client < <(config output $connect open | grep -v tcp-ports)
    at="output, $connect"
    ns client nft -f - <<-'NFT' || bail "nft"
	table inet theirs {
	    chain output {
	        type filter hook output priority raw; policy accept;
	        tcp dport 9000 notrack
	    }
	}
	NFT
    PORT=$((PORT + 1))
    APP=(ns client)
    passed_by >/dev/null
    is "$(both)" "ECONNREFUSED ECONNREFUSED" "$at, notrack: refused"
    is "$(passed_by)" 0 "$at, notrack: nothing gets away"
    ns client nft delete table inet theirs
    PORT=$((PORT + 1))
    is "$(both)" "$EXIT4 $EXIT6" "$at: and is proxied without it"
    called "$NET4" "$CLIENT4"
    called "$NET6" "$CLIENT6"
    stop undersock
done

for HOOK in output cgroup gateway; do
    APP=(ns client)
    [[ $HOOK == cgroup ]] && APP=(ns client cg app)
    [[ $HOOK == gateway ]] && APP=(ns one)
    for connect in honest early; do
        for exit in open closed; do
            at="$HOOK, $connect, $exit"
            stale
            us_daemon client < <(config $HOOK $connect $exit)
            out=$(both)
            case $HOOK in
            # These do not need connection tracking to take it.
            cgroup | gateway) is "$out" "$EXIT4 $EXIT6" "$at: proxied" ;;
            *) is "$out" "ECONNREFUSED ECONNREFUSED" "$at: refused" ;;
            esac
            is "$(passed_by)" 0 "$at: nothing gets away"
            PORT=$((PORT + 1))
            is "$(both)" "$EXIT4 $EXIT6" "$at: from another port it is proxied"
            stop undersock
            [[ $exit == open ]] || ns client "$UNDERSOCK" stop -s "$TMP/undersock.sock" >/dev/null 2>&1
        done
        # The guard alone.
        stale
        us_daemon client < <(config $HOOK $connect closed)
        kill -KILL "${PID[undersock]}"
        ended undersock 10 2>/dev/null
        is "$(both)" "ECONNREFUSED ECONNREFUSED" "$HOOK, $connect, killed: refused"
        is "$(passed_by)" 0 "$HOOK, $connect, killed: nothing gets away"
        ns client "$UNDERSOCK" stop -s "$TMP/undersock.sock" >/dev/null 2>&1
    done
done
done_testing
