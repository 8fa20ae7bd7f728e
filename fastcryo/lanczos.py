"""The normal operator, restricted and scaled, as a symmetric matrix; Lanczos' recurrence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.normal import NormalOperator, RealCoordinates, real_coordinates
from fastcryo.preconditioner import named_diagonal
from fastcryo.problem import KnownPoseProblem

Product = Callable[[NDArray], NDArray]


@dataclass(frozen=True, eq=False)
class ScaledOperator:
    """D^(-1/2) H D^(-1/2) on the unknowns |k| <= r that some image sees, or lambda > 0 holds.

    Attributes
    ----------
    operator : NormalOperator
    coordinates : RealCoordinates
        The unknowns.
    inverse_root : ndarray, shape (unknowns,)
        D^(-1/2); 1 without preconditioner.
    inverse_diagonal : ndarray, shape (unknowns,)
        1 / diag of this operator.
    uncovered : ndarray of bool, half grid
        The voxels left out: H is zero there.
    """

    operator: NormalOperator
    coordinates: RealCoordinates
    inverse_root: NDArray = field(repr=False)
    inverse_diagonal: NDArray = field(repr=False)
    uncovered: NDArray = field(repr=False)

    def product(self, vector: NDArray) -> NDArray:
        """Return the operator times a vector."""
        half = self.coordinates.unpack(self.inverse_root * vector)
        return self.inverse_root * self.coordinates.pack(self.operator.matvec(half))

    def volume(self, vector: NDArray) -> NDArray:
        """Return the half grid V = D^(-1/2) v that a vector stands for."""
        return self.coordinates.unpack(self.inverse_root * vector)


def scaled_operator(
    problem: KnownPoseProblem,
    preconditioner: str | NDArray | None = None,
    radius: int | None = None,
    operator: NormalOperator | None = None,
) -> ScaledOperator:
    """Return the scaled operator of a problem.

    Parameters
    ----------
    problem : KnownPoseProblem
    preconditioner : {"exact", "gridding"}, ndarray or None
        D; None for H itself.
    radius : int, optional
        r, up to the problem's R.
    operator : NormalOperator, optional
        H, if it is assembled already.

    Raises
    ------
    InputError
        A radius with no samples, an unknown preconditioner, or no voxel that an image sees.
    """
    operator = problem.normal_operator() if operator is None else operator
    inside = FourierGrid(problem.grid.box, checked_radius(problem, radius)).ball()
    exact = operator.diagonal()
    uncovered = inside & ~(exact > 0)
    coordinates = real_coordinates(problem.grid, inside & ~uncovered)
    if len(coordinates) == 0:
        raise InputError(
            "regularization: 0, and no image sees a voxel within the radius, "
            "choose a larger radius or a regularization above 0"
        )
    diagonal = coordinates.pack_diagonal(exact)
    scale = np.ones(len(coordinates))
    if preconditioner is not None:
        scale = coordinates.pack_diagonal(named_diagonal(problem, preconditioner))
        if (scale <= 0).any():
            raise InputError(
                f"preconditioner: {np.count_nonzero(scale <= 0)} of its values within the radius "
                "are zero though images see these voxels, give positive ones"
            )
    return ScaledOperator(operator, coordinates, scale**-0.5, scale / diagonal, uncovered)


def checked_radius(problem: KnownPoseProblem, radius: int | None) -> int:
    """Return a radius that lies between 1 and the problem's; the latter for None."""
    if radius is None:
        return problem.grid.radius
    if int(radius) != radius or not 1 <= radius <= problem.grid.radius:
        raise InputError(
            f"radius: {radius} holds no samples of its own, choose a whole number "
            f"from 1 to {problem.grid.radius}"
        )
    return int(radius)


def describe_uncovered(grid: FourierGrid, uncovered: NDArray) -> str:
    """Say how many voxels of the full grid no image sees, and where the first of them is."""
    count = int(uncovered.sum(axis=(1, 2)) @ grid.plane_multiplicity)
    places = np.argwhere(uncovered) - [0, grid.centre, grid.centre]
    z, y, x = places[np.argmin((places**2).sum(axis=1))]
    distance = np.sqrt(x**2 + y**2 + z**2)
    return (
        f"no image sees {count} voxels and lambda is 0, which makes the condition number infinite; "
        f"the innermost is (kx, ky, kz) = ({x}, {y}, {z}), |k| = {distance:.1f}"
    )


def lanczos(product: Product, start: NDArray) -> Iterator[tuple[NDArray, float, float]]:
    """Run Lanczos' three-term recurrence without reorthogonalisation.

    Yields
    ------
    vector : ndarray
        Of the basis.
    diagonal, beside : float
        The column of the tridiagonal matrix: alpha, and beta to the next.
    """
    former, vector, beta = np.zeros_like(start), start / np.linalg.norm(start), 0.0
    while True:
        following = product(vector)
        following -= beta * former
        alpha = float(following @ vector)
        following -= alpha * vector
        beta = float(np.linalg.norm(following))
        yield vector, alpha, beta
        if beta <= 1e-13 * abs(alpha):
            return
        former, vector = vector, following / beta
