"""What the commands print, with rich."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from fastcryo.compare import Comparison
    from fastcryo.demo import Demo
    from fastcryo.particles import Particles
    from fastcryo.reporting import Report
    from fastcryo.results import Reconstruction


def new_console() -> Console:
    """Return a console on standard output."""
    return Console(highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress_report(console: Console) -> Iterator[Report]:
    """Show one bar per stage; yields a function of (stage, done, total, detail)."""
    bar = Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=16),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[detail]}"),
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
        f"{'CTF' if particles.ctf is not None else 'no CTF'}"
    )
    for note in particles.notes:
        console.print(f"note: {note}")


def print_reconstruction(console: Console, result: Reconstruction) -> None:
    """Print the resolution, notes, the time and where the files are."""
    if result.resolution is not None and np.isinf(result.resolution):
        console.print(
            "resolution: none, the half-maps do not correlate even in the first shell; "
            "see fastcryo info for signs of wrong poses, contrast or pixel size"
        )
    elif result.resolution is not None:
        console.print(f"resolution: {result.resolution:.2f} Å (half-map FSC 0.143)")
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"time: {result.seconds:.1f} s")
    console.print(f"report: {result.folder / 'run_report.png'}")


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the resolution and a table of the curve."""
    for line in comparison.lines():
        console.print(line)


def print_demo(console: Console, result: Demo) -> None:
    """Print how good the map is, how the paper's variants end, and where the files are."""
    for line in result.lines():
        console.print(line)
