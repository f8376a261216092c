# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the scenarios of a daemon that stitches share: source it after lib.sh and `topology`. A cgroup "app",
# a daemon in client with one upstream and one capture, and what it says of them.
#
# UPSTREAM_KEYS and CAPTURE_KEYS are in each configuration; MORE is text behind all.

cg_new app
UPSTREAM_KEYS=() CAPTURE_KEYS=() MORE=

app() { cg app ns client "$@"; }
seen() { app timeout 30 "$TOOLS/who" "$@" 2>&1; }
st() { us_status undersock "s['stitch']['$1']"; }
st_is() { test "$(st "$1")" "$2" "$3"; }
# relayed: connections that a worker has had.
relayed() { us_status undersock "sum(w['accepted'] for w in s['workers'])"; }
stitched() { us_status undersock "s['captures'][0]['stitched']"; }
stitched_is() { [[ $(stitched) == "$1" ]]; }

# config URL [KEY-OF-UPSTREAM...] [-- KEY-OF-CAPTURE...]; the upstream is called NAME, or "one".
config() {
    local url=$1 keys=()
    shift
    while (($#)) && [[ $1 != -- ]]; do
        keys+=("$1")
        shift
    done
    echo "control = \"$TMP/undersock.sock\""
    echo 'fast-path = "stitch"'
    echo "upstream \"${NAME:-one}\" { url = \"$url\""
    printf '    %s\n' "${UPSTREAM_KEYS[@]}" "${keys[@]}"
    echo '}'
    echo "capture \"app\" { hook = \"cgroup\" cgroup = \"/$US-app\" upstream = \"${NAME:-one}\""
    printf '    %s\n' "${CAPTURE_KEYS[@]}" "${@:2}"
    echo '}'
    echo "$MORE"
}
# up URL...: a daemon with such a configuration
up() {
    us_daemon client < <(config "$@")
    stitched_is True || bail "not stitched"
}
# use URL...: by a reload. What is known of an upstream outlasts it: each gets a name of its own, up$N.
N=0
use() {
    N=$((N + 1))
    NAME=up$N config "$@" >"$TMP/undersock.conf"
    us_reload undersock >"$TMP/reload.log" 2>&1 || bail "reload: $*: $(<"$TMP/reload.log")"
}
# kill_it: SIGKILL, and everybody of it is gone.
kill_it() {
    local all
    all=$(descendants "${PID[undersock]}")
    stop undersock KILL 2>/dev/null
    # shellcheck disable=SC2086
    wait_for 10 all_gone $all
}
all_gone() { [[ -z $(ps -o stat= -p "$(tr ' ' , <<<"$*")" | grep -v '^Z') ]]; }
ports() { ns client sh -c "echo '$1' >/proc/sys/net/ipv4/ip_local_port_range"; }
secret() { # NAME PASSWORD: a password file
    printf '%s\n' "$2" >"$TMP/$1.password"
    chmod 600 "$TMP/$1.password"
}
