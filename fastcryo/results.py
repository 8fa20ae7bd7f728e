"""What a reconstruction returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo.fsc import FSCCurves
from fastcryo.postprocess import Postprocessed


@dataclass(frozen=True, eq=False)
class Solution:
    """One reconstructed map with the story of its making.

    Attributes
    ----------
    name : str
        "half1", "half2" or "full".
    volume : ndarray, half grid
    regularization : float or list of float
        lambda, a number or by shell.
    history : dict
        Lists by iteration and epoch; see `fastcryo.sgd.History` and `fastcryo.solvers`.
    preconditioner : ndarray or None
        Mean of the diagonal by shell.
    note : str
        What went wrong, if anything did.
    weights : ndarray, shape (3, R + 1), or None
        Least, mean and greatest J = diag H by shell, without lambda.
    """

    name: str
    volume: NDArray = field(repr=False)
    regularization: float | list[float]
    history: dict
    preconditioner: NDArray | None
    note: str = ""
    weights: NDArray | None = None

    @property
    def kept(self) -> NDArray | None:
        """Share of the signal that a prior by shell leaves in the map: J / (J + lambda).

        None for a constant lambda, which is no model of the signal.
        """
        if np.ndim(self.regularization) == 0 or self.weights is None:
            return None
        total = self.weights[1] + np.asarray(self.regularization)
        return np.divide(self.weights[1], total, out=np.zeros(len(total)), where=total > 0)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What `reconstruct` made.

    Attributes
    ----------
    folder : Path
    solutions : dict of Solution
    after : Postprocessed or None
        FSC, resolution, sharpened map; None where only one half was wanted.
    pixel_size : float
        Of the maps, angstrom.
    seconds : float
    notes : tuple of str
        What was done otherwise than asked for, or did not converge.
    warnings : tuple of str
        What gives reason to doubt the data or the map.
    image_scales : ndarray, shape (n,), or None
        Scale of every image's signal; None for 1.
    """

    folder: Path
    solutions: dict[str, Solution]
    after: Postprocessed | None
    pixel_size: float
    seconds: float
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    image_scales: NDArray | None = None

    @property
    def curves(self) -> FSCCurves | None:
        """Correlation of the half-maps."""
        return self.after and self.after.curves

    @property
    def resolution(self) -> float | None:
        """angstrom, at FSC = 0.143; infinity if the half-maps do not correlate at all."""
        return self.after and self.after.resolution
