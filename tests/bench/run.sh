#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The benchmark: ours, redsocks, an application that speaks SOCKS itself, and no proxy, side by side.
#
#     tests/bench/run.sh [--set PRESET] [--markdown FILE] [--svg FILE] [--json FILE] ...
#
# --help lists the options and the presets: base, stitch, connect, fastpath, udp, all.
#
# One network namespace for each row ("host"), each joined by its own veth pair to the namespace
# "proxy" and through it to "net". What differs between two rows is only the redirector:
#
#     plain      no redirector and no proxy: the same load server, which serves without SOCKS
#     native     no redirector: the load tool speaks SOCKS5 itself
#     redsocks   the package, its splice on, nft redirect in the host's namespace; its UDP by TPROXY
#     output     undersock daemon, hook = "output"
#     cgroup-stitch  undersock daemon, hook = "cgroup", the load tool inside that cgroup, and its
#                connections stitched
#     cgroup-stitch-tcp  the same without UDP and DNS, so without rules that track every packet
#     cgroup-relay   the same with all of them relayed
#     cgroup     the same as it comes (fast-path = "auto"), which may be either
#
# and the same for a gateway: a client's namespace, behind it the gateway's ("gate-ROW"), behind that
# "proxy":
#
#     forward      no redirector: the gateway forwards to the same load server, which serves without
#                  SOCKS, in "proxy": the limit of what a gateway can do
#     gw-redsocks  the package on the gateway, its splice on, nft redirect in prerouting
#     gw-ours      undersock daemon on the gateway, hook = "gateway"
#
# Those of ours wait with connect() for the SOCKS server (connect = "honest") and choose their fast
# path themselves. output-early, cgroup-early and gw-ours-early say "connected" at once, as redsocks
# does; -splice, -sockmap and -copy force that fast path. After every round each daemon is asked how
# many connections it has stitched and how many relayed: a row with one that its name does not promise
# is left out, and the run fails.
#
# The SOCKS server is one process for all rows. By default ("sink") it is the load tool's own: it
# grants every request and serves it itself, so that neither a proxy nor a second hop is the limit
# and the redirector is what shows; so it does with UDP. --server serve|microsocks|dante|ssh puts a
# real one in between (serve: our own; microsocks and ssh have no UDP), with the same sink behind it
# in "net"; --servers measures only which of these limits least. Where this
# was written, one stream of the native row ran through them at: sink 56, dante 16, ssh 4 to 6,
# microsocks 1 Gbit/s, and connections one after another at 9,800, 2,500, 3,000, 3,000 a second. (A
# native application is then slower than redsocks is through the sink; microsocks also ends both
# directions at the first FIN, so that bulk up counts failures.)
#
# Every namespace uses reno: with BBR, a common default, bulk falls to a third and differences hide.

# shellcheck source=tests/net/lib.sh
. "$(dirname "$0")/../net/lib.sh"

BENCH_DIR=$TOP_DIR/tests/bench
command -v python3 >/dev/null || { echo "bench: python3 is not installed" >&2; exit 1; }
ROWS=$(python3 -B "$BENCH_DIR/rows.py" "$@") || exit
case " $* " in
*' -h '* | *' --help '*)
    echo "$ROWS"
    exit 0
    ;;
*' --redraw'*)
    python3 -B "$BENCH_DIR/report.py" "$@"
    exit
    ;;
esac
fail() {
    echo "bench: $*" >&2
    exit 1
}
bail() { fail "$*"; }
skip_all() { fail "$*"; }

need_root
need python3 ip nsenter nft ss
[[ -x $TOOLS/load && -x $TOOLS/datagrams ]] || fail "$TOOLS/load, datagrams: make tests-build"
export UNDERSOCK_BENCH=1 LOAD=$TOOLS/load DATAGRAMS=$TOOLS/datagrams BENCH_PREFIX=$US BENCH_DIR TMP CGROUP2 UNDERSOCK

# As every other host has one.
FIREWALL=''
[[ " $* " != *' --firewall '* ]] || FIREWALL='table inet firewall {
    chain input { type filter hook input priority 0; ct state established,related accept; }
    chain output { type filter hook output priority 0; ct state invalid drop; }
}'

# host ROW NUMBER: its namespace, link and route.
host() {
    local host=10.77.$2.2 gate=10.77.$2.1
    ns_add "$1"
    ns_link "$1" up0 "$host/24" proxy "down$2" "$gate/24"
    ns "$1" ip route add default via "$gate"
    [[ ! $FIREWALL ]] || ns "$1" nft -f - <<<"$FIREWALL" || fail "the firewall of $1"
}

# gateway ROW NUMBER: a client's namespace and, between it and proxy, the gateway's.
gateway() {
    local lan=10.78.$2
    host "gate-$1" "$2"
    ns_add "$1"
    ns_link "$1" eth0 "$lan.2/24" "gate-$1" lan0 "$lan.1/24"
    ns "$1" ip route add default via "$lan.1"
    ns_forward "gate-$1"
    ns proxy ip route add "$lan.0/24" via "10.77.$2.2"
}

raise() { ulimit -n "$(ulimit -Hn)"; }
raise

ns_add proxy net
ns_link proxy up0 "$EXIT4/24" net eth0 "$NET4/24"
# proxy does not forward: a connection that no redirector took is never answered.
BENCH_CGROUP=''
[[ $CGROUP2 ]] && BENCH_CGROUP=$US-bench
export BENCH_CGROUP
PLACES=proxy
while read -r kind row number; do
    PLACES+=" $row"
    if [[ $kind == gateway ]]; then
        gateway "$row" "$number"
        PLACES+=" gate-$row"
    else
        host "$row" "$number"
    fi
    # Also where no capture needs it: a process in a cgroup costs a little more than one at the root.
    [[ $CGROUP2 ]] && cg_new "bench-$row"
done <<<"$ROWS"
# Every worker's reconnects leave TIME_WAIT behind; the ports must last for all rounds.
for n in $PLACES; do
    ns "$n" sh -c 'echo "2000 65000" >/proc/sys/net/ipv4/ip_local_port_range'
done

# measure.py starts the daemons itself; they are all inside our namespaces, where the trap of the
# library finds what an interrupted run leaves.
python3 -B "$BENCH_DIR/measure.py" "$@" --default-json "$B/bench.json" &
wait_pid=$!
trap 'kill -TERM $wait_pid 2>/dev/null; wait $wait_pid; exit 130' INT
trap 'kill -TERM $wait_pid 2>/dev/null; wait $wait_pid; exit 143' TERM
wait $wait_pid
exit $?
