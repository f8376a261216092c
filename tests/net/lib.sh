# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The library of the namespace scenarios: topology, processes, peers, TAP. A scenario is one file
# tests/net/NN-name.sh:
#
#     #!/usr/bin/env bash
#     . "$(dirname "$0")/lib.sh"
#     topology
#     peer_microsocks proxy "$PROXY4" 1080
#     start target -- ns net "$TOOLS/pattern" serve "$NET4" 9000
#     wait_port net tcp "$NET4" 9000
#     check "64 MiB each way" -- ns client "$TOOLS/pattern" both -t 60 "$NET4" 9000 64M
#     done_testing
#
# Everything a scenario makes carries the prefix us-PID-: namespaces, cgroups, the temporary
# directory. The EXIT trap ends only the processes started here and removes only these, after a
# failure and after a signal too. UNDERSOCK_KEEP=1 keeps the temporary directory with its logs,
# UNDERSOCK_SHELL=1 opens a shell in the scenario's environment when a test has failed.
#
# The topology, client and proxy joined by one veth pair, proxy and net by another:
#
#     client  10.77.1.2  ───  10.77.1.1  proxy  203.0.113.1  ───  203.0.113.10-19  net
#             fd77:1::2       fd77:1::1         2001:db8:113::1     2001:db8:113::10-19
#
# proxy forwards, so a connection that goes around the SOCKS server arrives too, but from CLIENT4
# or CLIENT6; one that went through it arrives from EXIT4 or EXIT6. Who leaked is visible at the end.

set -u
shopt -s extglob

LIB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP_DIR=$(cd "$LIB_DIR/../.." && pwd)
B=${B:-build}
[[ $B = /* ]] || B=$TOP_DIR/$B
TOOLS=${TOOLS:-$B/tests/tools}
UNDERSOCK=${UNDERSOCK:-$B/undersock}
US=us-$$
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

CLIENT4=10.77.1.2        CLIENT6=fd77:1::2
PROXY4=10.77.1.1         PROXY6=fd77:1::1
EXIT4=203.0.113.1        EXIT6=2001:db8:113::1
NET4=203.0.113.10        NET6=2001:db8:113::10
NET4_PREFIX=203.0.113.0/24 NET6_PREFIX=2001:db8:113::/64
export CLIENT4 CLIENT6 PROXY4 PROXY6 EXIT4 EXIT6 NET4 NET6 NET4_PREFIX NET6_PREFIX TOOLS UNDERSOCK

declare -A PID LOG
NAMESPACES=() CGROUPS=() STARTED=()
TEST_NUMBER=0 TEST_FAILED=0 TEST_PLAN=''

# --- TAP -----------------------------------------------------------------------------------------

plan() { TEST_PLAN=$1; echo "1..$1"; }

ok() {
    TEST_NUMBER=$((TEST_NUMBER + 1))
    echo "ok $TEST_NUMBER - $*"
}

not_ok() {
    TEST_NUMBER=$((TEST_NUMBER + 1))
    TEST_FAILED=$((TEST_FAILED + 1))
    echo "not ok $TEST_NUMBER - $*"
    diag "at ${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]} ${BASH_SOURCE[2]:+(${BASH_SOURCE[2]##*/}:${BASH_LINENO[1]})}"
}

# diag TEXT: a TAP comment, each line of it.
diag() { sed 's/^/# /' <<<"$*"; }

# is GOT WANT DESCRIPTION
is() {
    if [[ $1 == "$2" ]]; then
        ok "$3"
    else
        not_ok "$3"
        diag "got:  $1"
        diag "want: $2"
    fi
}

isnt() {
    if [[ $1 != "$2" ]]; then
        ok "$3"
    else
        not_ok "$3"
        diag "got what it must not be: $1"
    fi
}

# like GOT REGEX DESCRIPTION (bash extended regular expression)
like() {
    if [[ $1 =~ $2 ]]; then
        ok "$3"
    else
        not_ok "$3"
        diag "got:  $1"
        diag "want a match of: $2"
    fi
}

unlike() {
    if [[ ! $1 =~ $2 ]]; then
        ok "$3"
    else
        not_ok "$3"
        diag "got:  $1"
        diag "want no match of: $2"
    fi
}

