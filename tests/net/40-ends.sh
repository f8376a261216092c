#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# long
#
# How streams begin and end: FIN stays FIN, RST stays RST, half-closed streams live on, whoever speaks
# first and however the first bytes arrive; with both captures and every fast path, alike.
#
# A daemon for each fast path, one after the other; its two captures run side by side.
. "$(dirname "$0")/lib.sh"

need python3 nft
topology
cg_new app
start end -- ns net "$TOOLS/end" serve :: 9001
start first -- ns net "$TOOLS/pattern" serve -B :: 9002
start sink -- ns net "$TOOLS/pattern" serve :: 9003
start echo -- ns net "$TOOLS/load" server :: 9004
for port in 9001 9002 9003 9004; do wait_port net tcp :: $port; done
# Upstreams that relay faithfully (RST as RST); the second one glues the target's first bytes to its
# reply, the third one takes its time for it, the fourth one is ours.
PEER_NAME=good peer_bad proxy "$PROXY4" 1081 good
PEER_NAME=glued peer_bad proxy "$PROXY4" 1082 glued
PEER_NAME=late peer_bad proxy "$PROXY4" 1083 hold 300
peer_serve proxy "$PROXY4" 1084

config() { # FAST-PATH
    local up hook
    echo "fast-path = \"$1\""
    for up in good:1081:9001-9004 glued:1082:9102 late:1083:9201-9203 own:1084:9301-9302; do
        IFS=: read -r name server ports <<<"$up"
        echo "upstream \"$name\" { url = \"socks5://$PROXY4:$server\" }"
        for hook in cgroup output; do
            echo "capture \"$name-$hook\" {"
            echo "    hook = \"$hook\""
            [[ $hook == cgroup ]] && echo "    cgroup = \"/$US-app\""
            echo "    upstream = \"$name\""
            echo "    tcp-ports = { \"$ports\" }"
            echo '}'
        done
    done
}
# The same servers again for the other two upstreams.
start first-glued -- ns net "$TOOLS/pattern" serve -B :: 9102
start end-late -- ns net "$TOOLS/end" serve :: 9201
start first-late -- ns net "$TOOLS/pattern" serve -B :: 9202
start end-own -- ns net "$TOOLS/end" serve :: 9301
start echo-own -- ns net "$TOOLS/load" server :: 9302
start sink-late -- ns net "$TOOLS/pattern" serve :: 9203
for port in 9102 9201 9202 9203 9301 9302; do wait_port net tcp :: $port; done

# What the server's side of each mode is to see: bytes and end. (A side that only sends sees nothing.)
declare -A SERVER_SEES=(
    [client-fin]='got=BYTES saw=FIN'
    [server-fin]='got=BYTES saw=FIN'
    [client-rst]='got=BYTES saw=RST'
    [server-rst]='got=1 saw=FIN'
    [client-fin-server-rst]='got=BYTES saw=FIN'
    [server-fin-client-rst]='got=BYTES saw=RST'
    [client-exit]='got=BYTES saw=FIN'
    [server-unread]='got=0 saw=FIN'
    [server-close]='got=0 saw=FIN'
)

# one_end MODE BYTES ADDR PORT SERVER: ENDED is empty when both sides saw what they should.
ID=0
one_end() {
    local out want
    ID=$((ID + 1)) ENDED=
    # The exit status says whether the client saw what the mode promises.
    if ! out=$(app "$TOOLS/end" "$1" -i $ID -t 20 "$3" "$4" "$2" 2>&1); then
        ENDED=$out
        return
    fi
    want=${SERVER_SEES[$1]/BYTES/$2}
    if ! wait_for 20 grep -q "id=$ID " "${LOG[$5]}"; then
        ENDED="$1, $2 bytes: the server has not seen the end"
        return
    fi
    out=$(grep "id=$ID " "${LOG[$5]}")
    [[ $out == *" $want "* ]] || ENDED="$out; want: $want"
}

# Sends to a server that echoes until nothing moves any more, as nobody reads the echo.
cat >"$TMP/unread.py" <<'PY'
import select, socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.sendall(b'e')
s.setblocking(False)
while select.select([], [s], [], 1)[1]:
    s.send(bytes(1 << 18))
print('full', flush=True)
time.sleep(600)
PY

