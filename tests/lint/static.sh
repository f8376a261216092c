#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
#
# cppcheck over all sources of user space. Suppressed are two checks that gcc does better, with the
# types and the _Noreturn of the headers known, and the size of an embedded object, which is the
# distance of two symbols of the assembler. A false alarm elsewhere gets, on the line before it:
# /* cppcheck-suppress NAME */ and the reason.
cd "$(dirname "$0")/../.." || exit 1

command -v cppcheck >/dev/null || {
    echo "1..0 # SKIP cppcheck is not installed"
    exit 0
}

check() {
    # LIBBPF_OPTS is a macro of libbpf's own headers.
    cppcheck -q --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
        --suppress=invalidPrintfArgType_uint --suppress=nullPointerRedundantCheck \
        --suppress=comparePointers:bpf/sockmap_load.c \
        -D_GNU_SOURCE '-DVERSION="0"' '-DLIBBPF_OPTS(type,name,...)=struct type name={__VA_ARGS__}' \
        -Iinclude -Idaemon -I. "$@" 2>&1
}

bad=0
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
printf '#include <stdlib.h>\nint f(int n);\nint f(int n)\n{\n    int a[4];\n    a[0] = n;\n    return a[0] + a[4];\n}\n' >"$tmp/bad.c"
if check "$tmp/bad.c" >/dev/null; then
    bad=1
    echo "not ok 1 - self-test: an access behind an array is found"
else
    echo "ok 1 - self-test: an access behind an array is found"
fi

mapfile -t sources < <(find daemon nft bpf tests -name '*.c' ! -name '*.bpf.c' | sort)
if said=$(check -j2 "${sources[@]}"); then
    echo "ok 2 - cppcheck has nothing to say about ${#sources[@]} sources"
else
    bad=1
    echo "not ok 2 - cppcheck has nothing to say about ${#sources[@]} sources"
    sed 's/^/# /' <<<"$said"
fi
echo 1..2
exit $bad
