#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 600
#
# The in-kernel fast path, forced and chosen: every byte arrives, in order, with writers that write
# before there is a flow, with writes and reads of any size, with receivers that stop, one or both,
# or read slowly; with a FIN behind 32 MiB, and with resets. While the kernel moves the bytes no
# message wakes a worker, `flows` counts them, and idle-timeout knows them.
. "$(dirname "$0")/lib.sh"

need python3 nft
topology
cg_new app
start sink -- ns net "$TOOLS/pattern" serve -t 0 :: 9001
start first -- ns net "$TOOLS/pattern" serve -t 0 -B :: 9002
start slow -- ns net "$TOOLS/pattern" serve -t 0 -p 300 -r 65536 :: 9003
start end -- ns net "$TOOLS/end" serve :: 9004
start load -- ns net "$TOOLS/load" server :: 9005
start stopping -- ns net "$TOOLS/pattern" serve -t 0 :: 9006
for port in 9001 9002 9003 9004 9005 9006; do wait_port net tcp :: $port; done
peer_serve proxy "$PROXY4" 1080

config() { # FAST-PATH
    cat <<-CONF
	fast-path = "$1"
	workers = 1
	idle-timeout = "${2:-1h}"
	upstream "proxy" { url = "socks5://$PROXY4" }
	capture "cgroup" {
	    hook = "cgroup"
	    cgroup = "/$US-app"
	    upstream = "proxy"
	}
	CONF
}
app() { cg app ns client "$@"; }
sums() { us_status "$1" "[sum(w[k] for w in s['workers']) for k in ($2)]"; }

us_daemon client probe < <(config auto)
state=$(us_status probe "[w['sockmap'] for w in s['workers']]")
reason=$(us_status probe "[w['sockmap_why'] for w in s['workers']]")
stop probe
[[ $state == "['proven']" ]] || skip_all "no sockmap here: $reason"

# 300 messages and their echoes; then as much as anybody takes, whose echo is not read before
# SIGUSR1 has come, and 64 MiB more.
cat >"$TMP/turns.py" <<'PY'
import select, signal, socket, sys
go = []
signal.signal(signal.SIGUSR1, lambda *_: go.append(True))
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.sendall(b'e')
for i in range(300):
    s.sendall(b'%0100d' % i)
    echo = b''
    while len(echo) < 100:
        echo += s.recv(100 - len(echo))
    assert echo == b'%0100d' % i
print('messages', flush=True)
data = memoryview(bytes(i * 7 % 251 for i in range(251 << 10)))
total, sent, got = None, 0, 0
s.setblocking(False)
while total is None or got < total:
    if go and total is None:
        total = sent + (64 << 20)
    reads = total is not None
    r, w, _ = select.select([s] if reads else [], [s] if sent != total else [], [], 50 if reads else 0.1)
    assert r or w or not reads, 'nothing moves'
    if r:
        at = got % len(data)
        chunk = s.recv(len(data) - at)
        assert chunk and chunk == data[at:at + len(chunk)], 'not what was sent at %d' % got
        got += len(chunk)
    if w:
        at = sent % len(data)
        sent += s.send(data[at:] if total is None else data[at:at + total - sent])
print('whole')
PY

