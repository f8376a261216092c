# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the scenarios of honest connect share: the server that decides by port, the table of what an
# application must see, and the applications. To be read after lib.sh and lan.sh.
#
# Destination ports 20000 + N get the answer of kind N (tools/verdicts.c). Some ports have an upstream of
# their own, which fails before it has heard what is asked for (honest_config).

VERDICTS=1080 VERDICTS_CONTROL=1079

# The namespaces of the applications: three SYNs (at 0, 1 and 3 seconds), and ETIMEDOUT after 7. The
# kernel of the gateway answers with ICMP as often as it has to.
honest_sysctls() {
    local n
    for n; do
        ns "$n" sh -c 'cd /proc/sys/net && echo 2 >ipv4/tcp_syn_retries
            [ ! -e ipv4/tcp_syn_linear_timeouts ] || echo 0 >ipv4/tcp_syn_linear_timeouts
            echo 0 >ipv4/icmp_ratelimit; echo 0 >ipv6/icmp/ratelimit' 2>/dev/null
        ns "$n" sh -c 'cd /proc/sys/net/ipv4 && [ -e icmp_msgs_per_sec ] &&
            echo 100000 >icmp_msgs_per_sec && echo 10000 >icmp_msgs_burst' 2>/dev/null
    done
}
# Older kernels have one limit of all ICMP messages for all namespaces: 1,000 a second.
icmp_limited() { ns client test ! -e /proc/sys/net/ipv4/icmp_msgs_per_sec; }

# verdicts QUESTION...: what the server of that name (default: verdicts) has seen; verdicts_are for
# wait_for: QUESTION OP NUMBER.
verdicts() { ns proxy "$TOOLS/verdicts" ask "$PROXY4" "$VERDICTS_CONTROL" "$@"; }
verdicts_are() { test "$(verdicts "$1")" "$2" "$3"; }

verdict_server() {
    start verdicts -- ns proxy "$TOOLS/verdicts" serve "$PROXY4" $VERDICTS $VERDICTS_CONTROL
    wait_port proxy tcp "$PROXY4" $VERDICTS
    wait_port proxy tcp "$PROXY4" $VERDICTS_CONTROL
}

# All upstreams of honest_config.
honest_servers() {
    local rest
    verdict_server
    while read -r rest; do
        # shellcheck disable=SC2086
        PEER_NAME=bad-${rest%% *} peer_bad proxy "$PROXY4" $rest
    done <<-PEERS
	1101 auth-fail
	1104 hang
	1105 close
	1106 reset
	1107 drop 2
	1108 garbage
	1111 no-method
	PEERS
    # 1102: nobody listens. 1103: nobody answers.
    ns proxy nft -f - <<-NFT || bail "a port that drops"
	table inet silent {
	    chain input {
	        type filter hook input priority 0; policy accept;
	        tcp dport 1103 drop
	    }
	}
	NFT
}

# honest_config HOOK [KEYS...]: the special ports, and everything else to the verdicts. Who waits for an
# answer waits longer than an application does (honest_sysctls), but for the upstream "short".
honest_config() {
    local name port url keys hook=$1
    shift
    echo "control = \"$TMP/undersock.sock\""
    echo 'workers = 2'
    while read -r name port url keys; do
        echo "upstream \"$name\" { url = \"$url\" $keys }"
        capture_text "$hook" "$name" "$name" "tcp-ports = { \"$port\" }" "$@"
    done <<-UPSTREAMS
	auth-failure    30001       socks5://alice:wrong@$PROXY4:1101
	down            30002       socks5://$PROXY4:1102
	unreachable     30003       socks5://$PROXY4:1103 connect-timeout = "2s"
	hanging         30004       socks5://$PROXY4:1104 handshake-timeout = "8s"
	closing         30005       socks5://$PROXY4:1105
	resetting       30006       socks5://$PROXY4:1106
	ending          30007       socks5://$PROXY4:1107
	talking         30008       socks5://$PROXY4:1108
	no-method       30011       socks5://$PROXY4:1111
	short           30014       socks5://$PROXY4:$VERDICTS handshake-timeout = "2s"
	four            31000-31024 socks4://$PROXY4:$VERDICTS handshake-timeout = "8s"
	UPSTREAMS
    capture_text "$hook" refusing refuse 'tcp-ports = { "30009" }' "$@"
    echo "upstream \"verdicts\" { url = \"socks5://$PROXY4:$VERDICTS\" handshake-timeout = \"8s\" }"
    capture_text "$hook" all verdicts "$@"
}

