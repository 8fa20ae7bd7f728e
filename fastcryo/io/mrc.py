"""MRC files: maps read and written whole, image stacks read image by image."""

from __future__ import annotations

import bz2
import gzip
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from mrcfile.constants import IMAGE_STACK_SPACEGROUP, VOLUME_SPACEGROUP
from numpy.typing import ArrayLike, NDArray

from fastcryo.errors import InputError
from fastcryo.io.atomic import replacing
from fastcryo.io.mrc_header import (
    HEADER_BYTES,
    check_size,
    layout,
    new_header,
    parse_header,
    voxel_size,
)
from fastcryo.io.patience import patiently
from fastcryo.kernels.cpu.codes import decode_half

REMEMBERED_STACKS = 4096
DECOMPRESSORS = {b"\x1f\x8b": gzip.decompress, b"BZ": bz2.decompress}


def read_map(path: str | os.PathLike, *, cubic: bool = False) -> tuple[NDArray[np.float32], float]:
    """Read a map, plain or compressed by gzip or bzip2.

    The header's order of axes is respected; its origin and start are not used.

    Parameters
    ----------
    path : path
    cubic : bool
        Refuse a map that is no cube.

    Returns
    -------
    volume : ndarray, float32
        ``[z, y, x]``.
    pixel_size : float
        Angstrom; 0 if the header does not say.

    Raises
    ------
    InputError
        No such file, not MRC, truncated, a stack, voxels that are not cubes, NaN or infinite
        values, or no cube where one is asked for.
    """
    path = Path(path)
    raw = _read_whole(path)
    header = parse_header(path, raw[:HEADER_BYTES])
    dtype, offset = layout(path, header)
    shape = tuple(int(header[n]) for n in ("nz", "ny", "nx"))
    check_size(path, len(raw), offset, dtype.itemsize * shape[1] * shape[2], shape[0], "sections")
    if shape[0] == 1 or (header["ispg"] == IMAGE_STACK_SPACEGROUP and header["mz"] == 1):
        raise InputError(f"{path}: holds {shape[0]} images, a map is needed")
    volume = np.frombuffer(raw, dtype, int(np.prod(shape)), offset).reshape(shape)
    axes = [int(header[n]) for n in ("maps", "mapr", "mapc")]
    if axes == [0, 0, 0]:  # not set by old programs
        axes = [3, 2, 1]
    if sorted(axes) != [1, 2, 3]:
        raise InputError(
            f"{path}: axes MAPC, MAPR, MAPS are {axes[::-1]}, an order of 1, 2, 3 is needed"
        )
    volume = volume.transpose([axes.index(3), axes.index(2), axes.index(1)])
    volume = np.ascontiguousarray(volume, dtype=np.float32)
    bad = np.count_nonzero(~np.isfinite(volume))
    if bad:
        raise InputError(f"{path}: {bad} voxels are NaN or infinite, repair the map")
    if cubic and len(set(volume.shape)) > 1:
        sides = " x ".join(map(str, volume.shape[::-1]))
        raise InputError(f"{path}: the map is {sides} voxels, a cube is needed")
    return volume, voxel_size(path, header)


