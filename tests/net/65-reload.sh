#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Reload: no connection fails on its account, no established flow ends, what the new configuration
# says holds at once, and a bad one changes nothing.
. "$(dirname "$0")/lib.sh"

need python3 nft
topology
net_who
cg_new app
peer_serve proxy "$PROXY4" 1080
PEER_NAME=other peer_bad proxy "$PROXY4" 1081 good
start load -- ns net "$TOOLS/load" server :: 9003
start source -- ns net "$TOOLS/pattern" serve :: 9001
wait_port net tcp :: 9003
wait_port net tcp :: 9001

# conf WORKERS UPSTREAM CAPTURE...: the configuration of "undersock" from now on.
conf() {
    local c
    cat <<-CONF
	workers = $1
	control = "$TMP/undersock.sock"
	upstream "u" {
	    url = "socks5://$PROXY4:$2"
	}
	CONF
    for c in "${@:3}"; do
        echo "capture \"$c\" {"
        echo "    upstream = \"u\""
        # Not one of thousands of connections may fail: see the README about honest ones.
        echo "    connect = \"${MODE:-early}\""
        [[ $c == output* ]] && echo "    hook = \"output\""
        [[ $c == cgroup* ]] && echo "    hook = \"cgroup\"" && echo "    cgroup = \"/$US-app\""
        echo "}"
    done
}
configure() { conf "$@" >"$TMP/undersock.conf"; }
reload() { us_reload undersock; }
pids() { us_status undersock '" ".join(str(w["pid"]) for w in s["workers"])'; }
draining() { us_status undersock 'len([w for w in s["workers"] if w["draining"]])'; }
workers_are() { [[ $(us_status undersock 'len(s["workers"])') == "$1" && $(draining) == 0 ]]; }
flows_on_port() { us_flows undersock "len([f for f in s if f['destination'].endswith(':$1')])"; }
sees() { # WANT-OUTPUT WANT-CGROUP DESCRIPTION
    is "$(ns client "$TOOLS/who" "$NET4" 9000) $(ns client cg app "$TOOLS/who" "$NET4" 9000)" "$1 $2" "$3"
}
hold() { start "$1" -- "${@:3}" sh -c "exec '$TOOLS/load' hold -n $2 $NET4 9003 <>'$TMP/never'"; }
held() { wait_log "$1" "\"phase\": \"open\", \"want\": $2, \"open\": $2" 20 || bail "$1: not all flows are open"; }
release() { # NAME N DESCRIPTION
    kill -s USR1 "${PID[$1]}"
    wait_exit "$1" 20
    like "$(tail -n 1 "${LOG[$1]}")" "\"phase\": \"end\", \"want\": $2, \"open\": $2, .*\"errors\": \\{\\}" "$3"
}
mkfifo "$TMP/never"

us_daemon client < <(conf 2 1080 output cgroup)
sees "$EXIT4" "$EXIT4" "both hooks: through the proxy"

# --- under load
first=$(pids)
# What the rules have for the seats of earlier workers goes with the next reload only.
check "a reload of idle workers" -- reload
check "the old ones go" -- wait_for 10 workers_are 2
keeper_fds=$(fd_count "${PID[undersock]}")
hold held 40 ns client
hold held-cgroup 40 ns client cg app
held held 40
held held-cgroup 40
start transfer -- ns client "$TOOLS/pattern" recv -r 4096 -p 1000 -R 16384 -t 250 "$NET4" 9001 64M
for hook in output cgroup; do
    wrap=(ns client)
    [[ $hook == cgroup ]] && wrap+=(cg app)
    start "conn-$hook" -- "${wrap[@]}" "$TOOLS/load" conn -n 8000 -c 8 "$NET4" 9003
done
reloads=0 failures=0
while running conn-output && ! has_ended conn-output && ! has_ended conn-cgroup; do
    reload >>"$TMP/reload.out" 2>&1 || failures=$((failures + 1))
    reloads=$((reloads + 1))
