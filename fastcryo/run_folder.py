"""The output folder of a reconstruction: its names, and what may be replaced."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo._version import __version__
from fastcryo.errors import InputError
from fastcryo.optics import imaging_of
from fastcryo.particles import Particles
from fastcryo.settings import Settings

# What `fastcryo.io.atomic.replacing` was writing when its process was killed.
HALF_WRITTEN = re.compile(r"\.(run|checkpoint)_.+\.\d+\.\w+")


def map_name(name: str) -> str:
    """Return the file name of a map, as RELION and its users expect it."""
    return "run_class001.mrc" if name == "full" else f"run_{name}_class001_unfil.mrc"


def make_folder(folder: Path) -> None:
    """Make an output folder; `InputError` if no file can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file has the name of the folder" if file else error.strerror
        raise InputError(
            f"{folder}: cannot be written to ({reason}), choose another --out"
        ) from error


def open_folder(folder: str | os.PathLike, resume: bool, overwrite: bool) -> Path:
    """Make the output folder; refuse one that holds an earlier run unless told what to do.

    Halves of files that a killed run left are removed.
    """
    folder = Path(folder)
    make_folder(folder)
    checkpoints = sorted(folder.glob("checkpoint_*.npz"))
    if overwrite:
        for path in checkpoints:
            path.unlink()
    elif not resume:
        earlier = sorted(folder.glob("run_*")) + checkpoints
        if earlier:
            raise InputError(
                f"{folder}: already holds {earlier[0].name}, "
                "choose another --out, or add --overwrite or --resume"
            )
    for path in folder.iterdir():
        if HALF_WRITTEN.fullmatch(path.name):
            path.unlink()
    return folder


def fingerprint(particles: Particles, settings: Settings, mask: NDArray | None = None) -> str:
    """Return a hash of all that a result depends on; the mask is that of the solution."""
    digest = hashlib.sha256(f"{__version__} {settings} {particles.stacks}".encode())
    arrays = [particles.rotations, particles.shifts, particles.half]
    arrays += [particles.stack, particles.slice, np.array([particles.pixel_size, particles.box])]
    if particles.ctf is not None:
        arrays.append(particles.ctf.coefficients())
    arrays += [a for a in (particles.brightness, particles.scale, mask) if a is not None]
    imaging = imaging_of(particles)
    if imaging is not None:
        arrays += imaging.arrays()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
