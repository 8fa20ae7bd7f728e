"""What the kernels of a graphics card need to know of the volume that they read or add to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcryo.grid import FourierGrid
from fastcryo.kernels import wide
from fastcryo.kernels.cuda import slicing, windows
from fastcryo.kernels.cuda._jit import cuda
from fastcryo.oversampling import Oversampling

WINDOWS = {"nearest": windows.NEAREST, "trilinear": windows.TRILINEAR} | {
    width: windows.wide_window(width) for width in (2, 4, 5, 6)
}
# The samples of one image add less than this times their largest value to a voxel: the unit lattice
# of a plane has at most 12 points in the cube of side 2 about it, and weights are at most 1. Twice
# as much and more is for images that are magnified by less than 1. A window of W cells has W^2 / 4
# times as many points in it.
CROWDING = 32

_kernels: dict[tuple, Any] = {}


def kernels_of(window: str | int, real: Any, exact: bool) -> Any:
    """Return the kernels of a window, by name or width, made once."""
    key = window, np.dtype(real), exact
    if key not in _kernels:
        _kernels[key] = slicing.make_kernels(WINDOWS[window], key[1].type, exact)
    return _kernels[key]


@dataclass(frozen=True, eq=False)
class CardVolume:
    """Window, shape and bounds of a half grid or an extended half volume.

    Attributes
    ----------
    window : str or int
        Of `WINDOWS`.
    shape : tuple of int
    places : tuple of int
        Distances of neighbours along y and z, and the element of x = 0.
    coefficients : array on the card
        Polynomials of the weights of wide windows.
    gain : float
        A slice is at most so many times as large as the largest voxel.
    crowding : float
        The samples of an image add less than this times their largest value to a voxel.
    plan : Oversampling or None
        None: a half grid.
    """

    window: str | int
    shape: tuple[int, ...]
    places: tuple[int, int, int]
    coefficients: Any
    gain: float = 1.0
    crowding: float = CROWDING
    plan: Oversampling | None = None

    @classmethod
    def of_grid(cls, window: str, grid: FourierGrid, real: np.dtype) -> CardVolume:
        """Describe half grids."""
        places = grid.box, grid.box**2, grid.centre
        return cls(window, grid.shape, places, cuda.to_device(np.zeros((1, 1), real)))

    @classmethod
    def of_plan(cls, plan: Oversampling) -> CardVolume:
        """Describe the extended half volumes of an oversampled grid."""
        row = plan.shape[2]
        u = np.linspace(-0.5, 0.5, 65)
        weights = np.polynomial.polynomial.polyval(u, plan.kernel.astype(np.float64))
        gain = 1.01 * float(np.abs(weights[: plan.width]).sum(axis=0).max()) ** 3
        places = row, row * plan.shape[1], plan.bound
        coefficients = cuda.to_device(plan.kernel)
        crowding = CROWDING * max(plan.width / 2, 1) ** 2
        return cls(plan.width, plan.shape, places, coefficients, gain, crowding, plan)

    def steps(self, view: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return rotations, as for the grid of side N, in cells of this volume."""
        if self.plan is not None:
            view = wide.oversampled_steps(view, self.plan.box, self.plan.fine)
        return np.ascontiguousarray(view)
