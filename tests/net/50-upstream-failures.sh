#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# An upstream that fails, in each way there is: with connect = "early" the application sees a reset,
# never a clean end and never a hang; an honest connect() fails, with the error that the answer stands
# for, or by silence where there was no answer. The log says once which upstream and why; status knows
# that it is down, and that it is up again. Passwords are nowhere to be seen.
#
# Each case is an upstream of its own with a capture of its own, chosen by the destination's port. All
# of them are early; one of each kind is there a second time, as "honest-NAME".
. "$(dirname "$0")/lib.sh"

need python3
topology
net_who
cg_new app
impatient client

CASES=() CONF='' port=1100 SERVERS=0
declare -A WANT HEALTH DEST TO TO6 SEES SERVER SCHEME_OF USER_OF KEYS

# upstream NAME SERVER-PORT HEALTHY REGEX [KEY...]: configures it; NAME may begin with a scheme.
upstream() {
    local name=$1 server=$2
    HEALTH[$name]=$3 WANT[$name]=$4 DEST[$name]=${DEST[$name]:-$((server + 1000))}
    SERVER[$name]=$server SCHEME_OF[$name]=${SCHEME:-socks5} USER_OF[$name]=${USER_IN_URL:-}
    KEYS[$name]=$(printf '    %s\n' "${@:5}")
    SEES[$name]="lost=RST lost=RST"
    CONF+=$(configure "$name" "$name" early)$'\n'
    CASES+=("$name")
}

