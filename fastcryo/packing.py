"""From pixels to packed samples: transform, crop, undo the shift, multiply by the CTF.

Threads take blocks of images in turn. A block is read in one go; then a few images at a time, few
enough to stay in the cache, go all the way from pixels to packed samples. No image depends on
another one, so the results do not depend on the number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numba
import numpy as np
import scipy
from numpy.typing import NDArray

from fastcryo.arrays import kernel_array
from fastcryo.errors import InputError
from fastcryo.kernels.cpu import aberrations, fft, image_transforms, prepare
from fastcryo.operators import SliceOperator
from fastcryo.threads import in_threads, scratch

if TYPE_CHECKING:
    from fastcryo.card_packing import CardPacker
    from fastcryo.optics import Imaging

# Transforms of a block, which is what is read in one go, and of the images in a core's cache.
BLOCK_BYTES = 8 * 2**20
CACHE_BYTES = 2**20
REPORTS = 500
# Columns are cut off before they are transformed where at least this part of them can go.
WORTH_CUTTING = 0.1


Keep = Callable[[NDArray[np.int64], NDArray], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Source:
    """Where the pixels of a set of images come from.

    Attributes
    ----------
    side : int
        M.
    order : ndarray of int64
        All images, in the order in which to read them.
    read : callable
        From indices of images to their pixels, (m, M, M), in the precision of the problem, finite
        or not; called by several threads, and what it returns is a thread's until its next call.
    refuse : callable
        Raises an InputError that names those of some images that are not finite.
    progress : callable or None
        Called with (images done, images in all).
    """

    side: int
    order: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], NDArray]
    refuse: Callable[[NDArray[np.int64]], None]
    progress: Callable[[int, int], None] | None = None

    def part(self, own: slice) -> Source:
        """Return the source of a part of the images, of those in the order of reading.

        It tells the progress of all, as if the others were read side by side.
        """
        count, progress = len(self.order), self.progress

        def tell(done: int, total: int) -> None:
            progress(done * count // total, count)

        return replace(self, order=self.order[own], progress=progress and tell)


@dataclass(frozen=True, eq=False)
class ImagingTables:
    """What `fastcryo.optics.Imaging` means for every sample of an operator.

    Attributes
    ----------
    imaging : Imaging
    even, cosines, sines : ndarray, shape (g, samples)
        Even phase, and cosine and sine of the odd one.
    """

    imaging: Imaging
    even: NDArray[np.float64]
    cosines: NDArray[np.float64]
    sines: NDArray[np.float64]

    @classmethod
    def of(cls, imaging: Imaging, operator: SliceOperator, length: float) -> ImagingTables:
        """Evaluate the phases at the samples of an operator, in a box of a side in angstrom."""
        even, odd = imaging.phases(*operator.frequencies(), length)
        return cls(imaging, even, np.cos(odd), np.sin(odd))


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
    inverse_variance : ndarray, shape (g, samples), float64
        1 / sigma^2 of every group of images with a noise of its own, halved at the origin.
    noise_group : ndarray, shape (n,), int64
        Which one an image belongs to.
    tables : ImagingTables or None
        None: the images are C P V, and on one grid.
    scale : ndarray, shape (n,), float64, or None
        Factor of every image's signal: C becomes scale C. None: 1.
    """

    operator: SliceOperator
    length: float
    shifts: NDArray[np.float64]
    ctf: NDArray[np.float64]
    inverse_variance: NDArray[np.float64]
    noise_group: NDArray[np.int64]
    tables: ImagingTables | None = None
    scale: NDArray[np.float64] | None = None

    @cached_property
    def on_card(self) -> CardPacker | None:
        """The same on the graphics card of the operator, if it has one."""
        if self.operator.card is None:
            return None
        from fastcryo.card_packing import CardPacker

        return CardPacker(self)

    @property
    def bytes_at_once(self) -> int:
        """Transforms that `pack` takes at a time: what a core's cache holds, or a whole block."""
        return CACHE_BYTES if self.operator.card is None else BLOCK_BYTES

    def pack(
        self,
        images: NDArray,
        members: NDArray[np.int64],
        places: NDArray[np.int64],
        weights: NDArray,
        data: NDArray,
    ) -> NDArray[np.float64]:
        """Fill rows of weights and data with some images, on one thread.

        Parameters
        ----------
        images : ndarray, shape (m, M, M)
            In the precision of the operator.
        members : ndarray, shape (m,), int64
            Which of the n they are.
        places : ndarray, shape (m,), int64
            Their rows in the arrays to fill.
        weights, data : ndarray, modified in place
            As in `fastcryo.problem.KnownPoseProblem`; without CTF the weights are left alone.

        Returns
        -------
        ndarray, shape (m,)
            Energies: 1/2 sum |y|^2 / sigma^2 of every image; not finite if a pixel is not.
        """
        rows = weights, data
        if self.on_card is not None:
            energies = self.on_card.pack(images, members, places, *rows)
        else:
            groups, energies = self.noise_group[members], np.empty(len(images))
            for group in np.unique(groups):
                own = groups == group
                own = slice(None) if own.all() else np.flatnonzero(own)
                some = images[own], members[own], places[own]
                energies[own] = self._pack_group(group, *some, *rows)
        if self.scale is not None:
            factors = self.scale[members, None].astype(weights.dtype)
            data[places] *= factors
            weights[places] *= factors**2
        return energies

    def _pack_group(
        self,
        group: int,
        images: NDArray,
        members: NDArray[np.int64],
        places: NDArray[np.int64],
        weights: NDArray,
        data: NDArray,
    ) -> NDArray[np.float64]:
        """Fill rows with some images of one group, see `pack`."""
        operator, real = self.operator, self.operator.real_dtype
        energies = np.empty(len(images))
        transforms = half_transforms(images, operator.grid.radius).view(real)
        ctf = self.ctf[members] if len(self.ctf) else self.ctf
        first, samples = (transforms, places), (self.shifts[members], operator.rows, ctf)
        last = self.length, self.inverse_variance[group], weights, data.view(real), energies
        if self.tables is None:
            prepare.pack_images(*first, *samples, *last)
            return energies
        imaging, tables = self.tables.imaging, self.tables
        phases = imaging.warps, tables.even, tables.cosines, tables.sines
        optics = *phases, imaging.limits, imaging.corrections
        aberrations.pack_images(*first, imaging.group[members], *samples, *optics, *last)
        return energies

    def common_weights(self) -> NDArray:
        """Return the one row of weights that serves all images without CTF."""
        return self.inverse_variance.astype(self.operator.real_dtype)

    def fill_weights(self, members: NDArray[np.int64], weights: NDArray) -> None:
        """Fill the weights of some images, one row each, without reading any."""
        if self.on_card is not None:
            self.on_card.fill_weights(members, weights)
        elif len(self.inverse_variance) == 1:
            self._fill_group(0, members, weights)
        else:
            self._fill_groups(members, weights)
        if self.scale is not None:
            for row, factor in zip(weights, self.scale[members] ** 2, strict=True):
                row *= row.dtype.type(factor)

    def _fill_groups(self, members: NDArray[np.int64], weights: NDArray) -> None:
        """Fill the weights of images of several groups."""
        groups = self.noise_group[members]
        length = BLOCK_BYTES // (weights.itemsize * weights.shape[1])
        for group in np.unique(groups):
            places = np.flatnonzero(groups == group)
            for piece in pieces(len(places), length):
                part = places[piece]
                filled = np.empty((len(part), weights.shape[1]), weights.dtype)
                self._fill_group(group, members[part], filled)
                weights[part] = filled

    def _fill_group(self, group: int, members: NDArray[np.int64], weights: NDArray) -> None:
        """Fill the weights of some images of one group."""
        rows, length, ctf = self.operator.rows, self.length, self.ctf[members]
        inverse_variance = self.inverse_variance[group]
        if self.tables is not None:
            imaging = self.tables.imaging
            aberrations.prepare_weights(
                imaging.group[members],
                rows,
                ctf,
                imaging.warps,
                self.tables.even,
                imaging.limits,
                length,
                inverse_variance,
                weights,
            )
            return
        prepare.prepare_weights(rows, ctf, length, inverse_variance, weights)


