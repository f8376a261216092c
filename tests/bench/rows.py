# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark can measure: rows, measurements, presets of both, and the command line.

Tables and an argument parser, nothing else. run.sh runs this file by itself with its arguments: it
then prints a line "host|gateway NAME NUMBER" for each namespace that these arguments need.
"""

import argparse

# What a row of ours may end with, and what that sets in its configuration. "relay" is what the
# relay chooses by itself, where fast-path = "auto" might not relay at all. "stitch-tcp" leaves UDP and
# DNS alone: the rules that take them make connection tracking look at every packet of the host, which
# costs a connection more than all that stitch does.
VARIANTS = {
    "": {},
    "stitch": {"fast_path": "stitch"},
    "stitch-tcp": {"fast_path": "stitch", "udp": "bypass"},
    "relay": {"fast_path": "relay"},
    "early": {"connect": "early"},
    "splice": {"fast_path": "splice"},
    "sockmap": {"fast_path": "sockmap"},
    "copy": {"fast_path": "copy"},
}
HOOKS = {"output": "output", "cgroup": "cgroup", "gw-ours": "gateway"}
STITCHING = ("stitch", "stitch-tcp", "relay")  # a choice that only a cgroup has


# row → (base, variant)
OURS = {f"{base}-{v}" if v else base: (base, v) for base in HOOKS for v in VARIANTS
        if base == "cgroup" or v not in STITCHING}


def variants(base, *names):
    return tuple(r for r, (b, v) in OURS.items() if b == base and (not names or v in names))


PLAIN = "plain"
GATEWAYS = ("forward", "gw-redsocks", *variants("gw-ours"))
ROWS = (PLAIN, "native", "redsocks", *variants("output"), *variants("cgroup"), *GATEWAYS)
NUMBER = {row: 10 + i for i, row in enumerate(ROWS)}  # 10.77.NUMBER.0/24


def standard(row):
    """The row of ours that this one differs from in one setting."""
    base = OURS[row][0]
    return "cgroup-relay" if base == "cgroup" else base


# Whether connections of a row of ours are stitched: True, False, or None, where either is right.
def stitches(row):
    base, variant = OURS[row]
    return None if base == "cgroup" and not variant else variant.startswith("stitch")


# What the stitched rows are expected to be like, and how far from it (figures of one run).
STITCHED, NATIVE, NEAR = ("cgroup-stitch", "cgroup-stitch-tcp"), "native", 0.05

# Each table: what it is about, the limit, the peer, ours.
TABLES = [
    ("This host's own connections, hook = \"output\"", "native", "redsocks", variants("output")),
    ("This host's own connections, hook = \"cgroup\"", "native", "redsocks", variants("cgroup")),
    ("A gateway's", "forward", "gw-redsocks", variants("gw-ours")),
]

MEASUREMENTS = ("idle", "bulk", "rr", "rr1", "messages", "conn", "udp")
TCP = MEASUREMENTS[:-1]

BASE = ("native", "redsocks", "output", "cgroup-stitch", "cgroup-relay", "forward", "gw-redsocks",
        "gw-ours")
ENDS = (PLAIN, "native", "redsocks", "forward", "gw-redsocks")
# preset → (what it is for, rows, measurements, seconds of a slice, rounds). They are such that all
# rounds take less than ten minutes.
SETS = {
    "base": ("every kind of row, every measurement of TCP", BASE, TCP, 0.5, 7),
    "stitch": ("a cgroup's connections without a relay, with one, and with no proxy at all: many "
               "short rounds,\n            as what is compared is close together",
               (PLAIN, "native", "redsocks", *STITCHED, "cgroup-relay"), TCP, 0.4, 15),
    "connect": ("connect() and connections: honest, early, stitched, and an application's own SOCKS",
                (*ENDS, *STITCHED, "cgroup-relay", "cgroup-early",
                 *(r for b in ("output", "gw-ours") for r in variants(b, "", "early"))),
                ("conn",), 1.5, 7),
    "fastpath": ("how bytes are moved: chosen, spliced, or by the kernel's sockmap",
                 (*ENDS, *(r for b in ("output", "gw-ours")
                           for r in variants(b, "", "splice", "sockmap"))),
                 ("idle", "bulk", "rr", "messages"), 0.5, 7),
    "udp": ("datagrams; rows that differ only in connect or fast-path have none of their own",
            tuple(r for r in BASE if r not in STITCHED), ("udp",), 1.2, 7),
    "all": ("all of it, in all captures, in short slices",
            tuple(r for r in ROWS if r != "cgroup" and not r.endswith("-copy")), MEASUREMENTS,
            0.25, 7),
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
            for name, (what, rows, m, *_) in SETS.items()))
    p.add_argument("--set", default="base", choices=SETS, help="a preset, below (default: base)")
    p.add_argument("--only", type=names(ROWS, "row"), metavar="ROW,...",
                   help=f"these rows instead of the preset's, of {', '.join(ROWS)}")
    p.add_argument("--measure", type=names(MEASUREMENTS, "measurement"), metavar="WHAT,...",
                   help=f"these measurements instead, of {', '.join(MEASUREMENTS)}")
    p.add_argument("--quick", action="store_true", help="3 rounds, short: for CI, not for claims")
    p.add_argument("--rounds", type=int, help="7; 15 of --set stitch")
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
    p.add_argument("--firewall", action="store_true",
                   help="hosts have a stateful firewall, so that connection tracking looks at every "
                   "packet of every row, and not only where a row's own rules make it")
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
    _, rows, measurements, seconds, rounds = SETS[args.set]
    args.rows = ["native"] if args.servers else args.only or [r for r in ROWS if r in rows]
    args.measure = args.measure or list(measurements)
    args.rounds = args.rounds or (3 if args.quick else rounds)
    args.seconds = args.seconds or (0.3 if args.quick else seconds)
    return args


if __name__ == "__main__":
    for wanted in arguments().rows:
        print("gateway" if wanted in GATEWAYS else "host", wanted, NUMBER[wanted])
