#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stitch, segment by segment: at each step of the handshake what can come again, in another order, in
# pieces, too early, or not at all; a reset, a FIN, and what only looks like one (tools/steps.py has
# the cases, and the server that plays them). And a target that says much, at once.
. "$(dirname "$0")/lib.sh"

need nft python3
topology
cg_new app
ns net nft -f - <<-NFT || bail "nft"
	table inet test_steps {
	    chain c { type filter hook input priority 0; tcp dport 1300 drop; }
	}
	NFT
start steps -- ns net python3 "$LIB_DIR/tools/steps.py" serve eth0 1300
wait_log steps '^ready' || bail "steps"

app() { cg app ns client "$@"; }
stitch() {
    start stitch -- ns client "$TOOLS/stitch" "$(cg_path app)" "$@"
    wait_log stitch '^ready' || bail "stitch $*"
}
unstitch() { stop stitch; rm -f "${LOG[stitch]}"; }

python3 "$LIB_DIR/tools/steps.py" list >"$TMP/cases"
num "$(grep -c . "$TMP/cases")" -gt 40 "there are cases"
for family in 4 6; do
    to=$NET4 at=$NET4
    ((family == 6)) && to=$NET6 at="[$NET6]"
    stitch "socks5://$at:1300"
    bounded 60 cg app ns client python3 "$LIB_DIR/tools/steps.py" app "$to" >"$TMP/got" 2>&1
    while IFS=$'\t' read -r number want name; do
        is "$(sed -n "s/^$number\t//p" "$TMP/got")" "$want" "IPv$family: $name"
    done <"$TMP/cases"
    unstitch
done
unlike "$(cat "${LOG[steps]}")" "RAW|Error" "nothing but the handshake, and then what the application said, came to the server"

# --- 1 MiB in one go, of which the first octets are in the segment of the reply
cat >"$TMP/banner.py" <<'PY'
import hashlib, random, socket, sys, threading
body = random.Random(7).randbytes(1 << 20)
if sys.argv[1] == "serve":
    s = socket.create_server(("::", 1299), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    def one(c):
        c.recv(3)
        c.sendall(b"\5\0")
        c.recv(100)
        c.sendall(b"\5\0\0\1" + bytes(6) + body)
        c.shutdown(socket.SHUT_WR)
        while c.recv(1000):
            pass
        c.close()
    while True:
        threading.Thread(target=one, args=(s.accept()[0],), daemon=True).start()
c = socket.create_connection((sys.argv[1], 9000), timeout=20)
got = b""
while more := c.recv(65536):
    got += more
print("same" if got == body else "other %d" % len(got))
PY
start banner -- ns net python3 "$TMP/banner.py" serve
wait_log banner '^ready' || bail "banner"
for family in 4 6; do
    to=$NET4 at=$NET4
    ((family == 6)) && to=$NET6 at="[$NET6]"
    stitch "socks5://$at:1299"
    is "$(for _ in 1 2 3 4 5; do app timeout 20 python3 "$TMP/banner.py" "$to"; done | sort | uniq -c | xargs)" "5 same" "IPv$family: 1 MiB with the reply, 5 times"
    unstitch
done
done_testing
