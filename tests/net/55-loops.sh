#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Never a loop: the daemon's own sockets, the upstreams and our own listeners are not captured; what
# comes back all the same, by somebody else's rules, is reset, counted and logged once.
. "$(dirname "$0")/lib.sh"

need python3 nft
topology
net_who
cg_new app
start who-proxy -- ns proxy "$TOOLS/who" serve 9000
wait_port proxy tcp :: 9000
start who-client -- ns client "$TOOLS/who" serve 9000
wait_port client tcp :: 9000
peer_bad proxy "$PROXY4" 1080 good
PEER_NAME=second peer_bad proxy "$PROXY6" 1081 good

requests() { grep -c '^request' "${LOG[badsocks]}"; }
logged() { grep -Ec "$1" "${LOG[$2]}"; }
# listeners DAEMON FAMILY: the ports that it listens on there, in the order of its captures.
listeners() {
    ns client ss -Hlntp "$([[ $2 == 4 ]] && echo -4 || echo -6)" | grep "pid=${PID[$1]}," |
        awk '{print $4}' | sed 's/.*://' | sort -un
}
conf() { # PRIVATE
    cat <<-CONF
	workers = 1
	upstream "u" {
	    url = "socks5://$PROXY4:1080"
	}
	upstream "six" {
	    url = "socks5://[$PROXY6]:1081"
	}
	capture "output" {
	    hook     = "output"
	    upstream = "u"
	    private  = $1
	    not-to   = { "203.0.113.19/32" }
	}
	capture "cgroup" {
	    hook     = "cgroup"
	    cgroup   = "/$US-app"
	    upstream = "six"
	    private  = $1
	}
	CONF
}
who() { ns client "$@"; }

# --- nobody's connection: straight to a listener of ours
us_daemon client < <(conf false)
mapfile -t ports4 < <(listeners undersock 4)
mapfile -t ports6 < <(listeners undersock 6)
is "${#ports4[@]} ${#ports6[@]}" "4 4" "two listeners for each capture and family: who is connected early, and who was held"
n=0
for p in "${ports4[@]}"; do
    is "$(who "$TOOLS/who" 127.0.0.1 "$p")" "lost=RST" "a direct connection to our listener, 127.0.0.1:$p: reset"
    is "$(who cg app "$TOOLS/who" 127.0.0.1 "$p")" "lost=RST" "from the captured cgroup: reset"
    is "$(who "$TOOLS/who" -M 127.0.0.1 "$p")" "lost=RST" "from a v4-mapped socket: reset"
    n=$((n + 3))
done
for p in "${ports6[@]}"; do
    is "$(who "$TOOLS/who" ::1 "$p")" "lost=RST" "a direct connection to [::1]:$p: reset"
    is "$(who cg app "$TOOLS/who" ::1 "$p")" "lost=RST" "from the captured cgroup: reset"
    n=$((n + 2))
done
who "$TOOLS/load" conn -n 200 -c 20 127.0.0.1 "${ports4[0]}" >/dev/null
n=$((n + 200))
is "$(us_sum undersock refused_stray)" $n "each is counted as refused_stray"
is "$(us_sum undersock accepted) $(us_sum undersock refused_loop)" "0 0" "none became a flow"
is "$(logged 'that nobody redirected was reset' undersock)" 1 "the log says so once"
is "$(requests)" 0 "nothing was asked of the upstream"

# --- an application that speaks SOCKS itself, and what is on the upstream's host
check "an application that speaks SOCKS itself (output)" -- who "$TOOLS/end" client-exit -x "$PROXY4:1080" "$NET4" 9000 10
is "$(requests)" 1 "one request, its own"
check "an application that speaks SOCKS itself (cgroup)" -- who cg app "$TOOLS/end" client-exit -x "$PROXY4:1080" "$NET4" 9000 10
is "$(requests)" 2 "one request, its own"
is "$(us_sum undersock accepted)" 0 "the upstreams are not captured"
is "$(who "$TOOLS/who" "$PROXY4" 9000)" "$CLIENT4" "a private destination on the upstream's host goes direct"
is "$(who "$TOOLS/who" "$NET4" 9000) $(who "$TOOLS/who" "$NET6" 9000)" "$EXIT4 $EXIT6" "others go through (output)"
is "$(who cg app "$TOOLS/who" "$NET4" 9000) $(who cg app "$TOOLS/who" "$NET6" 9000)" "$EXIT4 $EXIT6" "others go through (cgroup)"

