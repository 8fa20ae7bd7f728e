"""Reconstructions that E4, E5 and E6 look at: made once per process."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import fastcryo as fc
from bench.paper.views import Say, image_problem, load_views
from fastcryo.fsc import shell_correlation
from fastcryo.normal import NormalOperator
from fastcryo.settings import PUBLISHED
from fastcryo.settings import Settings as Defaults
from fastcryo.sgd import SGDState
from fastcryo.solvers import SolverResult

DEFAULT = "fastcryo's default"
FLOOR_TOLERANCE, FLOOR_ITERATIONS = 1e-6, 500


@dataclass(frozen=True)
class Settings:
    """Box N, number of images, images per batch, epochs, signal to noise, seed.

    The laptop size is a third of the paper's in box, images and batch, so that iterations per epoch
    and views per voxel at the rim are those of the paper.
    """

    box: int
    images: int
    batch: int
    epochs: int = 10
    snr: float = 0.015
    seed: int = 0


SIZES = {
    "quick": Settings(box=24, images=900, batch=30, epochs=3),
    "laptop": Settings(box=64, images=10000, batch=333),
    "full": Settings(box=192, images=30000, batch=1000),
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A problem with images, its assembled H and its minimiser.

    Attributes
    ----------
    problem : KnownPoseProblem
    operator : NormalOperator
    floor : SolverResult
        Conjugate gradients, `FLOOR_TOLERANCE`.
    loss_at_zero, loss_at_floor : float
    seconds : dict
        Of "simulated", "H assembled" and "CG".
    source : str
    """

    problem: fc.KnownPoseProblem
    operator: NormalOperator
    floor: SolverResult
    loss_at_zero: float
    loss_at_floor: float
    seconds: dict[str, float]
    source: str

    def excess(self, volume: NDArray) -> float:
        """Return f(V) - f* = 1/2 <V - V*, H (V - V*)>, free of the rounding of large losses."""
        off = (volume - self.floor.volume).astype(np.complex128)
        return 0.5 * self.problem.grid.inner(off, self.operator.matvec(off))


@dataclass(frozen=True, eq=False)
class VariantRun:
    """What one variant of SGD did.

    Attributes
    ----------
    loss : list of float
        Of all images, by epoch.
    excess : list of float
        Loss above the minimiser's, by epoch.
    step : list of float
        By iteration.
    seconds : float
        For all epochs, the loss of all images after each included.
    correlation : list of ndarray, shape (R,)
        FSC to the minimiser, shells 1 to R, by epoch.
    """

    loss: list[float]
    excess: list[float]
    step: list[float]
    seconds: float
    correlation: list[NDArray[np.float64]] = field(repr=False)


@functools.cache
def prepare(settings: Settings, say: Say) -> Prepared:
    """Simulate the images, assemble H and solve for the minimiser."""
    views = load_views(settings.images, settings.seed)
    source = f"{views.source}, box {settings.box}, phantom, SNR {settings.snr}"
    say(f"simulating: {source}")
    start = time.perf_counter()
    problem = image_problem(views, settings.box, settings.snr, settings.seed)
    began = time.perf_counter()
    operator = problem.normal_operator()
    assembled = time.perf_counter()
    floor = fc.conjugate_gradient(
        problem,
        tolerance=FLOOR_TOLERANCE,
        max_iterations=FLOOR_ITERATIONS,
        operator=operator,
    )
    seconds = {
        "simulated": began - start,
        "H assembled": assembled - began,
        "CG": time.perf_counter() - assembled,
    }
    say(f"minimiser: {len(floor.residual) - 1} products, residual {floor.residual[-1]:.1e}")
    zero = problem.grid.zeros(problem.operator.dtype)
    return Prepared(
        problem,
        operator,
        floor,
        problem.loss(zero),
        problem.loss(floor.volume),
        seconds,
        source,
    )


def variants(settings: Settings) -> dict[str, dict]:
    """Return the options of the paper's variants, and those of `fastcryo reconstruct`."""
    published = PUBLISHED.sgd_options(settings.images)
    chosen = {
        "plain SGD": published | {"preconditioner": None},
        "precomputed": published | {"preconditioner": "exact"},
        "estimated (Algorithm 1)": published,
        "estimated, no threshold": published | {"threshold": None},
        DEFAULT: Defaults().sgd_options(settings.images),
    }
    common = {"epochs": settings.epochs, "batch_size": settings.batch, "rng": settings.seed}
    return {name: options | common for name, options in chosen.items()}


@functools.cache
def run_variants(settings: Settings, say: Say) -> dict[str, VariantRun]:
    """Run every variant on the paper's objective."""
    prepared = prepare(settings, say)
    problem, grid = prepared.problem, prepared.problem.grid
    found = {}
    for name, options in variants(settings).items():
        kept: list[NDArray] = []

        def keep(state: SGDState, kept: list = kept) -> None:
            kept.append((state.volume if state.average is None else state.average).copy())

        history = fc.sgd(problem, checkpoint=keep, **options).history
        correlation = [
            shell_correlation(grid, volume, prepared.floor.volume)[1 : grid.radius + 1]
            for volume in kept
        ]
        excess = [prepared.excess(volume) for volume in kept]
        seconds = history.epoch_seconds[-1]
        found[name] = VariantRun(history.epoch_loss, excess, history.step, seconds, correlation)
        say(f"{name}: {excess[-1]:.4g} above the minimiser, {seconds:.1f} s")
    return found


def cost(prepared: Prepared, runs: dict[str, VariantRun]) -> float:
    """Return the seconds of all that was made, whichever experiment asked for it first."""
    return sum(prepared.seconds.values()) + sum(run.seconds for run in runs.values())
