#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# on-exit, for every hook: the keeper is killed under traffic, again and again, and a counter outside
# looks for packets that got away. closed: there is not one, and what is selected is refused until the
# next start serves it, or until an administrator lifts it in one of the ways there are. open: nothing
# is left, and traffic goes direct.
. "$(dirname "$0")/lib.sh"
FAST_PATH=${FAST_PATH:-relay} # what is stitched is not held by us, and outlives us
. "$LIB_DIR/lan.sh"

need python3 nft
topology
lan
cg_new app
net_who 9000
start pattern -- ns net "$TOOLS/pattern" serve -t 0 :: 9001
start load -- ns net "$TOOLS/load" server :: 9003
# Nobody selects this one.
start other -- ns net "$TOOLS/who" serve 9004
for p in 9001 9003 9004; do wait_port net tcp :: $p; done
peer_serve proxy "$PROXY4" 1080
watch_forward '{ 9000, 9001, 9003 }'

config() { # HOOK ON-EXIT
    echo 'workers = 2'
    echo "upstream \"u\" { url = \"socks5://$PROXY4:1080\" }"
    echo 'capture "c" {'
    echo "    hook      = \"$1\""
    [[ $1 == cgroup ]] && echo "    cgroup    = \"/$US-app\""
    [[ $1 == gateway ]] && echo '    interfaces = { "br-lan" }'
    echo '    upstream  = "u"'
    echo '    tcp-ports = { "9000-9003" }'
    echo "    on-exit   = \"$2\""
    echo '}'
}
# The application, and where it comes from when it is not proxied.
within() { # HOOK
    APP=(ns client) DIRECT4=$CLIENT4 DIRECT6=$CLIENT6
    [[ $1 == cgroup ]] && APP=(ns client cg app)
    [[ $1 == gateway ]] && APP=(ns one) DIRECT4=$ONE4 DIRECT6=$ONE6
}
app() { "${APP[@]}" "$@"; }
seen() { app "$TOOLS/who" "$@"; }
sees() { # WANT4 WANT6 DESCRIPTION
    is "$(seen "$NET4" 9000) $(seen "$NET6" 9000)" "$1 $2" "$3"
}
REFUSED=connect=ECONNREFUSED
refused() { sees $REFUSED $REFUSED "$1"; }
kill_keeper() {
    kill -KILL "${PID[undersock]}"
    # Bash would tell about it.
    ended undersock 10 2>/dev/null
}
no_table() { [[ $(tables_of client) != *'table inet undersock'?( *) ]]; }
guarded() { [[ $(tables_of client) == *undersock-guard* ]]; }

# lines NAME FROM: the outcomes of an asker since that line, without repetitions.
count() { wc -l <"${LOG[$1]}"; }
lines() { tail -n "+$(($2 + 1))" "${LOG[$1]}" | uniq | paste -sd ' '; }
has_since() { tail -n "+$(($2 + 1))" "${LOG[$1]}" | grep -qx -- "$3"; }

