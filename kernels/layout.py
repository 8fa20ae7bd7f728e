"""The memory layouts that all kernels share, and the tables that describe them.

**Volume.** A half grid ``V[kz, ky, kx]`` of shape (N // 2 + 1, N, N), C order, complex: kz from 0,
ky and kx from -(N // 2) upwards. Frequency (kx, ky, kz) with kz >= 0 stands at the flat index
``(kz N + ky + N // 2) N + kx + N // 2``; one with kz < 0 is the conjugate of its mirror. kx and ky
of any tap of the trilinear window stay within [-R, R], R <= (N - 1) // 2.

**Samples.** An image keeps the frequencies (h, k) of half a disc: h^2 + k^2 <= R^2 and h > 0, or
h = 0 and k >= 0. They are packed row after row, k from -R to R, h ascending: see `disc_rows`. Each
stands for itself and its mirror, so it counts twice in every sum over the full disc; the origin,
which is its own mirror, counts once, and fused kernels expect its weight and data halved.

**Coordinates.** Positions are 64-bit integers in units of 2^-52: sample (h, k) of an image reads
the volume at ``h steps[0] + k steps[1]`` (x, y, z), steps the first two rows of its rotation. Sums
of integers are exact, so that neighbouring tiles agree about every sample on their border, and
results are the same on any processor.

**Tiles.** A thread copies the tile of the volume that it is at work on, one further cell along y
and z included, into a buffer of its own, and sums into another: element (x + R) + (y - y0) row +
(z - z0) plane, with strides `row` and `plane` from `buffer_strides`.

**Fold.** A position with z < 0 is replaced by its mirror and the value by its conjugate. The
plane kz = 0 is its own mirror: the adjoint adds the mirror of each of its sums once, at the end.
"""

import math

import numpy as np

FRACTION_BITS = 52
ONE = 1 << FRACTION_BITS
HALF = ONE >> 1

# Keeps |position| < R in spite of rounding, so that no tap leaves [-R, R]; four times the
# rounding error of a row of a rotation.
SHRINK = 1 - 2.0**-49


def disc_rows(radius, reach=None):
    """Describe the packed samples row by row.

    Parameters
    ----------
    radius : int
        R.
    reach : float, optional
        Keep h^2 + k^2 <= reach^2 only, reach <= R: where steps are longer than 1 (magnification),
        positions must stay within R all the same. Rows that hold nothing are empty.

    Returns
    -------
    rows : (2 R + 1, 3) int64
        Row k + R holds: index of the sample h = 0 (there or not), first h, last h + 1.
    """
    k = np.arange(-radius, radius + 1)
    left = (radius if reach is None else reach) ** 2 - k**2
    first = (k < 0).astype(np.int64)
    stop = np.floor(np.sqrt(np.maximum(left, 0))).astype(np.int64) + 1
    stop = np.where(left < 0, first, stop)
    end = np.cumsum(stop - first)
    return np.stack([end - stop, first, stop], axis=1)


def origin_sample(radius, reach=None):
    """Index of the packed sample (0, 0)."""
    return int(disc_rows(radius, reach)[radius, 0])


def disc_frequencies(radius, reach=None):
    """Return h and k of every packed sample, two arrays of int64."""
    rows = disc_rows(radius, reach)
    counts = rows[:, 2] - rows[:, 1]
    k = np.repeat(np.arange(-radius, radius + 1), counts)
    h = np.arange(counts.sum()) - np.repeat(rows[:, 0], counts)
    return h, k


def fixed_point_steps(rotations):
    """First two rows of every rotation in units of 2^-52.

    Parameters
    ----------
    rotations : (n, 2 or 3, 3) float64
        Orthonormal rows, or two that are longer by no more than R / reach.

    Returns
    -------
    steps : (n, 2, 3) int64
    """
    return np.rint(np.asarray(rotations)[:, :2] * SHRINK * ONE).astype(np.int64)


