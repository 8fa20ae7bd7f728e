"""What first half-maps say of the images: the noise that they leave, and the scale of each image.

Every image is compared with the map of its own half-set only, so nothing goes from one half to the
other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastcryo.assembled import assemble_all
from fastcryo.fsc import shell_correlation
from fastcryo.noise import FEWEST_IMAGES, IMAGES_FOR_NOISE, NOISE_FLOOR
from fastcryo.optics import imaging_of, noise_gain
from fastcryo.packing import half_transforms, pieces
from fastcryo.particles import Particles
from fastcryo.prior import regularizations
from fastcryo.problem import KnownPoseProblem
from fastcryo.reporting import Report
from fastcryo.scales import Scales, shrunk_scales
from fastcryo.settings import Settings
from fastcryo.solvers import conjugate_gradient
from fastcryo.threads import in_threads

TOLERANCE, ITERATIONS = 0.01, 30
# Scales are fitted where the first half-maps agree better than this.
LEAST_FSC = 0.5
FEWEST_SHELLS = 2
BLOCK_BYTES = 128 * 2**20
# Slices, data, weights and products of a sample while it is compared.
SAMPLE_BYTES = 48
IMAGES_AT_ONCE = 16
# Residuals of a shell whose samples the map takes nearly all of say little: no less than this part
# of them is divided by.
FEWEST_LEFT = 0.05


@dataclass(frozen=True, eq=False)
class ResidualNoise:
    """Noise by shell from what the first half-maps leave of the images.

    Attributes
    ----------
    sigma : ndarray, shape (2 g, R' + 1)
        Rows of each noise group in half-set 1 and in half-set 2; beyond the last shell of the maps
        what the corners say.
    groups : ndarray, shape (n,), int64
        Row of every image.
    freedom : ndarray, shape (2, R + 1)
        Share of the residuals' degrees of freedom that each half-map takes, which sigma counts.
    images : tuple of 2 ints
        How many were looked at in each half-set.
    """

    sigma: NDArray[np.float64]
    groups: NDArray[np.int64]
    freedom: NDArray[np.float64]
    images: tuple[int, int]

    def describe(self) -> str:
        """Say what the noise was estimated from."""
        shell = int(self.freedom.max(axis=0).argmax())
        return (
            f"noise from the residuals of {self.images[0]} and {self.images[1]} images of the two "
            f"half-sets; the first half-maps take up to {100 * self.freedom.max():.2g} % of their "
            f"degrees of freedom (shell {shell}), which is accounted for"
        )


@dataclass(frozen=True, eq=False)
class FirstMaps:
    """Half-maps from the images as they are, to compare these with.

    Attributes
    ----------
    halves : list of two KnownPoseProblem
    volumes : list of two ndarray, half grids
    freedom : ndarray, shape (2, R + 1)
        Unknowns by shell that the data, not the prior, determine: the sum of J / (J + lambda) over
        the shell, divided by the number of symmetric copies.
    last_shell : int
        Up to which their FSC is at least `LEAST_FSC`.
    """

    halves: list[KnownPoseProblem]
    volumes: list[NDArray]
    freedom: NDArray[np.float64]
    last_shell: int


def first_maps(
    problem: KnownPoseProblem,
    half_sets: tuple[NDArray, NDArray],
    settings: Settings,
    report: Report,
) -> FirstMaps:
    """Solve both half-maps with the Wiener prior, to one per cent.

    With a prior that is right, the residual y - C P V of the minimiser holds sigma^2 (N - p) of N
    samples' noise and signal, p the trace of the operator that takes data to fitted data: here
    J / (J + lambda) summed over the unknowns.
    """
    halves = [problem.select(members) for members in half_sets]
    stages: dict[str, int] = {}
    steps = 5

    def tell(stage: str, done: int, total: int, detail: str, **_: float | None) -> None:
        number = stages.setdefault(stage, len(stages))
        part = min(int(100 * (number + done / total)), 100 * steps - 1)
        report("first half-maps", part, 100 * steps, stage)

    operators, _ = assemble_all(problem, halves, tell)
    operators.pop("full", None)
    wiener = replace(settings, regularization=None)
    priors = regularizations(problem, halves, wiener, tell, operators)
    grid, volumes, freedom = problem.grid, [], []
    for name, half in zip(("half1", "half2"), halves, strict=True):
        operator = operators.pop(name, None)
        weight = half.hessian_diagonal() if operator is None else operator.diagonal()
        damped = half.with_regularization(priors[name])
        found = conjugate_gradient(
            damped,
            weight + damped.damping,
            TOLERANCE,
            ITERATIONS,
            callback=lambda i, r, name=name: tell(name, i, ITERATIONS, f"residual {r:.3f}"),
            operator=operator and operator.with_regularization(priors[name]),
        )
        volumes.append(found.volume)
        kept = np.where(grid.ball(), weight / (weight + damped.damping), 0.0)
        freedom.append(grid.shell_sums(kept) / half.views(1))
    report("first half-maps", 100 * steps, 100 * steps, "")
    curve = shell_correlation(grid, *volumes)[1:]
    poor = np.flatnonzero(curve < LEAST_FSC)
    last = int(poor[0]) if len(poor) else len(curve)
    return FirstMaps(halves, volumes, np.stack(freedom), min(last, grid.radius))


def fitted_scales(maps: FirstMaps, problem: KnownPoseProblem, report: Report) -> Scales | None:
    """Fit the scale of every image by least squares to the projection of its half-map.

        s = (<C P V, y> - p) / <C P V, C P V>,   weighted by 1 / sigma^2, with the error 1 / |C P V|

    over the shells where the half-maps agree, the mean of the image left out. V holds a little of
    the image's own noise: p is the image's share of the degrees of freedom of V, by its weight, and
    what that noise adds to the product. None where the half-maps agree nowhere.
    """
    if maps.last_shell < FEWEST_SHELLS:
        return None
    operator, communicator = problem.operator, problem.communicator
    shells = _shells(problem)
    used = np.flatnonzero((shells > 0) & (shells <= maps.last_shell))
    sums = np.zeros((2, len(problem)))
    done, total = 0, len(problem)
    for half, volume, freedom in zip(maps.halves, maps.volumes, maps.freedom, strict=True):
        # The weights of all images of the half by shell: the window spreads, but keeps their sum.
        weight = problem.grid.shell_sums(half.gridding_weight()) * len(half)
        own_noise = _ratio(freedom, weight)[shells[used]]
        for members, rows in _blocks(half, half.members):
            weights, data = _stored(half, rows)
            slices = operator.slices(volume, _first_view(half)[rows])[:, used]
            # Half discs: every sample but the origin stands for two.
            products = (np.conj(slices) * data[:, used]).real
            squares = (slices.real**2 + slices.imag**2) * weights[:, used]
            products -= weights[:, used] * own_noise
            sums[0, members] = 2 * products.sum(axis=1, dtype=np.float64)
            sums[1, members] = 2 * squares.sum(axis=1, dtype=np.float64)
            done += len(members)
            if done < total:
                report("scales", done, total, "")
    communicator.sum(sums)
    found = shrunk_scales(*sums, maps.last_shell)
    report("scales", total, total, found.describe())
    return found


def residual_noise(
    particles: Particles,
    problem: KnownPoseProblem,
    maps: FirstMaps,
    corners: NDArray[np.float64],
    corner_groups: NDArray[np.int64] | None,
    report: Report,
) -> ResidualNoise:
    """Estimate the noise of every noise group in each half-set from residuals.

    sigma^2(s) is the sum of |y - C P V|^2 over the samples of a shell, over their number less the
    degrees of freedom that the half-map takes of them. Images multiplied by their CTF are compared
    as they are, and the power divided by the mean C^2.

    Parameters
    ----------
    particles : Particles
        With their scales, if these were fitted.
    problem : KnownPoseProblem
        What `maps` were made from, without these scales.
    maps : FirstMaps
    corners : ndarray, shape (R' + 1,) or (g, R' + 1)
        sigma that the problem was built with.
    corner_groups : ndarray, shape (n,), or None
    report : callable
    """
    corners = np.atleast_2d(corners)
    count, number, radius = len(problem), len(corners), problem.grid.radius
    groups = np.zeros(count, np.int64) if corner_groups is None else corner_groups
    most = max(FEWEST_IMAGES, IMAGES_FOR_NOISE // number)
    half_of = np.zeros(count, np.int64)
    images, shares, ratios = [0, 0], np.zeros((2, radius + 1)), []
    for half, part in enumerate(maps.halves):
        half_of[part.members] = half
        sums, sizes = np.zeros((number, 3, radius + 1)), np.zeros(number, np.int64)
        for group in range(number):
            own = part.members[groups[part.members] == group]
            chosen = own[_spread(len(own), most)]
            sizes[group], images[half] = len(own), images[half] + len(chosen)
            if len(chosen):
                found = _compare(particles, maps, half, problem, chosen, corners[group])
                sums[group] = found * (len(own) / len(chosen))
            report("residuals", half * number + group + 1, 2 * number, "")
        power, weight, samples = sums.transpose(1, 0, 2)
        # A group takes part in the map by its weight.
        left = samples - maps.freedom[half] * _ratio(weight, weight.sum(axis=0))
        left = np.maximum(left, FEWEST_LEFT * samples)
        small = sizes < FEWEST_IMAGES // 2
        ratios.append(
            np.where(small[:, None], _ratio(power.sum(0), left.sum(0)), _ratio(power, left))
        )
        shares[half] = _ratio(maps.freedom[half], samples.sum(axis=0))
    ratio = np.stack(ratios, axis=1)
    sigma = np.repeat(corners[:, None], 2, axis=1)
    known = ratio > 0
    sigma[..., : radius + 1][known] *= np.sqrt(np.maximum(ratio[known], NOISE_FLOOR))
    sigma[..., 0] = sigma[..., 1]
    rows = sigma.reshape(-1, corners.shape[1])
    return ResidualNoise(rows, 2 * groups + half_of, shares, tuple(images))


def _compare(
    particles: Particles,
    maps: FirstMaps,
    number: int,
    problem: KnownPoseProblem,
    chosen: NDArray[np.int64],
    sigma: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sum |r|^2 / sigma^2, C^2 / sigma^2 and 1 by shell over the discs of images of one group."""
    half, volume = maps.halves[number], maps.volumes[number]
    operator, shells = problem.operator, _shells(problem)
    variance = sigma[shells] ** 2
    h, k = operator.frequencies()
    corrected = np.array([g.corrected == "premultiplied" for g in particles.optics])
    imaging = imaging_of(particles)
    total = np.zeros((3, operator.samples))
    for members, rows in _blocks(half, chosen):
        weights, data = _stored(half, rows)
        slices = operator.slices(volume, _first_view(half)[rows])
        scale = np.ones(len(members)) if particles.scale is None else particles.scale[members]
        # Weights hold C^2 / sigma^2; pixels that were multiplied by C show C^2 P V.
        again = corrected[particles.optics_group[members]][:, None]
        factor = np.where(again, weights * variance, 1).astype(weights.dtype)
        products = (np.conj(slices) * data).real * factor
        squares = (slices.real**2 + slices.imag**2) * weights * factor
        total[0] -= np.einsum("i,ij->j", 2 * scale, products)
        total[0] += np.einsum("i,ij->j", scale**2, squares)
        total[0] += _powers(particles, members, operator.grid.radius, h, k) / variance
        total[1] += np.einsum("i,ij->j", scale**2, weights)
        if imaging is None:
            total[2] += len(members)
        else:
            limits = imaging.limits[imaging.group[members]]
            total[2] += (h**2 + k**2 <= limits[:, None] ** 2).sum(axis=0)
    total[:, operator.origin] = 0
    problem.communicator.sum(total)
    radius = operator.grid.radius
    # Every sample of a half disc stands for two.
    by_shell = np.stack([np.bincount(shells, 2 * row, minlength=radius + 1) for row in total])
    by_shell[0] /= noise_gain(particles, chosen, radius)
    return by_shell


def _powers(
    particles: Particles,
    members: NDArray[np.int64],
    radius: int,
    h: NDArray[np.int64],
    k: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Sum |y|^2 of some images at the samples of half a disc."""

    def work(block: slice) -> NDArray[np.float64]:
        transforms = half_transforms(particles.images(members[block]), radius)[:, k, h]
        return (transforms.real**2 + transforms.imag**2).sum(axis=0, dtype=np.float64)

    return sum(found for _, found in in_threads(work, pieces(len(members), IMAGES_AT_ONCE)))


def _blocks(
    half: KnownPoseProblem, members: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut this rank's images among some into blocks; yields (which of all, rows that hold them)."""
    mine = members if half.rows is None else members[half.rows[members] >= 0]
    rows = half.local_images(members)
    for part in pieces(len(mine), BLOCK_BYTES // (SAMPLE_BYTES * half.operator.samples)):
        yield mine[part], rows[part]


def _stored(problem: KnownPoseProblem, rows: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Return weights and data of some rows."""
    shared = problem.weights.shape[0] == 1
    return problem.weights[np.zeros_like(rows) if shared else rows], problem.data[rows]


def _first_view(problem: KnownPoseProblem) -> NDArray[np.int64]:
    """Return the steps of one view of every image: with symmetry all show the same."""
    return problem.steps if problem.steps.ndim == 3 else problem.steps[0]


def _shells(problem: KnownPoseProblem) -> NDArray[np.int64]:
    return np.rint(np.hypot(*problem.operator.frequencies())).astype(np.int64)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Choose `most` of `count` things evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _ratio(top: NDArray, bottom: NDArray) -> NDArray[np.float64]:
    """Divide, 0 where there is nothing to divide by."""
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.zeros(bottom.shape), where=bottom > 0)