# num GOT OP WANT DESCRIPTION, OP one of -eq -ne -lt -le -gt -ge
num() {
    # shellcheck disable=SC1072,SC1073
    if [[ $1 =~ ^-?[0-9]+$ ]] && test "$1" "$2" "$3"; then
        ok "$4"
    else
        not_ok "$4"
        diag "got $1, want $2 $3"
    fi
}

# check DESCRIPTION -- CMD...: the command succeeds; its output is shown when it does not.
check() {
    local what=$1 out rc
    shift 2
    out=$("$@" 2>&1)
    rc=$?
    if ((rc == 0)); then
        ok "$what"
    else
        not_ok "$what"
        diag "exit status $rc: $*"
        diag "$out"
    fi
    return $rc
}

# check_status WANT DESCRIPTION -- CMD...: the command exits with exactly this status.
check_status() {
    local want=$1 what=$2 out rc
    shift 3
    out=$("$@" 2>&1)
    rc=$?
    if ((rc == want)); then
        ok "$what"
    else
        not_ok "$what"
        diag "exit status $rc, want $want: $*"
        diag "$out"
    fi
}

# skip DESCRIPTION REASON [COUNT]: these tests do not run here, and why.
skip() {
    local i
    for ((i = 0; i < ${3:-1}; i++)); do
        TEST_NUMBER=$((TEST_NUMBER + 1))
        echo "ok $TEST_NUMBER - $1 # SKIP $2"
    done
}

# skip_all REASON: nothing in this file can run here.
skip_all() {
    echo "1..0 # SKIP $*"
    exit 0
}

# bail WHAT: the scenario's own set-up failed. That is a failure, never a skip.
bail() {
    not_ok "set-up: $*"
    done_testing
}

done_testing() {
    [[ $TEST_PLAN ]] || echo "1..$TEST_NUMBER"
    if ((TEST_FAILED)); then
        dump_logs
        [[ ${UNDERSOCK_SHELL:-} && -t 0 ]] && (cd "$TMP" && PS1="$US> " bash --norc -i)
        exit 1
    fi
    [[ $TEST_PLAN && $TEST_PLAN != "$TEST_NUMBER" ]] && exit 1
    exit 0
}

# need CMD...: without these the file is skipped, with the name of what is missing.
need() {
    local c
    for c; do
        command -v "$c" >/dev/null || [[ -x $c ]] || skip_all "$c is not installed"
    done
}

need_root() { ((EUID == 0)) || skip_all "needs root (namespaces)"; }

# --- processes -----------------------------------------------------------------------------------

# ns NAME CMD...: run in a namespace of this scenario. nsenter, not `ip netns exec`: that one mounts
# a new /sys and so hides /sys/fs/cgroup.
ns() { argv_of ns "$@"; "${ARGV[@]}"; }

# argv_of CMD...: sets ARGV to CMD with our own wrappers (ns, cg, nofile, bounded) turned into what
# they exec, so that a background process is the program itself and not a shell around it.
argv_of() {
    ARGV=()
    while (($#)); do
        case $1 in
        ns)
            ARGV+=(nsenter --net="/run/netns/$US-$2" --)
            shift 2
            ;;
        cg)
            ARGV+=(sh -c 'echo $$ >"$0"/cgroup.procs && exec "$@"' "$(cg_path "$2")")
            shift 2
            ;;
        nofile)
            ARGV+=(prlimit "--nofile=$2:$2" --)
            shift 2
            ;;
        bounded)
            ARGV+=(timeout -k 2 "$2")
            shift 2
            ;;
        *)
            ARGV+=("$@")
            return
            ;;
        esac
    done
}

# cg NAME CMD...: run inside a cgroup made by cg_new. nofile N CMD...: with this descriptor limit.
# bounded SECONDS CMD...: exit status 124 when it takes longer.
cg() { argv_of cg "$@"; "${ARGV[@]}"; }
nofile() { argv_of nofile "$@"; "${ARGV[@]}"; }
bounded() { argv_of bounded "$@"; "${ARGV[@]}"; }

# start NAME -- [ns N] [cg N] [nofile N] CMD...: in the background, in its own process group.
# ${PID[NAME]} is the program's own pid, ${LOG[NAME]} its standard output and error.
start() {
    local name=$1
    shift 2
    argv_of "$@"
    LOG[$name]=$TMP/$name.log
    # The group is the process itself: setsid execs at once, a background child leads no group.
    setsid "${ARGV[@]}" >>"${LOG[$name]}" 2>&1 </dev/null &
    PID[$name]=$!
    STARTED+=($!)
}

