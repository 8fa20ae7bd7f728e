"""From particles to half-maps, FSC and report: what ``fastcryo reconstruct`` does."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo import plots
from fastcryo.assembled import assemble_all
from fastcryo.communicator import ALONE, Communicator
from fastcryo.errors import InputError
from fastcryo.finish import Run, finish
from fastcryo.forecast import plan_run
from fastcryo.free_memory import free_memory
from fastcryo.image_fit import first_maps, fitted_scales, residual_noise
from fastcryo.masks import AUTO, mask_for
from fastcryo.noise import estimate_noise_by_group
from fastcryo.particles import Particles
from fastcryo.prepared import read_header
from fastcryo.prior import gaps, regularizations, shell_weights
from fastcryo.problem import KnownPoseProblem
from fastcryo.reporting import Report, logged, silent, with_time_left
from fastcryo.results import Reconstruction
from fastcryo.run_folder import fingerprint, open_folder
from fastcryo.scales import with_recorded_scales
from fastcryo.settings import Settings
from fastcryo.solve_map import solve

# Images on disk while they are compared with first half-maps, in the output folder.
FIRST_STORE = "prepared-first"


def reconstruct(
    particles: Particles,
    folder: str | os.PathLike,
    settings: Settings | None = None,
    *,
    mask: str | os.PathLike | NDArray | None = None,
    prepared: str | os.PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = silent,
    command: str = "",
    communicator: Communicator = ALONE,
) -> Reconstruction | None:
    """Reconstruct half-maps and the map of all particles, and write everything to a folder.

    Files: ``run_half1_class001_unfil.mrc``, ``run_half2_class001_unfil.mrc``,
    ``run_class001.mrc``, ``run_class001_sharp.mrc``, ``run_fsc.star``, ``run_fsc.xml``,
    ``run_fsc.png``, ``run_history.json``, ``run_report.png``; ``run_mask.mrc`` with a mask;
    ``run_report.html``, ``run.log``, ``progress.jsonl``;
    ``checkpoint_*.npz`` while the run lasts.

    Parameters
    ----------
    particles : Particles
    folder : path
    settings : Settings, optional
    mask : str, path or ndarray, optional
        For the FSC: "auto" (from the map), "sphere" or "sphere:RADIUS" in angstrom, a file, or
        values 0 to 1 in the box of the maps.
    prepared : path, optional
        Folder that keeps the prepared images on disk, for this run and later ones; see
        `fastcryo.problem.KnownPoseProblem.from_particles`.
    resume : bool
        Go on after the last epochs that a killed run of the same command has finished.
    overwrite : bool
        Replace the files of an earlier run.
    report : callable
        Called with (stage, done, total, detail).
    command : str
        Command line, for the record.
    communicator : Communicator
        The ranks that share the images; rank 0 alone writes.

    Returns
    -------
    Reconstruction
        None on ranks other than 0.

    Raises
    ------
    InputError
        Input that cannot be used; files already written stay as they are.
    """
    began = time.perf_counter()
    settings = Settings() if settings is None else settings
    if prepared is None and settings.prepared_type != "float32":
        raise InputError(
            f"prepared type: {settings.prepared_type} goes with prepared images on disk, "
            "name a folder for them by --prepared"
        )
    if settings.subset:
        particles = particles.select(np.flatnonzero(particles.half == settings.subset))
        if len(particles) == 0:
            raise InputError(
                f"{particles.source}: no particle has rlnRandomSubset {settings.subset}, "
                "leave out --subset"
            )
    half_sets = particles.half_sets(settings.seed)
    for number, members in enumerate(half_sets, 1):
        if len(members) == 0:
            raise InputError(
                f"{particles.source}: half-set {number} is empty, at least two particles with "
                "different rlnRandomSubset are needed"
            )
    out = communicator.once(lambda: open_folder(folder, resume, overwrite))
    if not (isinstance(mask, str) and mask == AUTO):
        box = settings.box or particles.box
        mask = mask_for(mask, box, particles.pixel_size * particles.box / box)
    free = free_memory(communicator)
    plan = communicator.once(
        lambda: plan_run(particles, settings, prepared, out, free, communicator.size)
    )
    heading = [command or "called from Python", *plan.lines()]
    particles = replace(particles, background=settings.background(particles))
    notes: list[str] = []
    if settings.scale == "file":
        particles, notes = communicator.once(lambda: with_recorded_scales(particles))
    first = communicator.rank == 0
    logs = logged(out, report, heading, resume) if first else contextlib.nullcontext(silent)
    with logs as log:
        tell = with_time_left(log, plan.stages)
        found = prepare(
            particles,
            half_sets,
            settings,
            tell,
            plan.folder,
            overwrite or plan.automatic,
            out / FIRST_STORE,
            communicator,
        )
        run = Run(out, found.particles, settings, mask, found.noise, command, plan.folder, began)
        notes = [*notes, *found.notes]
        result = solve_and_finish(run, found.problem, half_sets, tell, resume, notes)
    if plan.automatic and first:
        shutil.rmtree(plan.folder)
    return result


def solve_and_finish(
    run: Run,
    problem: KnownPoseProblem,
    half_sets: tuple[NDArray, NDArray],
    report: Report,
    resume: bool,
    notes: list[str],
) -> Reconstruction | None:
    """Solve the half-maps and the map of all images; rank 0 writes all files of the run.

    `notes` say what was done to the images.
    """
    settings, folder = run.settings, run.folder
    if problem.communicator.rank == 0:
        plots.get_ready()
    identity = fingerprint(run.particles, settings)
    halves = [problem.select(members) for members in half_sets]
    operators, note = {}, ""
    if settings.assembles:
        operators, note = assemble_all(problem, halves, report)
    priors = regularizations(problem, halves, settings, report, operators)
    notes = [*notes, *([note] if note else []), *gaps(problem, settings)]
    jobs = {"half1": halves[0], "half2": halves[1], "full": problem}
    if settings.subset:
        jobs = {"full": problem}
    solutions = {}
    for number, (name, job) in enumerate(jobs.items()):
        operator = operators.pop(name, None)
        weights = shell_weights(job, operator)
        solution = solve(
            name,
            job.with_regularization(priors[name]),
            settings,
            operator=operator and operator.with_regularization(priors[name]),
            checkpoint=folder / f"checkpoint_{name}.npz",
            identity=identity,
            resume=resume,
            seed=[settings.seed, number],
            report=report,
            other_half=solutions["half1"].volume if name == "half2" else None,
        )
        solutions[name] = replace(solution, weights=weights)

    if problem.communicator.rank > 0:
        return None
    notes += [s.note for s in solutions.values() if s.note]
    report("writing", 0, 1, "")
    result = finish(run, problem, solutions, notes)
    for name in jobs:
        (folder / f"checkpoint_{name}.npz").unlink(missing_ok=True)
    report("writing", 1, 1, "", resolution=result.resolution)
    return result


@dataclass(frozen=True, eq=False)
class Prepared:
    """What `prepare` made.

    Attributes
    ----------
    problem : KnownPoseProblem
        Without lambda.
    particles : Particles
        With their scales.
    noise : ndarray, shape (shells,) or (g, shells), or None
        sigma by shell, of all images or of each noise group; None for 1.
    notes : tuple of str
        What was found out about the images.
    """

    problem: KnownPoseProblem
    particles: Particles
    noise: NDArray | None
    notes: tuple[str, ...] = ()


def prepare(
    particles: Particles,
    half_sets: tuple[NDArray, NDArray],
    settings: Settings,
    report: Report,
    prepared: Path | None,
    overwrite: bool,
    first_store: Path,
    communicator: Communicator = ALONE,
) -> Prepared:
    """Estimate the noise, read all images and pack what the objective needs.

    Where images are to be compared with first half-maps they are read twice; if `prepared` is
    given, they lie in the folder `first_store` the first time, which is removed.
    """
    sigma = groups = None
    if settings.noise != "unit":
        # All shells up to Nyquist, so that any radius finds its own.
        sigma, groups = estimate_noise_by_group(
            particles,
            (particles.box - 1) // 2,
            progress=lambda done, total: report("noise", done, total, ""),
            communicator=communicator,
        )

    def build(stage: str, folder: Path | None, kind: str, replace_it: bool) -> KnownPoseProblem:
        return KnownPoseProblem.from_particles(
            particles,
            box=settings.box,
            resolution=settings.maxres,
            noise_std=1.0 if sigma is None else sigma,
            noise_group=groups,
            regularization=0.0,
            symmetry=settings.symmetry,
            interpolation=settings.interpolation,
            backend=settings.backend,
            oversampling=settings.oversampling,
            width=settings.width,
            compat=settings.compat,
            invert=settings.invert,
            progress=lambda done, total: report(stage, done, total, ""),
            store=folder,
            storage=kind,
            overwrite=replace_it,
            communicator=communicator,
        )

    notes: list[str] = []
    if settings.fits_images:
        problem = build("first reading", prepared and first_store, "float32", True)
        maps = first_maps(problem, half_sets, settings, report)
        if settings.scale == "fitted":
            scales = fitted_scales(maps, problem, report)
            if scales is None:
                notes.append("scales: the first half-maps agree in no shell, they are left at 1")
            else:
                particles = replace(particles, scale=scales.values)
                notes.append(scales.describe())
        if settings.noise == "residuals":
            found = residual_noise(particles, problem, maps, sigma, groups, report)
            sigma, groups = found.sigma, found.groups
            notes.append(found.describe())
        del problem, maps
        communicator.wait()
        if prepared and communicator.rank == 0:
            shutil.rmtree(first_store)
    problem = build("reading images", prepared, settings.prepared_type, overwrite)
    if settings.prepared_type != "float32":
        error = max(read_header(prepared)["relative_rms_error"].values())
        detail = f"{settings.prepared_type}, relative error {error:.1e}"
        report("reading images", len(particles), len(particles), detail)
    return Prepared(problem, particles, sigma, tuple(notes))
