"""Tiles of volumes in a thread's own buffer: copied in, summed out.

A buffer has the strides that caches like (`fastcryo.kernels.layout.buffer_strides`) and lies in few
pages. One or two volumes, its *channels*, lie in it voxel by voxel. Only rows that the ball reaches
are copied; what else a buffer holds is never read.
"""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from fastcryo.kernels._jit import register


def make_buffer(volumes, size):
    """Return an empty buffer, (size,) for one volume or (size, 2) for two."""
    return one_channel(volumes, size) if len(volumes) == 1 else two_channels(volumes, size)


@register
def one_channel(volumes, size):
    """Return an array of `size` voxels."""
    return np.empty(size, volumes[0].dtype)


@register
def two_channels(volumes, size):
    """Return an array of `size` pairs of voxels."""
    return np.empty((size, 2), volumes[0].dtype)


@overload(make_buffer)
def _choose_buffer(volumes, size):
    """Choose by the number of volumes."""
    return one_channel if len(volumes) == 1 else two_channels


@register
def row_place(tile, y, z, width, row, plane, radius, box):
    """Return where the row x = -width, ... of (z, y) begins in a buffer and in the half grid."""
    c = box // 2
    here = (z - tile[0]) * plane + (y - tile[2]) * row + radius - width
    return here, (z * box + y + c) * box + c - width


@register
def load_tile(volumes, tile, widths, row, plane, box, buffer):
    """Copy a tile of the volumes, and one cell more along y and z, into the buffer."""
    radius = widths.shape[0] - 1
    channels = len(volumes)
    target = buffer.reshape(-1)
    for z in range(tile[0], min(tile[1], radius) + 1):
        for y in range(tile[2], min(tile[3], radius) + 1):
            width = widths[z, y + radius]
            here, there = row_place(tile, y, z, width, row, plane, radius, box)
            for c in range(channels):
                for x in range(2 * width + 1):
                    target[(here + x) * channels + c] = volumes[c][there + x]


@register
def clear_tile(tile, widths, row, plane, box, buffer):
    """Fill the part of a buffer that a tile uses with zeros."""
    radius = widths.shape[0] - 1
    channels = buffer.size // buffer.shape[0]
    target = buffer.reshape(-1)
    for z in range(tile[0], min(tile[1], radius) + 1):
        for y in range(tile[2], min(tile[3], radius) + 1):
            width = widths[z, y + radius]
            here, _ = row_place(tile, y, z, width, row, plane, radius, box)
            for x in range((2 * width + 1) * channels):
                target[here * channels + x] = 0


@register
def add_tile(buffer, tile, widths, row, plane, box, volumes, halo):
    """Add what a thread summed in a tile's own cells to the volumes; the rest becomes its halo.

    The halo (thickness + width + 1, row * channels) holds the rows y0 to y1 of the plane z1, then
    the rows y1 of the planes z0 to z1 - 1, for their owners to add.
    """
    radius = widths.shape[0] - 1
    channels = len(volumes)
    source = buffer.reshape(-1)
    for z in range(tile[0], min(tile[1], radius) + 1):
        for y in range(tile[2], min(tile[3], radius) + 1):
            width = widths[z, y + radius]
            here, there = row_place(tile, y, z, width, row, plane, radius, box)
            if z == tile[1] or y == tile[3]:
                slot = y - tile[2] if z == tile[1] else tile[3] - tile[2] + 1 + z - tile[0]
                begin = (radius - width) * channels
                for x in range((2 * width + 1) * channels):
                    halo[slot, begin + x] = source[here * channels + x]
            else:
                for c in range(channels):
                    for x in range(2 * width + 1):
                        volumes[c][there + x] += source[(here + x) * channels + c]


@register
def add_halo(halo, slot, y, z, widths, box, volumes):
    """Add one row of a halo to the row (y, z) of the volumes."""
    radius = widths.shape[0] - 1
    channels = len(volumes)
    c = box // 2
    width = widths[z, y + radius]
    there = (z * box + y + c) * box + c - width
    for channel in range(channels):
        for x in range(2 * width + 1):
            volumes[channel][there + x] += halo[slot, (radius - width + x) * channels + channel]


@register
def add_halos(halos, tiles, neighbours, t, widths, box, volumes):
    """Add to the tile t what its neighbours summed in its cells, in a fixed order."""
    z0, z1, y0, y1 = tiles[t]
    below, before, corner = neighbours[t]
    if below >= 0:
        for y in range(y0, y1):
            add_halo(halos[below], y - y0, y, z0, widths, box, volumes)
    if before >= 0:
        width = tiles[before, 3] - tiles[before, 2]
        for z in range(z0, z1):
            add_halo(halos[before], width + 1 + z - z0, y0, z, widths, box, volumes)
    if corner >= 0:
        width = tiles[corner, 3] - tiles[corner, 2]
        add_halo(halos[corner], width, y0, z0, widths, box, volumes)


def take(counter):
    """Return a number that no other thread gets, counting from 0."""
    counter[0] += 1
    return counter[0] - 1


@intrinsic
def _take_atomically(typingctx, counter):
    """Do as `take` in compiled code."""

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, value=args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@overload(take)
def _choose_take(counter):
    """Check the type: the intrinsic sees a pointer."""
    if counter == types.Array(types.int64, 1, "C"):
        return lambda counter: _take_atomically(counter)