# capture_text HOOK NAME UPSTREAM KEYS...: gateway: from br-lan; cgroup: the cgroup "app".
capture_text() {
    echo "capture \"$1-$2\" {"
    echo "    hook = \"$1\""
    echo "    upstream = \"$3\""
    [[ $1 == gateway ]] && echo '    interfaces = { "br-lan" }'
    [[ $1 == cgroup ]] && echo "    cgroup = \"/$US-app\""
    printf '    %s\n' "${@:4}"
    echo '}'
}

# verdict_table: PORT, the result for IPv4, the same for IPv6, and the milliseconds that it takes at
# least and at most. The bounds are what tells "at once" from "after a retransmission or two", and what
# is held from what is not; they measure nothing.
verdict_table() {
    cat <<-'TABLE'
	20000 OK           OK           0    5000  granted
	20001 OK           OK           190  5000  granted after 200 ms
	20002 OK           OK           2400 6900  granted after 2.5 s
	20003 ECONNREFUSED ECONNREFUSED 0    5000  general failure
	20004 ECONNREFUSED EACCES       0    5000  not allowed
	20005 ENETUNREACH  ENETUNREACH  0    5000  network unreachable
	20006 EHOSTUNREACH EHOSTUNREACH 0    5000  host unreachable
	20007 ECONNREFUSED ECONNREFUSED 0    5000  refused
	20008 EHOSTUNREACH EHOSTUNREACH 0    5000  TTL expired
	20009 ECONNREFUSED ECONNREFUSED 0    5000  command not supported
	20010 ECONNREFUSED ECONNREFUSED 0    5000  address type not supported
	20011 ECONNREFUSED ECONNREFUSED 0    5000  no SOCKS at all
	20012 ECONNREFUSED ECONNREFUSED 0    5000  FIN instead of a reply
	20013 ECONNREFUSED ECONNREFUSED 0    5000  RST instead of a reply
	20014 ETIMEDOUT    ETIMEDOUT    6000 14000 no reply
	20015 ECONNREFUSED ECONNREFUSED 0    5000  half a reply, then FIN
	20016 ECONNREFUSED ECONNREFUSED 190  5000  refused after 200 ms
	20017 EHOSTUNREACH EHOSTUNREACH 190  5000  host unreachable after 200 ms
	20018 ECONNREFUSED ECONNREFUSED 2400 6900  refused after 2.5 s
	20019 EHOSTUNREACH EHOSTUNREACH 2400 6900  host unreachable after 2.5 s
	20021 ENETUNREACH  ENETUNREACH  190  5000  network unreachable after 200 ms
	20022 ECONNREFUSED EACCES       190  5000  not allowed after 200 ms
	20023 ECONNREFUSED ECONNREFUSED 0    5000  a reply of another version
	20024 ECONNREFUSED ECONNREFUSED 0    5000  a reply code that does not exist
	30001 ECONNREFUSED ECONNREFUSED 0    5000  authentication failed
	30002 ECONNREFUSED ECONNREFUSED 0    5000  upstream down
	30003 ECONNREFUSED ECONNREFUSED 0    6900  upstream unreachable
	30004 ETIMEDOUT    ETIMEDOUT    6000 14000 upstream mute from the beginning
	30005 ECONNREFUSED ECONNREFUSED 0    5000  upstream closes at once
	30006 ECONNREFUSED ECONNREFUSED 0    5000  upstream resets at once
	30007 ECONNREFUSED ECONNREFUSED 0    5000  upstream closes in mid-handshake
	30008 ECONNREFUSED ECONNREFUSED 0    5000  upstream talks noise
	30009 ECONNREFUSED ECONNREFUSED 0    5000  upstream = "refuse"
	30011 ECONNREFUSED ECONNREFUSED 0    5000  no acceptable method
	30014 ETIMEDOUT    ETIMEDOUT    6000 14000 no reply within a handshake-timeout of 2 s
	31000 OK           -            0    5000  SOCKS4: granted
	31002 OK           -            2400 6900  SOCKS4: granted after 2.5 s
	31007 ECONNREFUSED -            0    5000  SOCKS4: rejected
	31014 ETIMEDOUT    -            6000 14000 SOCKS4: no reply
	31016 ECONNREFUSED -            190  5000  SOCKS4: rejected after 200 ms
	TABLE
}

