"""Condition numbers by radius where H is diagonal: the nearest voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.lanczos import describe_uncovered
from fastcryo.operators import SliceOperator
from fastcryo.problem import KnownPoseProblem


def lower_bound(n: int, radius: int, regularization: float = 0.0) -> float:
    """Return the lower bound of the condition number without CTF, (n + lambda) / (n p + lambda).

    All n slices meet the origin; the mean voxel of the ball is met n p times, p = (points of the
    disc) / (points of the ball), and the least no more often.

    Parameters
    ----------
    n : int
        Number of images.
    radius : int
        Fourier pixels; samples beyond it are taken not to be there.
    regularization : float
        lambda of the *sum* over images: n times that of a `KnownPoseProblem`.

    Raises
    ------
    InputError
        No image, a radius below 1, a negative lambda; or lambda = 0 and fewer images than the ball
        has points per point of the disc, so that some voxel is not covered.
    """
    if n < 1:
        raise InputError(f"n: {n} images given, at least 1 is needed")
    if int(radius) != radius or radius < 1:
        raise InputError(f"radius: {radius} given, a whole number of at least 1 is needed")
    if not 0 <= regularization < np.inf:
        raise InputError(f"regularization: {regularization} must be a number of at least 0")
    share = lattice_points(radius, 2) / lattice_points(radius, 3)
    if regularization == 0 and n * share < 1:
        raise InputError(
            f"n: {n} images cannot cover a ball of radius {radius}, at least "
            f"{int(np.ceil(1 / share))} are needed where lambda is 0"
        )
    return (n + regularization) / (n * share + regularization)


def lattice_points(radius: int, dimensions: int) -> int:
    """Integer points of a disc (2) or ball (3)."""
    k2 = np.arange(-radius, radius + 1) ** 2
    squares = k2 if dimensions == 2 else (k2[:, None] + k2).ravel()
    left = radius**2 - squares[squares <= radius**2]
    return int((2 * np.floor(np.sqrt(left)) + 1).sum())


@dataclass(frozen=True, eq=False)
class RadialCondition:
    """Condition numbers of the nearest-voxel H over |k| <= r.

    Attributes
    ----------
    radius : ndarray of int
        r = 1..R.
    resolution : ndarray
        angstrom.
    bound : ndarray
        `lower_bound`; infinite where the images are too few to cover the ball.
    without_ctf, with_ctf : ndarray
        max d / min d; infinite where a voxel of zero is inside.
    uncovered : ndarray of int
        Voxels of the full grid with |k| <= r that no image sees.
    note : str
        How many of them there are up to R and where, if lambda = 0.
    """

    radius: NDArray[np.int64]
    resolution: NDArray[np.float64]
    bound: NDArray[np.float64]
    without_ctf: NDArray[np.float64]
    with_ctf: NDArray[np.float64]
    uncovered: NDArray[np.int64]
    note: str


def condition_number_by_radius(problem: KnownPoseProblem) -> RadialCondition:
    """Return the condition numbers of H with the nearest voxel, whatever the problem's window.

    Without CTF: the views alone, with noise of variance 1.

    Parameters
    ----------
    problem : KnownPoseProblem
        Metadata suffice; its lambda is added.
    """
    operator = problem.operator
    nearest = SliceOperator(problem.grid, "nearest", "cpu", operator.real_dtype)
    plain = np.ones((1, operator.samples), operator.real_dtype)
    plain[:, operator.origin] /= 2
    count, images = problem.views(len(problem)), problem.local_images()
    views, weighted = (
        problem.communicator.sum(nearest.diagonal(problem.steps, images, weights, squared=True))
        / count
        for weights in (plain, problem.weights)
    )
    length = problem.pixel_size * problem.image_box
    return radial_condition(problem.grid, views, weighted, problem.damping, count, length)


def radial_condition(
    grid: FourierGrid,
    views: NDArray,
    weighted: NDArray,
    damping: ArrayLike,
    count: int,
    length: float,
) -> RadialCondition:
    """Return condition numbers from diagonals.

    Parameters
    ----------
    grid : FourierGrid
    views, weighted : ndarray, real half grid
        Mean over the images of how often a voxel is met, and of C^2 / sigma^2 there.
    damping : array_like
        lambda, to broadcast with them.
    count : int
        Number of views: of images, times that of symmetries.
    length : float
        Side of the box, angstrom.
    """
    radii = np.arange(1, grid.radius + 1)
    shells = np.ceil(_distances(grid)).astype(np.int64)
    inside = shells <= grid.radius
    damping = np.broadcast_to(damping, grid.shape)

    def by_radius(diagonal: NDArray) -> NDArray:
        values, places = (diagonal + damping)[inside].astype(np.float64), shells[inside]
        high, low = np.zeros(grid.radius + 1), np.full(grid.radius + 1, np.inf)
        np.maximum.at(high, places, values)
        np.minimum.at(low, places, values)
        high, low = np.maximum.accumulate(high)[1:], np.minimum.accumulate(low)[1:]
        return np.divide(high, low, out=np.full(len(radii), np.inf), where=low > 0)

    unseen = inside & ~(weighted > 0)
    multiplicity = grid.plane_multiplicity[:, None, None]
    counted = np.bincount(shells[inside], (unseen * multiplicity)[inside])
    zero = unseen & (damping == 0)
    return RadialCondition(
        radius=radii,
        resolution=length / radii,
        bound=np.array([_bound_or_infinity(count, r, float(damping.min())) for r in radii]),
        without_ctf=by_radius(views),
        with_ctf=by_radius(weighted),
        uncovered=np.cumsum(counted)[1:].astype(np.int64),
        note=describe_uncovered(grid, zero) if zero.any() else "",
    )


def _bound_or_infinity(count: int, radius: int, damping: float) -> float:
    if damping == 0 and count * lattice_points(radius, 2) < lattice_points(radius, 3):
        return np.inf
    return lower_bound(count, radius, count * damping)


def _distances(grid: FourierGrid) -> NDArray[np.float64]:
    """|k| of every stored coefficient."""
    k2 = (np.arange(grid.box) - grid.centre) ** 2
    return np.sqrt(np.arange(grid.shape[0])[:, None, None] ** 2 + k2[:, None] + k2)
