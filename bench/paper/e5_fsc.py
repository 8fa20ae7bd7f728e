"""FSC to the minimiser by shell and epoch, and the epochs to reach thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.paper.runs import SIZES, Settings, cost, prepare, run_variants
from bench.paper.tables import markdown_table, plot_values
from bench.paper.views import LENGTH, Say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURE", "SIZES", "TITLE", "draw", "markdown", "measure", "table"]

TITLE = "E5: FSC to the minimiser by shell and epoch"
FIGURE = (14, 8)
THRESHOLDS = (0.5, 0.9)


def measure(settings: Settings, say: Say) -> tuple[dict, float]:
    """Return the FSC of every variant (epochs x shells 1..R), epochs to thresholds, seconds."""
    prepared, runs = prepare(settings, say), run_variants(settings, say)
    named = {}
    for name, run in runs.items():
        correlation = np.array(run.correlation)
        epochs = {str(limit): epochs_to(correlation, limit) for limit in THRESHOLDS}
        named[name] = {"fsc": correlation, "epochs_to": epochs}
    results = {"data": prepared.source, "shell": np.arange(1, prepared.problem.grid.radius + 1)}
    return results | {"variants": named}, cost(prepared, runs)


def epochs_to(correlation: np.ndarray, limit: float) -> list[int | None]:
    """Return by shell after how many epochs the FSC is first at the limit; None: never."""
    reached = correlation >= limit
    first = np.argmax(reached, axis=0) + 1
    found = zip(first, reached.any(axis=0), strict=True)
    return [int(epoch) if ever else None for epoch, ever in found]


def table(results: dict) -> list[list]:
    """Return header and rows by variant and shell."""
    epochs = len(next(iter(results["variants"].values()))["fsc"])
    limits = [f"epochs to {limit}" for limit in THRESHOLDS]
    rows = [["variant", "shell", *(f"epoch {i + 1}" for i in range(epochs)), *limits]]
    for name, variant in results["variants"].items():
        columns = np.array(variant["fsc"]).T.tolist()
        reached = [variant["epochs_to"][str(limit)] for limit in THRESHOLDS]
        for shell, values, *ends in zip(results["shell"], columns, *reached, strict=True):
            rows.append([name, shell, *values, *ends])
    return rows


def draw(figure: Figure, results: dict) -> None:
    """Draw a heat map per variant, and below them the epochs to both thresholds."""
    named, shells = results["variants"], results["shell"]
    maps, lines = figure.subfigures(2, 1)
    panels = maps.subplots(1, len(named), sharey=True)
    for axes, (name, variant) in zip(panels, named.items(), strict=True):
        epochs = len(variant["fsc"])
        shown = axes.imshow(
            np.array(variant["fsc"]).T,
            origin="lower",
            aspect="auto",
            extent=(0.5, epochs + 0.5, 0.5, shells[-1] + 0.5),
            vmin=0,
            vmax=1,
            cmap="viridis",
        )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_xticks(np.unique(np.linspace(1, epochs, 4).round().astype(int)))
    panels[0].set_ylabel("shell")
    maps.colorbar(shown, ax=panels, label="FSC to the minimiser", pad=0.01)
    for axes, limit in zip(
        lines.subplots(1, len(THRESHOLDS), sharey=True), THRESHOLDS, strict=True
    ):
        for i, (name, variant) in enumerate(named.items()):
            # Apart by a little, so that curves that coincide can be told.
            reached = plot_values(variant["epochs_to"][str(limit)]) + 0.06 * i
            axes.plot(shells, reached, "o-", ms=3, lw=1, label=name)
        axes.set_title(f"epochs to FSC {limit} (no point: not reached)", fontsize=10)
        axes.set_xlabel("shell")
        axes.set_ylim(0.5, epochs + 0.5)
        axes.grid(alpha=0.3)
        above = axes.secondary_xaxis("top")
        ticks = shells[len(shells) // 6 - 1 :: max(1, len(shells) // 6)]
        above.set_xticks(ticks, [f"{LENGTH / tick:.0f} Å" for tick in ticks], fontsize=8)
    lines.axes[0].set_ylabel("epochs")
    lines.axes[0].legend(frameon=False, fontsize=8)


def markdown(record: dict) -> str:
    """Return FSC after the last epoch at parts of R, and the shells that reach thresholds."""
    results = record["results"]
    count = len(results["shell"])
    places = sorted({max(1, count * part // 4) for part in (1, 2, 3)} | {count - 1, count})
    rows = []
    for name, variant in results["variants"].items():
        values = [f"{variant['fsc'][-1][place - 1]:.3f}" for place in places]
        reached = [
            f"{sum(e is not None for e in variant['epochs_to'][str(limit)])} of {count}"
            for limit in THRESHOLDS
        ]
        slowest = [e for e in variant["epochs_to"]["0.9"] if e is not None]
        first = str(variant["epochs_to"]["0.9"].count(1))
        rows.append([name, *values, *reached, first, str(max(slowest)) if slowest else "–"])
    header = ["FSC after the last epoch"] + [f"shell {place}" for place in places]
    header += [f"shells at {limit}" for limit in THRESHOLDS]
    return markdown_table([*header, "of these after 1 epoch", "the last after"], rows)
