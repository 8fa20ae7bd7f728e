"""Diagonal preconditioners: exact, Hutchinson's estimate, coloured probes; smoothing, threshold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.arrays import beside, empty_like, on_host, vectors_of
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.problem import KnownPoseProblem
from fastcryo.toeplitz import dominating_diagonal, filled, toeplitz

PROBINGS = ("rademacher", "coloured")


def rademacher(grid: FourierGrid, rng: np.random.Generator, beside: Any = None) -> Any:
    """Draw z(k) = z(-k) = +1 or -1 on the half grid, int8.

    Two numbers of the generator are the keys of a hash of every element
    (`fastcryo.kernels.formulas.random_sign`): many threads draw, on a graphics card where `beside`
    lies on one, and get the same signs.
    """
    keys = rng.integers(0, 2**32, size=2).tolist()
    if beside is None or on_host(beside):
        signs = np.empty(grid.shape, np.int8)
    else:
        signs = empty_like(beside, np.int8)
    vectors_of(signs).fill_signs(*keys, signs)
    return signs


def parity_colours(grid: FourierGrid) -> NDArray[np.int64]:
    """Return 0..7 by the parities of (kx, ky, kz); a trilinear H couples no two of one colour."""
    kz = np.arange(grid.shape[0]) % 2
    k = (np.arange(grid.box) - grid.centre) % 2
    return 4 * kz[:, None, None] + 2 * k[None, :, None] + k[None, None, :]


def probe(problem: KnownPoseProblem, signs: NDArray, batch: ArrayLike | None = None) -> NDArray:
    """Return z * (H z) for a real probe z, one Hessian-vector product; real half grid."""
    product = problem.hvp(signs.astype(problem.operator.dtype), batch)
    return signs * product.real


def hutchinson_diagonal(
    problem: KnownPoseProblem,
    probes: int | None = None,
    probing: str = "rademacher",
    rng: np.random.Generator | int | None = 0,
    batch: ArrayLike | None = None,
) -> NDArray:
    """Estimate diag H from products with random signs, d = mean of z * (H z).

    Parameters
    ----------
    problem : KnownPoseProblem
    probes : int, optional
        Number of Rademacher vectors, 10 unless given; sets of colours (1) for coloured probing.
    probing : {"rademacher", "coloured"}
        "coloured" gives each of the 8 parity classes (1 class for ``nearest``) a product of its
        own, which makes the result exact; not so for oversampled windows, whose H couples all
        voxels, the less the farther (docs/kaiser_bessel.md).
    rng : Generator or seed
    batch : array_like, optional
        Indices of the images; all unless given.

    Returns
    -------
    ndarray, real half grid

    Raises
    ------
    InputError
        An unknown `probing`, or fewer than one probe.

    References
    ----------
    Bekas, Kokiopoulou & Saad, Appl. Numer. Math. 57 (2007) 1214.
    """
    if probing not in PROBINGS:
        raise InputError(f"probing: {probing!r} is unknown, choose from {', '.join(PROBINGS)}")
    if probes is None:
        probes = 10 if probing == "rademacher" else 1
    if probes < 1:
        raise InputError(f"probes: {probes} given, at least 1 is needed")
    rng = np.random.default_rng(rng)
    total = np.zeros(problem.grid.shape, problem.operator.real_dtype)
    colours = np.zeros(problem.grid.shape, np.int64)
    if probing == "coloured" and problem.operator.interpolation != "nearest":
        colours = parity_colours(problem.grid)
    for _ in range(probes):
        signs = rademacher(problem.grid, rng)
        for colour in range(colours.max() + 1):
            total += probe(problem, np.where(colours == colour, signs, 0), batch)
    return total / probes


@dataclass
class HutchinsonEstimate:
    """The running estimate of Algorithm 1.

    D_avg is the mean of all probes so far, D_k = beta D_{k-1} + (1 - beta) D_avg, D_0 = 1.

    Attributes
    ----------
    beta : float
    mean, smoothed : ndarray, real half grid
        D_avg and D_k.
    probes : int
        Number of probes so far.
    """

    beta: float
    mean: NDArray = field(repr=False)
    smoothed: NDArray = field(repr=False)
    probes: int = 0

    @classmethod
    def start(cls, problem: KnownPoseProblem, beta: float) -> HutchinsonEstimate:
        """Return the estimate before the first probe."""
        shape, dtype = problem.grid.shape, problem.operator.real_dtype
        return cls(beta, np.zeros(shape, dtype), np.ones(shape, dtype))

    def take(self, signs: Any, product: Any) -> Any:
        """Take in the probe z * (H z) of signs z and a real H z, and return D_k.

        All are half grids and lie where the estimate does.
        """
        self.probes += 1
        vectors_of(self.mean).take_probe(
            signs, product, self.mean, self.smoothed, self.probes, self.beta
        )
        return self.smoothed


def default_threshold(problem: KnownPoseProblem) -> float:
    """Return alpha = (1 / points in the largest shell) times the mean 1 / sigma^2.

    The first factor is the paper's; with noise of variance 1, as in the paper, the second is 1.
    """
    sizes = problem.grid.shell_sums(np.ones(problem.grid.shape))
    return problem.mean_inverse_variance / float(sizes.max())


def thresholded_inverse(
    diagonal: NDArray, threshold: float, spread: NDArray | float = 0.0
) -> NDArray:
    """Return 1 / (max(|D|, alpha) + tau); 0 where that is 0: no image sees it, and lambda = 0."""
    out = empty_like(diagonal)
    if isinstance(spread, float):
        spread = beside(np.full(1, spread, diagonal.dtype), diagonal)
    vectors_of(diagonal).invert(diagonal, threshold, spread, out)
    return out


def safe_diagonal(problem: KnownPoseProblem, name: str | NDArray | None) -> NDArray | None:
    """Return the diagonal of a name for steps of a given length: "gridding" is one with H <= D.

    Arguments and errors are those of `named_diagonal`, whose gridding weight is J for oversampled
    windows, and too small for steps of 1.
    """
    operator = problem.operator
    if not (isinstance(name, str) and name == "gridding") or operator.oversampling is None:
        return named_diagonal(problem, name)
    convolution = toeplitz(problem)
    return dominating_diagonal(convolution) + problem.damping


def named_diagonal(problem: KnownPoseProblem, name: str | NDArray | None) -> NDArray | None:
    """Return the diagonal that stands behind a preconditioner's name.

    Parameters
    ----------
    name : {"exact", "gridding"}, None or ndarray
        "exact" is J = diag H, "gridding" is rho >= H; an array (real half grid) is checked.
        Both are filled for oversampled windows, see `fastcryo.toeplitz.filled`.

    Raises
    ------
    InputError
        An unknown name, or an array of the wrong shape or with values that are not positive.
    """
    if name is None:
        return None
    if isinstance(name, str):
        if name not in ("exact", "gridding"):
            raise InputError(f"preconditioner: {name!r} is unknown, choose exact or gridding")
        exact = name == "exact"
        diagonal = problem.hessian_diagonal() if exact else problem.gridding_weight()
        oversampled = problem.operator.oversampling is not None
        return filled(problem.grid, diagonal) if oversampled else diagonal
    diagonal = np.asarray(name, dtype=problem.operator.real_dtype)
    problem.grid.check(diagonal)
    if not np.isfinite(diagonal).all() or (diagonal < 0).any():
        raise InputError("preconditioner: the array must be finite and not negative")
    return diagonal
