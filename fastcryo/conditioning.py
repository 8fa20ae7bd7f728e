"""What limits convergence: condition numbers, spectra, and the voxels behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.lanczos import scaled_operator
from fastcryo.normal import NormalOperator
from fastcryo.preconditioner import named_diagonal, thresholded_inverse
from fastcryo.problem import KnownPoseProblem
from fastcryo.radial import (
    RadialCondition,
    condition_number_by_radius,
    lower_bound,
    radial_condition,
)
from fastcryo.spectra import ExtremeEigenvalues, extreme_eigenvalues
from fastcryo.spectral_density import SpectralDensity, spectral_density

__all__ = [
    "ExtremeEigenvalues",
    "RadialCondition",
    "ResolutionCondition",
    "SpectralDensity",
    "WorstDirections",
    "condition_number_by_radius",
    "extreme_eigenvalues",
    "gradient_variance_by_shell",
    "kappa_by_resolution",
    "lower_bound",
    "observed_rate",
    "predicted_rate",
    "radial_condition",
    "spectral_density",
    "worst_directions",
]


@dataclass(frozen=True, eq=False)
class ResolutionCondition:
    """Extreme eigenvalues at one resolution.

    Attributes
    ----------
    radius : int
    resolution : float
        angstrom.
    eigenvalues : ExtremeEigenvalues
    """

    radius: int
    resolution: float
    eigenvalues: ExtremeEigenvalues


def kappa_by_resolution(
    problem: KnownPoseProblem,
    preconditioner: str | NDArray | None = None,
    radii: Sequence[int] | None = None,
    *,
    operator: NormalOperator | None = None,
    **options,
) -> list[ResolutionCondition]:
    """Return extreme eigenvalues restricted to several radii.

    Parameters
    ----------
    problem, preconditioner, operator
        See `extreme_eigenvalues`, which takes the other `options`.
    radii : sequence of int, optional
        A quarter, a half, three quarters and the whole of R unless given.
    """
    if radii is None:
        radii = sorted({max(1, problem.grid.radius * part // 4) for part in (1, 2, 3, 4)})
    operator = problem.normal_operator() if operator is None else operator
    length = problem.pixel_size * problem.image_box
    return [
        ResolutionCondition(
            int(radius),
            length / radius,
            extreme_eigenvalues(problem, preconditioner, radius, operator=operator, **options),
        )
        for radius in radii
    ]


@dataclass(frozen=True, eq=False)
class WorstDirections:
    """Where the volume that converges last lies in Fourier space.

    Attributes
    ----------
    shares : ndarray, shape (R + 1,)
        Share of its energy by shell.
    shell : int
        The shell with the largest share.
    direction : ndarray, shape (3,)
        Unit vector (x, y, z), axis of its largest second moment; the sign means nothing.
    moments : ndarray, shape (3,)
        Eigenvalues of the mean of k k^T / |k|^2, ascending; 1/3 each if it has no direction.
    thinnest : ndarray, shape (3,)
        Unit vector (x, y, z) to the voxel of that shell with the least J.
    thinness : float
        That J over the shell's mean.
    """

    shares: NDArray[np.float64]
    shell: int
    direction: NDArray[np.float64]
    moments: NDArray[np.float64]
    thinnest: NDArray[np.float64]
    thinness: float


def worst_directions(problem: KnownPoseProblem, worst: NDArray) -> WorstDirections:
    """Say which voxels make a volume, by shell and by direction on the sphere.

    Parameters
    ----------
    problem : KnownPoseProblem
    worst : ndarray, half grid
        `ExtremeEigenvalues.worst`.

    Raises
    ------
    InputError
        A volume that is zero within the radius, or no half grid.
    """
    grid = problem.grid
    grid.check(worst)
    energy = np.abs(worst).astype(np.float64) ** 2 * grid.ball()
    energy[0, grid.centre, grid.centre] = 0
    shares = grid.shell_sums(energy)
    if not shares.sum() > 0:
        raise InputError("worst: the volume is zero within the radius")
    k = np.arange(grid.box) - grid.centre
    z, y, x = np.meshgrid(np.arange(grid.shape[0]), k, k, indexing="ij")
    places = np.stack([x, y, z], axis=-1).reshape(-1, 3)[energy.reshape(-1) > 0].astype(float)
    units = places / np.linalg.norm(places, axis=1, keepdims=True)
    weights = (energy * grid.plane_multiplicity[:, None, None])[energy > 0]
    moments, axes = np.linalg.eigh((units.T * weights) @ units / weights.sum())
    shell = int(np.argmax(shares))
    diagonal = problem.hessian_diagonal().astype(np.float64)
    within = (grid.shells() == shell) & grid.ball()
    least = np.unravel_index(np.argmin(np.where(within, diagonal, np.inf)), grid.shape)
    thinnest = np.array([x[least], y[least], z[least]], float)
    mean = grid.shell_sums(diagonal * within)[shell] / grid.shell_sums(within)[shell]
    return WorstDirections(
        shares / shares.sum(),
        shell,
        axes[:, -1],
        moments,
        thinnest / np.linalg.norm(thinnest),
        float(diagonal[least] / mean),
    )


def predicted_rate(condition_number: float) -> float:
    """Return (kappa - 1) / (kappa + 1): the factor that steepest descent takes off per iteration.

    An infinite condition number gives 1.

    Raises
    ------
    InputError
        A condition number below 1.
    """
    if not condition_number >= 1:
        raise InputError(f"condition_number: {condition_number} given, it is 1 at least")
    if np.isinf(condition_number):
        return 1.0
    return (condition_number - 1) / (condition_number + 1)


def observed_rate(
    problem: KnownPoseProblem,
    eigenvalues: ExtremeEigenvalues,
    preconditioner: str | NDArray | None = None,
    radius: int | None = None,
    *,
    iterations: int = 60,
    seed: int = 0,
    operator: NormalOperator | None = None,
) -> float:
    """Measure what steepest descent takes off a random error per iteration.

    Full-data steps of 2 / (smallest + largest), the best constant step, on the scaled unknowns; the
    factor is the geometric mean over the second half of the iterations. It approaches
    `predicted_rate` from below as the error turns into the worst directions.

    Parameters
    ----------
    problem, preconditioner, radius, operator
        See `extreme_eigenvalues`.
    eigenvalues : ExtremeEigenvalues
        Of the same operator.
    iterations : int
        At least 2.
    seed : int
        Of the error to start from.
    """
    if iterations < 2:
        raise InputError(f"iterations: {iterations} given, at least 2 are needed")
    scaled = scaled_operator(problem, preconditioner, radius, operator)
    error = np.random.default_rng(seed).normal(size=len(scaled.coordinates))
    step = 2 / (eigenvalues.smallest + eigenvalues.largest)
    middle = iterations // 2
    for iteration in range(iterations):
        if iteration == middle:
            norm = np.linalg.norm(error)
        error -= step * scaled.product(error)
    return float((np.linalg.norm(error) / norm) ** (1 / (iterations - middle)))


def gradient_variance_by_shell(
    problem: KnownPoseProblem,
    volume: NDArray,
    batch_size: int,
    *,
    preconditioner: str | NDArray | None = None,
    batches: int = 20,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the variance of the minibatch step D^-1 grad f_I by shell, mean over its voxels.

    Parameters
    ----------
    problem : KnownPoseProblem
        With images.
    volume : ndarray, half grid
        Where the gradient is taken.
    batch_size : int
    preconditioner : {"exact", "gridding"}, ndarray or None
    batches : int
        Random batches, at least 2.
    seed : int

    Returns
    -------
    ndarray, shape (R + 1,)

    Raises
    ------
    InputError
        Fewer than two batches, a batch size out of range, or a problem of metadata only.
    """
    if batches < 2:
        raise InputError(f"batches: {batches} given, at least 2 are needed")
    if not 1 <= batch_size <= len(problem):
        raise InputError(f"batch_size: {batch_size} must lie between 1 and {len(problem)}")
    diagonal = named_diagonal(problem, preconditioner)
    factor = 1.0 if diagonal is None else thresholded_inverse(diagonal, 0.0)
    rng = np.random.default_rng(seed)
    mean = problem.grid.zeros(np.complex128)
    squares = np.zeros(problem.grid.shape)
    for number in range(1, batches + 1):
        batch = rng.choice(len(problem), batch_size, replace=False)
        step = factor * problem.loss_and_gradient(volume, batch)[1].astype(np.complex128)
        off = step - mean
        mean += off / number
        squares += (np.conj(off) * (step - mean)).real
    ball = problem.grid.ball()
    variance = problem.grid.shell_sums(squares * ball) / (batches - 1)
    return variance / problem.grid.shell_sums(ball)
