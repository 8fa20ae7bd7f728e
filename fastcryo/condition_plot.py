"""The picture of ``fastcryo condition``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from fastcryo.conditioning import predicted_rate
from fastcryo.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastcryo.condition_report import ConditionReport

LABELS = {"none": "H", "exact": "scaled by diag H", "gridding": "scaled by gridding weight"}
COLOURS = {"none": "C3", "exact": "C0", "gridding": "C2", "exact, prior": "C4"}


def save(path: str | os.PathLike, result: ConditionReport) -> None:
    """Draw condition numbers, spectra, and where the worst voxels are.

    Parameters
    ----------
    path : path
        PNG.
    result : ConditionReport
    """
    figure = new_figure(14, 8)
    axes = figure.subplot_mosaic([["radius", "density", "rates"], ["shells", "sphere", "sphere"]])
    _by_radius(axes["radius"], result)
    _densities(axes["density"], result)
    _rates(axes["rates"], result)
    _shells(axes["shells"], result)
    _sphere(figure, axes["sphere"], result)
    count, box = len(result.particles), result.particles.box
    figure.suptitle(f"{result.particles.source.name}: {count} particles, box {box}")
    save_figure(path, figure)


def _by_radius(axes: Axes, result: ConditionReport) -> None:
    radial = result.radial
    axes.set_title("condition number by resolution")
    for label, values, style in (
        ("bound without CTF", radial.bound, "k--"),
        ("nearest, without CTF", radial.without_ctf, "C1-"),
        ("nearest, with CTF", radial.with_ctf, "C5-"),
    ):
        axes.plot(radial.radius, np.where(np.isfinite(values), values, np.nan), style, label=label)
    window = result.problem.operator.interpolation
    for name in ("none", "exact", "exact, prior"):
        entries = [e for e in result.scaled[name] if np.isfinite(e.eigenvalues.condition_number)]
        if not entries:
            continue
        middle = np.array([e.eigenvalues.condition_number for e in entries])
        ranges = np.array([e.eigenvalues.condition_range for e in entries])
        ranges[:, 1] = np.where(np.isfinite(ranges[:, 1]), ranges[:, 1], 10 * middle)
        bars = np.abs(ranges - middle[:, None]).T
        label = f"{window}, " + LABELS.get(name, "scaled, weak prior")
        radii = [e.radius for e in entries]
        axes.errorbar(radii, middle, bars, fmt="o-", ms=4, color=COLOURS[name], label=label)
    axes.set_yscale("log")
    ticks = np.unique(np.linspace(0, radial.radius[-1], 6).astype(int)[1:])
    axes.set_xticks(ticks, [f"{radial.resolution[t - 1]:.1f}" for t in ticks])
    axes.set_xlabel("resolution (Å)")
    axes.legend(frameon=False, fontsize=7)


def _densities(axes: Axes, result: ConditionReport) -> None:
    axes.set_title("eigenvalues per decade (± 2 s.e.)")
    for name, d in result.densities.items():
        axes.plot(d.values, d.density, color=COLOURS[name], label=LABELS[name])
        low, high = d.density - 2 * d.error, d.density + 2 * d.error
        axes.fill_between(d.values, low, high, color=COLOURS[name], alpha=0.3, lw=0)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("eigenvalue")
    axes.legend(frameon=False, fontsize=8)


def _rates(axes: Axes, result: ConditionReport) -> None:
    axes.set_title("worst error after so many full steps")
    steps = np.arange(0, 201)
    for name, entries in result.scaled.items():
        ends = entries[-1].eigenvalues
        kappa, (low, high) = ends.condition_number, ends.condition_range
        label = f"{LABELS.get(name, 'scaled, weak prior')}, κ = {low:.3g} to {high:.3g}"
        axes.plot(steps, predicted_rate(kappa) ** steps, color=COLOURS[name], label=label)
    axes.plot(steps, result.observed**steps, "C0:", label="scaled by diag H, observed")
    kappa = result.scaled["exact"][-1].eigenvalues.condition_number
    if np.isfinite(kappa):
        root = predicted_rate(np.sqrt(kappa))
        axes.plot(steps, np.minimum(2 * root**steps, 1), "C0--", label="the same, CG's bound")
    axes.set_yscale("log")
    axes.set_ylim(1e-6, 2)
    axes.set_xlabel("products with H")
    axes.legend(frameon=False, fontsize=7)


def _shells(axes: Axes, result: ConditionReport) -> None:
    """Draw how the weight falls with resolution, and which shells are worst."""
    grid, diagonal = result.problem.grid, result.diagonal
    shells, inside = grid.shells(), grid.ball()
    axes.set_title("diag H by shell; slowest part")
    parts = [diagonal[(shells == s) & inside] for s in range(grid.radius + 1)]
    low, high = [p.min() for p in parts], [p.max() for p in parts]
    axes.fill_between(range(grid.radius + 1), low, high, alpha=0.3, lw=0, label="least to most")
    axes.plot([p.mean() for p in parts], label="mean")
    axes.set_yscale("log")
    axes.set_xlabel("shell")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    beside = axes.twinx()
    beside.bar(range(grid.radius + 1), result.directions.shares, color="C3", alpha=0.4)
    beside.set_ylabel("share of the slowest part", color="C3")
    beside.set_ylim(0, 1)


def _sphere(figure: Figure, axes: Axes, result: ConditionReport) -> None:
    """Draw diag H over the directions of the worst shell."""
    directions = result.directions
    grid, shell = result.problem.grid, directions.shell
    chosen = np.argwhere((np.abs(grid.shells() - shell) <= 1) & grid.ball())
    values = result.diagonal[tuple(chosen.T)]
    z, y, x = (chosen - [0, grid.centre, grid.centre]).T
    length = np.sqrt(x**2 + y**2 + z**2)
    shown = axes.scatter(
        np.degrees(np.arctan2(y, x)),
        z / np.maximum(length, 1),
        c=np.maximum(values / values.mean(), 1e-3),
        norm="log",
        s=40000 / len(values),
        cmap="viridis",
    )
    figure.colorbar(shown, ax=axes, label="diag H over its mean")
    for vector, mark, label in (
        (directions.direction, "r*", "axis of the slowest part"),
        (directions.thinnest, "w^", "thinnest voxel"),
    ):
        u, v, w = vector * (1 if vector[2] >= 0 else -1)
        axes.plot(np.degrees(np.arctan2(v, u)), w, mark, ms=11, mec="k", label=label)
    axes.set_title(f"coverage of directions in shell {shell}")
    axes.set_xlabel("rot (degrees)")
    axes.set_ylabel("cos tilt")
    axes.set_xlim(-180, 180)
    axes.set_ylim(-0.03, 1.05)
    axes.legend(frameon=True, fontsize=8, loc="upper right")