# expected 4|6 [FIRST LAST]: PORT RESULT LEAST MOST WHAT, of these ports.
expected() {
    local column=2
    [[ $1 == 6 ]] && column=3
    verdict_table | awk -v c=$column -v a="${2:-0}" -v b="${3:-65535}" \
        '$c != "-" && $1 >= a && $1 <= b { r = $c; p = $1; l = $4; m = $5; $1 = $2 = $3 = $4 = $5 = ""
            sub(/^ +/, ""); print p, r, l, m, $0 }'
}
expected_ports() { expected "$@" | awk '{print $1}'; }

# as_expected DESCRIPTION LOG 4|6 [FIRST LAST]: each port has one result in the log, and the right one.
as_expected() {
    local n
    n=$(expected_ports "$3" "${@:4}" | wc -w)
    is "$(expected "$3" "${@:4}" | awk -v results="$2" '
        BEGIN {
            while ((getline line <results) > 0) {
                if (split(line, f, " ") == 3 && f[1] ~ /^[0-9]+$/) {
                    n[f[1]]++; result[f[1]] = f[2]; ms[f[1]] = f[3]
                }
            }
        }
        {
            port = $1; want = $2; least = $3; most = $4; $1 = $2 = $3 = $4 = ""; sub(/^ +/, "")
            if (n[port] != 1) print $0 " (" port "): " n[port] + 0 " results, want " want
            else if (result[port] != want) print $0 " (" port "): " result[port] " after " ms[port] " ms, want " want
            else if (ms[port] + 0 < least + 0 || ms[port] + 0 > most + 0)
                print $0 " (" port "): " result[port] " after " ms[port] " ms, want " least " to " most
            else right++
        }
        END { print right + 0 " right" }')" "$n right" "$1"
}

# --- the applications: each connects to all the ports given at once, and prints lines as connects does

honest_clients() {
    STATIC=$(static_tool connects) || bail "a static client cannot be built: $(cat "$TMP/static.log")"
    cat >"$TMP/connect.py" <<'PY'
import asyncio, errno, socket, sys, threading, time

how, address, ports = sys.argv[1], sys.argv[2], [int(p) for p in sys.argv[3:]]
said = "[%s]:%d 2\n" if ":" in address else "%s:%d 2\n"

lock = threading.Lock()

def out(port, result, begun, end=None):
    with lock:
        print(port, result, int(((end or time.monotonic()) - begun) * 1000), flush=True)

def judged(port, data):
    return "OK" if data.decode() == said % (address, port) else "WRONG" if data else "lost=FIN"

def name(error):
    return errno.errorcode.get(error.errno, repr(error))

def lost(error):
    """Of a socket that was said to be connected. IPv4 sockets become ready by an ICMP error a moment
    before it is their error; so connect() may be told of it by what comes next."""
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return "lost=RST"
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return name(error)
    return "lost=" + name(error)

def connect_ex(port):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.settimeout(30)
    begun = time.monotonic()
    error = s.connect_ex((address, port))
    end = time.monotonic()
    if error:
        # What was connected and reset before we looked is no answer to a SYN.
        result = "lost=RST" if error == errno.ECONNRESET else errno.errorcode[error]
    else:
        try:
            s.sendall(b"?\n")
            result = judged(port, s.recv(100))
        except OSError as e:
            result = lost(e)
    out(port, result, begun, end)

async def stream(port):
    begun = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except OSError as e:
        out(port, "lost=RST" if e.errno == errno.ECONNRESET else name(e), begun)
        return
    end = time.monotonic()
    try:
        writer.write(b"?\n")
        result = judged(port, await reader.readline())
    except OSError as e:
        result = lost(e)
    out(port, result, begun, end)

async def streams():
    await asyncio.gather(*map(stream, ports))

if how == "asyncio":
    asyncio.run(streams())
else:
    threads = [threading.Thread(target=connect_ex, args=(p,)) for p in ports]
    for t in threads: t.start()
    for t in threads: t.join()
PY
    cat >"$TMP/nc.sh" <<'NC'
address=$1
shift
for port; do
    {
        begun=${EPOCHREALTIME/[.,]/}
        out=$(echo '?' | busybox nc "$address" "$port" 2>&1)
        ms=$(((${EPOCHREALTIME/[.,]/} - begun) / 1000))
        shown=$address:$port
        [[ $address == *:* ]] && shown=[$address]:$port
        case $out in
        "$shown 2") result=OK ;;
        *"Connection refused"*) result=ECONNREFUSED ;;
        *"No route to host"*) result=EHOSTUNREACH ;;
        *"Network is unreachable"*) result=ENETUNREACH ;;
        *"Permission denied"*) result=EACCES ;;
        *"timed out"*) result=ETIMEDOUT ;;
        *"reset by peer"*) result=lost=RST ;;
        '') result=lost=FIN ;;
        *) result=said:${out// /_} ;;
        esac
        echo "$port $result $ms"
    } &
