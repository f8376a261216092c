#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may include whom (ARCHITECTURE.md, "Floors"), held against every source. Prints TAP.

    floors.py            the tree this file is in, and the self-test
    floors.py DIRECTORY  only that tree

A folder may include its own headers and those of the folders that stand after its arrow. A folder
that is not in the table has no floor yet: put it there first.
"""

import os
import re
import sys
import tempfile

EVERYTHING = {"*"}
ARROWS = {
    "include": set(),
    "daemon/base": {"include"},
    "daemon/socks": {"include", "daemon/base"},
    "daemon/dns": {"include", "daemon/base"},
    "daemon/config": {"include", "daemon/base", "daemon/dns"},
    "nft": {"include", "daemon/base"},
    "bpf": {"include", "daemon/base"},
    "daemon/relay": {"include", "daemon/base"},
    "daemon/upstream": {"include", "daemon/base", "daemon/socks", "daemon/config"},
    "daemon/udp": {"include", "daemon/base", "daemon/socks", "daemon/config", "daemon/upstream"},
    "daemon/names": {"include", "daemon/base", "daemon/dns", "daemon/socks", "daemon/config",
                     "daemon/upstream"},
    "daemon/flow": {"include", "daemon/base", "daemon/config", "daemon/relay", "daemon/upstream"},
    "daemon/worker": {"include", "daemon/base", "daemon/config", "bpf", "nft", "daemon/relay",
                      "daemon/upstream", "daemon/udp", "daemon/names", "daemon/dns",
                      "daemon/flow"},
    "daemon/control": {"include", "daemon/base"},
    "daemon/serve": {"include", "daemon/base", "daemon/socks", "daemon/relay"},
    "daemon/keeper": {"include", "daemon/base", "daemon/config", "nft", "bpf", "daemon/upstream",
                      "daemon/worker", "daemon/control", "daemon/dns"},
    "daemon/doctor": {"include", "daemon/base", "daemon/config", "daemon/socks", "nft", "bpf",
                      "daemon/upstream", "daemon/control", "daemon/keeper"},
    "daemon/cli": EVERYTHING,
    "daemon": EVERYTHING,  # main.c
}
KERNEL_HALF = {"include"}  # *.bpf.c and *.bpf.h, which the BPF compiler sees; and *.bpf.h beside them
SEARCH = ["include", "daemon", ""]  # the -I of the Makefile, in its order

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^">]+)[">]', re.M)
# #include NAME, where NAME is a macro: nothing could be said about it.
MACRO = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[^<" \t]', re.M)


def sources(top):
    for root in ("include", "daemon", "nft", "bpf"):
        for folder, _, names in os.walk(os.path.join(top, root)):
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(folder, name), top)


def resolve(top, folder, name, quoted):
    """The path of a header in the tree, from its top; None: it is none of ours."""
    for base in ([folder] if quoted else []) + SEARCH:
        path = os.path.normpath(os.path.join(base, name))
        if not path.startswith("..") and os.path.isfile(os.path.join(top, path)):
            return path
    return None


def complaints(top):
    """(number of includes looked at, list of "FILE:LINE: what is wrong")"""
    looked_at, found = 0, []
    for source in sources(top):
        folder = os.path.dirname(source)
        with open(os.path.join(top, source), encoding="utf-8") as f:
            text = f.read()
        if folder not in ARROWS:
            found.append(f"{source}:1: the folder {folder} has no floor: give it one in tests/lint/floors.py")
            continue
        kernel_half = source.endswith((".bpf.c", ".bpf.h"))
        allowed = KERNEL_HALF if kernel_half else ARROWS[folder] | {folder}
        for m in MACRO.finditer(text):
            line = text.count("\n", 0, m.start()) + 1
            found.append(f"{source}:{line}: an #include of a macro cannot be checked: write the name")
        for m in INCLUDE.finditer(text):
            looked_at += 1
            quoted = m.group(1) == '"'
            line = text.count("\n", 0, m.start()) + 1
            path = resolve(top, folder, m.group(2), quoted)
            if path is None:
                if quoted:
                    found.append(f'{source}:{line}: "{m.group(2)}" is not in the tree')
                continue
            target = os.path.dirname(path)
            if path.endswith(".bpf.h"):
                if not kernel_half or target != folder:
                    found.append(f"{source}:{line}: {path} is for the kernel half beside it only")
                continue
            if "*" in allowed and target in ARROWS or target in allowed:
                continue
            arrows = ", ".join(sorted(allowed)) or "nothing"
            found.append(f"{source}:{line}: {path}: {folder} may include only {arrows}")
    return looked_at, found


def cycle():
    """A loop of arrows in the table itself, or None."""
    done, path = set(), []

    def visit(folder):
        if folder in path:
            return path[path.index(folder):] + [folder]
        if folder in done or "*" in ARROWS[folder]:
            return None
        path.append(folder)
        for target in sorted(ARROWS[folder]):
            loop = visit(target)
            if loop:
                return loop
        path.pop()
        done.add(folder)
        return None

    for folder in ARROWS:
        loop = visit(folder)
        if loop:
            return loop
    return None


class Tap:
    def __init__(self):
        self.n = self.bad = 0

    def result(self, good, what, details=()):
        self.n += 1
        self.bad += not good
        print(f"{'ok' if good else 'not ok'} {self.n} - {what}")
        for d in () if good else details:
            print(f"# {d}")

    def end(self):
        print(f"1..{self.n}")
        return 1 if self.bad else 0


# A tree of a few files, and what must be said about the one that is added to it.
HOUSE = {
    "include/addr.h": "",
    "include/bpf_abi.h": "",
    "daemon/base/loop.h": '#include "addr.h"\n',
    "daemon/socks/socks5.h": '#include "base/loop.h"\n',
    "daemon/config/config.h": "",
    "daemon/relay/relay.h": "",
    "daemon/upstream/upstream.h": '#include "config/config.h"\n',
    "daemon/flow/flow.h": '#include "relay/relay.h"\n#include "upstream/upstream.h"\n',
    "daemon/worker/worker.h": '#include "flow/flow.h"\n',
    "daemon/keeper/keeper.h": '#include "worker/worker.h"\n#include "nft/ruleset.h"\n',
    "daemon/cli/run.c": '#include "keeper/keeper.h"\n#include <stdio.h>\n',
    "daemon/main.c": '#include "nft/ruleset.h"\n',
    "nft/ruleset.h": '#include "addr.h"\n',
    "bpf/cgroup.h": "",
    "bpf/connect.bpf.c": '#include <linux/bpf.h>\n#include "bpf_abi.h"\n#include "bpf/part.bpf.h"\n',
    "bpf/part.bpf.h": '#include "bpf_abi.h"\n',
    "tests/unit/fixture.h": "",
}
VIOLATIONS = [
    ("include/log.h", '#include "base/loop.h"', "include may include only"),
    ("daemon/base/fd.c", '#include "socks/socks5.h"', "daemon/base may include only"),
    ("daemon/socks/socks4.c", '#include "config/config.h"', "daemon/socks may include only"),
    ("daemon/flow/table.c", '#include "nft/ruleset.h"', "daemon/flow may include only"),
    ("daemon/flow/table.c", '\n\n  #  include <bpf/cgroup.h>', "daemon/flow/table.c:3: bpf/cgroup.h"),
    ("daemon/relay/copy.c", '#include "bpf/cgroup.h"', "daemon/relay may include only"),
    ("daemon/upstream/dial.c", '#include "../../nft/ruleset.h"', "daemon/upstream may include only"),
    ("daemon/udp/table.c", '#include "bpf/cgroup.h"', "daemon/udp may include only"),
    ("daemon/upstream/dial.c", '#include "relay/relay.h"', "daemon/upstream may include only"),
    ("daemon/relay/copy.c", '#include "upstream/upstream.h"', "daemon/relay may include only"),
    ("daemon/worker/query.c", '#include "keeper/keeper.h"', "daemon/worker may include only"),
    ("daemon/serve/run.c", '#include "config/config.h"', "daemon/serve may include only"),
    ("daemon/keeper/janitor.c", '#include "flow/flow.h"', "daemon/keeper may include only"),
    ("nft/batch.c", '#include "bpf/cgroup.h"', "nft may include only"),
    ("bpf/dgram.bpf.c", '#include "base/loop.h"', "bpf may include only include"),
    ("bpf/policy.c", '#include "bpf/part.bpf.h"', "is for the kernel half"),
    ("daemon/cli/demo.c", '#include "tests/unit/fixture.h"', "daemon/cli may include only"),
    ("daemon/attic/old.c", "", "has no floor"),
    ("daemon/flow/table.c", '#include "flow/flow_old.h"', "is not in the tree"),
    ("daemon/flow/table.c", "#include HEADER", "cannot be checked"),
]


def write(top, path, text):
    full = os.path.join(top, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as f:
        f.write(text)


def self_test(tap):
    with tempfile.TemporaryDirectory() as top:
        for path, text in HOUSE.items():
            write(top, path, text)
        _, found = complaints(top)
        tap.result(not found, "self-test: a tree in order has no complaint", found)
        for path, text, want in VIOLATIONS:
            write(top, path, text + "\n")
            _, found = complaints(top)
            os.remove(os.path.join(top, path))
            shown = " ".join(text.split()) or "a new folder"
            tap.result(len(found) == 1 and want in found[0], f"self-test: {path}: {shown}", found)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    top = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "..")
    tap = Tap()
    looked_at, found = complaints(top)
    tap.result(not found and looked_at > 0, f"{looked_at} includes keep to their floors", found)
    if len(sys.argv) == 1:
        loop = cycle()
        tap.result(not loop, "the table of floors has no loop", [" -> ".join(loop or [])] if loop else [])
        self_test(tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