for FAST in copy splice auto sockmap; do
    us_daemon client "undersock-$FAST" < <(config "$FAST")
    for HOOK in cgroup output; do
        APP=(ns client)
        [[ $HOOK == cgroup ]] && APP=(cg app ns client)
        app() { "${APP[@]}" "$@"; }
        at="$FAST, $HOOK"
        for mode in client-fin server-fin client-rst server-rst client-fin-server-rst \
            server-fin-client-rst client-exit server-unread server-close; do
            for f in 4 6; do
                target=NET$f
                what="$at, IPv$f: $mode"
                out=''
                sizes=(1 100000 3000000)
                [[ $f == 6 ]] && sizes=(100000)
                for bytes in "${sizes[@]}"; do
                    one_end "$mode" $bytes "${!target}" 9001 end
                    out+=$ENDED
                done
                is "$out" "" "$what"
            done
        done
        out=''
        for mode in "${!SERVER_SEES[@]}"; do
            one_end "$mode" 200000 "$NET4" 9301 end-own
            out+=$ENDED
        done
        is "$out" "" "$at: all of them through our own server"
        check "$at: the server speaks first" -- app "$TOOLS/pattern" both -B -t 60 "$NET4" 9002 1M
        check "$at: its first bytes are glued to the SOCKS reply (IPv4)" -- app "$TOOLS/pattern" both -B -t 60 "$NET4" 9102 1M
        check "$at: its first bytes are glued to the SOCKS reply (IPv6)" -- app "$TOOLS/pattern" both -B -t 60 "$NET6" 9102 1M
        check "$at: the application speaks first" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9003 1M
        check "$at: the application speaks long before the reply" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9203 4M
        check "$at: only the application speaks" -- app "$TOOLS/pattern" send -t 60 "$NET6" 9003 1M
        check "$at: only the server speaks" -- app "$TOOLS/pattern" recv -B -t 60 "$NET6" 9202 1M
        check "$at: nobody speaks" -- app "$TOOLS/pattern" both -t 60 "$NET4" 9003 0
        one_end client-fin 100000 "$NET4" 9201 end-late
        is "$ENDED" "" "$at: FIN long before the reply"
        one_end client-exit 1 "$NET4" 9201 end-late
        is "$ENDED" "" "$at: one byte and the end, before the reply"
        # An application that dies while its server takes nothing: the server is not to be kept.
        for f in 4 6; do
            target=NET$f
            start unread$f -- "${APP[@]}" python3 "$TMP/unread.py" "${!target}" 9302
            wait_log unread$f '^full' 60 || bail "never full"
            kill -KILL "${PID[unread$f]}"
            ended unread$f 5 2>/dev/null
        done
        check "$at: an application that dies takes its server with it, though that does not read" -- wait_for 15 eval '[[ $(us_sum "undersock-$FAST" flows) == 0 ]]'
        check "$at: which then serves others" -- app timeout 20 "$TOOLS/load" rr -n 10 "$NET4" 9302
    done
    engines=$(us_status "undersock-$FAST" "[sum(w[k] for w in s['workers']) > 0 for k in ('bytes_copied', 'bytes_spliced')]")
    case $FAST in
    copy) is "$engines" "[True, False]" "copy: nothing was spliced" ;;
    # What urgent data may be hidden behind is read by copying.
    splice) is "$(us_status undersock-splice "sum(w['bytes_spliced'] - 2 * w['bytes_copied'] for w in s['workers']) > 0")" True "splice: most was spliced" ;;
    sockmap)
        num "$(us_sum undersock-sockmap bytes_redirected)" -gt 0 "sockmap: the kernel moved bytes"
        is "$(us_sum undersock-sockmap sockmap_lost)" 0 "sockmap: and lost none"
        ;;
    auto) is "$engines" "[True, True]" "auto: both engines were at work" ;;
    esac
    check "$FAST: no flow is left" -- wait_for 20 eval '[[ $(us_sum "undersock-$FAST" flows) == 0 ]]'
    is "$(us_status "undersock-$FAST" "[sum(w[k] for w in s['workers']) for k in ('failed', 'refused_full', 'refused_loop', 'refused_stray')]")" "[0, 0, 0, 0]" "$FAST: nothing failed"
    is "$(us_status "undersock-$FAST" "sum(w['accepted'] for w in s['workers'])")" "$(us_status "undersock-$FAST" "sum(w['finished'] + w['reset'] for w in s['workers'])")" "$FAST: every flow has ended, and once"
    stop "undersock-$FAST"
done
is "$(leaks end sink first first-glued end-late end-own first-late sink-late)" 0 "nothing went direct"
done_testing
