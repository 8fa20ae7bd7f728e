"""The prior of a reconstruction: lambda of both half-maps and of the full map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fastcryo.fsc import shell_correlation
from fastcryo.lanczos import describe_uncovered
from fastcryo.noise import wiener_prior
from fastcryo.normal import NormalOperator
from fastcryo.problem import KnownPoseProblem
from fastcryo.reporting import Report
from fastcryo.settings import Settings
from fastcryo.solvers import conjugate_gradient

# The half-maps whose FSC gives the prior are solved with this fraction of the shell's mean J as
# lambda, enough to keep voxels that no image sees from growing.
WEAK_PRIOR = 0.1
PRIOR_TOLERANCE, PRIOR_ITERATIONS = 0.03, 15


def regularizations(
    problem: KnownPoseProblem,
    halves: list[KnownPoseProblem],
    settings: Settings,
    report: Report,
    operators: Mapping[str, NormalOperator] | None = None,
) -> dict[str, float | tuple[float, ...] | NDArray]:
    """Return lambda of both half-maps and of the full map.

    The Wiener prior is that of the Fourier coefficients V, whose noise is not spread evenly over
    the box; so its FSC is that of the weakly regularised minimisers, before any window or mask.
    `operators` are those of `fastcryo.assembled.assemble_all`, without lambda; without them
    products go through the images.
    """
    if settings.regularization is not None:
        return dict.fromkeys(("half1", "half2", "full"), settings.regularization)
    grid, operators = problem.grid, operators or {}
    diagonals, weak = [], []
    for number, half in enumerate(halves, 1):
        operator = operators.get(f"half{number}")
        diagonal = half.hessian_diagonal() if operator is None else operator.diagonal()
        lam = WEAK_PRIOR * grid.shell_means(diagonal)
        damped = half.with_regularization(lam)

        def tell(iteration: int, residual: float, number: int = number) -> None:
            detail = f"residual {residual:.3f}"
            report(f"prior, half {number}", iteration, PRIOR_ITERATIONS, detail)

        weak.append(
            conjugate_gradient(
                damped,
                diagonal + damped.damping,
                PRIOR_TOLERANCE,
                PRIOR_ITERATIONS,
                callback=tell,
                operator=operator and operator.with_regularization(lam),
            ).volume
        )
        report(f"prior, half {number}", PRIOR_ITERATIONS, PRIOR_ITERATIONS, "")
        diagonals.append(diagonal)
    fsc = smooth(shell_correlation(grid, *weak))
    of_all = sum(len(h) / len(problem) * d for h, d in zip(halves, diagonals, strict=True))
    return {
        "half1": wiener_prior(grid, diagonals[0], fsc),
        "half2": wiener_prior(grid, diagonals[1], fsc),
        "full": wiener_prior(grid, of_all, fsc, halves=2),
    }


def shell_weights(
    problem: KnownPoseProblem, operator: NormalOperator | None = None
) -> NDArray[np.float64]:
    """Return least, mean and greatest J = diag H by shell, shape (3, R + 1).

    Parameters
    ----------
    problem : KnownPoseProblem
        Without lambda.
    operator : NormalOperator, optional
        Of the problem, if it is assembled.
    """
    grid = problem.grid
    diagonal = problem.hessian_diagonal() if operator is None else operator.diagonal()
    shells = grid.shells()
    inside = grid.ball()
    least, greatest = np.full(grid.radius + 1, np.inf), np.zeros(grid.radius + 1)
    np.minimum.at(least, shells[inside], diagonal[inside])
    np.maximum.at(greatest, shells[inside], diagonal[inside])
    return np.stack([least, grid.shell_means(diagonal), greatest])


def gaps(problem: KnownPoseProblem, settings: Settings) -> list[str]:
    """Say which voxels nothing determines: no image sees them, and lambda is 0."""
    if settings.regularization is None or np.all(settings.regularization):
        return []
    free = problem.with_regularization(settings.regularization).damping == 0
    unseen = problem.grid.ball() & free & ~(problem.hessian_diagonal() > 0)
    return [f"{describe_uncovered(problem.grid, unseen)}; they stay zero"] if unseen.any() else []


def smooth(curve: NDArray) -> NDArray:
    """Return a curve averaged over three neighbouring shells."""
    padded = np.pad(curve, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3
