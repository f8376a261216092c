#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds and the table of the benchmark; run.sh makes the namespaces and calls this.

For each round, for each measurement, every row runs once, in an order that rotates from round to
round: a drift of the machine meets all rows alike. Figures are medians over the rounds.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import report

PREFIX = os.environ["BENCH_PREFIX"]
TMP = os.environ["TMP"]
LOAD = os.environ["LOAD"]
HERE = os.environ["BENCH_DIR"]
UNDERSOCK = os.environ["UNDERSOCK"]
CGROUP2 = os.environ.get("CGROUP2", "")
CGROUP = os.environ.get("BENCH_CGROUP", "")

# The SOCKS server's address for each row.
GATE = {"native": "10.77.10.1", "redsocks": "10.77.11.1",
        "output": "10.77.12.1", "cgroup": "10.77.13.1",
        "forward": "10.77.14.1", "gw-redsocks": "10.77.15.1", "gw-ours": "10.77.16.1",
        "copy": "10.77.17.1", "splice": "10.77.18.1", "sockmap": "10.77.19.1"}
ROWS = list(GATE)
FORCED = ("copy", "splice", "sockmap")  # the row's fast-path; not measured unless asked for
HOOK = {"output": "output", "cgroup": "cgroup", "gw-ours": "gateway",
        **{row: "output" for row in FORCED}}
TARGET = "203.0.113.10"
SINK_PORT = "9000"
SOCKS_PORT = "1080"
PLAIN_PORT = "1081"
REDSOCKS_PORT = 12345
TICK = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30

children = []


def nsenter(row, *command):
    return ["nsenter", f"--net=/run/netns/{PREFIX}-{row}", "--", *command]


def place(row):
    """The namespace of the row's redirector; its load runs in the one named like the row."""
    return f"gate-{row}" if row in report.GATEWAYS else row


def start(name, argv, nofile=None):
    """A background process in its own session; its log is TMP/NAME.log."""
    with open(f"{TMP}/{name}.log", "ab") as log:
        if nofile:
            argv = ["prlimit", f"--nofile={nofile}:{nofile}", "--", *argv]
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                             start_new_session=True)
    p.name = name
    children.append(p)
    return p


def stop_all():
    for p in reversed(children):
        if p.poll() is None:
            p.terminate()
    for p in reversed(children):
        try:
            p.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()


def listens(row, port):
    out = subprocess.run(nsenter(row, "ss", "-Hlnt"), capture_output=True, text=True).stdout
    return re.search(rf":{port}\s", out) is not None


def wait_until(what, condition, process, seconds=15):
    """Poll; a bound for a hang, not a measurement."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process and process.poll() is not None:
            raise RuntimeError(f"{what}: it ended with status {process.returncode}: {tail(process)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: nothing after {seconds} s: {tail(process)}")
        time.sleep(0.05)


def tail(process):
    if not process:
        return ""
    with open(f"{TMP}/{process.name}.log", errors="replace") as f:
        return " | ".join(f.read().strip().splitlines()[-3:]) or "(it said nothing)"


def template(name, target, **values):
    with open(f"{HERE}/{name}") as f:
        text = f.read()
    for key, value in values.items():
        text = text.replace(f"@{key.upper()}@", str(value))
    with open(target, "w") as f:
        f.write(text)
    return target


def tree(pid):
    """pid and all its descendants."""
    pids = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                for child in f.read().split():
                    pids += tree(int(child))
    except OSError:
        pass
    return pids


def cpu_seconds(pids):
    """User and system time of the processes, those reaped children included."""
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as f:
                field = f.read().rsplit(")", 1)[1].split()
            ticks += int(field[11]) + int(field[12])
        except OSError:
            pass
    return ticks / TICK


def busy_seconds():
    """The whole machine: everything but idle, iowait and steal."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return (v[0] + v[1] + v[2] + v[5] + v[6]) / TICK


def pss_bytes(pids):
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += int(re.search(r"^Pss:\s+(\d+)", f.read(), re.M).group(1)) * 1024
        except (OSError, AttributeError):
            pass
    return total


def descriptors(pids):
    total = 0
    for pid in pids:
        try:
            total += len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            pass
    return total


def slab_bytes():
    with open("/proc/meminfo") as f:
        return int(re.search(r"^Slab:\s+(\d+)", f.read(), re.M).group(1)) * 1024


