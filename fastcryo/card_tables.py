"""Weights and data on a graphics card: what stays there, and what is streamed through."""

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
from fastcryo.kernels.cuda._jit import cuda
from fastcryo.rows import StoredRows
from fastcryo.threads import in_threads

# One of the two pinned buffers that images pass through when they do not stay on the card: 128 MiB
# take 5 ms on a PCIe 4 bus at 25 GB/s, a thousand times what it costs to start a copy.
STREAM_BYTES = 128 * 2**20
# Rows that one thread copies into a pinned buffer at a time.
ROWS_AT_ONCE = 64


@dataclass(eq=False)
class CardTables:
    """What the card keeps of arrays of the host, and the buffers that other ones pass through.

    All but `constant` is called within `fastcryo.backends.on_card`.

    Attributes
    ----------
    row_bytes : int
        Weight and data of all samples of one image.
    reserved : int
        Bytes of the card that tables leave free.
    """

    row_bytes: int
    reserved: int
    _kept: dict[int, tuple[weakref.ref, Any]] = field(default_factory=dict, repr=False)
    _largest: dict[int, tuple[weakref.ref, float]] = field(default_factory=dict, repr=False)
    _buffers: dict[tuple[int, int], tuple[NDArray, Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        self.streams = cuda.stream(), cuda.stream()

    def constant(self, array: NDArray) -> Any:
        """Return an array on the card that stays there as long as the one given, never changed."""
        found = self._kept.get(id(array))
        if found is None or found[0]() is not array:
            with on_card():
                there = cuda.to_device(np.ascontiguousarray(array))
            found = self._remember(self._kept, array, there)
        return found[1]

    def parts(
        self,
        tables: tuple[Any, ...],
        lines: NDArray[np.int64],
        lasting: bool,
        filled: bool,
    ) -> Iterator[tuple[tuple[Any, ...], NDArray[np.int64], NDArray[np.int64], Any]]:
        """Hand out the rows of a batch part by part.

        Where tables do not stay on the card two pinned buffers take turns, each with a stream of
        its own: one is filled and sent while the card works on the other. Where they do the parts
        are as long, so that sums do not depend on the memory that is free.

        Parameters
        ----------
        tables : tuple of arrays or StoredRows
            One or two, on the host or on the card.
        lines : ndarray, shape (n,), int64
            Rows of the batch.
        lasting : bool
            The tables are those of a problem, which other batches will ask for; else they hold the
            rows of this batch alone.
        filled : bool
            They are read; else they are to be filled, row by row.

        Yields
        ------
        part : tuple of arrays on the card
        rows : ndarray, shape (m, 2), int64
            Where they hold the rows of this part: the first of them, and the last.
        chosen : ndarray, shape (m,), int64
            The rows of this part, of `lines`.
        stream : Stream, or 0 where nothing is streamed
        """
        everything = np.arange(len(lines))
        length = max(1, STREAM_BYTES // self.row_bytes)
        kept = [
            self.stay(table) if lasting else None if on_host(table) else table for table in tables
        ]
        streamed = any(table is None for table in kept)
        if streamed:
            cuda.synchronize()
        for number, start in enumerate(range(0, len(lines), length)):
            piece = slice(start, start + length)
            chosen, stream = lines[piece], self.streams[number % 2] if streamed else 0
            if streamed:
                stream.synchronize()
            part, rows = [], []
            for place, (table, there) in enumerate(zip(tables, kept, strict=True)):
                rows.append(chosen if lasting else everything[: len(chosen)])
                if there is None:
                    rows[-1] = everything[: len(chosen)]
                    shape = len(chosen), table.shape[1]
                    pinned, there = self._buffer((number % 2, place), shape, table.dtype)
                    if filled:
                        copy_rows(table, chosen, pinned)
                        there.copy_to_device(pinned, stream)
                elif not lasting:
                    there = there[piece]
                part.append(there)
            yield tuple(part), np.stack([rows[0], rows[-1]], axis=1), chosen, stream

    def _buffer(
        self, use: tuple[int, int], shape: tuple[int, int], dtype: np.dtype
    ) -> tuple[NDArray, Any]:
        """Return a pinned buffer and one on the card; the same use has the same memory."""
        size = math.prod(shape) * dtype.itemsize
        if use not in self._buffers or self._buffers[use][0].size < size:
            self._buffers.pop(use, None)
            made = cuda.pinned_array(size, np.uint8), cuda.device_array(size, np.uint8)
            self._buffers[use] = made
        pinned, there = (memory[:size].view(dtype) for memory in self._buffers[use])
        return pinned.reshape(shape), there.reshape(*shape)

    def stay(self, table: NDArray | StoredRows) -> Any:
        """Return a table on the card, sent there when first used; None where it does not fit."""
        found = self._kept.get(id(table))
        if found is not None and found[0]() is table:
            return found[1]
        size = table.dtype.itemsize * int(np.prod(table.shape))
        free = cuda.current_context().get_memory_info().free
        if size > free - self.reserved and len(table) > 1:
            return self._remember(self._kept, table, None)[1]
        out = cuda.device_array(table.shape, table.dtype)
        length = max(1, STREAM_BYTES // (table.dtype.itemsize * max(1, table.shape[1])))
        for start in range(0, len(table), length):
            rows = table[start : start + length]
            out[start : start + len(rows)].copy_to_device(rows)
        return self._remember(self._kept, table, out)[1]

    def _remember(self, memory: dict, array: Any, value: Any) -> tuple[weakref.ref, Any]:
        """Keep something about an array as long as the array lives."""
        key = id(array)
        memory[key] = weakref.ref(array, lambda _: memory.pop(key, None)), value
        return memory[key]

    def largest(self, table: NDArray | StoredRows, lasting: bool) -> float:
        """Return the largest modulus of a table; that of a lasting one is found once."""
        found = self._largest.get(id(table))
        if found is not None and found[0]() is table:
            return found[1]
        length = max(1, STREAM_BYTES // (table.dtype.itemsize * max(1, table.shape[1])))
        value = 0.0
        for start in range(0, len(table), length):
            rows = table[start : start + length]
            peak = float(np.abs(rows).max(initial=0))
            value = max(value, peak) if math.isfinite(peak) else math.inf
        if lasting:
            self._remember(self._largest, table, value)
        return value


def copy_rows(table: NDArray | StoredRows, rows: NDArray[np.int64], out: NDArray) -> None:
    """Copy some rows of a table; a copy by index and another one of that took 2.6 times as long."""
    if isinstance(table, StoredRows):
        if not table.in_place:
            out[...] = table[rows]
            return
        table = table.stored

    def work(piece: slice) -> None:
        # "clip": numpy checks indices in a buffer of its own otherwise.
        np.take(table, rows[piece], axis=0, out=out[piece], mode="clip")

    starts = range(0, len(rows), ROWS_AT_ONCE)
    for _ in in_threads(work, (slice(start, start + ROWS_AT_ONCE) for start in starts)):
        pass
