"""The density of eigenvalues by stochastic Lanczos quadrature."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.lanczos import Product, lanczos, scaled_operator
from fastcryo.normal import NormalOperator
from fastcryo.problem import KnownPoseProblem

# Spectral densities are drawn on this many points, with kernels of this share of the range.
DENSITY_POINTS, DENSITY_KERNEL = 240, 1 / 40

# Ritz values below this share of the largest are rounding errors of it.
SMALLEST_NODE = 1e-14


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
    shares = [
        np.exp(-0.5 * d**2) / np.sqrt(2 * np.pi) @ w / kernel
        for d, w in zip(distances, weights, strict=True)
    ]
    sums = [scipy.special.ndtr(d) @ w for d, w in zip(distances, weights, strict=True)]
    return SpectralDensity(
        10**grid, *_mean_and_error(shares), *_mean_and_error(sums), kernel, probes, steps
    )


def _columns(product: Product, start: NDArray) -> Iterator[tuple[float, float]]:
    for _, alpha, beta in lanczos(product, start):
        yield alpha, beta


def _mean_and_error(samples: list[NDArray]) -> tuple[NDArray, NDArray]:
    return np.mean(samples, axis=0), np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
