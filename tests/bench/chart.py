# SPDX-License-Identifier: GPL-2.0-or-later
"""The drawing of the benchmark: how many times as good as redsocks, as bars, in SVG.

One panel for this host's own connections and one for a gateway's. For every figure there is a bar for
each row of ours, from the line "redsocks = 1" to its ratio on a logarithmic axis, to the right when
ours is better: of times, CPU and memory the ratio is taken the other way round. A diamond is the
limit: an application that speaks SOCKS itself, or a gateway that only forwards. A circle, where that
was measured, is an application that talks to the far end without any proxy.
"""

import math
from xml.sax.saxutils import escape

from figures import figures, heading, median
from rows import OURS, PLAIN, STITCHED, TABLES

# What is drawn; the table has the rest.
DRAWN = ("up1", "up8", "down1", "down8", "up1_cpu", "down1_cpu", "rr64_p50", "rr64_p99",
         "rr64_cpu", "rr64_busy", "rr16k_p50", "msg", "msg_p99", "msg_busy", "conn1", "conn32",
         "conn1_connect_p50", "conn1_whole_p50", "conn1_whole_p99", "conn32_busy", "udp64",
         "udp64_cpu", "udp1200", "udp1200_cpu", "udpecho1_p50", "udpecho8", "udpecho8_p99", "flow_pss")
# Titles that stand alone, where the table's is a line below another.
ALONE = {"rr64": "64 B round trip: ", "rr1k": "1 KiB round trip: ", "rr16k": "16 KiB round trip: ",
         "msg": "messages: ", "conn1": "one connection: ",
         "udp64": "64 B datagrams: ", "udp1200": "1200 B datagrams: ",
         "udpecho1": "datagrams, one sender: ", "udpecho8": "datagrams, 8 senders: ", "conn32": "32 at once: "}

WIDTH, LEFT, RIGHT = 920, 300, 150  # between are the bars, on the right their values and rows
BAR, PITCH, GAP = 9, 12, 9
LEAST, MOST = 1 / 8, 16

STYLE = """
 .bg{fill:#fff} text{font:12px system-ui,sans-serif;fill:#1f2328} .small{font-size:10px}
 .dim{fill:#59636e} .title{font-size:15px;font-weight:600} .panel{font-size:13px;font-weight:600}
 .grid{stroke:#d1d9e0;stroke-width:1} .one{stroke:#1f2328;stroke-width:1.5}
 .limit{fill:#fff;stroke:#1f2328;stroke-width:1.2}
 .plain{fill:none;stroke:#59636e;stroke-width:1.2} .v-stitch{fill:#cf222e} .v-stitch-tcp{fill:#fa4549}
 .v-relay{fill:#0969da}
 .v{fill:#0969da} .v-early{fill:#1a7f37} .v-splice{fill:#bc4c00} .v-sockmap{fill:#8250df}
 .v-copy{fill:#6e7781}
 @media (prefers-color-scheme:dark){
  .bg{fill:#0d1117} text{fill:#e6edf3} .dim{fill:#9198a1} .grid{stroke:#2f353d}
  .one{stroke:#e6edf3} .limit{fill:#0d1117;stroke:#e6edf3}
  .plain{stroke:#9198a1} .v-stitch{fill:#f85149} .v-stitch-tcp{fill:#ff7b72} .v-relay{fill:#4493f8}
  .v{fill:#4493f8} .v-early{fill:#3fb950} .v-splice{fill:#db6d28} .v-sockmap{fill:#ab7df8}
  .v-copy{fill:#9198a1}
 }
"""


def goodness(doc, key, row, peer, more):
    """How many times as good as the peer; None where one of them has no figure."""
    x, y = median(doc, key, row), median(doc, key, peer)
    if x is None or y is None or (x == 0 and y == 0):
        return None
    if more:
        return x / y if y else None
    return y / x if x else math.inf


def name(key, title):
    base = key.split("_")[0]
    if key == base or base not in ALONE:
        return title.strip()
    rest = title.strip().rsplit(", ", 1)[-1] if base.startswith("rr") else title.strip()
    return ALONE[base] + rest


def panels(doc):
    """(title, limit, peer, rows of ours, figures) of each panel that has a bar."""
    for limit, title in (("native", "This host's own connections"), ("forward", "A gateway's")):
        tables = [t for t in TABLES if t[1] == limit]
        peer = tables[0][2]
        ours = [row for t in tables for row in t[3] if row in doc["rows"]]
        shown = [f for f in figures(doc, doc["rows"]) if f[0] in DRAWN and
                 any(goodness(doc, f[0], row, peer, f[3]) is not None for row in ours)]
        if shown:
            yield title, limit, peer, ours, sorted(shown, key=lambda f: DRAWN.index(f[0]))


def span(doc):
    """The ends of the axis: powers of two around all that is drawn."""
    values = [goodness(doc, key, row, peer, more)
              for _, limit, peer, ours, shown in panels(doc)
              for key, _, _, more, _ in shown
              for row in (limit, *([PLAIN] if limit == "native" else []), *ours)]
    values = [v for v in values if v] + [0.5, 2]
    low = math.floor(math.log2(max(LEAST, min(values))))
    high = math.ceil(math.log2(min(MOST, max(values))))
    return low, high


def number(value, digits):
    return f"{value:,.{digits}f}"


