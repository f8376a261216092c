#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for every file of the tree, prints TAP: its licence is in one of its first three lines,
no path of somebody's machine is in it, no line ends in white space, and shell scripts can be read.

    files.py            the tree this file is in, and the self-test
    files.py DIRECTORY  only that tree
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

LICENCE = "SPDX-License-Identifier: GPL-2.0-or-later"
# The licence itself, what carries bytes and nothing else, and git's own lists.
EXEMPT = re.compile(r"^(LICENSE|tests/fuzz/corpus/.*|(.*/)?\.gitignore|(.*/)?\.gitattributes)$")
# Home directories and workplaces. /root and /home by themselves are what the text may be about.
MACHINE = re.compile(r"(?<![A-Za-z0-9_.$}~-])/(?:home|Users|root|work|workspace|builds)/[A-Za-z0-9_.-]")
BLANKS = re.compile(r"[ \t]+$")


def files(top):
    """What git would take; without git, everything but what is built."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", top, "ls-files", "-z", "--cached", "--others",
         "--exclude-standard"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    ) if shutil.which("git") and os.path.exists(os.path.join(top, ".git")) else None
    if listed and listed.returncode == 0:
        names = [os.fsdecode(n) for n in listed.stdout.split(b"\0") if n]
    else:
        names = []
        for folder, folders, inside in os.walk(top):
            folders[:] = [f for f in folders if f not in (".git", "build", "__pycache__")]
            names += [os.path.relpath(os.path.join(folder, n), top) for n in inside]
    return sorted(n for n in names if os.path.isfile(os.path.join(top, n)))


def complaints(top):
    """{rule: [complaint]}"""
    found = {"licence": [], "machine": [], "blanks": [], "shell": []}
    own = os.path.abspath(top).rstrip("/") + "/"
    for name in files(top):
        if EXEMPT.match(name):
            continue
        with open(os.path.join(top, name), encoding="utf-8", errors="replace") as f:
            lines = f.read().split("\n")
        if not any(LICENCE in line for line in lines[:3]):
            found["licence"].append(f'{name}:1: no "{LICENCE}"')
        for number, line in enumerate(lines, 1):
            if MACHINE.search(line) or own in line:
                found["machine"].append(f"{name}:{number}: {line.strip()[:80]}")
            if BLANKS.search(line) and not name.endswith(".md"):
                found["blanks"].append(f"{name}:{number}: white space at the end")
        shell = re.match(r"#!/(?:usr/bin/env |bin/)(sh|bash)\b", lines[0])
        if shell:
            run = subprocess.run([shell.group(1), "-n", os.path.join(top, name)],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if run.returncode != 0:
                found["shell"].append(f"{name}: {run.stdout.strip()[:200]}")
    return found


RULES = {
    "licence": "every file names its licence in its first three lines",
    "machine": "no file holds a path of somebody's machine",
    "blanks": "no line ends in white space",
    "shell": "every shell script can be read by its shell",
}
SPDX = "# " + LICENCE + "\n"
SAMPLES = [
    ("licence", "a.h", "int a;\n"),
    ("licence", "b.sh", "#!/bin/sh\n#\n#\n" + SPDX),
    ("machine", "c.md", SPDX + "see " + "/ho" + "me/alice/undersock\n"),
    ("machine", "d.c", SPDX + '"' + "/wo" + 'rk/tree/build"\n'),
    ("blanks", "e.c", SPDX + "int e; \n"),
    ("shell", "f.sh", "#!/usr/bin/env bash\n" + SPDX + "if true; then\n"),
]


def self_test(result):
    for rule, name, text in SAMPLES:
        with tempfile.TemporaryDirectory() as top:
            good = "#!/bin/sh\n" + SPDX + "cd /root && ls /usr/share/builds/x ~/builds/y\n"
            for path, content in (("good.sh", good), (name, text)):
                with open(os.path.join(top, path), "w", encoding="utf-8") as f:
                    f.write(content)
            found = complaints(top)
            told = [(r, len(c)) for r, c in found.items() if c]
            result(told == [(rule, 1)], f"self-test: {name} breaks only the rule \"{rule}\"", [str(found)])


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    top = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "..")
    count = {"all": 0, "bad": 0}

    def result(good, what, details):
        count["all"] += 1
        count["bad"] += not good
        print(f"{'ok' if good else 'not ok'} {count['all']} - {what}")
        if not good:
            print("".join(f"# {d}\n" for d in details), end="")

    found = complaints(top)
    for rule, what in RULES.items():
        result(not found[rule], what, found[rule])
    if len(sys.argv) == 1:
        self_test(result)
    print(f"1..{count['all']}")
    return 1 if count["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