# --- private = true, and the upstreams have private addresses
stop undersock
us_daemon client < <(conf true)
before=$(requests)
is "$(who "$TOOLS/who" "$PROXY4" 9000) $(who "$TOOLS/who" "$PROXY6" 9000)" "$PROXY4 $PROXY6" "private: the upstream's host is reached from itself (output)"
is "$(who cg app "$TOOLS/who" "$PROXY4" 9000) $(who cg app "$TOOLS/who" "$PROXY6" 9000)" "$PROXY4 $PROXY6" "private: the same (cgroup)"
is "$(who "$TOOLS/who" 127.0.0.1 9000) $(who "$TOOLS/who" ::1 9000)" "127.0.0.1 ::1" "private: loopback is the upstream's (output)"
is "$(who cg app "$TOOLS/who" 127.0.0.1 9000) $(who cg app "$TOOLS/who" ::1 9000)" "127.0.0.1 ::1" "private: the same (cgroup)"
is "$(grep -c peer= "${LOG[who-client]}")" 0 "and not the client's"
is "$(who "$TOOLS/who" 203.0.113.19 9000)" "$CLIENT4" "not-to goes direct"
is "$(($(requests) - before + $(grep -c '^request' "${LOG[second]}")))" 10 "one request for each, and none for an upstream"
is "$(who "$TOOLS/who" 127.0.0.1 "${ports4[0]}") $(who cg app "$TOOLS/who" ::1 "${ports6[1]}")" "lost=RST lost=RST" "private: our own listeners are still not captured"
is "$(us_sum undersock refused_stray) $(us_sum undersock refused_loop)" "2 0" "and counted"

# --- somebody else's rules send the upstream's address to us, our own connections to it included
stop undersock
us_daemon client < <(conf false)
mapfile -t ports4 < <(listeners undersock 4)
ns client nft -f - <<-NFT || bail "the administrator's rules"
	table ip admin {
	    chain output {
	        type nat hook output priority -150;
	        ip daddr $PROXY4 tcp dport 1080 redirect to :${ports4[0]}
	        ip daddr 127.0.0.1 tcp dport ${ports4[1]} redirect to :${ports4[0]}
	    }
	}
	NFT
before=$(requests)
is "$(who "$TOOLS/who" "$PROXY4" 1080)" "lost=RST" "a connection to the upstream that is redirected to us: reset"
is "$(us_sum undersock refused_loop)" 1 "and counted"
is "$(who "$TOOLS/who" 127.0.0.1 "${ports4[1]}")" "lost=RST" "one to our own listener: reset"
is "$(us_sum undersock refused_loop)" 2 "and counted"
is "$(who "$TOOLS/who" "$NET4" 9000)" "connect=ECONNREFUSED" "a flow whose upstream connection comes back to us: refused"
is "$(us_sum undersock refused_loop)" 3 "and counted, once: it does not go round"
who "$TOOLS/load" conn -n 100 -c 10 "$NET4" 9000 >/dev/null
is "$(us_sum undersock refused_loop)" 103 "a hundred more: a hundred"
is "$(us_sum undersock accepted) $(us_sum undersock failed) $(us_sum undersock granted)" "101 101 0" "none went through"
is "$(logged 'a loop: ' undersock)" 1 "the log says so once"
like "$(grep 'a loop: ' "${LOG[undersock]}")" "asks for $PROXY4:1080, which is our own listener or upstream" "and names the address"
is "$(requests)" "$before" "nothing reached the upstream"
ns client nft delete table ip admin
is "$(who "$TOOLS/who" "$NET4" 9000)" "$EXIT4" "without those rules it works again"
wait_for 10 us_is undersock flows -eq 0
is "$(us_sum undersock flows)" 0 "no flow is left behind"

