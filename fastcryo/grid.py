"""The Fourier grid: half layout, FFTs, fold and unfold, inner product, shells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastcryo.arrays import total_of_planes, vectors_of
from fastcryo.errors import InputError
from fastcryo.threads import run, scratch

SMALLEST_BOX, LARGEST_BOX = 8, 512
# Bytes that one thread transforms at a time: less is lost in waiting for Python, more in the cache.
PIECE = 2**21


class FourierGrid:
    """The Fourier transform of a real volume of N x N x N voxels, one half of it in memory.

    A *half grid* is a complex array ``V[kz, ky, kx]`` of shape ``(N // 2 + 1, N, N)``: kz runs from
    0 to N // 2, ky and kx from -(N // 2) upwards, so that the origin stands at ``[0, N // 2, N //
    2]``. The other half is the complex conjugate of its mirror, V(-k) = conj V(k), because the
    volume is real. Values are those of the unnormalised DFT of the centred volume,
    ``fftn(ifftshift(v))``. Inner products and norms are those of the full grid.

    Parameters
    ----------
    box : int
        N, from 8 to 512, even or odd.
    radius : int, optional
        R: frequencies with |k| <= R count; (N - 1) // 2 unless given.

    Raises
    ------
    InputError
        A box or a radius out of range.
    """

    def __init__(self, box: int, radius: int | None = None):
        if int(box) != box or not SMALLEST_BOX <= box <= LARGEST_BOX:
            raise InputError(
                f"box: {box} pixels cannot be used, it must be a whole number "
                f"from {SMALLEST_BOX} to {LARGEST_BOX} (crop with --box)"
            )
        nyquist = (int(box) - 1) // 2
        radius = nyquist if radius is None else radius
        if int(radius) != radius or not 1 <= radius <= nyquist:
            raise InputError(
                f"radius: {radius} cannot be used for a box of {box} pixels, it must be "
                f"a whole number from 1 to {nyquist} (the last shell below Nyquist)"
            )
        self.box = int(box)
        self.radius = int(radius)
        self.centre = self.box // 2
        self.shape = (self.box // 2 + 1, self.box, self.box)

    def __repr__(self) -> str:
        """Box and radius."""
        return f"FourierGrid({self.box}, radius={self.radius})"

    def zeros(self, dtype: DTypeLike = np.complex64) -> NDArray:
        """Return an empty half grid."""
        return np.zeros(self.shape, dtype=dtype)

    def from_real(self, volume: ArrayLike, dtype: DTypeLike | None = None) -> NDArray:
        """Transform a volume ``[z, y, x]`` to the half grid.

        Parameters
        ----------
        volume : array_like, shape (N, N, N), real
        dtype : complex dtype, optional
            complex64 for float32 input, else complex128.

        Raises
        ------
        InputError
            Wrong shape, or complex values.
        """
        volume = np.asarray(volume)
        if volume.shape != (self.box,) * 3:
            raise InputError(f"volume: shape {(self.box,) * 3} needed, got {volume.shape}")
        if np.iscomplexobj(volume):
            raise InputError("volume: real values needed, got complex ones")
        if volume.dtype not in (np.float32, np.float64):
            volume = volume.astype(np.float32 if volume.dtype == np.float16 else np.float64)
        real = volume.dtype
        half = np.empty(self.shape, np.result_type(real, np.complex64))

        def along_z(rows: slice) -> None:
            part = scratch("lines", volume[:, rows].shape, real)
            for centred, wrapped in halves(self.box):
                part[wrapped] = volume[centred, rows]
            half[:, rows] = scipy.fft.rfft(part, axis=0, overwrite_x=True)

        run(along_z, pieces(self.box, self.box**2 * half.itemsize))
        transform_planes(scipy.fft.fft2, half, half)
        return half if dtype is None else half.astype(dtype, copy=False)

    def to_real(self, half: NDArray) -> NDArray:
        """Transform a half grid back to the volume ``[z, y, x]``, float32 or float64."""
        self.check(half)
        planes = np.empty(self.shape, np.result_type(half, np.complex64))
        transform_planes(scipy.fft.ifft2, half, planes)
        volume = np.empty((self.box,) * 3, planes.real.dtype)

        def along_z(rows: slice) -> None:
            part = scipy.fft.irfft(planes[:, rows], self.box, axis=0, overwrite_x=True)
            for centred, wrapped in halves(self.box):
                volume[centred, rows] = part[wrapped]

        run(along_z, pieces(self.box, self.box**2 * planes.itemsize))
        return volume

    def fold(self, full: NDArray) -> NDArray:
        """Keep the half of a full grid (N, N, N) in numpy.fft order; values, real or complex."""
        full = np.asarray(full)
        if full.shape != (self.box,) * 3:
            raise InputError(f"full grid: shape {(self.box,) * 3} needed, got {full.shape}")
        return np.fft.fftshift(full[: self.shape[0]], axes=(1, 2))

    def unfold(self, half: NDArray) -> NDArray:
        """Rebuild the full grid (N, N, N) in numpy.fft order from a half grid."""
        self.check(half)
        upper = np.fft.ifftshift(half, axes=(1, 2))
        full = np.empty((self.box,) * 3, dtype=half.dtype)
        full[: self.shape[0]] = upper
        mirror = -np.arange(self.box)
        below = np.arange(self.shape[0], self.box)
        full[below] = np.conj(upper[self.box - below][:, mirror][:, :, mirror])
        return full

    def inner(self, left: NDArray, right: NDArray) -> float:
        """Inner product over the full grid, Re sum(conj(left) right); sums in float64."""
        self.check(left)
        self.check(right)
        by_plane = vectors_of(left).inner_by_plane(left, right)
        return total_of_planes(by_plane, self.plane_multiplicity)

    def norm(self, half: NDArray) -> float:
        """Euclidean norm over the full grid."""
        return math.sqrt(self.inner(half, half))

    @cached_property
    def plane_multiplicity(self) -> NDArray[np.float64]:
        """How often a plane kz counts in the full grid: once if its own mirror, else twice."""
        count = np.full(self.shape[0], 2.0)
        count[0] = 1.0
        if self.box % 2 == 0:
            count[-1] = 1.0
        return count

    @cached_property
    def _squared_radius(self) -> NDArray[np.int64]:
        kz = np.arange(self.shape[0])
        k = np.arange(self.box) - self.centre
        return kz[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2

    def shells(self) -> NDArray[np.int64]:
        """Shell of every stored coefficient, round(|k|); shape of the half grid."""
        return np.rint(np.sqrt(self._squared_radius)).astype(np.int64)

    def ball(self) -> NDArray[np.bool_]:
        """Return which stored coefficients have |k| <= R; shape of the half grid."""
        return self._squared_radius <= self.radius**2

    def shell_sums(self, values: NDArray, shells: int | None = None) -> NDArray[np.float64]:
        """Sum real values over the full grid by shell, 0 to `shells` - 1 (R + 1 unless given)."""
        weights = np.asarray(values, dtype=np.float64) * self.plane_multiplicity[:, None, None]
        count = self.radius + 1 if shells is None else shells
        return np.bincount(self.shells().ravel(), weights.ravel(), minlength=count)[:count]

    def shell_means(self, values: NDArray, shells: int | None = None) -> NDArray[np.float64]:
        """Mean over the full grid by shell, 0 to `shells` - 1 (R + 1 unless given)."""
        sizes = self.shell_sums(np.ones(self.shape), shells)
        return self.shell_sums(values, shells) / np.maximum(sizes, 1)

    def check(self, half: NDArray) -> None:
        """Refuse an array that is no half grid of this box."""
        if np.shape(half) != self.shape:
            raise InputError(
                f"half grid: shape {self.shape} needed for box {self.box}, got {np.shape(half)}"
            )


def halves(box: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where both halves of an axis lie, centred and in numpy.fft order."""
    c = box // 2
    return (slice(c, box), slice(0, box - c)), (slice(0, c), slice(box - c, box))


