#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Every C source is as clang-format leaves it (.clang-format). To mend one: clang-format -i FILE.
# Versions break lines differently; 14 is the one of Debian 12, and Ubuntu has it as clang-format-14.
cd "$(dirname "$0")/../.." || exit 1

tool=
for t in clang-format-14 clang-format; do
    if "$t" --version 2>/dev/null | grep -q 'version 14\.'; then
        tool=$t
        break
    fi
done
if [[ ! $tool ]]; then
    echo "1..0 # SKIP clang-format 14 is not installed"
    exit 0
fi

mapfile -t sources < <(find include daemon nft bpf tests -name '*.[ch]' | sort)
bad=0 n=0
# Has it teeth? A file that is badly formatted by any style must be found.
n=$((n + 1))
if printf 'int   main ( void )\n{return 0 ;}\n' | "$tool" --assume-filename=x.c --dry-run -Werror 2>/dev/null; then
    bad=1
    echo "not ok $n - self-test: a badly formatted file is found"
else
    echo "ok $n - self-test: a badly formatted file is found"
fi
n=$((n + 1))
wrong=$("$tool" --dry-run -Werror "${sources[@]}" 2>&1 | sed -n 's/^\([^:]*\):[0-9].* error: .*/\1/p' | sort | uniq -c)
if [[ $wrong ]]; then
    bad=1
    echo "not ok $n - ${#sources[@]} sources are formatted"
    echo "# lines and file; $tool -i FILE mends them"
    sed 's/^/# /' <<<"$wrong"
else
    echo "ok $n - ${#sources[@]} sources are formatted"
fi
echo "1..$n"
exit $bad
