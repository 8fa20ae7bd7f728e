"""Condition number for uniform orientations over box sizes, nearest voxel, no CTF."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import fastcryo as fc
from bench.paper.tables import markdown_table, number
from bench.paper.views import REGULARIZATION, Say
from fastcryo.conditioning import lower_bound
from fastcryo.rotations import random_rotations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "E2: condition number of uniform orientations over box sizes, nearest voxel"
FIGURE = (7, 5)
PUBLISHED_SECONDS = 977


@dataclass(frozen=True)
class Settings:
    """Number of images, draws per size, number of sizes up to the largest box, seed."""

    images: int
    draws: int
    sizes: int
    largest: int
    seed: int = 0

    @property
    def boxes(self) -> list[int]:
        """Even numbers next to multiples of largest / sizes."""
        return [2 * round(self.largest * i / self.sizes / 2) for i in range(1, self.sizes + 1)]


SIZES = {
    "quick": Settings(images=600, draws=3, sizes=3, largest=30),
    "laptop": Settings(images=10000, draws=10, sizes=8, largest=128),
    "full": Settings(images=10000, draws=10, sizes=20, largest=304),
}


def measure(settings: Settings, say: Say) -> tuple[dict, float]:
    """Return condition numbers of all draws, and the seconds for all of them."""
    began, used = time.perf_counter(), time.process_time()
    condition, least, seconds = [], [], []
    for box in settings.boxes:
        start = time.perf_counter()
        found = [draw_once(settings, box, draw) for draw in range(settings.draws)]
        condition.append([kappa for kappa, _ in found])
        least.append([count for _, count in found])
        seconds.append(time.perf_counter() - start)
        say(f"box {box}: κ = {np.mean(condition[-1]):.4g}, {seconds[-1]:.1f} s")
    radii = [(box - 1) // 2 for box in settings.boxes]
    total = settings.images * REGULARIZATION
    results = {
        "data": f"{settings.images} uniform orientations, {settings.draws} draws per size",
        "box": settings.boxes,
        "radius": radii,
        "bound": [lower_bound(settings.images, radius, total) for radius in radii],
        "condition": condition,
        "least_met": least,
        "mean": np.mean(condition, axis=1),
        "deviation": np.std(condition, axis=1, ddof=1),
        "seconds": seconds,
        "processor_seconds": time.process_time() - used,
    }
    return results, time.perf_counter() - began


def draw_once(settings: Settings, box: int, draw: int) -> tuple[float, int]:
    """Return the condition number of one draw, and how often its thinnest voxel is met."""
    rotations = random_rotations(settings.images, np.random.default_rng((settings.seed, box, draw)))
    problem = fc.KnownPoseProblem.from_arrays(
        None, rotations, 1.0, N=box, regularization=REGULARIZATION, interpolation="nearest"
    )
    diagonal = problem.hessian_diagonal()[problem.grid.ball()]
    low, high = float(diagonal.min()), float(diagonal.max())
    return high / low, round(settings.images * (low - REGULARIZATION))


def table(results: dict) -> list[list]:
    """Return header and rows by box."""
    names = ["box", "radius", "bound", "mean", "deviation", "seconds"]
    draws = len(results["condition"][0])
    header = names + [f"kappa_{i + 1}" for i in range(draws)]
    columns = zip(*(results[name] for name in names), strict=True)
    return [header] + [
        [*row, *kappas] for row, kappas in zip(columns, results["condition"], strict=True)
    ]


def draw(figure: Figure, results: dict) -> None:
    """Draw mean, standard deviation and extremes of the draws over the bound."""
    axes = figure.subplots()
    radius, mean = np.array(results["radius"]), np.array(results["mean"])
    draws = np.array(results["condition"])
    axes.fill_between(
        radius, draws.min(axis=1), draws.max(axis=1), color="C0", alpha=0.2, lw=0, label="extremes"
    )
    low = np.minimum(results["deviation"], mean - results["bound"])
    label = "mean ± standard deviation"
    bars = [low, results["deviation"]]
    axes.errorbar(radius, mean, bars, fmt="o-", ms=4, capsize=3, label=label)
    axes.plot(radius, results["bound"], "k--", label="bound (n + λ) / (n p + λ)")
    axes.set_yscale("log")
    axes.set_xlabel("radius R (Fourier pixels)")
    axes.set_ylabel("κ of H")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, loc="lower right")
    above = axes.secondary_xaxis("top")
    shown = slice(None, None, max(1, len(radius) // 10))
    above.set_xticks(radius[shown], results["box"][shown])
    above.set_xlabel("box N")


def markdown(record: dict) -> str:
    """Return the table over some of the sizes, and the seconds."""
    results = record["results"]
    count = len(results["box"])
    places = sorted({round(i) for i in np.linspace(0, count - 1, min(count, 7))})
    rows = []
    for i in places:
        spread = f"{number(results['mean'][i])} ± {number(results['deviation'][i])}"
        least = f"{min(results['least_met'][i])} to {max(results['least_met'][i])}"
        bound, seconds = number(results["bound"][i]), f"{results['seconds'][i]:.1f}"
        rows.append([str(results["box"][i]), bound, spread, least, seconds])
    header = ["box", "lower bound", "κ (mean ± std of the draws)", "thinnest voxel is met", "s"]
    text = markdown_table(header, rows)
    text += (
        f"\n{count} sizes, {len(results['condition'][0])} draws each: {record['seconds']:.0f} s, "
        f"{results['processor_seconds']:.0f} s of processor time"
    )
    if record["size"] == "full":
        text += f"; the published run took {PUBLISHED_SECONDS} s on a data-centre GPU"
    return text + ".\n"