done
wait
NC
}

# client_argv HOW ADDRESS PORTS...: sets CLIENT to the command.
HOWS=(blocking non-blocking connect_ex asyncio busybox)
client_argv() {
    case $1 in
    blocking) CLIENT=("$TOOLS/connects" -b "${@:2}") ;;
    non-blocking) CLIENT=("$STATIC" "${@:2}") ;;
    connect_ex | asyncio) CLIENT=(python3 "$TMP/connect.py" "$@") ;;
    busybox) CLIENT=(bash "$TMP/nc.sh" "${@:2}") ;;
    esac
}

# where HOOK: sets WHERE to what an application is to be run with so that this hook takes it.
where() {
    case $1 in
    output) WHERE=(ns client) ;;
    cgroup) WHERE=(ns client cg app) ;;
    gateway) WHERE=(ns one) ;;
    esac
}

# connect_all NAME HOOK HOW ADDRESS PORTS...: in the background; its log has the results.
connect_all() {
    local name=$1 WHERE CLIENT
    where "$2"
    client_argv "${@:3}"
    start "$name" -- "${WHERE[@]}" "${CLIENT[@]}"
}

# matrix WHAT HOOK [FIRST LAST]: every application, both families and IPv4 by an IPv6 socket, all at
# once; each cell as the table says.
matrix() {
    local what=$1 hook=$2 how f WHERE
    shift 2
    local -a ports4 ports6
    read -r -d '' -a ports4 < <(expected_ports 4 "$@")
    read -r -d '' -a ports6 < <(expected_ports 6 "$@")
    for how in "${HOWS[@]}"; do
        connect_all "$hook-$how-4" "$hook" "$how" "$NET4" "${ports4[@]}"
        connect_all "$hook-$how-6" "$hook" "$how" "$NET6" "${ports6[@]}"
    done
    where "$hook"
    start "$hook-mapped-4" -- "${WHERE[@]}" "$TOOLS/connects" -M "$NET4" "${ports4[@]}"
    for how in "${HOWS[@]}" mapped; do
        for f in 4 6; do
            [[ $how == mapped && $f == 6 ]] && continue
            wait_exit "$hook-$how-$f" 60 || diag "$hook-$how-$f does not end"
            as_expected "$what, $how, IPv$f: $(expected_ports $f "$@" | wc -w) verdicts, each as it must be seen" \
                "${LOG[$hook-$how-$f]}" $f "$@"
            stop "$hook-$how-$f" 2>/dev/null
            rm -f "${LOG[$hook-$how-$f]}"
        done
    done
}

# count_syns NS: counts the SYNs that applications there send to ports 20000 and up; syns_sent prints
# the number and begins again. What is sent for them carries a mark and does not count.
count_syns() {
    ns "$1" nft -f - <<-'NFT' || bail "the counter of SYNs"
	table inet syns {
	    counter seen {
	    }
	    chain output {
	        type filter hook output priority -400; policy accept;
	        meta mark 0 tcp dport >= 20000 tcp flags & (syn | ack) == syn counter name "seen"
	    }
	}
	NFT
}
syns_sent() { ns "$1" nft reset counter inet syns seen | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
# SYNs that were stitched go to another address and port than those that were relayed.
stitched_syns() { us_status undersock "sum(s.get('stitch', {}).get(k, 0) for k in ('begun', 'again'))"; }

# nothing_left DESCRIPTION: no flow in the daemon, no connection at the verdicts.
nothing_left() {
    check "$1: no flow is left" -- wait_for 30 us_is undersock flows -eq 0
    check "$1: no upstream connection is left" -- wait_for 30 verdicts_are open -eq 0
}
