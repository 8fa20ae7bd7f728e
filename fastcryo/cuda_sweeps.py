"""Sweeps over images on a graphics card: where arrays lie, what is sent when, and exact sums."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcryo.arrays import on_host
from fastcryo.backends import on_card
from fastcryo.grid import FourierGrid
from fastcryo.kernels.cpu import windows
from fastcryo.kernels.cuda import slicing, vectors
from fastcryo.kernels.cuda._jit import THREADS, cuda, launch_shape
from fastcryo.rows import StoredRows, copies_of

WINDOWS = {"nearest": windows.NEAREST, "trilinear": windows.TRILINEAR_PLAIN}
# One of the two pinned buffers that images pass through when they do not stay on the card: 128 MiB
# take 5 ms on a PCIe 4 bus at 25 GB/s, a thousand times what it costs to start a copy.
STREAM_BYTES = 128 * 2**20
SAMPLE_BYTES = 12
# Half grids that a run keeps on the card: volume, gradient, product, direction, probe, average and,
# real, three of the preconditioner; and as many whole numbers of 64 bits as two of them for sums.
VOLUMES = 12
# The samples of one image add less than this times their largest value to a voxel: the unit lattice
# of a plane has at most 12 points in the cube of side 2 about it, and weights are at most 1. Twice
# as much and more is for images that are magnified by less than 1.
CROWDING = 32
EXACT_BITS = 62

ADDING = ("adjoint", "gradient", "diagonal", "gridding")

_kernels: dict[tuple[str, bool], Any] = {}


def kernels_of(interpolation: str, exact: bool) -> Any:
    """Return the kernels of a window, made once."""
    key = interpolation, exact
    if key not in _kernels:
        _kernels[key] = slicing.make_kernels(WINDOWS[interpolation], exact)
    return _kernels[key]


def exact_scale(bound: float) -> float:
    """Return the power of two that turns sums of at most `bound` into whole numbers below 2^62.

    Of a sum whose bound is B, 2^-61 B is still seen; single precision sees 2^-24 of the sum itself.
    An infinite or NaN bound gives 0.
    """
    if not math.isfinite(bound):
        return 0.0
    return 2.0 ** (EXACT_BITS - math.frexp(bound)[1]) if bound > 0 else 1.0


@dataclass(eq=False)
class CudaSweeps:
    """The sweeps of one operator on the card, and what stays there between them.

    Attributes
    ----------
    interpolation : {"nearest", "trilinear"}
    grid : FourierGrid
    frequencies : tuple of ndarray
        h and k of every sample.
    unit : float
        Resolution of the weights, in the precision of the volume.
    exact : bool
        Sum whole numbers: the same bits in every run.
    """

    interpolation: str
    grid: FourierGrid
    frequencies: tuple[NDArray[np.int64], NDArray[np.int64]]
    unit: Any
    exact: bool
    _kept: dict[int, tuple[weakref.ref, Any]] = field(default_factory=dict, repr=False)
    _largest: dict[int, tuple[weakref.ref, float]] = field(default_factory=dict, repr=False)
    _buffers: dict[tuple, tuple[NDArray, Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        places = np.stack(self.frequencies, axis=1)
        self.places = cuda.to_device(np.ascontiguousarray(places, np.int16))
        self.real = np.dtype(type(self.unit))
        self.no_damping = cuda.to_device(np.zeros((1, 1, 1), self.real))
        self.nothing = cuda.to_device(np.zeros((1, 2), self.real))
        self.streams = cuda.stream(), cuda.stream()

    def needs(self) -> int:
        """Return the bytes of the card that a reconstruction takes, without its images."""
        voxels = math.prod(self.grid.shape)
        return VOLUMES * 2 * self.real.itemsize * voxels + 2 * STREAM_BYTES

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

    def constant(self, array: NDArray) -> Any:
        """Return an array on the card that stays there as long as the one given, never changed."""
        found = self._kept.get(id(array))
        if found is None or found[0]() is not array:
            found = self._remember(self._kept, array, self.place(array))
        return found[1]

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
    ) -> tuple[float, float, float, float]:
        """Run a kernel on some images; arguments and result as in `SliceOperator._sweep`.

        Sources and targets may lie on the host or on the card.
        """
        with on_card(self.grid.box):
            source = tuple(self.place(volume) for volume in source)
            there = tuple(
                self.zeros(out.shape, out.dtype) if on_host(out) else out for out in target
            )
            for given, out in zip(target, there, strict=True):
                if given is out:
                    vectors.clear(out)
            sums = self._add_up(name, source, there, tables, steps, images)
            norm = self._finish(source, there, scale, damping) if name in ADDING else 0.0
            for given, out in zip(target, there, strict=True):
                if given is not out:
                    out.copy_to_host(given)
        return *sums, norm

    def _finish(self, source, target, scale, damping):
        """Make scale sums over full discs + lambda V of sums over half ones; sums lambda |V|^2."""
        norm = 0.0
        for number, flat in enumerate(target):
            out = flat.reshape(*self.grid.shape)
            vectors.add_mirror_of(out)
            if len(source) == len(target) and source[number].size:
                lam = self.no_damping if damping is None else self.constant(damping)
                volume = source[number].reshape(*self.grid.shape)
                by_plane = vectors.finish_sum(out, volume, self.real.type(scale), lam)
                norm += float(by_plane @ self.grid.plane_multiplicity) if number == 0 else 0.0
        return norm

    def _add_up(self, name, source, target, tables, steps, images):
        """Add to targets on the card; returns three sums."""
        views = copies_of(steps)
        lasting = images is not None
        lines = images if lasting else np.arange(len(steps))
        sums = target, (1.0, 1.0)
        exact = self.exact and name in ADDING
        if exact:
            scales = self._scales(name, source, tables, len(lines) * len(views), lasting)
            # Sums that are not finite are NaN in any order.
            exact = all(scale > 0 for scale in scales)
        if exact:
            size = [2 * out.size if out.dtype.kind == "c" else out.size for out in target]
            sums = tuple(self.zeros((length,), np.int64) for length in size), scales
        kernels = kernels_of(self.interpolation, exact)
        found = []
        for part, rows, members, stream in self._parts(tables, lines, lasting, name != "forward"):
            for view in views:
                found.append(
                    self._launch(kernels, name, source, sums, part, rows, view[members], stream)
                )
            if name == "forward":
                slices = part[0].copy_to_host(stream=stream)
                stream.synchronize()
                tables[0][members] = slices
        cuda.synchronize()
        if exact:
            for whole, scale, out in zip(*sums, target, strict=False):
                vectors.from_exact(whole, 1 / scale, _real_view(out))
        total = np.zeros(3)
        for numbers in found:
            if numbers is not None:
                total += numbers.copy_to_host()
        return total.tolist()

    def _launch(self, kernels, name, source, sums, tables, lines, steps, stream):
        """Launch one kernel for the images of one part; returns its sums, still on the card."""
        shape = launch_shape(len(self.places), len(steps))
        common = cuda.to_device(np.ascontiguousarray(steps), stream), self.places
        common = (*common, self.grid.box, self.unit)
        targets, scales = sums
        pair = len(source) == 2 or len(targets) == 2
        kernel = getattr(kernels, name + "_pair" if pair else name)[shape, THREADS, stream]
        if name == "forward":
            kernel(source[0], tables[0], *common)
            return None
        if name == "adjoint":
            kernel(tables[0], _pairs(targets[0]), scales[0], *common)
            return None
        lines = cuda.to_device(lines, stream)
        if name in ("diagonal", "gridding"):
            target = targets[0].reshape(targets[0].size, 1)
            kernel(target, tables[0], lines, scales[0], *common)
            return None
        adding = name == "gradient"
        partials = cuda.device_array((shape[0] * shape[1], 3), np.float64)
        kernel(
            source[0],
            source[-1],
            _pairs(targets[0]) if adding else self.nothing,
            _pairs(targets[-1]) if adding else self.nothing,
            *tables,
            lines,
            scales[0],
            scales[-1],
            partials,
            *common,
        )
        numbers = cuda.device_array((1, 3), np.float64)
        slicing.add_columns[1, THREADS, stream](partials, numbers)
        return numbers.reshape(3)

    def _parts(self, tables, lines, lasting, filled) -> Iterator[tuple]:
        """Yield (tables on the card, rows in them, places in the batch, stream), part by part.

        One part where the tables stay on the card. Otherwise two pinned buffers take turns, each
        with a stream of its own: one is filled and sent while the card works on the other.
        """
        everything = np.arange(len(lines))
        if lasting:
            kept = [self._stay(table) for table in tables]
            if all(table is not None for table in kept):
                yield tuple(kept), lines, lines, 0
                return
        length = max(1, STREAM_BYTES // (SAMPLE_BYTES * len(self.places)))
        length = min(length, len(lines))
        cuda.synchronize()
        for number, start in enumerate(range(0, len(lines), length)):
            chosen = lines[start : start + length]
            stream = self.streams[number % 2]
            stream.synchronize()
            part = []
            for place, table in enumerate(tables):
                if len(table) <= 1 and lasting:
                    part.append(self._stay(table))
                    continue
                pinned, there = self._buffer(
                    (number % 2, place), (length, table.shape[1]), table.dtype
                )
                there = there[: len(chosen)]
                if filled:
                    pinned[: len(chosen)] = table[chosen]
                    there.copy_to_device(pinned[: len(chosen)], stream)
                part.append(there)
            yield tuple(part), everything[: len(chosen)], chosen, stream

    def _buffer(self, use: tuple, shape: tuple[int, int], dtype: np.dtype) -> tuple[NDArray, Any]:
        """Return a pinned buffer and one on the card, the same ones for the same use."""
        key = (*use, shape, np.dtype(dtype).str)
        if key not in self._buffers:
            self._buffers[key] = cuda.pinned_array(shape, dtype), cuda.device_array(shape, dtype)
        return self._buffers[key]

    def _stay(self, table: NDArray | StoredRows) -> Any:
        """Return a table on the card, sent there when first used; None where it does not fit."""
        found = self._kept.get(id(table))
        if found is not None and found[0]() is table:
            return found[1]
        size = table.dtype.itemsize * int(np.prod(table.shape))
        free = cuda.current_context().get_memory_info().free
        if size > free - self.needs() and len(table) > 1:
            return self._remember(self._kept, table, None)[1]
        out = cuda.device_array(table.shape, table.dtype)
        length = max(1, STREAM_BYTES // (table.dtype.itemsize * max(1, table.shape[1])))
        for start in range(0, len(table), length):
            rows = table[np.arange(start, min(start + length, len(table)))]
            out[start : start + len(rows)].copy_to_device(rows)
        return self._remember(self._kept, table, out)[1]

    def _remember(self, memory: dict, array: Any, value: Any) -> tuple[weakref.ref, Any]:
        """Keep something about an array as long as the array lives."""
        key = id(array)
        memory[key] = weakref.ref(array, lambda _: memory.pop(key, None)), value
        return memory[key]

    def _scales(self, name, source, tables, terms, lasting):
        """Return what makes whole numbers of the terms of each target, from bounds of its sums.

        A slice is at most as large as the largest voxel, as the weights of a window sum to 1.
        """
        most = [self._largest_of(table, lasting) for table in tables]
        if name == "gradient":
            peaks = [vectors.largest(volume) for volume in source]
            bounds = [most[0] * peak for peak in peaks]
            bounds[0] += most[1]
        else:
            bounds = most[:1]
        return tuple(exact_scale(CROWDING * terms * bound) for bound in bounds)

    def _largest_of(self, table: NDArray | StoredRows, lasting: bool) -> float:
        found = self._largest.get(id(table))
        if found is not None and found[0]() is table:
            return found[1]
        length = max(1, STREAM_BYTES // (table.dtype.itemsize * max(1, table.shape[1])))
        value = 0.0
        for start in range(0, len(table), length):
            rows = table[np.arange(start, min(start + length, len(table)))]
            peak = float(np.abs(rows).max(initial=0))
            value = max(value, peak) if math.isfinite(peak) else math.inf
        if lasting:
            self._remember(self._largest, table, value)
        return value


def _real_view(array: Any) -> Any:
    """Return the numbers of a flat array, real and imaginary parts in turn."""
    real = np.zeros(0, array.dtype).real.dtype
    return array if array.dtype == real else array.view(real)


def _pairs(array: Any) -> Any:
    """Return a flat array of complex or whole numbers as (voxels, 2)."""
    flat = _real_view(array) if array.dtype.kind == "c" else array
    return flat.reshape(flat.size // 2, 2)
