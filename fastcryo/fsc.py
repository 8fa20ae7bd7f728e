"""Fourier shell correlation: of two maps, of half-maps in a mask, and the resolution it gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid

FloatArray = NDArray[np.float64]

# RELION's: phases are made random from the shell on where the unmasked FSC falls below this.
RANDOMISE_BELOW = 0.8
# Shells after that one which keep the masked value, because the mask mixes neighbouring shells.
UNCORRECTED_SHELLS = 2


@dataclass(frozen=True, eq=False)
class FSCCurves:
    """Correlation of two half-maps, one value per shell 0 to N // 2.

    Attributes
    ----------
    frequencies : ndarray
        Of the shells, cycles per pixel: shell / N.
    unmasked : ndarray
    masked : ndarray or None
        Of the maps times the mask; None without a mask.
    randomised : ndarray or None
        Of the masked maps after their phases were made random from `randomised_from` on: what the
        mask alone contributes. None without a mask, or if there is no such shell.
    corrected : ndarray or None
        The masked curve freed of that contribution; None without a mask.
    """

    frequencies: FloatArray
    unmasked: FloatArray
    masked: FloatArray | None = None
    randomised: FloatArray | None = None
    corrected: FloatArray | None = None

    @property
    def box(self) -> int:
        """N, side of the maps."""
        return round(1 / self.frequencies[1])

    @property
    def best(self) -> FloatArray:
        """The curve that the resolution is read from: corrected, or unmasked without a mask."""
        return self.unmasked if self.corrected is None else self.corrected

    @property
    def randomised_from(self) -> int | None:
        """First shell whose unmasked correlation is below 0.8; None if there is none."""
        below = np.flatnonzero(self.unmasked[1:] < RANDOMISE_BELOW)
        return int(below[0]) + 1 if len(below) else None


def fsc(map1: ArrayLike, map2: ArrayLike, mask: ArrayLike | None = None) -> FloatArray:
    """Correlate two maps by shell.

    Parameters
    ----------
    map1, map2 : array_like, shape (N, N, N), real
        ``[z, y, x]``.
    mask : array_like, shape (N, N, N), optional
        Values 0 to 1; both maps are multiplied by it.

    Returns
    -------
    ndarray, shape (N // 2 + 1,), float64
        Re sum(F1 conj F2) / sqrt(sum |F1|^2 sum |F2|^2) over the full grid, shell of k =
        round(|k|); 0 in a shell where a map is empty.

    Raises
    ------
    InputError
        Maps of different sizes, no cubes, not finite; a mask that does not fit or is empty.
    """
    grid, map1, map2 = checked_pair(map1, map2)
    if mask is not None:
        mask = checked_mask(mask, map1.shape)
        map1, map2 = map1 * mask, map2 * mask
    return shell_correlation(grid, grid.from_real(map1), grid.from_real(map2))


def half_map_curves(
    map1: ArrayLike, map2: ArrayLike, mask: ArrayLike | None = None, *, seed: int = 0
) -> FSCCurves:
    """Correlate two half-maps, and with a mask correct for it as RELION's postprocess does.

    Parameters
    ----------
    map1, map2 : array_like, shape (N, N, N), real
    mask : array_like, shape (N, N, N), optional
        Values 0 to 1.
    seed : int
        Of the random phases.

    Returns
    -------
    FSCCurves

    Raises
    ------
    InputError
        As `fsc`.
    """
    grid, map1, map2 = checked_pair(map1, map2)
    transforms = [grid.from_real(m) for m in (map1, map2)]
    unmasked = shell_correlation(grid, *transforms)
    frequencies = np.arange(len(unmasked)) / grid.box
    curves = FSCCurves(frequencies, unmasked)
    if mask is None:
        return curves
    mask = checked_mask(mask, map1.shape)
    masked = shell_correlation(grid, grid.from_real(map1 * mask), grid.from_real(map2 * mask))
    start = curves.randomised_from
    if start is None:
        return FSCCurves(frequencies, unmasked, masked, None, masked.copy())
    rng = np.random.default_rng(seed)
    scrambled = [_randomise(grid, t, start, rng) for t in transforms]
    randomised = shell_correlation(
        grid, *(grid.from_real(grid.to_real(s) * mask) for s in scrambled)
    )
    corrected = corrected_for_mask(masked, randomised, start)
    return FSCCurves(frequencies, unmasked, masked, randomised, corrected)


def corrected_for_mask(masked: FloatArray, randomised: FloatArray, start: int) -> FloatArray:
    """Remove what a mask adds to the correlation (Chen et al. 2013).

    Parameters
    ----------
    masked, randomised : ndarray, shape (shells,)
    start : int
        First shell with random phases.

    Returns
    -------
    ndarray, shape (shells,)
        The masked values up to two shells after `start`, then (masked - randomised) /
        (1 - randomised), never below 0.
    """
    above = masked > randomised
    gain = np.divide(masked - randomised, 1 - randomised, out=np.zeros_like(masked), where=above)
    kept = np.arange(len(masked)) < start + UNCORRECTED_SHELLS
    return np.where(kept, masked, gain)


def shell_correlation(grid: FourierGrid, left: NDArray, right: NDArray) -> FloatArray:
    """Correlate two half grids by shell, 0 to N // 2; see `fsc`."""
    shells = grid.box // 2 + 1
    product = left.real * right.real + left.imag * right.imag
    cross = grid.shell_sums(product, shells)
    power = [grid.shell_sums(v.real**2 + v.imag**2, shells) for v in (left, right)]
    scale = np.sqrt(power[0]) * np.sqrt(power[1])
    return np.divide(cross, scale, out=np.zeros(shells), where=scale > 0)


def resolution_at(
    curve: ArrayLike, threshold: float, pixel_size: float, box: int | None = None
) -> float:
    """Return the resolution where a correlation first drops below a threshold, by RELION's rule.

    Parameters
    ----------
    curve : array_like, shape (N // 2 + 1,)
        As `fsc` returns it. Shell 0, the mean of the maps, is not looked at.
    threshold : float
    pixel_size : float
        a, angstrom.
    box : int, optional
        N; needed for an odd one, whose curve has the length of that of N - 1.

    Returns
    -------
    float
        N a / shell, angstrom, of the last shell before the drop, without interpolation; the last
        shell if there is no drop, infinity if shell 1 is below already.

    Raises
    ------
    InputError
        A curve with NaN, or one that does not belong to the box.
    """
    curve = np.asarray(curve, dtype=np.float64)
    box = 2 * (len(curve) - 1) if box is None else box
    if curve.ndim != 1 or len(curve) != box // 2 + 1:
        raise InputError(f"FSC: a box of {box} has {box // 2 + 1} shells, got shape {curve.shape}")
    if np.isnan(curve).any():
        raise InputError("FSC: some values are NaN")
    below = np.flatnonzero(curve[1:] < threshold)
    last = int(below[0]) if len(below) else len(curve) - 1
    return box * pixel_size / last if last else np.inf


def _randomise(
    grid: FourierGrid, half: NDArray, start: int, rng: np.random.Generator
) -> NDArray[np.complexfloating]:
    # The transform of real noise has the symmetry that the phases of a real map need.
    noise = grid.from_real(rng.standard_normal((grid.box,) * 3, dtype=np.float32))
    random = np.abs(half) * np.exp(1j * np.angle(noise))
    return np.where(grid.shells() >= start, random, half).astype(half.dtype)


def checked_pair(map1: ArrayLike, map2: ArrayLike) -> tuple[FourierGrid, NDArray, NDArray]:
    """Return the grid of two maps and the maps, or refuse them; see `fsc`."""
    maps = [np.asarray(m) for m in (map1, map2)]
    if maps[0].shape != maps[1].shape:
        raise InputError(f"FSC: the maps differ in size, {maps[0].shape} and {maps[1].shape}")
    if maps[0].ndim != 3 or len(set(maps[0].shape)) > 1:
        raise InputError(f"FSC: cubes (N, N, N) are needed, got shape {maps[0].shape}")
    for number, values in enumerate(maps, 1):
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise InputError(f"FSC: {bad} voxels of map {number} are NaN or infinite")
    return FourierGrid(maps[0].shape[0]), *maps


def checked_mask(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a mask for maps of a shape, or refuse it; see `fsc`."""
    mask = np.asarray(mask, dtype=np.float32)
    if mask.shape != shape:
        raise InputError(f"mask: shape {shape} needed as the maps have, got {mask.shape}")
    if not (mask.min() >= 0 and mask.max() <= 1):
        raise InputError(
            f"mask: values from 0 to 1 are needed, got {mask.min():g} to {mask.max():g}"
        )
    if mask.max() == 0:
        raise InputError("mask: all its values are 0")
    return mask