for FAST in sockmap auto; do
    us_daemon client $FAST < <(config $FAST)
    check "$FAST: 64 MiB each way" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9001 64M
    check "$FAST: 64 MiB each way in writes and reads of 1 to 70000 bytes" -- app "$TOOLS/pattern" both -w 70000 -r 70000 -t 60 "$NET6" 9001 64M
    check "$FAST: 8 MiB each way in writes and reads of 1 to 3000 bytes" -- app "$TOOLS/pattern" both -w 3000 -r 3000 -t 60 "$NET4" 9001 8M
    check "$FAST: 512 KiB each way in writes and reads of 1 to 50 bytes" -- app "$TOOLS/pattern" both -w 50 -r 50 -t 60 "$NET4" 9001 512K
    check "$FAST: the server speaks first" -- app "$TOOLS/pattern" both -B -t 60 "$NET4" 9002 16M
    check "$FAST: FIN behind 32 MiB that a slow server takes" -- app "$TOOLS/pattern" send -w 9000 -t 60 "$NET4" 9003 32M
    check "$FAST: FIN behind 32 MiB that a slow application takes" -- app "$TOOLS/pattern" recv -p 300 -r 65536 -t 60 "$NET4" 9001 32M
    check "$FAST: both are slow" -- app "$TOOLS/pattern" both -w 9000 -p 300 -r 65536 -t 60 "$NET4" 9003 16M
    for mode in client-fin server-fin client-rst server-rst client-fin-server-rst server-fin-client-rst server-unread; do
        for bytes in 1 100000 3000000; do
            check "$FAST: $mode, $bytes bytes" -- app "$TOOLS/end" $mode "$NET4" 9004 $bytes
        done
    done

    # Both ends stop, the one for a while longer; then both go on.
    kill -STOP "${PID[stopping]}"
    for ((i = 0; i < 8; i++)); do
        start "both$i" -- cg app ns client "$TOOLS/pattern" both -w 9000 -t 120 "$NET4" 9006 16M
    done
    sleep 0.5
    for ((i = 0; i < 8; i++)); do kill -STOP "${PID[both$i]}"; done
    kill -CONT "${PID[stopping]}"
    sleep 0.5
    for ((i = 0; i < 8; i++)); do kill -CONT "${PID[both$i]}"; done
    out=''
    for ((i = 0; i < 8; i++)); do
        ended "both$i" 120
        out+=$ENDED
    done
    is "$out" 00000000 "$FAST: 8 flows of 16 MiB each way, stopped at one end and then at the other"

    # Messages: the worker sleeps, the counts are right.
    worker=$(us_workers $FAST | tr -d ' ')
    awoken() { sed -n 's/^voluntary_ctxt_switches:\t//p' "/proc/$worker/status"; }
    before=$(awoken)
    check "$FAST: 5000 round trips" -- app "$TOOLS/load" rr -n 5000 "$NET4" 9005
    num $(($(awoken) - before)) -lt 500 "$FAST: the worker sleeps through them"
    # What was joined for its messages becomes bulk, of which nobody reads the echo for a while: there
    # is no room any more, however fast or slow the machine is.
    start turns -- cg app ns client python3 "$TMP/turns.py" "$NET4" 9005
    check "$FAST: messages, echoed" -- wait_log turns '^messages' 20
    check "$FAST: the kernel is relieved of what has no room" -- wait_for 60 us_is $FAST sockmap_demoted -gt 0
    kill -s USR1 "${PID[turns]}"
    ended turns 60
    is "$ENDED $(tail -n 1 "${LOG[turns]}")" "0 whole" "$FAST: messages that become bulk arrive whole"
    rm -f "${LOG[turns]}"
    check "$FAST: no flow is left" -- wait_for 20 us_is $FAST flows -eq 0
    is "$(us_status $FAST "sum(w['bytes_up'] + w['bytes_down'] - w['bytes_copied'] - w['bytes_spliced'] - w['bytes_redirected'] for w in s['workers'])")" 0 "$FAST: every byte is counted, by one engine"
    is "$(sums $FAST "'failed', 'refused_full', 'sockmap_lost', 'sockmap_full'")" "[0, 0, 0, 0]" "$FAST: nothing failed or was lost"
    num "$(us_sum $FAST bytes_redirected)" -gt 600000 "$FAST: the kernel has moved bytes"
    [[ $FAST == auto ]] && num "$(us_sum auto sockmap_left)" -gt 0 "auto: bulk has left it"
    stop $FAST
done

# --- idle-timeout and `flows` with nothing but the kernel at work
us_daemon client idle < <(config sockmap 2s)
# A message every 100 ms for 5 s, then silence.
start talker -- cg app ns client python3 -c "
import socket, sys, time
s = socket.create_connection(('$NET4', 9005))
s.sendall(b'e')
for i in range(50):
    s.sendall(b'x' * 100)
    n = 0
    while n < 100: n += len(s.recv(100))
    time.sleep(0.1)
print('talked', flush=True)
try:
    print('end', len(s.recv(1)), flush=True)
except ConnectionResetError:
    print('reset', flush=True)
"
flow_of() { us_flows idle "[(f['engine'], f['bytes_up'] > 1000, f['bytes_down'] > 1000) for f in s]"; }
shown() { [[ $(flow_of) == "[('sockmap', True, True)]" ]]; }
check "flows shows the engine and the bytes that the kernel moves" -- wait_for 4 shown
check "a flow that talks outlives idle-timeout" -- wait_log talker talked 10
check "one that does not is reset" -- wait_log talker reset 8
stop talker
stop idle
is "$(leaks sink first slow end stopping)" 0 "nothing went direct"
done_testing
