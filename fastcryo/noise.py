"""Noise spectrum of the images and the Wiener prior of the map, both by shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.threads import thread_count

if TYPE_CHECKING:
    from fastcryo.particles import Particles

IMAGES_FOR_NOISE = 1000
BLOCK = 100
EDGE_PIXELS = 3.0
# A shell's noise is not taken below this fraction of the mean power of the images, so that data
# without noise keep finite weights.
NOISE_FLOOR = 1e-3
# FSC values are kept within these bounds before they are turned into a signal-to-noise ratio.
SMALLEST_FSC, LARGEST_FSC = 1e-3, 0.9999


def estimate_noise_std(
    particles: Particles, radius: int, most_images: int = IMAGES_FOR_NOISE
) -> NDArray[np.float64]:
    """Estimate sigma by shell from the corners of the images, outside the inscribed circle.

    Parameters
    ----------
    particles : Particles
    radius : int
        Last shell wanted, in Fourier pixels.
    most_images : int
        Evenly chosen images to look at.

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
    background = background_mask(particles.box)
    area = (background**2).sum()
    power = np.zeros((particles.box, particles.box // 2 + 1))
    total = np.zeros_like(power)
    for start in range(0, len(chosen), BLOCK):
        images = particles.images(chosen[start : start + BLOCK]).astype(np.float64)
        total += (np.abs(scipy.fft.rfft2(images, workers=thread_count())) ** 2).sum(axis=0)
        means = (images * background).sum(axis=(1, 2)) / background.sum()
        images = (images - means[:, None, None]) * background
        power += (np.abs(scipy.fft.rfft2(images, workers=thread_count())) ** 2).sum(axis=0)
    power *= particles.box**2 / area / len(chosen)
    total /= len(chosen)
    shells = image_shells(particles.box)
    kept = (shells > 0) & (shells <= radius)
    floor = NOISE_FLOOR * total[kept].mean()
    if not floor > 0:
        raise InputError(f"{particles.source}: the images are constant, there is nothing to fit")
    counts = np.bincount(shells.ravel())
    variance = (np.bincount(shells.ravel(), power.ravel()) / counts)[: radius + 1]
    # The mean over the background is taken off, which removes the lowest shell's noise too.
    variance[0] = variance[1]
    return np.sqrt(np.maximum(variance, floor))


def background_mask(box: int) -> NDArray[np.float64]:
    """Return a soft mask (box, box) of what lies outside the inscribed circle."""
    x = np.arange(box) - box // 2
    r = np.hypot(x[:, None], x[None, :])
    inner = box / 2 - EDGE_PIXELS
    return 0.5 - 0.5 * np.cos(np.pi * np.clip((r - inner) / EDGE_PIXELS, 0, 1))


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
