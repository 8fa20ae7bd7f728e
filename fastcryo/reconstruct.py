"""From particles to half-maps, FSC and report: what ``fastcryo reconstruct`` does."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo import plots
from fastcryo._version import __version__
from fastcryo.assembled import assemble_all, operator_memory
from fastcryo.checkpoint import load_checkpoint, save_checkpoint
from fastcryo.errors import InputError
from fastcryo.fsc import half_map_curves, resolution_at, shell_correlation
from fastcryo.grid import FourierGrid
from fastcryo.io.atomic import replacing
from fastcryo.io.fsc_files import write_fsc_star, write_fsc_xml
from fastcryo.io.mrc import write_map
from fastcryo.lanczos import describe_uncovered
from fastcryo.noise import estimate_noise_std, wiener_prior
from fastcryo.normal import NormalOperator
from fastcryo.operators import SliceOperator
from fastcryo.particles import Particles
from fastcryo.preconditioner import named_diagonal
from fastcryo.preparation import ImageSet, packed_bytes, radius_of
from fastcryo.prepared import read_header
from fastcryo.problem import KnownPoseProblem
from fastcryo.results import Reconstruction, Solution
from fastcryo.rows import BLOCK_BYTES
from fastcryo.settings import Settings
from fastcryo.sgd import Progress, SGDState, sgd
from fastcryo.solvers import conjugate_gradient, lbfgs, wiener

Report = Callable[[str, int, int, str], None]

# The half-maps whose FSC gives the prior are solved with this fraction of the shell's mean J as
# lambda, enough to keep voxels that no image sees from growing.
WEAK_PRIOR = 0.1
PRIOR_TOLERANCE, PRIOR_ITERATIONS = 0.03, 15
MOST_ITERATIONS = 200


def silent(stage: str, done: int, total: int, detail: str) -> None:
    """Report nothing."""


def reconstruct(
    particles: Particles,
    folder: str | os.PathLike,
    settings: Settings | None = None,
    *,
    mask: NDArray | None = None,
    prepared: str | os.PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = silent,
    command: str = "",
) -> Reconstruction:
    """Reconstruct half-maps and the map of all particles, and write everything to a folder.

    Files: ``run_half1_class001_unfil.mrc``, ``run_half2_class001_unfil.mrc``,
    ``run_class001.mrc``, ``run_fsc.star``, ``run_fsc.xml``, ``run_history.json``,
    ``run_report.png``; ``checkpoint_*.npz`` while the run lasts.

    Parameters
    ----------
    particles : Particles
    folder : path
    settings : Settings, optional
    mask : ndarray, optional
        For the FSC, same box as the maps, values 0 to 1.
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

    Returns
    -------
    Reconstruction

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
    folder = open_folder(folder, resume, overwrite)
    identity = fingerprint(particles, settings)

    problem = prepare(particles, settings, report, prepared, overwrite)
    halves = [problem.select(members) for members in half_sets]
    operators, notes = {}, []
    if settings.assembles:
        operators, note = assemble_all(problem, halves, report)
        notes += [note] if note else []
    priors = regularizations(problem, halves, settings, report, operators)
    notes += gaps(problem, settings)
    jobs = {"half1": halves[0], "half2": halves[1], "full": problem}
    if settings.subset:
        jobs = {"full": problem}
    solutions = {}
    for number, (name, job) in enumerate(jobs.items()):
        operator = operators.pop(name, None)
        solutions[name] = solve(
            name,
            job.with_regularization(priors[name]),
            settings,
            operator=operator and operator.with_regularization(priors[name]),
            checkpoint=folder / f"checkpoint_{name}.npz",
            identity=identity,
            resume=resume,
            seed=[settings.seed, number],
            report=report,
        )

    notes += [s.note for s in solutions.values() if s.note]
    report("writing", 0, 1, "")
    pixel_size = problem.grid_pixel_size
    curves = resolution = None
    if settings.subset:
        shown = problem.to_map(solutions["full"].volume)
        write_map(folder / map_name(f"half{settings.subset}"), shown, pixel_size)
    else:
        maps = {name: problem.to_map(s.volume) for name, s in solutions.items()}
        for name, shown in maps.items():
            write_map(folder / map_name(name), shown, pixel_size)
        shown = maps["full"]
        curves = half_map_curves(maps["half1"], maps["half2"], mask, seed=settings.seed)
        resolution = resolution_at(curves.best, 0.143, pixel_size, problem.grid.box)
        names = [map_name("half1"), map_name("half2")]
        write_fsc_star(folder / "run_fsc.star", curves, pixel_size, resolution, names, command)
        write_fsc_xml(folder / "run_fsc.xml", curves, pixel_size)
    seconds = time.perf_counter() - began
    result = Reconstruction(
        folder, solutions, curves, resolution, pixel_size, seconds, tuple(notes)
    )
    write_history(folder / "run_history.json", result, particles, settings, command, prepared)
    plots.save_report(folder / "run_report.png", result, shown)
    for name in jobs:
        (folder / f"checkpoint_{name}.npz").unlink(missing_ok=True)
    report("writing", 1, 1, "")
    return result


