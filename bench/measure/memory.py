"""Peak memory of a process; the standard library only, for workers that import nothing else."""

import resource
import sys
from pathlib import Path


def peak_megabytes() -> float:
    """Return the largest resident size of this process so far, MB.

    Linux hands the maximum that getrusage reports down from the process that started this one, so
    the kernel's own high-water mark is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6
