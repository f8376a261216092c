# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark can measure: rows, measurements, presets of both, and the command line.

Tables and an argument parser, nothing else. run.sh runs this file by itself with its arguments: it
then prints a line "host|gateway NAME NUMBER" for each namespace that these arguments need.
"""

import argparse

# What a row of ours may end with, and what that sets in its configuration.
VARIANTS = {
    "": {},
    "early": {"connect": "early"},
    "splice": {"fast_path": "splice"},
    "sockmap": {"fast_path": "sockmap"},
    "copy": {"fast_path": "copy"},
}
HOOKS = {"output": "output", "cgroup": "cgroup", "gw-ours": "gateway"}


def variants(base, *names):
    return tuple(f"{base}-{n}" if n else base for n in names or VARIANTS)


# row → (base, variant)
OURS = {row: (base, v) for base in HOOKS for v, row in zip(VARIANTS, variants(base))}
GATEWAYS = ("forward", "gw-redsocks", *variants("gw-ours"))
ROWS = ("native", "redsocks", *variants("output"), *variants("cgroup"), *GATEWAYS)
NUMBER = {row: 10 + i for i, row in enumerate(ROWS)}  # 10.77.NUMBER.0/24

# Each table: what it is about, the limit, the peer, ours.
TABLES = [
    ("This host's own connections, hook = \"output\"", "native", "redsocks", variants("output")),
    ("This host's own connections, hook = \"cgroup\"", "native", "redsocks", variants("cgroup")),
    ("A gateway's", "forward", "gw-redsocks", variants("gw-ours")),
]

MEASUREMENTS = ("idle", "bulk", "rr", "messages", "conn", "udp")
TCP = MEASUREMENTS[:-1]

BASE = ("native", "redsocks", "output", "cgroup", "forward", "gw-redsocks", "gw-ours")
ENDS = ("native", "redsocks", "forward", "gw-redsocks")
# preset → (what it is for, rows, measurements, seconds of a slice). The seconds are such that seven
# rounds take less than eight minutes.
SETS = {
    "base": ("every kind of row, every measurement of TCP", BASE, TCP, 0.6),
    "connect": ("connect() and connections: honest, early, and an application's own SOCKS",
                (*ENDS, *(r for b in HOOKS for r in variants(b, "", "early"))), ("conn",), 1.5),
    "fastpath": ("how bytes are moved: chosen, spliced, or by the kernel's sockmap",
                 (*ENDS, *(r for b in ("output", "gw-ours")
                           for r in variants(b, "", "splice", "sockmap"))),
                 ("idle", "bulk", "rr", "messages"), 0.5),
    "udp": ("datagrams; rows that differ only in connect or fast-path have none of their own",
            BASE, ("udp",), 1.2),
    "all": ("all of it, in all captures, in short slices",
            tuple(r for r in ROWS if not r.endswith("-copy")), MEASUREMENTS, 0.25),
}


def names(known, what):
    def parse(text):
        wanted = text.split(",")
        for name in wanted:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {what} {name}; there are {', '.join(known)}")
        return [name for name in known if name in wanted]
    return parse


def arguments(argv=None):
    p = argparse.ArgumentParser(
        prog="tests/bench/run.sh", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="undersock, redsocks and native SOCKS side by side; see the head of run.sh.",
        epilog="presets:\n" + "\n".join(
            f"  {name:9} {what}\n{'':12}{', '.join(rows)}\n{'':12}{', '.join(m)}"
            for name, (what, rows, m, _) in SETS.items()))
    p.add_argument("--set", default="base", choices=SETS, help="a preset, below (default: base)")
    p.add_argument("--only", type=names(ROWS, "row"), metavar="ROW,...",
                   help=f"these rows instead of the preset's, of {', '.join(ROWS)}")
    p.add_argument("--measure", type=names(MEASUREMENTS, "measurement"), metavar="WHAT,...",
                   help=f"these measurements instead, of {', '.join(MEASUREMENTS)}")
    p.add_argument("--quick", action="store_true", help="3 rounds, short: for CI, not for claims")
    p.add_argument("--rounds", type=int, help="7")
    p.add_argument("--seconds", type=float, help="of each bulk transfer; others are as long or half")
    p.add_argument("--flows", type=int, default=2000, help="idle ones; redsocks stops at 2,500")
    p.add_argument("--messages", type=int, default=1000, help="connections that exchange messages")
    p.add_argument("--offered", type=int, default=250000,
                   help="datagrams a second that are sent to see how many arrive")
    p.add_argument("--moderate", type=int, default=10000, help="and to see how many are lost")
    p.add_argument("--server", default="sink",
                   choices=["sink", "serve", "microsocks", "dante", "ssh"],
                   help="microsocks and ssh have no UDP")
    p.add_argument("--servers", action="store_true", help="measure the SOCKS servers instead")
    p.add_argument("--workers", type=int, default=0, help="undersock's; 0 = one per CPU")
    p.add_argument("--fast-path", default="auto", help="of the rows that force none")
    p.add_argument("--json", metavar="FILE", help="every sample (default: bench.json in build/)")
    p.add_argument("--markdown", metavar="FILE", help="the tables")
    p.add_argument("--svg", metavar="FILE", help="the ratios, drawn")
    p.add_argument("--redraw", metavar="FILE",
                   help="measure nothing: tables and drawing from the --json of a run before; of "
                   "these rows, with --only")
    p.add_argument("--default-json", help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    _, rows, measurements, seconds = SETS[args.set]
    args.rows = ["native"] if args.servers else args.only or [r for r in ROWS if r in rows]
    args.measure = args.measure or list(measurements)
    args.rounds = args.rounds or (3 if args.quick else 7)
    args.seconds = args.seconds or (0.3 if args.quick else seconds)
    return args


if __name__ == "__main__":
    for wanted in arguments().rows:
        print("gateway" if wanted in GATEWAYS else "host", wanted, NUMBER[wanted])
