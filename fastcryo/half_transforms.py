"""From half grids to the extended half volume of an oversampled grid, and back, without a box.

What `Oversampling.expand` and `contract` do after and before the transforms of `FourierGrid`, as
three passes over memory (`fastcryo.kernels.cpu.wide_transforms`): nothing is shifted, and real
space is there a few lines at a time, where the mask and the division belong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numba import config
from numpy.typing import DTypeLike, NDArray

from fastcryo.kernels.cpu import fft, wide_transforms
from fastcryo.threads import thread_count

if TYPE_CHECKING:
    from fastcryo.oversampling import Oversampling


def plane_size(side: int, dtype: DTypeLike) -> int:
    """Return the real numbers of a plane: N^2 complex ones, to the next pair of bundles."""
    pair = 4 * fft.lanes_of(dtype)
    return -(-2 * side**2 // pair) * pair


def can_transform(plan: Oversampling) -> bool:
    """Return whether kernels can do it: lengths of small factors, a bundle at least."""
    fits = all(fft.radices_of(length) is not None for length in (plan.side, plan.fine))
    narrowest = min(plan.side, plan.shape[1])
    return fits and narrowest >= fft.lanes_of(plan.real_dtype) and not config.DISABLE_JIT


@dataclass(frozen=True, eq=False)
class HalfTransforms:
    """The tables of the transforms of one plan.

    Attributes
    ----------
    box, size : int
        N, and the numbers of a plane.
    coarse, fine : Lengths
        Of N and M.
    weights : ndarray, real, flat
        What the map is multiplied by: by line (x, y), or by z and line.
    factors : ndarray, shape (N,), real
        And by z.
    widths, centre, low
        Of E.
    """

    box: int
    size: int
    coarse: fft.Lengths = field(repr=False)
    fine: fft.Lengths = field(repr=False)
    weights: NDArray = field(repr=False)
    factors: NDArray = field(repr=False)
    widths: NDArray[np.int64] = field(repr=False)
    centre: int
    low: int

    @classmethod
    def of(cls, plan: Oversampling) -> HalfTransforms:
        """Make the tables of a plan."""
        box, real = plan.side, plan.real_dtype
        size = plane_size(box, real)
        coarse, fine = (fft.lengths_of(length, real) for length in (box, plan.fine))
        whole = [f for f in plan.correction if f.size > box]
        ones = 3 * [np.ones(box, real)]
        z, y, x = [f.ravel() for f in plan.correction if f.size == box] or ones
        by_line = np.outer(x, y)[None]
        if whole:
            by_line = by_line * math.prod(whole).swapaxes(1, 2)
        by_line = np.roll(by_line, -(box // 2), axis=(1, 2))
        if whole:
            by_line = np.roll(by_line, -(box // 2), axis=0)
        weights = np.zeros((len(by_line), size // 2), real)
        weights[:, : box**2] = by_line.reshape(-1, box**2)
        factors = np.roll(z, -(box // 2))
        centre = plan.bound + plan.low
        last = plan.widths, centre, plan.low
        return cls(box, size, coarse, fine, weights.ravel(), factors, *last)

    def _centred(self) -> NDArray[np.int64]:
        """Return the frequencies of an axis of V, modulo N."""
        return (np.arange(self.box) - self.box // 2) % self.box

    def _padded(self) -> NDArray[np.int64]:
        """Return where voxels in the order of numpy.fft are among M."""
        x, fine = np.arange(self.box), self.fine.order.size
        return np.where(x < (self.box + 1) // 2, x, x + fine - self.box)

    def _wrapped(self) -> NDArray[np.int64]:
        """Return the frequencies of an axis of E, modulo M."""
        return (np.arange(self.widths.shape[1]) - self.centre) % self.fine.order.size

    def expand(self, half: NDArray, planes: NDArray, extended: NDArray) -> None:
        """Fill E from a half grid; planes are overwritten."""
        box, size, threads = self.box, self.size, thread_count()
        real = planes.dtype.type
        flat, order = planes.reshape(-1), self.coarse.order
        given = half.view(planes.dtype).reshape(-1)
        wide_transforms.planes_of(given, flat, box, size, self.coarse, self._centred(), threads)
        padded = self._padded()
        rows = np.stack([order, padded], axis=1)
        factors = self.factors * real(0.5 / box**3)
        along = self.coarse, self.fine, rows, self.weights, factors, real(1)
        wide_transforms.along_z(flat, size, box // 2 + 1, *along, threads)
        there = extended.view(planes.dtype).reshape(-1)
        places = padded, self.fine.order[self._wrapped()]
        last = self.widths, self.centre, self.low, threads
        wide_transforms.spread(flat, there, box, size, self.fine, *places, *last)

    def contract(
        self, extended: NDArray, planes: NDArray, factor: float, half: NDArray, fresh: bool
    ) -> None:
        """Fill a half grid, or add to it, with N^3 factor times `expand`'s transpose.

        Planes are overwritten.
        """
        box, size, threads = self.box, self.size, thread_count()
        real = planes.dtype.type
        flat = planes.reshape(-1)
        given = extended.view(planes.dtype).reshape(-1)
        kept = self.fine.order[self._padded()]
        last = self.widths, self.centre, self.low, threads
        places = self._wrapped(), kept
        wide_transforms.gather(given, flat, box, size, self.fine, *places, *last)
        rows = np.stack([kept, np.arange(box)], axis=1)
        factors = self.factors * real(0.5 * factor)
        along = self.fine, self.coarse, rows, self.weights, factors, real(2)
        wide_transforms.along_z(flat, size, len(planes), *along, threads)
        out = half.view(planes.dtype).reshape(-1)
        wanted = self.coarse.order[self._centred()]
        wide_transforms.half_of(flat, out, box, size, self.coarse, wanted, fresh, threads)
