#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# `undersock run`: the command's traffic goes through the proxy, the command behaves as it does
# without us, and nothing is left behind: not after its end, and not after SIGKILL.
. "$(dirname "$0")/lib.sh"

need python3 nft setpriv
topology
net_who
peer_serve proxy "$PROXY4" 1080
PEER_NAME=chained peer_bad proxy "$EXIT4" 1081 good
URL=socks5://$PROXY4

# Where an ordinary user can read it.
install -m 755 "$UNDERSOCK" "$TMP/undersock" || bail "install"
ordinary() { ns client setpriv --reuid 65534 --clear-groups --inh-caps=-all "$TMP/undersock" "$@"; }

run() { ns client "$UNDERSOCK" run -u "$URL" "$@"; }

# --- where the traffic goes
is "$(ns client "$TOOLS/who" "$NET4" 9000)" "$CLIENT4" "without us the target sees the client"
is "$(run -- "$TOOLS/who" -p "$NET4" 9000)" "$EXIT4 peer=$NET4:9000" "IPv4: through the proxy, peer as asked for"
is "$(run -- "$TOOLS/who" -p "$NET6" 9000)" "$EXIT6 peer=[$NET6]:9000" "IPv6: through the proxy, peer as asked for"
is "$(run -- sh -c "'$TOOLS/who' $NET4 9000 | cat; ('$TOOLS/who' $NET6 9000)" | paste -sd ' ')" \
    "$EXIT4 $EXIT6" "children of the command too"
is "$(run -o tcp-ports=80 -- "$TOOLS/who" "$NET4" 9000)" "$CLIENT4" "-o tcp-ports: another port goes direct"
like "$(run -- "$TOOLS/who" "$NET4" 1)" '^(connect=ECONNREFUSED|lost=RST)$' "a target that refuses: refused or reset, never a clean end"

# --- the command behaves as without us
check_status 0 "exit status 0" -- run -- true
check_status 42 "exit status 42" -- run -- sh -c 'exit 42'
check_status 143 "ended by SIGTERM: 128 + 15" -- run -- sh -c 'kill -TERM $$'
check_status 137 "ended by SIGKILL: 128 + 9" -- run -- sh -c 'kill -KILL $$'
check_status 127 "no such command: 127" -- run -- /nonexistent/command
touch "$TMP/plain" && chmod 644 "$TMP/plain"
check_status 126 "not executable: 126" -- run -- "$TMP/plain"
like "$(run -- /nonexistent/command 2>&1)" 'cannot run "/nonexistent/command": No such file' "and one line says why"
is "$(seq 20000 | run -- cat | cksum)" "$(seq 20000 | cksum)" "standard input and output pass through"
is "$(run -- sh -c 'echo out; echo err >&2' 2>/dev/null)" out "standard error is not standard output"
is "$(run -- sh -c 'echo out; echo err >&2' 2>&1 >/dev/null)" err "and nothing of ours is in it"
is "$(run -o log-level=debug -- true 2>&1 | grep -c 'libbpf: ')" 0 "log-level = debug is about us, not about libbpf"
is "$(run -- sh -c 'ls /proc/$$/fd' | paste -sd ' ')" "$(sh -c 'ls /proc/$$/fd' | paste -sd ' ')" "no descriptor of ours is in the command"
ulimit -Sn 1000
is "$(run -- sh -c 'ulimit -Sn; ulimit -Hn; umask; pwd')" "$(sh -c 'ulimit -Sn; ulimit -Hn; umask; pwd')" "limits, umask and directory are the caller's"
ulimit -Sn hard
is "$(run -- python3 -c 'import signal; print(signal.pthread_sigmask(0, []), signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGHUP))' 2>&1)" \
    "$(python3 -c 'import signal; print(signal.pthread_sigmask(0, []), signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGHUP))')" "signals are neither blocked nor ignored"
