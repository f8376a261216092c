#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# SYNs that are not the plain first one: sent again while the upstream thinks, from the same port anew,
# with data (TCP Fast Open), with MPTCP's options; of an application that has gone; and more of them
# than there is room for.
. "$(dirname "$0")/lib.sh"
FAST_PATH=${FAST_PATH:-relay} # what is stitched is not held by us, and outlives us
# Whose connections take up our room.
ROOMY="output gateway cgroup"
[[ $FAST_PATH == stitch ]] && ROOMY="output gateway"
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/honest.sh"

need python3 nft
topology
lan
cg_new app
honest_sysctls client one
verdict_server
count_syns client
count_syns one

config() { # GLOBAL-LINES...
    local hook
    echo "control = \"$TMP/undersock.sock\""
    printf '%s\n' "$@"
    echo "upstream \"verdicts\" { url = \"socks5://$PROXY4:$VERDICTS\" }"
    for hook in output gateway cgroup; do capture_text $hook all verdicts; done
}
again() { # GLOBAL-LINES...: another daemon
    if running undersock; then
        stop undersock
        rm -f "${LOG[undersock]}"
    fi
    us_daemon client < <(config "$@")
    verdicts forget >/dev/null
}
# each NAME OPTIONS... -- PORTS...: one process for each hook and family, called NAME-HOOK-FAMILY.
each() {
    local name=$1 hook f a WHERE
    local -a options=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    for hook in output gateway cgroup; do
        for f in 4 6; do
            a=NET$f
            where $hook
            start "$name-$hook-$f" -- "${WHERE[@]}" "$TOOLS/connects" "${options[@]}" "${!a}" "$@"
        done
    done
}
# each_is NAME DESCRIPTION RESULT4 RESULT6: their results, sorted by port.
each_is() {
    local hook f want
    for hook in output gateway cgroup; do
        for f in 4 6; do
            wait_exit "$1-$hook-$f" 60
            want=$3
            [[ $f == 6 ]] && want=$4
            is "$(grep -E '^[0-9]+ [^ ]+ [0-9]+$' "${LOG[$1-$hook-$f]}" | sort | awk '{print $1 "=" $2}' | paste -sd ' ')" "$want" "$2: $hook, IPv$f"
            stop "$1-$hook-$f"
            rm -f "${LOG[$1-$hook-$f]}"
        done
    done
}
again 'workers = 2'

# --- the SYN comes again while the upstream has not answered
for n in client one; do syns_sent $n >/dev/null; done
each held -t 30 -- 20020
wait_for 10 verdicts_are waiting -eq 6
is "$(verdicts waiting)" 6 "six SYNs are held"
# Three SYNs each: 12 of this host's, 6 of the LAN's.
in_client=0 in_one=0 stitched=0
thrice() {
    in_client=$((in_client + $(syns_sent client))) in_one=$((in_one + $(syns_sent one)))
    ((in_client + $(stitched_syns) - stitched >= 12 && in_one >= 6))
}
check "each has been sent three times" -- wait_for 6 thrice
is "$(verdicts port:20020)" 6 "the upstream was asked once for each"
is "$(verdicts release 0)" 6 "now it grants"
each_is held "granted after three SYNs" "20020=OK" "20020=OK"
nothing_left "after three SYNs"
before=$(stitched_syns)
each held -t 30 -- 20020
wait_for 10 verdicts_are waiting -eq 6
in_client=0 in_one=0 stitched=$before
wait_for 6 thrice
is "$(verdicts release 4)" 6 "and refuses, after three SYNs again: host unreachable"
each_is held "refused after three SYNs" "20020=EHOSTUNREACH" "20020=EHOSTUNREACH"
nothing_left "after three SYNs"
is "$(verdicts port:20020)" 12 "the upstream was asked once for each"

