"""How rows of weights and data lie in files: as they are, or as codes of two bytes.

Codes stand for C y / sigma and C^2, which are of one size at all frequencies, divided by a scale
for each image. The data at the origin, the image's mean, may be larger than all others by any
factor: it is kept as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from fastcryo.kernels.cpu import codes
from fastcryo.packing import Packer
from fastcryo.rows import DECODERS, StoredRows

ENCODERS = {"float16": codes.encode_half, "int16": codes.encode_short}
STORAGES = ("float32", *ENCODERS)
CODE_TYPES = {"float16": np.dtype(np.uint16), "int16": np.dtype(np.int16)}


@dataclass(frozen=True, eq=False)
class Storage:
    """The files of a set of n images.

    Attributes
    ----------
    kind : {"float32", "float16", "int16"}
    count, samples, origin : int
        n, samples of an image, and which of them is the origin.
    with_ctf : bool
        Whether every image has weights of its own.
    data_factors, weight_factors : ndarray, shape (2 samples,) and (samples,), float32
        What codes are multiplied by besides their scales: 1 / sigma and 1 / sigma^2.
    """

    kind: str
    count: int
    samples: int
    origin: int
    with_ctf: bool
    data_factors: NDArray[np.float32]
    weight_factors: NDArray[np.float32]

    @classmethod
    def of(cls, kind: str, packer: Packer, count: int) -> Storage:
        """Return the files for the images of a packer."""
        operator = packer.operator
        # Groups of other noise differ by little, which the scale of each image takes up.
        variance = packer.inverse_variance.mean(axis=0)
        variance[operator.origin] *= 2
        return cls(
            kind,
            count,
            operator.samples,
            operator.origin,
            len(packer.ctf) > 0,
            np.repeat(np.sqrt(variance), 2).astype(np.float32),
            variance.astype(np.float32),
        )

    def files(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and type of every array by its name."""
        n, s = self.count, self.samples
        if self.kind == "float32":
            found = {"data": ((n, s), np.complex64), "weights": ((n, s), np.float32)}
        else:
            found = {
                "data": ((n, 2 * s), self.kind),
                "weights": ((n, s), self.kind),
                "scales": ((n, 2), np.float32),
                "origins": ((n, 1), np.complex64),
            }
        if not self.with_ctf:
            del found["weights"]
        found["energies"] = ((n, 1), np.float64)
        return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in found.items()}

    def size(self) -> int:
        """Return the bytes that the files take."""
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in self.files().values())

    def encode(self, weights: NDArray, data: NDArray) -> dict[str, NDArray]:
        """Return some rows of every file.

        Parameters
        ----------
        weights : ndarray, shape (m, samples), float32
            Not used without CTF.
        data : ndarray, shape (m, samples), complex64
        """
        if self.kind == "float32":
            return {"data": data, "weights": weights}
        encode, dtype = ENCODERS[self.kind], CODE_TYPES[self.kind]
        found = {
            "data": np.empty((len(data), 2 * self.samples), dtype),
            "weights": np.empty((len(data), self.samples), dtype),
            "origins": data[:, self.origin, None],
        }
        data_scales, weight_scales = np.ones((2, len(data)), np.float32)
        factors = 1 / self.data_factors
        factors[2 * self.origin : 2 * self.origin + 2] = 0
        encode(data.view(np.float32), factors, found["data"], data_scales)
        if self.with_ctf:
            encode(weights, 1 / self.weight_factors, found["weights"], weight_scales)
        found["scales"] = np.stack([data_scales, weight_scales], axis=1)
        return found

    def error(self, weights: NDArray, data: NDArray) -> dict[str, float]:
        """Return the relative RMS errors that codes make of some rows, in units of the noise."""
        coded = self.encode(weights, data)
        decode, rows = DECODERS[CODE_TYPES[self.kind]], np.arange(len(data))
        values = {"data": (data.view(np.float32), self.data_factors)}
        if self.with_ctf:
            values["weights"] = (weights, self.weight_factors)
        found = {}
        for column, (name, (exact, factors)) in enumerate(values.items()):
            read = np.empty_like(exact)
            decode(coded[name], rows, coded["scales"][:, column].copy(), factors, read)
            difference, exact = (read - exact) / factors, exact / factors
            if name == "data":
                for array in (difference, exact):
                    array[:, 2 * self.origin : 2 * self.origin + 2] = 0
            norms = [np.linalg.norm(a.astype(np.float64)) for a in (difference, exact)]
            found[name] = float(norms[0] / norms[1]) if norms[1] else 0.0
        return found

    def open(self, folder: Path) -> tuple[StoredRows | None, StoredRows, NDArray[np.float64]]:
        """Map the files of a folder; returns weights (None without CTF), data and energies."""
        names = self.files()
        small = {
            name: np.load(folder / f"{name}.npy") for name in ("scales", "origins") if name in names
        }
        scales = [None, None]
        if small:
            scales = np.ascontiguousarray(small["scales"].T)
        data = StoredRows.open(
            folder / "data.npy",
            scales=scales[0],
            factors=self.data_factors if small else None,
            origin=self.origin if small else None,
            at_origin=small["origins"][:, 0] if small else None,
        )
        weights = None
        if self.with_ctf:
            weights = StoredRows.open(
                folder / "weights.npy",
                scales=scales[1],
                factors=self.weight_factors if small else None,
            )
        return weights, data, np.load(folder / "energies.npy")[:, 0]


class RowFile:
    """A ``.npy`` file that is written in pieces, in any order and by several threads or processes.

    Parameters
    ----------
    path : Path
    shape : (int, int)
    dtype : dtype
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: np.dtype):
        self._lock = Lock()
        self._row = shape[1] * dtype.itemsize
        # Every process that opens the file leaves it of the same length, with the same header.
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._first = self._file.tell()
        self._file.truncate(self._first + shape[0] * self._row)

    def put(self, rows: NDArray[np.int64], values: NDArray) -> None:
        """Write some rows."""
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            piece = memoryview(np.ascontiguousarray(values[run[0] : run[-1] + 1])).cast("B")
            with self._lock:
                self._file.seek(self._first + int(rows[run[0]]) * self._row)
                while piece:
                    piece = piece[self._file.write(piece) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
