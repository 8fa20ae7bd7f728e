"""Noise spectrum of the images and the Wiener prior of the map, both by shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fastcryo.communicator import ALONE, Communicator
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.optics import noise_gain
from fastcryo.packing import pieces
from fastcryo.threads import in_threads

if TYPE_CHECKING:
    from fastcryo.particles import Particles

IMAGES_FOR_NOISE = 1000
# Of a group: its corners then hold some thousand independent values per shell.
FEWEST_IMAGES = 100
BLOCK = 8
EDGE_PIXELS = 3.0
# A shell's noise is not taken below this fraction of the mean power of the images, so that data
# without noise keep finite weights.
NOISE_FLOOR = 1e-3
# FSC values are kept within these bounds before they are turned into a signal-to-noise ratio.
SMALLEST_FSC, LARGEST_FSC = 1e-3, 0.9999


def estimate_noise_std(
    particles: Particles,
    radius: int,
    most_images: int = IMAGES_FOR_NOISE,
    progress: Callable[[int, int], None] | None = None,
    communicator: Communicator = ALONE,
) -> NDArray[np.float64]:
    """Estimate sigma by shell from the corners of the images, outside the inscribed circle.

    Parameters
    ----------
    particles : Particles
    radius : int
        Last shell wanted, in Fourier pixels.
    most_images : int
        Evenly chosen images to look at.
    progress : callable, optional
        Called with (images done, images to look at).
    communicator : Communicator
        The ranks that share the work.

    Returns
    -------
    ndarray, shape (radius + 1,)
        Standard deviation of a DFT coefficient of a whole image.

    Raises
    ------
    InputError
        Images that hold nothing but one constant.
    """
    chosen = np.unique(np.linspace(0, len(particles) - 1, most_images).round().astype(int))
    mine = chosen[communicator.part(len(chosen))]
    background = background_mask(particles.box)
    area = np.square(background, dtype=np.float64).sum()
    shape = particles.box, particles.box // 2 + 1
    total, power = np.zeros(shape), np.zeros(shape)

    def powers(block: slice) -> tuple[NDArray, NDArray]:
        images = particles.images(mine[block])
        whole = summed_power(images)
        means = (images * background).sum(axis=(1, 2)) / background.sum()
        images -= means[:, None, None]
        images *= background
        return whole, summed_power(images)

    for block, (whole, outside) in in_threads(powers, pieces(len(mine), BLOCK)):
        total += whole
        power += outside
        if progress is not None:
            progress(block.stop * len(chosen) // len(mine), len(chosen))
    communicator.sum(total)
    communicator.sum(power)
    power *= particles.box**2 / area / len(chosen)
    total /= len(chosen)
    shells = image_shells(particles.box)
    kept = (shells > 0) & (shells <= radius)
    floor = NOISE_FLOOR * total[kept].mean()
    if not floor > 0:
        raise InputError(f"{particles.source}: the images are constant, there is nothing to fit")
    counts = np.bincount(shells.ravel())
    variance = (np.bincount(shells.ravel(), power.ravel()) / counts)[: radius + 1]
    variance /= noise_gain(particles, chosen, radius)
    # The mean over the background is taken off, which removes the lowest shell's noise too.
    variance[0] = variance[1]
    return np.sqrt(np.maximum(variance, floor))


def estimate_noise_by_group(
    particles: Particles,
    radius: int,
    progress: Callable[[int, int], None] | None = None,
    communicator: Communicator = ALONE,
) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
    """Estimate sigma by shell for every optics group that has images enough.

    Groups of fewer than `FEWEST_IMAGES` images share what is estimated from all. Parameters and
    errors are those of `estimate_noise_std`.

    Returns
    -------
    sigma : ndarray, shape (radius + 1,) or (g, radius + 1)
        One row per noise group, if there are several.
    groups : ndarray, shape (n,), int64, or None
        Noise group of every image; None where there is only one.
    """
    counts = np.bincount(particles.optics_group)
    large = np.flatnonzero(counts >= FEWEST_IMAGES)
    if len(large) + (counts[counts < FEWEST_IMAGES].sum() > 0) < 2:
        return estimate_noise_std(
            particles, radius, progress=progress, communicator=communicator
        ), None
    most = max(FEWEST_IMAGES, IMAGES_FOR_NOISE // len(large))
    parts = [np.flatnonzero(particles.optics_group == group) for group in large]
    groups = np.full(len(particles), len(large), np.int64)
    for number, members in enumerate(parts):
        groups[members] = number
    if (groups == len(large)).any():
        parts.append(np.arange(len(particles)))
    rows = []
    for number, members in enumerate(parts, 1):
        rows.append(
            estimate_noise_std(particles.select(members), radius, most, communicator=communicator)
        )
        if progress is not None:
            progress(number, len(parts))
    return np.stack(rows), groups


def summed_power(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum |rfft2|^2 over images (m, M, M); shape (M, M // 2 + 1)."""
    parts = scipy.fft.rfft2(images, workers=1).view(np.float32)
    squares = np.square(parts, out=parts).sum(axis=0, dtype=np.float64)
    return squares[:, ::2] + squares[:, 1::2]


def background_mask(box: int) -> NDArray[np.float32]:
    """Return a soft mask (box, box) of what lies outside the inscribed circle."""
    x = np.arange(box) - box // 2
    r = np.hypot(x[:, None], x[None, :])
    inner = box / 2 - EDGE_PIXELS
    mask = 0.5 - 0.5 * np.cos(np.pi * np.clip((r - inner) / EDGE_PIXELS, 0, 1))
    return mask.astype(np.float32)


def image_shells(box: int) -> NDArray[np.int64]:
    """Return round(|k|) of the coefficients of an rfft2, shape (box, box // 2 + 1)."""
    k = np.fft.fftfreq(box, 1 / box)
    return np.rint(np.hypot(k[:, None], np.arange(box // 2 + 1)[None, :])).astype(np.int64)


def wiener_prior(
    grid: FourierGrid, diagonal: NDArray, fsc: ArrayLike, halves: int = 1
) -> NDArray[np.float64]:
    """Return lambda by shell from the FSC of two half-maps.

    With the shell's mean J = diag H and the signal-to-noise ratio FSC / (1 - FSC) of a half-map,

        lambda(s) = mean J(s) (1 - FSC(s)) / FSC(s),

    the Wiener filter of independent signal and noise (RELION's tau2, in these units).

    Parameters
    ----------
    grid : FourierGrid
    diagonal : ndarray, real half grid
        J of the images to reconstruct, without lambda.
    fsc : array_like
        By shell, 0..R at least.
    halves : int
        2 for the map of all images, whose signal-to-noise ratio is twice that of a half.

    Returns
    -------
    ndarray, shape (R + 1,)
    """
    bounded = np.clip(np.asarray(fsc)[: grid.radius + 1], SMALLEST_FSC, LARGEST_FSC)
    bounded[0] = bounded[1]
    return grid.shell_means(diagonal) * (1 - bounded) / (halves * bounded)
