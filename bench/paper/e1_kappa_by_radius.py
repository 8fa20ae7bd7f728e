"""Condition number by radius of a data set, nearest voxel: bound, without and with CTF."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.paper.tables import markdown_table, number, plot_values
from bench.paper.views import LENGTH, Say, load_views, metadata_problem
from fastcryo.conditioning import condition_number_by_radius

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "E1: condition number of a data set by radius, nearest voxel"
FIGURE = (7, 5)
CURVES = (
    ("bound", "lower bound, no CTF", "k--"),
    ("without_ctf", "no CTF", "C0-"),
    ("with_ctf", "with CTF", "C3-"),
)


@dataclass(frozen=True)
class Settings:
    """Box N and number of images."""

    box: int
    images: int


SIZES = {
    "quick": Settings(box=24, images=800),
    "laptop": Settings(box=128, images=20000),
    "full": Settings(box=192, images=30000),
}


def measure(settings: Settings, say: Say) -> tuple[dict, float]:
    """Return the three curves and the seconds from poses to curves."""
    views = load_views(settings.images)
    say(f"{views.source}, box {settings.box}")
    began = time.perf_counter()
    problem = metadata_problem(views, settings.box, "nearest")
    found = condition_number_by_radius(problem)
    seconds = time.perf_counter() - began
    results = {
        "data": f"{views.source}, box {settings.box}",
        "radius": found.radius,
        "resolution": found.resolution,
        "bound": found.bound,
        "without_ctf": found.without_ctf,
        "with_ctf": found.with_ctf,
        "uncovered": found.uncovered,
        "note": found.note,
    }
    return results, seconds


def table(results: dict) -> list[list]:
    """Return header and rows by radius."""
    names = ["radius", "resolution", "bound", "without_ctf", "with_ctf", "uncovered"]
    return [names, *zip(*(results[name] for name in names), strict=True)]


def draw(figure: Figure, results: dict) -> None:
    """Draw the curves, logarithmic, over the radius in Fourier pixels and in angstrom."""
    axes = figure.subplots()
    for name, label, style in CURVES:
        axes.plot(results["radius"], plot_values(results[name]), style, label=label)
    axes.set_yscale("log")
    axes.set_xlim(0, results["radius"][-1])
    axes.set_xlabel("radius r (Fourier pixels)")
    axes.set_ylabel("κ of H on |k| ≤ r")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, loc="lower right")
    above = axes.secondary_xaxis("top")
    ticks = results["radius"][len(results["radius"]) // 6 - 1 :: len(results["radius"]) // 6]
    above.set_xticks(ticks, [f"{LENGTH / tick:.1f}" for tick in ticks])
    above.set_xlabel("resolution (Å)")


def markdown(record: dict) -> str:
    """Return the curves at a quarter, a half, three quarters and the whole of R."""
    results = record["results"]
    last = len(results["radius"])
    rows = []
    for place in sorted({max(1, last * part // 4) for part in (1, 2, 3, 4)}):
        values = [results[name][place - 1] for name in ("bound", "without_ctf", "with_ctf")]
        angstrom = f"{results['resolution'][place - 1]:.1f} Å"
        rows.append([f"{place} ({angstrom})", *map(number, values)])
    header = ["radius", "lower bound", "κ without CTF", "κ with CTF"]
    uncovered = results["uncovered"][-1]
    return markdown_table(header, rows) + (
        f"\nVoxels that no image sees: {uncovered}.\n" if uncovered else ""
    )
