#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# alone
#
# Honest connect for many at once: 3,000 connections by each hook, every verdict among them, each
# right and each joined to its own upstream connection; behind firewalls that drop what is invalid and
# what is new; and 100,000 short ones, after which nothing is held.
#
# UNDERSOCK_MANY=N (1,000 at least, of thousands) instead of 100,000.
. "$(dirname "$0")/lib.sh"
FAST_PATH=${FAST_PATH:-relay} # what is stitched is not held by us, and outlives us
. "$LIB_DIR/lan.sh"
. "$LIB_DIR/honest.sh"

need python3 nft busybox
topology
lan
cg_new app
honest_sysctls client one
# Connection tracking keeps what has ended for two minutes; that is not what is measured here.
for n in client proxy; do
    ns $n sh -c 'echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait' 2>/dev/null
done
honest_servers
honest_clients

config() {
    local hook
    echo "control = \"$TMP/undersock.sock\""
    echo 'workers = 2'
    echo "upstream \"verdicts\" { url = \"socks5://$PROXY4:$VERDICTS\" handshake-timeout = \"8s\" }"
    for hook in output gateway cgroup; do capture_text $hook all verdicts; done
}
us_daemon client < <(config)
read -r -d '' -a processes < <(us_workers undersock; echo "${PID[undersock]}")

# --- 3,000 at once: 25 kinds (20 is silent here, as nobody tells it), 60 ports of each
many() { # WHAT HOOK
    local f a WHERE
    where "$2"
    verdicts forget >/dev/null
    for f in 4 6; do
        a=NET$f
        start "many$f" -- "${WHERE[@]}" "$TOOLS/connects" -t 60 "${!a}" 20000-21499
    done
    for f in 4 6; do
        wait_exit "many$f" 80
        is "$(expected $f 20000 20024 | awk -v results="${LOG[many$f]}" -v limited="$(icmp_limited && echo 1)" '
            { want[$1 - 20000] = $2 }
            END { want[20] = "ETIMEDOUT"
                while ((getline line <results) > 0) {
                    split(line, r, " ")
                    kind = (r[1] - 20000) % 25
                    w = want[kind]
                    n[kind]++
                    if (r[2] != w && !(limited && w ~ /UNREACH/ && r[2] == "ECONNREFUSED")) \
                        print r[1], r[2] " instead of " w
                }
                for (kind = 0; kind < 25; kind++) if (n[kind] != 60) print n[kind] + 0 " of kind " kind
                print "no others" }')" "no others" "$1: 1,500 connections at once, IPv$f: each has the result that it must have"
        stop "many$f"
        rm -f "${LOG[many$f]}"
    done
    # An answer that was lost is remembered for a while, but not for ever.
    num "$(verdicts requests)" -ge 3000 "$1: the upstream was asked for each"
    num "$(verdicts requests)" -le 3030 "$1: and hardly ever twice"
    nothing_left "$1"
}
for hook in output gateway cgroup; do many "$hook" $hook; done

# --- firewalls of the host
firewalled() { # WHAT
    local hook
    for hook in output gateway cgroup; do
        connect_all "wall-$hook-4" $hook blocking "$NET4" $(expected_ports 4 20000 20024)
        connect_all "wall-$hook-6" $hook non-blocking "$NET6" $(expected_ports 6 20000 20024)
    done
    for hook in output gateway cgroup; do
        for f in 4 6; do
            wait_exit "wall-$hook-$f" 60
            as_expected "$1: $hook, IPv$f: 24 verdicts, each as it must be seen" "${LOG[wall-$hook-$f]}" $f 20000 20024
            stop "wall-$hook-$f"
            rm -f "${LOG[wall-$hook-$f]}"
        done
    done
}
ns client nft -f - <<-'NFT' || bail "a firewall"
	table inet firewall {
	    chain input {
	        type filter hook input priority filter; policy accept;
	        ct state invalid counter drop
	    }
	    chain forward {
	        type filter hook forward priority filter; policy accept;
	        ct state invalid counter drop
	    }
	    chain output {
	        type filter hook output priority filter; policy accept;
	        ct state invalid counter drop
	    }
	}
	NFT
firewalled "ct state invalid drop"
ns client nft delete table inet firewall
ns client nft -f - <<-'NFT' || bail "a firewall"
	table inet firewall {
	    chain input {
	        type filter hook input priority filter; policy drop;
	        iifname "lo" accept
	        ct state established,related accept
	        ct state invalid drop
	        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
	        tcp dport 22 accept
	    }
	    chain forward {
	        type filter hook forward priority filter; policy drop;
	        ct state established,related accept
	        iifname "br-lan" accept
	    }
	    chain output {
	        type filter hook output priority filter; policy accept;
	        ct state invalid drop
	    }
	}
	NFT
is "$(ns client nft list tables | grep -c undersock)" 1 "our table is not touched by theirs"
firewalled "input drops by default"
ns client nft delete table inet firewall
nothing_left "behind firewalls"

# --- 100,000 short ones
MANY=${UNDERSOCK_MANY:-100000}
total=0
short() { # N for each hook and family
    local hook f a WHERE
    verdicts forget >/dev/null
    for hook in output gateway cgroup; do
        for f in 4 6; do
            a=NET$f
            where $hook
            start "short-$hook-$f" -- "${WHERE[@]}" "$TOOLS/connects" -q -c 16 -n "$1" -t 60 "${!a}" 20000 20007
        done
    done
    for hook in output gateway cgroup; do
        for f in 4 6; do
            wait_exit "short-$hook-$f" 200
            is "$(sort -k 2 "${LOG[short-$hook-$f]}" | paste -sd ';')" \
                "$(($1 / 2)) 20000 OK;$(($1 / 2)) 20007 ECONNREFUSED" "$hook, IPv$f: $1 connections, each second one refused"
            stop "short-$hook-$f"
            rm -f "${LOG[short-$hook-$f]}"
        done
    done
    total=$((total + 6 * $1))
    num "$(verdicts requests)" -ge $((6 * $1)) "the upstream was asked for each"
    num "$(verdicts requests)" -le $((6 * $1 + 6 * $1 / 100)) "and hardly ever twice"
    nothing_left "after $total short ones"
}
short $((MANY / 50))
fds=$(fd_count "${processes[@]}")
rss=$(rss_kb "${processes[@]}")
granted=$(us_sum undersock granted)
short $((MANY * 15 / 100))
num "$total" -ge "$MANY" "$MANY connections"
is $(($(us_sum undersock granted) - granted)) $((MANY * 45 / 100)) "half of them granted"
is "$(us_sum undersock refused_full) $(us_sum undersock refused_stray) $(us_sum undersock refused_loop)" "0 0 0" "none refused for our own sake"
num "$(fd_count "${processes[@]}")" -le "$fds" "no more descriptors than after the first $((6 * MANY / 50))"
after=$(rss_kb "${processes[@]}")
diag "resident memory: $rss kB, then $after kB"
num $((after - rss)) -le 1024 "no more memory than after them (1024 kB for three processes)"
is "$(us_flows undersock 'len(s)')" 0 "flows lists none"
done_testing
