"""Tiles of extended half volumes in a thread's own buffer: copied in, summed out.

A buffer holds a tile and `halo` = W - 1 cells more along y and z. What is summed in these belongs
to other tiles and is kept in `halos`, flat, in rows of 2 B + W cells: those of a tile follow each
other in the order of `halo_slot`.
"""

import numpy as np

from fastcryo.kernels._jit import register
from fastcryo.kernels.cpu.channels import add_one, read_one


@register
def row_span(widths, z, y, bound):
    """Return first and last + 1 element along x of the row (z, y) of E; none: empty."""
    half = widths[z, y]
    columns = widths.shape[1]
    # 2 B + W columns, the first of frequency -B - low.
    centre = bound + (columns - 2 * bound - 1) // 2
    return max(centre - half, 0), min(centre + half + 1, columns)


@register
def clear_cells(array, begin, stop):
    """Fill cells of a flat array with zeros."""
    to = np.uint64(begin)
    for x in range(np.uint64(stop - begin)):
        array[to + x] = 0


@register
def halo_slot(z, y, thickness, height, halo):
    """Return where the row (z, y) of a buffer lies in the halo of its tile."""
    if z < thickness:
        return z * halo + y - height
    return thickness * halo + (z - thickness) * (height + halo) + y


@register
def set_aside(source, tile, bound, widths, halo, halos, kept):
    """Copy the halo of a tile to `halos`, from the row `kept` on, before it is overwritten."""
    y0, columns = tile[2] + bound, widths.shape[1]
    thickness, height = tile[1] - tile[0], tile[3] - tile[2]
    for z in range(tile[0], min(tile[1] + halo, widths.shape[0])):
        begin = y0 if z >= tile[1] else y0 + height
        for y in range(begin, min(y0 + height + halo, widths.shape[1])):
            if widths[z, y] >= 0:
                slot = kept + halo_slot(z - tile[0], y - y0, thickness, height, halo)
                first, stop = row_span(widths, z, y, bound)
                there = (z * columns + y) * columns + first
                read_one((source,), (slot * columns + first, there, stop - first), halos)


@register
def load_wide(source, tile, bound, widths, halo, row, plane, halos, kept, buffer):
    """Copy a tile of E and `halo` cells more along y and z into the buffer.

    Where the halo was set aside it comes from there; `kept` < 0: it was not.
    """
    y0, columns = tile[2] + bound, widths.shape[1]
    thickness, height = tile[1] - tile[0], tile[3] - tile[2]
    for z in range(tile[0], min(tile[1] + halo, widths.shape[0])):
        for y in range(y0, min(y0 + height + halo, widths.shape[1])):
            if widths[z, y] < 0:
                continue
            first, stop = row_span(widths, z, y, bound)
            i, j = z - tile[0], y - y0
            here, count = i * plane + j * row + first, stop - first
            if kept >= 0 and (i >= thickness or j >= height):
                slot = kept + halo_slot(i, j, thickness, height, halo)
                read_one((halos,), (here, slot * columns + first, count), buffer)
            else:
                there = (z * columns + y) * columns + first
                read_one((source,), (here, there, count), buffer)


@register
def clear_wide(tile, bound, widths, halo, row, plane, buffer):
    """Fill the part of a buffer that a tile uses with zeros."""
    y0 = tile[2] + bound
    for z in range(tile[0], min(tile[1] + halo, widths.shape[0])):
        for y in range(y0, min(tile[3] + bound + halo, widths.shape[1])):
            if widths[z, y] >= 0:
                first, stop = row_span(widths, z, y, bound)
                here = (z - tile[0]) * plane + (y - y0) * row
                clear_cells(buffer, here + first, here + stop)


@register
def store_wide(buffer, tile, bound, widths, halo, row, plane, target, halos, kept, fresh):
    """Hand over what a thread summed in a tile's own cells; keep the rest as its halo.

    `fresh`: overwrite the cells, with zeros where no window reaches, else add to them.
    """
    y0, columns = tile[2] + bound, widths.shape[1]
    thickness, height = tile[1] - tile[0], tile[3] - tile[2]
    one = type(buffer[0].real)(1)
    for z in range(tile[0], min(tile[1] + halo, widths.shape[0])):
        for y in range(y0, min(y0 + height + halo, widths.shape[1])):
            first, stop = 0, 0
            if widths[z, y] >= 0:
                first, stop = row_span(widths, z, y, bound)
            i, j = z - tile[0], y - y0
            here, there = i * plane + j * row + first, (z * columns + y) * columns
            if i >= thickness or j >= height:
                slot = kept + halo_slot(i, j, thickness, height, halo)
                span = (slot * columns + first, here, stop - first)
                read_one((buffer,), span, halos)
            elif fresh:
                clear_cells(target, there, there + first)
                clear_cells(target, there + stop, there + columns)
                read_one((buffer,), (there + first, here, stop - first), target)
            else:
                add_one(buffer, (target,), (here, there + first, stop - first), one)


@register
def add_wide_halos(halos, slots, tiles, neighbours, t, bound, widths, halo, target):
    """Add to the tile t what its neighbours summed in its cells, in a fixed order."""
    columns = widths.shape[1]
    one = type(target[0].real)(1)
    for n in range(3):
        other = neighbours[t, n]
        if other < 0:
            continue
        z_stop = tiles[t, 1] if n == 1 else min(tiles[t, 0] + halo, tiles[t, 1])
        y_stop = tiles[t, 3] if n == 0 else min(tiles[t, 2] + halo, tiles[t, 3])
        thickness = tiles[other, 1] - tiles[other, 0]
        height = tiles[other, 3] - tiles[other, 2]
        for z in range(tiles[t, 0], z_stop):
            for y in range(tiles[t, 2], y_stop):
                if widths[z, y + bound] < 0:
                    continue
                slot = halo_slot(z - tiles[other, 0], y - tiles[other, 2], thickness, height, halo)
                slot += other * slots
                first, stop = row_span(widths, z, y + bound, bound)
                there = (z * columns + y + bound) * columns + first
                add_one(halos, (target,), (slot * columns + first, there, stop - first), one)
