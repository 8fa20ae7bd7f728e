"""Sweeps over images on a graphics card: where half grids lie, and exact sums."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcryo.arrays import fetch, on_host
from fastcryo.backends import on_card, say_that_the_host_transforms
from fastcryo.card_fft import card_fft
from fastcryo.card_numbers import CardNumber, numbers, total_of_planes
from fastcryo.card_tables import STREAM_BYTES, CardTables
from fastcryo.card_transforms import CardTransforms
from fastcryo.card_volumes import CardVolume, kernels_of
from fastcryo.grid import FourierGrid
from fastcryo.kernels.cuda import slicing, vectors
from fastcryo.kernels.cuda._jit import THREADS, TILE, cuda, launch_shape
from fastcryo.oversampling import Oversampling
from fastcryo.rows import StoredRows, copies_of

# Half grids that a run keeps on the card: volume, gradient, product, direction, probe, average and,
# real, three of the preconditioner; and as many whole numbers of 64 bits as two of them for sums.
VOLUMES = 12
ADDING = ("adjoint", "gradient", "diagonal", "gridding")


@dataclass(eq=False)
class CudaSweeps:
    """The sweeps of one operator on the card, and what stays there between them.

    Attributes
    ----------
    interpolation : str
    grid : FourierGrid
    frequencies : tuple of ndarray
        h and k of every sample.
    unit : float
        Resolution of the weights, in the precision of the volume.
    exact : bool
        Sum whole numbers: the same bits in every run.
    plan : Oversampling or None
        The oversampled grid that slices are read from, if any.
    """

    interpolation: str
    grid: FourierGrid
    frequencies: tuple[NDArray[np.int64], NDArray[np.int64]]
    unit: Any
    exact: bool
    plan: Oversampling | None = None

    def __post_init__(self):
        places = np.stack(self.frequencies, axis=1)
        self.real = np.dtype(type(self.unit))
        self.complex = np.dtype(f"c{2 * self.real.itemsize}")
        with on_card(self.grid.box):
            self.places = cuda.to_device(np.ascontiguousarray(places, np.int16))
            self.no_damping = cuda.to_device(np.zeros((1, 1, 1), self.real))
            self.nothing = cuda.to_device(np.zeros(1, self.real))
            self.no_scale = cuda.to_device(np.ones(1))
            self.tables = CardTables(3 * self.real.itemsize * len(self.places), self.needs())
            self.target = (
                CardVolume.of_grid(self.interpolation, self.grid, self.real)
                if self.plan is None
                else CardVolume.of_plan(self.plan)
            )

    @cached_property
    def transforms(self) -> CardTransforms | None:
        """The transforms to and from the oversampled grid; None: on the host."""
        fft = card_fft()
        if fft is None:
            say_that_the_host_transforms()
            return None
        return CardTransforms.of(self.plan, self.grid, fft, self.place, self.empty)

    def needs(self) -> int:
        """Return the bytes of the card that a reconstruction takes, without its images."""
        voxels = VOLUMES * math.prod(self.grid.shape)
        if self.plan is not None:
            # Two to read, two to add to, and the two of a step of a transform, copied for its FFT.
            step = self.plan.fine * math.prod(self.plan.shape[:2])
            voxels += 4 * math.prod(self.plan.shape) + 4 * step
        return 2 * self.real.itemsize * voxels + 2 * STREAM_BYTES

    def too_small(self) -> str | None:
        """Say so, and what helps, if the card has too little memory left."""
        free, needed = cuda.current_context().get_memory_info().free, self.needs()
        if free >= needed:
            return None
        return (
            f"{needed / 2**30:.3g} GiB of the card's memory are needed for box {self.grid.box}, "
            f"{free / 2**30:.3g} GiB are free: close other programs that use it or crop the "
            "images (--box)"
        )

    def place(self, array: Any) -> Any:
        """Return an array on the card, as it is if it is there."""
        if not on_host(array):
            return array
        with on_card(self.grid.box):
            return cuda.to_device(np.ascontiguousarray(array))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array on the card, with any values."""
        with on_card(self.grid.box):
            return cuda.device_array(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of zeros on the card."""
        out = self.empty(shape, dtype)
        vectors.clear(out)
        return out

    def sweep(
        self,
        name: str,
        source: tuple[Any, ...],
        target: tuple[Any, ...],
        tables: tuple[NDArray | StoredRows, ...],
        steps: NDArray[np.int64],
        images: NDArray[np.int64] | None,
        scale: float = 1.0,
        damping: NDArray | None = None,
    ) -> tuple[float | CardNumber, ...]:
        """Run a kernel on some images; arguments and result as in `SliceOperator._sweep`.

        Sources and targets may lie on the host or on the card. The sums stay on the card, as
        numbers that are read when they are needed, if a half grid lies there. The second of a pair
        is real; the kernels have complex ones.
        """
        source = tuple(volume for volume in source if volume.size)
        target = tuple(volume for volume in target if volume.size)
        stay = any(not on_host(volume) for volume in (*source, *target))
        with on_card(self.grid.box):
            source = tuple(self.place(volume) for volume in source)
            dtypes = [out.dtype for out in target]
            if len(target) == 2:
                dtypes = 2 * [self.complex]
                probe = self.empty(source[1].shape, self.complex)
                vectors.complex_of(source[1], probe)
                source = source[0], probe
            there = tuple(map(self._summed_in, target, dtypes))
            if self.plan is None:
                read, added = source, there
            else:
                read = tuple(self._expand(volume) for volume in source)
                added = tuple(
                    self.empty((math.prod(self.plan.shape),), self.complex) for _ in there
                )
            sums = self.add_up(self.target, name, read, added, tables, steps, images)
            norm = self._finish(source, there, added, scale, damping)
            for given, out in zip(target, there, strict=True):
                self._hand_over(out, given)
            sums = (*sums, norm)
            return sums if stay else tuple(float(number) for number in sums)

    def _summed_in(self, out: Any, dtype: np.dtype) -> Any:
        """Return an array on the card for the sums that belong in another: that one if it can."""
        return self.empty(out.shape, dtype) if on_host(out) or out.dtype != dtype else out

    def _hand_over(self, found: Any, out: Any) -> None:
        """Copy sums to where they belong; only the real part if that is real."""
        if found.dtype != out.dtype:
            real = self._summed_in(out, out.dtype)
            vectors.real_part(found, real)
            found = real
        if found is not out:
            found.copy_to_host(out)

    def gridding(
        self,
        plan: Oversampling,
        weights: NDArray | StoredRows,
        steps: NDArray[np.int64],
        images: NDArray[np.int64],
    ) -> NDArray:
        """Return the sum of c w on the extended half volume of a plan of any side, on the host."""
        with on_card(self.grid.box):
            added = self.empty((math.prod(plan.shape),), self.real)
            volume = CardVolume.of_plan(plan)
            self.add_up(volume, "gridding", (), (added,), (weights,), steps, images)
            return added.copy_to_host().reshape(plan.shape)

    def _expand(self, flat: Any) -> Any:
        """Return the extended half volume of a flat half grid."""
        if self.transforms is not None:
            extended = self.transforms.expand(flat.reshape(*self.grid.shape))
        else:
            half = fetch(flat).reshape(self.grid.shape)
            extended = self.place(self.plan.expand(self.grid.to_real(half)))
        return extended.reshape(extended.size)

    def _contract(self, flat: Any, scale: float, out: Any) -> None:
        """Fill a half grid with scale times the transpose of `_expand`."""
        extended, factor = flat.reshape(*self.plan.shape), scale / self.grid.box**3
        if self.transforms is not None:
            self.transforms.contract(extended, factor, out)
            return
        half = self.grid.from_real(self.plan.contract(fetch(extended)), self.complex)
        half *= self.real.type(factor)
        out.copy_to_device(half)

    def _finish(self, source, target, added, scale, damping) -> float | CardNumber:
        """Make scale sums over full discs + lambda V of sums over half ones; sums lambda |V|^2."""
        norm, factor = 0.0, scale if self.plan is None else 1.0
        for number, flat in enumerate(target):
            out = flat.reshape(*self.grid.shape)
            if self.plan is None:
                vectors.add_mirror_of(out)
            else:
                self._contract(added[number], scale, out)
            if len(source) == len(target):
                lam = self.no_damping if damping is None else self.tables.constant(damping)
                volume = source[number].reshape(*self.grid.shape)
                by_plane = vectors.finish_sum(out, volume, self.real.type(factor), lam)
                if number == 0:
                    norm = total_of_planes(by_plane, self.grid.plane_multiplicity)
        return norm

    def add_up(
        self,
        volume: CardVolume,
        name: str,
        source: tuple[Any, ...],
        target: tuple[Any, ...],
        tables: tuple[NDArray | StoredRows, ...],
        steps: NDArray[np.int64],
        images: NDArray[np.int64] | None,
    ) -> list[CardNumber]:
        """Fill flat targets on the card with the sums of a kernel; returns three sums."""
        views = [volume.steps(view) for view in copies_of(steps)]
        lasting = images is not None
        lines = images if lasting else np.arange(len(views[0]))
        sums = tuple(_real_view(out) for out in target), (self.no_scale, self.no_scale)
        exact = self.exact and name in ADDING
        for out in sums[0]:
            vectors.clear(out)
        if exact:
            scales = self._scales(volume, name, source, tables, len(lines) * len(views), lasting)
            sums = tuple(self.zeros((out.size,), np.int64) for out in sums[0]), scales
        kernels = kernels_of(volume.window, self.real, exact)
        source = tuple(_real_view(array) for array in source)
        found, streamed = [], False
        parts = self.tables.parts(tables, lines, lasting, name != "forward")
        for part, rows, members, stream in parts:
            streamed = streamed or stream in self.tables.streams
            for view in views:
                launch = kernels, name, volume, source, sums, part, rows, view[members], stream
                found += self._launch(*launch)
            if name == "forward" and on_host(tables[0]):
                part[0].copy_to_host(tables[0][members[0] : members[-1] + 1], stream=stream)
                stream.synchronize()
        places, total = numbers(3)
        if streamed:
            cuda.synchronize()
        by_launch = self.zeros((max(1, len(found)), 3), np.float64)
        for row, partials in enumerate(found):
            slicing.add_columns[1, THREADS](partials, by_launch[row : row + 1])
        slicing.add_columns[1, THREADS](by_launch, places.reshape(1, 3))
        if exact:
            for whole, scale, out in zip(*sums, target, strict=False):
                vectors.from_exact(whole, scale, _real_view(out))
        return total

    def _launch(self, kernels, name, volume, source, sums, tables, lines, steps, stream):
        """Launch one kernel for the images of one part; returns its sums by block, on the card."""
        shape = launch_shape(len(self.places), len(steps), TILE)
        common = cuda.to_device(np.ascontiguousarray(steps), stream), self.places
        common = (*common, *volume.places, volume.coefficients, self.unit)
        targets, scales = sums
        pair = len(source) == 2 or len(targets) == 2
        kernel = getattr(kernels, name + "_pair" if pair else name)[shape, THREADS, stream]
        if name == "forward":
            kernel(source[0], tables[0], *common)
            return []
        if name == "adjoint":
            kernel(tables[0], targets[0], scales[0], *common)
            return []
        lines = cuda.to_device(lines, stream)
        if name in ("diagonal", "gridding"):
            kernel(targets[0], tables[0], lines, scales[0], *common)
            return []
        if not targets:
            targets = (self.nothing,)
        partials = cuda.device_array((shape[0] * shape[1], 3), np.float64)
        kernel(
            source[0],
            source[-1],
            targets[0],
            targets[-1],
            *tables,
            lines,
            scales[0],
            scales[-1],
            partials,
            *common,
        )
        return [partials]

    def _scales(self, volume, name, source, tables, terms, lasting) -> tuple[Any, Any]:
        """Return what makes whole numbers of the terms of each target, from bounds of its sums."""
        factor = volume.crowding * terms
        if not on_host(tables[0]) and not lasting:
            scales = vectors.scale_for(tables[0], factor, 0.0)
            return scales, scales
        most = [self.tables.largest(table, lasting) for table in tables]
        if name != "gradient":
            scales = vectors.scale_for(self.nothing, 0.0, factor * most[0])
            return scales, scales
        gain = factor * most[0] * volume.gain
        found = [
            vectors.scale_for(array, gain, factor * (most[1] if number == 0 else 0.0))
            for number, array in enumerate(source)
        ]
        return found[0], found[-1]


def _real_view(array: Any) -> Any:
    """Return the numbers of a flat array, real and imaginary parts in turn."""
    real = np.zeros(0, array.dtype).real.dtype
    return array if array.dtype == real else array.view(real)
