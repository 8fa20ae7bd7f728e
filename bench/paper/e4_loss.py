"""Loss by epoch of the four variants and of fastcryo's default, over the minimiser's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

import fastcryo as fc
from bench.paper.runs import DEFAULT, SIZES, Settings, cost, prepare, run_variants
from bench.paper.tables import markdown_table, number
from bench.paper.views import Say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURE", "SIZES", "TITLE", "draw", "markdown", "measure", "table"]

TITLE = "E4: loss by epoch, and step sizes"
FIGURE = (14, 4.8)
LBFGS_TOLERANCE, LBFGS_ITERATIONS = 1e-5, 300
# Loss after 10 epochs and seconds of the published run, N = 192, 30000 images; at V = 0 and after
# 1000 iterations of L-BFGS.
PUBLISHED = {
    "plain SGD": (1.55474e9, 215),
    "precomputed": (1.55376e9, 221),
    "estimated (Algorithm 1)": (1.55387e9, 235),
}
PUBLISHED_START, PUBLISHED_FLOOR = 1.590689e9, 1.5533556e9


def measure(settings: Settings, say: Say) -> tuple[dict, float]:
    """Return losses, excess over the minimiser and steps of all variants, and the seconds."""
    prepared, runs = prepare(settings, say), run_variants(settings, say)
    start = time.perf_counter()
    quasi = fc.lbfgs(
        prepared.problem,
        tolerance=LBFGS_TOLERANCE,
        max_iterations=LBFGS_ITERATIONS,
        operator=prepared.operator,
    )
    quasi_seconds = time.perf_counter() - start
    say(f"L-BFGS: {len(quasi.residual) - 1} iterations, {quasi_seconds:.1f} s")
    floor = prepared.floor
    results = {
        "data": prepared.source,
        "loss_at_zero": prepared.loss_at_zero,
        "loss_at_floor": prepared.loss_at_floor,
        "floor": {
            "H assembled": {"seconds": prepared.seconds["H assembled"]},
            "CG": {
                "seconds": prepared.seconds["CG"],
                "iterations": len(floor.residual) - 1,
                "residual": floor.residual[-1],
            },
            "L-BFGS": {
                "seconds": quasi_seconds,
                "iterations": len(quasi.residual) - 1,
                "residual": quasi.residual[-1],
                "excess": prepared.excess(quasi.volume),
            },
        },
        "variants": {
            name: {
                "loss": run.loss,
                "excess": run.excess,
                "step": run.step,
                "seconds": run.seconds,
            }
            for name, run in runs.items()
        },
    }
    return results, cost(prepared, runs) + quasi_seconds


def gain(results: dict) -> float:
    """Return what the minimiser gains over V = 0."""
    return results["loss_at_zero"] - results["loss_at_floor"]


def table(results: dict) -> list[list]:
    """Return header and rows by epoch: loss and relative excess of every variant."""
    named = results["variants"]
    header = ["epoch"] + [f"{name}: {what}" for name in named for what in ("loss", "excess/gain")]
    rows = []
    for epoch in range(len(next(iter(named.values()))["loss"])):
        cells = [(v["loss"][epoch], v["excess"][epoch] / gain(results)) for v in named.values()]
        rows.append([epoch + 1, *(value for pair in cells for value in pair)])
    return [header, *rows]


def draw(figure: Figure, results: dict) -> None:
    """Draw loss, relative excess, and steps."""
    left, middle, right = figure.subplots(1, 3)
    for i, (name, variant) in enumerate(results["variants"].items()):
        style = {"color": f"C{i}", "label": name}
        epochs = np.arange(len(variant["loss"]) + 1)
        losses = np.array([results["loss_at_zero"], *variant["loss"]])
        left.plot(epochs, losses, "o-", ms=3, **style)
        excess = np.array([gain(results), *variant["excess"]]) / gain(results)
        middle.semilogy(epochs, excess, "o-", ms=3, **style)
        steps = np.array(variant["step"])
        iterations = np.arange(1, len(steps) + 1) / len(steps) * len(variant["loss"])
        right.semilogy(iterations, np.where(steps > 0, steps, np.nan), lw=1, **style)
    left.axhline(results["loss_at_floor"], color="k", ls="--", lw=1, label="minimiser (CG, L-BFGS)")
    left.set_ylabel("loss of all images")
    left.legend(frameon=False, fontsize=8)
    middle.set_ylabel("(f − f*) / (f(0) − f*)")
    right.set_ylabel("step η")
    for axes in (left, middle, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)


def markdown(record: dict) -> str:
    """Return excess and seconds beside the published ones, and what the minimiser cost."""
    results = record["results"]
    total = PUBLISHED_START - PUBLISHED_FLOOR
    rows = []
    for name, variant in results["variants"].items():
        relative = [number(variant["excess"][i] / gain(results)) for i in (0, -1)]
        published = ["", ""]
        if name in PUBLISHED:
            loss, seconds = PUBLISHED[name]
            published = [number((loss - PUBLISHED_FLOOR) / total), str(seconds)]
        shown = f"**{name}**" if name == DEFAULT else name
        rows.append([shown, *relative, f"{variant['seconds']:.1f}", *published])
    epochs = record["settings"]["epochs"]
    header = ["", "after 1 epoch", f"after {epochs}", "s", "published, after 10", "s (GPU)"]
    conjugate, quasi = (
        f"{name}: {solver['iterations']} iterations, {solver['seconds']:.1f} s, residual "
        f"{solver['residual']:.1e}"
        for name, solver in ((name, results["floor"][name]) for name in ("CG", "L-BFGS"))
    )
    apart = results["floor"]["L-BFGS"]["excess"] / gain(results)
    assembled = results["floor"]["H assembled"]["seconds"]
    share = gain(results) / results["loss_at_zero"]
    published_share = total / PUBLISHED_START
    return markdown_table(header, rows) + (
        f"\nThe minimiser gains {100 * share:.2f} % of the loss at V = 0 (published: "
        f"{100 * published_share:.2f} %). {conjugate}. {quasi}; its relative excess is "
        f"{apart:.1e}. Both after {assembled:.1f} s of assembling H.\n"
    )
