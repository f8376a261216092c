#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# `undersock demo` does what it says, notices when something in it is not so, and leaves nothing,
# however it ends.
#
# Each run is in a box: a cgroup of its own (`undersock run` makes its cgroup below that of its caller,
# and whatever was started is in it), and a pid namespace, in which ps and lsns see only what belongs to
# the demo. A wrapper named curl lets the real one stop or fail at a chosen place.
. "$(dirname "$0")/lib.sh"

need_root
need "$UNDERSOCK" curl lsns ps setpriv unshare
# Readable for everybody, wherever it was built.
install -m 755 "$UNDERSOCK" "$TMP/undersock" || bail "install $UNDERSOCK"
CURL=$(command -v curl)
export CURL

mkdir "$TMP/bin" "$TMP/empty"
cat >"$TMP/bin/curl" <<'SH'
#!/bin/sh
# PLACE: a pattern of the arguments; there DEED is done instead of the transfer.
case "$*" in
    $PLACE) ;;
    *) exec "$CURL" "$@" ;;
esac
case "$DEED" in
    stall) : >"$BOX/stalled"; exec sleep 600 ;;
    lie) echo "Hello from elsewhere."; exit 0 ;;
    fail) exit 56 ;;
    cut) # the file, less its last byte
        "$CURL" "$@" || exit
        while [ "$1" != -o ]; do shift; done
        truncate -s -1 "$2" ;;
esac
SH
chmod 755 "$TMP/bin/curl"

# In the box, as pid 1: the demo, a signal once it stalls, and then who and what is there.
cat >"$TMP/box.sh" <<'SH'
# Everybody but this script and what this line itself runs.
others() { ps -e -o pid=,stat=,comm= | awk '$1 != 1 && $2 !~ /^Z/ && $3 !~ /^(bash|ps|[a-z]*awk)$/'; }
namespaces() { lsns -n -t net -o NS | sort; }
namespaces >"$BOX/namespaces.before"
"$TMP/undersock" demo >"$BOX/out" 2>"$BOX/err" &
demo=$!
tries=600
if [ "$SIGNAL" ]; then
    while [ ! -e "$BOX/stalled" ] && kill -0 $demo 2>/dev/null && [ $((tries -= 1)) -gt 0 ]; do
        sleep 0.05
    done
    ps -e -o comm= >"$BOX/during"
    namespaces >"$BOX/namespaces.during"
    kill -s "$SIGNAL" $demo
fi
wait $demo
echo $? >"$BOX/status"
# After a SIGKILL the others notice by themselves, a little later.
while [ "$SIGNAL" = KILL ] && [ "$(others)" ] && [ $((tries -= 1)) -gt 0 ]; do sleep 0.05; done
others >"$BOX/others"
namespaces >"$BOX/namespaces.after"
SH

# box NAME [VARIABLE=VALUE...]: TMPDIR is empty before, and whatever is in it afterwards was left there.
box() {
    local name=$1
    shift
    export BOX=$TMP/$name
    mkdir "$BOX" "$BOX/tmp"
    cg_new "$name"
    cg "$name" env TMPDIR="$BOX/tmp" PATH="$TMP/bin:$PATH" PLACE= DEED= SIGNAL= "$@" \
        unshare --fork --pid --mount-proc bash "$TMP/box.sh" 2>"$TMP/$name.log"
    cat "$BOX/out" "$BOX/err" >>"$TMP/$name.log"
}

status() { cat "$BOX/status"; }

nothing_left() { # DESCRIPTION
    is "$(cat "$BOX/others")" "" "$1: no process is left"
    is "$(cat "$BOX/namespaces.after")" "$(cat "$BOX/namespaces.before")" "$1: no namespace is left"
    is "$(find "$(cg_path "${BOX##*/}")" -mindepth 1 -type d)" "" "$1: no cgroup is left"
    is "$(ls -A "$BOX/tmp")" "" "$1: no file is left"
}

# --- it does what it says ------------------------------------------------------------------------

box plain
is "$(status)" 0 "the demo succeeds"
is "$(cat "$BOX/err")" "" "and says nothing on standard error"
out=$(cat "$BOX/out")
like "$out" $'\n\\$ curl -qsS http://203.0.113.10/\ncurl: \\(7\\)[^\n]*\n[^\n]*Network is unreachable' \
    "first a plain connection fails"
like "$out" $'\\$ undersock run [^\n]*http://203.0.113.10/\nHello [^\n]* You come from 203.0.113.1\\.\n' \
    "then it is redirected, and comes from the proxy"
if [[ -e /proc/net/if_inet6 ]]; then
    like "$out" $'\\$ undersock run [^\n]*2001:db8::10[^\n]*\nHello [^\n]* You come from 2001:db8::1\\.\n' \
        "so it is with IPv6"
else
    skip "so it is with IPv6" "there is no IPv6 here"
fi
like "$out" $'\\$ undersock flows [^\n]*\nID +PROTO [^\n]*\n[0-9a-f]+ +tcp +[^\n]* 203\\.0\\.113\\.10:80 [^\n]* curl *\n' \
    "the flow table lists the download and whose it is"
