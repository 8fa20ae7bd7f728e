"""Number of threads, the same for kernels and FFTs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numba

from fastcryo.errors import InputError


def thread_count() -> int:
    """Threads that kernels and FFTs use now."""
    return numba.get_num_threads()


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
    most = numba.config.NUMBA_NUM_THREADS
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