class Drawing:
    def __init__(self, doc):
        self.doc = doc
        self.out = []
        self.y = 0
        self.low, self.high = span(doc)

    def x(self, value):
        """Where a ratio is; what is off the axis is at its end."""
        at = math.log2(value) if 0 < value < math.inf else self.high if value else self.low
        at = min(max(at, self.low), self.high)
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - self.low) / (self.high - self.low)

    def text(self, x, y, text, css="", anchor="start"):
        self.out.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">'
                        f"{escape(text)}</text>")

    def axis(self, height, peer):
        """Grid lines over a panel of that height, their ratios above it."""
        for power in range(self.low, self.high + 1):
            x = self.x(2.0 ** power)
            css = "one" if power == 0 else "grid"
            self.out.append(f'<line class="{css}" x1="{x:.1f}" x2="{x:.1f}" y1="{self.y}" '
                            f'y2="{self.y + height}"/>')
            label = f"{peer} = 1" if power == 0 else f"{2 ** power}×" if power > 0 else f"1/{2 ** -power}"
            self.text(x, self.y - 4, label, "small" + ("" if power == 0 else " dim"), "middle")

    def bar(self, row, value, tip):
        one, end = self.x(1), self.x(value)
        css = "v" + ("-" + OURS[row][1] if OURS[row][1] else "")
        faint = ' fill-opacity=".65"' if OURS[row][0] == "cgroup" and row not in STITCHED else ""
        self.out.append(
            f'<rect class="{css}"{faint} x="{min(one, end):.1f}" y="{self.y:.1f}" '
            f'width="{max(abs(end - one), 1):.1f}" height="{BAR}"><title>{escape(tip)}</title></rect>')
        off = value in (0, math.inf) or not self.low <= math.log2(value) <= self.high
        shown = ("none used" if value == math.inf else "1000»" if value > 1000 else
                 f"{value:.2f}" + ("»" if off else ""))
        # In a column of their own: a diamond may be anywhere.
        self.text(WIDTH - RIGHT + 12, self.y + BAR - 1, f"{shown}  {row}", "small")

    def figure(self, figure, limit, peer, ours):
        key, title, unit, more, digits = figure
        values = [(row, goodness(self.doc, key, row, peer, more)) for row in ours]
        values = [(row, v) for row, v in values if v is not None]
        middle = self.y + len(values) * PITCH / 2
        unit = unit.replace("us", "µs")
        self.text(LEFT - 10, middle + 1 - (4 if len(values) > 1 else 0), name(key, title), anchor="end")
        self.text(LEFT - 10, middle + (9 if len(values) > 1 else 11),
                  f"{peer}: {number(median(self.doc, key, peer), digits)} {unit}"
                  + ("" if more else ", less is better"), "small dim", "end")
        top = self.y
        for row, value in values:
            tip = f"{row}: {number(median(self.doc, key, row), digits)} {unit}"
            self.bar(row, value, tip)
            self.y += PITCH
        at = goodness(self.doc, key, limit, peer, more)
        y = (top + self.y - PITCH + BAR) / 2
        if at is not None:
            x = self.x(at)
            tip = f"{limit}: {number(median(self.doc, key, limit), digits)} {unit}"
            self.out.append(f'<path class="limit" d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z">'
                            f"<title>{escape(tip)}</title></path>")
        at = goodness(self.doc, key, PLAIN, peer, more) if limit == "native" else None
        if at is not None:
            tip = f"{PLAIN}: {number(median(self.doc, key, PLAIN), digits)} {unit}"
            self.out.append(f'<circle class="plain" cx="{self.x(at):.1f}" cy="{y:.1f}" r="4">'
                            f"<title>{escape(tip)}</title></circle>")
        self.y += GAP if len(values) > 1 else GAP + 8

    def panel(self, title, limit, peer, ours, shown):
        self.text(14, self.y, title, "panel")
        what = "the application speaks SOCKS itself" if limit == "native" else "forwarding, no SOCKS"
        if limit == "native" and PLAIN in self.doc["rows"]:
            what += f"   ○ {PLAIN}: no proxy"
        self.text(WIDTH - 14, self.y, f"◇ {limit}: {what}", "small dim", "end")
        self.y += 30
        start, mark = self.y, len(self.out)
        self.y += 8
        for figure in shown:
            self.figure(figure, limit, peer, ours)
        bars, end = self.out[mark:], self.y
        self.out[mark:], self.y = [], start
        self.axis(end - start, peer)  # below the bars
        self.out += bars
        self.y = end
        self.text(self.x(1) - 8, self.y + 14, f"← worse than {peer}", "small dim", "end")
        self.text(self.x(1) + 8, self.y + 14, "better, as many times (logarithmic; »: more) →",
                  "small dim")
        self.y += 46


def svg(doc):
    d = Drawing(doc)
    d.y = 28
    d.text(14, d.y, "undersock beside redsocks", "title")
    for line in heading(doc).split("\n"):
        d.y += 18
        d.text(14, d.y, line, "small dim")
    d.y += 34
    for panel in panels(doc):
        d.panel(*panel)
    height = d.y - 10
    return (f'<!-- SPDX-License-Identifier: GPL-2.0-or-later -->\n'
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'width="{WIDTH}" height="{height:.0f}" role="img" aria-label="undersock beside redsocks">\n'
            f"<style>{STYLE}</style>\n"
            f'<rect class="bg" width="{WIDTH}" height="{height:.0f}"/>\n' + "\n".join(d.out) + "\n</svg>\n")