# configure NAME CASE CONNECT: an upstream and a capture NAME, with the server of CASE.
configure() {
    cat <<-CONF
	upstream "$1" {
	    url = "${SCHEME_OF[$2]}://${USER_OF[$2]}$PROXY4:${SERVER[$2]}"
	${KEYS[$2]}
	}
	capture "$1" {
	    hook      = "${HOOK:-output}"
	    upstream  = "$1"
	    connect   = "$3"
	    tcp-ports = { "${DEST[$1]}" }
	    ${TO[$1]:+to = { \"${TO[$1]}\"${TO6[$1]:+, \"${TO6[$1]}\"} \}}
	    $([[ ${HOOK:-} == cgroup ]] && echo "cgroup = \"/$US-app\"")
	}
	CONF
}

# bad NAME HEALTHY REGEX MODE [ARG...]: a badsocks server of that mode, and an upstream for it.
bad() {
    local name=$1
    port=$((port + 1))
    SERVERS=$((SERVERS + 1))
    start "bad-$name" -- ns proxy "$TOOLS/badsocks" "$4" "$PROXY4" "$port" "${@:5}"
    upstream "$name" $port "$2" "$3" ${TIMEOUT:+"handshake-timeout = \"$TIMEOUT\""}
}

CLOSED='it closed the connection during the handshake'
NOT_SOCKS='its answer is not SOCKS'
SILENT='no answer within handshake-timeout'

upstream refusing 1100 False 'cannot connect to 10.77.1.1:1100: Connection refused'
# It may come before we have seen that the connection stands.
bad reset False "$CLOSED|Connection reset by peer" reset
bad close False "$CLOSED" close
for n in 1 2 3 4 5 6 7 8 9 10 11; do bad "drop-$n" False "$CLOSED" drop $n; done
for n in 1 2 7; do bad "drop-reset-$n" False "$CLOSED" drop-reset $n; done
bad garbage False "$NOT_SOCKS" garbage
bad endless False "$NOT_SOCKS" endless
bad endless-reply False "$NOT_SOCKS" endless-reply
bad http False "$NOT_SOCKS" http
bad version False "$NOT_SOCKS" version
bad reply-version False "$NOT_SOCKS" reply-version
bad atyp False "$NOT_SOCKS" atyp
bad method False "$NOT_SOCKS" method
bad not-offered False "$NOT_SOCKS" password
bad no-method False 'it accepts none of our authentication methods' no-method
TIMEOUT=250ms
bad hang False "$SILENT" hang
bad mute False "$SILENT" mute
bad hang-greeting False "$SILENT" hang-greeting
# It has let us in: the silence may be the destination's.
bad hang-request True "$SILENT" hang-request
SCHEME=socks4 bad hang-socks4 True "$SILENT" hang-request
TIMEOUT=

# Reply codes. The first capture that matches counts: SOCKS4's has an address of its own.
TO=([socks4-91]=203.0.113.11 [socks4-92]=203.0.113.12)
DEST[socks4-91]=9101
SCHEME=socks4 bad socks4-91 True '' code
DEST[socks4-92]=9102
SCHEME=socks4 bad socks4-92 True 'reply 0x5c: ' code
# Of the destination alone (3 to 6), the log has nothing to say.
reason=([1]=failure [2]=allowed [7]=command [8]='address type' [9]=. [255]=.)
for n in 1 2 3 4 5 6 7 8 9 255; do
    DEST[code-$n]=$((9100 + n))
    healthy=True
    [[ $n == 7 ]] && healthy=False
    bad "code-$n" $healthy "${reason[$n]:+reply 0x$(printf %02x "$n"): .*${reason[$n]}}" code
done
USER_IN_URL=alice@ SCHEME=socks4 bad socks4-version False "$NOT_SOCKS" reply-version

# Authentication. The password is one that is easily found again.
SECRET=S3cret-Wb7
WRONG=Wr0ng-Kq4
umask 077
echo "$SECRET" >"$TMP/right"
echo "$WRONG" >"$TMP/wrong"
umask 022
USER_IN_URL=alice@
port=1190 SERVERS=$((SERVERS + 1))
start bad-auth -- ns proxy "$TOOLS/badsocks" auth "$PROXY4" 1190 alice "$SECRET"
upstream password-right 1190 True '' "password-file = \"$TMP/right\""
DEST[password-wrong]=2590
upstream password-wrong 1190 False 'it refused the user name or password' "password-file = \"$TMP/wrong\""
bad auth-fail False 'it refused the user name or password' auth-fail
bad auth-version False '.' auth-version
USER_IN_URL="alice:$WRONG@"
DEST[password-url]=2591
upstream password-url 1190 False 'it refused the user name or password'
USER_IN_URL=

# The same by the other hook, for one case of each kind.
HOOK=cgroup
upstream cg-refusing 1100 False 'cannot connect to 10.77.1.1:1100: Connection refused'
for mode in reset drop-reset garbage hang code; do
    args=()
    [[ $mode == drop-reset ]] && args=(5)
    [[ $mode == hang ]] && TIMEOUT=250ms
    [[ $mode == code ]] && DEST[cg-code]=9105
    case $mode in
    hang) want=$SILENT ;;
    garbage) want=$NOT_SOCKS ;;
    code) want='' ;;
    *) want="$CLOSED|Connection reset by peer" ;;
    esac
    bad "cg-$mode" "$([[ $mode == code ]] && echo True || echo False)" "$want" "$mode" "${args[@]}"
    TIMEOUT=
done
HOOK=

# --- one of each kind once more, honest: the same servers, ports and answers, at addresses of their own;
# their captures are the first in the file.
HONEST=() EARLY=("${CASES[@]}") early=$CONF CONF=''
honest() { # NAME WHAT-IPV4-SEES [WHAT-IPV6-SEES]
    local name=honest-$1
    HEALTH[$name]=${HEALTH[$1]} WANT[$name]=${WANT[$1]} DEST[$name]=${DEST[$1]} SEES[$name]="$2 ${3:-$2}"
    TO[$name]=203.0.113.15 TO6[$name]=2001:db8:113::15
    [[ $1 == *socks4* ]] && TO[$name]=203.0.113.16 TO6[$name]=''
    [[ $1 == cg-* ]] && HOOK=cgroup
    CONF+=$(configure "$name" "$1" honest)$'\n'
    HOOK=
    CASES+=("$name")
    HONEST+=("$name")
}
for name in refusing reset close drop-1 drop-7 drop-reset-2 garbage endless-reply http method no-method \
    password-wrong auth-fail socks4-91 code-1 code-5 code-7 code-8 cg-refusing cg-reset cg-garbage cg-code; do
    honest $name connect=ECONNREFUSED
