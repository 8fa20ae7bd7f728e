"""The normal operator of exact slices: a convolution of the map, two FFTs on a 2N grid.

With slices that are values of the map's transform, H v = T * v in real space, where

    T(d) = sum_i sum_p C_i^2 / sigma^2 cos(2 pi p . d / N),   |d| < N along each axis,

p the frequencies of all samples. T comes from one pass over poses and CTFs; a product then costs
two FFTs on the 2N grid, whatever the number of images.

References
----------
Fessler et al., IEEE Trans. Signal Process. 53 (2005) 3393.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy
from numpy.typing import NDArray

from fastcryo.grid import FourierGrid
from fastcryo.threads import run, thread_count

if TYPE_CHECKING:
    from fastcryo.operators import SliceOperator
    from fastcryo.problem import KnownPoseProblem

# Columns of the 2N grid that one thread transforms at a time.
COLUMNS = 8
# Power iterations find the largest eigenvalue from below; what is added to it.
POWER_ITERATIONS, MARGIN = 16, 1.1


@dataclass(frozen=True, eq=False)
class Toeplitz:
    """T of some images, without any lambda.

    Attributes
    ----------
    grid : FourierGrid
    spectrum : ndarray, shape (2 N, 2 N, N + 1), real
        The transform of T on the 2N grid, over N^3: F T F^-1 is the operator of half grids.
    diagonal : ndarray, real half grid
        Its diagonal on the N^3 Fourier grid, that of M F T F^-1 M with a mask.
    mask : ndarray, shape (N, N, N), or None
        m: the map is multiplied by it before and after.
    """

    grid: FourierGrid
    spectrum: NDArray = field(repr=False)
    diagonal: NDArray = field(repr=False)
    mask: NDArray | None = field(default=None, repr=False)

    def product(self, volume: NDArray) -> NDArray:
        """Return the operator times a half grid; sums in its precision."""
        box, fine = self.grid.box, 2 * self.grid.box
        workers = thread_count()
        real = np.finfo(volume.dtype).dtype
        shown = self.grid.to_real(volume)
        if self.mask is not None:
            shown *= self.mask
        lines = scipy.fft.rfft(shown, fine, axis=2, workers=workers)
        lines = scipy.fft.fft(lines, fine, axis=1, workers=workers)

        def work(y: int) -> None:
            columns = scipy.fft.fft(lines[:, y : y + COLUMNS], fine, axis=0)
            columns *= self.spectrum[:, y : y + COLUMNS]
            lines[:, y : y + COLUMNS] = scipy.fft.ifft(columns, axis=0, overwrite_x=True)[:box]

        run(work, range(0, fine, COLUMNS))
        lines = scipy.fft.ifft(lines, axis=1, workers=workers, overwrite_x=True)[:, :box]
        shown = scipy.fft.irfft(lines, fine, axis=2, workers=workers)[:, :, :box]
        if self.mask is not None:
            shown *= self.mask
        return self.grid.from_real(shown.astype(real, copy=False), volume.dtype)


def point_spread(
    operator: SliceOperator, steps: NDArray, images: NDArray, weights: NDArray
) -> NDArray:
    """Return T(d) of some images, d from -N to N - 1 along each axis, from one pass.

    Parameters
    ----------
    operator : SliceOperator
    steps, images, weights
        As `SliceOperator.normal` takes them.

    Returns
    -------
    ndarray, shape (2 N, 2 N, 2 N), real
    """
    plan = operator.oversampled(2 * operator.grid.box, exact=True)
    return plan.contract(operator.gridded(plan, steps, images, weights))


def toeplitz_diagonal(grid: FourierGrid, spread: NDArray, mask: NDArray | None = None) -> NDArray:
    """Return diag of M F T F^-1 M over N^3, a real half grid.

    H(k, k) = N^-6 sum_d R(d) T(d) e^(-2 pi i k . d / N),   R(d) = sum_x m(x) m(x + d),

    which is (N - |d_x|) (N - |d_y|) (N - |d_z|) without a mask. Entries that rounding swallows are
    as large as that: none is negative, whatever an envelope leaves of the CTF.
    """
    n = grid.box
    overlaps = np.ix_(*3 * [((n - np.abs(np.arange(-n, n))) / n).astype(spread.dtype)])
    folded = spread
    if mask is not None:
        folded = spread * autocorrelation(mask).astype(spread.dtype)
    for axis in range(3):
        if mask is None:
            folded = folded * overlaps[axis]
        # d and d + N are the same to k.
        below, above = np.split(folded, 2, axis=axis)
        folded = below + above
    half = scipy.fft.rfftn(folded, axes=(2, 1, 0), workers=thread_count())
    found = np.fft.fftshift(half, axes=(1, 2)).real / spread.dtype.type(n**3)
    return np.maximum(found, np.finfo(found.dtype).eps * found.max())


def assembly_memory(operator: SliceOperator) -> int:
    """Return the bytes that assembling T takes for a while: its samples, then its transforms."""
    fine = operator.oversampled(2 * operator.grid.box, exact=True)
    # T itself, its product with the overlap or its shifted copy, and a half transform.
    later = 3 * fine.side**3 * fine.real_dtype.itemsize
    return max(fine.memory(fine.real_dtype), later)


def autocorrelation(mask: NDArray) -> NDArray:
    """Return R(d) / N^3 of a mask, d from -N to N - 1 along each axis."""
    n, workers = len(mask), thread_count()
    half = scipy.fft.rfftn(mask, (2 * n,) * 3, workers=workers)
    power = half.real**2 + half.imag**2
    found = scipy.fft.irfftn(power, (2 * n,) * 3, workers=workers) / mask.dtype.type(n**3)
    return scipy.fft.fftshift(found)


def toeplitz(problem: KnownPoseProblem) -> Toeplitz:
    """Assemble T of all images of a problem, divided by the number of their views, in one pass."""
    grid, n = problem.grid, problem.grid.box
    local = problem.local_images()
    spread = point_spread(problem.operator, problem.steps, local, problem.weights)
    problem.communicator.sum(spread)
    spread *= spread.dtype.type(1 / problem.views(len(problem)))
    mask = problem.operator.mask
    diagonal = toeplitz_diagonal(grid, spread, mask)
    # Nothing is N apart. Zeros there keep T even, and its transform real.
    spread[0] = spread[:, 0] = spread[:, :, 0] = 0
    half = scipy.fft.rfftn(scipy.fft.ifftshift(spread), workers=thread_count())
    return Toeplitz(grid, half.real / spread.dtype.type(n**3), diagonal, mask)


def filled(grid: FourierGrid, diagonal: NDArray) -> NDArray:
    """Return J with the mean of the last shell at least outside the ball, as a preconditioner.

    Voxels there are seen through the tails of sincs only, all in step: J is far below H, and
    D^(-1/2) H D^(-1/2) would have an eigenvalue of 290, and cost twice the iterations.
    """
    last = diagonal.dtype.type(grid.shell_means(diagonal)[-1])
    return np.where(grid.ball(), diagonal, np.maximum(diagonal, last))


def dominating_diagonal(convolution: Toeplitz) -> NDArray:
    """Return a diagonal D with H <= D up to the accuracy of power iterations; a real half grid.

    J, filled, times the largest eigenvalue of D^(-1/2) H D^(-1/2), 3.0 to 3.5 for even views.
    """
    grid, diagonal = convolution.grid, convolution.diagonal
    bounded = filled(grid, diagonal)
    root = np.sqrt(bounded)
    inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    noise = np.random.default_rng(0).standard_normal((grid.box,) * 3)
    vector = grid.from_real(noise.astype(diagonal.dtype))
    largest = 0.0
    for _ in range(POWER_ITERATIONS):
        vector /= vector.real.dtype.type(grid.norm(vector))
        product = inverse * convolution.product(inverse * vector)
        largest, vector = max(largest, grid.inner(vector, product)), product
        if not largest > 0:
            return bounded
    return bounded * diagonal.dtype.type(max(1.0, MARGIN * largest))
