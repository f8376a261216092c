#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A whole host is captured, and its upstream runs on that very host: `ssh -D`, Dante, our own server.
# Whose process it is decides: an ordinary user's own connections are left alone, so there is no loop;
# root's cannot be, and the start is refused with the line to add.
. "$(dirname "$0")/lib.sh"

need python3 nft setpriv ssh danted getent
getent passwd games >/dev/null || skip_all "there is no user games"
topology
net_who 9000
start load -- ns net "$TOOLS/load" server :: 9003
wait_port net tcp :: 9003
cg_new app
# Where an ordinary user can read them.
install -m 755 "$UNDERSOCK" "$TOOLS/who" "$TOOLS/load" "$TMP" || bail "install"

as() { AS=(ns client setpriv --reuid "$1" --regid "$(id -g "$1" 2>/dev/null || echo "$1")" --clear-groups --inh-caps=-all); }
# The far end of ssh has an address that no default exclusion covers.
sshd_at sshd "$TMP/sshd.d" proxy 2222 "$EXIT4"
local_ssh() { # NAME USER ADDR PORT
    local dir=$TMP/$1.d SSH
    mkdir -p "$dir"
    cp "$TMP/sshd.d/user" "$dir/user"
    chown -R "$2" "$dir"
    as "$2"
    ssh_to "$dir" -N -D "$3:$4" -p 2222 -o ExitOnForwardFailure=yes
    start "$1" -- "${AS[@]}" "${SSH[@]}" "root@$EXIT4"
    wait_port client tcp "${3//[\[\]]/}" "$4"
}
local_dante() { # NAME USER ADDR PORT [WRAPPER...]
    local dir=$TMP/$1.d
    mkdir -p "$dir"
    cat >"$dir/danted.conf" <<-CONF
	errorlog: stderr
	logoutput: stderr
	internal: $3 port = $4
	external.rotation: route
	external: $CLIENT4
	external: $CLIENT6
	clientmethod: none
	socksmethod: none
	user.privileged: $2
	user.unprivileged: $2
	client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
	client pass { from: ::/0 to: ::/0 }
	socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
	socks pass { from: ::/0 to: ::/0 }
	socks pass { from: 0.0.0.0/0 to: ::/0 }
	socks pass { from: ::/0 to: 0.0.0.0/0 }
	CONF
    chown -R "$2" "$dir"
    as "$2"
    start "$1" -- "${@:5}" "${AS[@]}" danted -f "$dir/danted.conf" -p "$dir/pid"
    wait_port client tcp "$3" "$4"
}

config() { # ADDR:PORT KEY...
    echo "upstream \"local\" { url = \"socks5://$1\" }"
    echo 'capture "host" {'
    echo '    hook     = "output"'
    echo '    upstream = "local"'
    printf '    %s\n' "${@:2}"
    echo '}'
}
seen() { ns client "$TMP/who" "$@"; }
seen_as() {
    as "$1"
    "${AS[@]}" "$TMP/who" "${@:2}"
}
figures() { echo "[$(us_sum "$1" accepted), $(us_sum "$1" granted), $(us_sum "$1" refused_loop)]"; }
# works DAEMON FROM4 FROM6 DESCRIPTION: root's and an ordinary user's connections come from there,
# and the daemon has seen each of them once.
works() {
    is "$(seen "$NET4" 9000) $(seen "$NET6" 9000)" "$2 $3" "$4: goes through"
    is "$(seen_as 41001 "$NET4" 9000) $(seen_as 41001 "$NET6" 9000)" "$2 $3" "$4: for an ordinary user too"
    check "$4: 200 connections" -- ns client "$TMP/load" conn -n 200 -c 4 "$NET4" 9003
    is "$(figures "$1")" "[204, 204, 0]" "$4: each is seen once, there is no loop"
    before=$(us_sum "$1" accepted)
    is "$(ns client curl -qsS --max-time 20 -x "socks5://$5" "http://$NET4:9000/")" "$2" "$4: who speaks to it himself can"
    is "$(us_sum "$1" accepted)" "$before" "$4: and is not seen"
}
excluded() { # DAEMON REGEX DESCRIPTION
    like "$(grep 'left alone' "${LOG[$1]}")" "$2.*as by not-uid = \{ \"games\" \}" "$3: the log says whose connections are left alone"
}

# --- ssh -D
local_ssh tunnel games 127.0.0.1 1080
us_daemon client ssh < <(config 127.0.0.1:1080)
excluded ssh "ssh \(pid ${PID[tunnel]}" "ssh -D"
works ssh "$EXIT4" "$EXIT6" "ssh -D" 127.0.0.1:1080
# It comes back after a while, as another process.
stop tunnel
is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "ssh -D is gone: refused"
local_ssh tunnel games 127.0.0.1 1080
is "$(seen "$NET4" 9000) $(seen "$NET6" 9000)" "$EXIT4 $EXIT6" "ssh -D is back: goes through"
check "a reload" -- us_reload ssh
is "$(seen "$NET4" 9000) $(seen "$NET6" 9000)" "$EXIT4 $EXIT6" "and afterwards"
is "$(us_sum ssh refused_loop)" 0 "no loop in all this"
stop ssh
local_ssh tunnel6 games '[::1]' 1080
us_daemon client ssh6 < <(config '[::1]:1080' 'private = true')
excluded ssh6 "ssh \(pid ${PID[tunnel6]}" "ssh -D on ::1, private destinations too"
works ssh6 "$EXIT4" "$EXIT6" "ssh -D on ::1, private destinations too" '[::1]:1080'
stop ssh6