done
honest code-2 connect=ECONNREFUSED connect=EACCES
honest code-3 connect=ENETUNREACH
honest code-4 connect=EHOSTUNREACH
honest code-6 connect=EHOSTUNREACH
for name in hang mute hang-request cg-hang; do honest $name connect=ETIMEDOUT; done
CONF+=$early

# One that fails in another way for each port.
start bad-many -- ns proxy "$TOOLS/badsocks" code "$PROXY4" 1199
SERVERS=$((SERVERS + 1))
CONF="upstream \"many\" { url = \"socks5://$PROXY4:1199\" }
capture \"many\" {
    hook     = \"output\"
    upstream = \"many\"
    to       = { \"203.0.113.17\" }
}
$CONF"

all_listen() { [[ $(ns proxy ss -Hlnt "src $PROXY4" | wc -l) == "$SERVERS" ]]; }
wait_for 15 all_listen || bail "not all of the $SERVERS servers are up"

# One worker: each has a word of its own about an upstream.
begin=$SECONDS
us_daemon client <<<"workers = 1
$CONF"

application() { # NAME [4|6]
    local wrap=(ns client) to=${TO[$1]:-$NET4}
    # The protocol of some has no IPv6.
    [[ ${2:-4} == 6 && $1 != *socks4* ]] && to=${TO6[$1]:-$NET6}
    [[ $1 == *cg-* ]] && wrap+=(cg app)
    "${wrap[@]}" "$TOOLS/who" -t 20 "$to" "${DEST[$1]}"
}

# Three times each, one of them over IPv6 where the protocol can; twice at once.
thrice() { # NAME
    local twice
    application "$1" >"$TMP/$1.at-once" &
    twice="$(application "$1") $(application "$1" 6)"
    wait $!
    echo "$twice $(cat "$TMP/$1.at-once")" >"$TMP/$1.sees"
}
total=0
# Those that wait for nothing but their own patience do so together.
patient=()
for name in "${HONEST[@]}"; do
    thrice "$name" &
    patient+=($!)
done
wait "${patient[@]}"
for name in "${EARLY[@]}"; do [[ $name == password-right ]] || thrice "$name"; done
for name in "${CASES[@]}"; do
    [[ $name == password-right ]] && continue
    total=$((total + 3))
    want="${SEES[$name]} ${SEES[$name]% *}"
    [[ $name == honest-* ]] && what="connect() says so" || what="the application's connections are reset"
    is "$(cat "$TMP/$name.sees")" "$want" "$name: $what"
done
wait_for 10 us_is undersock flows -eq 0
is "$(us_sum undersock flows)" 0 "no flow is left behind"
# A stitched one whose application gives up before its time is over is never heard of again: those of
# honest-cg-hang, three at most.
num "$(us_sum undersock failed)" -le $total "each is counted as failed"
num "$(us_sum undersock failed)" -ge $((total - 3)) "but for stitched ones that were given up"
is "$(us_sum undersock accepted)" $total "and as accepted"
is "$(us_sum undersock granted)" 0 "and none as granted"

