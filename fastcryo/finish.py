"""The end of a reconstruction: maps, FSC, warnings, record and reports, from the solutions."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from fastcryo import plots
from fastcryo.findings import map_findings, particle_findings
from fastcryo.html_report import save_html_report
from fastcryo.io.mrc import write_map
from fastcryo.masks import mask_from_map
from fastcryo.particles import Particles
from fastcryo.postprocess import Postprocessed, postprocess
from fastcryo.postprocess_files import write_postprocessed
from fastcryo.problem import KnownPoseProblem
from fastcryo.record import write_history
from fastcryo.results import Reconstruction, Solution
from fastcryo.run_folder import map_name
from fastcryo.settings import Settings


@dataclass(frozen=True, eq=False)
class Run:
    """What a run is about.

    Attributes
    ----------
    folder : Path
    particles : Particles
    settings : Settings
    mask : ndarray, "auto" or None
    noise : ndarray or None
        sigma by shell; None for 1.
    command : str
    prepared : path or None
    began : float
        By `time.perf_counter`.
    """

    folder: Path
    particles: Particles
    settings: Settings
    mask: NDArray | str | None
    noise: NDArray | None
    command: str
    prepared: str | os.PathLike | None
    began: float


def finish(
    run: Run, problem: KnownPoseProblem, solutions: dict[str, Solution], notes: list[str]
) -> Reconstruction:
    """Write all files of a run but the checkpoints; return what it made."""
    pixel_size, radius, settings = problem.grid_pixel_size, problem.grid.radius, run.settings
    maps = {name: problem.to_map(s.volume) for name, s in solutions.items()}
    if settings.subset:
        maps = {f"half{settings.subset}": maps["full"]}
    for name, volume in maps.items():
        write_map(run.folder / map_name(name), volume, pixel_size)
    shown = maps.get("full", next(iter(maps.values())))
    after = None
    if not settings.subset:
        after = _after(run, maps, pixel_size, solutions["full"], radius)
        named = [map_name("half1"), map_name("half2")]
        write_postprocessed(run.folder, "run", after, pixel_size, named, run.command)
    warnings = particle_findings(run.particles, radius, settings.symmetry)
    given = None if isinstance(run.mask, str) else run.mask
    warnings += map_findings(
        shown, pixel_size, radius, after and after.curves, after and after.directional, given
    )
    result = Reconstruction(
        folder=run.folder,
        solutions=solutions,
        after=after,
        pixel_size=pixel_size,
        seconds=time.perf_counter() - run.began,
        notes=tuple(notes),
        warnings=tuple(warnings),
        image_scales=run.particles.scale,
    )
    write_history(
        run.folder / "run_history.json",
        result,
        run.particles,
        settings,
        run.command,
        run.prepared,
    )
    plots.save_report(run.folder / "run_report.png", result, shown)
    save_html_report(run.folder / "run_report.html", run, result, shown)
    return result


def _after(
    run: Run, maps: dict[str, NDArray], pixel_size: float, solution: Solution, radius: int
) -> Postprocessed:
    from_map = isinstance(run.mask, str)
    return postprocess(
        maps["half1"],
        maps["half2"],
        maps["full"],
        pixel_size,
        mask_from_map(maps["full"], pixel_size) if from_map else run.mask,
        kept=solution.kept,
        radius=radius,
        seed=run.settings.seed,
    )
