"""The problems that are timed, and the operations on them, through the public interface only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

import fastcryo as fc
from fastcryo.preconditioner import rademacher
from fastcryo.rotations import random_rotations

PIXEL_SIZE = 1.5
# Images that a resident case is made of, each repeated.
RESIDENT_IMAGES = 4


@dataclass(frozen=True, eq=False)
class Case:
    """A batch of images with CTFs and noise-like data, and a volume.

    Attributes
    ----------
    problem : fastcryo.KnownPoseProblem
    rotations : ndarray, shape (m, 3, 3)
    volume : ndarray, half grid
    batch : ndarray, shape (m,), int64
        Indices of the images that are processed, repeated ones included.
    samples : ndarray, shape (m, samples), complex64
        What the adjoint projects back.
    """

    problem: fc.KnownPoseProblem
    rotations: NDArray
    volume: NDArray
    batch: NDArray
    samples: NDArray

    @property
    def total_samples(self) -> int:
        """Half-disc samples of the batch."""
        return self.samples.size


@lru_cache(maxsize=2)
def make_case(box: int, images: int) -> Case:
    """Return a case with uniformly random views; the same one for the same arguments."""
    rng = np.random.default_rng(0)
    rotations = random_rotations(images, rng)
    ctf = fc.CTF(rng.uniform(1e4, 2.5e4, images), 1.5e4, 30.0)
    pixels = rng.standard_normal((images, box, box), dtype=np.float32)
    problem = fc.KnownPoseProblem.from_arrays(pixels, rotations, PIXEL_SIZE, ctf=ctf)
    volume = problem.grid.from_real(rng.standard_normal((box,) * 3, dtype=np.float32))
    samples = problem.operator.forward(volume, rotations)
    return Case(problem, rotations, volume, np.arange(images), samples)


def with_window(case: Case, window: str) -> Case:
    """Return the case with another window; packed data do not depend on it."""
    operator = fc.SliceOperator(case.problem.grid, window)
    return replace(case, problem=replace(case.problem, operator=operator))


def resident(case: Case) -> Case:
    """Return a batch of the same size made of a few images, each repeated one after the other.

    Tile by tile, the volume around one plane and the data of one image stay in the first-level
    cache while it is repeated, and all else is as in the case itself: box, lengths of runs, work
    per sample. So this is the rate at which the kernel would go if memory cost nothing. (A smaller
    box would not do: its runs are so short that finding them dominates.)
    """
    few = np.sort(np.arange(len(case.batch)) % RESIDENT_IMAGES)
    return replace(case, rotations=case.rotations[few], batch=few, samples=case.samples[few])


def operations(case: Case) -> dict[str, Callable[[], object]]:
    """Return the operations that are timed, by the names of `measure.counts`."""
    problem, operator = case.problem, case.problem.operator
    direction = case.volume[:, ::-1].copy()
    signs = rademacher(problem.grid, np.random.default_rng(0))
    return {
        "forward": lambda: operator.forward(case.volume, case.rotations),
        "adjoint": lambda: operator.adjoint(case.samples, case.rotations),
        "gradient": lambda: problem.loss_and_gradient(case.volume, case.batch),
        "gradient and product": lambda: problem.loss_gradient_and_product(
            case.volume, signs, case.batch
        ),
        "Hessian product": lambda: problem.hvp(case.volume, case.batch),
        "loss": lambda: problem.loss(case.volume, case.batch),
        "loss and curvature": lambda: problem.loss_and_curvature(
            case.volume, direction, case.batch
        ),
        "curvature": lambda: problem.curvature(case.volume, case.batch),
        "diagonal": lambda: problem.hessian_diagonal(case.batch),
    }
