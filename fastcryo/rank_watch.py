"""Says which rank of an MPI job was killed.

A killed rank cannot say anything, and the launcher, which names its process only, kills the others
at once. So a small process of its own waits for the ends of the ranks of one machine, and writes
one line if the first comes without notice. Linux only; elsewhere the launcher's words are all.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

POSSIBLE = hasattr(os, "pidfd_open")


def start(processes: dict[int, int], size: int) -> Path:
    """Begin to watch the processes of a machine; called by one of them.

    Parameters
    ----------
    processes : dict of int
        Process by rank.
    size : int
        Number of ranks on all machines.

    Returns
    -------
    Path
        The notice: a file that a rank makes before it ends by itself.
    """
    notice = Path(mkdtemp(prefix="fastcryo-ranks-")) / "notice"
    ranks = [f"{rank}:{process}" for rank, process in processes.items()]
    # A session of its own: the launcher's signals are for the ranks.
    subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, str(notice), str(size), *ranks],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    return notice


def give_notice(notice: Path) -> None:
    """Say that this process ends by itself."""
    with contextlib.suppress(OSError):
        notice.touch()


def give_notice_at_exit(notice: Path) -> None:
    """Give notice when the interpreter ends, which it does not where it is killed."""
    atexit.register(give_notice, notice)


def watch(notice: Path, size: int, processes: dict[int, int]) -> None:
    """Wait for the first end of a process, and say whose it is if there was no notice."""
    poll, ranks = select.poll(), {}
    for rank, process in processes.items():
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(process)
            ranks[descriptor] = rank
            poll.register(descriptor, select.POLLIN)
    ended = poll.poll() if ranks else []
    if ended and not notice.exists():
        rank = ranks[ended[0][0]]
        print(
            f"error: rank {rank} of {size} (process {processes[rank]} on {socket.gethostname()}) "
            "was killed, by a signal or for want of memory; --resume goes on from the last "
            "checkpoint",
            file=sys.stderr,
            flush=True,
        )
    with contextlib.suppress(OSError):
        notice.unlink(missing_ok=True)
        notice.parent.rmdir()


if __name__ == "__main__":
    watch(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        dict(tuple(map(int, argument.split(":"))) for argument in sys.argv[3:]),
    )
