"""One map, by the solver of the settings, with checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo.checkpoint import load_checkpoint, save_checkpoint
from fastcryo.fsc import resolution_at, shell_correlation
from fastcryo.normal import NormalOperator
from fastcryo.preconditioner import named_diagonal
from fastcryo.preparation import shells_of_damping
from fastcryo.problem import KnownPoseProblem
from fastcryo.reporting import Report
from fastcryo.results import Solution
from fastcryo.settings import Settings
from fastcryo.sgd import Progress, SGDState, sgd
from fastcryo.solvers import conjugate_gradient, lbfgs, wiener

MOST_ITERATIONS = 200


def solve(
    name: str,
    problem: KnownPoseProblem,
    settings: Settings,
    *,
    operator: NormalOperator | None,
    checkpoint: Path,
    identity: str,
    resume: bool,
    seed: list[int],
    report: Report,
    other_half: NDArray | None = None,
) -> Solution:
    """Solve one map with the solver of the settings, from its checkpoint if there is one.

    `report` is one that `fastcryo.reporting.logged` yields; with the half-map of the other
    half-set it is told of the resolution after every epoch.
    """
    lam, note = shells_of_damping(problem.grid, problem.damping), ""
    if settings.solver == "sgd":
        communicator, state, resolution = problem.communicator, None, None
        if resume:
            state = communicator.once(
                lambda: load_checkpoint(checkpoint, identity) if checkpoint.exists() else None
            )

        def tell(p: Progress) -> None:
            done, total = p.epoch * p.iterations + p.iteration + 1, p.epochs * p.iterations
            detail = f"epoch {p.epoch + 1} loss {p.loss:.6g} step {p.step:.2g}"
            if resolution:
                detail += f", {resolution:.2f} Å"
            numbers = {"epoch": p.epoch + 1, "loss": float(p.loss), "step": float(p.step)}
            report(name, done, total, detail, **numbers, resolution=resolution)

        def keep(state: SGDState) -> None:
            nonlocal resolution
            communicator.once(lambda: save_checkpoint(checkpoint, state, identity))
            if other_half is not None:
                resolution = resolution_so_far(problem, state.volume, other_half)

        result = sgd(
            problem,
            rng=np.random.default_rng(seed),
            callback=tell,
            resume=state,
            checkpoint=keep,
            operator=operator if settings.variance_reduction else None,
            **settings.sgd_options(len(problem)),
        )
        diagonal, volume, history = (
            result.preconditioner,
            result.volume,
            asdict(result.history),
        )
    elif settings.solver in ("cg", "lbfgs"):
        minimise = {"cg": conjugate_gradient, "lbfgs": lbfgs}[settings.solver]
        diagonal = named_diagonal(problem, settings.diagonal)
        result = minimise(
            problem,
            diagonal,
            max_iterations=MOST_ITERATIONS,
            callback=lambda i, r: report(name, i, MOST_ITERATIONS, f"residual {r:.2e}"),
            operator=operator,
        )
        volume = result.volume
        if not result.converged:
            note = (
                f"{name}: {settings.solver} did not converge, its residual is "
                f"{result.residual[-1]:.2g} after {len(result.residual) - 1} iterations"
            )
        history = {
            "converged": result.converged,
            "residual": result.residual,
            "epoch_loss": result.loss,
            "epoch_seconds": result.seconds,
        }
        report(name, MOST_ITERATIONS, MOST_ITERATIONS, f"{len(result.residual) - 1} iterations")
    else:
        diagonal = named_diagonal(problem, settings.diagonal)
        volume = wiener(problem, diagonal)
        history = {"epoch_loss": [problem.loss(volume)]}
        report(name, 1, 1, "")
    shells = None if diagonal is None else problem.grid.shell_means(diagonal)
    return Solution(name, volume, lam, history, shells, note)


def resolution_so_far(
    problem: KnownPoseProblem, volume: NDArray, other_half: NDArray
) -> float | None:
    """Return the resolution at FSC = 0.143 of two half grids, angstrom; None if there is none."""
    grid = problem.grid
    curve = shell_correlation(grid, volume, other_half)
    found = resolution_at(curve, 0.143, problem.grid_pixel_size, grid.box)
    return found if np.isfinite(found) else None
