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

**Fold.** A position with z < 0 is replaced by its mirror and the value by its conjugate. The
plane kz = 0 is its own mirror: the adjoint adds the mirror of each of its sums once, at the end.
"""

import numpy as np

FRACTION_BITS = 52
ONE = 1 << FRACTION_BITS
HALF = ONE >> 1

# Keeps |position| < R in spite of rounding, so that no tap leaves [-R, R]; four times the
# rounding error of a row of a rotation.
SHRINK = 1 - 2.0**-49


def disc_rows(radius):
    """Describe the packed samples row by row.

    Parameters
    ----------
    radius : int
        R.

    Returns
    -------
    rows : (2 R + 1, 3) int64
        Row k + R holds: index of the sample h = 0 (there or not), first h, last h + 1.
    """
    k = np.arange(-radius, radius + 1)
    stop = np.floor(np.sqrt(radius**2 - k**2)).astype(np.int64) + 1
    first = (k < 0).astype(np.int64)
    end = np.cumsum(stop - first)
    return np.stack([end - stop, first, stop], axis=1)


def origin_sample(radius):
    """Index of the packed sample (0, 0)."""
    return int(disc_rows(radius)[radius, 0])


def disc_frequencies(radius):
    """Return h and k of every packed sample, two arrays of int64."""
    rows = disc_rows(radius)
    counts = rows[:, 2] - rows[:, 1]
    k = np.repeat(np.arange(-radius, radius + 1), counts)
    h = np.arange(counts.sum()) - np.repeat(rows[:, 0], counts)
    return h, k


def fixed_point_steps(rotations):
    """First two rows of every rotation in units of 2^-52.

    Parameters
    ----------
    rotations : (n, 3, 3) float64, orthonormal

    Returns
    -------
    steps : (n, 2, 3) int64
    """
    return np.rint(np.asarray(rotations)[:, :2] * SHRINK * ONE).astype(np.int64)


def tile_shape(radius):
    """Return the cells of a tile along z and y; they must not depend on the number of threads.

    Fewer, larger tiles cost less per sample; too few leave threads idle, and too large ones leave
    the cache.
    """
    return (8, 16) if radius < 48 else (16, 32)


def disc_tiles(radius, thickness, width):
    """Cut the cells (y, z) of the half ball into tiles that one thread owns at a time.

    Samples of a tile touch its own cells and the next ones in y and z, so tiles of one colour,
    which are never neighbours, can be summed into side by side, with no atomics and no second copy
    of the volume. Within a colour, tiles are sorted by the expected work, samples of evenly spread
    planes (density 1 / |k|), for the threads to be dealt equal shares.

    Parameters
    ----------
    radius : int
    thickness, width : int
        Cells of a tile along z and y.

    Returns
    -------
    tiles : (t, 4) int64
        z0, z1, y0, y1: cells z0 <= z < z1 and y0 <= y < y1.
    colours : (5,) int64
        Tiles colours[c] to colours[c + 1] have colour c.
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
    inside = z0**2 + nearest_y**2 <= (radius + 1) ** 2
    colour = 2 * (z_of_tile % 2) + y_of_tile % 2
    order = np.lexsort((-work, colour))
    order = order[inside[order]]
    tiles = np.stack([z0, z1, y0, y1], axis=1)[order]
    return np.ascontiguousarray(tiles), np.searchsorted(colour[order], np.arange(5))
