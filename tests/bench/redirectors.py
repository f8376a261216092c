# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes of the benchmark: the SOCKS server of all rows, and each row's redirector.

They are started in the namespaces that run.sh has made, each in its own session, and stop_all()
ends them. Every start_ function raises RuntimeError with the reason when it did not come up.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

from rows import GATEWAYS, HOOKS, NUMBER, OURS, ROWS, VARIANTS

PREFIX = os.environ["BENCH_PREFIX"]
TMP = os.environ["TMP"]
LOAD = os.environ["LOAD"]
DATAGRAMS = os.environ["DATAGRAMS"]
HERE = os.environ["BENCH_DIR"]
UNDERSOCK = os.environ["UNDERSOCK"]
CGROUP2 = os.environ.get("CGROUP2", "")
CGROUP = os.environ.get("BENCH_CGROUP", "")

# The SOCKS server's address for each row.
GATE = {row: f"10.77.{NUMBER[row]}.1" for row in ROWS}
TARGET = "203.0.113.10"
SINK_PORT = "9000"
SOCKS_PORT = "1080"
PLAIN_PORT = "1081"
REDSOCKS_PORT = 12345
REDUDP_PORT = 12346

children = []


def nsenter(where, *command):
    return ["nsenter", f"--net=/run/netns/{PREFIX}-{where}", "--", *command]


def place(row):
    """The namespace of the row's redirector; its load runs in the one named like the row."""
    return f"gate-{row}" if row in GATEWAYS else row


def in_cgroup(row):
    return row in OURS and OURS[row][0] == "cgroup"


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
    children.clear()


def servers():
    """The processes that serve all rows."""
    return [p.pid for p in children if p.name in ("server", "plain", "sink")]


def listens(where, port, transport="t"):
    out = subprocess.run(nsenter(where, "ss", f"-Hln{transport}"), capture_output=True,
                         text=True).stdout
    return re.search(rf":{port}\s", out) is not None