# The same SYN many times at once, as from a network that doubles packets. (Its sender knows nothing
# of it and resets what is granted.)
verdicts forget >/dev/null
for a in "$NET4" "$NET6"; do
    source=$ONE4/32
    [[ $a == *:* ]] && source=$ONE6/128
    check "$a: 20 SYNs, 7 times each" -- ns one "$TOOLS/synflood" -s -d 7 "$source" "$a" 20014 20
done
wait_for 10 verdicts_are requests -ge 40
is "$(verdicts port:20014)" 40 "the upstream was asked once for each"

# --- the application gives up before there is an answer
verdicts forget >/dev/null
each impatient -g 500 -- 20002 20014 20019 20020
for hook in output gateway cgroup; do for f in 4 6; do wait_exit "impatient-$hook-$f" 20; done; done
each_is impatient "gives up after 500 ms" "20002=timeout 20014=timeout 20019=timeout 20020=timeout" \
    "20002=timeout 20014=timeout 20019=timeout 20020=timeout"
is "$(verdicts requests)" 24 "the upstream had been asked for all"
verdicts release 0 >/dev/null
# What becomes of what was asked for takes its time, and is looked at further down.

# --- the same port again: a new connection, with a new sequence number
cat >"$TMP/twice.py" <<'PY'
import errno, select, socket, sys
address, proxy, port = sys.argv[1], sys.argv[2], 20020
family = socket.AF_INET6 if ":" in address else socket.AF_INET
def go():
    s = socket.socket(family)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", 12345))
    s.setblocking(False)
    assert s.connect_ex((address, port)) == errno.EINPROGRESS
    return s
first = go()
print("first", flush=True)
sys.stdin.readline()
first.close()
second = go()
print("second", flush=True)
select.select([], [second], [], 20)
error = second.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
if error:
    print(errno.errorcode[error])
else:
    second.settimeout(20)
    second.sendall(b"?\n")
    print(second.recv(100).decode().strip())
PY
for hook in output gateway cgroup; do
    where $hook
    for a in "$NET4" "$NET6"; do
        verdicts forget >/dev/null
        mkfifo "$TMP/go"
        start twice -- "${WHERE[@]}" sh -c "exec python3 '$TMP/twice.py' $a x <>'$TMP/go'"
        wait_log twice first
        wait_for 10 verdicts_are waiting -ge 1
        echo >"$TMP/go"
        wait_log twice second
        sleep 0.3
        verdicts release 0 >/dev/null
        # Whatever of it was asked anew.
        if ! wait_exit twice 2; then verdicts release 0 >/dev/null; fi
        ended twice 20
        shown=$a:20020
        [[ $a == *:* ]] && shown="[$a]:20020"
        is "$(tail -n 1 "${LOG[twice]}")" "$shown 2" "$hook, $a: the second attempt from one port is connected"
        num "$(verdicts requests)" -le 2 "$hook, $a: one or two questions"
        rm -f "${LOG[twice]}" "$TMP/go"
    done
done

# --- SYNs with data, SYNs with MPTCP
PORTS=(20000 20002 20006 20007)
WANT="20000=OK 20002=OK 20006=EHOSTUNREACH 20007=ECONNREFUSED"
fastopen() { for n in client one; do ns $n sh -c "echo $1 >/proc/sys/net/ipv4/tcp_fastopen"; done; }
if fastopen 5 2>/dev/null; then
    each fast -T 1200 -t 30 -- "${PORTS[@]}"
    each_is fast "Fast Open, the data with the SYN" "$WANT" "$WANT"
    # Now also every listener takes data with the SYN: the bytes must not arrive twice.
    fastopen $((0x607))
    each fast -T 1200 -t 30 -- "${PORTS[@]}"
    each_is fast "Fast Open, and listeners that take the data" "$WANT" "$WANT"
    fastopen 1
else
    skip "SYNs with data" "no TCP Fast Open here" 12
fi
if ns client "$TOOLS/connects" -P "$NET4" 20000 >"$TMP/mptcp" 2>&1 && grep -q ' OK ' "$TMP/mptcp"; then
    each mptcp -P -t 30 -- "${PORTS[@]}"
    each_is mptcp "MPTCP" "$WANT" "$WANT"
