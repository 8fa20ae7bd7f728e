"""Deterministic solvers on all images: conjugate gradients, L-BFGS and the Wiener quotient."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.kernels.cpu import vectors
from fastcryo.normal import NormalOperator, real_coordinates
from fastcryo.preconditioner import named_diagonal, thresholded_inverse
from fastcryo.problem import KnownPoseProblem


@dataclass(frozen=True, eq=False)
class SolverResult:
    """A solution of H V = b.

    Attributes
    ----------
    volume : ndarray, half grid
    converged : bool
        Whether the tolerance was reached.
    residual : list of float
        |b - H V| / |b| before each iteration and at the end.
    loss : list of float
        f(V) at the same places, up to the rounding of the recursion.
    seconds : list of float
        Time since the start.
    """

    volume: NDArray
    converged: bool
    residual: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def conjugate_gradient(
    problem: KnownPoseProblem,
    preconditioner: str | NDArray | None = "exact",
    tolerance: float = 1e-6,
    max_iterations: int = 200,
    initial: NDArray | None = None,
    callback: Callable[[int, float], None] | None = None,
    operator: NormalOperator | None = None,
) -> SolverResult:
    """Solve H V = b by conjugate gradients with a diagonal preconditioner.

    Dot products are sums in float64. Voxels that nothing determines, because no image sees them and
    lambda is 0, stay zero.

    Parameters
    ----------
    problem : KnownPoseProblem
    preconditioner : {"exact", "gridding"}, ndarray or None
        See `fastcryo.preconditioner.named_diagonal`.
    tolerance : float
        Stop at this relative residual.
    max_iterations : int
    initial : ndarray, half grid, optional
        Warm start.
    callback : callable, optional
        Called with (iteration, relative residual).
    operator : NormalOperator, optional
        H assembled, which pays where the images are many; else every product goes through them.

    Returns
    -------
    SolverResult

    References
    ----------
    Hestenes & Stiefel, J. Res. Natl. Bur. Stand. 49 (1952) 409.
    """
    _check_limits(tolerance, max_iterations)
    if operator is not None:
        operator.check(problem)
    began = time.perf_counter()
    multiply = problem.hvp if operator is None else operator.matvec
    grid, real = problem.grid, problem.operator.real_dtype.type
    diagonal = named_diagonal(problem, preconditioner)
    inverse = None if diagonal is None else thresholded_inverse(diagonal, 0.0)

    volume = grid.zeros(problem.operator.dtype)
    if initial is not None:
        grid.check(initial)
        volume[...] = initial
    loss, residual = problem.loss_and_gradient(volume)
    np.negative(residual, out=residual)
    scale = grid.norm(residual) if initial is None else grid.norm(problem.right_hand_side())
    result = SolverResult(volume, True, [], [], [])
    if scale == 0:
        # Without data, or data of zeros, the minimiser is zero wherever the start was.
        volume[...] = 0
        return SolverResult(volume, True, [0.0], [problem.loss(volume)], [0.0])
    scaled = np.empty_like(residual)
    direction = np.zeros_like(residual)
    slope = 1.0
    for iteration in range(max_iterations + 1):
        relative = grid.norm(residual) / scale
        result.residual.append(relative)
        result.loss.append(loss)
        result.seconds.append(time.perf_counter() - began)
        if callback is not None:
            callback(iteration, relative)
        if relative <= tolerance:
            return result
        if iteration == max_iterations:
            break
        if inverse is None:
            scaled[...] = residual
        else:
            vectors.scale_by(residual, inverse, scaled)
        former, slope = slope, grid.inner(residual, scaled)
        direction *= real(slope / former if iteration else 0.0)
        direction += scaled
        product = multiply(direction)
        curvature = grid.inner(direction, product)
        if not (np.isfinite(curvature) and curvature > 0):
            break
        eta = slope / curvature
        vectors.step_along(volume, direction, real(-eta))
        vectors.step_along(residual, product, real(eta))
        loss -= 0.5 * eta * slope
    return SolverResult(volume, False, result.residual, result.loss, result.seconds)


def lbfgs(
    problem: KnownPoseProblem,
    preconditioner: str | NDArray | None = "exact",
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    initial: NDArray | None = None,
    callback: Callable[[int, float], None] | None = None,
    operator: NormalOperator | None = None,
) -> SolverResult:
    """Minimise f by L-BFGS (SciPy's) in the variables D^(1/2) V, in float64.

    Values of f come from products with H, f(V) = f(0) - <b, V> + 1/2 <V, H V>, so that they agree
    with the gradients to rounding. Its line search compares them, which ends its way at a relative
    residual of some 1e-8, or 1e-5 where products are in float32; an assembled `operator` multiplies
    in float64.

    Parameters
    ----------
    problem, preconditioner, tolerance, max_iterations, initial, callback, operator
        See `conjugate_gradient`.

    Returns
    -------
    SolverResult

    References
    ----------
    Liu & Nocedal, Math. Program. 45 (1989) 503.
    """
    from threadpoolctl import threadpool_limits

    _check_limits(tolerance, max_iterations)
    if operator is not None:
        operator.check(problem)
    began = time.perf_counter()
    grid, dtype = problem.grid, problem.operator.dtype
    multiply = problem.hvp if operator is None else operator.matvec
    coordinates = real_coordinates(grid)
    inverse_root = np.ones(1)
    diagonal = named_diagonal(problem, preconditioner)
    if diagonal is not None:
        inverse_root = np.sqrt(coordinates.pack_diagonal(thresholded_inverse(diagonal, 0.0)))
    constant, gradient = problem.loss_and_gradient(grid.zeros(dtype))
    right = -coordinates.pack(gradient)
    scale = float(np.linalg.norm(right))

    result = SolverResult(grid.zeros(dtype), True, [], [], [])
    start = np.zeros(len(coordinates))
    if initial is not None:
        root = np.divide(1, inverse_root, out=np.zeros_like(inverse_root), where=inverse_root > 0)
        start = root * coordinates.pack(initial)
    elif scale == 0:
        return result
    latest = 0.0

    def evaluate(vector: NDArray) -> tuple[float, NDArray]:
        nonlocal latest
        position = inverse_root * vector
        slope = coordinates.pack(multiply(coordinates.unpack(position))) - right
        latest = float(np.linalg.norm(slope)) / (scale or 1.0)
        return constant + 0.5 * float(position @ (slope - right)), inverse_root * slope

    def keep(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        # The last point that was evaluated is the one accepted.
        result.residual.append(latest)
        result.loss.append(float(intermediate_result.fun))
        result.seconds.append(time.perf_counter() - began)
        if callback is not None:
            callback(len(result.residual) - 1, latest)
        if latest <= tolerance:
            raise StopIteration

    loss, _ = evaluate(start)
    best = start
    try:
        keep(scipy.optimize.OptimizeResult(x=start, fun=loss))
        # SciPy's vectors are too short for the threads of its BLAS, which change the order of sums
        # and, where cores are shared, wait for one another far longer than they compute.
        with threadpool_limits(1, "blas"):
            best = scipy.optimize.minimize(
                evaluate,
                start,
                jac=True,
                method="L-BFGS-B",
                callback=keep,
                options={"maxiter": max_iterations, "maxfun": 10 * max_iterations}
                | {"ftol": 0.0, "gtol": 0.0},
            ).x
    except StopIteration:
        pass
    volume = coordinates.unpack(inverse_root * best).astype(dtype)
    converged = result.residual[-1] <= tolerance
    return SolverResult(volume, converged, result.residual, result.loss, result.seconds)


def _check_limits(tolerance: float, max_iterations: int) -> None:
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance: {tolerance} must lie between 0 and 1")
    if max_iterations < 1:
        raise InputError(f"max_iterations: {max_iterations} given, at least 1 is needed")


def wiener(problem: KnownPoseProblem, weight: str | NDArray = "gridding") -> NDArray:
    """Return the quotient b / (weight + lambda), what gridding programs reconstruct.

    Parameters
    ----------
    problem : KnownPoseProblem
    weight : {"gridding", "exact"} or ndarray
        The diagonal that stands for H.

    Returns
    -------
    ndarray, half grid

    Raises
    ------
    InputError
        No weight, or one that cannot be used.
    """
    diagonal = named_diagonal(problem, weight)
    if diagonal is None:
        raise InputError("preconditioner: the quotient needs one, choose gridding or exact")
    inverse = thresholded_inverse(diagonal, 0.0)
    quotient = problem.right_hand_side()
    vectors.scale_by(quotient, inverse, quotient)
    return quotient
