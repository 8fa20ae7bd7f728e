"""What a reconstruction will take, and how it is done in the memory there is."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastcryo.assembled import operator_memory
from fastcryo.errors import InputError
from fastcryo.free_memory import available_memory
from fastcryo.grid import FourierGrid
from fastcryo.noise import IMAGES_FOR_NOISE
from fastcryo.operators import SliceOperator
from fastcryo.particles import Particles
from fastcryo.preparation import ImageSet, packed_bytes, radius_of
from fastcryo.reporting import duration
from fastcryo.rows import BLOCK_BYTES
from fastcryo.settings import Settings
from fastcryo.symmetry import symmetry_matrices
from fastcryo.threads import thread_count

GIB = 2**30
# Half volumes that a run holds at its peak: iterates, gradient, diagonal, maps and transforms.
HALF_VOLUMES = 12
# Of the free memory, what a plan counts on; the rest is for the interpreter and for other programs.
USABLE = 0.9
STREAMED = "prepared"
# Nanoseconds, measured with two threads at N = 64, 128 and 192 (docs/preparation.md). Those that
# threads share are CPU time. Forecasts from them are rough: the clock, the memory and the disk of
# other machines differ.
READ_PIXEL, PASS_SAMPLE, ASSEMBLE_SAMPLE = 16.0, 13.0, 30.0
ASSEMBLE_VOXEL, ITERATE_VOXEL = 440.0, 38.0
WRITE_VOXEL, WRITE_SECONDS = 470.0, 1.6
PRIOR_PRODUCTS, CG_PRODUCTS = 30, 40


@dataclass(frozen=True)
class Plan:
    """How a run keeps its data, and what it takes; sizes in bytes.

    Attributes
    ----------
    images : int
        Prepared images in memory: all of them, or what is decoded at once of those on disk.
    volumes : int
    operators : int
        H of both half-sets and of all images; 0 where products go through the images.
    operators_wanted : int
    free : int or None
        Memory; None where nothing tells.
    folder : Path or None
        Of the prepared images on disk.
    automatic : bool
        Whether they are there because they do not fit into memory, and go at the end.
    disk : int
        Prepared images on disk.
    batch : int
        Images of a minibatch.
    stages : dict of float
        Seconds of every stage by its name, in their order; rough.
    ranks : int
        Memory is that of one of them.
    treatment : tuple of str
        What is done to the images as they are read, in words.
    """

    images: int
    volumes: int
    operators: int
    operators_wanted: int
    free: int | None
    folder: Path | None
    automatic: bool
    disk: int
    batch: int
    stages: dict[str, float]
    ranks: int = 1
    treatment: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """All that the run takes, or every rank of it."""
        return self.images + self.volumes + self.operators

    @property
    def seconds(self) -> float:
        """Of the whole run, rough."""
        return sum(self.stages.values())

    def lines(self) -> list[str]:
        """Return the plan in words."""
        free = "" if self.free is None else f" of {self.free / GIB:.2f} GiB free"
        parts = [f"volumes {self.volumes / GIB:.2f}"]
        if self.operators:
            parts.insert(0, f"H {self.operators / GIB:.2f}")
        if self.folder is None:
            parts.insert(0, f"images {self.images / GIB:.2f}")
        where = "memory per rank" if self.ranks > 1 else "memory"
        lines = [f"{where}: about {self.memory / GIB:.2f} GiB{free} ({', '.join(parts)})"]
        if self.folder is not None:
            why = ", more than fits into memory, removed at the end" if self.automatic else ""
            lines.append(
                f"disk: images {self.disk / GIB:.2f} GiB in {self.folder}, "
                f"read from there pass by pass{why}"
            )
        if self.operators_wanted and not self.operators:
            lines.append(
                f"H would take {self.operators_wanted / GIB:.2f} GiB: "
                "every product goes through the images instead, which is slower"
            )
        lines.append(f"time: about {duration(self.seconds)} (rough)")
        return [f"images: {words}" for words in self.treatment] + lines


def plan_run(
    particles: Particles,
    settings: Settings,
    prepared: str | os.PathLike | None,
    folder: str | os.PathLike,
    free: int | None = None,
    ranks: int = 1,
) -> Plan:
    """Plan a run that fits into memory.

    Images that do not fit are prepared on disk, in a folder within the output folder, and read from
    there; H is assembled only where it takes no more than half of what then is left.

    Parameters
    ----------
    particles : Particles
    settings : Settings
    prepared : path or None
        Where the prepared images are to be kept on disk in any case.
    folder : path
        Of the output.
    free : int, optional
        Bytes of memory: what is free unless given.
    ranks : int
        How many share the images, and have so much memory each.

    Returns
    -------
    Plan
        Memory is that of one rank.

    Raises
    ------
    InputError
        Volumes that do not fit, or a disk that is too small for the images.
    """
    operator, background = operator_for(particles, settings), settings.background(particles)
    refuse_other_shells(settings, operator, particles)
    if free is None:
        free = available_memory()
    usable = None if free is None else int(USABLE * free)
    batch = settings.sgd_options(len(particles))["batch_size"]
    volumes = HALF_VOLUMES * int(np.prod(operator.grid.shape)) * 8
    volumes += operator.oversampled_memory()
    own_weights = particles.ctf is not None or settings.scale != "none"
    per_image = packed_bytes(operator, own_weights)
    images, disk = -(-len(particles) // ranks) * per_image, len(particles) * per_image
    disk = disk if settings.prepared_type == "float32" else disk // 2
    if usable is not None and volumes > usable:
        raise InputError(
            f"memory: {volumes / GIB:.3g} GiB are needed for the volumes of box "
            f"{operator.grid.box}, {free / GIB:.3g} GiB are free, crop the images (--box)"
        )
    automatic = prepared is None and usable is not None and images + volumes > usable
    kept = Path(folder) / STREAMED if automatic else prepared and Path(prepared)
    if kept:
        images = 0 if settings.prepared_type == "float32" else min(images, BLOCK_BYTES)
    if automatic:
        refuse_full_disk(kept, disk)
    wanted = operator_memory(operator) if settings.assembles else 0
    left = None if usable is None else (usable - images - volumes) // 2
    fits = left is None or wanted <= left
    return Plan(
        images=images,
        volumes=volumes,
        operators=wanted if fits else 0,
        operators_wanted=wanted,
        free=free,
        folder=kept or None,
        automatic=automatic,
        disk=disk,
        batch=batch,
        stages=stage_seconds(particles, settings, operator, fits, thread_count() * ranks),
        ranks=ranks,
        treatment=() if background is None else (background.describe(particles.pixel_size),),
    )


def stage_seconds(
    particles: Particles,
    settings: Settings,
    operator: SliceOperator,
    assembled: bool,
    threads: int,
) -> dict[str, float]:
    """Return roughly how long every stage takes, without compilation; H assembled or not."""
    count, voxels = len(particles), int(np.prod(operator.grid.shape))
    samples = count * operator.samples * len(symmetry_matrices(settings.symmetry))
    read = READ_PIXEL * count * particles.box**2
    options = settings.sgd_options(count)
    # Both halves and all: every image twice; every half-map and the map as many iterates.
    if settings.solver == "sgd":
        passes = options["epochs"]
        if options["preconditioner"] == "hutchinson" or options["step"] in ("armijo", "exact"):
            passes *= 2
        if options["variance_reduction"] and not assembled:
            passes *= 2
        iterates = options["epochs"] * -(-2 * count // options["batch_size"])
    elif settings.solver == "wiener":
        passes, iterates = 1, 3
    else:
        passes, iterates = (2 if assembled else CG_PRODUCTS), 3 * CG_PRODUCTS
    solve = 2 * PASS_SAMPLE * passes * samples + ITERATE_VOXEL * iterates * voxels
    prior = ITERATE_VOXEL * PRIOR_PRODUCTS * voxels
    prior += 0 if assembled else PASS_SAMPLE * PRIOR_PRODUCTS * samples
    assemble = ASSEMBLE_SAMPLE * samples + ASSEMBLE_VOXEL * voxels
    looked_at = min(1.0, IMAGES_FOR_NOISE / count)
    shared: dict[str, float] = {}
    if settings.noise != "unit":
        shared["noise"] = 2 * read * looked_at
    if settings.fits_images:
        shared["first reading"] = read
        shared["first half-maps"] = 2 * prior + (assemble if assembled else 0)
        if settings.scale == "fitted":
            shared["scales"] = 2 * PASS_SAMPLE * samples
        if settings.noise == "residuals":
            shared["residuals"] = (read + 2 * PASS_SAMPLE * samples) * looked_at
    shared["reading images"] = read
    if settings.assembles and assembled:
        shared["assembling H"] = assemble
    if settings.regularization is None:
        shared |= {"prior, half 1": prior / 2, "prior, half 2": prior / 2}
    if settings.subset:
        shared["full"] = solve / 2
    else:
        shared |= {"half1": solve / 4, "half2": solve / 4, "full": solve / 2}
    stages = {stage: work / threads * 1e-9 for stage, work in shared.items()}
    return stages | {"writing": WRITE_VOXEL * voxels * 1e-9 + WRITE_SECONDS}


def refuse_other_shells(settings: Settings, operator: SliceOperator, particles: Particles) -> None:
    """Refuse lambda by shell for other shells than those of the map."""
    given, radius = settings.regularization, operator.grid.radius
    if np.ndim(given) == 0 or len(given) == radius + 1:
        return
    length = particles.box * particles.pixel_size
    raise InputError(
        f"regularization: {len(given)} values are given, {radius + 1} are needed: lambda of the "
        f"shells 0 to {radius}, where shell s is at {length:.4g} angstrom / s, the last one "
        f"({length / radius:.4g} angstrom) that of this --box and --maxres"
    )


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Refuse to plan images on a disk that has too little space for them, unless they are there."""
    if folder.exists():
        return
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"{folder}: {needed / GIB:.3g} GiB of prepared images fit neither into memory nor on "
            f"this disk ({free / GIB:.3g} GiB free), crop the images (--box) or name a folder on "
            "another disk (--prepared DIR)"
        )


def operator_for(particles: Particles, settings: Settings) -> SliceOperator:
    """Return the operator that the settings ask for."""
    setup = ImageSet(particles.box, particles.pixel_size, None, None, particles.rotations)
    box = settings.box or particles.box
    radius = radius_of(setup, settings.box, None, settings.maxres)
    return SliceOperator(
        FourierGrid(box, radius),
        settings.interpolation,
        oversampling=settings.oversampling,
        width=settings.width,
        compat=settings.compat,
    )
