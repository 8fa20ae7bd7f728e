"""Pictures; matplotlib is imported only when one is drawn."""

from __future__ import annotations

import importlib
import os
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastcryo.io.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastcryo.results import Reconstruction

NAMES = {"half1": "half 1", "half2": "half 2", "full": "all"}


def get_ready() -> Thread:
    """Begin to import matplotlib beside the computation; it takes half a second."""
    thread = Thread(target=importlib.import_module, args=("matplotlib.figure",), daemon=True)
    thread.start()
    return thread


def new_figure(width: float, height: float, **margins: float) -> Figure:
    """Return a figure that needs no display.

    Without margins (left, right, bottom, top, wspace, hspace) matplotlib finds them, for which it
    draws everything twice.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=None if margins else "constrained", dpi=110)
    if margins:
        figure.subplots_adjust(**margins)
    return figure


def save_figure(path: str | os.PathLike, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def save_report(path: str | os.PathLike, result: Reconstruction, shown: NDArray) -> None:
    """Draw central slices, FSC, loss by epoch, step sizes and preconditioner by shell.

    Parameters
    ----------
    path : path
        PNG.
    result : Reconstruction
    shown : ndarray, shape (N, N, N)
        The map to show.
    """
    figure = new_figure(
        14, 7.5, left=0.055, right=0.985, bottom=0.075, top=0.9, hspace=0.36, wspace=1.8
    )
    top, bottom = ["slices"] * 8 + ["fsc"] * 4, ["loss", "steps", "diagonal", "prior"]
    axes = figure.subplot_mosaic(
        [top, [name for name in bottom for _ in range(3)]], height_ratios=[1.25, 1]
    )
    box = len(shown)
    _slices(axes["slices"], shown, result.pixel_size)
    _fsc(axes["fsc"], result)
    _loss(axes["loss"], result)
    _steps(axes["steps"], result)
    _by_shell(axes["diagonal"], result, box, "preconditioner", "preconditioner D, shell means")
    _by_shell(axes["prior"], result, box, "regularization", "prior λ")
    title = f"{result.folder.name}: box {box}, {result.pixel_size:.4g} Å"
    if result.resolution is not None and np.isfinite(result.resolution):
        title += f", resolution {result.resolution:.2f} Å at FSC 0.143"
    figure.suptitle(title)
    save_figure(path, figure)


def _slices(axes: Axes, volume: NDArray, pixel_size: float) -> None:
    middle = len(volume) // 2
    planes = [volume[middle], volume[:, middle], volume[:, :, middle]]
    low, high = np.percentile(volume, [0.5, 99.8])
    axes.imshow(np.concatenate(planes, axis=1), cmap="gray", vmin=low, vmax=high, origin="lower")
    box = len(volume)
    axes.set_xticks([box * (i + 0.5) for i in range(3)], ["z = 0", "y = 0", "x = 0"])
    axes.set_yticks([])
    axes.set_title(f"central slices, {box * pixel_size:.0f} Å across")


def say(axes: Axes, text: str) -> None:
    """Put words where a curve would stand."""
    axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def logarithmic(axes: Axes) -> None:
    """Make the ordinate logarithmic, with numbers as text: powers take longer than the curves."""
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter())


def resolution_axis(axes: Axes, length: float, shells: int) -> None:
    """Label an axis of shells in angstrom; `length` is the side of the box, angstrom."""
    ticks = [s for s in np.linspace(0, shells - 1, 6).round() if s > 0]
    axes.set_xticks(ticks, [f"{length / s:.1f}" for s in ticks])
    axes.set_xlim(0, shells - 1)
    axes.set_xlabel("resolution (Å)")


def _fsc(axes: Axes, result: Reconstruction) -> None:
    from fastcryo.plots_fsc import draw_curves

    if result.curves is None:
        axes.set_title("half-map FSC")
        say(axes, "one half only")
    else:
        draw_curves(axes, result.curves, result.pixel_size)


def _loss(axes: Axes, result: Reconstruction) -> None:
    axes.set_title("loss of all its images, by epoch")
    for name, solution in result.solutions.items():
        loss = np.array(solution.history["epoch_loss"])
        axes.plot(np.arange(1, len(loss) + 1), loss, marker="o", ms=3, label=NAMES[name])
    axes.set_xlabel("epoch")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend(frameon=False)


def _steps(axes: Axes, result: Reconstruction) -> None:
    axes.set_title("step sizes")
    steps = {
        NAMES[name]: np.array(s.history["step"])
        for name, s in result.solutions.items()
        if s.history.get("step")
    }
    if not steps:
        say(axes, "no steps")
        return
    everything = np.concatenate(list(steps.values()))
    positive = everything[everything > 0]
    if len(positive) == 0:
        say(axes, "all steps were refused")
        return
    if positive.min() == everything.max():
        say(axes, f"constant, {positive[0]:.3g}")
        return
    edges = np.geomspace(positive.min() * 0.9, positive.max() * 1.1, 31)
    axes.hist(list(steps.values()), bins=edges, label=list(steps), stacked=True)
    axes.set_xscale("log")
    marks = sorted({float(f"{m:.2g}") for m in np.geomspace(*edges[[0, -1]], 4)})
    axes.set_xticks(marks, [f"{m:g}" for m in marks])
    axes.minorticks_off()
    axes.set_xlabel("η")
    axes.set_ylabel("iterations")
    axes.legend(frameon=False)


def _by_shell(axes: Axes, result: Reconstruction, box: int, field: str, title: str) -> None:
    axes.set_title(title)
    drawn = False
    for name, solution in result.solutions.items():
        values = getattr(solution, field)
        if values is None or np.ndim(values) == 0:
            continue
        values = np.array(values)
        axes.plot(np.where(values > 0, values, np.nan), label=NAMES[name])
        drawn = True
        shells = len(values)
    if not drawn:
        constant = next(iter(result.solutions.values()))
        values = getattr(constant, field)
        text = "none" if values is None else f"constant, {values:.3g}"
        say(axes, text)
        return
    logarithmic(axes)
    low, high = axes.get_ylim()
    axes.set_ylim(low / 2, high * 2)
    resolution_axis(axes, box * result.pixel_size, shells)
    axes.legend(frameon=False)


def save_variants(path: str | os.PathLike, losses: dict[str, list[float]], floor: float) -> None:
    """Draw the loss by epoch of several methods over the loss of the exact minimiser.

    Parameters
    ----------
    path : path
        PNG.
    losses : dict
        Loss by epoch of every method.
    floor : float
        Loss of the minimiser.
    """
    figure = new_figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    for name, values in losses.items():
        epochs = np.arange(1, len(values) + 1)
        left.plot(epochs, values, marker="o", ms=3, label=name)
        right.plot(epochs, np.array(values) - floor, marker="o", ms=3, label=name)
    left.axhline(floor, color="k", ls="--", lw=1, label="minimiser (CG)")
    left.set_title("loss of all images")
    left.ticklabel_format(axis="y", useOffset=False)
    left.legend(frameon=False)
    right.set_title("loss above the minimiser's")
    logarithmic(right)
    for axes in (left, right):
        axes.set_xlabel("epoch")
    save_figure(path, figure)
