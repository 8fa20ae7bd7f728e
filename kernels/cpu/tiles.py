"""Tiles of volumes in a thread's own buffer: copied in, summed out.

A buffer has the strides that caches like (`fastcryo.kernels.layout.buffer_strides`) and lies in few
pages. One or two volumes, its *channels*, lie in it voxel by voxel. Only rows that the ball reaches
are copied; what else a buffer holds is never read.

What was summed S goes out as scale S + lambda V, or scale S is added to what is there (see
`fastcryo.kernels.cpu.channels`). The prior is part of it because each further pass over a volume
that does not fit the caches costs as much as the gradient of a dozen images. Sums of the plane
kz = 0, which still lack their mirrors, go to planes of their own.
"""

import numpy as np
from numba.extending import overload

from fastcryo.kernels._jit import register, register_allocating
from fastcryo.kernels.cpu.channels import add_row, fill_row, read_row, times, write_row


def zeros_like_all(volumes, size):
    """Return a tuple of arrays of `size` zeros, one for each volume."""
    return tuple(np.zeros(size, volume.dtype) for volume in volumes)


@overload(zeros_like_all)
def _choose_zeros(volumes, size):
    """Choose by the number of volumes."""
    if len(volumes) == 1:
        return lambda volumes, size: (np.zeros(size, volumes[0].dtype),)
    return lambda volumes, size: (
        np.zeros(size, volumes[0].dtype),
        np.zeros(size, volumes[1].dtype),
    )


def make_buffer(volumes, size):
    """Return an empty buffer, (size,) for one volume or (size, 2) for two."""
    return one_channel(volumes, size) if len(volumes) == 1 else two_channels(volumes, size)


@register_allocating
def one_channel(volumes, size):
    """Return an array of `size` voxels."""
    return np.empty(size, volumes[0].dtype)


@register_allocating
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
    target = buffer.reshape(-1)
    for z in range(tile[0], min(tile[1], radius) + 1):
        for y in range(tile[2], min(tile[3], radius) + 1):
            width = widths[z, y + radius]
            here, there = row_place(tile, y, z, width, row, plane, radius, box)
            if width >= 0:
                read_row(volumes, (here, there, 2 * width + 1), target)


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
            first, count = np.uint64(here * channels), np.uint64(max(0, 2 * width + 1) * channels)
            for x in range(count):
                target[first + x] = 0


@register
def mirrors(z, box):
    """Return how many planes of the full grid a plane of the half grid stands for."""
    return 1.0 if z == 0 or 2 * z == box else 2.0


@register
def store_tile(
    buffers,
    tile,
    widths,
    row,
    plane,
    box,
    volumes,
    grounds,
    halo,
    scale,
    fresh,
    damping,
):
    """Hand over what a thread summed in a tile's own cells; the rest becomes its halo.

    The halo (thickness + width + 1, row * channels) holds the rows y0 to y1 of the plane z1, then
    the rows y1 of the planes z0 to z1 - 1, for their owners to add. `buffers` are what was read and
    what was summed, `grounds` the planes kz = 0 of the volumes, flat. Returns lambda |V|^2.
    """
    radius = widths.shape[0] - 1
    channels = len(volumes)
    values, source = buffers[0].reshape(-1), buffers[1].reshape(-1)
    norm = 0.0
    for z in range(tile[0], min(tile[1], radius) + 1):
        for y in range(tile[2], min(tile[3], radius) + 1):
            width = widths[z, y + radius]
            here, there = row_place(tile, y, z, width, row, plane, radius, box)
            span = (here, there, 2 * width + 1)
            if width < 0:
                continue
            if z == tile[1] or y == tile[3]:
                slot = y - tile[2] if z == tile[1] else tile[3] - tile[2] + 1 + z - tile[0]
                begin = (radius - width) * channels
                for x in range((2 * width + 1) * channels):
                    halo[slot, begin + x] = source[here * channels + x]
            elif z == 0:
                add_row(source, grounds, span, type(scale)(1))
            elif fresh:
                part = write_row(source, values, damping, volumes, span, scale)
                norm += mirrors(z, box) * part
            else:
                add_row(source, volumes, span, scale)
    return norm


@register
def add_halo(halo, slot, y, z, widths, box, volumes, scale):
    """Add scale times one row of a halo to the row (y, z) of the volumes."""
    radius = widths.shape[0] - 1
    centre = box // 2
    width = widths[z, y + radius]
    if width >= 0:
        span = (radius - width, (z * box + y + centre) * box + centre - width, 2 * width + 1)
        add_row(halo[slot], volumes, span, scale)


@register
def add_halos(halos, tiles, neighbours, t, widths, box, volumes, grounds, scale):
    """Add to the tile t what its neighbours summed in its cells, in a fixed order."""
    z0, z1, y0, y1 = tiles[t]
    below, before, corner = neighbours[t]
    if below >= 0:
        for y in range(y0, y1):
            add_halo(halos[below], y - y0, y, z0, widths, box, volumes, scale)
    if before >= 0:
        width = tiles[before, 3] - tiles[before, 2]
        for z in range(z0, z1):
            slot = width + 1 + z - z0
            if z == 0:
                add_halo(halos[before], slot, y0, z, widths, box, grounds, type(scale)(1))
            else:
                add_halo(halos[before], slot, y0, z, widths, box, volumes, scale)
    if corner >= 0:
        width = tiles[corner, 3] - tiles[corner, 2]
        add_halo(halos[corner], width, y0, z0, widths, box, volumes, scale)


@register
def fill_outside(z, widths, box, volumes, sources, damping):
    """Write zero and the prior to what samples cannot reach of a plane z > 0.

    The end of a row and the beginning of the next are one part: 12 instead of 16 ms at N = 256.
    """
    radius = widths.shape[0] - 1
    centre = box // 2
    begin, end = z * box * box, (z + 1) * box * box
    norm = 0.0
    if z <= radius:
        for y in range(-radius, radius + 1):
            width = widths[z, y + radius]
            if width >= 0:
                middle = (z * box + y + centre) * box + centre
                norm += fill_row(sources, damping, volumes, begin, middle - width)
                begin = middle + width + 1
    norm += fill_row(sources, damping, volumes, begin, end)
    return mirrors(z, box) * norm


@register
def store_ground(grounds, box, volumes, scale, fresh, sources, damping):
    """Hand over the plane kz = 0: every sum and, conjugated, that of its mirror."""
    norm = fill_row(sources, damping, volumes, 0, box * box) if fresh else 0.0
    add_ground(grounds[0], box, volumes[0], scale)
    if len(volumes) == 2:
        add_ground(grounds[-1], box, volumes[-1], scale)
    return norm


@register
def add_ground(ground, box, volume, scale):
    """Add scale times the plane kz = 0 and its conjugated mirror."""
    twice = 2 * (box // 2)
    for y in range(box):
        mirrored_y = (twice - y) % box
        for x in range(box):
            # twice - x in [0, box], of which box is 0: a remainder would cost more.
            mirrored_x = twice - x if twice - x < box else 0
            mirrored = ground[mirrored_y * box + mirrored_x]
            value = ground[y * box + x] + np.conj(mirrored)
            volume[y * box + x] += times(scale, value)
