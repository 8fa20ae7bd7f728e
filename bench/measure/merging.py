"""Zeroing and merging: what tiles with buffers of their own cost beside the gradient itself."""

import numba
import numpy as np
from numpy.typing import NDArray

from fastcryo.kernels import layout
from fastcryo.kernels.cpu.tiles import add_halos, clear_tile, store_ground

from .cases import Case


@numba.njit(error_model="numpy")
def _zero_and_merge(tiles, neighbours, widths, box, buffer, row, plane, halos, target, grounds):
    """Do for all tiles what a sweep does besides reading, adding samples and writing the result."""
    one, damping = np.float32(1), np.empty(0, np.float32)
    for t in range(len(tiles)):
        clear_tile(tiles[t], widths, row, plane, box, buffer)
    for t in range(len(tiles)):
        add_halos(halos, tiles, neighbours, t, widths, box, target, grounds, one)
    store_ground(grounds, box, target, one, False, target, damping)


def zero_and_merge(case: Case):
    """Return the function that zeroes every tile's buffer, adds the halos and the mirrors.

    One thread, one volume of complex64, the tiles of the case's operator.
    """
    grid = case.problem.grid
    tiles, neighbours = layout.disc_tiles(grid.radius, *layout.tile_shape(grid.radius))
    width = int((tiles[:, 3] - tiles[:, 2]).max())
    depth = int((tiles[:, 1] - tiles[:, 0]).max()) + 1
    row, plane = layout.buffer_strides(grid.radius, width)

    def zeros(*shape: int) -> NDArray:
        return np.zeros(shape, np.complex64)

    arrays = layout.row_widths(grid.radius), grid.box, zeros(depth * plane), row, plane
    halos = zeros(len(tiles), depth + width, row)
    volumes = (zeros(int(np.prod(grid.shape))),), (zeros(grid.box**2),)
    return lambda: _zero_and_merge(tiles, neighbours, *arrays, halos, *volumes)
