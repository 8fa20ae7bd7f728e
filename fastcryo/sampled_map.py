"""Maps as densities: the band-limited function through the voxels, at any frequency."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fastcryo.density import Density
from fastcryo.errors import InputError
from fastcryo.kernels.cpu import phantom as kernels
from fastcryo.rotations import orthonormal_rotations
from fastcryo.threads import thread_count

OVERSAMPLING = 2
QUADRATURE_NODES = 64


@dataclass(frozen=True, eq=False)
class SampledMap(Density):
    """The band-limited density that has given values at the voxels of a map.

    F(q) = sum_n v_n exp(-2 pi i q . r_n) for |q| below the Nyquist frequency of the map, else 0,
    with the origin at voxel N // 2; `slices` evaluates it to about 1e-6 of its root mean square.

    Parameters
    ----------
    values : array_like, shape (N, N, N), real
        ``[z, y, x]``.
    pixel_size : float
        Angstrom.

    Raises
    ------
    InputError
        No cube, values that are not finite, or no pixel size.
    """

    values: NDArray[np.float32]
    pixel_size: float

    def __post_init__(self):
        values = np.asarray(self.values, dtype=np.float32)
        if values.ndim != 3 or len(set(values.shape)) > 1 or values.shape[0] < 2:
            raise InputError(f"map: a cube (N, N, N) is needed, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise InputError("map: some voxels are NaN or infinite")
        if not (np.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise InputError("map: the pixel size must be positive, give it (--angpix)")
        object.__setattr__(self, "values", values)

    @property
    def box(self) -> int:
        """Side of the map, voxels."""
        return self.values.shape[0]

    def cropped(self, box: int) -> SampledMap:
        """Keep the central cube of `box` voxels."""
        start = self.box // 2 - box // 2
        part = slice(start, start + box)
        return SampledMap(self.values[part, part, part], self.pixel_size)

    @cached_property
    def _spectrum(self) -> NDArray[np.complex64]:
        """Transform of the zero-padded map, divided by the transform of the window."""
        side = OVERSAMPLING * self.box
        offsets = np.arange(self.box) - self.box // 2
        nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
        distances = nodes * kernels.TAPS / 2
        heights = np.array([kernels.window(t) for t in distances]) * weights * kernels.TAPS / 2
        window = heights @ np.cos(2 * np.pi * np.outer(distances, offsets) / side)
        scaled = self.values / (window * window[:, None] * window[:, None, None])
        padded = np.zeros((side,) * 3, dtype=np.float32)
        padded[np.ix_(offsets, offsets, offsets)] = scaled
        return scipy.fft.rfftn(padded, axes=(2, 1, 0), workers=thread_count(), overwrite_x=True)

    def slices(
        self,
        rotations: ArrayLike,
        box: int,
        pixel_size: float,
        heights: ArrayLike | None = None,
    ) -> NDArray[np.complex128]:
        """Evaluate planes of F to about 1e-6; see `Density.slices`.

        A non-uniform transform: eight taps per axis on a grid of twice the frequencies.
        """
        rotations = orthonormal_rotations(rotations)
        count = len(rotations)
        levels = np.zeros(count) if heights is None else np.asarray(heights, dtype=np.float64)
        # Frequencies of the box asked for, in grid points of the padded map.
        step = OVERSAMPLING * self.box * self.pixel_size / (box * pixel_size)
        out = np.empty((count, box, box // 2 + 1), dtype=np.complex128)
        weights = np.empty((count, 3, kernels.TAPS))
        columns = np.empty((count, kernels.TAPS), dtype=np.int64)
        # Frequencies at Nyquist are zero, however they round.
        limit = OVERSAMPLING * self.box / 2 * (1 - 1e-9)
        kernels.interpolate_slices(
            self._spectrum, rotations * step, levels, limit, weights, columns, out
        )
        return out