def half_transforms(images: NDArray, radius: int) -> NDArray:
    """Return the columns 0 to R, at least, of rfft2 of images.

    Of them only the rows |ky| <= R mean anything, and the next call of the thread overwrites them.
    Sides with prime factors beyond 11, and images smaller than bundles, are left to scipy.

    Parameters
    ----------
    images : ndarray, shape (m, M, M), float32 or float64
    radius : int
        R.

    Returns
    -------
    ndarray, shape (m, M, W), complex
    """
    count, side, real = len(images), images.shape[2], images.dtype
    lanes, kept = fft.lanes_of(real), radius + 1
    lengths = _lengths_of(side, real)
    if lengths is None or side < 2 * lanes or kept < lanes:
        return _other_half_transforms(images, kept)
    images = kernel_array(images)
    work = scratch("bundle", (2 * lanes * side,), real)
    plane = scratch("plane", (2 * kept * side,), real)
    out = scratch("half transforms", (2 * (count * side + 1) * kept,), real)
    image_transforms.transform_images(images, lengths, work, plane, out)
    transforms = out[: 2 * count * side * kept].view(np.result_type(real, np.complex64))
    return transforms.reshape(count, side, kept)


@lru_cache(maxsize=8)
def _lengths_of(side: int, real: np.dtype) -> fft.Lengths | None:
    """Return the tables of transforms of a length; None where kernels cannot do them."""
    if numba.config.DISABLE_JIT or fft.radices_of(side) is None:
        return None
    return fft.lengths_of(side, real)


