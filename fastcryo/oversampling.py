"""From volumes to an oversampled Fourier grid and back, for windows that are wider than two cells.

A slice is read from the M^3 Fourier grid of the map, M = s N, by a window phi of W taps. The map
has been divided by the transform of phi along each axis before (deapodisation), so that

    (P V)(p) = sum_k phi(p M / N - k) U(k),   U(k) = sum_x v(x) / (D(x) D(y) D(z)) e^(-2 pi i k x/M)

is the transform of the map at p up to the window's aliases: P = G F Z D^-1 F^-1, a product of
exact transposes from the right to the left for the adjoint.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import DTypeLike, NDArray

from fastcryo.grid import FourierGrid
from fastcryo.half_transforms import HalfTransforms, can_transform, plane_size
from fastcryo.kernels import wide
from fastcryo.kernels.cpu import vectors, wide_rows, wide_slicing
from fastcryo.threads import run, scratch, thread_count

# Places within a cell over which the discrete transform of a window is averaged.
PLACES = 64
# Planes of the oversampled grid that are transformed at a time by one thread.
PLANES = 4


def beatty_shape(width: int, oversampling: float) -> float:
    """Return beta = pi sqrt(W^2/s^2 (s - 1/2)^2 - 0.8), the shape of a Kaiser-Bessel window.

    References
    ----------
    Beatty, Nishimura & Pauly, IEEE Trans. Med. Imaging 24 (2005) 799.
    """
    s = oversampling
    return float(np.pi * np.sqrt((width / s * (s - 0.5)) ** 2 - 0.8))


def kaiser_bessel(width: int, oversampling: float) -> Callable[[NDArray], NDArray]:
    """Return phi(t) = I0(beta sqrt(1 - (2 t / W)^2)) / I0(beta), t in cells."""
    beta = beatty_shape(width, oversampling)

    def window(t: NDArray) -> NDArray:
        inside = np.sqrt(np.maximum(1 - (2 * t / width) ** 2, 0))
        return scipy.special.i0(beta * inside) / scipy.special.i0(beta)

    return window


def triangle(t: NDArray) -> NDArray:
    """Trilinear interpolation: phi(t) = 1 - |t|."""
    return 1 - np.abs(t)


class Oversampling:
    """The way from a real box to samples of its transform, and its exact transpose.

    Parameters
    ----------
    box : int
        N: positions are in cycles per so many voxels.
    side : int
        Side of the real-space box, x from -(side // 2): N for maps.
    radius : int
        R of the samples.
    oversampling : float
        M = oversampling side, to the next even length that FFTs like.
    window : callable or None
        phi(t) of the cells' distance; None: Kaiser-Bessel by Beatty's rule.
    width : int
        W.
    real_dtype : dtype
        float32 or float64.
    unit : float
        Of the kernels, see `fastcryo.kernels.layout`.
    correction : {None, "separable", "relion"}
        What the map is divided by: the discrete transform of the window along each axis; for the
        triangle sinc^2(x / M) along each axis or, as RELION does, sinc^2(|x| / M).
    mask : ndarray, shape (side, side, side), or None
        m: the map is multiplied by it first, so that P is P M.
    """

    def __init__(
        self,
        box: int,
        side: int,
        radius: int,
        oversampling: float,
        width: int,
        window: Callable[[NDArray], NDArray] | None,
        real_dtype: np.dtype,
        unit: float,
        correction: str | None = None,
        mask: NDArray | None = None,
    ):
        self.box, self.side, self.width = box, side, width
        self.real_dtype = np.dtype(real_dtype)
        self.dtype = np.dtype(f"c{2 * self.real_dtype.itemsize}")
        fine = scipy.fft.next_fast_len(int(np.ceil(oversampling * side)))
        while fine % 2:
            fine = scipy.fft.next_fast_len(fine + 1)
        self.fine = fine
        self.unit = unit
        self.form, self.mask = correction, mask
        self.bound = wide.base_radius(radius, box, fine)
        self.shape = wide.extended_shape(self.bound, width)
        self.low = wide.lowest_tap(width)
        self.widths = wide.extended_widths(radius * fine / box, self.bound, width)
        self.tiles, self.neighbours = wide.wide_tiles(self.widths, self.bound, width)
        if window is None:
            window = kaiser_bessel(width, fine / side)
        self.kernel = wide_rows.fit_kernel(window, width, self.real_dtype)
        self.taps = (0,) * width
        # Volumes are used again: one Python thread has them at a time.
        self.lock = threading.Lock()

    @cached_property
    def transform(self) -> NDArray[np.float64]:
        """D(x): the discrete transform of the window as it is evaluated, mean over its places."""
        exact = self.kernel.astype(np.float64)
        x = np.arange(self.side) - self.side // 2
        total = np.zeros(self.side)
        for u in (np.arange(PLACES) + 0.5) / PLACES - 0.5:
            weights = np.polynomial.polynomial.polyval(u, exact)[: self.width]
            distance = u + (self.width - 1) / 2 - np.arange(self.width)
            total += np.cos(2 * np.pi * np.outer(x, distance) / self.fine) @ weights
        return total / PLACES

    @cached_property
    def correction(self) -> tuple[NDArray, ...]:
        """Factors of a real box, one after the other: m if given, 1 / D along z, y and x."""
        masked = () if self.mask is None else (self.mask,)
        x = (np.arange(self.side) - self.side // 2) / self.fine
        if self.form == "relion":
            z, y, x = np.ix_(x, x, x)
            radial = np.sinc(np.sqrt(z**2 + y**2 + x**2)) ** 2
            return (*masked, (1 / radial).astype(self.real_dtype))
        divisor = self.transform if self.form is None else np.sinc(x) ** 2
        return (*masked, *np.ix_(*(3 * [(1 / divisor).astype(self.real_dtype)])))

    @cached_property
    def volume(self) -> NDArray:
        """The extended half volume that is read, and replaced by sums; its memory is used again."""
        return np.zeros(self.shape, self.dtype)

    @cached_property
    def second(self) -> NDArray:
        """Another one, for sums where the first is still to be read."""
        return np.zeros(self.shape, self.dtype)

    @cached_property
    def room(self) -> NDArray:
        """Memory of `planes` and, while images are processed, of the halos of tiles."""
        return np.zeros(max(self._plane_numbers(), 2 * self._halo_cells), self.real_dtype)

    def _plane_numbers(self) -> int:
        return (self.fine // 2 + 1) * plane_size(self.side, self.real_dtype)

    @cached_property
    def _halo_cells(self) -> int:
        slots = wide.halo_slots(self.tiles, self.width - 1)[2]
        return len(self.tiles) * slots * self.shape[2]

    @property
    def planes(self) -> NDArray:
        """What is between two passes of the transforms, by kz."""
        return self.room[: self._plane_numbers()].reshape(self.fine // 2 + 1, -1)

    @property
    def half(self) -> NDArray:
        """Half the transform along z of a real box, while it is on its way."""
        lines = self.planes[:, : 2 * self.side**2].view(self.dtype)
        return lines.reshape(-1, self.side, self.side)

    @cached_property
    def passes(self) -> HalfTransforms | None:
        """The way from half grids to E without a real box; None: not for these lengths."""
        return HalfTransforms.of(self) if can_transform(self) else None

    def memory(self, dtype: DTypeLike) -> int:
        """Return the bytes of one extended half volume and of what transforms take beside it.

        A real box is the weights of a mask, or the map on its way where `passes` is None.
        """
        room = max(self._plane_numbers(), 2 * self._halo_cells) + self.side**3
        return int(np.prod(self.shape)) * np.dtype(dtype).itemsize + room * self.real_dtype.itemsize

    def chunks(self) -> list[tuple[int, int, int]]:
        """Return planes z0 to z1 of E and the largest |y| of their rows, for one thread each."""
        stops = range(PLANES, self.shape[0] + PLANES, PLANES)
        centre = self.bound + self.low
        found = []
        for stop in stops:
            z0, z1 = stop - PLANES, min(stop, self.shape[0])
            rows = np.flatnonzero((self.widths[z0:z1] >= 0).any(axis=0))
            if len(rows):
                found.append((z0, z1, int(np.abs(rows - centre).max())))
        return found

    def corrected(self, part: NDArray, rows: slice) -> NDArray:
        """Return rows of a real box times the mask and the inverse of the window's transform."""
        for factor in self.correction:
            part = part * (factor[:, rows] if factor.shape[1] > 1 else factor)
        return part

    def row_chunks(self) -> list[slice]:
        """Return rows of a real box, for one thread each."""
        return [slice(y, y + PLANES) for y in range(0, self.side, PLANES)]

    def rows_of(self, reach: int) -> slice:
        """Return the rows |y| <= reach of E."""
        centre = self.bound + self.low
        return slice(max(centre - reach, 0), min(centre + reach + 1, self.shape[1]))

    def expand(self, volume: NDArray) -> NDArray:
        """Transform a real box (side, side, side) to E; returns `volume`."""
        side, fine, back = self.side, self.fine, self.side // 2
        planes = self.half

        def along_z(rows: slice) -> None:
            part = self.corrected(volume[:, rows], rows)
            wrapped = scratch("lines", (fine, *part.shape[1:]), self.real_dtype)
            wrapped[: side - back] = part[back:]
            wrapped[side - back : fine - back] = 0
            wrapped[fine - back :] = part[:back]
            planes[:, rows] = scipy.fft.rfft(wrapped, axis=0, overwrite_x=True)

        run(along_z, self.row_chunks())

        def work(chunk: tuple[int, int, int]) -> None:
            z0, z1, reach = chunk
            columns = scratch("columns", (z1 - z0, fine, side), self.dtype)
            for z, plane in enumerate(columns, z0 - self.low):
                here = planes[fine - z if 2 * z > fine else abs(z)]
                # Planes z < 0 and those beyond M / 2 are conjugate.
                copy = np.conjugate if z < 0 or 2 * z > fine else np.positive
                copy(here[back:], out=plane[: side - back])
                plane[side - back : fine - back] = 0
                copy(here[:back], out=plane[fine - back :])
            columns = scipy.fft.fft(columns, axis=1, overwrite_x=True)
            rows, first = self.rows_of(reach), self.bound + self.low
            low = first - rows.start
            lines = scratch("lines", (z1 - z0, rows.stop - rows.start, fine), self.dtype)
            # Rows y < 0, which wrap, and the others.
            for there, source in (
                (lines[:, :low], columns[:, fine - low :]),
                (lines[:, low:], columns[:, : rows.stop - first]),
            ):
                there[:, :, : side - back] = source[:, :, back:]
                there[:, :, side - back : fine - back] = 0
                there[:, :, fine - back :] = source[:, :, :back]
            lines = scipy.fft.fft(lines, axis=2, overwrite_x=True)
            self.volume[z0:z1, rows, :first] = lines[:, :, fine - first :]
            self.volume[z0:z1, rows, first:] = lines[:, :, : self.shape[2] - first]

        run(work, self.chunks())
        return self.volume

    def contract(self, extended: NDArray) -> NDArray:
        """Return the real box (side, side, side) of `expand`'s transpose: twice the real part.

        E holds the samples of half discs; the other halves are their mirrors.
        """
        side, fine, back = self.side, self.fine, self.side // 2
        half = self.half
        # Planes that no row of E reaches.
        half[self.chunks()[-1][1] - self.low :] = 0
        # Planes z < 0 and those beyond M / 2 are added to their mirrors at last.
        mirrored = {}

        def work(chunk: tuple[int, int, int]) -> None:
            z0, z1, reach = chunk
            rows, first = self.rows_of(reach), self.bound + self.low
            lines = scratch("lines", (z1 - z0, rows.stop - rows.start, fine), self.dtype)
            lines[:, :, : self.shape[2] - first] = extended[z0:z1, rows, first:]
            lines[:, :, self.shape[2] - first :] = 0
            lines[:, :, fine - first :] += extended[z0:z1, rows, :first]
            lines = scipy.fft.ifft(lines, axis=2, norm="forward", overwrite_x=True)
            columns = scratch("columns", (z1 - z0, fine, side), self.dtype)
            columns[...] = 0
            low = first - rows.start
            # Rows y < 0, which wrap, and the others.
            for there, source in (
                (columns[:, fine - low :], lines[:, :low]),
                (columns[:, : rows.stop - first], lines[:, low:]),
            ):
                there[:, :, back:] += source[:, :, : side - back]
                there[:, :, :back] += source[:, :, fine - back :]
            columns = scipy.fft.ifft(columns, axis=1, norm="forward", overwrite_x=True)
            for z, plane in enumerate(columns, z0 - self.low):
                if 0 <= 2 * z <= fine:
                    there = half[z]
                else:
                    there = mirrored[z] = np.empty_like(half[0])
                there[back:] = plane[: side - back]
                there[:back] = plane[fine - back :]

        run(work, self.chunks())
        for z in (0, fine // 2) if fine % 2 == 0 else (0,):
            half[z] = 2 * half[z].real
        for z in sorted(mirrored):
            half[-z if z < 0 else fine - z] += np.conj(mirrored[z])
        mirrored.clear()
        out = np.empty((side, side, side), self.real_dtype)

        def along_z(rows: slice) -> None:
            full = scipy.fft.irfft(half[:, rows], fine, axis=0, norm="forward")
            part = np.concatenate([full[fine - back :], full[: side - back]])
            out[:, rows] = self.corrected(part, rows)

        run(along_z, self.row_chunks())
        return out

    def expand_half(self, grid: FourierGrid, half: NDArray) -> NDArray:
        """Transform a half grid of the side to E; returns `volume`."""
        if self.passes is None:
            return self.expand(grid.to_real(half))
        self.passes.expand(half, self.planes, self.volume)
        return self.volume

    def contract_half(
        self, grid: FourierGrid, extended: NDArray, factor: float, out: NDArray, fresh: bool = True
    ) -> None:
        """Write, or add if not fresh, N^3 factor times `expand_half`'s transpose to a half grid."""
        if self.passes is None:
            found = grid.from_real(self.contract(extended), self.dtype)
            np.add(0 if fresh else out, factor * found, out=out)
        else:
            self.passes.contract(extended, self.planes, factor, out, fresh)

    def sweep(
        self,
        name: str,
        source: NDArray | None,
        target: NDArray | None,
        parts: Iterable[tuple[tuple[NDArray, ...], NDArray, NDArray]],
        rows: NDArray,
    ) -> tuple[float, float]:
        """Run a kernel of `fastcryo.kernels.cpu.wide_slicing` on blocks of images.

        Parameters
        ----------
        name : str
            Of the kernel.
        source, target : ndarray of `shape`, or None
        parts : iterable of (tables, images, steps)
            Steps as for the grid of side N.
        rows : ndarray
            The packed samples.

        Returns
        -------
        Two sums.
        """
        none = np.empty(0, self.dtype if target is None else target.dtype)
        halos = none
        if target is not None:
            halos = self.room.view(target.dtype)[: self._halo_cells]
        total, fresh = np.zeros(2), True
        for tables, members, views in parts:
            sums = np.zeros((len(self.tiles), 2))
            getattr(wide_slicing, name)(
                none if source is None else source.reshape(-1),
                none if target is None else target.reshape(-1),
                halos,
                tables,
                members,
                wide.oversampled_steps(views, self.box, self.fine),
                rows,
                self.tiles,
                self.neighbours,
                self.widths,
                self.bound,
                wide.window_offset(self.width),
                wide_rows.packed(self.kernel, self.width),
                self.taps,
                self.unit,
                thread_count(),
                fresh,
                sums,
            )
            total += sums.sum(axis=0)
            fresh = False
        return tuple(total.tolist())


def sweep_half_grids(
    plan: Oversampling,
    grid: FourierGrid,
    name: str,
    sources: tuple[NDArray, ...],
    targets: tuple[NDArray, ...],
    parts: Iterable[tuple[tuple[NDArray, ...], NDArray, NDArray]],
    rows: NDArray,
    scale: float,
    damping: NDArray | None,
    in_place: bool,
) -> tuple[float, float, float, float]:
    """Do what the sweep of `fastcryo.kernels.cpu.slicing` does for flat half grids.

    `in_place`: a gradient has one extended half volume, which is made anew for every block of
    images. That takes little beside the block, but much where it is one view of few images.

    Returns
    -------
    The sums of the first source, 0, and that of lambda |V|^2 over the full grid.
    """
    source = sources[0].reshape(grid.shape) if sources else None
    out = targets[0].reshape(grid.shape) if targets else None
    factor = plan.real_dtype.type(scale / grid.box**3)
    with plan.lock:
        if out is None:
            return *plan.sweep(name, plan.expand_half(grid, source), None, parts, rows), 0.0, 0.0
        if source is None:
            square, mixed = plan.sweep(name, None, plan.volume, parts, rows)
            plan.contract_half(grid, plan.volume, factor, out)
        elif in_place:
            square, mixed, fresh = 0.0, 0.0, True
            for part in parts:
                extended = plan.expand_half(grid, source)
                sums = plan.sweep(name, extended, extended, [part], rows)
                square, mixed = square + sums[0], mixed + sums[1]
                plan.contract_half(grid, extended, factor, out, fresh)
                fresh = False
        else:
            square, mixed = plan.sweep(
                name, plan.expand_half(grid, source), plan.second, parts, rows
            )
            plan.contract_half(grid, plan.second, factor, out)
    if damping is None or source is None:
        return square, mixed, 0.0, 0.0
    norms = vectors.finish_sum(out, source, plan.real_dtype.type(1), damping)
    return square, mixed, 0.0, float(norms @ grid.plane_multiplicity)
