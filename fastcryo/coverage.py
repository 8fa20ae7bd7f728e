"""How evenly the views of a data set cover Fourier space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastcryo.symmetry import symmetry_matrices

DIRECTIONS = 2000
VIEWS_AT_ONCE = 128  # few enough for the cache: 3 to 25 times as fast as 4096
UNKNOWN_RADIUS = 32  # Fourier pixels, where the box is not known
CROWDED, FLAT = 0.6, 0.1  # moments of views around one direction, and in one plane
UNEVEN = 0.45
GAPS = 0.01


@dataclass(frozen=True)
class Coverage:
    """How evenly the views cover space, symmetric copies of every view included.

    Parameters
    ----------
    moments : tuple of 3 floats
        Eigenvalues of the mean of v v^T over viewing directions v, ascending; 1/3 each for even
        views.
    uncovered : float
        Share of the directions of Fourier space, 0 to 1, that no slice meets within half a Fourier
        pixel at the last shell.
    verdict : str
        The same in words.
    symmetry : str
        Point group whose copies are counted.
    """

    moments: tuple[float, float, float]
    uncovered: float
    verdict: str
    symmetry: str = "C1"


def pose_coverage(
    rotations: NDArray[np.float64], box: int | None = None, symmetry: str = "C1"
) -> Coverage:
    """Measure how well views cover Fourier space.

    Parameters
    ----------
    rotations : ndarray, shape (n, 3, 3)
        A, reference to image coordinates; n at least 1.
    box : int, optional
        Side of the images, pixels: the larger, the finer are the Fourier pixels at the last shell.
    symmetry : str
        Point group: a view A stands for all views A S.

    Returns
    -------
    Coverage
    """
    views, matrices = rotations[:, 2], symmetry_matrices(symmetry)
    moment = views.T @ views / len(views)
    moments = np.linalg.eigvalsh(np.mean(matrices.transpose(0, 2, 1) @ moment @ matrices, axis=0))
    radius = UNKNOWN_RADIUS if box is None else max((box - 1) // 2, 1)
    left = spread_directions(DIRECTIONS)
    for matrix in matrices:
        for start in range(0, len(views), VIEWS_AT_ONCE):
            # A view's slice is the plane normal to it: the sine is the distance of a direction.
            some = views[start : start + VIEWS_AT_ONCE] @ matrix
            left = left[np.abs(left @ some.T).min(axis=1) > 0.5 / radius]
    uncovered = len(left) / DIRECTIONS
    return Coverage(tuple(moments.tolist()), uncovered, _verdict(moments, uncovered), symmetry)


def spread_directions(count: int) -> NDArray[np.float64]:
    """Spread points (x, y, z) over half a sphere by the golden angle; the rest mirrors them."""
    height = (np.arange(count) + 0.5) / count
    azimuth = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), height], axis=1)


def _verdict(moments: NDArray[np.float64], uncovered: float) -> str:
    if moments[2] > CROWDED:
        spread = "crowded around one direction"
    elif moments[0] < FLAT:
        spread = "close to one plane"
    elif moments[2] > UNEVEN:
        spread = "uneven"
    else:
        spread = "even"
    gaps = ", with gaps in Fourier space" if uncovered > GAPS else ""
    return spread + gaps