def _other_half_transforms(images: NDArray, kept: int) -> NDArray:
    """Do as `half_transforms`, for any side.

    The rows are transformed first. Where the disc is much smaller than the images, the columns
    that hold none of it are cut off then, and cost nothing along y.
    """
    transforms = scipy.fft.rfft(images, axis=2, workers=1)
    if kept < (1 - WORTH_CUTTING) * transforms.shape[2]:
        transforms = np.ascontiguousarray(transforms[:, :, :kept])
    return scipy.fft.fft(transforms, axis=1, workers=1, overwrite_x=True)


def stream(source: Source, keep: Keep, bytes_at_once: int) -> None:
    """Read all images, and hand them on a few at a time.

    Parameters
    ----------
    source : Source
    keep : callable
        Takes (indices, images) and returns their energies; called by several threads.
    bytes_at_once : int
        Of the transforms that it is handed, see `Packer.bytes_at_once`.

    Raises
    ------
    InputError
        Images with NaN or infinite pixels.
    """
    count, pixels, told = len(source.order), source.side**2, 0

    def work(block: slice) -> None:
        members = source.order[block]
        images = source.read(members)
        parts = pieces(len(members), bytes_at_once // (8 * pixels))
        found = np.concatenate([keep(members[part], images[part]) for part in parts])
        # A sum over all pixels finds what a look at each of them would, at no cost.
        if not np.isfinite(found).all():
            source.refuse(members)
            raise InputError("images: pixels are too large, normalise them")

    work_done = in_threads(work, pieces(count, BLOCK_BYTES // (8 * pixels)))
    # Closed here, so that no thread works on when `progress` is interrupted.
    with contextlib.closing(work_done):
        for block, _ in work_done:
            due = block.stop == count or block.stop - told >= count / REPORTS
            if source.progress is not None and due:
                told = block.stop
                source.progress(told, count)


def pieces(count: int, length: int) -> Iterator[slice]:
    """Cut `count` things into pieces of a length, at least 1."""
    length = max(1, length)
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))
