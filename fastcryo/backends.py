"""Where kernels run: on the processor, or on a graphics card that is looked for when asked for."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from fastcryo.errors import InputError
from fastcryo.interpolation import BACKENDS

if TYPE_CHECKING:
    from fastcryo.cuda_sweeps import CudaSweeps

# What CUDA 13 compiles for.
OLDEST_CARD = (7, 5)
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
INSTALL = "pip install 'fastcryo[cuda]'"
NO_CARD = "no NVIDIA card is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
# What a driver answers to code of a newer CUDA than it knows.
TOO_NEW = ("UNSUPPORTED_PTX", "INVALID_IMAGE", "NO_BINARY", "INSUFFICIENT_DRIVER", "MISMATCH")
# Card memory that is not there, also for FFTs.
NO_MEMORY = ("OUT_OF_MEMORY", "ALLOC_FAILED")
# One Python thread at a time uses the card: buffers and numbers are shared.
TURN = threading.RLock()


def choose_backend(name: str) -> str:
    """Return "cpu", "cuda" or "cuda-deterministic" for a backend's name.

    "auto" is "cuda" where that works, else "cpu"; it says which on standard error, once.

    Raises
    ------
    InputError
        An unknown name, or CUDA that does not work; the message says why, and what helps.
    """
    if name not in BACKENDS:
        raise InputError(f"backend: {name!r} is unknown, choose from {', '.join(BACKENDS)}")
    if name == "cpu":
        return name
    problem = why_not_cuda()
    if name == "auto":
        if problem is None and numba.config.ENABLE_CUDASIM:
            problem = "CUDA is simulated (NUMBA_ENABLE_CUDASIM), which is slow"
        # What to install is for those who asked for CUDA.
        reason = "" if problem is None else problem.split(": ")[0]
        say_once(f"CUDA: {_card_name()}" if problem is None else f"CPU, because {reason}")
        return "cuda" if problem is None else "cpu"
    if problem is not None:
        raise InputError(f"backend: {problem}, or use the CPU (backend 'cpu')")
    return name


def sweeps_on_card(volumes: tuple, optional: bool) -> CudaSweeps | None:
    """Return the sweeps of `fastcryo.cuda_sweeps.CudaSweeps` (its arguments).

    `optional`: None, and a note, where the card has too little memory.

    Raises
    ------
    InputError
        It has, and they are not optional.
    """
    from fastcryo.cuda_sweeps import CudaSweeps

    card = CudaSweeps(*volumes)
    problem = card.too_small()
    if problem is None:
        return card
    if not optional:
        raise InputError(f"backend: {problem}, or use the CPU (backend 'cpu')")
    say_once(f"CPU, because {problem}")
    return None


@functools.cache
def why_not_cuda() -> str | None:
    """Say why CUDA cannot be used here and what helps, None if it can."""
    if numba.config.ENABLE_CUDASIM:
        return None
    if not _driver_is_there():
        return f"no NVIDIA driver is installed ({DRIVER} is not found): install that of your card"
    try:
        from fastcryo.kernels.cuda._jit import cuda
    except ImportError as error:
        return f"CUDA for Numba cannot be imported ({first_line(error)}): {INSTALL}"
    # Starts the driver; `cuda_error` only says how that went.
    cuda.is_available()
    error = cuda.cuda_error()
    if error is not None and "NO_DEVICE" in str(error):
        return NO_CARD
    if error is not None:
        return f"the NVIDIA driver does not answer ({first_line(error)}): update the driver"
    try:
        if len(cuda.gpus) == 0:
            return NO_CARD
        capability = tuple(cuda.get_current_device().compute_capability)
        if capability < OLDEST_CARD:
            return (
                f"the card has compute capability {capability[0]}.{capability[1]}, "
                f"{OLDEST_CARD[0]}.{OLDEST_CARD[1]} or more is needed: choose another card"
            )
        _try_kernel()
    except Exception as error:
        said = first_line(error)
        if any(word in str(error) for word in TOO_NEW):
            return (
                f"the NVIDIA driver is older than the CUDA that is installed ({said}): "
                "update the driver"
            )
        if _is_out_of_memory(error):
            return f"the memory of the card is in use ({said}): close other programs that use it"
        return f"CUDA does not work ({said}): {INSTALL}"
    return None


@contextlib.contextmanager
def on_card(box: int | None = None) -> Iterator[None]:
    """Use the card, one Python thread at a time; say in words of our own that its memory is full.

    Parameters
    ----------
    box : int, optional
        Side of the volumes, for the message.

    Raises
    ------
    InputError
        In place of CUDA's exception.
    """
    with TURN:
        try:
            yield
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            where = "what it was given" if box is None else f"box {box}"
            raise InputError(
                f"backend: the memory of the card is too small for {where}: close other programs "
                "that use it, crop the images (--box), or use the CPU (backend 'cpu')"
            ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it was the card's memory; numpy says so of the host's in an exception of its own."""
    if isinstance(error, MemoryError):
        return not type(error).__module__.startswith("numpy")
    return any(word in str(error) for word in NO_MEMORY)


def _try_kernel() -> None:
    """Compile and run one kernel."""
    from fastcryo.kernels.cuda import vectors
    from fastcryo.kernels.cuda._jit import cuda

    ones = cuda.to_device(np.ones((1, 1, 1), np.complex64))
    if vectors.inner_by_plane(ones, ones).copy_to_host().sum() != 1:
        raise RuntimeError("a kernel gave a wrong result")


def _driver_is_there() -> bool:
    """Whether the library of a driver can be loaded; takes no time where there is none."""
    if "NUMBA_CUDA_DRIVER" in os.environ:
        return True
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def _card_name() -> str:
    from fastcryo.kernels.cuda._jit import cuda

    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


@functools.cache
def say_once(text: str) -> None:
    """Say something on standard error, the first time only."""
    print(f"fastcryo: backend auto: {text}", file=sys.stderr)


@functools.cache
def say_that_the_host_transforms() -> None:
    """Say on standard error, once, what makes oversampled windows fast on a card."""
    print(
        "fastcryo: backend cuda: FFTs run on the CPU, which is slow: "
        "pip install 'cupy-cuda13x[ctk]'",
        file=sys.stderr,
    )


def first_line(error: Any) -> str:
    """Return the first line of an error's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".:") if lines else type(error).__name__