class Bench:
    def __init__(self, args):
        self.args = args
        self.rows = []
        self.left_out = {}
        self.daemon = {}
        self.pss_at_start = {}
        self.samples = {}
        self.errors = {}

    # --- set-up ---------------------------------------------------------------------------------

    def start_server(self, kind):
        """The SOCKS server of all rows, on every address of proxy."""
        port = SOCKS_PORT
        if kind == "sink":
            p = start("server", nsenter("proxy", LOAD, "server", "-S", "0.0.0.0", port))
        else:
            sink = start("sink", nsenter("net", LOAD, "server", TARGET, SINK_PORT))
            wait_until("sink", lambda: listens("net", SINK_PORT), sink)
            p = getattr(self, f"start_{kind}")(port)
        wait_until(f"SOCKS server {kind}", lambda: listens("proxy", port), p)
        return p

    def start_microsocks(self, port):
        return start("server", nsenter("proxy", "microsocks", "-i", "0.0.0.0", "-p", port))

    def start_dante(self, port):
        conf = template("danted.conf.in", f"{TMP}/danted.conf", port=port)
        return start("server", nsenter("proxy", "danted", "-f", conf))

    def start_ssh(self, port):
        d = f"{TMP}/ssh"
        os.mkdir(d, 0o700)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{d}/{key}"],
                           check=True, stdin=subprocess.DEVNULL)
        template("sshd_config.in", f"{d}/sshd_config", dir=d)
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        script = (f"sed 's/^root:[^:]*:/root:*:/' /etc/shadow >{d}/shadow && chmod 600 {d}/shadow &&"
                  f" mount --bind {d}/shadow /etc/shadow && mount -t tmpfs tmpfs /run &&"
                  f" mkdir -m 755 /run/sshd && exec {sshd} -D -e -f {d}/sshd_config")
        server = start("sshd", nsenter("proxy", "unshare", "-m", "--propagation", "private",
                                       "sh", "-c", script))
        wait_until("sshd", lambda: listens("proxy", 2222), server)
        return start("server", nsenter(
            "proxy", "ssh", "-F", "none", "-N", "-D", f"0.0.0.0:{port}", "-p", "2222", "-i",
            f"{d}/user", "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={d}/known",
            "-o", "BatchMode=yes", "-o", "IdentityAgent=none", "root@127.0.0.1"))

    def start_redsocks(self, row):
        if not shutil.which("redsocks"):
            raise RuntimeError("redsocks is not installed")
        conf = template("redsocks.conf.in", f"{TMP}/{row}.conf", socks_ip=GATE[row],
                        socks_port=SOCKS_PORT)
        hook = "output"
        if row in report.GATEWAYS:
            # A redirect before routing goes to the address of the interface.
            hook = "prerouting"
            with open(conf, "r+") as f:
                text = f.read().replace("local_ip = 127.0.0.1", "local_ip = 0.0.0.0")
                f.seek(0)
                f.write(text)
                f.truncate()
        p = start(row, nsenter(place(row), "redsocks", "-c", conf), nofile=20000)
        wait_until("redsocks", lambda: listens(place(row), REDSOCKS_PORT), p)
        rules = ("add table ip us_redsocks\n"
                 f"add chain ip us_redsocks captured {{ type nat hook {hook} priority -100; }}\n"
                 "add rule ip us_redsocks captured ip daddr 203.0.113.0/24 meta l4proto tcp "
                 f"redirect to :{REDSOCKS_PORT}\n")
        subprocess.run(nsenter(place(row), "nft", "-f", "-"), input=rules, text=True, check=True)
        return p

    def start_plain(self):
        """What the row "forward" reaches: the sink without SOCKS, where the SOCKS server is."""
        p = start("plain", nsenter("proxy", LOAD, "server", "0.0.0.0", PLAIN_PORT))
        wait_until("plain server", lambda: listens("proxy", PLAIN_PORT), p)

    def start_ours(self, row):
        if not os.access(UNDERSOCK, os.X_OK):
            raise RuntimeError(f"build/undersock is not built")
        if row == "cgroup" and not CGROUP:
            raise RuntimeError("no cgroup2 is mounted")
        control = f"{TMP}/{row}.sock"
        conf = template("undersock.conf.in", f"{TMP}/{row}.conf", socks_ip=GATE[row],
                        socks_port=SOCKS_PORT, hook=HOOK[row], workers=self.args.workers,
                        fast_path=row if row in FORCED else self.args.fast_path, control=control,
                        cgroup=f'cgroup = "/{CGROUP}"' if row == "cgroup" else "")
        p = start(row, nsenter(place(row), UNDERSOCK, "daemon", "-c", conf))
        # The socket is there before the captures are; an answer comes after them.
        ask = [UNDERSOCK, "status", "-s", control]
        wait_until("undersock daemon", lambda: os.path.exists(control) and
                   subprocess.run(ask, capture_output=True).returncode == 0, p)
        return p

    def start_rows(self):
        only = (self.args.only.split(",") if self.args.only else
                [row for row in ROWS if row not in FORCED])
        for row in only:
            if row not in ROWS:
                sys.exit(f"bench: no row {row}; there are {', '.join(ROWS)}")
        for row in [r for r in ROWS if r in only]:
            try:
                if row in ("redsocks", "gw-redsocks"):
                    self.daemon[row] = self.start_redsocks(row)
                elif row == "forward":
                    self.start_plain()
                elif row in HOOK:
                    self.daemon[row] = self.start_ours(row)
                self.warm_up(row)
                self.rows.append(row)
            except RuntimeError as e:
                self.left_out[row] = str(e)
                print(f"bench: {report.TITLE[row]} is left out: {e}", file=sys.stderr)

    def warm_up(self, row):
        """One connection, and a proof that the row goes through the SOCKS server."""
        result = self.load(row, "conn", "-n", "20", "-t", "5")
        if result["done"] != 20:
            raise RuntimeError(f"the first connections failed: {result['errors']} "
                               f"{tail(self.daemon.get(row))}")
        # Proxy does not forward to the target: what is answered went through SOCKS.

    # --- one measurement ------------------------------------------------------------------------

    def command(self, row, *argv):
        options = ["-x", f"{GATE[row]}:{SOCKS_PORT}"] if row == "native" else []
        target = [GATE[row], PLAIN_PORT] if row == "forward" else [TARGET, SINK_PORT]
        command = nsenter(row, LOAD, argv[0], *options, *argv[1:], *target)
        if row == "cgroup":
            enter = f'echo $$ >"{CGROUP2}/{CGROUP}/cgroup.procs" && exec "$@"'
            command = ["sh", "-c", enter, "sh", *command]
        return command

    def load(self, row, *argv):
        p = subprocess.run(self.command(row, *argv), capture_output=True, text=True, timeout=180)
        lines = p.stdout.strip().splitlines()
        if not lines:
            raise RuntimeError(f"load {' '.join(argv)}: status {p.returncode}: {p.stderr.strip()}")
        return json.loads(lines[-1])

    def pids(self, row):
        return tree(self.daemon[row].pid) if row in self.daemon else []

    def note(self, row, key, value):
        self.samples.setdefault(key, {}).setdefault(row, []).append(value)

    def note_errors(self, row, what, errors):
        for name, count in errors.items():
            key = f"{what}: {name}"
            mine = self.errors.setdefault(row, {})
            mine[key] = mine.get(key, 0) + count

    def bulk(self, row, direction, streams):
        key = f"{direction}{streams}"
        pids = self.pids(row)
        cpu, busy = cpu_seconds(pids), busy_seconds()
        r = self.load(row, direction, "-c", str(streams), "-T", str(self.args.seconds))
        cpu, busy = cpu_seconds(pids) - cpu, busy_seconds() - busy
        self.note_errors(row, key, r["errors"])
        self.note(row, key, r["gbit_per_second"])
        if r["bytes"]:
            if pids:
                self.note(row, f"{key}_cpu", cpu * GIB / r["bytes"])
            self.note(row, f"{key}_busy", busy * GIB / r["bytes"])

    def round_trips(self, row):
        busy = busy_seconds()
        r = self.load(row, "rr", "-s", "64", "-n", str(self.args.trips))
        busy = busy_seconds() - busy
        self.note_errors(row, "rr", r["errors"])
        if r["done"]:
            self.note(row, "rr_busy", busy * 1e6 / r["done"])
        self.note(row, "rr_p50", r["p50_us"])
        self.note(row, "rr_p99", r["p99_us"])

    def connections(self, row, parallel):
        pids = self.pids(row)
        cpu = cpu_seconds(pids)
        r = self.load(row, "conn", "-c", str(parallel), "-n", str(self.args.connections))
        cpu = cpu_seconds(pids) - cpu
        self.note_errors(row, f"conn{parallel}", r["errors"])
        self.note(row, f"conn{parallel}", r["per_second"])
        if parallel == 1:
            self.note(row, "conn1_p50", r["whole_p50_us"])
            self.note(row, "conn1_p99", r["whole_p99_us"])
        elif pids and r["done"]:
            self.note(row, f"conn{parallel}_cpu", cpu * 1e6 / r["done"])

    def idle_flows(self, row):
        pids = self.pids(row)
        fds, slab = descriptors(pids), slab_bytes()
        p = subprocess.Popen(self.command(row, "hold", "-n", str(self.args.flows)), text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        r = json.loads(p.stdout.readline())
        # Let the last bytes settle and idle buffers go back to their pools.
        time.sleep(0.3)
        n = r["open"] or 1
        if pids:
            # Since the start: an allocator keeps the pages of the round before.
            self.note(row, "flow_pss", max(0, pss_bytes(pids) - self.pss_at_start[row]) / n)
            self.note(row, "flow_fds", (descriptors(pids) - fds) / n)
        self.note(row, "flow_slab", max(0, slab_bytes() - slab) / n)
        out, _ = p.communicate(timeout=120)
        r = json.loads(out.strip().splitlines()[-1])
        self.note_errors(row, "hold", r["errors"])
        # The far ends of these flows are closed by now or soon; not into the next measurement.
        time.sleep(0.3)

    # --- all of them ----------------------------------------------------------------------------

    def measurements(self):
        yield self.idle_flows
        for direction in ("up", "down"):
            for streams in (1, 8):
                yield lambda row, d=direction, s=streams: self.bulk(row, d, s)
        yield self.round_trips
        yield lambda row: self.connections(row, 1)
        yield lambda row: self.connections(row, 32)

    def run(self):
        # Only now that all run: two daemons share the pages of one binary, and PSS divides them.
        self.pss_at_start = {row: pss_bytes(self.pids(row)) for row in self.rows}
        for n in range(self.args.rounds):
            order = self.rows[n % len(self.rows):] + self.rows[:n % len(self.rows)]
            for measure in self.measurements():
                for row in order:
                    measure(row)
            print(f"bench: round {n + 1} of {self.args.rounds}", file=sys.stderr)

    def median(self, key, row):
        values = self.samples.get(key, {}).get(row)
        return statistics.median(values) if values else None


def compare_servers(args):
    """Which SOCKS server limits least: the native row alone, through each of them."""
    print(f"{'native, through':16} {'up 1':>8} {'down 1':>8} {'up 8':>8} {'down 8':>8} Gbit/s"
          f" {'rr p50':>8} us {'conn 1':>8} {'conn 32':>8} /s")
    for kind in ("sink", "microsocks", "dante", "ssh"):
        if kind not in ("sink", "ssh") and not shutil.which({"dante": "danted"}.get(kind, kind)):
            print(f"{kind:16} not installed")
            continue
        bench = Bench(args)
        args.server = kind
        try:
            bench.start_server(kind)
            bench.rows = ["native"]
            bench.warm_up("native")
            for _ in range(args.rounds):
                for measure in list(bench.measurements())[1:]:  # no idle flows
                    measure("native")
            m = [bench.median(k, "native")
                 for k in ("up1", "down1", "up8", "down8", "rr_p50", "conn1", "conn32")]
            print(f"{kind:16} {m[0]:8.2f} {m[1]:8.2f} {m[2]:8.2f} {m[3]:8.2f} {'':6}"
                  f" {m[4]:8.1f} {'':2} {m[5]:8.0f} {m[6]:8.0f}"
                  + (f"   failures: {bench.errors['native']}" if bench.errors else ""))
        except RuntimeError as e:
            print(f"{kind:16} {e}")
        finally:
            stop_all()
            children.clear()


def arguments():
    p = argparse.ArgumentParser(prog="bench")
    p.add_argument("--quick", action="store_true", help="about two minutes: for CI, not for claims")
    p.add_argument("--rounds", type=int)
    p.add_argument("--only", help=f"rows, of {','.join(ROWS)}")
    p.add_argument("--server", default="sink", choices=["sink", "microsocks", "dante", "ssh"])
    p.add_argument("--servers", action="store_true", help="measure the SOCKS servers instead")
    p.add_argument("--workers", type=int, default=0, help="undersock's; 0 = one per CPU")
    p.add_argument("--fast-path", default="auto")
    p.add_argument("--seconds", type=float, help="of each bulk transfer")
    p.add_argument("--flows", type=int, default=2000, help="idle ones; redsocks stops at 2,500")
    p.add_argument("--json")
    p.add_argument("--default-json", help=argparse.SUPPRESS)
    args = p.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 7)
    args.seconds = args.seconds or (0.7 if args.quick else 3.0)
    args.trips = 3000 if args.quick else 20000
    args.connections = 1000 if args.quick else 5000
    return args


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
        bench.start_server(args.server)
        bench.start_rows()
        if not bench.rows:
            print("bench: no row can be measured", file=sys.stderr)
            return 1
        bench.run()
        report.show(bench)
        path = args.json or args.default_json
        if path:
            with open(path, "w") as f:
                json.dump(report.document(bench), f, indent=1)
                f.write("\n")
    finally:
        stop_all()
    # A row of ours that was built but could not be measured, or that lost something, is a failure.
    ours = set(HOOK)
    broken = os.access(UNDERSOCK, os.X_OK) and ours & set(bench.left_out)
    return 1 if broken or ours & set(bench.errors) else 0


sys.exit(main())
