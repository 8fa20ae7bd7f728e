"""Soft masks: a ball, and the surroundings of what is dense in a map."""

from __future__ import annotations

import os

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fastcryo.errors import InputError
from fastcryo.fsc import checked_mask
from fastcryo.grid import FourierGrid
from fastcryo.io.mrc import read_map

# RELION's mask creation: low-pass of 15 angstrom, extended by 3 pixels, with an edge of 6.
LOW_PASS, EXTEND, EDGE = 15.0, 3.0, 6.0
# A low-pass finer than this many voxels would leave the noise in.
COARSEST_VOXELS = 4.0
LEVELS = 512
# The word for a mask made from the map.
AUTO = "auto"
PIXEL_TOLERANCE = 0.01


def soft_spherical_mask(
    box: int, radius_pixels: float, edge_pixels: float = 6.0
) -> NDArray[np.float32]:
    """Return a ball about voxel N // 2 with an edge that falls off as a raised cosine.

    Parameters
    ----------
    box : int
        N.
    radius_pixels : float
        Where the edge begins.
    edge_pixels : float
        Its width; 0 makes a hard edge.

    Returns
    -------
    ndarray, shape (N, N, N), float32
        1 inside, 0 outside.

    Raises
    ------
    InputError
        A radius or an edge that is not positive or reaches beyond the box.
    """
    if not (radius_pixels > 0 and edge_pixels >= 0 and radius_pixels + edge_pixels <= box / 2):
        raise InputError(
            f"mask: radius {radius_pixels:g} and edge {edge_pixels:g} do not fit a box of {box} "
            f"pixels, together they may reach {box / 2:g}"
        )
    squared = (np.arange(box) - box // 2.0) ** 2
    distance = np.sqrt(squared[:, None, None] + squared[:, None] + squared)
    return soft_edge(distance - radius_pixels, edge_pixels)


def mask_from_map(
    volume: ArrayLike,
    pixel_size: float,
    *,
    threshold: float | None = None,
    low_pass: float = LOW_PASS,
    extend_pixels: float = EXTEND,
    edge_pixels: float = EDGE,
) -> NDArray[np.float32]:
    """Return a soft mask about what is dense in a map.

    The map is low-pass filtered and cut at a threshold; pieces smaller than a tenth of the largest
    one are noise and left out. The rest is extended by some pixels and gets an edge that falls off
    as a raised cosine.

    Parameters
    ----------
    volume : array_like, shape (N, N, N), real
    pixel_size : float
        a, angstrom.
    threshold : float, optional
        Of the filtered map; Otsu's of the voxels in the inscribed ball unless given.
    low_pass : float
        angstrom, at half of the amplitude; at least four voxels.
    extend_pixels, edge_pixels : float

    Returns
    -------
    ndarray, shape (N, N, N), float32
        Values 0 to 1; 0 outside the inscribed ball.

    Raises
    ------
    InputError
        Nothing is above the threshold, or a negative extent or edge.
    """
    volume = np.asarray(volume, dtype=np.float32)
    if extend_pixels < 0 or edge_pixels < 0:
        raise InputError(
            f"mask: extended by {extend_pixels:g} with an edge of {edge_pixels:g} pixels, "
            "neither may be negative"
        )
    box = len(volume)
    ball = inscribed_ball(box)
    smooth = mask_low_pass(volume, pixel_size, low_pass)
    if threshold is None:
        threshold = otsu_threshold(smooth[ball])
    dense = (smooth > threshold) & ball
    labels, count = scipy.ndimage.label(dense)
    if count == 0:
        raise InputError(
            f"mask: no voxel of the filtered map is above {threshold:.4g}, "
            "lower the threshold or give a mask"
        )
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    dense = (sizes >= sizes.max() / 10)[labels]
    outside = scipy.ndimage.distance_transform_edt(~dense).astype(np.float32)
    return soft_edge(outside - extend_pixels, edge_pixels) * ball


def inscribed_ball(box: int) -> NDArray[np.bool_]:
    """Return which voxels are within box / 2 - 1 of voxel N // 2."""
    return soft_spherical_mask(box, box / 2 - 1, 0) > 0


def mask_low_pass(volume: NDArray, pixel_size: float, resolution: float) -> NDArray:
    """Filter a map by a Gaussian that is 1/2 at 1 / `resolution`, at least four voxels."""
    grid = FourierGrid(len(volume))
    resolution = max(resolution, COARSEST_VOXELS * pixel_size)
    shells = np.arange(grid.shells().max() + 1) / (grid.box * pixel_size)
    gain = np.exp(-np.log(2) * (shells * resolution) ** 2).astype(np.float32)
    return grid.to_real(grid.from_real(volume) * gain[grid.shells()])


def otsu_threshold(values: NDArray) -> float:
    """Return the threshold that separates two classes with the greatest variance between them.

    N. Otsu, IEEE Trans. Syst. Man Cybern. 9, 62-66 (1979).
    """
    counts, edges = np.histogram(values, LEVELS)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    above = below[-1] - below
    parts = below.astype(np.float64) * above
    gap = np.divide(sums * below[-1] - sums[-1] * below, parts, where=parts > 0, out=parts * 0)
    return float(edges[1 + np.argmax(parts * gap**2)])


def soft_edge(beyond: NDArray, width: float) -> NDArray[np.float32]:
    """Return 1 where `beyond` <= 0, falling off as a raised cosine to 0 at `width`, pixels."""
    if width == 0:
        return (beyond <= 0).astype(np.float32)
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(beyond / width, 0, 1))).astype(np.float32)


