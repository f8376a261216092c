#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Real clients under both captures: curl, OpenSSH, python3, static binaries (nothing could be preloaded
# into them), many threads, many processes, sockets for IPv6 only, and IPv4 through IPv6 sockets.
. "$(dirname "$0")/lib.sh"

need python3 nft curl ssh busybox
topology
cg_new app
net_who 9000
start echo -- ns net "$TOOLS/load" server :: 9003
start sink -- ns net "$TOOLS/pattern" serve :: 9004
start sink6 -- ns net "$TOOLS/pattern" serve -V "$NET6" 9005
head -c 3000000 /dev/urandom >"$TMP/file"
SUM=$(cksum <"$TMP/file")
start web -- ns net python3 -c 'import runpy, socket
socket.getfqdn = lambda name: name  # no name server is asked
runpy.run_module("http.server", run_name="__main__")' --bind :: --directory "$TMP" 8080
sshd_at sshd "$TMP/sshd.d" net 22 "$NET4" "$NET6"
for port in 9003 9004 8080; do wait_port net tcp :: $port; done
wait_port net tcp "$NET6" 9005
peer_serve proxy "$PROXY4" 1080
us_daemon client <<CONF
upstream "proxy" { url = "socks5h://$PROXY4:1080" }
capture "cgroup" {
    hook = "cgroup"
    cgroup = "/$US-app"
    upstream = "proxy"
}
capture "output" {
    hook = "output"
    upstream = "proxy"
}
CONF

cat >"$TMP/many.py" <<'PY'
# 100 connections at once, each its own bytes.
import asyncio, sys
async def one(i):
    r, w = await asyncio.open_connection(sys.argv[1], 9003)
    assert w.get_extra_info('peername')[:2] == (sys.argv[1], 9003), w.get_extra_info('peername')
    word = b'connection %04d' % i
    w.write(b'e' + word)
    got = await r.readexactly(len(word))
    w.close()
    return got == word
async def main():
    print(sum(await asyncio.gather(*(one(i) for i in range(100)))))
asyncio.run(asyncio.wait_for(main(), 60))
PY
cat >"$TMP/fetch.py" <<'PY'
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with opener.open(sys.argv[1], timeout=30) as f:
    while True:
        part = f.read(65536)
        if not part: break
        sys.stdout.buffer.write(part)
PY
cat >"$TMP/mapped.py" <<'PY'
import socket, sys
s = socket.socket(socket.AF_INET6)
s.settimeout(20)
s.connect(('::ffff:' + sys.argv[1], 9000))
s.sendall(b'?\n')
print(s.recv(100).decode().strip(), s.getpeername()[0])
PY

