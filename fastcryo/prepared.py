"""Prepared images on disk: what a problem needs of its images, written once and mapped later.

A prepared set is a folder:

    header.json    what it was made of, and how
    data.npy       C y / sigma^2, one row per image
    weights.npy    C^2 / sigma^2, one row per image; only with CTF
    energies.npy   1/2 sum |y|^2 / sigma^2
    scales.npy, origins.npy    with codes of two bytes, see `fastcryo.storage`
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastcryo._version import __version__
from fastcryo.communicator import Communicator
from fastcryo.errors import InputError
from fastcryo.io.atomic import replacing_folder
from fastcryo.optics import imaging_of
from fastcryo.packing import Packer, Source, stream
from fastcryo.rows import StoredRows
from fastcryo.storage import STORAGES, RowFile, Storage

if TYPE_CHECKING:
    from fastcryo.particles import Particles

FORMAT, VERSION = "fastcryo prepared images", 1
HEADER = "header.json"
IMAGES_FOR_ERROR = 16
# Sigma may differ by the rounding of another machine.
SIGMA_TOLERANCE = 1e-6
# What a header must agree about, and what it is called.
SETTINGS = {
    "images": "number of particles",
    "image_box": "box of the images",
    "pixel_size": "pixel size",
    "radius": "last shell (--box, --maxres)",
    "type": "type of numbers",
    "invert": "inversion of the contrast",
    "normalize": "normalisation of the images (--normalize)",
}


@dataclass(frozen=True)
class Store:
    """Where on disk the prepared images of some particles are kept.

    Attributes
    ----------
    folder : Path
    kind : {"float32", "float16", "int16"}
    overwrite : bool
        Replace a prepared set of something else.
    made_of : dict
        What the header has to say of the particles.
    """

    folder: Path
    kind: str
    overwrite: bool
    made_of: dict[str, Any]

    @classmethod
    def of(
        cls,
        folder: str | os.PathLike,
        kind: str,
        overwrite: bool,
        particles: Particles,
        invert: bool,
    ) -> Store:
        """Return the store of some particles.

        Raises
        ------
        InputError
            An unknown type of numbers, particles without images, or a stack that is missing.
        """
        if kind not in STORAGES:
            raise InputError(
                f"type of prepared images: {kind!r} is unknown, choose from {', '.join(STORAGES)}"
            )
        if not particles.stacks:
            raise InputError(f"{particles.source}: names no images, only its metadata can be used")
        imaging, background = imaging_of(particles), particles.background
        made_of = {
            "images": len(particles),
            "image_box": particles.box,
            "pixel_size": particles.pixel_size,
            "invert": invert,
            "normalize": None if background is None else background.describe(particles.pixel_size),
            "hashes": {
                "images": _hash(particles.stack, particles.slice),
                "shifts": _hash(particles.shifts),
                "CTF parameters": ""
                if particles.ctf is None
                else _hash(particles.ctf.coefficients()),
                "optics": "" if imaging is None else _hash(*imaging.arrays()),
                "scales of images": "" if particles.scale is None else _hash(particles.scale),
                "brightness of images": ""
                if particles.brightness is None
                else _hash(particles.brightness),
            },
            "stacks": [
                _state_of(particles.stacks[number]) for number in np.unique(particles.stack)
            ],
        }
        return cls(Path(folder), kind, overwrite, made_of)

    def prepared(
        self,
        packer: Packer,
        sigma: NDArray[np.float64],
        source: Source | None,
        communicator: Communicator,
    ) -> tuple[NDArray | StoredRows, StoredRows, NDArray[np.float64]]:
        """Return weights, data and energies of all images: of an earlier run, else written now.

        Parameters
        ----------
        packer : Packer
        sigma : ndarray, shape (g, R + 1)
        source : Source or None
            Of the images of this rank.
        communicator : Communicator
            The ranks that write the set together.

        Raises
        ------
        InputError
            A folder with other files or with images that were prepared otherwise, no metadata-only
            problem, no single precision, or too little space on disk.
        """
        operator = packer.operator
        if source is None:
            raise InputError(
                f"{self.folder}: a prepared set holds images, leave it out where metadata suffice"
            )
        if operator.real_dtype != np.float32:
            raise InputError(
                f"{self.folder}: prepared sets are in single precision, use dtype float32"
            )
        radius = operator.grid.radius
        storage = Storage.of(self.kind, packer, self.made_of["images"])
        wanted = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": __version__,
            "box": operator.grid.box,
            "radius": radius,
            "type": self.kind,
            "noise_std": (sigma[0] if len(sigma) == 1 else sigma).tolist(),
            **self.made_of,
        }
        if communicator.once(lambda: self._to_be_written(wanted, storage)):
            self._write(wanted, storage, packer, source, communicator)
        elif source.progress is not None:
            source.progress(len(source.order), len(source.order))
        weights, data, energies = storage.open(self.folder)
        return packer.common_weights() if weights is None else weights, data, energies

    def _to_be_written(self, wanted: dict[str, Any], storage: Storage) -> bool:
        """Whether there is no set yet, or one to be replaced."""
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return True
        found = read_header(self.folder)
        problem = _difference(found, wanted) or _damage(self.folder, storage)
        if problem and not self.overwrite:
            raise InputError(
                f"{self.folder}: {problem}, choose another folder for the prepared images or "
                "replace them by --overwrite"
            )
        return problem is not None

    def _write(
        self,
        header: dict[str, Any],
        storage: Storage,
        packer: Packer,
        source: Source,
        communicator: Communicator,
    ) -> None:
        with contextlib.ExitStack() as finished:

            def begin() -> Path:
                folder = finished.enter_context(replacing_folder(self.folder))
                self._check_space(storage.size())
                error = _error(storage, packer, source)
                for name, (shape, dtype) in storage.files().items():
                    RowFile(folder / f"{name}.npy", shape, dtype).close()
                text = json.dumps({**header, "relative_rms_error": error}, indent=1)
                (folder / HEADER).write_text(text + "\n")
                return folder

            folder = communicator.once(begin)
            with contextlib.ExitStack() as opened:
                files = {}
                for name, (shape, dtype) in storage.files().items():
                    files[name] = RowFile(folder / f"{name}.npy", shape, dtype)
                    opened.callback(files[name].close)

                def keep(members: NDArray[np.int64], images: NDArray) -> NDArray[np.float64]:
                    weights, data, energies = _pack(storage, packer, members, images)
                    rows = {**storage.encode(weights, data), "energies": energies[:, None]}
                    for name, file in files.items():
                        file.put(members, rows[name])
                    return energies

                stream(source, keep, packer.bytes_at_once)
            # All ranks have written theirs before the folder gets its name, and it has its name
            # before anybody reads it.
            communicator.wait()
        communicator.wait()

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder.resolve().parent).free
        if needed > free:
            raise InputError(
                f"{self.folder}: {needed / 2**30:.3g} GiB are needed for the prepared images, "
                f"{free / 2**30:.3g} GiB are free, choose another folder, a smaller --box or "
                "--prepared-type float16"
            )


def read_header(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what a prepared set says of itself.

    Raises
    ------
    InputError
        The folder holds no prepared set.
    """
    path = Path(folder) / HEADER
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(
            f"{folder}: holds something else than prepared images, choose another folder for them"
        )
    return found


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Say in what the first thing differs that a header and a run disagree about."""
    if found.get("version") != VERSION:
        return f"its format {found.get('version')} is that of another version of fastcryo"
    for name, what in SETTINGS.items():
        if found.get(name) != wanted[name]:
            had, asked = ("none" if v is None else v for v in (found.get(name), wanted[name]))
            return f"its {what} is {had}, {asked} is asked for"
    for name, value in wanted["hashes"].items():
        if found.get("hashes", {}).get(name, "") != value:
            return f"its {name} are others than those asked for"
    sigma, asked = np.array(found.get("noise_std")), np.array(wanted["noise_std"])
    if sigma.shape != asked.shape or not np.allclose(sigma, asked, rtol=SIGMA_TOLERANCE, atol=0):
        return "its noise_std (sigma by shell) is another than that asked for"
    changed = [
        new[0]
        for old, new in zip(found.get("stacks", []), wanted["stacks"], strict=False)
        if old != new
    ]
    if changed:
        return f"{changed[0]} has changed since it was made ({len(changed)} stacks have)"
    return None


def _damage(folder: Path, storage: Storage) -> str | None:
    """Say which file is missing or not as long as it must be."""
    for name, (shape, dtype) in storage.files().items():
        path = folder / f"{name}.npy"
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                header = np.lib.format.read_array_header_1_0(file)
                expected = file.tell() + int(np.prod(shape)) * dtype.itemsize
        except (OSError, ValueError):
            return f"{path.name} is missing or damaged"
        if header != (shape, False, dtype) or path.stat().st_size != expected:
            return f"{path.name} is damaged"
    return None


def _pack(
    storage: Storage, packer: Packer, members: NDArray[np.int64], images: NDArray
) -> tuple[NDArray, NDArray, NDArray[np.float64]]:
    """Return weights (no rows without CTF), data and energies of some images."""
    count = len(members)
    weights = np.empty((count if storage.with_ctf else 0, storage.samples), np.float32)
    data = np.empty((count, storage.samples), np.complex64)
    energies = packer.pack(images, members, np.arange(count), weights, data)
    return weights, data, energies


def _error(storage: Storage, packer: Packer, source: Source) -> dict[str, float]:
    """Return the relative RMS errors of the codes of the first images."""
    if storage.kind == "float32":
        return {"data": 0.0, "weights": 0.0}
    sample = source.order[:IMAGES_FOR_ERROR]
    weights, data, _ = _pack(storage, packer, sample, source.read(sample))
    return storage.error(weights, data)


def _hash(*arrays: NDArray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _state_of(path: Path) -> list:
    """Name, size and time of the last change of a file."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return [path.name, status.st_size, status.st_mtime_ns]