# --- what the log says, and what status does
us_status undersock '"\n".join("%(name)s %(healthy)s" % u for u in s["upstreams"])' >"$TMP/health"
may_be=$((1 + (SECONDS - begin) / 10))
for name in "${CASES[@]}"; do
    [[ $name == password-right ]] && continue
    lines=$(grep -F "upstream $name: " "${LOG[undersock]}")
    reasons=1
    [[ ${WANT[$name]} == *'|'* ]] && reasons=2
    if [[ ${WANT[$name]} ]]; then
        like "$(head -n 1 <<<"$lines")" "warning: upstream $name: .*(${WANT[$name]})" "$name: the log says why"
        num "$(grep -c . <<<"$lines")" -le $((may_be * reasons)) "$name: and not for each of the three"
    else
        is "$lines" "" "$name: the destination's failure is no complaint about the upstream"
    fi
    is "$(sed -n "s/^$name //p" "$TMP/health")" "${HEALTH[$name]}" "$name: healthy in status: ${HEALTH[$name]}"
done

# --- a right password
is "$(ns client "$TOOLS/who" "$NET4" "${DEST[password-right]}")" 'lost=RST' "password-file: nobody listens there, but it was asked"
check "and the password was accepted" -- grep -q '^auth user=alice accepted' "${LOG[bad-auth]}"
grep -q '^auth user=alice refused' "${LOG[bad-auth]}"
is $? 0 "the wrong ones were refused"

# --- failures that differ, within a second: a line for each of them
for code in 1 2 7 8 255 1 2 7 8 255; do
    ns client "$TOOLS/who" -t 20 203.0.113.17 $((9100 + code)) >/dev/null
done
is "$(grep -o 'upstream many: reply 0x..' "${LOG[undersock]}" | sort -u | grep -o '0x..' | paste -sd ' ')" \
    "0x01 0x02 0x07 0x08 0xff" "one upstream, five reasons: each has its line"

# --- many failures, one line; then it answers again
for _ in 1 2 3 4; do
    ns client "$TOOLS/load" conn -n 100 -c 10 "$NET4" "${DEST[refusing]}" >>"$TMP/conn.json"
done
is "$(grep -c '"ECONNRESET": 100\|"EPIPE": 100' "$TMP/conn.json")" 4 "400 more failures, all reset"
like "$(ns client "$TOOLS/load" conn -n 100 -c 10 "${TO[honest-refusing]}" "${DEST[honest-refusing]}")" \
    '"errors": \{"ECONNREFUSED": 100\}' "honest: 100 more, all refused"
may_be=$((1 + (SECONDS - begin) / 10))
for name in refusing honest-refusing; do
    num "$(grep -cF "upstream $name: " "${LOG[undersock]}")" -le $may_be "$name: the log has a line in ten seconds at most"
done
like "$(us_status undersock '[u for u in s["upstreams"] if u["name"] == "refusing"][0]["last_error"]')" \
    'Connection refused' "status has the last error"
PEER_NAME=mended peer_bad proxy "$PROXY4" 1100 good
DEST[refusing]=9000 DEST[honest-refusing]=9000
sed -i 's/"2100"/"9000"/' "$TMP/undersock.conf"
check "reload" -- us_reload undersock
stop mended
is "$(application refusing) $(application honest-refusing)" 'lost=RST connect=ECONNREFUSED' "after a reload: still refusing"
is "$(us_status undersock '[u for u in s["upstreams"] if u["name"] == "refusing"][-1]["healthy"]')" False "status: down"
PEER_NAME=mended peer_bad proxy "$PROXY4" 1100 good
is "$(application refusing) $(application honest-refusing)" "$EXIT4 $EXIT4" "it listens: the next connection goes through"
is "$(us_status undersock '[u for u in s["upstreams"] if u["name"] == "refusing"][-1]["healthy"]')" True "status: healthy again"
check "the log says so" -- grep -q 'upstream refusing: answers again' "${LOG[undersock]}"

# --- passwords are nowhere
chmod 644 "$TMP/right"
check_status 2 "a password-file that others can read: exit status 2" -- "$UNDERSOCK" check -c "$TMP/undersock.conf"
like "$("$UNDERSOCK" check -c "$TMP/undersock.conf" 2>&1)" 'undersock.conf:[0-9]+: .*chmod 600' "its line and the remedy"
chmod 600 "$TMP/right"

