# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark prints and writes: tables as text and as markdown, the drawing.

Every function takes the document that measure.py made, or that --json wrote in a run before, and
only reads it.
"""

import json
import sys
import textwrap

import chart
from figures import beside_native, figures, heading, median, ratio, tables
from rows import NATIVE, NEAR, OURS, PLAIN, STITCHED, arguments


UDP = {"offered": 0, "moderate": 0, "senders": 0}  # of a document of before

NOTES = """\
Medians of the rounds; behind each the ratio to redsocks and the ratio to native (a gateway's: to
forward). '<': ours, worse than redsocks by more than 5 %. A name without a suffix is undersock with
connect = "honest" and fast-path = "{fast_path}"; -stitch: connections are stitched, which is checked;
-stitch-tcp: and UDP is left alone, so that no packet is tracked; -relay: none is stitched, the relay
chooses how it moves bytes. plain has neither proxy nor SOCKS.
connect(): until the application may write. native speaks SOCKS itself, which is in it. early and
redsocks say "connected" before the SOCKS server has been asked; honest says what it answered.
forward has no SOCKS at all. Messages: 64 bytes there and back, one under way on each connection,
counted after {warm_up} on each, when fast-path = "auto" has chosen.
Slab is of the whole machine, both ends of the flows: native, or forward, is its floor. What the
kernel does outside processes, as the sockmap does, is only in "whole machine busy".
Datagrams: {senders} sockets send {offered:,} a second, or what the machine lets them (--json: _sent);
counted are those that arrived, by the server's clock. Lost: of {moderate:,} sent a second."""


def cell(doc, key, row, limit, peer, more, digits):
    value = median(doc, key, row)
    if value is None:
        return "-", "", "", ""
    to_peer, to_limit = ratio(doc, key, row, peer), ratio(doc, key, row, limit)
    bad = row in OURS and to_peer is not None and (to_peer < 0.95 if more else to_peer > 1.05)
    return (f"{value:,.{digits}f}", "" if row in (limit, peer, PLAIN) else times(to_peer),
            "" if row == limit else times(to_limit), "<" if bad else "")


def times(x):
    return "" if x is None else f"{x:.3f}" if x < 0.0995 else f"{x:.2f}"


def comparisons(doc):
    """Whether stitched connections are what is expected of them: (row, lines of cells, the sum of
    it), where native and that row were measured."""
    for row in STITCHED:
        lines = []
        for _, name, unit, digits, x, y, r, (low, high), mark in beside_native(doc, row):
            spread = "" if low is None else f"{times(low)}–{times(high)}"
            lines.append((name, unit, f"{x:,.{digits}f}", f"{y:,.{digits}f}", times(r), spread, mark))
        good = sum(not line[-1] for line in lines)
        if lines:
            yield row, lines, (
                f"{good} of {len(lines)} figures of {row} are within {NEAR:.0%} of {NATIVE}'s, or better. "
                "The ratio is that of the medians; behind it, where the middle half of the rounds has it. "
                f"\"perhaps\": that reaches into the {NEAR:.0%}.")


def failures(doc):
    for row, errors in doc["errors"].items():
        yield f"failures, {row}: " + ", ".join(f"{k} {n}" for k, n in errors.items())
    for row, why in doc["left_out"].items():
        yield f"not measured, {row}: {why}"
    for row, what in doc["notes"].items():
        yield f"note, {row}: {what}"


def text(doc):
    lines = [heading(doc)]
    for title, limit, peer, columns in tables(doc):
        width = {row: max(13 if row == limit else 18 if row in (peer, PLAIN) else 25, len(row) + 2)
                 for row in columns}
        lines += ["", f"{title}:",
                  f"{'':34}{'unit':>8}" + "".join(f"{r:>{width[r]}}" for r in columns)]
        for key, name, unit, more, digits in figures(doc, columns):
            line = f"{name:34}{unit:>8}"
            for row in columns:
                value, to_peer, to_limit, mark = cell(doc, key, row, limit, peer, more, digits)
                tail = "" if row == limit else f"{to_limit:>6}"
                if row not in (limit, peer, PLAIN):
                    tail = f"{to_peer:>6}{mark or ' '}" + tail
                line += f"{value + tail:>{width[row]}}"
            lines.append(line.rstrip())
    for row, cells, summary in comparisons(doc):
        lines += ["", f"{row} beside {NATIVE}:"]
        lines += [f"{name:34}{unit:>8}{x:>13}{y:>13}{r:>8}{spread:>12}  {mark}".rstrip()
                  for name, unit, x, y, r, spread, mark in cells]
        lines += textwrap.wrap(summary, 100)
    lines += ["", NOTES.format(**{**UDP, **doc}), *failures(doc)]
    return "\n".join(lines)


def indented(name):
    return "&nbsp;&nbsp;" * (len(name) - len(name.lstrip())) + name.lstrip()


def markdown(doc):
    lines = [*heading(doc).replace("\n", "  \n").split("\n")]
    for title, limit, peer, columns in tables(doc):
        lines += ["", f"**{title}**", "", "| | unit | " + " | ".join(columns) + " |",
                  "|---|---|" + "---:|" * len(columns)]
        for key, name, unit, more, digits in figures(doc, columns):
            cells = []
            for row in columns:
                value, to_peer, to_limit, mark = cell(doc, key, row, limit, peer, more, digits)
                both = [r for r in ((to_peer + mark.replace("<", "&lt;")) or "", to_limit) if r]
                cells.append(value + (f" ({', '.join(both)})" if both else ""))
            lines.append(f"| {indented(name)} | {unit.replace('us', 'µs')} | " + " | ".join(cells) + " |")
    for row, cells, summary in comparisons(doc):
        lines += ["", f"**{row} beside {NATIVE}**", "",
                  f"| | unit | {NATIVE} | {row} | ratio | of the rounds | |",
                  "|---|---|---:|---:|---:|---:|---|"]
        lines += [f"| {indented(name)} | {unit.replace('us', 'µs')} | " + " | ".join(rest) + " |"
                  for name, unit, *rest in cells]
        lines += ["", summary]
    lines += ["", NOTES.format(**{**UDP, **doc}).replace("'<'", "'&lt;'")]
    for line in failures(doc):
        lines += ["", line]
    return "\n".join(lines) + "\n"


def write(args, doc):
    for path, content in ((args.markdown, markdown), (args.svg, chart.svg)):
        if path:
            with open(path, "w") as f:
                f.write(content(doc))


def main():
    """--redraw: the outputs again, from the document of a run."""
    args = arguments()
    with open(args.redraw) as f:
        doc = json.load(f)
    if args.only:
        doc["rows"] = {row: v for row, v in doc["rows"].items() if row in args.only}
    print(text(doc))
    write(args, doc)


if __name__ == "__main__":
    sys.exit(main())