# --- Dante, all of whose processes are an ordinary user's
local_dante dante games 127.0.0.1 1081
us_daemon client by-dante < <(config 127.0.0.1:1081)
excluded by-dante "danted" "Dante"
works by-dante "$CLIENT4" "$CLIENT6" "Dante" 127.0.0.1:1081
stop by-dante
us_daemon client by-dante-private < <(config 127.0.0.1:1081 'private = true')
works by-dante-private "$CLIENT4" "$CLIENT6" "Dante, private destinations too" 127.0.0.1:1081
stop by-dante-private
# Reached by another address of this host.
local_dante dante2 games "$CLIENT4" 1082
us_daemon client by-dante2 < <(config "$CLIENT4:1082")
excluded by-dante2 "danted" "Dante on an address of the link"
works by-dante2 "$CLIENT4" "$CLIENT6" "Dante on an address of the link" "$CLIENT4:1082"
stop by-dante2

# --- by root: no
cannot() { # NAME DESCRIPTION, the configuration on standard input
    cat >"$TMP/$1.conf"
    echo "control = \"$TMP/$1.sock\"" >>"$TMP/$1.conf"
    check_status 2 "$2: the start is refused, exit status 2" -- bounded 20 nsenter --net="/run/netns/$US-client" "$UNDERSOCK" daemon -c "$TMP/$1.conf"
    WHY=$(bounded 20 nsenter --net="/run/netns/$US-client" "$UNDERSOCK" daemon -c "$TMP/$1.conf" 2>&1)
    like "$WHY" 'not-uid = \{ "root" \}' "$2: with the line to add"
    is "$(wc -l <<<"$WHY") $(tables_of client)" "1 " "$2: in one line, and nothing is installed"
}
local_dante root-dante root 127.0.0.1 1083
cannot no-dante "Dante that runs as root" < <(config 127.0.0.1:1083)
like "$WHY" "danted \(.*pid ${PID[root-dante]}" "and says who it is"
local_ssh root-ssh root 127.0.0.1 1084
cannot no-ssh "ssh -D that runs as root" < <(config 127.0.0.1:1084)
like "$WHY" "ssh \(pid ${PID[root-ssh]}" "and says who it is"
# The line that it has named, word for word.
us_daemon client line < <(config 127.0.0.1:1083 "$(grep -o 'not-uid = { "root" }' <<<"$WHY")")
is "$(seen_as 41001 "$NET4" 9000) $(seen_as 41001 "$NET6" 9000)" "$CLIENT4 $CLIENT6" "with that line it starts, and an ordinary user goes through"
is "$(figures line)" "[2, 2, 0]" "each once, no loop"
is "$(seen "$NET4" 9000)|$(figures line)" "$CLIENT4|[2, 2, 0]" "root goes direct"
stop line
# A reload that would bring it about is refused as well.
us_daemon client later < <(config 127.0.0.1:1081)
config 127.0.0.1:1083 | cat - <(echo "control = \"$TMP/later.sock\"") >"$TMP/later.conf"
check_status 2 "a reload to such an upstream is refused" -- us_reload later
works later "$CLIENT4" "$CLIENT6" "and the old configuration goes on" 127.0.0.1:1081
stop later
# A capture that does not take what it sends.
{
    config 127.0.0.1:1083 | sed '/^capture/,$d'
    echo 'capture "app" { hook = "cgroup"'
    echo "cgroup = \"/$US-app\""
    echo 'upstream = "local" }'
} >"$TMP/outside"
us_daemon client outside <"$TMP/outside"
is "$(cg app nsenter --net="/run/netns/$US-client" "$TMP/who" "$NET4" 9000) $(cg app nsenter --net="/run/netns/$US-client" "$TMP/who" "$NET6" 9000)" \
    "$CLIENT4 $CLIENT6" "Dante that runs as root, outside of the cgroup that is captured: works"
is "$(figures outside)" "[2, 2, 0]" "each once, no loop"
stop outside

# --- our own server
PEER_NAME=own peer_serve client 127.0.0.1 1086
us_daemon client by-own < <(config 127.0.0.1:1086)
works by-own "$CLIENT4" "$CLIENT6" "undersock serve, by root" 127.0.0.1:1086
stop by-own
as games
start own-games -- "${AS[@]}" "$TMP/undersock" serve -l 127.0.0.1:1087
wait_port client tcp 127.0.0.1 1087
us_daemon client by-own-games < <(config 127.0.0.1:1087)
excluded by-own-games "undersock" "undersock serve, by an ordinary user"
works by-own-games "$CLIENT4" "$CLIENT6" "undersock serve, by an ordinary user" 127.0.0.1:1087
stop by-own-games

# --- it comes up after the daemon
us_daemon client before < <(config 127.0.0.1:1088)
is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "nobody is there yet: refused"
local_dante late games 127.0.0.1 1088
check "Dante comes up after the daemon: goes through" -- wait_for 10 eval '[[ $(seen "$NET4" 9000) == "$CLIENT4" ]]'
count=$(us_sum before granted)
check "200 connections" -- ns client "$TMP/load" conn -n 200 -c 4 "$NET4" 9003
is "$(($(us_sum before granted) - count)) $(us_sum before refused_loop)" "200 0" "each once, no loop"
stop late
# The same address, and now it is root's.
is "$(seen "$NET4" 9000)" "connect=ECONNREFUSED" "it is gone again: refused"
count=$(us_sum before accepted)
local_dante late-root root 127.0.0.1 1088
seen -t 10 "$NET4" 9000 >"$TMP/late.out" 2>&1
wait_for 10 us_is before flows -eq 0
is "$(<"$TMP/late.out")" "connect=ECONNREFUSED" "it comes back as root: refused"
# The worker that met the failure knows; until a round ends there, others may pass it on.
num $(($(us_sum before accepted) - count)) -lt 100 "and it does not go round and round"
done_testing
