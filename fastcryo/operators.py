"""Fourier slicing and its adjoint, for one grid, one window, one precision and one backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastcryo import toeplitz
from fastcryo.arrays import kernel_array, on_host
from fastcryo.backends import choose_backend, sweeps_on_card
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.interpolation import WIDTHS, check_window, window_transform
from fastcryo.kernels import layout
from fastcryo.masks import checked_mask, mask_power
from fastcryo.oversampling import Oversampling, sweep_half_grids, triangle
from fastcryo.rotations import orthonormal_rotations
from fastcryo.rows import StoredRows, blocks, copies_of
from fastcryo.tile_sweeps import TileSweeps

PRECISIONS = {"float32": (np.complex64, np.float32(2.0**-24)), "float64": (np.complex128, 2.0**-52)}


class SliceOperator:
    """P: the central slices of a volume, and its exact transpose.

    Packed samples are the half disc h^2 + k^2 <= R^2, h > 0 or h = 0 <= k, in the order of
    `fastcryo.kernels.layout`; `unpack` turns them into full transforms.

    Parameters
    ----------
    grid : FourierGrid
    interpolation : {"trilinear", "nearest", "kaiser_bessel"}
        The first two read the N^3 grid; "kaiser_bessel" an oversampled one, after the map was
        divided by the transform of its window: slices are then those of the map itself.
    backend : {"cpu", "cuda", "cuda-deterministic", "auto"}
        Where sweeps over images run (`fastcryo.backends.choose_backend`). On a graphics card sums
        come in any order, so that the last bits of a volume vary; "cuda-deterministic" adds whole
        numbers instead and gives the same bits every time. Methods take half grids and samples on
        the host or on the card (`place`), and return what they make where they got them.
    dtype : {"float32", "float64"}
        Precision of volumes and samples.
    reach : float, optional
        Keep the samples |(h, k)| <= reach only, R unless given: for images whose samples lie
        farther out than (h, k), see `fastcryo.optics.Imaging.stretch`.
    oversampling : float, optional
        s, 1.25 to 2: the finer grid has s N points along each axis, or a few more. 1.5 for
        "kaiser_bessel" unless given; "trilinear" then reads a finer grid as well (with 2: what
        gridding programs call padding 2).
    width : int, optional
        W, 4 to 6 cells, of "kaiser_bessel": 5 unless given.
    compat : {None, "relion"}
        "relion": the map is divided by sinc^2(|x| / M), as RELION does, instead of sinc^2 along
        each axis; for "trilinear" with oversampling.
    mask : array_like, shape (N, N, N), optional
        m, 0 to 1 in real space, for windows with oversampling: slices are those of M V, with
        M = F diag(m) F^-1, its own transpose. A solution V shows the map M V (`to_map`); where
        m = 0, V is what the prior makes of it.

    Raises
    ------
    InputError
        An unknown name, options that do not go together, or CUDA that does not work.
    """

    def __init__(
        self,
        grid: FourierGrid,
        interpolation: str = "trilinear",
        backend: str = "cpu",
        dtype: DTypeLike = "float32",
        reach: float | None = None,
        oversampling: float | None = None,
        width: int | None = None,
        compat: str | None = None,
        mask: ArrayLike | None = None,
    ):
        masked = mask is not None
        oversampling, width = check_window(interpolation, oversampling, width, compat, masked)
        precision = np.dtype(dtype).name
        if precision not in PRECISIONS:
            raise InputError(f"dtype: {precision} is not supported, choose float32 or float64")
        self.grid = grid
        self.interpolation = interpolation
        self.backend = choose_backend(backend)
        self.real_dtype = np.dtype(precision)
        self.dtype = np.dtype(PRECISIONS[precision][0])
        self._unit = PRECISIONS[precision][1]
        self.oversampling, self.width, self.compat = oversampling, width, compat
        self.mask = checked_mask(mask, (grid.box,) * 3).astype(self.real_dtype) if masked else None
        self.reach = reach
        self.rows = layout.disc_rows(grid.radius, reach)
        self.samples = int(self.rows[-1, 0] + self.rows[-1, 2])
        self.origin = layout.origin_sample(grid.radius, reach)
        self._none = (np.empty(0, self.dtype),)
        self._tiled = None
        if oversampling is None:
            unit = self.real_dtype.type(self._unit)
            self._tiled = TileSweeps(interpolation, grid, self.rows, unit)
        self._fine = None if oversampling is None else self.oversampled(grid.box)
        self.card = None
        if self.backend != "cpu":
            how = self.real_dtype.type(self._unit), self.backend == "cuda-deterministic", self._fine
            volumes = interpolation, grid, self.frequencies(), *how
            self.card = sweeps_on_card(volumes, optional=backend == "auto")
            self.backend = "cpu" if self.card is None else self.backend
        self._pairs = self.card is not None or (self._tiled is not None and self._tiled.pairs)

    def oversampled(self, side: int, exact: bool = False) -> Oversampling:
        """Return the way from a real box of any side to samples, with this operator's window.

        `exact`: with a Kaiser-Bessel window in any case, and without the mask.
        """
        kaiser_bessel = exact or self.interpolation == "kaiser_bessel"
        return Oversampling(
            self.grid.box,
            side,
            self.grid.radius,
            self.oversampling,
            max(self.width, min(WIDTHS)) if kaiser_bessel else self.width,
            None if kaiser_bessel else triangle,
            self.real_dtype,
            self._unit,
            None if kaiser_bessel else (self.compat or "separable"),
            None if exact else self.mask,
        )

    def forward(self, volume: NDArray, rotations: ArrayLike, out: NDArray | None = None) -> NDArray:
        """Slice a half grid.

        Parameters
        ----------
        volume : ndarray, half grid of `grid`
        rotations : array_like, shape (n, 3, 3)
        out : ndarray, shape (n, samples), complex, optional
            Where to write the result; memory that is used again costs no time to get.

        Returns
        -------
        ndarray, shape (n, samples), complex
        """
        return self.slices(volume, layout.fixed_point_steps(orthonormal_rotations(rotations)), out)

    def slices(self, volume: NDArray, steps: NDArray, out: NDArray | None = None) -> NDArray:
        """Slice a half grid along fixed-point rows (n, 2, 3), see `forward`."""
        samples = self._out(out, (len(steps), self.samples), volume)
        self._sweep("forward", (self.flat(volume),), self._none, (samples,), steps)
        return samples

    def adjoint(
        self, samples: NDArray, rotations: ArrayLike, out: NDArray | None = None
    ) -> NDArray:
        """Back-project packed samples, the exact transpose of `forward` over the reals.

        Re <forward(V), s> over full discs equals Re <V, adjoint(s)> over the full grid.

        Parameters
        ----------
        samples : ndarray, shape (n, samples), complex
        rotations : array_like, shape (n, 3, 3)
        out : ndarray, half grid, optional
            Where to write the result.

        Returns
        -------
        ndarray, half grid
        """
        steps = layout.fixed_point_steps(orthonormal_rotations(rotations))
        if self.card is None or on_host(samples):
            samples = kernel_array(samples, self.dtype)
        if samples.shape != (len(steps), self.samples):
            raise InputError(
                f"samples: shape {(len(steps), self.samples)} needed, got {samples.shape}"
            )
        if samples.dtype != self.dtype:
            raise InputError(f"samples: {self.dtype} needed, got {samples.dtype}")
        out = self._out(out, self.grid.shape, samples)
        end = (out.reshape(out.size),)
        # The origin is its own mirror: what was added twice is taken off; other kernels halve it.
        told = self.card is None and self._fine is not None
        tables = (samples, self.origin) if told else (samples,)
        self._sweep("adjoint", self._none, end, tables, steps)
        if self.card is None and self._fine is None:
            out[0, self.grid.centre, self.grid.centre] -= samples[:, self.origin].sum().real
        return out

    def frequencies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return h and k of every packed sample."""
        return layout.disc_frequencies(self.grid.radius, self.reach)

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
        h, k = self.frequencies()
        return np.ascontiguousarray(transforms[:, k, h].astype(self.dtype, copy=False))

    def unpack(self, samples: NDArray) -> NDArray:
        """Fill full transforms (n, N, N) in numpy.fft order; zero outside the disc."""
        h, k = self.frequencies()
        full = np.zeros((len(samples), self.grid.box, self.grid.box), samples.dtype)
        full[:, -k, -h] = np.conj(samples)
        full[:, k, h] = samples
        return full

    def to_map(self, volume: NDArray) -> NDArray:
        """Transform a half grid whose slices fit the data to the map ``[z, y, x]`` that it shows.

        Interpolating between Fourier coefficients multiplies the map, before it is projected, by
        the transform of the window: sinc (nearest) or sinc^2 (trilinear) of x / N along each axis.
        The V that fits the data is therefore the transform of the map divided by that product,
        which is undone here: separably, as the window is. Oversampled operators do it before they
        interpolate, and V is the transform of the map itself, or of what the mask is to multiply.
        """
        shown = self.grid.to_real(volume)
        if self._fine is not None:
            return shown if self.mask is None else shown * self.mask
        for axis in np.ix_(*3 * [window_transform(self.interpolation, self.grid.box)]):
            shown *= axis.astype(self.real_dtype)
        return shown

    def normal(
        self,
        volume: NDArray,
        steps: NDArray,
        images: NDArray,
        weights: NDArray | StoredRows,
        data: NDArray | StoredRows,
        scale: float = 1.0,
        damping: NDArray | None = None,
        out: NDArray | None = None,
    ) -> tuple[NDArray, float, float, float]:
        """Return scale sum P^H (c P V - d) + lambda V, in one pass that stores no slice.

        Parameters
        ----------
        volume : ndarray, half grid
        steps : ndarray, shape (n, 2, 3) or (g, n, 2, 3), int64
            With symmetry: g views of every image, which are summed over as well.
        images : ndarray of int64
            Which of the n.
        weights : ndarray, shape (n, samples) or (1, samples)
            c, halved at the origin.
        data : ndarray, shape (n, samples) or (0, samples)
            d, halved at the origin; no rows stand for zeros.
        scale : float
        damping : ndarray, shape (1, 1, 1) or that of the half grid, optional
            lambda; none unless given.
        out : ndarray, half grid, optional
            Where to write the result; not the memory of `volume`.

        Returns
        -------
        total : ndarray, half grid
        square, mixed : float
            Sum of c |P V|^2 and of Re(conj(d) P V) over half discs.
        damped_norm : float
            Sum of lambda |V|^2 over the full grid.
        """
        out = self._out(out, self.grid.shape, volume)
        source, target = (self.flat(volume),), (out.reshape(out.size),)
        square, mixed, _, damped_norm = self._sweep(
            "gradient", source, target, (weights, data), steps, images, scale, damping
        )
        return out, square, mixed, damped_norm

    def normal_with_product(
        self,
        volume: NDArray,
        direction: NDArray,
        steps: NDArray,
        images: NDArray,
        weights: NDArray | StoredRows,
        data: NDArray | StoredRows,
        scale: float = 1.0,
        damping: NDArray | None = None,
        out: tuple[NDArray, NDArray] | None = None,
    ) -> tuple[NDArray, NDArray, float, float, float]:
        """Return what `normal` does and, from the same pass, that of a real z without data.

        Coordinates, window weights and data are read once for both; windows without vectors take
        two passes. `direction`: z(k) = z(-k), int8 or of this precision.

        Returns
        -------
        total, product : ndarray, half grid and real half grid
            The latter is scale Re sum P^H c P z + lambda z; without oversampling that is all of it.
        square, mixed, damped_norm : float
            As in `normal`.
        """
        first, second = (None, None) if out is None else out
        total = self._out(first, self.grid.shape, volume)
        product = self._out(second, self.grid.shape, volume, self.real_dtype)
        direction = self._real_direction(direction)
        if not self._pairs:
            none, last = np.empty((0, self.samples), self.dtype), (scale, damping)
            _, *sums = self.normal(volume, steps, images, weights, data, *last, total)
            probe = np.asarray(direction, self.dtype)
            product[...] = self.normal(probe, steps, images, weights, none, *last)[0].real
            return total, product, *sums
        source = self.flat(volume), direction.reshape(direction.size)
        target = total.reshape(total.size), product.reshape(product.size)
        square, mixed, _, damped_norm = self._sweep(
            "gradient", source, target, (weights, data), steps, images, scale, damping
        )
        return total, product, square, mixed, damped_norm

    def energy(
        self, volume: NDArray, steps: NDArray, images: NDArray, weights: NDArray, data: NDArray
    ) -> tuple[float, float]:
        """Return the sums of `normal` without its volume."""
        source, tables = (self.flat(volume),), (weights, data)
        return self._sweep("energy", source, self._none, tables, steps, images)[:2]

    def energies(
        self,
        volume: NDArray,
        direction: NDArray,
        steps: NDArray,
        images: NDArray,
        weights: NDArray | StoredRows,
        data: NDArray | StoredRows,
    ) -> tuple[float, float, float]:
        """Return sums from one pass over both volumes.

        Returns
        -------
        square, mixed, direction_square : float
            As in `normal`, and the sum of c |P direction|^2 over half discs.
        """
        if not self._pairs:
            none = np.empty((0, self.samples), self.dtype)
            other, _ = self.energy(direction, steps, images, weights, none)
            return *self.energy(volume, steps, images, weights, data), other
        source = (self.flat(volume), self.flat(direction))
        return self._sweep("energy", source, self._none, (weights, data), steps, images)[:3]

    def diagonal(self, steps: NDArray, images: NDArray, weights: NDArray, squared: bool) -> NDArray:
        """Sum c w^2 (squared) or c w over the samples of some images; a real half grid.

        Oversampled operators: diag sum P^H c P of exact slices (`fastcryo.toeplitz`), for both.
        There w is the sinc of the distance, whose squares sum to one over the grid like the w of
        other windows: w^2 serves as the gridding weight too, without H <= diag of it. With a mask
        the gridding weight is diag over the mean of m^2, which is what H does where m = 1.
        """
        if self._fine is not None:
            spread = toeplitz.point_spread(self, steps, images, weights)
            found = toeplitz.toeplitz_diagonal(self.grid, spread, self.mask)
            return found if squared else found / self.real_dtype.type(mask_power(self.mask))
        out = np.empty(self.grid.shape, self.real_dtype)
        name = "diagonal" if squared else "gridding"
        self._sweep(name, self._none, (out.reshape(-1),), (weights,), steps, images)
        return out

    def gridded(
        self, plan: Oversampling, steps: NDArray, images: NDArray, weights: NDArray | StoredRows
    ) -> NDArray:
        """Sum c w on the extended half volume of a plan of `oversampled`; real, on the host."""
        if self.card is not None:
            return self.card.gridding(plan, weights, steps, images)
        added = np.zeros(plan.shape, plan.real_dtype)
        plan.sweep("gridding", None, added, self.parts((weights,), steps, images), self.rows)
        return added

    def place(self, array: NDArray) -> Any:
        """Return an array where the kernels run: on the card, or as it is.

        `fastcryo.arrays.fetch` brings it back.
        """
        return array if self.card is None else self.card.place(array)

    def beside(self, constant: NDArray, volume: Any) -> Any:
        """Return an array that does not change where a volume lies; on the card it stays there."""
        return constant if on_host(volume) else self.card.tables.constant(constant)

    def flat(self, volume: Any) -> Any:
        """Return a half grid as the kernels take it: contiguous, flat, in this precision."""
        self.grid.check(volume)
        if on_host(volume):
            volume = kernel_array(volume, self.dtype)
        return volume.reshape(volume.size)

    def _real_direction(self, direction: Any) -> Any:
        """Return a real half grid that kernels take: of int8 or of this precision."""
        self.grid.check(direction)
        if np.dtype(direction.dtype).kind == "c":
            raise InputError("direction: real numbers are needed, use hvp for complex ones")
        kept = direction.dtype in (np.int8, self.real_dtype)
        direction = direction if kept else direction.astype(self.real_dtype)
        return kernel_array(direction) if on_host(direction) else direction

    def parts(
        self, tables: tuple[NDArray | StoredRows, ...], steps: NDArray, images: NDArray | None
    ) -> Iterator[tuple[tuple[NDArray, ...], NDArray, NDArray]]:
        """Cut a batch into what a kernel takes at a time: tables, images, steps of one view."""
        parts = [(tables, np.arange(len(steps)), steps)]
        if images is not None:
            parts = blocks(tables, images, steps, self.samples)
        for part, members, views in parts:
            for view in copies_of(views):
                yield part, members, view

    def _out(self, given: Any, shape: tuple, volume: Any = None, dtype: Any = None) -> Any:
        """Return the array that a result is written to: the given one, or one beside a volume."""
        dtype = self.dtype if dtype is None else dtype
        if given is None:
            there = volume is not None and not on_host(volume)
            return self.card.empty(shape, dtype) if there else np.empty(shape, dtype)
        unfit = on_host(given) and not (given.flags.c_contiguous and given.flags.writeable)
        if unfit or given.shape != shape or given.dtype != dtype:
            needed = f"a writable, contiguous array of {dtype}, shape {shape}"
            raise InputError(f"out: {needed}, is needed")
        return given

    def _sweep(
        self,
        name: str,
        source: tuple[NDArray, ...],
        target: tuple[NDArray, ...],
        tables: tuple[NDArray | StoredRows, ...],
        steps: NDArray,
        images: NDArray | None = None,
        scale: float = 1.0,
        damping: NDArray | None = None,
    ) -> tuple[float, float, float, float]:
        """Run a kernel on some images, block by block; returns its four sums.

        `images` None: the tables hold samples of the batch itself.
        """
        if self.card is not None:
            return self.card.sweep(name, source, target, tables, steps, images, scale, damping)
        copies = self.parts(tables, steps, images)
        if self._fine is not None:
            ends = (() if kind is self._none else kind for kind in (source, target))
            last = scale, damping, steps.ndim == 3
            return sweep_half_grids(self._fine, self.grid, name, *ends, copies, self.rows, *last)
        return self._tiled.sweep(name, source, target, copies, scale, damping)