done
num $reloads -ge 10 "reload, again and again, while both hooks are busy: $reloads times"
is $failures 0 "each succeeds"
for hook in output cgroup; do
    wait_exit "conn-$hook" 60
    like "$(cat "${LOG[conn-$hook]}")" '"done": 8000, .*"errors": \{\}' "$hook: of 8000 connections meanwhile none fails"
done
is "$(flows_on_port 9003) $(flows_on_port 9001)" "80 1" "the flows from before are listed"
is "$(us_flows undersock 'len(s) - len(set(f["id"] for f in s))')" 0 "and no id is there twice"
num "$(draining)" -ge 1 "the workers from before finish their flows"
is "$(us_status undersock "len([w for w in s['workers'] if not w['draining']])")" 2 "two take the new ones"
sees "$EXIT4" "$EXIT4" "new connections go through"
hold fresh 40 ns client
held fresh 40
is "$(us_flows undersock 'len(s) - len(set(f["id"] for f in s))')" 0 "old and new flows together: no id is there twice"
is "$(us_status undersock "[(u['name'], u['healthy'], u['granted'] - sum(w['granted'] for w in s['workers'])) for u in s['upstreams']]")" \
    "[('u', True, 0)]" "status: the upstream is there once, with what all workers were granted"
is "$("$UNDERSOCK" status -s "$TMP/undersock.sock" | grep -c '^upstream u .*: healthy, granted ')" 1 "in words too"
# The text format of Prometheus, read strictly: HELP, TYPE, then all samples of that metric, no series twice.
cat >"$TMP/metrics.py" <<'PY'
import json, re, sys
name, series, seen = None, {}, set()
for n, line in enumerate(sys.stdin.read().splitlines(), 1):
    if m := re.fullmatch(r"# HELP (undersock_[a-z_]+) \S.*", line):
        name, kind = m[1], None
        assert name not in seen, f"{n}: {name} comes again"
        seen.add(name)
    elif m := re.fullmatch(r"# TYPE (undersock_[a-z_]+) (gauge|counter)", line):
        assert m[1] == name and not kind, f"{n}: TYPE without its HELP"
        kind = m[2]
        assert (kind == "counter") == name.endswith("_total"), f"{n}: {name} is no {kind}"
    else:
        m = re.fullmatch(r'(undersock_[a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\[\\"n])*",?)*)\})? ([0-9.]+)', line)
        assert m and m[1] == name and kind, f"{n}: {line}"
        assert (name, m[2]) not in series, f"{n}: twice"
        series[name, m[2]] = float(m[3])
s = json.load(open(sys.argv[1]))
def total(metric):
    return sum(v for k, v in series.items() if k[0] == "undersock_" + metric)
for key, metric in ("flows", "flows"), ("accepted", "accepted_total"), ("granted", "granted_total"), ("bytes_copied", "bytes_copied_total"):
    assert total(metric) == sum(w[key] for w in s["workers"]) > 0, key
for w in s["workers"]:
    assert series["undersock_flows", f'worker="{w["worker"]}",pid="{w["pid"]}"'] == w["flows"]
assert series["undersock_upstream_granted_total", 'upstream="u"'] == s["upstreams"][0]["granted"]
assert series["undersock_capture_installed", 'capture="cgroup",upstream="u"'] == 1
print(len(s["workers"]) > 2, "undersock_udp_datagrams_up_total" in seen, "undersock_dns_queries_total" in seen, "undersock_stitch_begun_total" in seen)
PY
"$UNDERSOCK" status --json -s "$TMP/undersock.sock" >"$TMP/status.json"
is "$("$UNDERSOCK" metrics -s "$TMP/undersock.sock" | python3 "$TMP/metrics.py" "$TMP/status.json" 2>&1 | tail -n 1)" "True True True True" \
    "metrics: the same in the text format of Prometheus, draining workers included"
