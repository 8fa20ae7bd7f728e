"""Number of threads, the same for kernels, FFTs and the reading of images."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastcryo.errors import InputError

Piece = TypeVar("Piece")
Result = TypeVar("Result")
SCRATCH = threading.local()
ALIGNMENT = 64


def thread_count() -> int:
    """Threads that kernels and FFTs use now."""
    return numba.get_num_threads()


def most_threads() -> int:
    """Threads that this process was started with."""
    return numba.config.NUMBA_NUM_THREADS


@contextlib.contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Run a block with `count` threads (``None``: leave as it is), then restore the former number.

    Raises
    ------
    InputError
        `count` is not between 1 and the number that Numba was started with.
    """
    if count is None:
        yield
        return
    most = most_threads()
    if not 1 <= count <= most:
        raise InputError(
            f"threads: {count} asked for, but this process can use 1 to {most} "
            "(set NUMBA_NUM_THREADS before starting to raise the limit)"
        )
    former = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(former)


def in_threads(
    work: Callable[[Piece], Result], pieces: Iterable[Piece]
) -> Iterator[tuple[Piece, Result]]:
    """Do pieces of work side by side, one per thread and as many in waiting.

    `work` should spend its time in code that releases Python's lock, and launch no kernel that is
    parallel itself.

    Parameters
    ----------
    work : callable
    pieces : iterable

    Yields
    ------
    piece, result
        In the order of the pieces, whichever is finished first.
    """
    count = thread_count()
    waiting: deque = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for piece in pieces:
                if len(waiting) == 2 * count:
                    former, future = waiting.popleft()
                    yield former, future.result()
                waiting.append((piece, pool.submit(work, piece)))
            while waiting:
                former, future = waiting.popleft()
                yield former, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def run(work: Callable[[Piece], object], pieces: Iterable[Piece]) -> None:
    """Share pieces of work among threads; no piece touches what another does."""
    pieces = list(pieces)
    if len(pieces) < 2 or thread_count() == 1:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(thread_count()) as pool:
        for _ in pool.map(work, pieces):
            pass


def scratch(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Return memory of this thread that is used again, at an address that vectors like.

    Fresh memory for every piece of work took as long as its transforms, and vectors that lie
    across two lines of the cache make transforms of bundles take 1.4 times as long.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    held = SCRATCH.__dict__.get(name)
    if held is None or held.nbytes < size:
        held = np.empty(size + ALIGNMENT, np.uint8)
        held = SCRATCH.__dict__[name] = held[-held.ctypes.data % ALIGNMENT :]
    return held[:size].view(dtype).reshape(shape)