for HOOK in cgroup output; do
    app() { ns client "$@"; }
    [[ $HOOK == cgroup ]] && app() { cg app ns client "$@"; }
    before=$(us_sum undersock granted)

    # --- curl
    is "$(app curl -qsS --max-time 30 "http://$NET4:9000/") $(app curl -qgsS --max-time 30 "http://[$NET6]:9000/")" "$EXIT4 $EXIT6" "$HOOK: curl, both families"
    is "$(app curl -qsS --max-time 30 "http://$NET4:8080/file" | cksum)" "$SUM" "$HOOK: curl, a file"
    is "$(app curl -qsS --parallel --max-time 60 "http://$NET4:9000/[1-40]" 2>/dev/null | sort | uniq -c | awk '{print $1, $2}')" "40 $EXIT4" "$HOOK: curl, 40 transfers in parallel"

    # --- OpenSSH
    ssh_to "$TMP/sshd.d"
    for target in NET4 NET6; do
        exit=${target/NET/EXIT}
        is "$(app bounded 30 "${SSH[@]}" "root@${!target}" 'echo ${SSH_CONNECTION%% *}' 2>/dev/null </dev/null)" "${!exit}" "$HOOK: ssh to ${!target}"
    done
    is "$(app bounded 30 "${SSH[@]}" "root@$NET4" cksum <"$TMP/file" 2>/dev/null)" "$SUM" "$HOOK: ssh, a file up"
    is "$(app bounded 30 "${SSH[@]}" "root@$NET6" "cat '$TMP/file'; exit 3" 2>/dev/null </dev/null | cksum)" "$SUM" "$HOOK: ssh, a file down"
    app bounded 30 "${SSH[@]}" "root@$NET6" 'exit 3' 2>/dev/null </dev/null
    is $? 3 "$HOOK: ssh, the remote exit status"

    # --- python3
    is "$(app python3 "$TMP/fetch.py" "http://$NET4:8080/file" | cksum)" "$SUM" "$HOOK: python3 urllib, IPv4"
    is "$(app python3 "$TMP/fetch.py" "http://[$NET6]:8080/file" | cksum)" "$SUM" "$HOOK: python3 urllib, IPv6"
    is "$(app python3 "$TMP/many.py" "$NET4" 2>&1)" 100 "$HOOK: python3 asyncio, 100 connections at once, IPv4"
    is "$(app python3 "$TMP/many.py" "$NET6" 2>&1)" 100 "$HOOK: python3 asyncio, 100 connections at once, IPv6"
    is "$(app python3 "$TMP/mapped.py" "$NET4" 2>&1)" "$EXIT4 ::ffff:$NET4" "$HOOK: python3, a v4-mapped destination"

    # --- static binaries
    if ldd "$(command -v busybox)" >/dev/null 2>&1; then
        skip "$HOOK: a static binary (busybox)" "busybox is linked dynamically; install busybox-static" 2
    else
        is "$(app bounded 30 busybox wget -q -O - "http://$NET4:9000/")" "$EXIT4" "$HOOK: a static binary (busybox), IPv4"
        is "$(app bounded 30 busybox wget -q -O - "http://[$NET6]:9000/")" "$EXIT6" "$HOOK: a static binary (busybox), IPv6"
    fi

    # --- threads and processes
    for target in NET4 NET6; do
        check "$HOOK: 40 threads of 10 connections each to ${!target}" -- app bounded 60 "$TOOLS/threads" -n 40 -k 10 "${!target}" 9003
    done
    check "$HOOK: 40 threads, v4-mapped" -- app bounded 60 "$TOOLS/threads" -M -n 40 -k 10 "$NET4" 9003
    is "$(app sh -c "for i in 1 2 3 4 5 6 7 8; do for k in 1 2 3 4 5; do '$TOOLS/who' '$NET4' 9000; done & done; wait" | sort | uniq -c | awk '{print $1, $2}')" \
        "40 $EXIT4" "$HOOK: 8 processes of 5 connections each"

    # --- socket kinds
    check "$HOOK: an IPv6-only client and an IPv6-only server, 8 MiB each way" -- app "$TOOLS/pattern" both -V -t 60 "$NET6" 9005 8M
    check "$HOOK: a v4-mapped application, 8 MiB each way" -- app "$TOOLS/pattern" both -M -t 60 "$NET4" 9004 8M
    is "$(app "$TOOLS/who" -M -p "$NET4" 9000)" "$EXIT4 peer=[::ffff:$NET4]:9000" "$HOOK: a v4-mapped application sees the peer it asked for"
    after=$(us_sum undersock granted)
    is $((after - before)) 1496 "$HOOK: each was granted by the proxy, once"
done

is "$(us_status undersock "[sum(w[k] for w in s['workers']) for k in ('failed', 'refused_full', 'refused_loop', 'refused_stray')]")" "[0, 0, 0, 0]" "nothing failed or was refused"
is "$(leaks who sink sink6)" 0 "nothing went direct"

stop undersock

# --- and through run
run() { ns client "$UNDERSOCK" run -u "socks5h://$PROXY4" -- "$@"; }
is "$(run timeout 30 "${SSH[@]}" "root@$NET4" cksum <"$TMP/file" 2>/dev/null)" "$SUM" "run: ssh, a file up"
is "$(run busybox wget -q -O - "http://$NET4:9000/")" "$EXIT4" "run: busybox"
check "run: 40 threads" -- run timeout 60 "$TOOLS/threads" -n 40 -k 10 "$NET6" 9003
done_testing
