# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of processes and of the whole machine."""

import os
import platform
import re
import subprocess

TICK = os.sysconf("SC_CLK_TCK")


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


def pin(pids, cpus):
    """All their threads run on these CPUs from now on."""
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(task), cpus)
        except OSError:
            pass


def cpu_seconds(pids):
    """What the processes ran, user and system: by the scheduler's own clock, in nanoseconds; by
    ticks on a kernel that does not show that one."""
    ns, ticks = 0, 0
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                    ns += int(f.read().split()[0])
        except (OSError, IndexError):
            pass
        try:
            with open(f"/proc/{pid}/stat") as f:
                field = f.read().rsplit(")", 1)[1].split()
            ticks += int(field[11]) + int(field[12])
        except OSError:
            pass
    return ns / 1e9 if ns else ticks / TICK


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


def meminfo(name):
    with open("/proc/meminfo") as f:
        return int(re.search(rf"^{name}:\s+(\d+)", f.read(), re.M).group(1)) * 1024


def version(*command):
    """The first line it prints."""
    try:
        out = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return out.splitlines()[0] if out else "absent"
    except OSError:
        return "absent"


def describe(undersock, namespace):
    """The machine and the versions, for the heading of every output."""
    with open("/proc/cpuinfo") as f:
        cpus = re.findall(r"^(?:model name|Model)\s*:\s*(.*)$", f.read(), re.M)
    return {"cpu": cpus[0] if cpus else platform.machine(), "cpus": os.cpu_count(),
            "memory_gib": round(meminfo("MemTotal") / (1 << 30)), "kernel": platform.release(),
            "congestion_control": version("nsenter", f"--net=/run/netns/{namespace}", "cat",
                                          "/proc/sys/net/ipv4/tcp_congestion_control"),
            "redsocks": version("dpkg-query", "-W", "-f", "${Version}", "redsocks"),
            "undersock": version(undersock, "--version").replace("undersock ", "")}
