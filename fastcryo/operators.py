"""Fourier slicing and its adjoint, for one grid, one window, one precision and one backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.kernels import layout
from fastcryo.kernels.cpu import prepare, slicing, windows
from fastcryo.rotations import orthonormal_rotations
from fastcryo.rows import StoredRows, blocks
from fastcryo.threads import thread_count

KERNELS = {
    "nearest": slicing.make_kernels(windows.NEAREST),
    "trilinear": slicing.make_kernels(windows.TRILINEAR),
}
WINDOW_ORDER = {"nearest": 1, "trilinear": 2}
BACKENDS = ("auto", "cpu")
PRECISIONS = {"float32": (np.complex64, np.float32(2.0**-24)), "float64": (np.complex128, 2.0**-52)}


class SliceOperator:
    """P: the central slices of a volume, and its exact transpose.

    Packed samples are the half disc h^2 + k^2 <= R^2, h > 0 or h = 0 <= k, in the order of
    `fastcryo.kernels.layout`; `unpack` turns them into full transforms.

    Parameters
    ----------
    grid : FourierGrid
    interpolation : {"trilinear", "nearest"}
    backend : {"auto", "cpu"}
    dtype : {"float32", "float64"}
        Precision of volumes and samples.

    Raises
    ------
    InputError
        An unknown name.
    """

    def __init__(
        self,
        grid: FourierGrid,
        interpolation: str = "trilinear",
        backend: str = "cpu",
        dtype: DTypeLike = "float32",
    ):
        if interpolation not in KERNELS:
            raise InputError(
                f"interpolation: {interpolation!r} is unknown, choose from {', '.join(KERNELS)}"
            )
        if backend not in BACKENDS:
            raise InputError(f"backend: {backend!r} is unknown, choose from {', '.join(BACKENDS)}")
        precision = np.dtype(dtype).name
        if precision not in PRECISIONS:
            raise InputError(f"dtype: {precision} is not supported, choose float32 or float64")
        self.grid = grid
        self.interpolation = interpolation
        self.backend = "cpu"
        self.real_dtype = np.dtype(precision)
        self.dtype = np.dtype(PRECISIONS[precision][0])
        self._unit = PRECISIONS[precision][1]
        self._kernels = KERNELS[interpolation]
        self.rows = layout.disc_rows(grid.radius)
        self.samples = int(self.rows[-1, 0] + self.rows[-1, 2])
        self.origin = layout.origin_sample(grid.radius)
        self._tiles, self._colours = layout.disc_tiles(grid.radius, *layout.tile_shape(grid.radius))

    def forward(self, volume: NDArray, rotations: ArrayLike) -> NDArray:
        """Slice a half grid.

        Parameters
        ----------
        volume : ndarray, half grid of `grid`
        rotations : array_like, shape (n, 3, 3)

        Returns
        -------
        ndarray, shape (n, samples), complex
        """
        steps = layout.fixed_point_steps(orthonormal_rotations(rotations))
        samples = np.empty((len(steps), self.samples), self.dtype)
        self._sweep("forward", (self.flat(volume), samples), np.arange(len(steps)), steps)
        return samples

    def adjoint(self, samples: NDArray, rotations: ArrayLike) -> NDArray:
        """Back-project packed samples, the exact transpose of `forward` over the reals.

        Re <forward(V), s> over full discs equals Re <V, adjoint(s)> over the full grid.

        Parameters
        ----------
        samples : ndarray, shape (n, samples), complex
        rotations : array_like, shape (n, 3, 3)

        Returns
        -------
        ndarray, half grid
        """
        steps = layout.fixed_point_steps(orthonormal_rotations(rotations))
        samples = np.ascontiguousarray(samples, self.dtype)
        if samples.shape != (len(steps), self.samples):
            raise InputError(
                f"samples: shape {(len(steps), self.samples)} needed, got {samples.shape}"
            )
        out = self.grid.zeros(self.dtype)
        self._sweep("adjoint", (samples, self.flat(out)), np.arange(len(steps)), steps)
        # The origin is its own mirror and must not be added twice.
        out[0, self.grid.centre, self.grid.centre] -= 0.5 * samples[:, self.origin].sum()
        return self._add_mirror(out)

    def inner(self, left: NDArray, right: NDArray) -> float:
        """Inner product of packed samples over the full discs, Re sum(conj(left) right)."""
        products = (np.conj(left) * right).real.astype(np.float64)
        return float(2 * products.sum() - products[:, self.origin].sum())

    def pack(self, transforms: NDArray) -> NDArray:
        """Keep the half disc of full transforms (n, N, N) in numpy.fft order, [i, ky, kx]."""
        transforms = np.asarray(transforms)
        if transforms.ndim != 3 or transforms.shape[1:] != (self.grid.box,) * 2:
            raise InputError(
                f"images: shape (n, {self.grid.box}, {self.grid.box}) needed, "
                f"got {transforms.shape}"
            )
        h, k = layout.disc_frequencies(self.grid.radius)
        return np.ascontiguousarray(transforms[:, k, h].astype(self.dtype, copy=False))

    def unpack(self, samples: NDArray) -> NDArray:
        """Fill full transforms (n, N, N) in numpy.fft order; zero outside the disc."""
        h, k = layout.disc_frequencies(self.grid.radius)
        full = np.zeros((len(samples), self.grid.box, self.grid.box), samples.dtype)
        full[:, -k, -h] = np.conj(samples)
        full[:, k, h] = samples
        return full

    def to_map(self, volume: NDArray) -> NDArray:
        """Transform a half grid whose slices fit the data to the map ``[z, y, x]`` that it shows.

        Interpolating between Fourier coefficients multiplies the map, before it is projected, by
        the transform of the window: sinc (nearest) or sinc^2 (trilinear) of x / N along each axis.
        The V that fits the data is therefore the transform of the map divided by that product,
        which is undone here: separably, as the window is.
        """
        x = (np.arange(self.grid.box) - self.grid.centre) / self.grid.box
        window = np.sinc(x) ** WINDOW_ORDER[self.interpolation]
        shown = self.grid.to_real(volume)
        for axis in np.ix_(window, window, window):
            shown *= axis.astype(self.real_dtype)
        return shown

    def normal(
        self,
        volume: NDArray,
        steps: NDArray,
        images: NDArray,
        weights: NDArray | StoredRows,
        data: NDArray | StoredRows,
    ) -> tuple[NDArray, float, float]:
        """Sum P^H (c P V - d) over images, in one pass that stores no slice.

        Parameters
        ----------
        volume : ndarray, half grid
        steps : ndarray, shape (n, 2, 3), int64
        images : ndarray of int64
            Which of the n.
        weights : ndarray, shape (n, samples) or (1, samples)
            c, halved at the origin.
        data : ndarray, shape (n, samples) or (0, samples)
            d, halved at the origin; no rows stand for zeros.

        Returns
        -------
        total : ndarray, half grid
        square, mixed : float
            Sum of c |P V|^2 and of Re(conj(d) P V) over half discs.
        """
        out = self.grid.zeros(self.dtype)
        arrays = (self.flat(volume), weights, data, self.flat(out))
        square, mixed = self._sweep("gradient", arrays, images, steps)
        return self._add_mirror(out), square, mixed

    def energy(
        self, volume: NDArray, steps: NDArray, images: NDArray, weights: NDArray, data: NDArray
    ) -> tuple[float, float]:
        """Return the sums of `normal` without its volume."""
        return self._sweep("energy", (self.flat(volume), weights, data), images, steps)

    def diagonal(self, steps: NDArray, images: NDArray, weights: NDArray, squared: bool) -> NDArray:
        """Sum c w^2 (squared) or c w over the samples of some images; a real half grid."""
        out = np.zeros(self.grid.shape, self.real_dtype)
        name = "diagonal" if squared else "gridding"
        self._sweep(name, (weights, out.reshape(-1)), images, steps)
        return self._add_mirror(out)

    def flat(self, volume: NDArray) -> NDArray:
        """Return a half grid as the kernels take it: contiguous, flat, in this precision."""
        self.grid.check(volume)
        return np.ascontiguousarray(volume, self.dtype).reshape(-1)

    def _sweep(
        self, name: str, arrays: tuple[NDArray, ...], images: NDArray, steps: NDArray
    ) -> tuple[float, float]:
        """Run a kernel on its arrays, block by block; returns its two sums."""
        reads_only = name in ("forward", "energy")
        total = np.zeros(2)
        whole = name in ("forward", "adjoint")  # their samples belong to the batch, not to the set
        parts = [(arrays, images, steps)] if whole else blocks(arrays, images, steps, self.samples)
        for part, members, views in parts:
            sums = np.zeros((len(self._tiles), 2))
            getattr(self._kernels, name)(
                part,
                members,
                views,
                self.rows,
                self._tiles,
                np.array([0, len(self._tiles)]) if reads_only else self._colours,
                self.grid.box,
                self._unit,
                thread_count(),
                sums,
            )
            total += sums.sum(axis=0)
        square, mixed = total
        return float(square), float(mixed)

    def _add_mirror(self, out: NDArray) -> NDArray:
        prepare.add_mirror(out[0].copy(), out[0])
        return out
