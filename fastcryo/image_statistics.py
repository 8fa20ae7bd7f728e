"""Statistics of a sample of images: their scale, and whether protein is light or dark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastcryo.particles import Particles

SAMPLED_IMAGES = 200
IMAGES_AT_ONCE = 20
DISC, RIM = 0.2, 0.45  # radii, in box sides: mostly particle, and mostly solvent
CERTAIN = 4.0  # standard errors
CONTRAST_VERDICTS = {
    1: "light on dark, as needed",
    -1: "dark on light: reconstruct with --invert",
    0: "not certain from these images",
}


@dataclass(frozen=True)
class ImageSample:
    """Statistics of some images.

    Parameters
    ----------
    count : int
        Images read, evenly spread over the file.
    mean, std : float
        Mean of the images' means and of their standard deviations.
    lowest_std, highest_std : float
    contrast : float
        Mean of the inner disc minus mean of the rim, in standard deviations of the image.
    contrast_error : float
        Standard error of `contrast`.
    contrast_verdict : str
    """

    count: int
    mean: float
    std: float
    lowest_std: float
    highest_std: float
    contrast: float
    contrast_error: float
    contrast_verdict: str


def sample_images(particles: Particles) -> ImageSample:
    """Read some images, evenly spread over the file, and measure them.

    Parameters
    ----------
    particles : Particles

    Returns
    -------
    ImageSample

    Raises
    ------
    InputError
        As `Particles.images` does.
    """
    chosen = np.linspace(0, len(particles) - 1, min(SAMPLED_IMAGES, len(particles))).astype(int)
    axis = np.arange(particles.box) - particles.box // 2
    radius = np.hypot(axis[:, None], axis) / particles.box
    means, stds, contrasts = [], [], []
    for start in range(0, len(chosen), IMAGES_AT_ONCE):
        images = particles.images(chosen[start : start + IMAGES_AT_ONCE])
        images = images.reshape(len(images), -1).astype(np.float64)
        std = images.std(axis=1)
        inside, outside = (
            images[:, part.ravel()].mean(axis=1) for part in (radius < DISC, radius > RIM)
        )
        means.extend(images.mean(axis=1))
        stds.extend(std)
        contrasts.extend((inside - outside)[std > 0] / std[std > 0])
    contrast = float(np.mean(contrasts)) if contrasts else 0.0
    error = float(np.std(contrasts) / np.sqrt(len(contrasts))) if contrasts else 0.0
    certain = len(contrasts) > 1 and abs(contrast) > CERTAIN * error
    return ImageSample(
        count=len(chosen),
        mean=float(np.mean(means)),
        std=float(np.mean(stds)),
        lowest_std=float(np.min(stds)),
        highest_std=float(np.max(stds)),
        contrast=contrast,
        contrast_error=error,
        contrast_verdict=CONTRAST_VERDICTS[int(np.sign(contrast)) if certain else 0],
    )
