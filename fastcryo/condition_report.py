"""What ``fastcryo condition`` does: from poses and CTFs to what limits their reconstruction."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo import condition_files, condition_plot, condition_words, conditioning
from fastcryo.communicator import ALONE, Communicator
from fastcryo.conditioning import (
    RadialCondition,
    ResolutionCondition,
    SpectralDensity,
    WorstDirections,
)
from fastcryo.errors import InputError
from fastcryo.particles import Particles
from fastcryo.problem import KnownPoseProblem
from fastcryo.run_folder import make_folder

Report = Callable[[str, int, int, str], None]

# Spectra are those of the images cropped to this side, unless another is asked for.
SPECTRUM_BOX = 48
BLOCK = 2000
# lambda by shell of the second look, relative to the shell's mean J: what a weak prior does.
PRIOR_SHARE = 0.1
PROBES, STEPS = 4, 40
OUTPUTS = ("conditioning.json", "conditioning.csv", "conditioning.png")


@dataclass(frozen=True, eq=False)
class ConditionReport:
    """The conditioning of a data set.

    Attributes
    ----------
    particles : Particles
    problem : KnownPoseProblem
        Of the cropped images, without data.
    radial : RadialCondition
        Nearest voxel, at full size.
    scaled : dict of list of ResolutionCondition
        By name of the preconditioner: "none", "exact", "gridding", and "exact, prior".
    densities : dict of SpectralDensity
        "none" and "exact".
    directions : WorstDirections
        Of the unscaled H.
    diagonal : ndarray, real half grid
        J of `problem`.
    observed : float
        Factor per iteration of steepest descent with "exact".
    notes : tuple of str
    """

    particles: Particles
    problem: KnownPoseProblem
    radial: RadialCondition
    scaled: dict[str, list[ResolutionCondition]]
    densities: dict[str, SpectralDensity]
    directions: WorstDirections
    diagonal: NDArray = field(repr=False)
    observed: float
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """Return what it means, in plain words."""
        return condition_words.lines(self)


def condition(
    particles: Particles,
    folder: str | os.PathLike,
    *,
    box: int | None = None,
    maxres: float | None = None,
    regularization: float = 1e-8,
    symmetry: str = "C1",
    interpolation: str = "trilinear",
    backend: str = "auto",
    oversampling: float | None = None,
    width: int | None = None,
    overwrite: bool = False,
    report: Report | None = None,
    command: str = "",
    communicator: Communicator = ALONE,
) -> ConditionReport:
    """Measure the conditioning of a data set from its metadata; no image is read.

    Writes ``conditioning.json``, ``conditioning.csv`` and ``conditioning.png``.

    Parameters
    ----------
    particles : Particles
        `fastcryo.read_particles` with ``need_images=False`` will do.
    folder : path
    box : int, optional
        Side that the images are cropped to for the spectra: 48, or the images' unless given.
        Condition numbers by radius are always those of the full images.
    maxres : float, optional
        Highest resolution, angstrom.
    regularization : float
        lambda, in units of the mean 1 / sigma^2 (noise of variance 1 is assumed).
    symmetry : str
        Point group of the map, see `fastcryo.symmetry.symmetry_matrices`.
    interpolation : {"trilinear", "nearest", "kaiser_bessel"}
    backend : {"auto", "cpu", "cuda", "cuda-deterministic"}
    oversampling, width
        Of the window, see `fastcryo.operators.SliceOperator`.
    overwrite : bool
        Replace the files of an earlier run.
    report : callable, optional
        Called with (stage, done, total, detail).
    command : str
        Command line, for the record.
    communicator : Communicator
        The ranks that share the images; rank 0 alone writes.

    Raises
    ------
    InputError
        Input that cannot be used; files already written stay as they are.
    """
    folder = communicator.once(lambda: _open_folder(folder, overwrite))
    report = report or (lambda stage, done, total, detail: None)
    radial = _radial(particles, maxres, regularization, symmetry, backend, report, communicator)

    cropped = min(particles.box, SPECTRUM_BOX) if box is None else box
    report("spectra", 0, 8, "assembling")
    length = particles.box * particles.pixel_size
    reachable = (cropped - 1) // 2
    radius = reachable if maxres is None else min(int(length / maxres + 1e-9), reachable)
    problem = KnownPoseProblem.from_particles(
        particles,
        box=cropped,
        radius=radius,
        regularization=regularization,
        symmetry=symmetry,
        interpolation=interpolation,
        backend=backend,
        oversampling=oversampling,
        width=width,
        metadata_only=True,
        communicator=communicator,
    )
    operator = problem.normal_operator()
    radii = sorted({max(1, problem.grid.radius * part // 4) for part in (1, 2, 4)})
    last = problem.grid.radius
    prior = PRIOR_SHARE * problem.grid.shell_means(operator.diagonal())
    damped_operator = operator.with_regularization(prior)
    damped = damped_operator.problem

    scaled, densities = {}, {}
    jobs = [("none", radii), ("exact", radii), ("gridding", [last])]
    for number, (name, chosen) in enumerate(jobs, 1):
        report("spectra", number, 8, f"eigenvalues, preconditioner {name}")
        scaled[name] = conditioning.kappa_by_resolution(
            problem, None if name == "none" else name, chosen, operator=operator
        )
    report("spectra", 4, 8, "eigenvalues with a prior")
    scaled["exact, prior"] = conditioning.kappa_by_resolution(
        damped, "exact", [last], operator=damped_operator
    )
    for number, name in enumerate(("none", "exact"), 5):
        report("spectra", number, 8, f"density, preconditioner {name}")
        densities[name] = conditioning.spectral_density(
            problem,
            None if name == "none" else name,
            probes=PROBES,
            steps=STEPS,
            operator=operator,
        )
    report("spectra", 7, 8, "rates")
    ends = scaled["exact"][-1].eigenvalues
    result = ConditionReport(
        particles,
        problem,
        radial,
        scaled,
        densities,
        conditioning.worst_directions(problem, scaled["none"][-1].eigenvalues.worst),
        problem.hessian_diagonal(),
        conditioning.observed_rate(problem, ends, "exact", operator=operator),
        (*particles.notes, *operator.notes),
    )
    if communicator.rank == 0:
        condition_files.write_json(folder / "conditioning.json", result, command)
        condition_files.write_csv(folder / "conditioning.csv", result)
        condition_plot.save(folder / "conditioning.png", result)
    report("spectra", 8, 8, "")
    return result


def _open_folder(folder: str | os.PathLike, overwrite: bool) -> Path:
    folder = Path(folder)
    make_folder(folder)
    for name in OUTPUTS:
        if (folder / name).exists() and not overwrite:
            raise InputError(
                f"{folder}: already holds {name}, choose another --out or add --overwrite"
            )
    return folder


def _radial(
    particles: Particles,
    maxres: float | None,
    regularization: float,
    symmetry: str,
    backend: str,
    report: Report,
    communicator: Communicator,
) -> RadialCondition:
    """Sum the nearest-voxel diagonals block by block, so that no table of all samples is kept."""
    count = len(particles)
    communicator.check(count)
    mine = np.arange(count)[communicator.part(count)]
    views = weighted = 0.0
    for start in range(0, len(mine), BLOCK):
        report("condition by radius", start * count // len(mine), count, "")
        some = particles.select(mine[start : start + BLOCK])
        sums = []
        for ctf in (None, some.ctf):
            block = KnownPoseProblem.from_particles(
                replace(some, ctf=ctf),
                resolution=maxres,
                regularization=0.0,
                symmetry=symmetry,
                interpolation="nearest",
                backend=backend,
                metadata_only=True,
            )
            sums.append(block.views(len(block)) * block.hessian_diagonal().astype(np.float64))
        views, weighted = views + sums[0], weighted + sums[1]
    report("condition by radius", count, count, "")
    count = block.views(count)
    views, weighted = communicator.sum(views) / count, communicator.sum(weighted) / count
    length = particles.box * particles.pixel_size
    return conditioning.radial_condition(block.grid, views, weighted, regularization, count, length)
