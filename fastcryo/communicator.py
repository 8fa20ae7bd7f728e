"""The processes that share one computation: one, or the ranks of an MPI job.

A problem keeps some of its images on every rank, and each sum over images is a sum over ranks;
all else is computed by every rank alike. This module is the only one that knows of MPI, and imports
mpi4py only where a launcher has started several ranks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastcryo import rank_watch
from fastcryo.errors import InputError

Result = TypeVar("Result")

# Where launchers say how many ranks there are, and which this one is: MPICH and Intel MPI, Open
# MPI, and SLURM's srun, which sets its own whether MPI works or not.
LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
# Numbers that are summed at once: MPI keeps a copy of them.
PIECE = 2**24


class Communicator:
    """One process: sums are what they are.

    Attributes
    ----------
    rank, size : int
        Which process this is, from 0, and how many there are.
    """

    rank: int = 0
    size: int = 1

    def sum(self, array: NDArray) -> NDArray:
        """Sum a contiguous array over ranks, in place; returns it, the same bits on all ranks."""
        return array

    def largest(self, array: NDArray) -> NDArray:
        """Take the largest values over ranks, in place; returns the array."""
        return array

    def once(self, work: Callable[[], Result]) -> Result:
        """Do some work on rank 0 only, and return its result on every rank."""
        return work()

    def ranks_of_node(self) -> list[tuple[int, frozenset[int]]]:
        """Return rank and cores of every process on this machine."""
        return [(0, cores())]

    def describe(self) -> list[str]:
        """Return a line for every machine: its ranks and their processes. A call of all ranks."""
        return []

    def watch(self) -> None:
        """Have it said which rank of this machine was killed; one process needs no such help."""

    def abort(self, status: int) -> None:
        """End the processes of all ranks with an exit status; one process goes on."""

    def sums(self, *numbers: float) -> tuple[float, ...]:
        """Sum a few numbers over ranks."""
        if self.size == 1:
            return numbers
        return tuple(self.sum(np.array(numbers, np.float64)).tolist())

    def wait(self) -> None:
        """Wait for all ranks."""
        self.sums(0.0)

    def least(self, number: float) -> float:
        """Return the smallest of a number over ranks."""
        return -float(self.largest(np.array([-number], np.float64))[0])

    def check(self, images: int) -> None:
        """Refuse more ranks than images."""
        if self.size > images:
            raise InputError(f"images: {images} are too few for {self.size} ranks, start fewer")

    def part(self, count: int) -> slice:
        """Return the range of `count` things that is this rank's."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def threads(self) -> int:
        """Return how many of the cores that this process may use are its own."""
        ranks = dict(self.ranks_of_node())
        mine = ranks[self.rank]
        sharing = sum(1 for other in ranks.values() if other & mine)
        return max(1, len(mine) // sharing)


class Ranks(Communicator):
    """The ranks of an MPI job.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    """

    def __init__(self, comm: Any):
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._notice: Path | None = None

    def sum(self, array: NDArray) -> NDArray:
        """Sum a contiguous array over ranks, in place; returns it, the same bits on all ranks."""
        return self._reduce(array, "SUM")

    def largest(self, array: NDArray) -> NDArray:
        """Take the largest values over ranks, in place; returns the array."""
        return self._reduce(array, "MAX")

    def once(self, work: Callable[[], Result]) -> Result:
        """Do some work on rank 0 only, and return its result on every rank."""
        return self._comm.bcast(work() if self.rank == 0 else None)

    def ranks_of_node(self) -> list[tuple[int, frozenset[int]]]:
        """Return rank and cores of every process on this machine."""
        from mpi4py import MPI

        node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        found = node.allgather((self.rank, cores()))
        node.Free()
        return found

    def describe(self) -> list[str]:
        """Return a line for every machine: its ranks and their processes. A call of all ranks."""
        found = self._comm.allgather((socket.gethostname(), os.getpid()))
        lines = []
        for host in dict(found):
            ranks = [f"{r} ({pid})" for r, (name, pid) in enumerate(found) if name == host]
            lines.append(f"ranks on {host} (process): {', '.join(ranks)}")
        return lines

    def watch(self) -> None:
        """Have it said which rank of this machine was killed. A call of all ranks."""
        from mpi4py import MPI

        if not rank_watch.POSSIBLE:
            return
        node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        processes = dict(node.allgather((self.rank, os.getpid())))
        mine = node.Get_rank() == 0
        notice = node.bcast(rank_watch.start(processes, self.size) if mine else None)
        node.Free()
        rank_watch.give_notice_at_exit(notice)
        self._notice = notice

    def abort(self, status: int) -> None:
        """End the processes of all ranks with an exit status."""
        if self._notice is not None:
            rank_watch.give_notice(self._notice)
        self._comm.Abort(status)

    def _reduce(self, array: NDArray, operation: str) -> NDArray:
        from mpi4py import MPI

        flat = array.reshape(-1)
        if not np.shares_memory(flat, array):
            raise ValueError("array: only contiguous ones can be reduced in place")
        if np.iscomplexobj(flat):
            flat = flat.view(flat.real.dtype)
        for start in range(0, len(flat), PIECE):
            piece = flat[start : start + PIECE]
            self._comm.Allreduce(MPI.IN_PLACE, piece, getattr(MPI, operation))
        return array


ALONE = Communicator()


def cores() -> frozenset[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def launched_as(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (rank, number of ranks) as the launcher says: (0, 1) without one."""
    for size, rank in LAUNCHERS:
        if size in environment and rank in environment:
            return int(environment[rank]), int(environment[size])
    return 0, 1


def launched() -> Communicator:
    """Return the communicator of the ranks that a launcher started; `ALONE` without one.

    Raises
    ------
    InputError
        Several ranks without mpi4py, or with one of another MPI than the launcher's.
    """
    _, size = launched_as()
    if size == 1:
        return ALONE
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"mpi4py: cannot be used ({error}), but {size} ranks were started, "
            "install it by pip install 'fastcryo[mpi]' and an MPI library, or leave out mpiexec"
        ) from error
    found = MPI.COMM_WORLD.Get_size()
    if found != size:
        raise InputError(
            f"mpi4py: sees {found} of the {size} ranks that were started, its MPI "
            f"({MPI.get_vendor()[0]}) is not that of the launcher, use the mpiexec beside it "
            "(with SLURM: srun --mpi=pmi2 or --mpi=pmix)"
        )
    return Ranks(MPI.COMM_WORLD)