def wait_until(what, condition, process, seconds=15):
    """Poll; a bound for a hang, not a measurement."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process and process.poll() is not None:
            raise RuntimeError(f"{what}: it ended, status {process.returncode}: {tail(process)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: nothing after {seconds} s: {tail(process)}")
        time.sleep(0.05)


def tail(process):
    """The last lines of its log."""
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


# --- the server of all rows -----------------------------------------------------------------------

def start_server(kind):
    """The SOCKS server, on every address of proxy."""
    if kind == "sink":
        p = start("server", nsenter("proxy", LOAD, "server", "-S", "0.0.0.0", SOCKS_PORT))
        start_datagrams("proxy", "-S", "0.0.0.0", SOCKS_PORT)
    else:
        sink = start("sink", nsenter("net", LOAD, "server", TARGET, SINK_PORT))
        wait_until("sink", lambda: listens("net", SINK_PORT), sink)
        start_datagrams("net", TARGET, SINK_PORT)
        p = {"serve": start_serve, "microsocks": start_microsocks, "dante": start_dante,
             "ssh": start_ssh}[kind]()
    wait_until(f"SOCKS server {kind}", lambda: listens("proxy", SOCKS_PORT), p)


def start_datagrams(where, *arguments):
    """The far end of UDP."""
    p = start("datagrams", nsenter(where, DATAGRAMS, "server", *arguments))
    wait_until("UDP server", lambda: listens(where, arguments[-1], "u"), p)


def start_serve():
    return start("server", nsenter("proxy", UNDERSOCK, "serve", "-l", f"0.0.0.0:{SOCKS_PORT}"))


def start_microsocks():
    return start("server", nsenter("proxy", "microsocks", "-i", "0.0.0.0", "-p", SOCKS_PORT))


def start_dante():
    conf = template("danted.conf.in", f"{TMP}/danted.conf", port=SOCKS_PORT)
    return start("server", nsenter("proxy", "danted", "-f", conf))


def start_ssh():
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
        "proxy", "ssh", "-F", "none", "-N", "-D", f"0.0.0.0:{SOCKS_PORT}", "-p", "2222", "-i",
        f"{d}/user", "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={d}/known",
        "-o", "BatchMode=yes", "-o", "IdentityAgent=none", "root@127.0.0.1"))


def start_plain():
    """What the rows "plain" and "forward" reach: the sink without SOCKS, where the SOCKS server is;
    one for both."""
    if any(p.name == "plain" for p in children):
        return
    p = start("plain", nsenter("proxy", LOAD, "server", "0.0.0.0", PLAIN_PORT))
    wait_until("plain server", lambda: listens("proxy", PLAIN_PORT), p)
    start_datagrams("proxy", "0.0.0.0", PLAIN_PORT)


# --- redirectors ----------------------------------------------------------------------------------

def start_redsocks(row):
    if not shutil.which("redsocks"):
        raise RuntimeError("redsocks is not installed")
    conf = template("redsocks.conf.in", f"{TMP}/{row}.conf", socks_ip=GATE[row],
                    socks_port=SOCKS_PORT)
    hook = "output"
    if row in GATEWAYS:
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
             f"redirect to :{REDSOCKS_PORT}\n" + redudp_rules(hook))
    subprocess.run(nsenter(place(row), "nft", "-f", "-"), input=rules, text=True, check=True)
    for command in (("rule", "add", "fwmark", "1", "lookup", "100"),
                    ("route", "add", "local", "default", "dev", "lo", "table", "100")):
        subprocess.run(nsenter(place(row), "ip", *command), check=True)
    return p


def redudp_rules(hook):
    """Its UDP needs TPROXY; what the host itself sends comes to that over lo."""
    udp = "ip daddr 203.0.113.0/24 meta l4proto udp"
    rules = ("add chain ip us_redsocks datagrams { type filter hook prerouting priority -150; }\n"
             f"add rule ip us_redsocks datagrams {udp} meta mark set 1 tproxy to "
             f"127.0.0.1:{REDUDP_PORT} accept\n")
    if hook == "output":
        rules += ("add chain ip us_redsocks datagrams_out { type route hook output priority -150; }\n"
                  f"add rule ip us_redsocks datagrams_out {udp} meta mark set 1\n")
    return rules


def start_ours(row, workers, fast_path):
    if not os.access(UNDERSOCK, os.X_OK):
        raise RuntimeError("build/undersock is not built")
    if in_cgroup(row) and not CGROUP:
        raise RuntimeError("no cgroup2 is mounted")
    base, variant = OURS[row]
    values = {"connect": "honest", "udp": "auto", "fast_path": fast_path, **VARIANTS[variant]}
    conf = template("undersock.conf.in", f"{TMP}/{row}.conf", socks_ip=GATE[row],
                    socks_port=SOCKS_PORT, hook=HOOKS[base], workers=workers, control=control(row),
                    cgroup=f'cgroup = "/{CGROUP}-{row}"' if in_cgroup(row) else "", **values)
    p = start(row, nsenter(place(row), UNDERSOCK, "daemon", "-c", conf))
    # The socket is there before the captures are; an answer comes after them.
    wait_until("undersock daemon", lambda: os.path.exists(control(row)) and status(row), p)
    return p


def control(row):
    return f"{TMP}/{row}.sock"


def status(row):
    """What the row's daemon says of itself; None while it says nothing."""
    p = subprocess.run([UNDERSOCK, "status", "--json", "-s", control(row)], capture_output=True,
                       text=True)
    return json.loads(p.stdout) if p.returncode == 0 else None


def ways(row):
    """How the row's connections went since its start: (stitched, relayed, what the programs of
    stitch had to drop or repeat: {counter: number})."""
    state = status(row)
    if not state:
        raise RuntimeError("its daemon does not say how connections went")
    stitch = state.get("stitch", {})
    odd = {name: stitch[name] for name in ("failed", "again", "full", "unready", "guarded", "odd",
                                           "error") if stitch.get(name)}
    return stitch.get("granted", 0), sum(w["accepted"] for w in state["workers"]), odd