running() { [[ ${PID[$1]:-} ]] && kill -0 "${PID[$1]}" 2>/dev/null; }

# dead PID: there is none, or nobody has waited for it yet.
dead() {
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    [[ ${stat##*) } == [ZX]* ]]
}

# stop NAME [SIGNAL]: and wait until it is gone, after five seconds with SIGKILL. Returns its status.
stop() {
    local pid=${PID[$1]:-} i
    [[ $pid ]] || return 0
    kill -s "${2:-TERM}" "$pid" 2>/dev/null
    for ((i = 0; i < 250; i++)); do
        dead "$pid" && break
        sleep 0.02
    done
    kill -KILL -- "-$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    local rc=$?
    unset "PID[$1]"
    return $rc
}

# wait_for SECONDS CMD...: poll until it succeeds, ever more slowly: to look costs more than to wait. The
# bound is for a hang, not a measurement.
wait_for() {
    local wait_for_limit=$((SECONDS + $1 + 1)) wait_for_looks=0
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < wait_for_limit)) || return 1
        if ((wait_for_looks++ < 10)); then sleep 0.02; else sleep 0.1; fi
    done
}

# wait_exit NAME SECONDS: 0 when it has ended by itself.
wait_exit() { wait_for "$2" has_ended "$1"; }
has_ended() { [[ ! ${PID[$1]:-} ]] || dead "${PID[$1]}"; }

# ended NAME SECONDS: waits for its end; ENDED is its exit status, or "hung" (and it is killed).
ended() {
    local pid=${PID[$1]}
    if wait_exit "$1" "$2"; then
        wait "$pid" 2>/dev/null
        ENDED=$?
    else
        ENDED=hung
        kill -KILL -- "-$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    fi
    unset "PID[$1]"
}

# wait_log NAME REGEX [SECONDS]: until the process has written such a line.
wait_log() { wait_for "${3:-10}" grep -Eq -- "$2" "${LOG[$1]}"; }

listening() {
    local flag=-Hlnt addr=$3
    [[ $2 == udp ]] && flag=-Hlnu
    [[ $addr == *:* ]] && addr="[$addr]"
    ns "$1" ss "$flag" | awk '{print $4}' |
        grep -Fxq -e "$addr:$4" -e "0.0.0.0:$4" -e "*:$4" -e "[::]:$4"
}

# wait_port NS tcp|udp ADDR PORT [SECONDS]: until somebody listens there; a failure of set-up if not.
wait_port() {
    wait_for "${5:-15}" listening "$1" "$2" "$3" "$4" || bail "nobody listens on $3 port $4 in $1"
}

dump_logs() {
    local f
    for f in "$TMP"/*.log; do
        [[ -s $f ]] || continue
        echo "# --- ${f##*/}"
        tail -n "${LOG_LINES:-15}" "$f" | cut -c1-400 | sed 's/^/#   /'
    done
}

