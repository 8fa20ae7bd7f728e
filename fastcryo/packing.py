"""From pixels to packed samples: transform, crop, undo the shift, multiply by the CTF.

Threads take blocks of images in turn. A block is read in one go; then a few images at a time, few
enough to stay in the cache, go all the way from pixels to packed samples. No image depends on
another one, so the results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from fastcryo.kernels.cpu import prepare
from fastcryo.operators import SliceOperator
from fastcryo.threads import in_threads

# Transforms of a block, which is what is read in one go, and of the images in a core's cache.
BLOCK_BYTES = 8 * 2**20
CACHE_BYTES = 2**20
REPORTS = 500
# Columns are cut off before they are transformed where at least this part of them can go.
WORTH_CUTTING = 0.1


Read = Callable[[NDArray[np.int64]], NDArray]
Keep = Callable[[NDArray[np.int64], NDArray], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Packer:
    """What the images of a set have in common, and the metadata of each.

    Attributes
    ----------
    operator : SliceOperator
        Layout and precision of the samples.
    length : float
        Side of the images, angstrom.
    shifts : ndarray, shape (n, 2), float64
        Pixels.
    ctf : ndarray, shape (n, 7) or (0, 7), float64
        Coefficients; no rows: C = 1.
    inverse_variance : ndarray, shape (samples,), float64
        1 / sigma^2, halved at the origin.
    """

    operator: SliceOperator
    length: float
    shifts: NDArray[np.float64]
    ctf: NDArray[np.float64]
    inverse_variance: NDArray[np.float64]

    def pack(
        self,
        images: NDArray,
        members: NDArray[np.int64],
        places: NDArray[np.int64],
        weights: NDArray,
        data: NDArray,
        energies: NDArray[np.float64],
    ) -> None:
        """Fill rows of weights and data with some images, on one thread.

        Parameters
        ----------
        images : ndarray, shape (m, M, M)
            In the precision of the operator.
        members : ndarray, shape (m,), int64
            Which of the n they are.
        places : ndarray, shape (m,), int64
            Their rows in the arrays to fill.
        weights, data, energies : ndarray, modified in place
            As in `fastcryo.problem.KnownPoseProblem`; without CTF the weights are left alone.
        """
        real = self.operator.real_dtype
        prepare.pack_images(
            half_transforms(images, self.operator.grid.radius).view(real),
            places,
            self.shifts[members],
            self.operator.rows,
            self.ctf[members] if len(self.ctf) else self.ctf,
            self.length,
            self.inverse_variance,
            weights,
            data.view(real),
            energies,
        )

    def common_weights(self) -> NDArray:
        """Return the one row of weights that serves all images without CTF."""
        return self.inverse_variance[None].astype(self.operator.real_dtype)

    def fill_weights(self, weights: NDArray) -> None:
        """Fill the weights of all images, one row each, without reading any."""
        rows, length = self.operator.rows, self.length
        prepare.prepare_weights(rows, self.ctf, length, self.inverse_variance, weights)


def half_transforms(images: NDArray, radius: int) -> NDArray:
    """Return the columns 0 to R, at least, of rfft2 of images.

    The rows are transformed first. Where the disc is much smaller than the images, the columns
    that hold none of it are cut off then, and cost nothing along y.

    Parameters
    ----------
    images : ndarray, shape (m, M, M), real
    radius : int
        R.

    Returns
    -------
    ndarray, shape (m, M, W), complex
    """
    transforms = scipy.fft.rfft(images, axis=2, workers=1)
    if radius + 1 < (1 - WORTH_CUTTING) * transforms.shape[2]:
        transforms = np.ascontiguousarray(transforms[:, :, : radius + 1])
    return scipy.fft.fft(transforms, axis=1, workers=1, overwrite_x=True)


def stream(
    read: Read, order: NDArray[np.int64], side: int, keep: Keep, progress: Progress | None
) -> None:
    """Read all images, and hand them on a few at a time.

    Parameters
    ----------
    read : callable
        From indices of images to their pixels, (m, M, M); called by several threads.
    order : ndarray of int64
        All images, in the order in which to read them.
    side : int
        M.
    keep : callable
        Takes (indices, images), a few at a time; called by several threads.
    progress : callable or None
        Called with (images done, images in all).
    """
    count, told = len(order), 0

    def work(block: slice) -> None:
        members = order[block]
        images = read(members)
        for part in pieces(len(members), CACHE_BYTES // (8 * side**2)):
            keep(members[part], images[part])

    for block, _ in in_threads(work, pieces(count, BLOCK_BYTES // (8 * side**2))):
        due = block.stop == count or block.stop - told >= count / REPORTS
        if progress is not None and due:
            told = block.stop
            progress(told, count)


def pieces(count: int, length: int) -> Iterator[slice]:
    """Cut `count` things into pieces of a length, at least 1."""
    length = max(1, length)
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))
