"""Weights and data of many images, wherever they are kept, handed to the kernels block by block."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastcryo.arrays import kernel_array
from fastcryo.errors import InputError
from fastcryo.kernels.cpu import codes

# Weights and data of one block, in single precision: little enough to be read ahead, enough for
# the tiles of a volume to pay. It does not depend on where the rows are kept, so that the order of
# all sums does not.
BLOCK_BYTES = 256 * 2**20
SAMPLE_BYTES = 12
DECODERS = {
    np.dtype(np.uint16): codes.decode_half_rows,
    np.dtype(np.int16): codes.decode_short_rows,
}


@dataclass(frozen=True, eq=False)
class StoredRows:
    """One row of weights or data per image in a file, read when it is used.

    Rows in single precision are used where they lie, in the pages of the file; rows of two-byte
    codes are decoded first.

    Attributes
    ----------
    pages : mmap
        The file.
    stored : ndarray, shape (n, s)
        Its rows: float32 or complex64, or codes, uint16 (half precision) or int16.
    offset : int
        Of the first row, bytes.
    scales : ndarray, shape (n,), float32, or None
        What the codes of each row are multiplied by; None: no codes.
    factors : ndarray, shape (s,), float32, or None
        What the codes of each column are multiplied by.
    origin : int or None
        Complex rows of codes: the sample whose values stand in `at_origin`.
    at_origin : ndarray, shape (n,), complex64, or None
    """

    pages: mmap.mmap
    stored: NDArray
    offset: int
    scales: NDArray | None = None
    factors: NDArray | None = None
    origin: int | None = None
    at_origin: NDArray | None = None

    @classmethod
    def open(cls, path: Path, **fields) -> StoredRows:
        """Map a ``.npy`` file of rows; other fields as above."""
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        stored = np.frombuffer(pages, dtype, offset=offset).reshape(shape)
        if dtype == np.float16:
            stored = stored.view(np.uint16)
        return cls(pages, stored, offset, **fields)

    @property
    def in_place(self) -> bool:
        """Whether the rows are used where they lie."""
        return self.scales is None

    @property
    def dtype(self) -> np.dtype:
        """Of the values: float32 or complex64."""
        if self.in_place:
            return self.stored.dtype
        return np.dtype(np.float32 if self.origin is None else np.complex64)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, samples)."""
        count, width = self.stored.shape
        return count, width if self.in_place or self.origin is None else width // 2

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.stored)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        """Return all rows."""
        return np.array(self[np.arange(len(self))], dtype)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> NDArray:
        """Return some rows; those that indices choose, or codes, as an array of their own."""
        if self.in_place:
            return self.stored[rows]
        rows = np.arange(len(self))[rows]
        out = np.empty((len(rows), self.stored.shape[1]), np.float32)
        DECODERS[self.stored.dtype](self.stored, rows, self.scales, self.factors, out)
        if self.origin is None:
            return out
        values = out.view(np.complex64)
        values[:, self.origin] = self.at_origin[rows]
        return values

    def for_kernels(self) -> NDArray:
        """Return the pages as an array that says it may be written to, which the kernels never do.

        Numba compiles every kernel a second time for arrays that say they may not.
        """
        interface = dict(self.stored.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        return np.asarray(SimpleNamespace(__array_interface__=interface, pages=self.stored))

    def read_ahead(self, rows: NDArray[np.int64]) -> None:
        """Have the system read some rows in the background, in large pieces."""
        if len(rows) == 0 or not hasattr(mmap, "MADV_WILLNEED"):
            return
        size = self.stored.strides[0]
        first = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1])
        last = np.concatenate([first[1:] - 1, [len(rows) - 1]])
        starts = self.offset + size * rows[first]
        starts -= starts % mmap.PAGESIZE
        stops = self.offset + size * (rows[last] + 1)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            self.pages.madvise(mmap.MADV_WILLNEED, start, stop - start)


def blocks(
    arrays: tuple[NDArray | StoredRows, ...],
    images: NDArray[np.int64],
    steps: NDArray[np.int64],
    samples: int,
) -> Iterator[tuple[tuple[NDArray, ...], NDArray[np.int64], NDArray[np.int64]]]:
    """Cut a batch into blocks whose weights and data take bounded memory.

    Parameters
    ----------
    arrays : tuple of ndarray or StoredRows
        What a kernel takes.
    images : ndarray of int64
        The batch.
    steps : ndarray, shape (n, 2, 3) or (g, n, 2, 3), int64
    samples : int
        Per image.

    Yields
    ------
    arrays, images, steps
        Of one block; stored rows are arrays now, and the images indices into all of them. An empty
        batch is one empty block: what the kernels add to their sums is written all the same.
    """
    length = max(1, BLOCK_BYTES // (SAMPLE_BYTES * samples))
    parts = [images[start : start + length] for start in range(0, max(1, len(images)), length)]
    stored = [a for a in arrays if isinstance(a, StoredRows)]
    in_place = all(rows.in_place for rows in stored)
    for number, part in enumerate(parts):
        for rows in stored:
            for ahead in parts[:2] if number == 0 else parts[number + 1 : number + 2]:
                rows.read_ahead(ahead)
        if in_place:
            taken = [a.for_kernels() if isinstance(a, StoredRows) else a for a in arrays]
            yield tuple(taken), part, steps
        else:
            taken = [a[part] if isinstance(a, StoredRows) else a for a in arrays]
            yield tuple(taken), np.arange(len(part)), steps[..., part, :, :]


def checked_batch(batch: ArrayLike, count: int) -> NDArray:
    """Return indices of some of `count` images, or refuse them.

    Raises
    ------
    InputError
        No list of indices, an empty one, or one out of range.
    """
    images = kernel_array(batch)
    if images.ndim != 1 or images.size == 0 or images.dtype.kind not in "iu":
        raise InputError("batch: a non-empty list of image indices is needed")
    if images.min() < 0 or images.max() >= count:
        raise InputError(f"batch: indices must lie between 0 and {count - 1}")
    return images


def copies_of(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the steps of every symmetric view, shape (g, n, 2, 3), g = 1 without symmetry."""
    return steps[None] if steps.ndim == 3 else steps
