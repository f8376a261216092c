#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Very many UDP clients behind a gateway: 10,000 associations at once, each of two descriptors and
# little memory, all of which come back; floods to random destinations and of clients beyond what the
# limits allow, while those that were there go on; and nobody but the relay is believed. The SOCKS
# server is a small one of our own, with one relay for all, which answers itself.
. "$(dirname "$0")/lib.sh"
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/datagrams_lan.sh"

COUNT=10000
need python3 nft
topology
lan
datagram_tools
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
num "$(ulimit -n)" -ge 13000 "as many descriptors as it takes can be had"
for i in 1 2 3; do ns_addresses one eth0 "10.77.2.2$i/24 fd77:2::2$i/64"; done

# It answers as the destination would. Of what begins with "spoof", others answer first: from another
# port, another address (and the relay's port), and the relay itself with headers that are
# wrong. SIGUSR1: it hangs up on all.
cat >"$TMP/relay.py" <<'PY'
import select, signal, socket, struct, sys
address, port = sys.argv[1], int(sys.argv[2])
listener = socket.create_server((address, port), backlog=4096)
listener.setblocking(False)
relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
relay.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
relay.bind((address, 0))
relay.setblocking(False)
others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
others[0].bind((address, 0))
others[1].bind((sys.argv[3], 0))
fourth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # another address, the relay's own port
fourth.bind((sys.argv[3], relay.getsockname()[1]))
others.append(fourth)
end = False
def hang_up(*_):
    global end
    end = True
signal.signal(signal.SIGUSR1, hang_up)
poll = select.epoll()
poll.register(listener, select.EPOLLIN)
poll.register(relay, select.EPOLLIN)
streams, datagrams = {}, 0
print('ready', flush=True)
while True:
    if end:
        for s in streams.values(): s.close()
        streams, end = {}, False
    for fd, _ in poll.poll(1):
        if fd == listener.fileno():
            while True:
                try: c, _ = listener.accept()
                except OSError: break
                c.setblocking(False)
                streams[c.fileno()] = c
                poll.register(c, select.EPOLLIN)
        elif fd == relay.fileno():
            for _ in range(200):
                try: data, peer = relay.recvfrom(70000)
                except OSError: break
                n = 10 if data[3] == 1 else 22
                if data[n:].startswith(b'spoof'):
                    for o in others: o.sendto(data[:n] + b'forged', peer)
                    for wrong in (b'', data[:n - 1], b'\0\0\1' + data[3:n] + b'fragment', data[:3] + b'\2' + data[4:n] + b'type',
                                  b'\0\0\0\1' + socket.inet_aton('127.0.0.1') + data[n - 2:n] + b'loopback',
                                  b'\0\0\0\1' + socket.inet_aton('224.0.0.1') + data[n - 2:n] + b'group',
                                  b'\0\0\0\1' + socket.inet_aton('192.168.7.7') + data[n - 2:n] + b'private',
                                  b'\0\0\0\1' + socket.inet_aton('1.2.3.4') + b'\0\0' + b'port 0',
                                  b'\0\0\0\3\4name' + data[n - 2:n] + b'name'):
                        relay.sendto(wrong, peer)
                    print('spoofed for port %d' % peer[1], flush=True)
                try: relay.sendto(data, peer)
                except OSError: pass
        elif fd in streams:
            c = streams[fd]
            try: b = c.recv(4096)
            except BlockingIOError: continue
            except OSError: b = b''
            if not b:
                poll.unregister(c)
                streams.pop(fd).close()
                continue
            if b[:1] == b'\5' and len(b) == 2 + b[1]: c.send(b'\5\0')
            else:  # maybe with the greeting before it
                if len(b) > 2 + b[1] and b[0] == 5 and b[1] < 4 and b[2 + b[1]] == 5 and b[2] == 0: c.send(b'\5\0')
                c.send(b'\5\0\0\1' + socket.inet_aton(address) + struct.pack('!H', relay.getsockname()[1]))
PY
start relay -- ns proxy python3 "$TMP/relay.py" "$PROXY4" 1080 "$EXIT4"
wait_port proxy tcp "$PROXY4" 1080

