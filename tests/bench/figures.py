# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of the benchmark and their ratios, as tables and drawing show them.

Every function takes the document that measure.py made, or that --json wrote in a run before, and
only reads it.
"""

import statistics

from rows import ENDS, NATIVE, NEAR, OURS, PLAIN, STITCHED, TABLES, standard


def bulk(what, digits, unit, more, suffix):
    return [(f"{d}{n}{suffix}", f"{what}{d} {n} stream{'s' * (n > 1)}", unit, more, digits)
            for d in ("up", "down") for n in (1, 8)]


def trips(key, what):
    return [(f"{key}_p50", f"{what}, p50", "us", False, 1),
            (f"{key}_p99", f"{what}, p99", "us", False, 1),
            (f"{key}_cpu", "  redirector CPU", "us/trip", False, 2),
            (f"{key}_busy", "  whole machine busy", "us/trip", False, 1)]


def connections(n, what):
    return [(f"conn{n}", what, "/s", True, 0),
            (f"conn{n}_connect_p50", "  connect(), p50", "us", False, 1),
            (f"conn{n}_connect_p99", "  connect(), p99", "us", False, 1),
            (f"conn{n}_whole_p50", "  to the first byte back, p50", "us", False, 1),
            (f"conn{n}_whole_p99", "  to the first byte back, p99", "us", False, 1),
            (f"conn{n}_cpu", "  redirector CPU", "us/conn", False, 1),
            (f"conn{n}_busy", "  whole machine busy", "us/conn", False, 1)]


def datagrams():
    for size in (64, 1200):
        key = f"udp{size}"
        yield key, f"datagrams of {size} B that arrive", "/s", True, 0
        yield f"{key}_cpu", "  redirector CPU", "us/datagram", False, 2
        yield f"{key}_busy", "  whole machine busy", "us/datagram", False, 2
        yield f"{key}_lost", "  lost at a moderate rate", "%", False, 2
    for n, who in ((1, "one sender"), (8, "8 senders")):
        key = f"udpecho{n}"
        yield key, f"datagrams there and back, {who}", "/s", True, 0
        yield f"{key}_p50", "  p50", "us", False, 1
        yield f"{key}_p99", "  p99", "us", False, 1
        yield f"{key}_cpu", "  redirector CPU", "us/trip", False, 2


# key, title, unit, whether more is better, digits
FIGURES = [
    *bulk("bulk ", 2, "Gbit/s", True, ""),
    *bulk("redirector CPU, ", 3, "s/GiB", False, "_cpu"),
    *bulk("whole machine busy, ", 3, "s/GiB", False, "_busy"),
    *trips("rr64", "64 B round trip"), *trips("rr1k", "1 KiB round trip"),
    *trips("rr16k", "16 KiB round trip"),
    *trips("rr64_one", "64 B round trip on one CPU"),
    *trips("rr16k_one", "16 KiB round trip on one CPU"),
    ("msg", "@MESSAGES@ flows of messages", "/s", True, 0),
    ("msg_p50", "  there and back, p50", "us", False, 0),
    ("msg_p99", "  there and back, p99", "us", False, 0),
    ("msg_cpu", "  redirector CPU", "us/msg", False, 2),
    ("msg_busy", "  whole machine busy", "us/msg", False, 2),
    *connections(1, "connections, one at a time"), *connections(32, "connections, 32 at once"),
    *datagrams(),
    ("flow_pss", "idle flow: redirector (PSS)", "B/flow", False, 0),
    ("flow_fds", "idle flow: descriptors", "/flow", False, 1),
    ("flow_slab", "idle flow: kernel slab, all ends", "B/flow", False, 0),
]


def median(doc, key, row):
    value = doc["rows"].get(row, {}).get(key)
    return value["median"] if value else None


def ratio(doc, key, a, b):
    x, y = median(doc, key, a), median(doc, key, b)
    return x / y if x is not None and y else None


def ratios(doc):
    """{"a/b": {key: ratio}}: ours to the peer, each to the limit, and each variant to its base; of
    no proxy at all: what SOCKS itself costs, and stitch."""
    out = {}
    for _, limit, peer, ours in TABLES:
        for a, b in [*((r, peer) for r in ours), *((r, limit) for r in (peer, *ours)),
                     *((r, standard(r)) for r in ours if r != standard(r)),
                     *((r, PLAIN) for r in (NATIVE, *STITCHED))]:
            for key, *_ in FIGURES:
                x = ratio(doc, key, a, b)
                if x is not None:
                    out.setdefault(f"{a}/{b}", {})[key] = x
    return out


def tables(doc):
    """(title, limit, peer, rows) of each table in which something was measured."""
    for title, limit, peer, ours in TABLES:
        ours = [r for r in ours if r in doc["rows"]]
        alone = not any(r in doc["rows"] and r not in ENDS for t in TABLES if t[1] == limit
                        for r in t[3])
        first = [t for t in TABLES if t[1] == limit][0][0] == title
        # What is compared with no proxy at all is in the cgroup's table.
        floor = [PLAIN] if set(STITCHED) & set(ours) or (alone and first and limit == NATIVE) else []
        ends = [r for r in (*floor, limit, peer) if r in doc["rows"]]
        if ours or (ends and alone and first):
            yield title, limit, peer, ends + ours


def figures(doc, columns):
    """The figures that one of the rows has; title and cells: (value, ratio to the peer, to the
    limit, mark) as text."""
    for key, title, unit, more, digits in FIGURES:
        if any(median(doc, key, row) is not None for row in columns):
            yield key, title.replace("@MESSAGES@", f"{doc['messages']:,}"), unit, more, digits


def quartiles(doc, key, a, b):
    """The ratio a / b in each round by itself: its first and third quartile; None, None where the
    rounds of the two are not the same or too few."""
    x, y = (doc["rows"].get(row, {}).get(key, {}).get("samples", []) for row in (a, b))
    each = sorted(m / n for m, n in zip(x, y) if n)
    if len(x) != len(y) or len(each) < 3:
        return None, None
    low, _, high = statistics.quantiles(each, n=4, method="inclusive")
    return low, high


def beside_native(doc, stitched):
    """The stitched row beside the native one, figure by figure: (key, title, unit, digits, native,
    stitched, ratio, quartiles of it, how far it is worse than NEAR: "worse", "perhaps" when half of
    the rounds or more say otherwise, ""). What only one of them has is left out."""
    for key, title, unit, more, digits in figures(doc, (NATIVE, stitched)):
        x, y = median(doc, key, NATIVE), median(doc, key, stitched)
        if not x or y is None:
            continue
        low, high = quartiles(doc, key, stitched, NATIVE)
        worse = y / x < 1 - NEAR if more else y / x > 1 + NEAR
        mark = "worse" if worse else ""
        if worse and low is not None and (high >= 1 - NEAR if more else low <= 1 + NEAR):
            mark = "perhaps"
        yield key, title, unit, digits, x, y, y / x, (low, high), mark


def heading(doc):
    m = doc["machine"]
    return (f"{m['cpu']}, {m['cpus']} CPUs, {m['memory_gib']} GiB, Linux {m['kernel']}, "
            f"redsocks {m['redsocks']}, undersock {m['undersock']}\n"
            f"SOCKS server: {doc['server']}; congestion control {m['congestion_control']}; "
            f"{doc['rounds']} interleaved rounds, slices of {doc['seconds']:g} s, "
            f"{doc['flows']:,} idle flows"
            + ("; every host with a stateful firewall" if doc.get("firewall") else ""))
