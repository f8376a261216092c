#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# connect = "early": the application is connected before the upstream has been asked, by every hook; a
# failure is a reset right after that, never a clean FIN and never an errno of connect(). A reload
# changes one into the other.
. "$(dirname "$0")/lib.sh"
FAST_PATH=${FAST_PATH:-relay} # what is stitched is not held by us, and outlives us
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/honest.sh"

need python3 nft
topology
lan
cg_new app
honest_sysctls client one
verdict_server

config() { # KEYS...
    local hook
    echo "control = \"$TMP/undersock.sock\""
    echo "upstream \"verdicts\" { url = \"socks5://$PROXY4:$VERDICTS\" handshake-timeout = \"4s\" }"
    for hook in output gateway cgroup; do capture_text $hook all verdicts "$@"; done
}
# Every verdict but the one that waits until it is told.
PORTS=(20000-20019 20021-20024)
# results ADDRESS...: by every hook at once: for each, PORT=RESULT of all ports, and no connect() that
# took long.
results() {
    local hook a WHERE
    for hook in output gateway cgroup; do
        where $hook
        for a; do start "early-$hook-$a" -- "${WHERE[@]}" "$TOOLS/connects" -t 15 "$a" "${PORTS[@]}"; done
    done
    for hook in output gateway cgroup; do
        for a; do
            wait_exit "early-$hook-$a" 30
            is "$(sort "${LOG[early-$hook-$a]}" | awk '{print $1 "=" $2}' | paste -sd ' ')" "$early" \
                "$hook, $a: connected, and then reset where the upstream said no"
            num "$(sort -k 3n "${LOG[early-$hook-$a]}" | tail -n 1 | awk '{print $3}')" -lt 2000 \
                "$hook, $a: no connect() waits for the verdict"
            stop "early-$hook-$a"
            rm -f "${LOG[early-$hook-$a]}"
        done
    done
}
early=''
for ((p = 20000; p < 20025; p++)); do
    case $p in
    20000 | 20001 | 20002) early+="$p=OK " ;;
    20020) ;;
    *) early+="$p=lost=RST " ;;
    esac
done
early=${early% }

us_daemon client < <(config 'connect = "early"')
results "$NET4" "$NET6"

# --- one into the other
cp "$TMP/undersock.conf" "$TMP/early.conf"
config 'connect = "honest"' >"$TMP/undersock.conf"
us_reload undersock || bail "reload"
for hook in output gateway cgroup; do
    connect_all "honest-$hook-4" $hook blocking "$NET4" $(expected_ports 4 20000 20024)
    connect_all "honest-$hook-6" $hook blocking "$NET6" $(expected_ports 6 20000 20024)
done
for hook in output gateway cgroup; do
    for f in 4 6; do
        wait_exit "honest-$hook-$f" 60
        as_expected "$hook, IPv$f: after a reload with connect = \"honest\" connect() says it" "${LOG[honest-$hook-$f]}" $f 20000 20024
        stop "honest-$hook-$f"
        rm -f "${LOG[honest-$hook-$f]}"
    done
done
cp "$TMP/early.conf" "$TMP/undersock.conf"
us_reload undersock || bail "reload"
results "$NET4"
nothing_left "the end"
done_testing