# --- a daemon inside the cgroup that it captures
stop undersock
conf false | sed 's/hook     = "output"/hook     = "cgroup"\n    cgroup   = "\/'"$US-app"'"/' >"$TMP/inside.conf"
echo "control = \"$TMP/inside.sock\"" >>"$TMP/inside.conf"
start inside -- ns client cg app "$UNDERSOCK" daemon -c "$TMP/inside.conf"
wait_for 20 answers inside || bail "the daemon in the cgroup is not up"
is "$(who cg app "$TOOLS/who" "$NET4" 9000) $(who cg app "$TOOLS/who" "$NET6" 9000)" "$EXIT4 $EXIT6" "a daemon in the cgroup that it captures: its own connections are not captured"
is "$(us_sum inside accepted) $(us_sum inside refused_loop)" "2 0" "two flows, no loop"

# --- an upstream on this host: its own connections would come back to it for ever
stop inside
chmod 755 "$TMP"
local_conf() { # PORT [LINE...]: two captures that would take what the upstream itself sends
    cat <<-CONF
	workers = 1
	upstream "local" {
	    url = "socks5://127.0.0.1:$1"
	}
	capture "host" {
	    hook     = "output"
	    upstream = "local"
	    ${2:-}
	}
	capture "cgroup" {
	    hook     = "cgroup"
	    cgroup   = "/$US-app"
	    upstream = "local"
	    private  = true
	}
	CONF
}
works() { # DAEMON DESCRIPTION
    is "$(who "$TOOLS/who" "$NET4" 9000) $(who "$TOOLS/who" "$NET6" 9000)" "$CLIENT4 $CLIENT6" "$2: goes through (output)"
    is "$(who cg app "$TOOLS/who" "$NET4" 9000) $(who cg app "$TOOLS/who" 127.0.0.1 9000)" "$CLIENT4 127.0.0.1" "$2: goes through (cgroup), to loopback too"
    is "$(us_sum "$1" accepted) $(us_sum "$1" granted) $(us_sum "$1" refused_loop)" "4 4 0" "$2: each once, no loop"
}
as_user() { argv_of ns client setpriv --reuid 65533 --regid 65533 --clear-groups "$@"; }

as_user "$TOOLS/badsocks" good 127.0.0.1 1090
start user -- "${ARGV[@]}"
wait_port client tcp 127.0.0.1 1090
us_daemon client excluded < <(local_conf 1090 'not-uid = { "65533" }')
works excluded "an upstream on this host, its user in not-uid"
stop excluded
us_daemon client found < <(local_conf 1090)
works found "an upstream on this host, its user found out"
is "$(logged 'left alone, as by not-uid = ..."?65533' found)" 1 "the log says who is left alone"
stop found
# Its group of processes is inside the cgroup too: only the user parts them.
stop user
as_user "$TOOLS/badsocks" good 127.0.0.1 1090
start user -- cg app "${ARGV[@]}"
wait_port client tcp 127.0.0.1 1090
us_daemon client inside-cgroup < <(local_conf 1090)
works inside-cgroup "an upstream in the captured cgroup, its user found out"
stop inside-cgroup

peer_serve client 127.0.0.1 1091
us_daemon client own < <(local_conf 1091)
works own "undersock serve on this host, as root"
stop own

PEER_NAME=root peer_bad client 127.0.0.1 1092 good
local_conf 1092 >"$TMP/root.conf"
echo "control = \"$TMP/root.sock\"" >>"$TMP/root.conf"
check_status 2 "an upstream on this host that runs as root: refused, exit status 2" -- bounded 20 nsenter --net="/run/netns/$US-client" "$UNDERSOCK" daemon -c "$TMP/root.conf"
like "$(bounded 20 nsenter --net="/run/netns/$US-client" "$UNDERSOCK" daemon -c "$TMP/root.conf" 2>&1)" 'not-uid = \{ "root" \}' "with the line to add"
is "$(tables_of client)" "" "nothing is installed"
done_testing
