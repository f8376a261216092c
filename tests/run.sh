#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tests/run.sh [-t SECONDS] FILE...: runs test programs and scripts that print TAP, prints a line for
# each and the whole output of those that fail, and the sums at the end. JOBS of them (default: one more
# than there are processors, 8 at most) run at once, as they mostly wait: scenarios have their own namespaces and cgroups, and a program is given a
# network namespace with a loopback. Without root, programs run one after the other. A script with
# "# alone" in its first 30 lines has the machine to itself, and comes first; one with "# long" comes
# before other scenarios, lest everybody waits for it in the end.
#
#     V=1      the output of all of them
#     JOBS=1   strictly one after the other
#     CI=true  a skip that tests/expected-skips does not list is a failure
#
# A unit test may be named by its source: it is what was built of it.
#
# A file has 180 seconds, a namespace scenario 300, unless one of its first 30 lines says
# "# timeout: SECONDS". The sums go to $B/tests/totals too, as "PASSED FAILED SKIPPED".
#
# A file has failed when a test of it has, when it exits with a status that is not 0, when it did not
# run the tests it announced (its plan), when it ran none and did not say why, or when its time was up.

set -u
TOP=$(cd "$(dirname "$0")/.." && pwd)
cd "$TOP" || exit 1
B=${B:-build}
EXPECTED=${EXPECTED_SKIPS:-tests/expected-skips}
# In a bare chroot "/" is not a mount point, so nobody can have mounts of his own below it, as sshd and
# some tests must. A copy of the tree, private and mounted over /proc where the outside does not see
# it, becomes the root of all that follows.
if ((EUID == 0)) && awk '$5 == "/" {exit 1}' /proc/self/mountinfo && mountpoint -q /proc; then
    exec unshare --mount --propagation unchanged sh -c 'mount --make-rprivate /proc &&
        mount --rbind / /proc && mount --make-rprivate /proc && exec chroot /proc "$@"' \
        sh "$TOP/tests/run.sh" "$@"
fi
LIMIT=
if [[ ${1:-} == -t ]]; then
    LIMIT=$2
    shift 2
fi
for file; do
    shift
    [[ $file == tests/*.c ]] && file=$B/${file%.c}
    set -- "$@" "$file"
done

JOBS=${JOBS:-$(($(nproc) < 7 ? $(nproc) + 1 : 8))}
passed=0 failed=0 skipped=0 unexpected=0
declare -A child_of=()
bad_files=()
out=$(mktemp -d) || exit 1
mkdir -p "$B/tests" && rm -f "$B/tests/totals"

finish() {
    echo
    ((${#bad_files[@]})) && printf 'failed: %s\n' "${bad_files[@]}"
    ((unexpected)) && echo "unexpected skips: $unexpected (list them in $EXPECTED when they are in order)"
    echo "total: $passed passed, $failed failed, $skipped skipped"
    echo "$passed $failed $skipped" >"$B/tests/totals"
    rm -rf "$out"
    ((failed == 0)) && exit "${1:-0}"
    exit 1
}

# The test is in a process group of its own (timeout makes it): the signal is passed on, and the
# scenario cleans up behind itself, once the command that it waits for has ended: that may have a
# time limit of its own, and a process group.
interrupted() {
    trap '' INT TERM
    kill -TERM "${child_of[@]}" 2>/dev/null
    for n in "${!child_of[@]}"; do
        wait "${child_of[$n]}"
        echo "interrupted in ${files[$n]}"
        sed 's/^/    | /' "$out/$n.tap"
        failed=$((failed + 1))
        bad_files+=("interrupted in ${files[$n]}")
    done
    finish
}
trap interrupted INT TERM HUP

# What a TAP file says: a line "PASSED FAILED SKIPPED PLANNED", then "WHAT: REASON" for each skip.
# cmocka writes "not ok N # SKIP name" for a skip, and its reason in the line before; several groups
# of tests in one file have several plans.
tap() {
    awk '
    /^1\.\.0[ \t]*#[ \t]*[Ss][Kk][Ii][Pp]/ {
        reason = $0; sub(/^[^#]*#[ \t]*[A-Za-z]*[ \t]*/, "", reason)
        skips[++skip] = "all: " reason; whole = 1; next
    }
    /^1\.\.[0-9]+/ { split($0, n, /\.\./); plan += n[2] + 0; plans++; next }
    /^skipped: / { hint = substr($0, 10); next }
    /^Bail out!/ { bad++; next }
    /^(not )?ok([ \t]|$)/ {
        if (match($0, /#[ \t]*[Ss][Kk][Ii][Pp]/)) {
            what = substr($0, 1, RSTART - 1); sub(/^(not )?ok[ \t]*[0-9]*[ \t]*-?[ \t]*/, "", what)
            reason = substr($0, RSTART + RLENGTH); gsub(/^[ \t]+|[ \t]+$/, "", what)
            sub(/^[^ \t]*[ \t]+/, "", reason)
            if (what == "") { what = reason; reason = hint }
            skips[++skip] = what ": " reason
        } else if ($0 ~ /^not/) bad++
        else good++
        hint = ""
    }
    END {
        print good + 0, bad + 0, skip + 0, (whole ? skip : plans ? plan : -1)
        for (i = 1; i <= skip; i++) print skips[i]
    }' "$1"
}

