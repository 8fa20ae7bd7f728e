"""The memory layout of windows that are wider than two cells, on an oversampled grid.

**Grid.** The volume is known at the M^3 frequencies of a box of M = s N voxels, s the
oversampling; positions are those of `fastcryo.kernels.layout` times M / N.

**Window.** A window of W taps reads the cells base - (W - 1) // 2, ... of an axis, base =
floor(q + offset) with offset 0 (W even) or one half (W odd). Its weights are polynomials in
u = q + offset - base - 1/2, one for each tap.

**Extended half volume.** ``E[z, y, x]`` holds every cell that a window can touch, also those with
z < 0 and those beyond M / 2, which are periodic copies: element (z, y, x) is the frequency
(z - low, y - B - low, x - B - low), low = (W - 1) // 2 and B = ceil(R M / N). Its shape is
(B + W, 2 B + W, 2 B + W): samples are folded to z >= 0 as ever, windows are not. So the cells of a
base begin at the element (base_z, base_y + B, base_x + B) whatever W is.

**Tiles.** As in `fastcryo.kernels.layout`, with W - 1 further cells along y and z. No tile is
thinner than that, so that a halo still belongs to three neighbours only.
"""

import math
from itertools import pairwise

import numpy as np

from fastcryo.kernels.layout import HALF

TILE_SHAPE = (16, 24)


def window_offset(width):
    """Return what is added to positions before their cell is taken, in units of 2^-52."""
    return HALF if width % 2 else 0


def lowest_tap(width):
    """Return how far below its base a window begins."""
    return (width - 1) // 2


def base_radius(radius, box, fine):
    """Return B, the largest base of any sample, from R, N and M."""
    return -(-radius * fine // box)


def extended_shape(bound, width):
    """Return the shape of E."""
    return bound + width, 2 * bound + width, 2 * bound + width


def oversampled_steps(steps, box, fine):
    """Return steps times M / N, rounded to whole units."""
    return (steps * fine + box // 2) // box


def extended_widths(reach, bound, width):
    """Return the largest |x| that a window can touch of every row of E, -1 for none.

    Parameters
    ----------
    reach : float
        R M / N.
    bound, width : int
        B and W.

    Returns
    -------
    widths : (B + W, 2 B + W) int64
        At most what lies on both sides of x = 0.
    """
    low = lowest_tap(width)
    depth, height, _ = extended_shape(bound, width)
    z, y = np.ogrid[-low : depth - low, -bound - low : height - bound - low]
    # A tap lies at most W / 2 from its sample along every axis.
    z, y = np.maximum(np.abs(z) - width / 2, 0), np.maximum(np.abs(y) - width / 2, 0)
    left = (reach + 1e-6) ** 2 - z**2 - y**2
    widths = np.floor(np.sqrt(np.maximum(left, 0)) + width / 2).astype(np.int64)
    return np.where(left < 0, -1, widths)


def _edges(first, stop, step, least):
    """Cut [first, stop) into pieces of `step`; a last one below `least` joins the one before."""
    edges = [*range(first, stop, step), stop]
    if len(edges) > 2 and edges[-1] - edges[-2] < least:
        del edges[-2]
    return np.array(edges)


def wide_tiles(widths, bound, width, shape=TILE_SHAPE):
    """Cut E into tiles that one thread owns at a time, the most laborious first.

    Parameters
    ----------
    widths : (B + W, 2 B + W) int64
        From `extended_widths`.
    bound, width : int
        B and W.
    shape : (int, int)
        Cells of a tile along z and y.

    Returns
    -------
    tiles : (t, 4) int64
        z0, z1, y0, y1: the bases z0 <= z < z1 and y0 <= y < y1, and the elements (z, y + B) of E.
    neighbours : (t, 3) int64
        The tiles whose halo lies in this one: below it in z, before it in y, both; -1 for none.
    """
    z_edges = _edges(0, widths.shape[0], max(shape[0], width), width - 1)
    y_edges = _edges(-bound, widths.shape[1] - bound, max(shape[1], width), width - 1)
    low = lowest_tap(width)
    tiles, work, place = [], [], {}
    for i, (z0, z1) in enumerate(pairwise(z_edges)):
        for j, (y0, y1) in enumerate(pairwise(y_edges)):
            if (widths[z0:z1, y0 + bound : y1 + bound] < 0).all():
                continue
            z, y = np.ogrid[z0:z1, y0:y1]
            distance = np.sqrt(z**2 + y**2 + 0.5)
            chord = np.maximum(widths[z0:z1, y0 + bound : y1 + bound] - low, 0)
            tiles.append((z0, z1, y0, y1))
            work.append(-np.arcsinh(chord / distance).sum())
            place[i, j] = len(tiles) - 1
    order = np.argsort(work, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    neighbours = np.full((len(tiles), 3), -1)
    for (i, j), t in place.items():
        for n, key in enumerate(((i - 1, j), (i, j - 1), (i - 1, j - 1))):
            if key in place:
                neighbours[rank[t], n] = rank[place[key]]
    return np.array(tiles, np.int64)[order], neighbours


def halo_slots(tiles, halo):
    """Return the most cells of a tile along z and y, and the most rows of its halo.

    Parameters
    ----------
    tiles : (t, 4) int64
        From `wide_tiles`.
    halo : int
        W - 1.
    """
    depth, height = 0, 0
    for t in range(tiles.shape[0]):
        depth = max(depth, tiles[t, 1] - tiles[t, 0])
        height = max(height, tiles[t, 3] - tiles[t, 2])
    return depth, height, depth * halo + halo * (height + halo)


def wide_strides(columns, height):
    """Return the distances of neighbours along y and z in the buffer of a tile of some rows.

    Rows are an odd number of cache lines apart and have room for the unused lanes of a vector.
    """
    row = 8 * ((columns + 8 + 7) // 8 | 1)
    return row, row * height + 8


def lanes_of(width):
    """Return the lanes that hold the weights of an axis: W, to the next multiple of four."""
    return 4 * math.ceil(width / 4)