is "$(run -- python3 -c 'import os; print(os.getpgid(0) == os.getpgid(os.getppid()))')" True "it is in the caller's process group (job control)"
check_status 2 "no command: usage, exit status 2" -- run
check_status 2 "a bad URL: exit status 2" -- ns client "$UNDERSOCK" run -u gopher://x -- true
check_status 2 "an unknown key: exit status 2" -- run -o nonsense=1 -- true
check_status 3 "as an ordinary user: exit status 3" -- ordinary run -u "$URL" -- true
like "$(ordinary run -u "$URL" -- true 2>&1)" \
    'needs root: the capability CAP_[A-Z_]+ is missing' "and the line names what is missing"

# no_cgroups CMD...: where no cgroup2 is mounted.
no_cgroups() {
    # shellcheck disable=SC2016
    ns client unshare -m --propagation private sh -c 'awk "\$3 == \"cgroup2\" {print \$2}" /proc/mounts | xargs umount -l && exec "$@"' - "$@"
}
check_status 3 "no cgroup2 is mounted: exit status 3" -- no_cgroups "$UNDERSOCK" run -u "$URL" -- true
like "$(no_cgroups "$UNDERSOCK" run -u "$URL" -- true 2>&1)" 'no cgroup2 hierarchy is mounted; .*mount -t cgroup2' "and what mends it"
cat >"$TMP/cgroup.conf" <<-CONF
	control = "$TMP/cgroup.sock"
	upstream "u" { url = "$URL" }
	capture "c" {
	    hook     = "cgroup"
	    cgroup   = "/"
	    upstream = "u"
	}
	CONF
check_status 3 "the daemon, likewise" -- no_cgroups timeout 10 "$UNDERSOCK" daemon -c "$TMP/cgroup.conf"
check_status 3 "serve, at a port that is root's, as an ordinary user: exit status 3" -- ordinary serve -l 127.0.0.1:80

# --- signals: what run gets, the command gets
cat >"$TMP/traps.sh" <<-'SH'
	for s in TERM INT HUP USR1 USR2 QUIT; do trap "echo got $s >>'$1'; n=\$((n + 1))" $s; done
	n=0; echo ready >>"$1"
	while [ $n -lt 6 ]; do sleep 0.02; done
	exit 7
	SH
# A shell starts its background processes with SIGINT and SIGQUIT ignored.
start signals -- ns client env --default-signal=INT,QUIT "$UNDERSOCK" run -u "$URL" -- sh "$TMP/traps.sh" "$TMP/signals"
wait_for 10 grep -q ready "$TMP/signals" || bail "the command does not start"
for s in TERM INT HUP USR1 USR2 QUIT; do
    kill -s $s "${PID[signals]}"
    wait_for 5 grep -q "got $s" "$TMP/signals"
    is $? 0 "SIG$s reaches the command"
done
ended signals 10
is "$ENDED" 7 "and the command decides what becomes of it"
is "$(grep -c got "$TMP/signals")" 6 "each once"

# --- nothing stays
before_tables=$(tables_of client)
before_rules=$(ns client ip rule; ns client ip -6 rule)
before_pids=$(ns_pids client)

# up NAME CMD...: a run in the background; OBJECTS, DIR and FAMILY are what it has made.
up() {
    local name=$1
    shift
    : >"$TMP/pids"
    start "$name" -- ns client "$UNDERSOCK" run -u "$URL" -- "$@"
    DIR=$CGROUP2/undersock-run-${PID[$name]}
    wait_for 10 grep -q . "$TMP/pids" || bail "the command of $name does not start"
    OBJECTS=$(cgroup_objects "$DIR")
}
settled() { [[ ! -d $DIR ]] && bpf_gone "$OBJECTS" && [[ $(ns_pids client) == "$before_pids" ]]; }
nothing_left() { # WHEN
    wait_for 15 settled
    is "$(ls -d "$DIR" 2>/dev/null)" "" "$1: no cgroup is left"
    is "$(bpf_left "$OBJECTS")" "" "$1: no BPF link, program or map is left"
    is "$(ns_pids client)" "$before_pids" "$1: no process is left"
    is "$(tables_of client)" "$before_tables" "$1: no nft table is left"
    is "$(ns client ip rule; ns client ip -6 rule)" "$before_rules" "$1: no policy rule is left"
}