expected() { # expected FILE TEXT: is this skip listed?
    local glob pattern
    while read -r glob pattern; do
        [[ -z $glob || $glob == \#* ]] && continue
        # shellcheck disable=SC2053
        [[ $1 == $glob && $2 =~ $pattern ]] && return 0
    done <"$EXPECTED"
    return 1
}

limit_of() {
    local own
    own=$(head -n 30 "$1" 2>/dev/null | tr -d '\0' | sed -n 's/^# timeout: *\([0-9][0-9]*\).*/\1/p' | head -n 1)
    if [[ $LIMIT || $own ]]; then
        echo "${LIMIT:-$own}"
    elif [[ $1 == *tests/net/* ]]; then
        echo 300
    else
        echo 180
    fi
}

name_of() {
    local name=${1#"$B"/}
    echo "${name#./}"
}

says() { head -n 30 "$1" | tr -d '\0' | grep -q "^# $2\$"; }
# Programs bind ports of the loopback, and some count on one that nobody listens on.
OWN_LOOPBACK=()
if ((EUID == 0)) && unshare --net ip link set lo up 2>/dev/null; then
    # shellcheck disable=SC2016
    OWN_LOOPBACK=(unshare --net sh -c 'ip link set lo up && exec "$@"' sh)
fi
alone() { says "$1" alone || [[ ${1##*/} != *.* && ${#OWN_LOOPBACK[@]} == 0 ]]; }

# start N: files[N] in the background; its output, status and time are in files of its number.
start() {
    local file=${files[$1]} name command limit
    name=$(name_of "$file")
    command=("$file")
    case $file in
    */*) ;;
    *) command=("./$file") ;;
    esac
    [[ $name != tests/unit/* ]] || command=(${OWN_LOOPBACK[@]+"${OWN_LOOPBACK[@]}"} "${command[@]}")
    # The corpus of a fuzz target is named like it.
    case $name in
    tests/fuzz/replay_*) command+=("tests/fuzz/corpus/${name#tests/fuzz/replay_}") ;;
    esac
    limit=$(limit_of "$file")
    echo "${EPOCHREALTIME/[.,]/}" >"$out/$1.begin"
    # bash starts a background command with SIGINT ignored; a test may need it.
    B=$B CMOCKA_MESSAGE_OUTPUT=TAP env --default-signal=INT,QUIT timeout -k 120 "$limit" \
        "${command[@]}" >"$out/$1.tap" 2>&1 </dev/null &
    child_of[$1]=$!
}

# reap: waits until one has ended.
reap() {
    local pid status n
    wait -n -p pid "${child_of[@]}"
    status=$?
    for n in "${!child_of[@]}"; do
        [[ ${child_of[$n]} == "$pid" ]] || continue
        unset "child_of[$n]"
        report "$n" "$status"
    done
}

# report N STATUS: the line of a file that has ended, and its sums.
report() {
    local status=$2 file=${files[$1]} tap=$out/$1.tap begin seconds why remarks=() skips good bad skip plan s name
    name=$(name_of "$file")
    begin=$(<"$out/$1.begin")
    seconds=$(((${EPOCHREALTIME/[.,]/} - begin) / 100000))
    { read -r good bad skip plan && mapfile -t skips; } < <(tap "$tap")

    why=
    ((bad)) && why="$bad failed"
    if ((status == 124 || status == 137)); then
        why="not finished in $(limit_of "$file") s"
    elif ((bad == 0 && status != 0)); then
        why="exit status $status"
    elif ((bad == 0 && plan < 0)); then
        why="no plan (1..N) in its output"
    elif ((bad == 0 && good + skip != plan)); then
        why="$((good + skip)) of $plan tests ran"
    elif ((bad == 0 && good + skip == 0)); then
        why="no test in it"
    fi
    [[ $why && $bad == 0 ]] && bad=1

    for s in ${skips[@]+"${skips[@]}"}; do
        if expected "$name" "$s"; then
            remarks+=("  skipped as expected: $s")
            continue
        fi
        unexpected=$((unexpected + 1))
        remarks+=("  SKIPPED, NOT EXPECTED: $s")
        if [[ ${CI:-} == true ]]; then
            skip=$((skip - 1)) bad=$((bad + 1))
            why=${why:-skips a test that must run here}
        fi
    done
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + skip))

    printf '%-6s %-48s %3d passed' "$([[ $why ]] && echo FAILED || echo ok)" "$name" "$good"
    ((skip)) && printf ', %d skipped' "$skip"
    printf '  %d.%d s%s\n' $((seconds / 10)) $((seconds % 10)) "${why:+  ($why)}"
    ((${#remarks[@]})) && printf '%s\n' "${remarks[@]}"
    if [[ $why || ${V:-} ]]; then
        # What failed comes first, as long outputs may be cut by who shows them.
        grep -A 5 '^not ok' "$tap" | sed 's/^/    ! /'
        sed 's/^/    | /' "$tap"
    fi
    [[ $why ]] && bad_files+=("$name ($why)")
    rm -f "$tap"
}

# Those that are alone come first, as they must wait for nobody then.
files=() long=() shared=() scenarios=()
for file; do
    if alone "$file"; then
        files+=("$file")
    elif says "$file" long; then
        long+=("$file")
    elif [[ $file == *tests/net/* ]]; then
        scenarios+=("$file")
    else
        shared+=("$file")
    fi
done
n_alone=${#files[@]}
files+=(${shared[@]+"${shared[@]}"} ${long[@]+"${long[@]}"} ${scenarios[@]+"${scenarios[@]}"})
for n in "${!files[@]}"; do
    room=$((n < n_alone ? 1 : JOBS))
    while ((${#child_of[@]} >= room)); do reap; done
    start "$n"
done
while ((${#child_of[@]})); do reap; done
finish