elif ! python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)' 2>/dev/null; then
    skip "SYNs with MPTCP's options" "no MPTCP in this kernel" 6
else
    not_ok "MPTCP: $(cat "$TMP/mptcp")"
fi

# --- the ends of all that, after 15 seconds for some
check "what is granted to nobody is closed" -- wait_for 20 verdicts_are granted -eq 0
check "and what stays silent, too" -- wait_for 20 verdicts_are open -eq 0
nothing_left "after all of that"

# --- no room: in the table
again 'workers = 1' 'max-flows = 16'
for f in 4 6; do
    for hook in $ROOMY; do
        where $hook
        a=NET$f
        start full -- "${WHERE[@]}" "$TOOLS/connects" -k -n 16 "${!a}" 20000
        wait_log full '^open 16' 20 || bail "16 flows do not stand"
        refused=$(us_sum undersock refused_full)
        start more -- "${WHERE[@]}" "$TOOLS/connects" -n 10 -t 20 "${!a}" 20000
        ended more 30
        is "$(awk '{print $2}' "${LOG[more]}" | sort | uniq -c | awk '{print $2 "=" $1}')" "ECONNREFUSED=10" \
            "$hook, IPv$f: a full table: refused at connect()"
        num "$(us_sum undersock refused_full)" -ge $((refused + 10)) "$hook, IPv$f: and counted"
        kill -s USR1 "${PID[full]}"
        ended full 20
        is "$(grep -c 'again=OK' "${LOG[full]}")" 16 "$hook, IPv$f: the flows that stand do not notice"
        wait_for 10 us_is undersock flows -eq 0
        is "$("${WHERE[@]}" "$TOOLS/connects" -t 20 "${!a}" 20000 | awk '{print $2}')" OK "$hook, IPv$f: then there is room again"
        rm -f "${LOG[full]}" "${LOG[more]}"
        # A table full of SYNs that are held.
        wait_for 10 us_is undersock flows -eq 0
        start full -- "${WHERE[@]}" "$TOOLS/connects" -n 16 -t 30 "${!a}" 20020
        wait_for 10 verdicts_are waiting -eq 16
        is "$("${WHERE[@]}" "$TOOLS/connects" -t 20 "${!a}" 20000 | awk '{print $2}')" ECONNREFUSED "$hook, IPv$f: full of held ones: refused"
        verdicts release 0 >/dev/null
        ended full 30
        is "$(grep -c ' OK ' "${LOG[full]}")" 16 "$hook, IPv$f: those are connected when it is granted"
        wait_for 10 us_is undersock flows -eq 0
        rm -f "${LOG[full]}"
    done
done

# --- no room: max-held
again 'workers = 1' 'max-held = 16'
for hook in output gateway cgroup; do
    where $hook
    start full -- "${WHERE[@]}" "$TOOLS/connects" -n 16 -t 30 "$NET4" 20020
    wait_for 10 verdicts_are waiting -eq 16
    for a in "$NET4" "$NET6"; do
        # Either it is refused, or connected without being held; it does not hang, and is not wrong.
        like "$("${WHERE[@]}" "$TOOLS/connects" -t 20 "$a" 20000 20007 | sort | awk '{print $2}' | paste -sd ' ')" \
            '^(OK|ECONNREFUSED) (ECONNREFUSED|lost=RST)$' "$hook, $a: beyond max-held: connected early or refused"
    done
    verdicts release 0 >/dev/null
    ended full 30
    is "$(grep -c ' OK ' "${LOG[full]}")" 16 "$hook: the held ones are connected when it is granted"
    wait_for 10 us_is undersock flows -eq 0
    is "$("${WHERE[@]}" "$TOOLS/connects" -t 20 "$NET4" 20006 | awk '{print $2}')" EHOSTUNREACH "$hook: and then connect() is honest again"
    rm -f "${LOG[full]}"
done
nothing_left "the end"
done_testing