like "$out" "The download is complete: 8388608 bytes" "the download is complete"
like "$out" $'Nothing: no process, no namespace, no cgroup, no file\\.$' "and it says that nothing is left"
nothing_left "after it"

# A caller's proxy and curlrc are not the demo's.
mkdir "$TMP/home"
echo 'proxy = "http://127.0.0.1:9"' >"$TMP/home/.curlrc"
box environment http_proxy=http://127.0.0.1:9 ALL_PROXY=socks5h://127.0.0.1:9 HOME="$TMP/home" \
    UNDERSOCK_PASSWORD=secret
is "$(status)" 0 "it succeeds with a proxy in the environment and in .curlrc"

# Pipes closed from the start must not become a child's standard output.
BOX=$TMP/plain
cg plain env TMPDIR="$BOX/tmp" "$TMP/undersock" demo <&- >&- 2>&-
is "$?" 0 "it succeeds with its standard streams closed"
is "$(ls -A "$BOX/tmp")" "" "and leaves no file"

# --- it notices when it is not so ----------------------------------------------------------------

not_so() { # NAME PLACE DEED WHAT-IT-SAYS DESCRIPTION
    box "$1" PLACE="$2" DEED="$3"
    is "$(status)" 1 "$5: exit 1"
    like "$(cat "$BOX/err")" "^undersock: error: demo: $4" "$5: it names the step"
    is "$(wc -l <"$BOX/err")" 1 "$5: in one line"
    nothing_left "$5"
}

not_so reachable '*10/' lie 'plain connection: ' "the plain connection succeeds"
not_so cut '*/large' cut 'download: ' "the last byte of the download is missing"
not_so broken '*/large' fail 'download: ' "the download breaks"
[[ -e /proc/net/if_inet6 ]] &&
    not_so liar '*2001:db8::10*' lie 'redirected IPv6: ' "the page is another one"

# --- it ends cleanly, wherever and however -------------------------------------------------------

ended() { # NAME SIGNAL PLACE STATUS DESCRIPTION
    box "$1" SIGNAL="$2" PLACE="$3" DEED=stall
    check "$5: it was there" -- test -e "$BOX/stalled"
    num "$(wc -l <"$BOX/namespaces.during")" -eq $(($(wc -l <"$BOX/namespaces.before") + 2)) \
        "$5: with two namespaces more"
    is "$(status)" "$4" "$5: exit $4"
    nothing_left "$5"
}

ended int-plain INT '*10/' 130 "SIGINT during the plain connection"
[[ -e /proc/net/if_inet6 ]] &&
    ended int-run INT '*2001:db8::10*' 130 "SIGINT during a redirected one"
ended int-download INT '*/large' 130 "SIGINT during the download"
ended term TERM '*/large' 143 "SIGTERM during the download"
ended hup HUP '*/large' 129 "SIGHUP during the download"
ended kill KILL '*/large' 137 "SIGKILL during the download"

# Its reader goes away: SIGPIPE at some later line.
BOX=$TMP/pipe
mkdir "$BOX" "$BOX/tmp"
cg_new pipe
# shellcheck disable=SC2016 # for the inner shell; TMP is exported
cg pipe env TMPDIR="$BOX/tmp" sh -c '"$TMP/undersock" demo 2>&1 | head -n 1 >/dev/null'
check "SIGPIPE: no process is left" -- wait_for 20 grep -q "populated 0" "$(cg_path pipe)/cgroup.events"
is "$(find "$(cg_path pipe)" -mindepth 1 -type d)" "" "SIGPIPE: no cgroup is left"
is "$(ls -A "$BOX/tmp")" "" "SIGPIPE: no file is left"

# --- what is missing -----------------------------------------------------------------------------

missing() { # STATUS REGEX DESCRIPTION -- CMD...
    local want=$1 regex=$2 what=$3 rc
    shift 4
    "$@" >"$TMP/missing.out" 2>"$TMP/missing.err"
    rc=$?
    is "$rc" "$want" "$what: exit $want"
    like "$(cat "$TMP/missing.err")" "$regex" "$what: it says what is missing"
    is "$(cat "$TMP/missing.out" "$TMP/missing.err" | wc -l)" 1 "$what: in one line"
}

without() { # CAPABILITY CMD...: as root, but without it
    local cap=$1
    shift
    setpriv --inh-caps="-$cap" --bounding-set="-$cap" "$@"
}

cd /
missing 3 'needs root' "an ordinary user" -- \
    setpriv --reuid=65534 --regid=65534 --clear-groups "$TMP/undersock" demo
missing 3 'CAP_NET_ADMIN.*sudo' "root without CAP_NET_ADMIN" -- without net_admin "$TMP/undersock" demo
missing 3 'CAP_SYS_ADMIN.*sudo' "root without CAP_SYS_ADMIN" -- without sys_admin "$TMP/undersock" demo
missing 1 'curl is not installed; install' "no curl" -- env PATH="$TMP/empty" "$TMP/undersock" demo
missing 2 'undersock help demo' "an argument too many" -- "$TMP/undersock" demo now

done_testing