tables=$(tables_of client)
for HOOK in output cgroup gateway; do
    within $HOOK
    passed_by >/dev/null
    sees "$DIRECT4" "$DIRECT6" "$HOOK: without us it goes direct"
    num "$(passed_by)" -gt 0 "$HOOK: which the counter outside sees"

    # --- closed
    us_daemon client < <(config $HOOK closed)
    check "$HOOK, closed: the guard stands by" -- guarded
    # A table without rules only says whose this network namespace is.
    installed=$(installed_rules client)
    [[ $installed == *chain* ]] && installed+=$'\n' || installed=
    is "$(ns client "$UNDERSOCK" rules -c "$TMP/undersock.conf")" \
        "$installed$(ns client nft list table inet undersock-guard)" "$HOOK, closed: rules prints it, too"
    sees "$EXIT4" "$EXIT6" "$HOOK, closed: served"
    passed_by >/dev/null
    start ask4 -- "${APP[@]}" "$TOOLS/who" -l "$NET4" 9000
    start ask6 -- "${APP[@]}" "$TOOLS/who" -l "$NET6" 9000
    start free4 -- "${APP[@]}" "$TOOLS/who" -l "$NET4" 9004
    start free6 -- "${APP[@]}" "$TOOLS/who" -l "$NET6" 9004
    wait_log ask4 "^$EXIT4" && wait_log ask6 "^$EXIT6" || bail "no traffic"
    for round in 1 2 3; do
        at="$HOOK, closed, kill $round"
        mkfifo "$TMP/idle.$HOOK.$round"
        start idle -- "${APP[@]}" sh -c "exec '$TOOLS/load' hold -n 20 $NET6 9003 <>'$TMP/idle.$HOOK.$round'"
        start bulk4 -- "${APP[@]}" "$TOOLS/pattern" both -t 60 "$NET4" 9001 32G
        start bulk6 -- "${APP[@]}" "$TOOLS/pattern" both -t 60 -p 1000 "$NET6" 9001 32G
        wait_log idle '"phase": "open", "want": 20, "open": 20' 20 || bail "no idle flows"
        wait_for 20 eval '[[ $(us_flows undersock "len([f for f in s if f[\"bytes_up\"] > 100000 and f[\"bytes_down\"] > 100000])") -ge 2 ]]' || bail "no bulk"
        from4=$(count ask4) from6=$(count ask6)
        kill_keeper
        check "$at: new connections are refused" -- wait_for 15 eval "has_since ask4 $from4 $REFUSED && has_since ask6 $from6 $REFUSED"
        ended bulk4 20
        like "$ENDED $(tail -n 1 "${LOG[bulk4]}")" '^1 .*_error=ECONNRESET' "$at: a transfer is reset (IPv4)"
        ended bulk6 20
        like "$ENDED $(tail -n 1 "${LOG[bulk6]}")" '^1 .*_error=ECONNRESET' "$at: a transfer is reset (IPv6)"
        kill -s USR1 "${PID[idle]}"
        wait_exit idle 60
        like "$(tail -n 1 "${LOG[idle]}")" '"open": 0, .*"errors": \{("(ECONNRESET|EPIPE)": [0-9]+(, )?)+\}' "$at: idle flows are reset"
        stop idle
        rm -f "${LOG[idle]}" "${LOG[bulk4]}" "${LOG[bulk6]}"
        check "$at: the daemon's own table is gone" -- wait_for 15 no_table
        check "$at: the guard is not" -- guarded
        refused "$at: what is selected is refused"
        is "$(seen "$NET4" 9004) $(seen "$NET6" 9004)" "$DIRECT4 $DIRECT6" "$at: what is not goes on"
        is "$(passed_by)" 0 "$at: not one packet got away"
        if [[ $HOOK == cgroup ]]; then
            is "$(ns client "$TOOLS/who" "$NET4" 9000)" "$CLIENT4" "$at: what is outside of the cgroup goes on too"
            passed_by >/dev/null
        fi
        from4=$(count ask4) from6=$(count ask6)
        us_daemon client < <(config $HOOK closed)
        check "$at: the next start serves again" -- wait_for 15 eval "has_since ask4 $from4 $EXIT4 && has_since ask6 $from6 $EXIT6"
        sees "$EXIT4" "$EXIT6" "$at: and goes on to do so"
        like "$(lines ask4 $from4)|$(lines ask6 $from6)" "^($REFUSED )?$EXIT4\\|($REFUSED )?$EXIT6\$" "$at: there is nothing between refused and served"
    done
    is "$(passed_by)" 0 "$HOOK, closed: not one packet got away while it came up"
    check "$HOOK, closed: nobody has hung" -- eval 'running ask4 && running ask6 && running free4 && running free6'
    for n in ask4 ask6 free4 free6; do stop $n; done
    is "$(cat "${LOG[free4]}" "${LOG[free6]}" | sort -u | paste -sd ' ')" "$(printf '%s\n' "$DIRECT4" "$DIRECT6" | sort | paste -sd ' ')" "$HOOK, closed: what is not selected was not disturbed once ($(cat "${LOG[free4]}" "${LOG[free6]}" | wc -l) connections)"
    rm -f "$TMP"/{ask,free}*.log

    # --- how it is lifted
    check "$HOOK: stop" -- "$UNDERSOCK" stop -s "$TMP/undersock.sock"
    ended undersock 10
    is "$ENDED $(tables_of client)" "0 $tables" "$HOOK: stop leaves nothing"
    sees "$DIRECT4" "$DIRECT6" "$HOOK: after stop it goes direct"

    us_daemon client < <(config $HOOK closed)
    kill -TERM "${PID[undersock]}"
    ended undersock 10
    is $ENDED 0 "$HOOK: SIGTERM, as at a shutdown: status 0"
    refused "$HOOK: after SIGTERM it is refused"
    kill_log=$(ns client "$UNDERSOCK" stop -s "$TMP/undersock.sock" 2>&1)
    like "$kill_log" 'on-exit' "$HOOK: stop without a daemon says what it has done"
    is "$(tables_of client)" "$tables" "$HOOK: the guard is gone"
    sees "$DIRECT4" "$DIRECT6" "$HOOK: it goes direct"

    us_daemon client < <(config $HOOK closed)
    kill_keeper
    wait_for 15 no_table
    refused "$HOOK: after SIGKILL it is refused"
    check "$HOOK: the administrator deletes the table" -- ns client nft delete table inet undersock-guard
    sees "$DIRECT4" "$DIRECT6" "$HOOK: and it goes direct"

    us_daemon client < <(config $HOOK closed)
    config $HOOK open | cat - <(echo "control = \"$TMP/undersock.sock\"") >"$TMP/undersock.conf"
    check "$HOOK: a reload with on-exit = \"open\"" -- us_reload undersock
    check "$HOOK: takes the guard away" -- eval '! guarded'
    sees "$EXIT4" "$EXIT6" "$HOOK: and serves"

    # --- open
    start ask4 -- "${APP[@]}" "$TOOLS/who" -l "$NET4" 9000
    start ask6 -- "${APP[@]}" "$TOOLS/who" -l "$NET6" 9000
    start bulk -- "${APP[@]}" "$TOOLS/pattern" both -t 60 "$NET4" 9001 32G
    wait_log ask4 "^$EXIT4" && wait_log ask6 "^$EXIT6" || bail "no traffic"
    wait_for 20 eval '[[ $(us_flows undersock "len([f for f in s if f[\"bytes_up\"] > 100000 and f[\"bytes_down\"] > 100000])") -ge 1 ]]' || bail "no bulk"
    kill_keeper
    check "$HOOK, open: after SIGKILL traffic goes direct" -- wait_for 15 eval "has_since ask4 0 $DIRECT4 && has_since ask6 0 $DIRECT6"
    ended bulk 20
    like "$ENDED $(tail -n 1 "${LOG[bulk]}")" '^1 .*_error=ECONNRESET' "$HOOK, open: a transfer is reset all the same"
    wait_for 15 no_table
    is "$(tables_of client)" "$tables" "$HOOK, open: nothing is left"
    sees "$DIRECT4" "$DIRECT6" "$HOOK, open: and stays direct"
    check "$HOOK, open: nobody has hung" -- eval 'running ask4 && running ask6'
    stop ask4
    stop ask6
    rm -f "$TMP"/{ask4,ask6,bulk}.log
done

# --- a start that fails, as late as can be: its workers find no memory for their tables
fails() { # DESCRIPTION
    config output closed | cat - <(echo "control = \"$TMP/undersock.sock\"") >"$TMP/undersock.conf"
    start failing -- ns client prlimit --data=3000000 -- "$UNDERSOCK" daemon -c "$TMP/undersock.conf"
    ended failing 20
    like "$ENDED $(<"${LOG[failing]}")" '^1 .*a worker cannot start' "$1: a start fails at its workers"
    rm -f "${LOG[failing]}"
}
within output
fails "nothing there before"
is "$(tables_of client)" "$tables" "nothing there before: and nothing after"
sees "$DIRECT4" "$DIRECT6" "nothing there before: it goes direct, as before"
us_daemon client < <(config output closed)
kill_keeper
wait_for 15 no_table
fails "a guard there before"
refused "a guard there before: it still refuses"
ns client "$UNDERSOCK" stop -s "$TMP/undersock.sock" >/dev/null 2>&1
is "$(tables_of client)" "$tables" "and is lifted as ever"
done_testing
