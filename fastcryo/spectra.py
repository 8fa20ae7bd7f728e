"""Eigenvalues of the normal operator and of its scaled form, with their errors."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import scipy.stats
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.normal import NormalOperator, RealCoordinates, real_coordinates
from fastcryo.preconditioner import named_diagonal
from fastcryo.problem import KnownPoseProblem

LANCZOS_CHECK = 20
LOBPCG_BLOCK = 3
# Spectral densities are drawn on this many points, with kernels of this share of the range.
DENSITY_POINTS, DENSITY_KERNEL = 240, 1 / 40

# Ritz values below this share of the largest are rounding errors of it.
SMALLEST_NODE = 1e-14

Product = Callable[[NDArray], NDArray]
# Value, residual and unit vector of an approximate eigenpair.
End = tuple[float, float, NDArray]


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


def describe_uncovered(grid: FourierGrid, uncovered: NDArray) -> str:
    """Say how many voxels of the full grid no image sees, and where the first of them is."""
    count = int(uncovered.sum(axis=(1, 2)) @ grid.plane_multiplicity)
    places = np.argwhere(uncovered) - [0, grid.centre, grid.centre]
    z, y, x = places[np.argmin((places**2).sum(axis=1))]
    return (
        f"no image sees {count} voxels and lambda is 0, so that the condition number is infinite; "
        f"the innermost is (kx, ky, kz) = ({x}, {y}, {z}), |k| = {np.sqrt(x * x + y * y + z * z):.1f}"
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
        _, vectors = scipy.sparse.linalg.lobpcg(
            scipy.sparse.linalg.LinearOperator(
                (size, size), matvec=product, matmat=product, dtype=np.float64
            ),
            start,
            M=scipy.sparse.linalg.LinearOperator(
                (size, size), matvec=precondition, matmat=precondition, dtype=np.float64
            ),
            tol=0.5 * tolerance / float(scaled.inverse_diagonal.max()),
            maxiter=max(1, max_products // LOBPCG_BLOCK),
            largest=False,
        )
    return _end(scaled.product, vectors[:, 0]), products + 1


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """How the eigenvalues are spread.

    Attributes
    ----------
    values : ndarray
        Eigenvalues, evenly spaced in their logarithm.
    density, error : ndarray
        Share of the eigenvalues per decade, the mean over the probes, and its standard error:
        density -+ 2 error holds the true (smoothed) density with some 95 %.
    below, below_error : ndarray
        Share of the eigenvalues at or below `values`, likewise.
    kernel : float
        Standard deviation of the smoothing kernel, decades.
    probes, steps : int
        Random vectors, and steps of Lanczos' recurrence for each.
    """

    values: NDArray
    density: NDArray
    error: NDArray
    below: NDArray
    below_error: NDArray
    kernel: float
    probes: int
    steps: int


def spectral_density(
    problem: KnownPoseProblem,
    preconditioner: str | NDArray | None = None,
    radius: int | None = None,
    *,
    probes: int = 6,
    steps: int = 60,
    seed: int = 0,
    operator: NormalOperator | None = None,
) -> SpectralDensity:
    """Estimate the density of eigenvalues by stochastic Lanczos quadrature.

    Parameters
    ----------
    problem, preconditioner, radius, operator
        See `scaled_operator`; voxels that no image sees are left out.
    probes : int
        Random vectors, at least 2.
    steps : int
        Nodes of the quadrature that each of them gives.
    seed : int

    Returns
    -------
    SpectralDensity

    Raises
    ------
    InputError
        Fewer than 2 probes or steps, or see `scaled_operator`.

    References
    ----------
    Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 38 (2017) 1075.
    """
    if probes < 2 or steps < 2:
        raise InputError(f"probes, steps: {probes} and {steps} given, at least 2 each are needed")
    scaled = scaled_operator(problem, preconditioner, radius, operator)
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    for _ in range(probes):
        start = rng.choice([-1.0, 1.0], size=len(scaled.coordinates))
        columns = list(itertools.islice(_columns(scaled.product, start), steps))
        diagonal, beside = np.array(columns).T
        values, bases = scipy.linalg.eigh_tridiagonal(diagonal, beside[:-1])
        nodes.append(np.log10(np.maximum(values, values[-1] * SMALLEST_NODE)))
        weights.append(bases[0] ** 2)
    low = min(n[0] for n in nodes)
    high = max(n[-1] for n in nodes)
    kernel = max((high - low) * DENSITY_KERNEL, 1e-3)
    grid = np.linspace(low - 4 * kernel, high + 4 * kernel, DENSITY_POINTS)
    distances = [(grid[:, None] - n) / kernel for n in nodes]
    shares = [scipy.stats.norm.pdf(d) @ w / kernel for d, w in zip(distances, weights, strict=True)]
    sums = [scipy.stats.norm.cdf(d) @ w for d, w in zip(distances, weights, strict=True)]
    return SpectralDensity(
        10**grid, *_mean_and_error(shares), *_mean_and_error(sums), kernel, probes, steps
    )


def _columns(product: Product, start: NDArray) -> Iterator[tuple[float, float]]:
    for _, alpha, beta in lanczos(product, start):
        yield alpha, beta


def _mean_and_error(samples: list[NDArray]) -> tuple[NDArray, NDArray]:
    return np.mean(samples, axis=0), np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
