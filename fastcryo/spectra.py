"""Eigenvalues of the normal operator and of its scaled form, with their errors."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.lanczos import (
    Product,
    ScaledOperator,
    describe_uncovered,
    lanczos,
    scaled_operator,
)
from fastcryo.normal import NormalOperator
from fastcryo.problem import KnownPoseProblem

LANCZOS_CHECK = 20
LOBPCG_BLOCK = 3
# It stops at this share of the tolerance times the least of J, which lies above the eigenvalue.
LOBPCG_MARGIN = 0.1
# Value, residual and unit vector of an approximate eigenpair.
End = tuple[float, float, NDArray]


@dataclass(frozen=True, eq=False)
class ExtremeEigenvalues:
    """The two ends of a spectrum.

    Attributes
    ----------
    smallest, largest : float
    smallest_residual, largest_residual : float
        |A v - theta v| for the unit vector v found: an eigenvalue lies no further from theta.
    smallest_converged, largest_converged : bool
        Residual within the tolerance, relative to the eigenvalue.
    products : int
        Products with H that it took.
    worst : ndarray, half grid
        The volume V = D^(-1/2) v of the smallest.
    note : str
        Which voxels make `smallest` zero, if it is.
    """

    smallest: float
    largest: float
    smallest_residual: float
    largest_residual: float
    smallest_converged: bool
    largest_converged: bool
    products: int
    worst: NDArray = field(repr=False)
    note: str = ""

    @property
    def condition_number(self) -> float:
        """Largest over smallest; infinite if the smallest is zero."""
        return self.largest / self.smallest if self.smallest > 0 else np.inf

    @property
    def condition_range(self) -> tuple[float, float]:
        """Condition number with both residuals for or against it."""
        upper = self.smallest - self.smallest_residual
        return (
            (self.largest - self.largest_residual) / (self.smallest + self.smallest_residual)
            if self.smallest > 0
            else np.inf,
            (self.largest + self.largest_residual) / upper if upper > 0 else np.inf,
        )

    @property
    def converged(self) -> bool:
        """Whether both ends are."""
        return self.smallest_converged and self.largest_converged


def extreme_eigenvalues(
    problem: KnownPoseProblem,
    preconditioner: str | NDArray | None = None,
    radius: int | None = None,
    *,
    tolerance: float = 0.01,
    max_products: int = 600,
    seed: int = 0,
    operator: NormalOperator | None = None,
) -> ExtremeEigenvalues:
    """Return the extreme eigenvalues of H, or of D^(-1/2) H D^(-1/2), restricted to |k| <= r.

    The scaled operator by Lanczos' recurrence; the small end of H itself, which that would not
    reach, by LOBPCG with 1 / J as its preconditioner.

    Parameters
    ----------
    problem : KnownPoseProblem
        Metadata suffice.
    preconditioner, radius, operator
        See `scaled_operator`.
    tolerance : float
        Of the residuals, relative to the eigenvalues.
    max_products : int
        Products with H at most, for each end.
    seed : int
        Of the vectors to start from.

    Returns
    -------
    ExtremeEigenvalues

    Raises
    ------
    InputError
        See `scaled_operator`.

    References
    ----------
    Knyazev, SIAM J. Sci. Comput. 23 (2001) 517; Paige, Lin. Alg. Appl. 34 (1980) 235.
    """
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance: {tolerance} must lie between 0 and 1")
    scaled = scaled_operator(problem, preconditioner, radius, operator)
    rng = np.random.default_rng(seed)
    size = len(scaled.coordinates)
    both = preconditioner is not None
    low, high, products = _lanczos_ends(scaled.product, size, tolerance, max_products, rng, both)
    if not both and not _within(low, tolerance):
        low, more = _smallest(scaled, tolerance, max_products, rng)
        products += more
    worst, note = scaled.volume(low[2]), ""
    small, small_residual = low[:2]
    if scaled.uncovered.any():
        small = small_residual = 0.0
        worst = scaled.uncovered.astype(np.complex128)
        note = describe_uncovered(problem.grid, scaled.uncovered)
    return ExtremeEigenvalues(
        float(small),
        float(high[0]),
        float(small_residual),
        float(high[1]),
        bool(small_residual <= tolerance * small),
        _within(high, tolerance),
        products,
        worst,
        note,
    )


def _within(end: End, tolerance: float) -> bool:
    return bool(end[1] <= tolerance * end[0])


def _lanczos_ends(
    product: Product,
    size: int,
    tolerance: float,
    max_products: int,
    rng: np.random.Generator,
    both: bool,
) -> tuple[End, End, int]:
    """Return both ends, converged at the large one at least, and the number of products.

    The vectors come from a second run of the same recurrence, so that no basis is kept.
    """
    start = rng.normal(size=size)
    limit = max(2, max_products // 2 - 1)
    diagonal, beside = [], []
    for _, alpha, beta in itertools.islice(lanczos(product, start), limit):
        diagonal.append(alpha)
        beside.append(beta)
        if len(diagonal) % LANCZOS_CHECK == 0:
            values, bases = scipy.linalg.eigh_tridiagonal(diagonal, beside[:-1])
            errors = beta * np.abs(bases[-1]) / np.abs(values)
            if errors[-1] <= 0.5 * tolerance and (not both or errors[0] <= 0.5 * tolerance):
                break
    _, bases = scipy.linalg.eigh_tridiagonal(diagonal, beside[:-1])
    vectors = np.zeros((2, size))
    for (basis, _, _), weights in zip(lanczos(product, start), bases[:, [0, -1]], strict=False):
        for vector, weight in zip(vectors, weights, strict=True):
            vector += weight * basis
    low, high = (_end(product, vector) for vector in vectors)
    return low, high, 2 * len(diagonal) + 2


def _end(product: Product, vector: NDArray) -> End:
    unit = vector / np.linalg.norm(vector)
    image = product(unit)
    value = float(unit @ image)
    return value, float(np.linalg.norm(image - value * unit)), unit


def _smallest(
    scaled: ScaledOperator, tolerance: float, max_products: int, rng: np.random.Generator
) -> tuple[End, int]:
    """Return (value, residual, vector) of the small end by LOBPCG, and the number of products."""
    from scipy.sparse.linalg import LinearOperator, lobpcg

    size, products = len(scaled.coordinates), 0

    def product(block: NDArray) -> NDArray:
        nonlocal products
        products += block.shape[1] if block.ndim == 2 else 1
        return np.apply_along_axis(scaled.product, 0, block)

    def precondition(block: NDArray) -> NDArray:
        return (scaled.inverse_diagonal * block.T).T

    start = precondition(rng.normal(size=(size, LOBPCG_BLOCK)))
    with warnings.catch_warnings():
        # It warns where it does not reach its tolerance; the residual is measured below.
        warnings.simplefilter("ignore", UserWarning)
        _, vectors = lobpcg(
            LinearOperator((size, size), matvec=product, matmat=product, dtype=np.float64),
            start,
            M=LinearOperator(
                (size, size), matvec=precondition, matmat=precondition, dtype=np.float64
            ),
            tol=LOBPCG_MARGIN * tolerance / float(scaled.inverse_diagonal.max()),
            maxiter=max(1, max_products // LOBPCG_BLOCK),
            largest=False,
        )
    return _end(scaled.product, vectors[:, 0]), products + 1
