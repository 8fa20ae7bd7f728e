"""The scale of every image: how much larger or smaller its signal is than that of the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.io.cs import is_cryosparc, read_fields
from fastcryo.io.relion import read_rows
from fastcryo.particles import Particles

# A scale beyond is a bad image or a bad fit, not a property of the ice.
SMALLEST, LARGEST = 0.25, 4.0
# Rounded to this, so that the last bits of another machine do not make another data set.
DIGITS = 4
NORM, GROUP_SCALE, ALPHA = "rlnNormCorrection", "rlnGroupScaleCorrection", "alignments3D/alpha"


@dataclass(frozen=True, eq=False)
class Scales:
    """Scales fitted to images, about 1.

    Attributes
    ----------
    values : ndarray, shape (n,), float64
        What is used: clipped, then drawn towards 1 by as much as their errors ask for.
    spread : float
        Standard deviation of the true scales, as far as the fits tell: that of the fitted ones
        less their errors.
    error : float
        Standard error of a fit, root mean square.
    clipped : int
        Fits beyond `SMALLEST` and `LARGEST`, or of images with no signal in their model.
    last_shell : int
        Up to which the images were compared.
    """

    values: NDArray[np.float64]
    spread: float
    error: float
    clipped: int
    last_shell: int

    def describe(self) -> str:
        """Say how the scales are distributed."""
        low, high = np.quantile(self.values, [0.05, 0.95])
        clipped = f", {self.clipped} clipped to {SMALLEST:g} or {LARGEST:g}" if self.clipped else ""
        return (
            f"scales of images {low:.2f} to {high:.2f} (90 %), standard deviation "
            f"{self.spread:.2f} beyond the error of a fit, {self.error:.2f}{clipped}"
        )


def shrunk_scales(
    products: NDArray[np.float64], squares: NDArray[np.float64], last_shell: int
) -> Scales:
    """Return the scales of least-squares fits, weighed against their errors.

    A fit is s = <m, y> / <m, m> with the variance e^2 = 1 / <m, m>. With the variance t^2 of the
    true scales about their mean 1, the best estimate is 1 + (s - 1) t^2 / (t^2 + e^2); t^2 is that
    of the fits less the mean of e^2, 0 at least. So images too noisy to tell keep a scale of 1.

    Parameters
    ----------
    products, squares : ndarray, shape (n,)
        <m, y> and <m, m> over full discs, by 1 / sigma^2.
    last_shell : int
    """
    known = squares > 0
    fits = np.divide(products, squares, out=np.ones(len(squares)), where=known)
    error = np.divide(1, squares, out=np.full(len(squares), np.inf), where=known)
    # The mean over all images: that of their signals, which noisy images do not move.
    mean = products[known].sum() / squares[known].sum() if known.any() else 1.0
    if not mean > 0:
        return Scales(np.ones(len(squares)), 0.0, np.inf, len(squares), last_shell)
    fits, error = fits / mean, error / mean**2
    bounded = np.clip(fits, SMALLEST, LARGEST)
    clipped = int(np.count_nonzero(bounded != fits) + np.count_nonzero(~known))
    noise = float(error[known].mean())
    spread = max(float(np.mean((bounded[known] - 1) ** 2)) - noise, 0.0)
    values = 1 + (bounded - 1) * spread / np.maximum(spread + error, np.finfo(float).tiny)
    values /= values.mean()
    return Scales(
        np.round(values, DIGITS), float(np.sqrt(spread)), float(np.sqrt(noise)), clipped, last_shell
    )


def with_recorded_scales(particles: Particles) -> tuple[Particles, list[str]]:
    """Return particles with the scales that their file records, and what these are, in words.

    RELION divides images by rlnNormCorrection over its mean and multiplies the reference by
    rlnGroupScaleCorrection; cryoSPARC multiplies it by alignments3D/alpha.

    Raises
    ------
    InputError
        None of them in the file, or values that are not positive.
    """
    path = particles.source
    if is_cryosparc(path):
        fields = read_fields(path)
        columns = {name: fields[name] for name in (ALPHA,) if name in fields}
    else:
        rows = read_rows(path)
        columns = {n: rows.numbers(n) for n in (NORM, GROUP_SCALE) if rows.table_of(n)}
    if not columns:
        raise InputError(
            f"{path}: has neither {NORM} nor {GROUP_SCALE} (RELION) nor {ALPHA} (cryoSPARC), "
            "leave out --scale file or fit the scales by --scale fitted"
        )
    words, made = [], {}
    for name, values in columns.items():
        values = np.asarray(values, np.float64).reshape(-1)[particles.row]
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise InputError(
                f"{path}: {name} of row {particles.row[bad[0]] + 1} is {values[bad[0]]:g}, "
                "a positive number is needed"
            )
        values /= values.mean()
        words.append(f"{name} from the file, {values.min():.3g} to {values.max():.3g} of its mean")
        made["brightness" if name == NORM else "scale"] = values
    return replace(particles, **made), words
