#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# What an honest connect() is for. A name with a dead IPv6 and a live IPv4 address: applications fall
# back at once, whatever makes the IPv6 address dead. A port scan finds open, closed and filtered ports
# as one does that speaks SOCKS itself.
. "$(dirname "$0")/lib.sh"
FAST_PATH=${FAST_PATH:-relay} # what is stitched is not held by us, and outlives us
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/honest.sh"

need python3 nft curl
topology
lan
cg_new app
honest_sysctls client one
net_who 9000
# The upstream of what lives, and one for each way to be dead.
peer_serve proxy "$PROXY4" 1090
DEAD=(refused:7 host-unreachable:6 network-unreachable:5 not-allowed:4 failing:3 silent:14)
ADDRESSES=(10 11 12 13 14 15)
for i in "${!DEAD[@]}"; do
    start "dead-$i" -- ns proxy "$TOOLS/verdicts" serve -6 "${DEAD[i]#*:}" "$PROXY4" $((1100 + i)) $((1200 + i))
    wait_port proxy tcp "$PROXY4" $((1100 + i))
    wait_port proxy tcp "$PROXY4" $((1200 + i))
    echo "2001:db8:113::${ADDRESSES[i]} ${DEAD[i]%:*}.test"
    echo "203.0.113.10 ${DEAD[i]%:*}.test"
done >"$TMP/hosts"
asked() { ns proxy "$TOOLS/verdicts" ask "$PROXY4" $((1200 + $1)) requests; }

config() {
    local i hook
    echo "control = \"$TMP/undersock.sock\""
    echo "upstream \"alive\" { url = \"socks5://$PROXY4:1090\" handshake-timeout = \"5s\" }"
    for i in "${!DEAD[@]}"; do echo "upstream \"dead-$i\" { url = \"socks5://$PROXY4:$((1100 + i))\" }"; done
    for hook in output gateway cgroup; do
        for i in "${!DEAD[@]}"; do
            capture_text $hook "dead-$i" "dead-$i" "to = { \"2001:db8:113::${ADDRESSES[i]}\" }" 'tcp-ports = { "9000" }'
        done
        capture_text $hook alive alive
    done
}
us_daemon client < <(config)

# --- names. IPv6 comes first, also from an ULA, and nothing else races: whoever has IPv4 in the end got
# there because connect() failed.
cat >"$TMP/gai.conf" <<'GAI'
label ::1/128 0
label ::/0 1
label ::ffff:0:0/96 4
precedence ::1/128 50
precedence ::/0 40
precedence ::ffff:0:0/96 10
GAI
cat >"$TMP/fall.py" <<'PY'
import asyncio, socket, sys
how, name = sys.argv[1:]
def talk(s):
    s.settimeout(20)
    s.sendall(b"?\n")
    return s.recv(100).decode().strip()
async def eyeballs(delay):
    reader, writer = await asyncio.wait_for(
        asyncio.open_connection(name, 9000, happy_eyeballs_delay=delay), 20)
    writer.write(b"?\n")
    return (await reader.readline()).decode().strip()
try:
    if how == "create_connection":
        print(talk(socket.create_connection((name, 9000), 20)))
    else:
        print(asyncio.run(eyeballs(float(how))))
except Exception as e:
    print(repr(e))
PY
# named CMD...: with these names, and these rules of choosing.
named() {
    "${WHERE[@]}" unshare -m --propagation private sh -c "mount --bind '$TMP/hosts' /etc/hosts &&
        mount --bind '$TMP/gai.conf' /etc/gai.conf && exec \"\$@\"" sh "$@"
}
where output
is "$(named getent ahosts refused.test | awk '$2 == "STREAM" {print $1}' | paste -sd ' ')" "2001:db8:113::10 203.0.113.10" \
    "the names have two addresses, IPv6 first"
for hook in output gateway cgroup; do
    where $hook
    for i in "${!DEAD[@]}"; do
        what=${DEAD[i]%:*}
        [[ $what == silent ]] && continue
        before=$(asked "$i")
        is "$(named curl -qsS --max-time 20 --happy-eyeballs-timeout-ms 60000 "http://$what.test:9000/" 2>&1)" "$EXIT4" "$hook: curl, IPv6 $what: IPv4"
        is "$(named python3 "$TMP/fall.py" create_connection $what.test)" "$EXIT4" "$hook: create_connection, IPv6 $what: IPv4"
        is "$(named python3 "$TMP/fall.py" 60 $what.test)" "$EXIT4" "$hook: asyncio, IPv6 $what: IPv4"
        is $(($(asked "$i") - before)) 3 "$hook: each has tried IPv6 first"
    done
    # What never answers is what the race is for.
    before=$(asked 5)
    is "$(named curl -qsS --max-time 20 http://silent.test:9000/ 2>&1)" "$EXIT4" "$hook: curl, IPv6 silent: IPv4"
    is "$(named python3 "$TMP/fall.py" 0.25 silent.test)" "$EXIT4" "$hook: asyncio, IPv6 silent: IPv4"
    is $(($(asked 5) - before)) 2 "$hook: both have tried IPv6 first"