def pieces(count: int, size: int) -> list[slice]:
    """Cut `count` things of so many bytes into what a thread transforms at a time."""
    step = max(1, PIECE // size)
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def transform_planes(
    transform: Callable, source: NDArray, target: NDArray, add: bool = False
) -> None:
    """Transform the planes of a half grid along y and x, both with their origin in the middle.

    Parameters
    ----------
    transform : callable
        `scipy.fft.fft2` or `scipy.fft.ifft2`.
    source, target : ndarray, shape (nz, n, n)
        May be the same.
    add : bool
        To what the target holds.
    """
    box = source.shape[-1]
    quadrants = list(itertools.product(halves(box), repeat=2))

    def work(z: slice) -> None:
        planes = scratch("planes", source[z].shape, target.dtype)
        for (y, wrapped_y), (x, wrapped_x) in quadrants:
            planes[:, wrapped_y, wrapped_x] = source[z, y, x]
        planes = transform(planes, overwrite_x=True)
        for (y, wrapped_y), (x, wrapped_x) in quadrants:
            if add:
                target[z, y, x] += planes[:, wrapped_y, wrapped_x]
            else:
                target[z, y, x] = planes[:, wrapped_y, wrapped_x]

    run(work, pieces(len(source), box**2 * target.itemsize))