# descendants PID: it and all below it.
descendants() {
    local p=$1 c
    echo "$p"
    for c in $(cat /proc/"$p"/task/*/children 2>/dev/null); do
        descendants "$c"
    done
}

# fd_count PID..., rss_kb PID..., pss_kb PID..., cpu_ticks PID...: sums over the processes.
fd_count() {
    local n=0 p
    for p; do n=$((n + $(ls "/proc/$p/fd" 2>/dev/null | wc -l))); done
    echo $n
}
rss_kb() { local p; for p; do awk '/^VmRSS/{print $2}' "/proc/$p/status"; done | awk '{s+=$1} END{print s+0}'; }
pss_kb() { local p; for p; do awk '/^Pss:/{print $2}' "/proc/$p/smaps_rollup"; done | awk '{s+=$1} END{print s+0}'; }
cpu_ticks() { local p; for p; do sed 's/.*) //' "/proc/$p/stat"; done | awk '{s+=$12+$13} END{print s+0}'; }

# --- namespaces ----------------------------------------------------------------------------------

ns_add() {
    local n
    for n; do
        ip netns add "$US-$n" || bail "ip netns add $US-$n"
        NAMESPACES+=("$n")
        # Before any link: no duplicate address detection, every address is usable at once.
        ns "$n" sh -c 'cd /proc/sys/net &&
            for k in ipv6/conf/all ipv6/conf/default; do
                echo 0 >$k/accept_dad; echo 0 >$k/dad_transmits; echo 0 >$k/accept_ra
            done
            echo 0 >ipv4/conf/all/rp_filter; echo 0 >ipv4/conf/default/rp_filter
            echo "15000 65000" >ipv4/ip_local_port_range
            echo 1 >ipv4/tcp_tw_reuse
            echo 65535 >core/somaxconn; echo 65535 >ipv4/tcp_max_syn_backlog
            echo reno >ipv4/tcp_congestion_control' 2>/dev/null
        ns "$n" ip link set lo up
    done
}

# ns_link NS-A DEV-A "ADDR/LEN..." NS-B DEV-B "ADDR/LEN...": a veth pair, up, with its addresses.
ns_link() {
    ip link add "$2" netns "$US-$1" type veth peer name "$5" netns "$US-$4" ||
        bail "veth $1/$2 - $4/$5"
    ns_addresses "$1" "$2" "$3"
    ns_addresses "$4" "$5" "$6"
    ns "$1" ip link set "$2" up
    ns "$4" ip link set "$5" up
}

ns_addresses() { # NS DEV "ADDR/LEN..."
    local a
    for a in $3; do
        if [[ $a == *:* ]]; then
            ns "$1" ip addr add "$a" dev "$2" nodad
        else
            ns "$1" ip addr add "$a" dev "$2"
        fi || bail "address $a on $1/$2"
    done
}

ns_forward() {
    ns "$1" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
}

# The three namespaces of the picture above.
topology() {
    local i targets=''
    need_root
    need ip nsenter ss setsid
    ns_add client proxy net
    for ((i = 10; i < 20; i++)); do targets+="203.0.113.$i/24 2001:db8:113::$i/64 "; done
    ns_link client up0 "$CLIENT4/24 $CLIENT6/64" proxy down0 "$PROXY4/24 $PROXY6/64"
    ns_link proxy up0 "$EXIT4/24 $EXIT6/64" net eth0 "$targets"
    ns_forward proxy
    ns client ip route add default via "$PROXY4"
    ns client ip -6 route add default via "$PROXY6"
    ns net ip route add default via "$EXIT4"
    ns net ip -6 route add default via "$EXIT6"
    wait_for 5 carrier || bail "the links do not come up"
}

# impatient NS...: who is not answered there is told ETIMEDOUT after two SYNs and three seconds, and not
# after two minutes.
impatient() {
    local n
    for n; do
        ns "$n" sh -c 'cd /proc/sys/net/ipv4 && echo 1 >tcp_syn_retries &&
            { [ ! -e tcp_syn_linear_timeouts ] || echo 0 >tcp_syn_linear_timeouts; }' || bail "tcp_syn_retries in $n"
    done
}

carrier() {
    ns client ping -q -c 1 -W 1 "$NET4" && ns client ping -q -c 1 -W 1 "$NET6" && return 0
    command -v ping >/dev/null && return 1
    # No ping here: the links are up when no route is in the state linkdown.
    ! ns client ip route | grep -q linkdown && ! ns net ip -6 route | grep -q linkdown
}

# --- cgroups -------------------------------------------------------------------------------------

CGROUP2=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
export CGROUP2

cg_path() { echo "$CGROUP2/$US-$1"; }

# cg_new NAME: a cgroup of this scenario; `cg NAME CMD...` runs in it. "/$US-NAME" is its path in a
# configuration.
cg_new() {
    [[ $CGROUP2 ]] || skip_all "no cgroup2 is mounted"
    mkdir "$(cg_path "$1")" || bail "mkdir $(cg_path "$1")"
    CGROUPS+=("$1")
}

cg_remove() {
    local dir i
    dir=$(cg_path "$1")
    [[ -d $dir ]] || return 0
    for ((i = 0; i < 40; i++)); do
        [[ -e $dir/cgroup.kill ]] && echo 1 >"$dir/cgroup.kill"
        find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null
        [[ -d $dir ]] || return 0
        sleep 0.05
    done
    echo "# cgroup $dir could not be removed" >&2
}

# --- clean-up ------------------------------------------------------------------------------------

TMP=$(mktemp -d "${TMPDIR:-/tmp}/$US-XXXXXX")
chmod 755 "$TMP"
export TMP

cleanup() {
    local rc=$? p n i left
    # A background child that is signalled before it has run its program still has our traps.
    ((BASHPID == $$)) || return
    trap '' INT TERM HUP
    trap - EXIT
    set +u
    for p in "${STARTED[@]}"; do kill -TERM -- "-$p" 2>/dev/null; done
    for ((i = 0; i < 40; i++)); do
        left=0
        for p in "${STARTED[@]}"; do
            kill -0 -- "-$p" 2>/dev/null && [[ $(ps -o stat= -g "$p" | grep -vc '^Z') != 0 ]] && left=1
        done
        ((left)) || break
        sleep 0.05
    done
    for p in "${STARTED[@]}"; do kill -KILL -- "-$p" 2>/dev/null; done
    # What left its group (a daemon's own session) is still in our namespaces, and nobody else is.
    for n in "${NAMESPACES[@]}"; do
        for p in $(ip netns pids "$US-$n" 2>/dev/null); do kill -KILL "$p" 2>/dev/null; done
    done
    wait 2>/dev/null
    for n in "${CGROUPS[@]}"; do cg_remove "$n"; done
    for n in "${NAMESPACES[@]}"; do ip netns del "$US-$n" 2>/dev/null; done
    [[ ${UNDERSOCK_KEEP:-} ]] && echo "# kept: $TMP" || rm -rf "$TMP"
    exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- peers: the real SOCKS servers ----------------------------------------------------------------
#
# peer_X NS ADDR PORT [...]: start it there and wait until it listens. The process is called X, or
# PEER_NAME. A file is skipped when the package is not installed.

# It closes both sides at the first FIN: no half-close through it (pattern -N).
peer_microsocks() { # NS ADDR PORT [USER PASSWORD]
    local n=${PEER_NAME:-microsocks}
    need microsocks
    if [[ ${4:-} ]]; then
        start "$n" -- ns "$1" microsocks -i "$2" -p "$3" -u "$4" -P "$5"
    else
        start "$n" -- ns "$1" microsocks -i "$2" -p "$3"
    fi
    wait_port "$1" tcp "$2" "$3"
}

# Copies of the password files with one more user, for a private mount namespace to put over the
# real ones: danted and sshd know only system users, and the system's own stay untouched.
private_users() { # DIR USER PASSWORD
    local hash
    hash=$(openssl passwd -6 "$3" 2>/dev/null) || hash=$(perl -e 'print crypt($ARGV[0], q($6$undersock))' "$3")
    grep -v "^$2:" /etc/passwd >"$1/passwd"
    echo "$2:x:64999:64999::/nonexistent:/usr/sbin/nologin" >>"$1/passwd"
    grep -v "^$2:" /etc/shadow >"$1/shadow"
    echo "$2:$hash:19000:0:99999:7:::" >>"$1/shadow"
    chmod 644 "$1/passwd"
    chmod 600 "$1/shadow"
}

peer_dante() { # NS ADDR PORT [USER PASSWORD]
    local n=${PEER_NAME:-dante} dir method=none
    need danted
    dir=$TMP/$n.d
    mkdir -p "$dir"
    [[ ${4:-} ]] && method=username
    local a4=0.0.0.0/0 a6=::/0
    cat >"$dir/danted.conf" <<-CONF
	errorlog: stderr
	logoutput: stderr
	internal: $2 port = $3
	external.rotation: route
	external: $EXIT4
	external: $EXIT6
	clientmethod: none
	socksmethod: $method
	user.privileged: root
	user.unprivileged: nobody
	client pass { from: $a4 to: $a4 }
	client pass { from: $a6 to: $a6 }
	socks pass { from: $a4 to: $a4 }
	socks pass { from: $a6 to: $a6 }
	socks pass { from: $a4 to: $a6 }
	socks pass { from: $a6 to: $a4 }
	CONF
    if [[ $method == username ]]; then
        private_users "$dir" "$4" "$5"
        start "$n" -- ns "$1" unshare -m --propagation private sh -c "
            mount --bind '$dir/passwd' /etc/passwd && mount --bind '$dir/shadow' /etc/shadow &&
            exec danted -f '$dir/danted.conf'"
    else
        start "$n" -- ns "$1" danted -f "$dir/danted.conf"
    fi
    wait_port "$1" tcp "$2" "$3"
}

# An sshd that lets root in with the key DIR/user and forwards. Keys, configuration and the privilege
# separation directory are its own; PAM and the system's configuration take no part.
sshd_at() { # NAME DIR NS PORT ADDR...
    local n=$1 dir=$2 where=$3 port=$4 sshd a
    shift 4
    sshd=$(command -v sshd) || skip_all "sshd is not installed"
    need ssh ssh-keygen
    mkdir -p "$dir"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/host" </dev/null
    ssh-keygen -q -t ed25519 -N '' -f "$dir/user" </dev/null
    cp "$dir/user.pub" "$dir/authorized_keys"
    cat >"$dir/sshd_config" <<-CONF
	Port $port
	$(printf 'ListenAddress %s\n' "$@")
	HostKey $dir/host
	AuthorizedKeysFile $dir/authorized_keys
	PidFile none
	UsePAM no
	StrictModes no
	PermitRootLogin prohibit-password
	PasswordAuthentication no
	AllowTcpForwarding yes
	MaxStartups 1000
	UseDNS no
	CONF
    # A locked root account refuses keys too: give the private mount namespace one that is not.
    sed 's/^root:[^:]*:/root:*:/' /etc/shadow >"$dir/shadow"
    chmod 600 "$dir/shadow"
    start "$n" -- ns "$where" unshare -m --propagation private sh -c "
        mount --bind '$dir/shadow' /etc/shadow &&
        mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd &&
        exec '$sshd' -D -e -f '$dir/sshd_config'"
    for a; do wait_port "$where" tcp "$a" "$port"; done
}

# ssh_to DIR OPTION...: sets SSH to an ssh command that uses that key and nothing of the caller's.
ssh_to() {
    SSH=(ssh -F none -i "$1/user" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no
        -o "UserKnownHostsFile=$1/known" -o BatchMode=yes -o IdentityAgent=none "${@:2}")
}

# sshd on the loopback of NS and `ssh -D ADDR:PORT` to it.
peer_ssh() { # NS ADDR PORT [SSHD-PORT]
    local n=${PEER_NAME:-ssh} bind=$2 SSH
    sshd_at "$n-server" "$TMP/$n.d" "$1" "${4:-2222}" 127.0.0.1
    [[ $bind == *:* ]] && bind="[$bind]"
    ssh_to "$TMP/$n.d" -N -D "$bind:$3" -p "${4:-2222}" -o ExitOnForwardFailure=yes
    start "$n" -- ns "$1" "${SSH[@]}" root@127.0.0.1
    wait_port "$1" tcp "$2" "$3"
}

# Tor without a network: the SOCKS greeting is answered, a CONNECT is left waiting. (With
# DisableNetwork it would not even open its SocksPort; the authority here is nobody.)
peer_tor() { # NS ADDR PORT
    local n=${PEER_NAME:-tor} dir bind=$2
    need tor
    dir=$TMP/$n.d
    mkdir -p "$dir"
    chmod 700 "$dir"
    [[ $bind == *:* ]] && bind="[$bind]"
    cat >"$dir/torrc" <<-CONF
	SocksPort $bind:$3
	SocksPolicy accept *
	DataDirectory $dir/data
	DisableNetwork 0
	ClientOnly 1
	UseMicrodescriptors 1
	DirAuthority nobody orport=1 no-v2 v3ident=0000000000000000000000000000000000000001 127.0.0.1:1 0000000000000000000000000000000000000001
	Log notice stdout
	RunAsDaemon 0
	CONF
    start "$n" -- ns "$1" tor -f "$dir/torrc" --defaults-torrc /nonexistent --ignore-missing-torrc
    wait_port "$1" tcp "$2" "$3" 30
}

peer_serve() { # NS ADDR PORT [USERFILE]
    local n=${PEER_NAME:-serve} bind=$2
    need "$UNDERSOCK"
    [[ $bind == *:* ]] && bind="[$bind]"
    start "$n" -- ns "$1" "$UNDERSOCK" serve -l "$bind:$3" ${4:+-A "$4"}
    wait_port "$1" tcp "$2" "$3"
}

# The hostile upstream: see tools/badsocks.c for the modes.
peer_bad() { # NS ADDR PORT MODE [ARG...]
    local n=${PEER_NAME:-badsocks} where=$1 addr=$2 port=$3
    shift 3
    start "$n" -- ns "$where" "$TOOLS/badsocks" "$1" "$addr" "$port" "${@:2}"
    wait_port "$where" tcp "$addr" "$port"
}

# redsocks with its own nft redirect of NET4_PREFIX in NS: the peer to compare with, and a stand-in
# while a scenario is being written. IPv4 only, as it is.
peer_redsocks() { # NS SOCKS-ADDR SOCKS-PORT
    local n=${PEER_NAME:-redsocks} conf
    need redsocks nft
    conf=$TMP/$n.conf
    sed -e "s/@SOCKS_IP@/$2/; s/@SOCKS_PORT@/$3/" "$LIB_DIR/../bench/redsocks.conf.in" >"$conf"
    start "$n" -- ns "$1" redsocks -c "$conf"
    wait_port "$1" tcp 127.0.0.1 12345
    ns "$1" nft -f - <<-NFT || bail "nft redirect for redsocks"
	table ip us_redsocks {
	    chain output {
	        type nat hook output priority -100;
	        ip daddr $NET4_PREFIX meta l4proto tcp redirect to :12345
	    }
	}
	NFT
}

# static_tool NAME: the same tool as a static binary (no libc to preload into); prints its path.
static_tool() {
    local out=${STATIC_TOOLS:-}/$1
    # tests/kernels.sh brings them along: the compiler would take minutes in its guest.
    if [[ -x $out ]]; then
        echo "$out"
        return
    fi
    out=$TMP/$1.static
    ${CC:-cc} -std=c17 -D_GNU_SOURCE -O2 -static -o "$out" "$LIB_DIR/tools/$1.c" -lpthread 2>"$TMP/static.log" || return 1
    echo "$out"
}

# --- undersock -----------------------------------------------------------------------------------

# us_daemon NS [NAME]: the service on the configuration that comes on standard input, with a control
# socket of its own ($TMP/NAME.sock, the name defaults to "undersock"). Returns when it answers.
# $FAST_PATH is put in where the configuration has no fast-path: FAST_PATH=stitch tests/run.sh FILE... tries
# what a file proves for a cgroup with that engine.
us_daemon() {
    local n=${2:-undersock}
    need "$UNDERSOCK"
    cat >"$TMP/$n.conf"
    grep -q '^control' "$TMP/$n.conf" || echo "control = \"$TMP/$n.sock\"" >>"$TMP/$n.conf"
    us_fast_path "$n"
    start "$n" -- ns "$1" "$UNDERSOCK" daemon -c "$TMP/$n.conf"
    # The socket is there before the captures are; an answer comes after them.
    wait_for 20 answers_or_ended "$n"
    running "$n" && answers "$n" >/dev/null || bail "undersock daemon is not up"
}

answers() { bounded 10 "$UNDERSOCK" status -s "$TMP/$1.sock"; }
answers_or_ended() { has_ended "$1" || answers "$1"; }

# us_workers NAME: the pids of its workers, each with a space behind it.
us_workers() {
    local pid
    for pid in $(cat /proc/"${PID[$1]}"/task/*/children 2>/dev/null); do
        # What has just been forked has no name of its own yet; a janitor has another.
        [[ $(cat "/proc/$pid/comm" 2>/dev/null) == undersock-worke ]] && printf '%s ' "$pid"
    done
    return 0
}

