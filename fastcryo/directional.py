"""Fourier shell correlation by direction: in cones, as 3DFSC has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.coverage import spread_directions
from fastcryo.fsc import checked_mask, checked_pair, resolution_at

HALF_ANGLE = 20.0
CONES = 500
# Cells of equal area on the half-sphere, a degree or two across: shells are summed in them once,
# and a cone takes those whose centre lies in it.
HEIGHTS, AZIMUTHS = 48, 192
VOXELS_AT_ONCE = 2**18  # more memory than that takes longer to get than to fill
FEWEST_POINTS = 10


@dataclass(frozen=True, eq=False)
class DirectionalFSC:
    """Correlation of two maps in cones about many directions.

    Attributes
    ----------
    directions : ndarray, shape (d, 3)
        Unit vectors (x, y, z) over a half-sphere; a direction and its opposite are one.
    curves : ndarray, shape (d, N // 2 + 1)
    resolution : ndarray, shape (d,)
        angstrom, at `threshold`.
    first_shell : int
        Shells before it have too few points in a cone to be judged.
    threshold : float
    area_ratio : float
        Least over greatest area under a curve (the cFAR of cryoSPARC): 1 if all directions are
        resolved alike; below 0.5 is preferred orientation.
    """

    directions: NDArray[np.float64]
    curves: NDArray[np.float64]
    resolution: NDArray[np.float64]
    first_shell: int
    threshold: float
    area_ratio: float

    @property
    def share_above(self) -> NDArray[np.float64]:
        """Share of the directions whose curve is above the threshold, by shell."""
        return (self.curves >= self.threshold).mean(axis=0)


def directional_fsc(
    map1: ArrayLike,
    map2: ArrayLike,
    pixel_size: float,
    mask: ArrayLike | None = None,
    *,
    threshold: float = 0.143,
    half_angle: float = HALF_ANGLE,
    cones: int = CONES,
    radius: int | None = None,
) -> DirectionalFSC:
    """Correlate two maps by shell in cones (Tan et al. 2017).

    Parameters
    ----------
    map1, map2 : array_like, shape (N, N, N), real
    pixel_size : float
        a, angstrom.
    mask : array_like, optional
        Both maps are multiplied by it; no correction for what it adds.
    threshold : float
    half_angle : float
        Of the cones, degrees.
    cones : int
        Directions, evenly spread over half a sphere.
    radius : int, optional
        Last shell that holds data.

    Returns
    -------
    DirectionalFSC

    Raises
    ------
    InputError
        As `fastcryo.fsc.fsc`.
    """
    grid, map1, map2 = checked_pair(map1, map2)
    if mask is not None:
        mask = checked_mask(mask, map1.shape)
        map1, map2 = map1 * mask, map2 * mask
    left, right = grid.from_real(map1), grid.from_real(map2)
    shells = grid.box // 2 + 1
    cells = HEIGHTS * AZIMUTHS
    k = np.arange(grid.box) - grid.centre
    sums = np.zeros((3, shells * cells))
    planes = max(1, VOXELS_AT_ONCE // grid.box**2)
    for first in range(0, grid.shape[0], planes):
        part = slice(first, first + planes)
        kz = np.arange(grid.shape[0])[part, None, None]
        distance = np.sqrt(kz**2 + (k[:, None] ** 2 + k**2))
        shell = np.rint(distance).astype(np.int64)
        kept = shell < shells
        turn = np.arctan2(k[:, None], k) / (2 * np.pi) % 1
        row = np.minimum(kz / np.maximum(distance, 1) * HEIGHTS, HEIGHTS - 1).astype(np.int64)
        column = np.minimum(turn * AZIMUTHS, AZIMUTHS - 1).astype(np.int64)
        place = ((row * AZIMUTHS + column) * shells + shell)[kept]
        weight = np.broadcast_to(grid.plane_multiplicity[part, None, None], kept.shape)[kept]
        a, b = left[part][kept], right[part][kept]
        products = (
            a.real * b.real + a.imag * b.imag,
            a.real**2 + a.imag**2,
            b.real**2 + b.imag**2,
        )
        for total, product in zip(sums, products, strict=True):
            total += np.bincount(place, weight * product, len(total))
    directions = spread_directions(cones)
    inside = np.abs(directions @ _cell_centres().T) >= np.cos(np.radians(half_angle))
    cross, *power = (inside.astype(np.float64) @ total.reshape(cells, shells) for total in sums)
    scale = np.sqrt(power[0]) * np.sqrt(power[1])
    curves = np.divide(cross, scale, out=np.zeros(cross.shape), where=scale > 0)
    # Resolved until there are points enough to judge by.
    first = min(_first_shell(half_angle), shells - 1)
    judged = np.where(np.arange(shells) < first, 1.0, curves)
    judged[:, (shells if radius is None else radius + 1) :] = 0
    area = np.maximum(curves[:, first:], 0).mean(axis=1)
    return DirectionalFSC(
        directions=directions,
        curves=curves,
        resolution=np.array([resolution_at(c, threshold, pixel_size, grid.box) for c in judged]),
        first_shell=first,
        threshold=threshold,
        area_ratio=float(area.min() / area.max()) if area.max() > 0 else 0.0,
    )


def _first_shell(half_angle: float) -> int:
    """Return the first shell of which a cone holds `FEWEST_POINTS` independent ones."""
    share = 2 * np.pi * (1 - np.cos(np.radians(half_angle)))
    return int(np.ceil(np.sqrt(FEWEST_POINTS / share)))


def _cell_centres() -> NDArray[np.float64]:
    """Return unit vectors (x, y, z) of the cells, shape (cells, 3)."""
    height = np.repeat((np.arange(HEIGHTS) + 0.5) / HEIGHTS, AZIMUTHS)
    angle = np.tile(2 * np.pi * (np.arange(AZIMUTHS) + 0.5) / AZIMUTHS, HEIGHTS)
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
