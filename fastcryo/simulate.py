"""Data sets with exact projections: poses and CTFs drawn from a seed, noise, files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo._version import __version__
from fastcryo.ctf import CTF
from fastcryo.density import Density, batch_size
from fastcryo.errors import InputError
from fastcryo.experiment import Experiment
from fastcryo.io.atomic import replacing
from fastcryo.io.mrc import write_map, write_stack
from fastcryo.particles import OpticsGroup, Particles, write_particles
from fastcryo.sources import open_density

# The scale that gives the SNR is measured on so many images at most, evenly spread over the set.
SNR_SAMPLE = 1024
STACK, TRUTH, RECORD, STAR = FILES = (
    "particles.mrcs",
    "truth.mrc",
    "simulation.json",
    "particles.star",
)


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated data set; its images are made when they are asked for.

    Attributes
    ----------
    experiment : Experiment
    density : Density
    source : str
        What the density is, for the record.
    box : int
        N.
    pixel_size : float
        Angstrom.
    rotations : ndarray, shape (n, 3, 3)
    shifts : ndarray, shape (n, 2)
        (rlnOriginXAngst, rlnOriginYAngst), angstrom.
    ctf : CTF or None
    half : ndarray, shape (n,), int8
        1 or 2.
    scale : float
        Factor of images and truth that makes the noise have variance 1 at the SNR asked for; 1
        without noise.
    """

    experiment: Experiment
    density: Density
    source: str
    box: int
    pixel_size: float
    rotations: NDArray[np.float64]
    shifts: NDArray[np.float64]
    ctf: CTF | None
    half: NDArray[np.int8]
    scale: float

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rotations)

    @cached_property
    def truth(self) -> NDArray[np.float32]:
        """The volume behind the images, ``[z, y, x]``, on their scale."""
        return self.scale * self.density.volume(self.box, self.pixel_size)

    @cached_property
    def images(self) -> NDArray[np.float32]:
        """All images, shape (n, N, N)."""
        return np.concatenate(list(self.batches()))

    def signal(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Make some images without noise; shape (m, N, N)."""
        ctf = None if self.ctf is None else self.ctf.select(indices)
        images = self.density.projections(
            self.rotations[indices],
            self.box,
            self.pixel_size,
            ctf=ctf,
            shifts=self.shifts[indices],
        )
        return images * np.float32(-self.scale if self.experiment.invert else self.scale)

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """Make all images in their order, a batch (m, N, N) at a time."""
        noise = _generators(self.experiment.seed)[-1]
        for batch in np.array_split(np.arange(len(self)), -(-len(self) // batch_size(self.box))):
            images = self.signal(batch)
            if self.experiment.snr is not None:
                images += noise.standard_normal(images.shape, dtype=np.float32)
            yield images


def simulate_arrays(
    *, source: str | os.PathLike | Density | None = None, **experiment
) -> Simulation:
    """Simulate a data set in memory.

    Parameters
    ----------
    source : path or Density, optional
        What is imaged: an MRC map, a structure (PDB or mmCIF), a `Phantom`, a `SampledMap`; the
        built-in phantom, 0.6 of the box wide, unless given.
    **experiment
        Fields of `Experiment`.

    Returns
    -------
    Simulation
        With `images`, `rotations`, `shifts`, `ctf`, `half` and `truth`.

    Raises
    ------
    InputError
        A value that cannot be used, a source that cannot be read or does not fit the box.
    """
    settings = Experiment(**experiment)
    density, name, box, pixel_size = open_density(source, settings.box, settings.pixel_size)
    poses, optics, centring, halves, _ = _generators(settings.seed)
    count = settings.count
    drawn = {
        "experiment": settings,
        "density": density,
        "source": name,
        "box": box,
        "pixel_size": pixel_size,
        "rotations": settings.draw_rotations(poses),
        "shifts": centring.normal(0.0, settings.shift_std, (count, 2)),
        "ctf": settings.draw_ctf(optics),
        "half": halves.permutation(1 + np.arange(count) % 2).astype(np.int8),
    }
    if settings.snr is None:
        return Simulation(**drawn, scale=1.0)
    variance = _signal_variance(Simulation(**drawn, scale=1.0))
    if variance == 0:
        raise InputError(f"{name}: its projections are empty, noise without a scale is left")
    return Simulation(**drawn, scale=float(np.sqrt(settings.snr / variance)))


def simulate(
    out: str | os.PathLike,
    *,
    source: str | os.PathLike | Density | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **experiment,
) -> Simulation:
    """Simulate a data set and write it to a folder.

    Files: ``particles.star`` (RELION 3.1), ``particles.mrcs``, ``truth.mrc`` and
    ``simulation.json`` (what was asked for). A reconstruction from the images has the amplitudes of
    ``truth.mrc``, without any scale between them.

    Parameters
    ----------
    out : path
        Folder; made if needed.
    source : path or Density, optional
        See `simulate_arrays`.
    overwrite : bool
        Replace an earlier data set.
    progress : callable, optional
        Called with the images done and their total.
    **experiment
        Fields of `Experiment`.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        As `simulate_arrays`; a data set that is there already; a folder that cannot be written. An
        earlier data set then stays as it was.
    """
    out = Path(out)
    existing = [name for name in FILES if (out / name).exists()]
    if existing and not overwrite:
        raise InputError(f"{out}: holds {existing[0]} already, give another folder or --overwrite")
    simulation = simulate_arrays(source=source, **experiment)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The files belong together: none is replaced before all are written.
        with tempfile.TemporaryDirectory(prefix=".simulate-", dir=out) as folder:
            _write(Path(folder), simulation, out, progress or _silent)
            for name in FILES:
                os.replace(Path(folder) / name, out / name)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}), choose another folder"
        ) from error
    return simulation


def _write(
    folder: Path, simulation: Simulation, out: Path, progress: Callable[[int, int], None]
) -> None:
    count, settings = len(simulation), simulation.experiment

    def counted() -> Iterator[NDArray[np.float32]]:
        done = 0
        for batch in simulation.batches():
            yield batch
            done += len(batch)
            progress(done, count)

    write_stack(folder / STACK, counted(), simulation.pixel_size)
    write_map(folder / TRUTH, simulation.truth, simulation.pixel_size)
    record = {
        "version": __version__,
        "source": simulation.source,
        "box": simulation.box,
        "pixel_size": simulation.pixel_size,
        "scale": simulation.scale,
        "noise_std": 0.0 if settings.snr is None else 1.0,
        "experiment": asdict(settings),
    }
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    group = OpticsGroup(
        name="simulated",
        voltage=settings.voltage,
        spherical_aberration=settings.spherical_aberration,
        amplitude_contrast=settings.amplitude_contrast,
        pixel_size=simulation.pixel_size,
        box=simulation.box,
    )
    particles = Particles(
        rotations=simulation.rotations,
        shifts=simulation.shifts,
        ctf=simulation.ctf,
        pixel_size=simulation.pixel_size,
        box=simulation.box,
        half=simulation.half,
        optics_group=np.zeros(count, np.int64),
        optics=(group,),
        stack=np.zeros(count, np.int64),
        slice=np.arange(count),
        stacks=(out / STACK,),
        source=out / STAR,
    )
    names = [f"{i + 1:06d}@{STACK}" for i in range(count)]
    write_particles(folder / STAR, particles, names)


def _signal_variance(simulation: Simulation) -> float:
    """Mean over images of the variance over pixels."""
    total = len(simulation)
    sample = np.unique(np.linspace(0, total - 1, min(total, SNR_SAMPLE)).astype(np.int64))
    batches = np.array_split(sample, -(-len(sample) // batch_size(simulation.box)))
    variances = [simulation.signal(b).var(axis=(1, 2), dtype=np.float64) for b in batches]
    return float(np.concatenate(variances).mean())


def _generators(seed: int) -> list[np.random.Generator]:
    """Independent sources for poses, CTFs, shifts, half-sets and noise."""
    return np.random.default_rng(seed).spawn(5)


def _silent(done: int, total: int) -> None:
    pass
