"""What follows two half-maps: FSC in a mask, resolution, its directions, the sharpened map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.directional import DirectionalFSC, directional_fsc
from fastcryo.fsc import FSCCurves, half_map_curves, resolution_at
from fastcryo.guinier import GuinierPlot, sharpen


@dataclass(frozen=True, eq=False)
class Postprocessed:
    """What two half-maps say of the map.

    Attributes
    ----------
    curves : FSCCurves
    resolution, resolution_half : float
        angstrom, where `curves.best` falls below 0.143 and 0.5; infinity if at once.
    directional : DirectionalFSC
        At 0.143, of the masked maps.
    guinier : GuinierPlot
    sharpened : ndarray, shape (N, N, N), float32
    mask : ndarray or None
    """

    curves: FSCCurves
    resolution: float
    resolution_half: float
    directional: DirectionalFSC
    guinier: GuinierPlot
    sharpened: NDArray[np.float32] = field(repr=False)
    mask: NDArray[np.float32] | None = field(repr=False, default=None)


def postprocess(
    half1: NDArray,
    half2: NDArray,
    full: NDArray,
    pixel_size: float,
    mask: NDArray | None = None,
    *,
    kept: ArrayLike | None = None,
    b_factor: float | None = None,
    radius: int | None = None,
    seed: int = 0,
) -> Postprocessed:
    """Correlate half-maps, read the resolution, and sharpen the map.

    Parameters
    ----------
    half1, half2, full : ndarray, shape (N, N, N), real
    pixel_size : float
        angstrom.
    mask : ndarray, optional
        Values 0 to 1.
    kept, b_factor
        See `fastcryo.guinier.sharpen`.
    radius : int, optional
        Last shell that holds data; what a mask carries beyond it is not resolution.
    seed : int
        Of the random phases.

    Raises
    ------
    InputError
        Maps or a mask that do not fit.
    """
    curves = half_map_curves(half1, half2, mask, seed=seed)
    judged = curves.best.copy()
    judged[(len(judged) if radius is None else radius + 1) :] = 0
    at = {t: resolution_at(judged, t, pixel_size, curves.box) for t in (0.143, 0.5)}
    sharpened, guinier = sharpen(
        full, pixel_size, curves.best, at[0.143], kept=kept, b_factor=b_factor
    )
    return Postprocessed(
        curves=curves,
        resolution=at[0.143],
        resolution_half=at[0.5],
        directional=directional_fsc(half1, half2, pixel_size, mask, radius=radius),
        guinier=guinier,
        sharpened=sharpened,
        mask=mask,
    )