done
if command -v wget >/dev/null; then
    where output
    is "$(named wget -q -T 20 -t 1 -O - http://refused.test:9000/ 2>&1)" "$EXIT4" "wget, IPv6 refused: IPv4"
fi

# --- a port scan: open, closed and filtered ones
OPEN=(8003 8010 8011 8047 8080)
for p in "${OPEN[@]}"; do
    start "open-$p" -- ns net "$TOOLS/who" serve "$p"
done
for p in "${OPEN[@]}"; do wait_port net tcp :: "$p"; done
ns net nft -f - <<-'NFT' || bail "filtered ports"
	table inet filtered {
	    chain input {
	        type filter hook input priority 0; policy accept;
	        tcp dport { 8020, 8066 } drop
	    }
	}
	NFT
cat >"$TMP/scan.py" <<'PY'
# scan.py socks|connect ADDRESS PROXY: which of the ports are what
import asyncio, errno, ipaddress, struct, sys
how, address, proxy = sys.argv[1:]

async def by_socks(port):
    reader, writer = await asyncio.open_connection(proxy, 1090)
    ip = ipaddress.ip_address(address)
    writer.write(b"\5\1\0")
    await reader.readexactly(2)
    writer.write(b"\5\1\0" + (b"\1" if ip.version == 4 else b"\4") + ip.packed + struct.pack(">H", port))
    reply = (await reader.readexactly(4))[1]
    writer.transport.abort()
    return {0: "open", 5: "closed"}.get(reply, "reply %d" % reply)

async def by_connect(port):
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except OSError as e:
        return "closed" if e.errno == errno.ECONNREFUSED else errno.errorcode.get(e.errno, repr(e))
    writer.transport.abort()
    return "open"

async def state(port):
    try:
        return await asyncio.wait_for((by_socks if how == "socks" else by_connect)(port), 4)
    except asyncio.TimeoutError:
        return "filtered"

async def scan():
    ports = range(8000, 8100)
    found = {}
    for port, what in zip(ports, await asyncio.gather(*map(state, ports))):
        found.setdefault(what, []).append(port)
    for what in sorted(found):
        print(what, *(found[what] if what != "closed" else [len(found[what])]))

asyncio.run(scan())
PY
by_nmap() { # ADDRESS: the same words
    local six=()
    [[ $1 == *:* ]] && six=(-6)
    "${WHERE[@]}" nmap "${six[@]}" -sT -Pn -n -T4 --max-retries 1 -p 8000-8099 -oG - "$1" |
        sed -n 's/.*Ports: //p' | sed 's/\tIgnored.*//' | tr ',' '\n' | sed 's/^ *//' |
        awk -F/ '$2 == "closed" {c++; next} {n[$2] = n[$2] " " $1} END {print "closed", 100 - split(n["open"] n["filtered"], x, " ")
            for (i in n) print i n[i]}' | sort
}
# A scan is mostly waiting: those that only connect all at once, nmap for both families.
scans() { # HOW HOOK...: of both families, to $TMP/HOW.HOOK.FAMILY
    local how=$1 hook f a pids=()
    shift
    for hook; do
        where $hook
        for f in 4 6; do
            a=NET$f
            if [[ $how == nmap ]]; then
                by_nmap "${!a}" >"$TMP/$how.$hook.$f" &
            else
                "${WHERE[@]}" python3 "$TMP/scan.py" $how "${!a}" "$PROXY4" >"$TMP/$how.$hook.$f" 2>&1 &
            fi
            pids+=($!)
        done
    done
    wait "${pids[@]}"
}
ns client python3 "$TMP/scan.py" socks "$NET6" "$PROXY4" >"$TMP/want6" &
ns client python3 "$TMP/scan.py" socks "$NET4" "$PROXY4" >"$TMP/want4"
wait $!
scans connect output gateway cgroup
for f in 4 6; do
    a=NET$f
    is "$(<"$TMP/want$f")" "$(printf 'closed 93\nfiltered 8020 8066\nopen %s' "${OPEN[*]}")" "${!a}: the scan that speaks SOCKS finds what is there"
    for hook in output gateway cgroup; do
        is "$(<"$TMP/connect.$hook.$f")" "$(<"$TMP/want$f")" "${!a}, $hook: so does one that only connects"
    done
done
for hook in output gateway cgroup; do
    if command -v nmap >/dev/null; then
        scans nmap $hook
        for f in 4 6; do
            a=NET$f
            is "$(<"$TMP/nmap.$hook.$f")" "$(<"$TMP/want$f")" "${!a}, $hook: and nmap -sT"
        done
    else
        skip "$hook: nmap -sT" "nmap is not installed" 2
    fi
done
is "$(leaks who open-8080)" 0 "all of it by the proxy"
done_testing
