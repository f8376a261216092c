#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A SOCKS server on the captured host that starts after the daemon, or is replaced by another user's:
# nothing is asked of it before it is known whose it is. An ordinary user's own connections are then
# left alone; root's cannot be, and flows fail with the line to add. Never a loop.

# A hosts file of our own, for the daemon alone.
if ((EUID == 0)) && [[ ${UNDERSOCK_PRIVATE:-} != "$$" ]]; then
    UNDERSOCK_PRIVATE=$$ exec unshare -m --propagation slave bash "$0" "$@"
fi
. "$(dirname "$0")/lib.sh"

need setpriv microsocks
topology
net_who
us_daemon client <<CONF
workers = 1
log-level = "info"
upstream "u" {
    url = "socks5://127.0.0.1:1080"
}
capture "host" {
    hook     = "output"
    upstream = "u"
}
CONF

# as UID: a SOCKS server of that user on the client's loopback
as() {
    start proxy -- ns client setpriv --reuid "$1" --regid "$1" --clear-groups \
        microsocks -i 127.0.0.1 -p 1080
    wait_port client tcp 127.0.0.1 1080
}
seen_again() { (($(lines 'uid 0.*add not-uid') > complaints)); }
ask() { bounded 30 ns client "$TOOLS/who" "$NET4" 9000; }
count() { us_sum undersock "$1"; }
lines() { grep -Ec "$1" "${LOG[undersock]}"; }

is "$(ask)" "connect=ECONNREFUSED" "nobody listens there: the connection is refused"

as 65533
is "$(ask)" "$CLIENT4" "it has come up: served, by its own direct connection to the target"
num "$(lines 'uid 65533.*left alone, as by not-uid')" -ge 1 "its user is excluded, and the log says so"
before=$(count accepted)
for _ in 1 2 3 4 5; do ask; done >/dev/null
is $(($(count accepted) - before)) 5 "five connections are five flows: none of them came back"
stop proxy

is "$(ask)" "connect=ECONNREFUSED" "it is gone again: refused"
as 0
is "$(ask)" "connect=ECONNREFUSED" "root's server in its place: refused, not looped"
num "$(lines 'uid 0.*add not-uid = . "root" .')" -ge 1 "and the log has the line to add"
num "$(count accepted)" -lt 20 "no flood of flows"
stop proxy

is "$(lines 'warning: capture')" 0 "(to leave a service alone is worth no warning)"
as 12345
is "$(ask)" "$CLIENT4" "another user's server, a person's: served"
num "$(lines 'warning: capture host: .*uid 12345.*left alone.*"12345".*goes direct')" -ge 1 "excluded, and warned of"
stop proxy
complaints=$(lines 'uid 0.*add not-uid')
as 0
# Nobody has asked meanwhile: the daemon sees by itself that another socket listens there.
check "it says so" -- wait_for 20 seen_again
is "$(ask)" "connect=ECONNREFUSED" "root's server again, with no connection tried between the two: refused"
num "$(count accepted)" -lt 40 "no flood of flows"
is "$(count refused_loop)" 0 "no loop was met anywhere"
us_stop=$(bounded 20 "$UNDERSOCK" stop -s "$TMP/undersock.sock" 2>&1)
is "$us_stop" "" "stopped"

# One of two is not there at all, which is no reason to ask nothing of the other.
stop proxy
us_daemon client <<CONF
workers = 1
upstream "u" { url = "socks5://127.0.0.1:1080" }
upstream "absent" { url = "socks5://127.0.0.1:1081" }
group "g" {
    policy  = "failover"
    members = { "u", "absent" }
}
capture "host" {
    hook     = "output"
    upstream = "g"
}
CONF
is "$(ask)" "connect=ECONNREFUSED" "two, and none is there: refused"
as 65531
is "$(ask)" "$CLIENT4" "one comes up: served"
stop proxy
is "$(ask)" "connect=ECONNREFUSED" "it goes: refused"
as 65530
is "$(ask)" "$CLIENT4" "another user's in its place: served, though the second is still not there"
complaints=$(lines 'uid 0.*add not-uid')
start bad -- ns client microsocks -i 127.0.0.1 -p 1081
check "root's comes up as the second, and it says so" -- wait_for 20 seen_again
is "$(ask)" "$CLIENT4" "the first is asked all the same"
stop proxy
is "$(ask)" "connect=ECONNREFUSED" "without it: refused, the second is not asked"
is "$(count refused_loop)" 0 "and no loop was met"
stop undersock
stop bad

# A name with an address of each family, and a server that has one of them, as tor and many others do.
printf '%s\n' '127.0.0.1 localhost' '::1 localhost' >"$TMP/hosts"
mount --bind "$TMP/hosts" /etc/hosts || bail "hosts"
as 65529
us_daemon client <<CONF
workers = 1
upstream "u" { url = "socks5://localhost:1080" }
capture "host" {
    hook     = "output"
    upstream = "u"
}
CONF
is "$(ask)" "$CLIENT4" "localhost, and only 127.0.0.1 is there: served"
stop proxy
is "$(ask)" "connect=ECONNREFUSED" "it goes: refused"
as 65528
is "$(ask)" "$CLIENT4" "it comes again: served"
before=$(count accepted)
start six -- ns client setpriv --reuid 65527 --regid 65527 --clear-groups microsocks -i ::1 -p 1080
wait_port client tcp ::1 1080
is "$(ask)" "$CLIENT4" "a server of another user's has the other address now: served"
is $(($(count accepted) - before)) 1 "and that is one flow, whichever was asked"
stop proxy
is "$(ask)" "$CLIENT4" "and alone"
stop six
is "$(count refused_loop)" 0 "no loop was met"
stop undersock

# The same of a cgroup whose connections are stitched: the server is in it, and nothing is tried by the kernel
# either before it is known whose it is.
. "$LIB_DIR/stitch.sh"
stop proxy
us_daemon client < <(config "socks5://127.0.0.1:1080")
in_it() { # UID
    start proxy -- cg app ns client setpriv --reuid "$1" --regid "$1" --clear-groups \
        microsocks -i 127.0.0.1 -p 1080
    wait_port client tcp 127.0.0.1 1080
}
in_it 0
is "$(seen "$NET4" 9000) $(st begun)" "connect=ECONNREFUSED 0" "cgroup: root's server comes up in it: refused, and never stitched"
like "$(us_status undersock "s['captures'][0]['why_relayed']")" 'on this host, and not known yet' "status says why"
stop proxy
in_it 65533
is "$(seen "$NET4" 9000)" "$CLIENT4" "cgroup: another user's: served"
check "and stitched from then on" -- wait_for 20 stitched_is True
is "$(seen "$NET4" 9000) $(st begun) $(st granted)" "$CLIENT4 1 1" "once: its own connection to the target is direct"
done_testing
