"""Pictures of correlations: by shell, by direction, and the Guinier plot."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from fastcryo.plots import new_figure, resolution_axis, save_figure, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastcryo.directional import DirectionalFSC
    from fastcryo.fsc import FSCCurves
    from fastcryo.guinier import GuinierPlot
    from fastcryo.postprocess import Postprocessed

THRESHOLDS = (0.5, 0.143)


def save_fsc_figure(path: str | os.PathLike, after: Postprocessed, pixel_size: float) -> None:
    """Draw curves, cones and the Guinier plot as PNG."""
    save_figure(path, fsc_figure(after, pixel_size))


def fsc_figure(after: Postprocessed, pixel_size: float) -> Figure:
    """Return a figure of four panels: FSC, FSC in cones, resolution by direction, Guinier plot."""
    figure = new_figure(
        12, 8.4, left=0.06, right=0.97, bottom=0.075, top=0.95, wspace=0.2, hspace=0.3
    )
    axes = figure.subplots(2, 2)
    draw_curves(axes[0, 0], after.curves, pixel_size)
    _draw_cones(axes[0, 1], after.directional, after.curves.box * pixel_size)
    _draw_directions(axes[1, 0], after.directional)
    _draw_guinier(axes[1, 1], after.guinier, after.resolution)
    return figure


def draw_curves(axes: Axes, curves: FSCCurves, pixel_size: float) -> None:
    """Draw all curves with the thresholds 0.5 and 0.143."""
    axes.set_title("half-map FSC")
    for label in ("unmasked", "masked", "randomised", "corrected"):
        values = getattr(curves, label)
        if values is not None:
            axes.plot(values, label=label, lw=1.4)
    for threshold in THRESHOLDS:
        axes.axhline(threshold, color="0.5", lw=0.8, ls="--")
        axes.annotate(
            f"{threshold:g}",
            (1, threshold),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 1),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    axes.axhline(0, color="0.8", lw=0.8)
    axes.set_ylim(-0.1, 1.02)
    resolution_axis(axes, curves.box * pixel_size, len(curves.unmasked))
    axes.legend(frameon=False)


def _draw_cones(axes: Axes, cones: DirectionalFSC, length: float) -> None:
    axes.set_title("FSC in cones of 20°")
    count = cones.curves.shape[1]
    shells = np.arange(cones.first_shell, count)
    curves = cones.curves[:, shells]
    mean, spread = curves.mean(axis=0), curves.std(axis=0)
    axes.bar(
        shells,
        cones.share_above[shells],
        width=1,
        color="tab:blue",
        alpha=0.2,
        label=f"share of directions above {cones.threshold:g}",
    )
    axes.fill_between(shells, mean - spread, mean + spread, color="tab:orange", alpha=0.3)
    axes.plot(shells, mean, color="tab:orange", label="mean ± standard deviation")
    axes.plot(shells, curves.min(axis=0), color="tab:red", lw=0.8, label="worst, best")
    axes.plot(shells, curves.max(axis=0), color="tab:red", lw=0.8)
    axes.axhline(cones.threshold, color="0.5", lw=0.8, ls="--")
    axes.set_ylim(-0.1, 1.02)
    resolution_axis(axes, length, count)
    axes.legend(frameon=False, fontsize=8)


def _draw_directions(axes: Axes, cones: DirectionalFSC) -> None:
    """Draw resolutions over the half-sphere seen along z, equal areas (Lambert)."""
    axes.set_title(f"resolution by direction (Å), area ratio {cones.area_ratio:.2f}")
    resolved = np.isfinite(cones.resolution)
    if not resolved.any():
        say(axes, "no direction is resolved")
        return
    x, y, z = cones.directions.T
    stretch = np.sqrt(2 / (1 + z))
    axes.scatter(*(v[~resolved] * stretch[~resolved] for v in (x, y)), color="k", marker="x", s=20)
    low, high = np.quantile(cones.resolution[resolved], [0.02, 0.98])
    points = axes.scatter(
        x[resolved] * stretch[resolved],
        y[resolved] * stretch[resolved],
        c=cones.resolution[resolved],
        vmin=low,
        vmax=max(high, low * 1.01),
        cmap="viridis_r",
        s=90,
        edgecolors="none",
    )
    axes.figure.colorbar(points, ax=axes, shrink=0.85)
    axes.set_aspect("equal")
    axes.set_xlim(-1.5, 1.5)
    axes.set_ylim(-1.5, 1.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("x (z towards the eye, rim: equator; equal areas)")
    axes.set_ylabel("y")


def _draw_guinier(axes: Axes, plot: GuinierPlot, resolution: float) -> None:
    axes.set_title("Guinier plot")
    if not np.isfinite(resolution):
        say(axes, "no resolution")
        return
    shown = plot.squared <= 1.3 / resolution**2
    squared = plot.squared[shown]
    axes.plot(squared, plot.original[shown], label="map")
    axes.plot(squared, plot.weighted[shown], label="weighted by FSC")
    sharpened = plot.weighted[shown] + plot.b_factor / 4 * squared
    axes.plot(squared, sharpened, label=f"sharpened by B = {plot.b_factor:.0f} Å²")
    if plot.fitted:
        axes.plot(squared, plot.intercept - plot.b_factor / 4 * squared, "k--", lw=0.9, label="fit")
    axes.axvline(resolution**-2, color="0.5", lw=0.8, ls=":")
    axes.set_xlabel("s² (1/Å²); dotted: resolution")
    axes.set_ylabel("ln mean |F|")
    axes.legend(frameon=False)