# us_status NAME EXPRESSION, us_flows NAME EXPRESSION: what the daemon answers, as the Python
# expression sees it in `s`. us_sum NAME COUNTER: a counter of all workers, and of what is stitched.
us_ask() {
    bounded 30 "$UNDERSOCK" "$1" --json -s "$TMP/$2.sock" |
        python3 -c 'import json, sys; s = json.load(sys.stdin); print(eval(sys.argv[1]))' "$3"
}
us_status() { us_ask status "$1" "$2"; }
us_flows() { us_ask flows "$1" "$2"; }
us_sum() {
    us_status "$1" "sum(w['$2'] for w in s['workers']) + s.get('stitch', {}).get({'accepted': 'begun', 'granted': 'granted', 'failed': 'failed'}.get('$2'), 0)"
}
# us_serving NAME COUNTER: of those that do not drain, whose counters go when they end.
us_serving() { us_status "$1" "sum(w['$2'] for w in s['workers'] if not w['draining'])"; }
us_fast_path() { # NAME
    [[ -z ${FAST_PATH:-} || ! -e $TMP/$1.conf ]] || grep -q '^fast-path' "$TMP/$1.conf" || echo "fast-path = \"$FAST_PATH\"" >>"$TMP/$1.conf"
}
us_reload() {
    us_fast_path "$1"
    bounded 30 "$UNDERSOCK" reload -s "$TMP/$1.sock"
}

