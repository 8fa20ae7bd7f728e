"""What a reconstruction returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from numpy.typing import NDArray

from fastcryo.fsc import FSCCurves


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
    """

    name: str
    volume: NDArray = field(repr=False)
    regularization: float | list[float]
    history: dict
    preconditioner: NDArray | None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What `reconstruct` made.

    Attributes
    ----------
    folder : Path
    solutions : dict of Solution
    curves : FSCCurves or None
        None where only one half was wanted.
    resolution : float or None
        angstrom, at FSC = 0.143; infinity if the half-maps do not correlate at all.
    pixel_size : float
        Of the maps, angstrom.
    seconds : float
    notes : tuple of str
        What a user should know of the result.
    """

    folder: Path
    solutions: dict[str, Solution]
    curves: FSCCurves | None
    resolution: float | None
    pixel_size: float
    seconds: float
    notes: tuple[str, ...] = ()