secrets() { grep -aFc -e "$SECRET" -e "$WRONG"; }
# processes: what ps shows of all that live in the client's namespace.
processes() { for p in $(ns_pids client); do tr '\0' ' ' <"/proc/$p/cmdline"; done; }
environments() { for p in $(ns_pids client); do tr '\0' '\n' <"/proc/$p/environ"; done 2>/dev/null; }

is "$(processes | secrets)" 0 "daemon: not in ps"
is "$({ "$UNDERSOCK" status -s "$TMP/undersock.sock"; "$UNDERSOCK" status --json -s "$TMP/undersock.sock"; } | secrets)" 0 "daemon: not in status"
is "$(secrets <"${LOG[undersock]}")" 0 "daemon: not in the log"

held() { # NAME ENVIRONMENT-PASSWORD URL: a run that holds one flow; its log at level debug
    start "$1" -- ns client env UNDERSOCK_PASSWORD="$2" "$UNDERSOCK" run -u "$3" -o log-level=debug -o "control=$TMP/$1.sock" -- \
        sh -c "env >'$TMP/$1.env'; '$TOOLS/who' $NET4 9000 >'$TMP/$1.who'; echo >'$TMP/$1.done'; while [ ! -e '$TMP/$1.end' ]; do sleep 0.02; done"
    wait_for 20 test -e "$TMP/$1.done" || bail "$1 does not get to its end"
}
nowhere() { # NAME
    is "$(processes | secrets)" 0 "$1: not in ps"
    is "$(environments | secrets)" 0 "$1: in no process's environment"
    is "$({ "$UNDERSOCK" status -s "$TMP/$1.sock"; "$UNDERSOCK" status --json -s "$TMP/$1.sock"; } | secrets)" 0 "$1: not in status"
    touch "$TMP/$1.end"
    wait_exit "$1" 10
    is "$(secrets <"${LOG[$1]}")" 0 "$1: not in the log, at level debug"
    is "$(secrets <"$TMP/$1.env")" 0 "$1: not in the command's environment"
}
held environment "$SECRET" "socks5://alice@$PROXY4:1190"
is "$(cat "$TMP/environment.who")" "$EXIT4" "UNDERSOCK_PASSWORD opens the proxy"
nowhere environment
held mistaken "$WRONG" "socks5://alice@$PROXY4:1190"
is "$(cat "$TMP/mistaken.who")" "connect=ECONNREFUSED" "a wrong UNDERSOCK_PASSWORD does not"
check "and the log says so" -- grep -q 'it refused the user name or password' "${LOG[mistaken]}"
nowhere mistaken
held argument '' "socks5://alice:$SECRET@$PROXY4:1190"
is "$(cat "$TMP/argument.who")" "$EXIT4" "a password in the URL opens the proxy"
nowhere argument

# A crash writes no memory to a file where passwords are in it.
crash() { (ulimit -c unlimited && cd "$TMP/cores" && exec "$@"); }
cores() { find "$TMP/cores" -type f | wc -l; }
mkdir "$TMP/cores"
crash sh -c 'kill -ABRT $$' 2>/dev/null
if [[ $(cores) == 0 ]]; then
    skip "no core dump of a process that has the password" "this machine writes core dumps elsewhere" 1
else
    rm -f "$TMP"/cores/*
    argv_of ns client env UNDERSOCK_PASSWORD="$SECRET" "$UNDERSOCK" run -u "socks5://alice@$PROXY4:1190" -- \
        sh -c "echo >'$TMP/crash.up'; exec sleep 1000"
    start crash -- sh -c "ulimit -c unlimited && cd '$TMP/cores' && exec \"\$@\"" crash "${ARGV[@]}"
    wait_for 10 test -e "$TMP/crash.up" || bail "run does not start"
    kill -ABRT "${PID[crash]}"
    wait_exit crash 10
    is "$(cores)" 0 "no core dump of a process that has the password"
fi
done_testing
