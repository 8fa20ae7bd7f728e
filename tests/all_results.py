"""A script that writes all that the kernels compute for small data sets.

    python tests/all_results.py OUT.npz THREADS[,THREADS...] BOX[,BOX...]

Keys are "box interpolation dtype threads name". Without the compiler (NUMBA_DISABLE_JIT=1) every
index into a volume is checked.
"""

import sys

import naive
import numba
import numpy as np

from fastcryo.ctf import CTF
from fastcryo.kernels.cpu import slicing
from fastcryo.operators import SliceOperator
from fastcryo.problem import KnownPoseProblem
from fastcryo.sgd import sgd
from fastcryo.solvers import conjugate_gradient
from fastcryo.threads import use_threads


class Guarded(np.ndarray):
    """A flat array that takes no index counted from its end: a kernel must never give one."""

    def __getitem__(self, index):
        assert not isinstance(index, int | np.integer) or 0 <= index < self.size, index
        return super().__getitem__(index)

    def __setitem__(self, index, value):
        assert not isinstance(index, int | np.integer) or 0 <= index < self.size, index
        super().__setitem__(index, value)


class GuardedOperator(SliceOperator):
    """Hands guarded volumes to the kernels."""

    def flat(self, volume):
        return super().flat(volume).view(Guarded)


def guarded_buffer(volumes, size):
    """Return a tile's buffer in which what was not copied or cleared spoils the result."""
    return np.full(size, np.nan, volumes[0].dtype).view(Guarded)


def compute(box, interpolation, dtype):
    """Return what every kernel gives, by name."""
    data = naive.data_set(box, "ties", count=10 if box > 12 else 3)
    problem = KnownPoseProblem.from_arrays(
        data.images,
        data.rotations,
        data.pixel_size,
        CTF(**data.ctf),
        data.shifts,
        noise_std=float(box),
        regularization=1e-3,
        interpolation=interpolation,
        dtype=dtype,
    )
    grid, operator = problem.grid, problem.operator
    if numba.config.DISABLE_JIT:
        operator = GuardedOperator(grid, interpolation, dtype=dtype)
        object.__setattr__(problem, "operator", operator)
    volume = grid.from_real(np.random.default_rng(1).normal(size=(box,) * 3).astype(dtype))
    loss, gradient = problem.loss_and_gradient(volume)
    other = volume[:, ::-1, ::-1].conj()
    both_loss, both_gradient, product = problem.loss_gradient_and_product(volume, other.real)
    line = problem.loss_and_curvature(volume, other)
    return {
        "transform": volume,
        "data": problem.data,
        "weights": problem.weights,
        "forward": operator.forward(volume, data.rotations),
        "adjoint": operator.adjoint(problem.data, data.rotations),
        "loss": np.array([loss, problem.loss(volume), problem.curvature(volume)]),
        "gradient": gradient,
        "gradient_of_two": both_gradient,
        "product_of_two": product,
        "losses_of_two": np.array([both_loss, *line]),
        "hvp": problem.hvp(volume, [2, 0, 1]),
        "diagonal": problem.hessian_diagonal(),
        "gridding": problem.gridding_weight(),
        "inner": np.array(grid.inner(gradient, volume)),
        "sgd": sgd(problem, 2, 8).volume,
        "averaged": sgd(problem, 2, 8, "gridding", step="decay", average=True).volume,
        "svrg": sgd(
            problem,
            2,
            8,
            "gridding",
            1.0,
            variance_reduction="svrg",
            operator=problem.normal_operator(),
        ).volume,
        "cg": conjugate_gradient(problem, max_iterations=2).volume,
    }


def main(out, threads, boxes):
    results = {}
    if numba.config.DISABLE_JIT:
        slicing.make_buffer = guarded_buffer
    for box in map(int, boxes.split(",")):
        for interpolation in ("nearest", "trilinear"):
            for dtype in ("float32", "float64"):
                for count in map(int, threads.split(",")):
                    with use_threads(count):
                        found = compute(box, interpolation, dtype)
                    case = f"{box} {interpolation} {dtype} {count} "
                    results |= {case + name: value for name, value in found.items()}
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
