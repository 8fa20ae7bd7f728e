"""What the figures were measured on, and the ceiling of its memory."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel
from fastcryo.threads import use_threads

from .timing import shortest

PACKAGES = ("fastcryo", "numpy", "numba", "llvmlite", "scipy")
STREAM_BYTES = 128 << 20


def describe() -> dict:
    """Return processor, memory, versions, date and load, as far as the system tells."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "caches": _caches(),
        "memory_gib": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "revision": _revision(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _caches() -> str:
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = (folder / "type").read_text().strip()
        if kind != "Instruction":
            level, size = ((folder / name).read_text().strip() for name in ("level", "size"))
            found.append(f"L{level} {size}")
    return ", ".join(found)


def _memory() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


@parallel
def triad(a, b, c, scale):
    """Write a = b + scale c; float64 arrays of one length."""
    for i in prange(a.size):
        a[i] = b[i] + scale * c[i]


@lru_cache
def stream_bandwidth(threads: int, quick: bool = False) -> float:
    """Return the rate of the STREAM triad, bytes/s, three arrays of 128 MiB, best of seven.

    Counted as STREAM counts: two arrays read and one written, 24 bytes an element.
    """
    size = (1 << 16 if quick else STREAM_BYTES) // 8
    a, b, c = np.zeros(size), np.ones(size), np.full(size, 2.0)
    with use_threads(threads):
        seconds = shortest(lambda: triad(a, b, c, 3.0), 2 if quick else 7)
    return 24 * size / seconds