# installed_rules NAMESPACE: our table as nft lists it, in the words of `undersock rules`: without the
# program behind `flags owner`, and what is in a set for a moment only (nft/hasty.c).
installed_rules() {
    ns "$1" nft list table inet undersock |
        sed -E -z 's/\{ # progname [^\n]*/{/; s/\n\t\telements = \{[^}]* expires [^}]*\}//g'
}

# without_seats: of nft's rules, what is there for each seat (keeper/seats.h) once and without its number:
# after a reload there are other seats than at a start, and more. What is left of a seat is what it must
# have in common with all others, the distance between its number and its port. Chains and sets are
# sorted, as a reload appends those that are new.
without_seats() {
    python3 -c '
import re, sys

def elements(m):
    ports = lambda e: re.sub(r"(\. )(\d+)", lambda p: p[1] + ("SEAT" if 61144 <= int(p[2]) < 61336 else p[2]), e)
    return "elements = { %s }" % ", ".join(sorted({ports(e.strip()) for e in m[1].split(",")}))

def plain(block):
    lines = []
    for line in re.sub(r"elements = \{([^}]*)\}", elements, block).splitlines():
        m = re.search(r"meta (?:mark 0x5553|priority 5553:)8([01])([0-9a-f]{2}) ", line)
        if m:
            line = re.sub(r"(?:0x5553|5553:)8" + m[1] + m[2], "SEAT" + m[1], line)
            line = re.sub(r":(\d{5})\b", lambda p: ":%d" % (int(p[1]) - int(m[2], 16)), line)
        line = re.sub(r"tcp sport (\d+) drop", lambda p: "tcp sport SEAT drop" if 61144 <= int(p[1]) < 61336 else p[0], line)
        m = re.search(r"log prefix .* group (\d+)", line)
        if m:
            of = re.search(r"sport mod (\d+) ", line)  # one worker: none
            line = line.replace("group " + m[1], "group %d" % ((int(m[1]) - 21760) % int(of[1] if of else 1)))
        if "SEAT" not in line or line not in lines:
            lines.append(line)
    return "\n".join(lines)

first, *rest = sys.stdin.read().rstrip("}\n").split("\n\n")
print(plain(first), *sorted(plain(b).rstrip("}\n\t") for b in rest), sep="\n\n")
'
}

