"""B-factor from the Guinier plot, and the map sharpened with it and weighted by the FSC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.grid import FourierGrid

# The fit runs from here, where shape no longer dominates the amplitudes, to the resolution.
LOWEST_RESOLUTION = 10.0
FEWEST_SHELLS = 5
EDGE_SHELLS = 2.0


@dataclass(frozen=True, eq=False)
class GuinierPlot:
    """Logarithms of mean amplitudes by squared resolution, with the line through them.

    Attributes
    ----------
    squared : ndarray, shape (shells,)
        s^2, 1/angstrom^2.
    original, weighted : ndarray
        ln of the shell's mean |F|, of the map and after weighting by the FSC; NaN where empty.
    b_factor : float
        B of exp(-B s^2 / 4), angstrom^2: positive for amplitudes that fall; 0 if there was none to
        fit and none given.
    fitted : bool
        Whether B is the line's.
    intercept, correlation : float or None
        Of the line; None without one.
    """

    squared: NDArray[np.float64]
    original: NDArray[np.float64]
    weighted: NDArray[np.float64]
    b_factor: float
    fitted: bool
    intercept: float | None = None
    correlation: float | None = None


def sharpen(
    volume: NDArray,
    pixel_size: float,
    fsc: ArrayLike,
    resolution: float,
    *,
    kept: ArrayLike | None = None,
    b_factor: float | None = None,
) -> tuple[NDArray[np.float32], GuinierPlot]:
    """Weight a map by its FSC, sharpen it and cut it at its resolution.

    With F the FSC of its half-maps, the amplitudes are multiplied by C_ref = sqrt(2 F / (1 + F))
    (Rosenthal & Henderson 2003), by exp(B s^2 / 4), and by a low-pass with a raised-cosine edge of
    two shells beyond the resolution.

    Parameters
    ----------
    volume : ndarray, shape (N, N, N)
        The map of all particles.
    pixel_size : float
        a, angstrom.
    fsc : array_like, shape (N // 2 + 1,)
        Of the half-maps.
    resolution : float
        angstrom; infinity leaves the map as it is.
    kept : array_like, optional
        By shell, the share of the signal that a prior has left in the map; it is divided out,
        because the weights stand in its place.
    b_factor : float, optional
        B to sharpen by, angstrom^2; unless given that of the line through the Guinier plot from
        10 angstrom to the resolution, 0 if fewer than five shells lie between.

    Returns
    -------
    sharpened : ndarray, shape (N, N, N), float32
    plot : GuinierPlot
    """
    grid = FourierGrid(len(volume))
    count = grid.box // 2 + 1
    squared = (np.arange(count) / (grid.box * pixel_size)) ** 2
    half = grid.from_real(volume)
    amplitude = grid.shell_means(np.abs(half), count)
    if kept is not None:
        share = np.ones(count)
        share[: len(np.asarray(kept))] = np.asarray(kept)[:count]
        amplitude = np.divide(amplitude, share, out=np.zeros(count), where=share > 0)
    bounded = np.clip(np.asarray(fsc, dtype=np.float64), 0, 1)
    weight = np.sqrt(2 * bounded / (1 + bounded))
    with np.errstate(divide="ignore"):
        original = np.log(amplitude)
        weighted = np.log(amplitude * weight)
    original[~np.isfinite(original)] = np.nan
    weighted[~np.isfinite(weighted)] = np.nan
    if not np.isfinite(resolution):
        empty = GuinierPlot(squared, original, weighted, b_factor or 0.0, False)
        return np.asarray(volume, dtype=np.float32), empty
    within = (squared >= LOWEST_RESOLUTION**-2) & (squared <= resolution**-2 * (1 + 1e-9))
    # The Nyquist shell of an even box holds part of the signal only.
    within &= np.isfinite(weighted) & (np.arange(count) <= (grid.box - 1) // 2)
    line = {}
    if b_factor is None:
        b_factor = 0.0
        if np.count_nonzero(within) >= FEWEST_SHELLS:
            slope, intercept = np.polyfit(squared[within], weighted[within], 1)
            b_factor = -4 * float(slope)
            line = {
                "intercept": float(intercept),
                "correlation": float(np.corrcoef(squared[within], weighted[within])[0, 1]),
            }
    last = grid.box * pixel_size / resolution
    beyond = np.clip((np.arange(count) - last) / EDGE_SHELLS, 0, 1)
    gain = weight * np.exp(b_factor * squared / 4) * (0.5 + 0.5 * np.cos(np.pi * beyond))
    gain[0] = gain[1]
    if kept is not None:
        gain = np.divide(gain, share, out=np.zeros(count), where=share > 0)
    by_shell = np.zeros(int(grid.shells().max()) + 1, np.float32)
    by_shell[:count] = gain
    sharpened = grid.to_real(half * by_shell[grid.shells()])
    plot = GuinierPlot(squared, original, weighted, b_factor, bool(line), **line)
    return sharpened.astype(np.float32), plot
