"""The plain words of ``fastcryo condition``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastcryo.conditioning import ResolutionCondition, predicted_rate
from fastcryo.radial import lattice_points

if TYPE_CHECKING:
    from fastcryo.condition_report import ConditionReport

REDUCTION = 1000
BATCHES_PER_EPOCH = 10
# Share of voxels that no view meets above which they are what limits a data set.
GAPS = 1e-3
UNSURE = ", from condition numbers that have not converged"


def lines(result: ConditionReport) -> list[str]:
    """Return what a report means, one sentence a line."""
    radial, directions = result.radial, result.directions
    plain, scaled = result.scaled["none"][-1], result.scaled["exact"][-1]
    gridding = result.scaled["gridding"][-1]
    damped = result.scaled["exact, prior"][-1]
    with_prior = damped.eigenvalues.condition_number
    kappa = scaled.eigenvalues.condition_number
    x, y, z = directions.direction * (1 if directions.direction[2] >= 0 else -1)
    tilt, rot = np.degrees(np.arccos(z)), np.degrees(np.arctan2(y, x))
    limit = "resolution: every condition number grows with it"
    if radial.uncovered[-1] > GAPS * lattice_points(int(radial.radius[-1]), 3):
        limit = f"coverage: {radial.uncovered[-1]} voxels within the last shell that no view meets"
    elif directions.moments[2] > 0.6:
        limit = "the distribution of views: few slices hold the worst direction"
    # Percent of the worst error that a step takes off.
    slow, fast, observed = (
        100 * (1 - rate)
        for rate in (
            predicted_rate(plain.eigenvalues.condition_number),
            predicted_rate(kappa),
            result.observed,
        )
    )
    said = [
        f"nearest voxel, up to {radial.resolution[-1]:.2f} Å: condition number "
        f"{_number(radial.with_ctf[-1])} with CTF, {_number(radial.without_ctf[-1])} without, "
        f"at least {_number(radial.bound[-1])} for any views",
        f"{result.problem.operator.interpolation}, up to {plain.resolution:.2f} Å: "
        f"as it is {_kappa(plain)}, scaled by diag H {_kappa(scaled)}, "
        f"scaled by the gridding weight {_kappa(gridding)}",
        f"with a weak prior (a tenth of the shell's mean of diag H): {_kappa(damped)}",
        f"what limits it is {limit}",
        f"the slowest part of the map lies in shell {directions.shell} "
        f"({result.radial.resolution[max(directions.shell - 1, 0)]:.1f} Å), along "
        f"rot {rot:.0f}°, tilt {tilt:.0f}° (moment {directions.moments[2]:.2f}, even: 0.33)",
        f"the thinnest voxel of that shell gets {100 * directions.thinness:.0f} % of its mean",
        f"steepest descent takes off {slow:.2g} % of the worst error per step without scaling, "
        f"{fast:.2g} % with it (observed over 60 steps: {observed:.2g} %)"
        + ("" if plain.eigenvalues.converged and scaled.eigenvalues.converged else UNSURE),
        *_advice(kappa, with_prior),
    ]
    if np.isinf(radial.bound[-1]):
        radius, images = int(radial.radius[-1]), len(result.particles)
        least = -(-lattice_points(radius, 3) // lattice_points(radius, 2))
        said.append(
            f"{images} images are fewer than the {least} that it takes at least to cover a ball of "
            f"radius {radius}: without lambda its condition number is infinite for any views"
        )
    if radial.note:
        said.append(radial.note)
    return said


def _advice(kappa: float, with_prior: float) -> list[str]:
    """Which solver, step and number of epochs follow."""
    best = min(kappa, with_prior)
    if np.isinf(best):
        return ["no solver reaches voxels that no image sees: give a regularization above 0"]
    descent = np.log(REDUCTION) / -np.log(max(predicted_rate(best), 1e-12))
    gradients = np.log(2 * REDUCTION) * np.sqrt(best) / 2
    # Steps of 1 take off 1 / kappa of the slowest error each.
    steps = np.log(REDUCTION) / -np.log1p(-1 / max(best, 1 + 1e-12))
    epochs = max(10, int(np.ceil(steps / BATCHES_PER_EPOCH)))
    prior = (
        "keep the prior (without it the map needs far more)" if kappa > 3 * best else "any prior"
    )
    return [
        f"to a {REDUCTION}th of the worst error: {_number(gradients)} products with H by "
        f"conjugate gradients (--solver cg), {_number(descent)} full steps of descent",
        f"with --solver sgd: --preconditioner gridding, --step 1 (safe for any views and batches), "
        f"--epochs {min(epochs, 100)} of {BATCHES_PER_EPOCH} batches; {prior}",
    ]


def _number(value: float) -> str:
    return "infinite" if not np.isfinite(value) else f"{value:.3g}"


def _kappa(entry: ResolutionCondition) -> str:
    """Return a condition number with its error, never without."""
    ends = entry.eigenvalues
    low, high = ends.condition_range
    if np.isinf(ends.condition_number):
        return "infinite"
    doubt = "" if ends.converged or ends.note else "; not converged"
    return f"{_number(ends.condition_number)} ({_number(low)} to {_number(high)}{doubt})"