def write_map(path: str | os.PathLike, volume: ArrayLike, pixel_size: float) -> None:
    """Write a map as float32, with origin and start 0 as RELION does.

    Parameters
    ----------
    path : path
    volume : array_like, shape (nz, ny, nx)
    pixel_size : float
        Angstrom.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    _write(path, np.asarray(volume), pixel_size, VOLUME_SPACEGROUP)


def write_stack(path: str | os.PathLike, images: Iterable[ArrayLike], pixel_size: float) -> int:
    """Write an image stack as float32, with one image or batch in memory at a time.

    Parameters
    ----------
    path : path
    images : array_like of shape (n, ny, nx), or iterable
        Of images (ny, nx) or batches (m, ny, nx).
    pixel_size : float
        Angstrom.

    Returns
    -------
    int
        Number of images written.

    Raises
    ------
    InputError
        The file cannot be written, no images, or images of different sizes.
    """
    return _write(path, images, pixel_size, IMAGE_STACK_SPACEGROUP)


def _write(path: str | os.PathLike, items: Iterable, pixel_size: float, spacegroup: int) -> int:
    count, sums, extremes, side = 0, np.zeros(2), [np.inf, -np.inf], None
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for item in items:
            batch = np.ascontiguousarray(item, dtype="<f4")
            batch = batch.reshape(-1, *batch.shape[-2:])
            side = side or batch.shape[1:]
            if batch.shape[1:] != side:
                raise InputError(f"{path}: images of {side} and {batch.shape[1:]} in one stack")
            file.write(batch.data)
            count += len(batch)
            sums += batch.sum(dtype=np.float64), np.square(batch, dtype=np.float64).sum()
            extremes = [min(extremes[0], batch.min()), max(extremes[1], batch.max())]
        if count == 0:
            raise InputError(f"{path}: there are no images to write")
        header = new_header((count, *side), pixel_size, spacegroup)
        mean, mean_square = sums / (count * side[0] * side[1])
        header["dmin"], header["dmax"], header["dmean"] = *extremes, mean
        header["rms"] = np.sqrt(max(mean_square - mean**2, 0))
        file.seek(0)
        file.write(header.tobytes())
    return count


@dataclass(frozen=True)
class Stack:
    """An image stack on disk; no file stays open.

    Parameters
    ----------
    path : Path
    count : int
        Number of images.
    box : int
        Side of the images, pixels.
    pixel_size : float
        Angstrom, along x, as the header says; 0 if it does not.
    """

    path: Path
    count: int
    box: int
    pixel_size: float
    _dtype: np.dtype = field(repr=False)
    _offset: int = field(repr=False)

    def read(self, first: int, out: NDArray[np.float32]) -> None:
        """Read image `first` (from 0) and those after it in one go.

        Parameters
        ----------
        first : int
        out : ndarray, shape (box, box) or (m, box, box), float32, modified in place

        Raises
        ------
        InputError
            Images beyond the end of the stack, or a file that cannot be read to the end.
        """
        last = first + out.size // self.box**2
        if first < 0 or last > self.count:
            raise InputError(
                f"{self.path}: image {last} asked for, but the stack holds {self.count}"
            )
        direct = self._dtype == np.float32 and out.flags.c_contiguous
        raw = out if direct else np.empty(out.shape, self._dtype)
        self._read_bytes(first * self.box**2 * raw.itemsize, memoryview(raw.reshape(-1).view("u1")))
        if self._dtype == np.float16 and out.flags.c_contiguous:
            decode_half(raw.reshape(-1).view(np.uint16), out.reshape(-1))
        elif not direct:
            out[...] = raw

    def _read_bytes(self, start: int, out: memoryview) -> None:
        try:
            patiently(self.path, lambda: self._read_once(start + self._offset, out))
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _read_once(self, start: int, out: memoryview) -> None:
        with self.path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                # As much again is read ahead while these images are worked on.
                size = 2 * len(out)
                os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
            file.seek(start)
            while out:
                count = file.readinto(out)
                if not count:
                    raise InputError(f"{self.path}: ends early, copy or write it again")
                out = out[count:]


def open_stack(path: str | os.PathLike) -> Stack:
    """Open an image stack (.mrcs or .mrc, any real mode, either byte order) for lazy reading.

    The headers of the last 4096 stacks are remembered.

    Raises
    ------
    InputError
        No such file, not MRC, compressed, images that are not square, or a size that does not
        agree with the header.
    """
    path = Path(path)

    def look() -> Stack:
        status = path.stat()
        # The time and size are part of the key: a file written anew is opened anew.
        return _open_stack(path, status.st_mtime_ns, status.st_size)

    try:
        return patiently(path, look)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise _unreadable(path, error) from error


@lru_cache(maxsize=REMEMBERED_STACKS)
def _open_stack(path: Path, _changed: int, size: int) -> Stack:
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
    if _compression(raw):
        raise InputError(f"{path}: the stack is compressed, decompress it first")
    header = parse_header(path, raw)
    dtype, offset = layout(path, header)
    count, ny, nx = (int(header[n]) for n in ("nz", "ny", "nx"))
    check_size(path, size, offset, dtype.itemsize * ny * nx, count, "images")
    if nx != ny:
        raise InputError(f"{path}: images are {nx} x {ny} pixels, square ones are needed")
    pixel_size = float(header["cella"]["x"] / header["mx"]) if header["mx"] > 0 else 0.0
    return Stack(path, count, nx, pixel_size, dtype, offset)


def _read_whole(path: Path) -> bytes:
    try:
        raw = patiently(path, path.read_bytes)
        decompress = _compression(raw)
        return decompress(raw) if decompress else raw
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _compression(raw: bytes):
    return None if raw[208:211] == b"MAP" else DECOMPRESSORS.get(raw[:2])


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")
