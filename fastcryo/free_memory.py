"""How much memory there is left, whatever limits it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastcryo.communicator import Communicator

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def available_memory() -> int | None:
    """Return the bytes of memory that are free or would be freed; None where nothing tells.

    The least of what the machine has, what a control group (container, batch system) leaves, and
    what ``ulimit -v`` and ``ulimit -d`` leave.
    """
    free = [_machine(), _control_group(), *_limits()]
    known = [value for value in free if value is not None]
    return max(min(known), 0) if known else None


def free_memory(communicator: Communicator) -> int | None:
    """Return the bytes that every rank may take: its share of its machine, the least of all ranks.

    None where nothing tells. A call of all ranks.
    """
    free = available_memory()
    if communicator.size == 1:
        return free
    share = np.inf if free is None else free // len(communicator.ranks_of_node())
    share = communicator.least(share)
    return None if np.isinf(share) else int(share)


def _machine() -> int | None:
    report = PROC / "meminfo"
    if report.exists():
        for line in report.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_group() -> int | None:
    """Return what the tightest of the control groups above this process leaves (version 2)."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
        name = next(line for line in lines if line.startswith("0::"))[3:].strip("/")
    except (OSError, StopIteration):
        return None
    free, group = None, CGROUPS / name
    while True:
        try:
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                used = int((group / "memory.current").read_text())
                stat = dict(s.split() for s in (group / "memory.stat").read_text().splitlines())
                # Pages of files are given back when memory is short.
                left = int(limit) - used + int(stat.get("file", 0))
                free = left if free is None else min(free, left)
        except (OSError, ValueError):
            pass
        if group == CGROUPS or CGROUPS not in group.parents:
            return free
        group = group.parent


def _limits() -> list[int]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    try:
        report = (PROC / "self" / "status").read_text()
    except OSError:
        return []
    sizes = dict(line.split(":", 1) for line in report.splitlines() if ":" in line)
    left = []
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY and field in sizes:
            left.append(most - 1024 * int(sizes[field].split()[0]))
    return left
