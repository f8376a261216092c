# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark prints and writes: the table, the machine, the JSON document.

Every function takes the finished measure.Bench and only reads it.
"""

import os
import platform
import re
import statistics
import subprocess

PREFIX = os.environ["BENCH_PREFIX"]
UNDERSOCK = os.environ["UNDERSOCK"]

TITLE = {"native": "native", "redsocks": "redsocks", "output": "ours output",
         "cgroup": "ours cgroup", "forward": "forward", "gw-redsocks": "gw-redsocks",
         "gw-ours": "gw-ours", "copy": "ours copy", "splice": "ours splice",
         "sockmap": "ours sockmap"}
GATEWAYS = ("forward", "gw-redsocks", "gw-ours")
# Each table: what it is about, the limit, the peer, ours.
TABLES = [
    ("This host's own connections", "native", "redsocks",
     ("output", "cgroup", "copy", "splice", "sockmap")),
    ("A gateway's", "forward", "gw-redsocks", ("gw-ours",)),
]

# key, title, unit, whether more is better, digits
FIGURES = [
    ("up1", "bulk up, 1 stream", "Gbit/s", True, 2),
    ("up8", "bulk up, 8 streams", "Gbit/s", True, 2),
    ("down1", "bulk down, 1 stream", "Gbit/s", True, 2),
    ("down8", "bulk down, 8 streams", "Gbit/s", True, 2),
    ("up1_cpu", "redirector CPU, up 1", "s/GiB", False, 3),
    ("up8_cpu", "redirector CPU, up 8", "s/GiB", False, 3),
    ("down1_cpu", "redirector CPU, down 1", "s/GiB", False, 3),
    ("down8_cpu", "redirector CPU, down 8", "s/GiB", False, 3),
    ("up1_busy", "whole machine busy, up 1", "s/GiB", False, 3),
    ("up8_busy", "whole machine busy, up 8", "s/GiB", False, 3),
    ("down1_busy", "whole machine busy, down 1", "s/GiB", False, 3),
    ("down8_busy", "whole machine busy, down 8", "s/GiB", False, 3),
    ("rr_p50", "64 B round trip, p50", "us", False, 1),
    ("rr_p99", "64 B round trip, p99", "us", False, 1),
    ("rr_busy", "whole machine busy, round trip", "us", False, 1),
    ("conn1", "connections, one after another", "/s", True, 0),
    ("conn32", "connections, 32 at once", "/s", True, 0),
    ("conn1_p50", "connect and answer, p50", "us", False, 1),
    ("conn1_p99", "connect and answer, p99", "us", False, 1),
    ("conn32_cpu", "redirector CPU, 32 at once", "us/conn", False, 1),
    ("flow_pss", "redirector memory (PSS)", "B/flow", False, 0),
    ("flow_fds", "redirector descriptors", "/flow", False, 1),
    ("flow_slab", "kernel slab, all ends", "B/flow", False, 0),
]


def pairs(limit, peer, ours):
    """The ratios of a table, as (row, other row): ours to the peer, all to the limit."""
    return [(r, peer) for r in ours] + [(r, limit) for r in (peer, *ours)]


def table(bench, limit, peer, ours):
    columns = [r for r in (limit, peer, *ours) if r in bench.rows]
    ratios = [(a, b) for a, b in pairs(limit, peer, ours) if a in columns and b in columns]
    head = f"{'':32} {'unit':>8}" + "".join(f" {TITLE[r]:>12}" for r in columns)
    head += "".join(f" {a + '/' + b:>{width(a, b)}}" for a, b in ratios)
    lines = [head]
    for key, title, unit, more, digits in FIGURES:
        line = f"{title:32} {unit:>8}"
        for row in columns:
            v = bench.median(key, row)
            line += f" {'-' if v is None else format(v, f'.{digits}f'):>12}"
        for a, b in ratios:
            x, y = bench.median(key, a), bench.median(key, b)
            if x is None or not y:
                line += f" {'-':>{width(a, b)}}"
            else:
                mark = worse(x, y, more) if b == peer else ""
                line += f" {format(x / y, '.2f') + mark:>{width(a, b)}}"
        lines.append(line)
    return "\n".join(lines)


def width(a, b):
    return max(12, len(a) + len(b) + 1)


def show(bench):
    print(heading(bench))
    for title, limit, peer, ours in TABLES:
        if any(r in bench.rows for r in (limit, peer, *ours)):
            print(f"\n{title}:")
            print(table(bench, limit, peer, ours))
    print()
    print("Medians. '<' marks a figure of ours that is worse than redsocks by more than 5 %.")
    print("PSS is of the redirector's processes; slab is of the whole machine, both ends of the")
    print("flows included: the row native, or forward, is its floor.")
    for row, errors in bench.errors.items():
        print(f"failures, {TITLE[row]}: {errors}")
    for row, why in bench.left_out.items():
        print(f"not measured, {TITLE[row]}: {why}")


def heading(bench):
    m = machine()
    return (f"{m['cpu']}, {m['cpus']} CPUs, {m['memory_gib']} GiB, Linux {m['kernel']}, "
            f"redsocks {m['redsocks']}, undersock {m['undersock']}\n"
            f"SOCKS server: {bench.args.server}; congestion control {m['congestion_control']}; "
            f"{bench.args.rounds} interleaved rounds, {bench.args.seconds} s of bulk, "
            f"{bench.args.flows} idle flows")


def document(bench):
    rows = {}
    for key, by_row in bench.samples.items():
        for row, values in by_row.items():
            rows.setdefault(row, {})[key] = {"median": statistics.median(values),
                                             "samples": values}
    ratios = {}
    for _, limit, peer, ours in TABLES:
        for a, b in [*pairs(limit, peer, ours), (limit, peer)]:
            for key in bench.samples:
                x, y = bench.median(key, a), bench.median(key, b)
                if x is not None and y:
                    ratios.setdefault(f"{a}/{b}", {})[key] = x / y
    return {"machine": machine(), "server": bench.args.server, "rounds": bench.args.rounds,
            "bulk_seconds": bench.args.seconds, "flows": bench.args.flows, "rows": rows,
            "ratios": ratios, "errors": bench.errors, "left_out": bench.left_out}


def worse(x, y, more):
    return "<" if (x < y * 0.95 if more else x > y * 1.05) else " "


def version(*command):
    try:
        out = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return out.splitlines()[0] if out else "absent"
    except OSError:
        return "absent"


def machine():
    with open("/proc/cpuinfo") as f:
        names = re.findall(r"^(?:model name|Model)\s*:\s*(.*)$", f.read(), re.M)
    with open("/proc/meminfo") as f:
        kib = int(re.search(r"^MemTotal:\s+(\d+)", f.read(), re.M).group(1))
    cc = version("nsenter", f"--net=/run/netns/{PREFIX}-native", "cat",
                 "/proc/sys/net/ipv4/tcp_congestion_control")
    ours = version(UNDERSOCK, "--version")
    return {"cpu": names[0] if names else platform.machine(), "cpus": os.cpu_count(),
            "memory_gib": round(kib / 1048576), "kernel": platform.release(),
            "congestion_control": cc,
            "redsocks": version("dpkg-query", "-W", "-f", "${Version}", "redsocks"),
            "undersock": ours.replace("undersock ", "")}
