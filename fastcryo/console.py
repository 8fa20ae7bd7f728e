"""What the commands print, with rich."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from fastcryo.findings import HAND

if TYPE_CHECKING:
    from fastcryo.compare import Comparison
    from fastcryo.demo import Demo
    from fastcryo.particles import Particles
    from fastcryo.postprocess import Postprocessed
    from fastcryo.reporting import Report
    from fastcryo.results import Reconstruction


def new_console() -> Console:
    """Return a console on standard output."""
    return Console(highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress_report(console: Console) -> Iterator[Report]:
    """Show one bar per stage; yields a function of (stage, done, total, detail)."""
    bar = Progress(
        TextColumn("{task.description:<18}", table_column=Column(no_wrap=True, min_width=18)),
        BarColumn(bar_width=16, table_column=Column(min_width=16)),
        TimeRemainingColumn(
            compact=True, elapsed_when_finished=True, table_column=Column(min_width=5)
        ),
        TextColumn("{task.fields[detail]}", table_column=Column(no_wrap=True)),
        console=console,
    )
    tasks = {}

    def report(stage: str, done: int, total: int, detail: str) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total, detail=detail)
        bar.update(tasks[stage], completed=done, total=total, detail=detail)

    with bar:
        yield report


def print_particles(console: Console, particles: Particles) -> None:
    """Print what was read, in two lines, and what is not modelled."""
    counts = np.bincount(particles.half, minlength=3)
    halves = f"half-sets {counts[1]} + {counts[2]}" if counts[0] == 0 else "no half-sets"
    console.print(
        f"{particles.source}: {len(particles)} particles, box {particles.box}, "
        f"{particles.pixel_size:.4g} Å/pixel, {halves}, "
        f"{'CTF' if particles.ctf is not None else 'no CTF'}",
        markup=False,
    )
    for note in particles.notes:
        console.print(f"note: {note}", markup=False)


def print_reconstruction(console: Console, result: Reconstruction) -> None:
    """Print the resolution, notes, the time and where the files are."""
    if result.after is not None:
        print_postprocessed(console, result.after)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    for warning in result.warnings:
        console.print(f"warning: {warning}", markup=False)
    console.print(HAND)
    console.print(f"time: {result.seconds:.1f} s")
    console.print(f"report: {result.folder / 'run_report.html'}")


def print_postprocessed(console: Console, after: Postprocessed) -> None:
    """Print the resolution, that of the directions, and the B-factor."""
    if np.isinf(after.resolution):
        console.print(
            "resolution: none, the half-maps do not correlate even in the first shell; "
            "see fastcryo info for signs of wrong poses, contrast or pixel size"
        )
        return
    where = "half-map FSC 0.143" if after.mask is None else "corrected FSC 0.143"
    line = f"resolution: {after.resolution:.2f} Å ({where})"
    if np.isfinite(after.resolution_half):
        line += f", {after.resolution_half:.2f} Å at 0.5"
    console.print(line)
    low, high = np.quantile(after.directional.resolution, [0.05, 0.95], method="nearest")
    console.print(
        f"directions: {low:.2f} to {high:.2f} Å in 90 % of them, "
        f"area ratio {after.directional.area_ratio:.2f}"
    )
    if after.guinier.fitted:
        console.print(f"B-factor: {after.guinier.b_factor:.0f} Å² (Guinier plot)")


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the resolution and a table of the curve."""
    for line in comparison.lines():
        console.print(line)


def print_demo(console: Console, result: Demo) -> None:
    """Print how good the map is, how the paper's variants end, and where the files are."""
    for line in result.lines():
        console.print(line)