release fresh 40 "a flow of the new workers works"
kill -TERM "${PID[transfer]}"
wait_exit transfer 10
release held 40 "output: the flows from before the first reload work (40)"
release held-cgroup 40 "cgroup: likewise"
check "with their last flow the old workers go" -- wait_for 10 workers_are 2
isnt "$(pids)" "$first" "the workers are others now"
is "$(us_workers undersock | wc -w)" 2 "no process of theirs is left"
check "one more reload of idle workers" -- reload
check "these go too" -- wait_for 10 workers_are 2
is "$(fd_count "${PID[undersock]}")" "$keeper_fds" "the keeper has as many descriptors as before"

# --- two workers and one upstream: what is known of it last counts, whichever of them has asked
healthy() { us_status undersock "[u['healthy'] for u in s['upstreams']]"; }
stop serve
ns client "$TOOLS/load" conn -n 20 "$NET4" 9003 >"$TMP/dead.json"
is "$(healthy)" "[False]" "status: the upstream is down"
peer_serve proxy "$PROXY4" 1080
sees "$EXIT4" "$EXIT4" "it is back"
is "$(healthy)" "[True]" "and so says status, though a worker may not have asked it since"

# --- a bad configuration
same() { # DESCRIPTION; BEFORE is what there was
    is "$(state)" "$BEFORE" "$1: rules, workers, listeners and BPF objects are the same"
    sees "$EXIT4" "$EXIT4" "$1: and it works as before"
}
state() {
    tables_of client
    ns client nft list ruleset
    ns client ss -Hlnt | awk '{print $4}' | sort
    echo "workers $(us_workers undersock)"
    # A program may have been replaced and put back; the link is what must not go away.
    cgroup_objects "$(cg_path app)" | grep link
}
# Nothing bad must have been put in force in between: a flow that goes on says so.
hold steady 20 ns client
hold steady-cgroup 20 ns client cg app
held steady 20
held steady-cgroup 20
BEFORE=$(state)
refused() { # STATUS REGEX DESCRIPTION; the configuration comes on standard input
    local out rc
    cat >"$TMP/undersock.conf"
    out=$(reload 2>&1)
    rc=$?
    is $rc "$1" "$3: reload fails with exit status $1"
    like "$out" "$2" "$3: and says why"
    like "$(tail -n 5 "${LOG[undersock]}")" "$2" "$3: so does the daemon's log"
    same "$3"
}
refused 2 'undersock.conf:[0-9]+: ' "an unknown key" < <(conf 2 1080 output cgroup; echo 'nonsense = 1')
refused 2 'undersock.conf:[0-9]+: ' "a syntax error" < <(conf 2 1080 output cgroup; echo 'upstream {{')
refused 2 'undersock.conf:[0-9]+: ' "a reference to nothing" < <(conf 2 1080 output cgroup | sed 's/upstream = "u"/upstream = "v"/')
refused 1 'nowhere.invalid' "an upstream that cannot be resolved" < <(conf 2 1080 output cgroup | sed "s/$PROXY4/nowhere.invalid/")
refused 1 "/$US-none" "a cgroup that does not exist, behind an output capture that would change" < <(conf 4 1081 output output2 cgroup | sed "s/$US-app/$US-none/")
rm "$TMP/undersock.conf"
reload >/dev/null 2>&1
isnt $? 0 "no configuration file at all: reload fails"
same "no configuration file"
release steady 20 "the flows of before work (output)"
release steady-cgroup 20 "the flows of before work (cgroup)"

# --- what is new holds
configure 3 1080 output cgroup
check "workers = 3" -- reload
check "there are three" -- wait_for 10 workers_are 3
sees "$EXIT4" "$EXIT4" "and it works"
configure 1 1080 output cgroup
check "workers = 1" -- reload
check "there is one" -- wait_for 10 workers_are 1
check "it serves what would have been others' too" -- ns client "$TOOLS/load" conn -n 500 -c 8 "$NET4" 9003
check "by the cgroup hook as well" -- ns client cg app "$TOOLS/load" conn -n 500 -c 8 "$NET6" 9003

