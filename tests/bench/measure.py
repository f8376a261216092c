#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds of the benchmark; run.sh makes the namespaces and calls this.

For each round, for each measurement, every row runs once, in an order that rotates from round to
round: a drift of the machine meets all rows alike. Figures are medians over the rounds. CPU is read
around each run of the load tool, of the redirector's processes and of the whole machine.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

import figures
import machine
import redirectors
import report
from redirectors import (CGROUP, CGROUP2, DATAGRAMS, GATE, LOAD, PLAIN_PORT, PREFIX, SINK_PORT, SOCKS_PORT,
                         TARGET, UNDERSOCK, nsenter)
from rows import OURS, PLAIN, ROWS, arguments, stitches

GIB = 1 << 30
TRIPS = (("rr64", "64"), ("rr1k", "1K"), ("rr16k", "16K"))
# A run of connections ends after so many: what it leaves in TIME_WAIT must not use up the ports.
CONNECTIONS = "15000"
# Memory hardly varies from round to round, and 2,000 flows take a while to open and to go.
IDLE_ROUNDS = 2
# On each of many connections, before their messages count: what chooses by itself has then chosen.
WARM_UP = 24
SENDERS = 8  # of datagrams


class Bench:
    def __init__(self, args):
        self.args = args
        self.rows = []
        self.left_out = {}  # row: why
        self.notes = {}     # row: in what it is not what its name says
        self.daemon = {}
        self.pss_at_start = {}
        self.samples = {}   # key: {row: [value of each round]}
        self.errors = {}    # row: {"what: errno": count}
        self.ways = {}      # row: how its connections went, at the last look
        self.phase = None   # the load tool that phased() has started

    # --- set-up ---------------------------------------------------------------------------------

    def start_rows(self):
        for row in self.args.rows:
            try:
                if row in ("redsocks", "gw-redsocks"):
                    self.daemon[row] = redirectors.start_redsocks(row)
                elif row in (PLAIN, "forward"):
                    redirectors.start_plain()
                elif row in OURS:
                    self.daemon[row] = redirectors.start_ours(row, self.args.workers,
                                                              self.args.fast_path)
                    self.look_at(row)
                self.warm_up(row)
                self.look_at_ways(row)
                self.rows.append(row)
            except RuntimeError as e:
                self.left_out[row] = str(e)
                print(f"bench: {row} is left out: {e}", file=sys.stderr)

    def look_at(self, row):
        """Whether the daemon does what the row's name says: it goes without where it cannot."""
        state = redirectors.status(row) or {}
        notes = []
        if OURS[row][1] != "early":
            notes += [f"connect is early: {c.get('why') or c.get('why_early') or 'no reason given'}"
                      for c in state.get("captures", []) if c.get("connect") == "early"]
        if OURS[row][1] in ("", "early", "sockmap"):
            notes += [f"no sockmap in a worker: {w.get('sockmap_why', '')}"
                      for w in state.get("workers", []) if w.get("sockmap") not in (None, "proven")]
        if notes:
            self.notes[row] = "; ".join(sorted(set(notes)))

    def look_at_ways(self, row):
        """Raises RuntimeError when connections since the last look were not stitched and should have
        been, or were and should not: the figures would be another row's."""
        if row not in OURS:
            return
        stitched, relayed, odd = redirectors.ways(row)
        wanted = stitches(row)
        first = row not in self.ways
        before = self.ways.get(row, (0, 0))
        self.ways[row] = stitched, relayed
        if wanted is None and first:
            time.sleep(1)  # "auto" relays until it has heard the upstream: not part of the rounds
            return
        new = stitched - before[0], relayed - before[1]
        if wanted is None:
            wanted = stitched > 0
            self.notes[row] = f"its connections are {'stitched' if wanted else 'relayed'}"
        if new[wanted] or not stitched + relayed:
            raise RuntimeError(f"{new[0]:,} of its connections were stitched and {new[1]:,} relayed, "
                               f"all should be {'stitched' if wanted else 'relayed'}")
        if odd:
            self.notes[row] = "stitch counted: " + ", ".join(f"{k} {v:,}" for k, v in odd.items())

    def refuse(self, row, why):
        """Nothing of this row is published."""
        print(f"bench: {row} is left out: {why}", file=sys.stderr)
        self.left_out[row] = why
        self.rows.remove(row)
        for by_row in self.samples.values():
            by_row.pop(row, None)

    def warm_up(self, row):
        """A few connections, and a proof that the row goes through the SOCKS server: proxy does not
        forward to the target, so what is answered went through SOCKS."""
        result = self.load(row, "conn", "-n", "20", "-t", "5")
        if result["done"] != 20:
            raise RuntimeError(f"the first connections failed: {result['errors']} "
                               f"{redirectors.tail(self.daemon.get(row))}")

    # --- one measurement ------------------------------------------------------------------------

    def command(self, row, *argv, tool=LOAD):
        options = ["-x", f"{GATE[row]}:{SOCKS_PORT}"] if row == "native" else []
        direct = row in (PLAIN, "forward")
        target = [GATE[row], PLAIN_PORT] if direct else [TARGET, SINK_PORT]
        command = nsenter(row, tool, argv[0], *options, *argv[1:], *target)
        if CGROUP:
            enter = f'echo $$ >"{CGROUP2}/{CGROUP}-{row}/cgroup.procs" && exec "$@"'
            command = ["sh", "-c", enter, "sh", *command]
        return command

    def load(self, row, *argv, tool=LOAD, prefix=()):
        p = subprocess.run([*prefix, *self.command(row, *argv, tool=tool)], capture_output=True,
                           text=True, timeout=180)
        lines = p.stdout.strip().splitlines()
        if not lines:
            raise RuntimeError(f"{os.path.basename(tool)} {' '.join(argv)}: status {p.returncode}: {p.stderr.strip()}")
        return json.loads(lines[-1])

    def phased(self, row, *argv):
        """The load tool with a pipe each way; what it says of the first phase is read already."""
        p = subprocess.Popen(self.command(row, *argv), text=True, bufsize=1,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.phase = p
        line = p.stdout.readline()
        if not line:
            raise RuntimeError(f"load {' '.join(argv)}: status {p.wait()}")
        return p, json.loads(line)

    def pids(self, row):
        return machine.tree(self.daemon[row].pid) if row in self.daemon else []

    def note(self, row, key, value):
        self.samples.setdefault(key, {}).setdefault(row, []).append(value)

    def note_errors(self, row, what, errors):
        for name, count in errors.items():
            key = f"{what}: {name}"
            mine = self.errors.setdefault(row, {})
            mine[key] = mine.get(key, 0) + count

    def clocks(self, row):
        pids = self.pids(row)
        return pids, machine.cpu_seconds(pids), machine.busy_seconds()

    def note_cpu(self, row, key, before, units):
        """What one unit of work has cost since `before`, in seconds times whatever units is in."""
        pids, cpu, busy = before
        if units:
            if pids:
                self.note(row, f"{key}_cpu", (machine.cpu_seconds(pids) - cpu) / units)
            self.note(row, f"{key}_busy", (machine.busy_seconds() - busy) / units)

    def note_spread(self, row, key, result, name=""):
        """p50 and p99, where something was answered: 0 is not a time."""
        if result["done"]:
            for p in ("p50", "p99"):
                self.note(row, f"{key}_{p}", result[f"{name}{p}_us"])

    def bulk(self, row, direction, streams):
        key = f"{direction}{streams}"
        before = self.clocks(row)
        r = self.load(row, direction, "-c", str(streams), "-T", str(self.args.seconds))
        self.note_cpu(row, key, before, r["bytes"] / GIB)
        self.note_errors(row, key, r["errors"])
        self.note(row, key, r["gbit_per_second"])

    def round_trips(self, row, key, size, prefix=()):
        before = self.clocks(row)
        r = self.load(row, "rr", "-s", size, "-T", str(self.args.seconds / 2), prefix=prefix)
        self.note_cpu(row, key, before, r["done"] / 1e6)
        self.note_errors(row, key, r["errors"])
        self.note_spread(row, key, r)

    def round_trips_on_one(self, row, key, size):
        """All processes of the row on one CPU. On more it is the scheduler that decides, anew for
        each connection, whether the peer is woken on another one, which sleeps: that takes several
        times as long as all the rest. This is what the way itself costs."""
        cpus = os.sched_getaffinity(0)
        cpu = max(cpus)
        pids = [p for q in (*redirectors.servers(), *self.pids(row)) for p in machine.tree(q)]
        machine.pin(pids, {cpu})
        try:
            self.round_trips(row, f"{key}_one", size, prefix=("taskset", "-c", str(cpu)))
        finally:
            machine.pin(pids, cpus)

    def messages(self, row):
        p, opened = self.phased(row, "messages", "-n", str(self.args.messages), "-w",
                                str(WARM_UP), "-T", str(self.args.seconds))
        before = self.clocks(row)
        p.stdin.write("\n")
        line = p.stdout.readline()
        r = json.loads(line) if line else {"done": 0, "per_second": 0, "errors": opened["errors"]}
        self.note_cpu(row, "msg", before, r["done"] / 1e6)
        self.note(row, "msg", r["per_second"])
        self.note_spread(row, "msg", r)
        self.note_errors(row, "messages", r["errors"])
        p.communicate(timeout=120)
        time.sleep(0.2)

    def connections(self, row, parallel):
        key = f"conn{parallel}"
        before = self.clocks(row)
        r = self.load(row, "conn", "-c", str(parallel), "-n", CONNECTIONS, "-T",
                      str(self.args.seconds))
        self.note_cpu(row, key, before, r["done"] / 1e6)
        self.note_errors(row, key, r["errors"])
        self.note(row, key, r["per_second"])
        self.note_spread(row, f"{key}_connect", r, "connect_")
        self.note_spread(row, f"{key}_whole", r, "whole_")

    def flood(self, row, size):
        """How many arrive when more are sent than can, and how many are lost when fewer are."""
        key = f"udp{size}"
        before = self.clocks(row)
        argv = ("flood", "-c", str(SENDERS), "-s", str(size), "-T", str(self.args.seconds), "-R")
        r = self.load(row, *argv, str(self.args.offered), tool=DATAGRAMS)
        self.note_errors(row, key, r["errors"])
        if r["done"]:
            self.note_cpu(row, key, before, r["done"] / 1e6)
            self.note(row, key, r["per_second"])
            self.note(row, f"{key}_sent", r["sent_per_second"])
        r = self.load(row, *argv, str(self.args.moderate), tool=DATAGRAMS)
        self.note_errors(row, f"{key}_lost", r["errors"])
        if r["done"]:
            self.note(row, f"{key}_lost", r["lost_percent"])

    def datagrams(self, row, measure, argument):
        """What UDP does is the same with every connect and fast-path."""
        if row not in OURS or OURS[row][1] in ("", "relay"):
            measure(row, argument)

    def datagram_trips(self, row, senders):
        key = f"udpecho{senders}"
        before = self.clocks(row)
        r = self.load(row, "echo", "-c", str(senders), "-T", str(self.args.seconds / 2),
                      tool=DATAGRAMS)
        self.note_cpu(row, key, before, r["done"] / 1e6)
        self.note_errors(row, key, r["errors"])
        self.note(row, key, r.get("per_second", 0))
        self.note_spread(row, key, r)

    def idle_flows(self, row):
        pids = self.pids(row)
        fds, slab = machine.descriptors(pids), machine.meminfo("Slab")
        p, r = self.phased(row, "hold", "-n", str(self.args.flows))
        # Let the last bytes settle and idle buffers go back to their pools.
        time.sleep(0.3)
        n = r["open"] or 1
        if pids:
            # Since the start: an allocator keeps the pages of the round before.
            grown = machine.pss_bytes(pids) - self.pss_at_start[row]
            self.note(row, "flow_pss", max(0, grown) / n)
            self.note(row, "flow_fds", (machine.descriptors(pids) - fds) / n)
        self.note(row, "flow_slab", max(0, machine.meminfo("Slab") - slab) / n)
        out, _ = p.communicate(timeout=120)
        r = json.loads(out.strip().splitlines()[-1])
        self.note_errors(row, "hold", r["errors"])
        # The far ends of these flows are closed by now or soon; not into the next measurement.
        time.sleep(0.3)

    # --- all of them ----------------------------------------------------------------------------

    def measurements(self, number):
        what = self.args.measure
        if "idle" in what and number < IDLE_ROUNDS:
            yield self.idle_flows
        if "bulk" in what:
            for direction in ("up", "down"):
                for streams in (1, 8):
                    yield lambda row, d=direction, s=streams: self.bulk(row, d, s)
        if "rr" in what:
            for key, size in TRIPS:
                yield lambda row, k=key, s=size: self.round_trips(row, k, s)
        if "rr1" in what:
            for key, size in (TRIPS[0], TRIPS[-1]):
                yield lambda row, k=key, s=size: self.round_trips_on_one(row, k, s)
        if "messages" in what:
            yield self.messages
        if "conn" in what:
            yield lambda row: self.connections(row, 1)
            yield lambda row: self.connections(row, 32)
        if "udp" in what:
            for size in (64, 1200):
                yield lambda row, s=size: self.datagrams(row, self.flood, s)
            for senders in (1, SENDERS):
                yield lambda row, n=senders: self.datagrams(row, self.datagram_trips, n)

    def run(self):
        # Only now that all run: daemons of one binary share its pages, and PSS divides them.
        self.pss_at_start = {row: machine.pss_bytes(self.pids(row)) for row in self.rows}
        for n in range(self.args.rounds):
            if not self.rows:
                return
            began = time.monotonic()
            order = self.rows[n % len(self.rows):] + self.rows[:n % len(self.rows)]
            for measure in self.measurements(n):
                for row in order:
                    self.one(measure, row)
            if self.args.measure != ["udp"]:
                self.look_at_all_ways()
            print(f"bench: round {n + 1} of {self.args.rounds}, {time.monotonic() - began:.0f} s",
                  file=sys.stderr)

    def look_at_all_ways(self):
        for row in list(self.rows):
            try:
                self.look_at_ways(row)
            except RuntimeError as e:
                self.refuse(row, str(e))

    def one(self, measure, row):
        """A measurement of a row; what it cannot find is a failure of that row, and others go on."""
        self.phase = None
        ended = self.daemon[row].poll() if row in self.daemon else None
        if ended is not None:
            self.note_errors(row, "no figure", {f"the redirector has ended, status {ended}": 1})
            return
        try:
            measure(row)
        except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as e:
            self.note_errors(row, "no figure", {str(e)[:120]: 1})
        finally:
            if self.phase and self.phase.poll() is None:
                self.phase.kill()
                self.phase.wait()

    def median(self, key, row):
        values = self.samples.get(key, {}).get(row)
        return statistics.median(values) if values else None

    def document(self):
        """Everything that was found, as --json writes it and as report and chart read it."""
        rows = {}
        for key, by_row in self.samples.items():
            for row, values in by_row.items():
                rows.setdefault(row, {})[key] = {"median": statistics.median(values),
                                                 "samples": values}
        a = self.args
        doc = {"machine": machine.describe(UNDERSOCK, f"{PREFIX}-{self.rows[0]}"),
               "server": a.server, "set": a.set, "measured": a.measure, "rounds": a.rounds,
               "seconds": a.seconds, "flows": a.flows, "messages": a.messages, "warm_up": WARM_UP,
               "offered": a.offered, "moderate": a.moderate, "senders": SENDERS,
               "fast_path": a.fast_path, "workers": a.workers, "firewall": a.firewall,
               "rows": {row: rows.get(row, {}) for row in ROWS if row in self.rows},
               "errors": self.errors, "left_out": self.left_out, "notes": self.notes}
        for row in set(OURS) & set(self.errors):
            said = f"its daemon said: {redirectors.tail(self.daemon[row])}"
            doc["notes"][row] = "; ".join(filter(None, (doc["notes"].get(row), said)))
        doc["ratios"] = figures.ratios(doc)
        return doc


def compare_servers(args):
    """Which SOCKS server limits least: the native row alone, through each of them."""
    print(f"{'native, through':16} {'up 1':>8} {'down 1':>8} {'up 8':>8} {'down 8':>8} Gbit/s"
          f" {'rr p50':>8} us {'conn 1':>8} {'conn 32':>8} /s")
    args.measure = ["bulk", "rr", "conn"]
    for kind in ("sink", "microsocks", "dante", "ssh"):
        if kind not in ("sink", "ssh") and not shutil.which({"dante": "danted"}.get(kind, kind)):
            print(f"{kind:16} not installed")
            continue
        bench = Bench(args)
        try:
            redirectors.start_server(kind)
            bench.rows = ["native"]
            bench.warm_up("native")
            for n in range(args.rounds):
                for measure in bench.measurements(n):
                    measure("native")
            m = [bench.median(k, "native") or 0
                 for k in ("up1", "down1", "up8", "down8", "rr64_p50", "conn1", "conn32")]
            print(f"{kind:16} {m[0]:8.2f} {m[1]:8.2f} {m[2]:8.2f} {m[3]:8.2f} {'':6}"
                  f" {m[4]:8.1f} {'':2} {m[5]:8.0f} {m[6]:8.0f}"
                  + (f"   failures: {bench.errors['native']}" if bench.errors else ""))
        except RuntimeError as e:
            print(f"{kind:16} {e}")
        finally:
            redirectors.stop_all()


def main():
    args = arguments()
    # A background child of a shell starts with SIGINT ignored: both are set here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    bench = Bench(args)
    try:
        if args.servers:
            compare_servers(args)
            return 0
        redirectors.start_server(args.server)
        bench.start_rows()
        if not bench.rows:
            print("bench: no row can be measured", file=sys.stderr)
            return 1
        bench.run()
        if not bench.rows:
            print("bench: no row was what its name says", file=sys.stderr)
            return 1
        doc = bench.document()
        print(report.text(doc))
        path = args.json or args.default_json
        if path:
            with open(path, "w") as f:
                json.dump(doc, f, indent=1)
                f.write("\n")
        report.write(args, doc)
    finally:
        redirectors.stop_all()
    # A row of ours that was built but could not be measured, or that lost something, is a failure.
    broken = os.access(UNDERSOCK, os.X_OK) and set(OURS) & set(bench.left_out)
    return 1 if broken or set(OURS) & set(bench.errors) else 0


if __name__ == "__main__":
    sys.exit(main())