# us_is NAME COUNTER OP NUMBER: for wait_for.
us_is() { test "$(us_sum "$1" "$2")" "$3" "$4"; }

# --- who saw what ----------------------------------------------------------------------------------

# net_who [PORT]: tools/who answers on every address of net; `seen_by_net` is who it has seen.
net_who() {
    start who -- ns net "$TOOLS/who" serve "${1:-9000}"
    wait_port net tcp :: "${1:-9000}"
}

seen_by_net() { sed -n 's/^who peer=//p' "${LOG[who]}" | sort -u | paste -sd ' '; }

# leaks PROCESS...: connections in the logs of these targets (who, pattern, end) that came from the
# client itself and not from the proxy.
leaks() {
    local n
    for n; do grep -hE "peer=\[?($CLIENT4|::ffff:$CLIENT4|$CLIENT6)(\]|:|$)" "${LOG[$n]}"; done | wc -l
}

# cgroup_objects DIR: what BPF holds for a cgroup (tools/bpfls). `bpf_left LIST` prints what of such
# a list still exists; bpf_gone is for wait_for.
cgroup_objects() { "$TOOLS/bpfls" of "$1" | sort -u; }
bpf_left() { "$TOOLS/bpfls" left <<<"$1" | paste -sd ' '; }
bpf_gone() { [[ -z $(bpf_left "$1") ]]; }

# ns_pids NS: who lives in that namespace; tables_of NS: its nft tables.
ns_pids() { ip netns pids "$US-$1" | sort -n | paste -sd ' '; }
tables_of() { ns "$1" nft list tables | paste -sd ' '; }