up ending sh -c "echo \$\$ >'$TMP/pids'; while [ ! -e '$TMP/end' ]; do sleep 0.02; done"
num "$(grep -c . <<<"$OBJECTS")" -gt 4 "while it runs there are links, programs and maps"
check "and a cgroup of its own" -- test -d "$DIR"
is "$(tables_of client)" "$before_tables${before_tables:+ }table inet undersock-run-1" "and an nft table of its own, for UDP and DNS"
touch "$TMP/end"
ended ending 10
nothing_left "after the end"

up leaver sh -c "sleep 1000 & echo \$! >'$TMP/pids'; exit 5"
ended leaver 10
is "$ENDED" 5 "a command that leaves a process behind: its own exit status"
nothing_left "a process left behind is ended"
grep -q 'left processes behind' "${LOG[leaver]}"
is $? 0 "and a line says so"

up stubborn sh -c "setsid sh -c 'trap \"\" TERM HUP INT; echo \$\$ >\"$TMP/pids\"; exec sleep 1000' & wait"
kill -TERM "${PID[stubborn]}"
ended stubborn 15
nothing_left "a process that ignores SIGTERM, in a session of its own"

# SIGKILL at a bad time: two clients connect without a pause.
for family in 4 6; do
    target=NET$family
    up killed$family sh -c "'$TOOLS/who' -l ${!target} 9000 & '$TOOLS/who' -l ${!target} 9000 & echo \$! >'$TMP/pids'; wait"
    exit_seen=EXIT$family
    wait_for 10 grep -q "^${!exit_seen}" "${LOG[killed$family]}" || bail "no traffic"
    : >"${LOG[who]}"
    kill -KILL "${PID[killed$family]}"
    nothing_left "SIGKILL of run under traffic (IPv$family)"
    is "$(leaks who)" 0 "SIGKILL of run: not one connection went direct (IPv$family)"
done

# The helper process that cleans up after SIGKILL is no secret either: it alone is killed.
up janitor sh -c "echo \$\$ >'$TMP/pids'; while [ ! -e '$TMP/end2' ]; do sleep 0.02; done; exit 9"
janitor=$(pgrep -f -P "${PID[janitor]}" undersock-clean || pgrep -P "${PID[janitor]}" -x undersock-clean)
[[ $janitor ]] && kill -KILL $janitor
is "${janitor:+found}" found "run has a helper that outlives it"
touch "$TMP/end2"
ended janitor 10
is "$ENDED" 9 "without its helper run ends as usual"
nothing_left "without its helper"

# --- run in run: a chain of the two upstreams
is "$(run -- "$UNDERSOCK" run -u "socks5://$EXIT4:1081" -- "$TOOLS/who" "$NET4" 9000)" "$EXIT4" "run in run: the target sees the proxy"
check "the inner upstream was asked for the target" -- grep -q "address=$NET4 port=9000" "${LOG[chained]}"
URL=socks5://$EXIT4:1081
start outer -- ns client "$UNDERSOCK" run -u "$URL" -- \
    "$UNDERSOCK" run -u "socks5://$EXIT4:1080" -- "$TOOLS/who" "$NET4" 9000
ended outer 10
check "the outer upstream was asked for the inner one" -- wait_for 5 grep -q "address=$EXIT4 port=1080" "${LOG[chained]}"

# --- the control socket of a run, on request only
URL=socks5://$PROXY4
: >"$TMP/pids"
start controlled -- ns client "$UNDERSOCK" run -u "$URL" -o "control=$TMP/run.sock" -- sh -c "echo >'$TMP/pids'; exec sleep 1000"
wait_for 10 grep -q "" "$TMP/pids"
check "-o control: status answers" -- "$UNDERSOCK" status -s "$TMP/run.sock"
for command in status flows reload stop; do
    check_status 3 "$command, by somebody whom the socket is not open to: exit status 3" -- ordinary "$command" -s "$TMP/run.sock"
    check_status 1 "$command, where no daemon is: exit status 1" -- ordinary "$command" -s "$TMP/no.sock"
done
check "stop ends it" -- "$UNDERSOCK" stop -s "$TMP/run.sock"
ended controlled 10
is "$ENDED" 143 "and its command, which has not ended by itself: 128 + 15"
check "and the socket goes with it" -- test ! -e "$TMP/run.sock"
done_testing