config() { # WORKERS IDLE
    echo "control = \"$TMP/undersock.sock\""
    echo "workers = $1"
    echo "idle-timeout = \"$2\""
    echo "upstream \"u\" { url = \"socks5://$PROXY4:1080\" }"
    echo 'capture "lan" {'
    echo '    hook = "gateway"'
    echo '    upstream = "u"'
    echo '    udp = "associate"'
    echo '}'
}
associations() { us_flows undersock 'len([f for f in s if f["proto"] == "udp" and f["state"] == "relay"])'; }
has_associations() { [[ $(associations) == "$1" ]]; }

# The crowd: COUNT sockets, of several addresses and both families, that ask until they have been
# answered once; then, for each line of its input, all ask again, 200 at a time.
cat >"$TMP/crowd.py" <<'PY'
import select, sys, time
from app import *
count, sources, targets = int(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
socks = []
for i in range(count):
    s = udp(targets[i % 2])
    s.bind((sources[i // 2 % (len(sources) // 2) * 2 + i % 2], 0))
    s.connect((targets[i % 2], 9000))
    s.setblocking(False)
    socks.append(s)
poll = select.epoll()
index = {}
for i, s in enumerate(socks):
    poll.register(s, select.EPOLLIN)
    index[s.fileno()] = i
def round(word):
    waiting, errors, wrong = set(), {}, 0
    missing, tries = set(range(count)), 0
    while missing and tries < 6:
        tries += 1
        todo = sorted(missing)
        for at in range(0, len(todo), 200):
            part = set(todo[at:at + 200])
            for i in part:
                try: socks[i].send(b'%s %d' % (word, i))
                except OSError as e: errors[errno.errorcode[e.errno]] = errors.get(errno.errorcode[e.errno], 0) + 1
            end = time.monotonic() + 1
            while part and time.monotonic() < end:
                for fd, _ in poll.poll(0.1):
                    i = index[fd]
                    try: d = socks[i].recv(2000)
                    except OSError as e:
                        errors[errno.errorcode[e.errno]] = errors.get(errno.errorcode[e.errno], 0) + 1
                        part.discard(i)
                        continue
                    if d == b'%s %d' % (word, i):
                        missing.discard(i)
                        part.discard(i)
                    elif not d.endswith(b' %d' % i): wrong += 1
    print('%s answered=%d wrong=%d errors=%s' % (word.decode(), count - len(missing), wrong, errors), flush=True)
round(b'first')
for line in sys.stdin: round(line.strip().encode())
PY
ALL="$ONE4 $ONE6 10.77.2.21 fd77:2::21 10.77.2.22 fd77:2::22 10.77.2.23 fd77:2::23"
crowd() { # NAME COUNT [SOURCES TARGETS]
    mkfifo "$TMP/$1.in"
    start "$1" -- ns one env PYTHONPATH="$TMP" PYTHONDONTWRITEBYTECODE=1 sh -c "exec python3 '$TMP/crowd.py' $2 '${3:-$ALL}' '${4:-$NET4 $NET6}' <>'$TMP/$1.in'"
}
said() { wait_log "$1" "^$2 " "${3:-40}"; grep "^$2 " "${LOG[$1]}"; }

# --- 10,000 at once
us_daemon client < <(config 8 15s)
read -r -d '' -a workers < <(us_workers undersock)
is "${#workers[@]}" 8 "eight workers"
is "$(app one 'print(ask(udp(sys.argv[1], 9000), b"warm"))' "$NET4")" "b'warm'" "warm-up"
fds=$(fd_count "${workers[@]}")
pss=$(pss_kb "${workers[@]}")
crowd many $COUNT
like "$(said many first)" "answered=$COUNT wrong=0 errors=\\{\\}" "$COUNT clients: all are answered, and by their own"
n=$(associations)
num "$n" -ge $COUNT "an association for each ($n)"
peak=$(fd_count "${workers[@]}")
num $((peak - fds)) -le $((2 * COUNT + 20)) "of two descriptors each ($((peak - fds)))"
full=$(pss_kb "${workers[@]}")
diag "memory of the workers: $pss kB before, $full kB with them"
num $((full - pss)) -le $((COUNT * 4)) "and at most 4 KiB"
echo second >"$TMP/many.in"
like "$(said many second)" "answered=$COUNT wrong=0 errors=\\{\\}" "all of them go on"
is "$(read -r -d '' -a w < <(us_workers undersock); echo "${w[*]}")" "${workers[*]}" "(by the same workers)"

# --- a flood to random destinations meanwhile
start_app flood two 'import random
s = [udp("::" if i % 2 else "0.0.0.0") for i in range(500)]
n = 0
for i in range(60000):
    to = "2001:db8:%x::%x" % (random.randrange(65536), random.randrange(65536)) if i % 2 else "%d.%d.%d.%d" % (random.randrange(11, 100), random.randrange(256), random.randrange(256), random.randrange(256))
    try: s[i % 500].sendto(b"f" * 100, (to, random.randrange(1, 65536)))
    except OSError: n += 1
print("flooded", n)'
wait_log flood '^flooded' 30
like "$(cat "${LOG[flood]}")" '^flooded' "60,000 datagrams of 500 clients to random destinations"
echo third >"$TMP/many.in"
like "$(said many third)" "answered=$COUNT wrong=0 errors=\\{\\}" "those that were there go on"
now=$(pss_kb "${workers[@]}")
num $((now - pss)) -le $(((COUNT + 500) * 4 + 8 * 2200)) "memory is bounded ($now kB)"
num $(($(fd_count "${workers[@]}") - peak)) -le 1020 "and so are descriptors"

# --- they leave
stop many
stop flood
check "after the idle limit no association is left" -- wait_for 25 has_associations 0
is "$(fd_count "${workers[@]}")" "$((fds - 2))" "nor a descriptor, with that of the warm-up"
is "$(grep -c 'was killed\|ended with status' "${LOG[undersock]}")" 0 "and no worker has ended"

# --- more than there is room for: 640 files allow 80 associations a worker
stop undersock
config 1 0 >"$TMP/undersock.conf"
start undersock -- ns client nofile 640 "$UNDERSOCK" daemon -c "$TMP/undersock.conf"
wait_for 20 answers undersock
evenly=("$ONE4 10.77.2.21 10.77.2.22 10.77.2.23" "$NET4 $NET4") # no client holds more than another
crowd few 60 "${evenly[@]}"
like "$(said few first)" "answered=60 wrong=0 errors=\\{\\}" "few descriptors: 60 clients are served"
crowd surplus 300 "${evenly[@]}"
said surplus first 30 >"$TMP/surplus"
like "$(cat "$TMP/surplus")" "answered=20 wrong=0 errors=\\{'ECONNREFUSED': [0-9]+\\}" "of 300 more those that fit, the others are refused"
is "$(associations)" 80 "so many are there"
echo again >"$TMP/few.in"
like "$(said few again)" "answered=60 wrong=0 errors=\\{\\}" "the 60 have not noticed"
is "$(app two 'print(ask(udp(sys.argv[1], 9000), b"other"))' "$NET4")" "b'other'" "a client that has none is given the place of one that has many"
is "$(associations)" 80 "(the place of one)"
num "$(grep -c 'table of associations is full' "${LOG[undersock]}")" -le 3 "one line in the log, for some seconds"
num "$(grep -c 'table of associations is full' "${LOG[undersock]}")" -ge 1 "(at least)"

# --- the proxy hangs up on all
kill -s USR1 "${PID[relay]}"
check "the proxy hangs up: no association is left" -- wait_for 10 has_associations 0
echo after >"$TMP/few.in"
like "$(said few after)" "answered=60 wrong=0" "and with the next datagram there are new ones"

# --- who is believed
for target in "$NET4" "$NET6"; do
    is "$(app one 's = udp(sys.argv[1])
got = []
for i in range(5):
    s.sendto(b"spoof %d" % i, (sys.argv[1], 9000))
    got.append(s.recvfrom(2000))
s.settimeout(0.5)
got.append(error_of(lambda: got.append(s.recvfrom(2000))))
print([g[0] for g in got[:5]], set(g[1][0] for g in got[:5]), got[5:])' "$target")" \
        "[b'spoof 0', b'spoof 1', b'spoof 2', b'spoof 3', b'spoof 4'] {'$target'} ['timeout']" \
        "forged answers, and wrong ones of the relay, do not arrive ($target)"
done
is "$(grep -c spoofed "${LOG[relay]}")" 10 "(they were sent)"
done_testing