def row_widths(radius):
    """Return the largest |x| of every row (z, y) that a window can touch, -1 for none.

    The corners of a cell lie less than sqrt(3) from any point of it, so that all lie in a ball
    that is larger by as much.

    Returns
    -------
    widths : (R + 1, 2 R + 1) int64
        z from 0, y from -R.
    """
    z, y = np.ogrid[: radius + 1, -radius : radius + 1]
    left = (radius + math.sqrt(3)) ** 2 - z**2 - y**2
    widths = np.floor(np.sqrt(np.maximum(left, 0))).astype(np.int64)
    return np.where(left < 0, -1, np.minimum(widths, radius))


def tile_shape(radius):
    """Return the cells of a tile along z and y; they must not depend on the number of threads.

    Fewer, larger tiles cost less per sample; too few leave threads idle, and too large ones leave
    the cache, which two volumes fill twice.
    """
    return (8, 16) if radius < 36 else (16, 16)


def reading_tile_shape(radius):
    """Return the tiles of kernels that only read the volume: all of it where it fits a cache.

    Runs of samples are then as long as they can be. What threads share are parts of the batch.
    """
    return (radius + 1, 2 * radius + 1) if radius < 48 else (16, 24)


def buffer_strides(radius, width):
    """Return the distances of neighbours along y and z in the buffer of a tile.

    Rows are an odd number of cache lines (of 8 complex64) apart and planes never a multiple of
    4 KiB: neighbours in a cube whose side is a power of two would share a few sets of the cache.
    """
    row = 8 * ((2 * radius + 1 + 7) // 8 | 1)
    return row, row * (width + 1) + 8


def disc_tiles(radius, thickness, width):
    """Cut the cells (y, z) of the half ball into tiles that one thread owns at a time.

    Samples of a tile touch its own cells and the next ones in y and z, which belong to others: to
    three *neighbours*. Tiles are sorted by the expected work, samples of evenly spread planes
    (density 1 / |k|), the most laborious first.

    Parameters
    ----------
    radius : int
    thickness, width : int
        Cells of a tile along z and y.

    Returns
    -------
    tiles : (t, 4) int64
        z0, z1, y0, y1: cells z0 <= z < z1 and y0 <= y < y1.
    neighbours : (t, 3) int64
        The tiles that touch cells of this one: below it in z, before it in y, both; -1 for none.
    """
    z_edges = np.arange(0, radius + 1, thickness)
    y_edges = np.arange(-radius, radius + 1, width)
    z_of_tile, y_of_tile = np.divmod(np.arange(len(z_edges) * len(y_edges)), len(y_edges))
    z0, y0 = z_edges[z_of_tile], y_edges[y_of_tile]
    z1, y1 = np.minimum(z0 + thickness, radius + 1), np.minimum(y0 + width, radius + 1)

    cells_z, cells_y = np.ogrid[: radius + 1, -radius : radius + 1]
    distance2 = cells_z**2 + cells_y**2 + 0.5
    chord = np.sqrt(np.maximum(radius**2 - distance2, 0))
    work = np.zeros((radius + 2, 2 * radius + 2))
    work[1:, 1:] = np.arcsinh(chord / np.sqrt(distance2)).cumsum(0).cumsum(1)
    a, b = y0 + radius, y1 + radius
    work = work[z1, b] - work[z0, b] - work[z1, a] + work[z0, a]

    nearest_y = np.where(y0 > 0, y0, np.where(y1 <= 0, -y1, 0))
    inside = z0**2 + nearest_y**2 <= (radius + 2) ** 2
    order = np.argsort(-work, kind="stable")
    order = order[inside[order]]
    place = np.full((len(z_edges) + 1, len(y_edges) + 1), -1)
    place[z_of_tile[order] + 1, y_of_tile[order] + 1] = np.arange(len(order))
    z, y = z_of_tile[order] + 1, y_of_tile[order] + 1
    neighbours = np.stack([place[z - 1, y], place[z, y - 1], place[z - 1, y - 1]], axis=1)
    tiles = np.stack([z0, z1, y0, y1], axis=1)[order]
    return np.ascontiguousarray(tiles), np.ascontiguousarray(neighbours)


def tile_colours(tiles, radius, thickness, width):
    """Return a colour 0 to 3 for every tile: tiles of one colour are never neighbours."""
    return 2 * (tiles[:, 0] // thickness % 2) + (tiles[:, 2] + radius) // width % 2
