"""What a user should be told of particles and maps, in plain words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastcryo.coverage import UNEVEN, pose_coverage
from fastcryo.directional import DirectionalFSC
from fastcryo.fsc import FSCCurves
from fastcryo.masks import LOW_PASS, inscribed_ball, mask_low_pass
from fastcryo.particles import Particles
from fastcryo.symmetry import symmetry_matrices

THRESHOLD = 0.143
LAST_SHELLS = 3
# With fewer samples of a half-set for each voxel of the last shell, it is mostly prior.
FEWEST_SAMPLES = 3.0
SMALLEST_AREA_RATIO = 0.5
# Skewness of a filtered map, this many times that of noise of as many independent voxels.
CERTAIN = 5.0
HAND = "hand: that of the poses, images cannot tell; if helices are left-handed, flip the map"


def particle_findings(particles: Particles, radius: int, symmetry: str = "C1") -> list[str]:
    """Say what the metadata give reason to doubt.

    Parameters
    ----------
    particles : Particles
    radius : int
        Last shell that will be reconstructed, Fourier pixels.
    symmetry : str
        Point group: every image counts as all its views.
    """
    found = []
    coverage = pose_coverage(particles.rotations, particles.box, symmetry)
    if coverage.moments[2] > UNEVEN or coverage.verdict.startswith("close to one plane"):
        found.append(
            f"preferred orientations: the views are {coverage.verdict}, so the map is worse in "
            "some directions than its FSC says; fastcryo condition shows which"
        )
    count = len(particles) * len(symmetry_matrices(symmetry))
    samples = count / 2 / (2 * radius)
    if samples < FEWEST_SAMPLES:
        fair = max(int(count / 2 / (2 * FEWEST_SAMPLES)), 4) * 2
        found.append(
            f"too few particles for the box: {samples:.2g} samples of a half-set for each voxel of "
            f"the last shell, the prior decides there; --box {fair} or a lower --maxres is as good"
        )
    both = shared_images(particles)
    if both:
        found.append(
            f"{both} images are in both half-sets: their noise correlates, the FSC is too good; "
            "keep duplicates in one half-set (rlnRandomSubset)"
        )
    return found


def shared_images(particles: Particles) -> int:
    """Return how many images are in both half-sets."""
    numbers = particles.image_numbers()
    first, second = (np.unique(numbers[particles.half == h]) for h in (1, 2))
    return len(np.intersect1d(first, second, assume_unique=True))


def map_findings(
    full: NDArray,
    pixel_size: float,
    radius: int,
    curves: FSCCurves | None,
    directional: DirectionalFSC | None,
    mask: NDArray | None,
) -> list[str]:
    """Say what the maps give reason to doubt.

    Parameters
    ----------
    full : ndarray, shape (N, N, N)
        The map.
    pixel_size : float
        angstrom.
    radius : int
        Last shell that was reconstructed.
    curves : FSCCurves or None
    directional : DirectionalFSC or None
    mask : ndarray or None
        One that was given, not made from the map.
    """
    found = []
    if contrast(full, pixel_size, mask) < 0:
        found.append(
            "inverted contrast suspected: the map's strongest features are darker than the "
            "solvent; if protein is dark in the images, reconstruct with --invert"
        )
    if curves is not None:
        last = curves.unmasked[max(radius - LAST_SHELLS + 1, 1) : radius + 1].mean()
        if last > THRESHOLD:
            edge = (
                "the last shell before Nyquist"
                if radius >= (curves.box - 1) // 2
                else "the last shell of --maxres"
            )
            found.append(
                f"the FSC does not fall to zero: it is {last:.2f} at {edge}; either the data go "
                "further than the pixels or --box and --maxres allow, or the half-sets share "
                "something (duplicates, the same image in both halves, noise of one reference)"
            )
    if directional is not None and directional.area_ratio < SMALLEST_AREA_RATIO:
        finite = directional.resolution[np.isfinite(directional.resolution)]
        span = f"{finite.min():.1f} to {finite.max():.1f} Å" if len(finite) else "none"
        found.append(
            f"resolution depends on the direction ({span}; area under the conical FSC: least over "
            f"greatest {directional.area_ratio:.2f}): preferred orientations"
        )
    return found


def contrast(full: NDArray, pixel_size: float, mask: NDArray | None = None) -> float:
    """Return the sign of the density: 1 light, -1 dark, 0 where the map does not tell.

    In a given mask the mean density beside that outside tells. Without one the skewness of the
    filtered map in the inscribed ball does: particles are a small share of the ball.
    """
    ball = inscribed_ball(len(full))
    if mask is not None:
        inside, outside = mask > 0.5, ball & (mask < 0.01)
        if inside.any() and outside.any():
            return float(np.sign(full[inside].mean() - full[outside].mean()))
    values = mask_low_pass(full, pixel_size, LOW_PASS)[ball].astype(np.float64)
    values -= values.mean()
    spread = values.std()
    if not spread > 0:
        return 0.0
    skewness = np.mean((values / spread) ** 3)
    independent = len(values) * (pixel_size / max(LOW_PASS, 4 * pixel_size)) ** 3
    certain = abs(skewness) > CERTAIN * np.sqrt(6 / max(independent, 6))
    return float(np.sign(skewness)) if certain else 0.0