def map_name(name: str) -> str:
    """Return the file name of a map, as RELION and its users expect it."""
    return "run_class001.mrc" if name == "full" else f"run_{name}_class001_unfil.mrc"


def open_folder(folder: str | os.PathLike, resume: bool, overwrite: bool) -> Path:
    """Make the output folder; refuse one that holds an earlier run unless told what to do."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}), choose another --out"
        ) from error
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
    return folder


def fingerprint(particles: Particles, settings: Settings) -> str:
    """Return a hash of all that a result depends on."""
    digest = hashlib.sha256(f"{__version__} {settings} {particles.stacks}".encode())
    arrays = [particles.rotations, particles.shifts, particles.half]
    arrays += [particles.stack, particles.slice, np.array([particles.pixel_size, particles.box])]
    if particles.ctf is not None:
        arrays.append(particles.ctf.coefficients())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def prepare(
    particles: Particles,
    settings: Settings,
    report: Report,
    prepared: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> KnownPoseProblem:
    """Estimate the noise, read all images and pack what the objective needs."""
    sigma = 1.0
    if settings.noise == "estimated":
        # All shells up to Nyquist, so that any radius finds its own.
        sigma = estimate_noise_std(
            particles,
            (particles.box - 1) // 2,
            progress=lambda done, total: report("noise", done, total, ""),
        )
    problem = KnownPoseProblem.from_particles(
        particles,
        box=settings.box,
        resolution=settings.maxres,
        noise_std=sigma,
        regularization=0.0,
        symmetry=settings.symmetry,
        interpolation=settings.interpolation,
        invert=settings.invert,
        progress=lambda done, total: report("reading images", done, total, ""),
        store=prepared,
        storage=settings.prepared_type,
        overwrite=overwrite,
    )
    if settings.prepared_type != "float32":
        error = max(read_header(prepared)["relative_rms_error"].values())
        detail = f"{settings.prepared_type}, relative error {error:.1e}"
        report("reading images", len(particles), len(particles), detail)
    return problem


def memory_needed(particles: Particles, settings: Settings, prepared: bool = False) -> int:
    """Return the bytes that the prepared data, the volumes and the assembled H will take.

    Parameters
    ----------
    particles : Particles
    settings : Settings
    prepared : bool
        The prepared data are on disk; only codes of two bytes are decoded, block by block.
    """
    operator = operator_for(particles, settings)
    data = len(particles) * packed_bytes(operator, particles.ctf is not None)
    if prepared:
        data = min(data, 0 if settings.prepared_type == "float32" else BLOCK_BYTES)
    assembled = operator_memory(operator) if settings.assembles else 0
    return data + 12 * int(np.prod(operator.grid.shape)) * 8 + assembled


def disk_needed(particles: Particles, settings: Settings) -> int:
    """Return the bytes that prepared data take on disk."""
    data = len(particles) * packed_bytes(
        operator_for(particles, settings), particles.ctf is not None
    )
    return data if settings.prepared_type == "float32" else data // 2


def operator_for(particles: Particles, settings: Settings) -> SliceOperator:
    """Return the operator that the settings ask for."""
    setup = ImageSet(particles.box, particles.pixel_size, None, None, particles.rotations)
    box = settings.box or particles.box
    radius = radius_of(setup, settings.box, None, settings.maxres)
    return SliceOperator(FourierGrid(box, radius), settings.interpolation)


def regularizations(
    problem: KnownPoseProblem,
    halves: list[KnownPoseProblem],
    settings: Settings,
    report: Report,
    operators: Mapping[str, NormalOperator] | None = None,
) -> dict[str, float | NDArray]:
    """Return lambda of both half-maps and of the full map.

    The Wiener prior is that of the Fourier coefficients V, whose noise is not spread evenly over
    the box; so its FSC is that of the weakly regularised minimisers, before any window or mask.
    `operators` are those of `fastcryo.assembled.assemble_all`, without lambda; without them
    products go through the images.
    """
    if settings.regularization is not None:
        return dict.fromkeys(("half1", "half2", "full"), settings.regularization)
    grid, operators = problem.grid, operators or {}
    diagonals, weak = [], []
    for number, half in enumerate(halves, 1):
        operator = operators.get(f"half{number}")
        diagonal = half.hessian_diagonal() if operator is None else operator.diagonal()
        lam = WEAK_PRIOR * grid.shell_means(diagonal)
        damped = half.with_regularization(lam)

        def tell(iteration: int, residual: float, number: int = number) -> None:
            detail = f"residual {residual:.3f}"
            report(f"prior, half {number}", iteration, PRIOR_ITERATIONS, detail)

        weak.append(
            conjugate_gradient(
                damped,
                diagonal + damped.damping,
                PRIOR_TOLERANCE,
                PRIOR_ITERATIONS,
                callback=tell,
                operator=operator and operator.with_regularization(lam),
            ).volume
        )
        report(f"prior, half {number}", PRIOR_ITERATIONS, PRIOR_ITERATIONS, "")
        diagonals.append(diagonal)
    fsc = smooth(shell_correlation(grid, *weak))
    of_all = sum(len(h) / len(problem) * d for h, d in zip(halves, diagonals, strict=True))
    return {
        "half1": wiener_prior(grid, diagonals[0], fsc),
        "half2": wiener_prior(grid, diagonals[1], fsc),
        "full": wiener_prior(grid, of_all, fsc, halves=2),
    }


def gaps(problem: KnownPoseProblem, settings: Settings) -> list[str]:
    """Say which voxels nothing determines: no image sees them, and lambda is 0."""
    if settings.regularization != 0:
        return []
    unseen = problem.grid.ball() & ~(problem.hessian_diagonal() > 0)
    return [f"{describe_uncovered(problem.grid, unseen)}; they stay zero"] if unseen.any() else []


def smooth(curve: NDArray) -> NDArray:
    """Return a curve averaged over three neighbouring shells."""
    padded = np.pad(curve, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def solve(
    name: str,
    problem: KnownPoseProblem,
    settings: Settings,
    *,
    operator: NormalOperator | None,
    checkpoint: Path,
    identity: str,
    resume: bool,
    seed: list[int],
    report: Report,
) -> Solution:
    """Solve one map with the solver of the settings."""
    lam, note = problem.shell_regularization(), ""
    if settings.solver == "sgd":
        state = None
        if resume and checkpoint.exists():
            state = load_checkpoint(checkpoint, identity)

        def tell(p: Progress) -> None:
            done, total = p.epoch * p.iterations + p.iteration + 1, p.epochs * p.iterations
            detail = f"epoch {p.epoch + 1} loss {p.loss:.6g} step {p.step:.2g}"
            report(f"{name}", done, total, detail)

        def keep(state: SGDState) -> None:
            save_checkpoint(checkpoint, state, identity)

        result = sgd(
            problem,
            rng=np.random.default_rng(seed),
            callback=tell,
            resume=state,
            checkpoint=keep,
            operator=operator if settings.variance_reduction else None,
            **settings.sgd_options(len(problem)),
        )
        diagonal, volume, history = (
            result.preconditioner,
            result.volume,
            asdict(result.history),
        )
    elif settings.solver in ("cg", "lbfgs"):
        minimise = {"cg": conjugate_gradient, "lbfgs": lbfgs}[settings.solver]
        diagonal = named_diagonal(problem, settings.diagonal)
        result = minimise(
            problem,
            diagonal,
            max_iterations=MOST_ITERATIONS,
            callback=lambda i, r: report(name, i, MOST_ITERATIONS, f"residual {r:.2e}"),
            operator=operator,
        )
        volume = result.volume
        if not result.converged:
            note = (
                f"{name}: {settings.solver} did not converge, its residual is "
                f"{result.residual[-1]:.2g} after {len(result.residual) - 1} iterations"
            )
        history = {
            "converged": result.converged,
            "residual": result.residual,
            "epoch_loss": result.loss,
            "epoch_seconds": result.seconds,
        }
        report(name, MOST_ITERATIONS, MOST_ITERATIONS, f"{len(result.residual) - 1} iterations")
    else:
        diagonal = named_diagonal(problem, settings.diagonal)
        volume = wiener(problem, diagonal)
        history = {"epoch_loss": [problem.loss(volume)]}
        report(name, 1, 1, "")
    shells = None if diagonal is None else problem.grid.shell_means(diagonal)
    return Solution(name, volume, lam, history, shells, note)


def write_history(
    path: Path,
    result: Reconstruction,
    particles: Particles,
    settings: Settings,
    command: str,
    prepared: str | os.PathLike | None = None,
) -> None:
    """Write what was done, with what, and how it went, as JSON."""
    curves = None
    if result.curves is not None:
        curves = {
            key: value.tolist() for key, value in asdict(result.curves).items() if value is not None
        }
    record = {
        "version": __version__,
        "command": command,
        "particles": str(particles.source),
        "images": len(particles),
        "image_box": particles.box,
        "image_pixel_size": particles.pixel_size,
        "map_pixel_size": result.pixel_size,
        "settings": asdict(settings),
        "prepared": None
        if prepared is None
        else {
            "folder": str(prepared),
            "relative_rms_error": read_header(prepared)["relative_rms_error"],
        },
        "notes": [*particles.notes, *result.notes],
        "resolution": result.resolution if np.isfinite(result.resolution or 0) else None,
        "fsc": curves,
        "seconds": result.seconds,
        "maps": {
            name: {
                "regularization": s.regularization,
                "preconditioner_by_shell": None
                if s.preconditioner is None
                else s.preconditioner.tolist(),
                **s.history,
            }
            for name, s in result.solutions.items()
        },
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