: >"${LOG[other]}"
configure 2 1081 output cgroup
check "another upstream, by SIGHUP" -- kill -HUP "${PID[undersock]}"
check "there are two workers" -- wait_for 10 workers_are 2
sees "$EXIT4" "$EXIT4" "it works"
is "$(grep -c ^request "${LOG[other]}")" 2 "the other upstream was asked"

# Captures go and come, and a flow of each hook goes on.
MODE=honest
configure 2 1080 output cgroup
check "honest from here on" -- reload
hold steady 20 ns client
hold steady-cgroup 20 ns client cg app
held steady 20
held steady-cgroup 20
objects=$(cgroup_objects "$(cg_path app)")
configure 2 1080 cgroup
check "without the output capture" -- reload
sees "$CLIENT4" "$EXIT4" "it goes direct, the cgroup's through the proxy"
configure 2 1080 output
check "the other way round" -- reload
sees "$EXIT4" "$EXIT4" "the cgroup's is the host's too"
check "the BPF links and programs of the cgroup's capture are gone" -- wait_for 10 bpf_gone "$(grep -v map <<<"$objects")"
configure 2 1080
check "without captures" -- reload
sees "$CLIENT4" "$CLIENT4" "everything goes direct"
# Who was held before may be answered yet: by the mark of what we send, as the first rule says.
is "$(ns client nft list chain inet undersock output | grep -c .)" 8 "nothing selects"
like "$(ns client nft list chain inet undersock output)" '
		ct status dnat return
		meta mark 0x55538000/17 goto granted
		ct label 86 fib saddr type != local drop
	}' "but for what was held before"
is "$(ns client nft list ruleset | grep redirect | grep -vc 'meta mark 0x55538.* redirect to')" 0 "no other rule redirects"
is "$(ns client nft list ruleset | grep -c '  log \|log prefix')" 0 "and none holds"
configure 2 1080 output cgroup
check "both again" -- reload
sees "$EXIT4" "$EXIT4" "both go through the proxy"
release steady 20 "a flow from before all this works (output)"
release steady-cgroup 20 "a flow from before all this works (cgroup)"
check "the workers of before go" -- wait_for 10 workers_are 2
wait_for 10 us_is undersock flows -eq 0
is "$(us_sum undersock flows)" 0 "no flow is left behind"

# --- many at once: what the former one's workers held may not be free yet
burst() {
    local pids=() failed=0 i
    for i in {1..12}; do
        ns client "$UNDERSOCK" reload -s "$TMP/undersock.sock" >>"$TMP/burst.out" 2>&1 &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || failed=$((failed + 1)); done
    echo $failed
}
is "$(burst) $(burst) $(burst)" "0 0 0" "12 reloads at once, three times"
diag "$(cat "$TMP/burst.out")"
wait_for 10 workers_are 2
sees "$EXIT4" "$EXIT4" "and it works"

# --- more old workers than there is room for
configure 50 1080 output
check "workers = 50" -- reload
wait_for 20 workers_are 50
for i in 1 2 3; do
    # The third has no room any more: 150 workers.
    hold "crowd$i" 400 ns client
    held "crowd$i" 400
    reload >"$TMP/reload.out" 2>&1
    echo $? >>"$TMP/statuses"
    [[ $i == 1 ]] && continue
    sees "$EXIT4" "$EXIT4" "50 workers, reload $i with the flows of the former still there: it works"
done
like "$(paste -sd ' ' "$TMP/statuses")" '^0 .*1' "a reload that has no room for its workers fails"
for i in 1 2 3; do release "crowd$i" 400 "and no flow is lost ($i)"; done
check "afterwards there is room again" -- wait_for 20 reload
wait_for 20 workers_are 50
sees "$EXIT4" "$EXIT4" "and it works"
done_testing
