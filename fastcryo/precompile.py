"""Compile kernels while a command does other things: ``python -m fastcryo.precompile``.

Numba compiles one kernel at a time in a process. On a new installation a command therefore starts
another process, which compiles into the cache on disk what is needed last, and meets it halfway: on
two cores ``fastcryo demo`` takes 27 s the first time, and 44 s alone.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys

import numba
import numpy as np

from fastcryo.grid import FourierGrid
from fastcryo.operators import SliceOperator
from fastcryo.preconditioner import HutchinsonEstimate, rademacher, thresholded_inverse
from fastcryo.problem import KnownPoseProblem
from fastcryo.tile_sweeps import KERNELS


def precompile_beside() -> subprocess.Popen | None:
    """Start the process that compiles, where nothing is compiled yet; it ends with this one.

    Returns
    -------
    Popen or None
        None where it would not help: the cache holds kernels, cannot be written, or there is one
        processor only.
    """
    cache = getattr(getattr(KERNELS["trilinear"].gradient, "__wrapped__", None), "_cache", None)
    file = getattr(cache, "_cache_file", None)
    if numba.config.DISABLE_JIT or file is None or file._load_index() or _processors() < 2:
        return None
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen([sys.executable, "-m", "fastcryo.precompile"], **quiet)
    atexit.register(process.terminate)
    return process


def compile_for_demo() -> None:
    """Call the kernels of `fastcryo demo` on next to nothing.

    They come in the order in which both processes are done first: the command itself begins with
    what prepares images, assembles H and makes gradients, some 20 s of compilation.
    """
    problem = _tiny_problem()
    grid, operator = problem.grid, problem.operator
    volume = np.zeros(grid.shape, operator.dtype)
    problem.hessian_diagonal()
    signs = rademacher(grid, np.random.default_rng(0))
    _, _, product = problem.loss_gradient_and_product(volume, signs)
    thresholded_inverse(HutchinsonEstimate.start(problem, 0.5).take(signs, product), 0.0)
    problem.loss(volume)
    problem.normal_operator().matvec(volume)


def _tiny_problem() -> KnownPoseProblem:
    """Return two images of nothing, made without the kernels that prepare images."""
    operator = SliceOperator(FourierGrid(8))
    empty = np.zeros((2, operator.samples), operator.dtype)
    return KnownPoseProblem(
        operator=operator,
        pixel_size=1.0,
        image_box=8,
        steps=np.zeros((2, 2, 3), np.int64),
        weights=empty.real.copy(),
        data=empty,
        energies=np.zeros(2),
        damping=np.ones((1, 1, 1), operator.real_dtype),
        members=np.arange(2),
        mean_inverse_variance=1.0,
    )


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    compile_for_demo()
