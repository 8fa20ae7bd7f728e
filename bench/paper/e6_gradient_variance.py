"""Noise and progress of the minibatch step D^-1 grad f_I by shell, with and without D."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.paper.runs import SIZES, Prepared, Settings, cost, prepare
from bench.paper.tables import markdown_table, number
from bench.paper.views import Say
from fastcryo.conditioning import gradient_variance_by_shell
from fastcryo.preconditioner import named_diagonal, thresholded_inverse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURE", "SIZES", "TITLE", "draw", "markdown", "measure", "table"]

TITLE = "E6: noise and progress of minibatch steps by shell"
FIGURE = (14, 4.8)
BATCHES = 30
PRECONDITIONERS = {"none": None, "exact": "exact", "gridding": "gridding"}
LABELS = {"none": "∇f", "exact": "∇f / diag H", "gridding": "∇f / ρ"}
STYLES = {"none": "C0-", "exact": "C1-", "gridding": "C2--"}
TICKS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10]
PLACES = {"start": "variance at V = 0", "minimiser": "variance at the minimiser"}
PROGRESS = "progress of a step from V = 0"


def measure(settings: Settings, say: Say) -> tuple[dict, float]:
    """Return variances at V = 0 and at the minimiser, progress from V = 0, and the seconds."""
    prepared = prepare(settings, say)
    began = time.perf_counter()
    problem = prepared.problem
    volumes = {"start": problem.grid.zeros(problem.operator.dtype)}
    volumes["minimiser"] = prepared.floor.volume
    results = {
        "data": f"{prepared.source}, {BATCHES} batches of {settings.batch}",
        "shell": np.arange(1, problem.grid.radius + 1),
        "variance": {place: {} for place in volumes},
        "progress": {},
    }
    for name, preconditioner in PRECONDITIONERS.items():
        for place, volume in volumes.items():
            variance = gradient_variance_by_shell(
                problem,
                volume,
                settings.batch,
                preconditioner=preconditioner,
                batches=BATCHES,
                seed=settings.seed,
            )
            results["variance"][place][name] = variance[1:]
        results["progress"][name] = progress_by_shell(prepared, preconditioner)[1:]
        say(f"{name}: progress from shell to shell within {spread(results['progress'][name]):.3g}")
    return results, cost(prepared, {}) + time.perf_counter() - began


def progress_by_shell(prepared: Prepared, preconditioner: str | None) -> NDArray[np.float64]:
    """Return what part of the way to the minimiser one full step of eta = 1 from V = 0 goes.

    Re <V*, D^-1 b> / <V*, V*> over each shell: 1 everywhere if D were H.
    """
    problem, goal = prepared.problem, prepared.floor.volume.astype(np.complex128)
    step = problem.right_hand_side().astype(np.complex128)
    diagonal = named_diagonal(problem, preconditioner)
    if diagonal is not None:
        step *= thresholded_inverse(diagonal, 0.0)
    covered = problem.grid.shell_sums((np.conj(goal) * step).real)
    return covered / problem.grid.shell_sums(np.abs(goal) ** 2)


def spread(values: ArrayLike) -> float:
    """Return the largest over the smallest shell."""
    return float(np.max(values) / np.min(values))


def curves(results: dict) -> dict[str, dict[str, list[float]]]:
    """Return the three sets of curves by title, each by preconditioner."""
    found = {title: results["variance"][place] for place, title in PLACES.items()}
    return found | {PROGRESS: results["progress"]}


def table(results: dict) -> list[list]:
    """Return header and rows by shell."""
    found = curves(results)
    header = [f"{title}: {name}" for title in found for name in PRECONDITIONERS]
    columns = [found[title][name] for title in found for name in PRECONDITIONERS]
    return [["shell", *header], *zip(results["shell"], *columns, strict=True)]


def draw(figure: Figure, results: dict) -> None:
    """Draw every curve over its mean, so that shapes can be compared."""
    found = curves(results)
    panels = figure.subplots(1, len(found))
    for axes, (title, named) in zip(panels, found.items(), strict=True):
        for name, label in LABELS.items():
            values = np.array(named[name])
            axes.semilogy(results["shell"], values / values.mean(), STYLES[name], label=label)
        limits = axes.get_ylim()
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
        axes.set_ylim(limits)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("shell")
        axes.set_ylabel("over the mean of all shells")
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False)


def markdown(record: dict) -> str:
    """Return the spread of every curve."""
    found = curves(record["results"])
    rows = [
        [LABELS[name], *(number(spread(named[name])) for named in found.values())]
        for name in PRECONDITIONERS
    ]
    return markdown_table(["largest over smallest shell", *found], rows)