def mask_for(
    wanted: str | os.PathLike | ArrayLike | None, box: int, pixel_size: float
) -> NDArray[np.float32] | None:
    """Return the mask that a user asks for, unless it is to come from the map.

    Parameters
    ----------
    wanted : str, path, array_like or None
        "sphere": a ball that leaves the edge of the box free; "sphere:R": one of R angstrom; a
        file; the mask itself; None: no mask.
    box : int
        N of the maps.
    pixel_size : float
        Of the maps, angstrom.

    Raises
    ------
    InputError
        A mask that cannot be read or does not fit the maps in box, pixel size or values.
    """
    if wanted is None:
        return None
    if not isinstance(wanted, str | os.PathLike):
        return checked_mask(wanted, (box,) * 3)
    name, _, radius = os.fspath(wanted).partition(":")
    if name == "sphere":
        edge = min(EDGE, box / 8)
        largest = box / 2 - edge
        try:
            pixels = float(radius) / pixel_size if radius else largest
        except ValueError:
            raise InputError(f"mask: {wanted}: a radius in angstrom is needed after ':'") from None
        if not 0 < pixels <= largest:
            raise InputError(
                f"mask: {wanted}: does not fit, with an edge of {edge * pixel_size:.3g} angstrom "
                f"the radius may be up to {largest * pixel_size:.4g}"
            )
        return soft_spherical_mask(box, pixels, edge)
    mask, size = read_map(wanted, cubic=True)
    refuse_other_grid(wanted, len(mask), size, box, pixel_size)
    try:
        return checked_mask(mask, mask.shape)
    except InputError as error:
        raise InputError(f"{wanted}: {error}") from error


def mask_power(mask: NDArray | None) -> float:
    """Return the mean of m^2: what a mask takes off diag H where H changes slowly; 1 without."""
    return 1.0 if mask is None else float(np.mean(mask.astype(np.float64) ** 2))


def has_edge(mask: NDArray | None) -> bool:
    """Return whether a mask is 0 somewhere: maps that share its edge correlate by that alone."""
    return mask is not None and not mask.all()


def taper(box: int) -> NDArray[np.float32]:
    """Return sinc^2(x / N) along each axis, what trilinear windows multiply maps by.

    1 in the middle and 0.4 at the faces: density is expected in the middle of the box.
    """
    along = np.sinc((np.arange(box) - box // 2) / box) ** 2
    return (along[:, None, None] * along[:, None] * along).astype(np.float32)


def solvent_mask_for(
    wanted: str | os.PathLike | ArrayLike | None, box: int, pixel_size: float
) -> NDArray[np.float32] | None:
    """Return the mask that a user asks for during the solution.

    Parameters
    ----------
    wanted : str, path, array_like or None
        "taper"; "none" or None: no mask; else a mask as `mask_for` takes it, times the taper.
    box, pixel_size
        See `mask_for`.
    """
    if wanted is None or (isinstance(wanted, str) and wanted == "none"):
        return None
    if isinstance(wanted, str) and wanted == "taper":
        return taper(box)
    if isinstance(wanted, str) and wanted == AUTO:
        raise InputError(
            "solvent mask: auto needs a map, which is not there yet; reconstruct with --mask auto "
            "first and give its run_mask.mrc"
        )
    try:
        return mask_for(wanted, box, pixel_size) * taper(box)
    except InputError as error:
        raise InputError(
            f"solvent {error}" if str(error).startswith("mask") else str(error)
        ) from error


def refuse_other_grid(
    name: str | os.PathLike, box: int, pixel_size: float, expected: int, expected_size: float
) -> None:
    """Refuse a mask of another box, or pixel size if it has one (not 0 or 1), than the maps'."""
    if box != expected:
        raise InputError(
            f"{name}: its box is {box}, the maps' is {expected}, resample the mask or leave it out"
        )
    if pixel_size not in (0, 1) and abs(pixel_size / expected_size - 1) > PIXEL_TOLERANCE:
        raise InputError(
            f"{name}: its voxel size is {pixel_size:.4g} angstrom, the maps' is "
            f"{expected_size:.4g}, resample the mask, or correct the one that is wrong (--angpix)"
        )
