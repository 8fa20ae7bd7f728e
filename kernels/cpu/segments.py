"""Which samples of an image fall into a tile: runs of neighbours along the rows of its disc."""

import math

from fastcryo.kernels._jit import register
from fastcryo.kernels.layout import FRACTION_BITS, ONE

# Steps below a thousandth of a cell, and crossings so near to a sample, are settled in integers.
FLAT = ONE // 1000
DOUBT = 1e-6


@register
def first_reaching(base, step, inverse, target, low, high):
    """Return the smallest h in [low, high] with base + h step >= target (high: none); step > 0."""
    guess = math.ceil((target - base) * inverse)
    h = high if guess >= high else (low if guess <= low else int(guess))
    while h < high and base + h * step < target:
        h += 1
    while h > low and base + (h - 1) * step >= target:
        h -= 1
    return h


@register
def clip_run(base, step, low, high, start, stop):
    """Restrict start <= h < stop to low <= base + h step < high, exactly."""
    inverse = 1.0 / abs(float(step)) if step != 0 else 0.0
    if step > 0:
        start = first_reaching(base, step, inverse, low, start, stop)
        stop = first_reaching(base, step, inverse, high, start, stop)
    elif step < 0:
        start = first_reaching(-base, -step, inverse, 1 - high, start, stop)
        stop = first_reaching(-base, -step, inverse, 1 - low, start, stop)
    elif not low <= base < high:
        stop = start
    return start, stop


@register
def crossings(step, base, low, high):
    """Where rows enter and leave low <= h step + k base < high: at h = enter + k slope, ..."""
    if step < 0:
        step, base, low, high = -step, -base, 1 - high, 1 - low
    inverse = 1.0 / max(float(step), 1.0)
    slope = -base * inverse
    return low * inverse, slope, high * inverse, slope


@register
def is_clear(remainder):
    """Whether rounding cannot have moved a crossing past a sample."""
    return DOUBT < remainder < 1.0 - DOUBT


@register
def row_range(ay, az, by, bz, y0, y1, z0, z1, radius):
    """Rows k that can hold points h a + k b with (y, z) in a rectangle, one row to spare."""
    determinant = ay * bz - az * by
    if abs(determinant) < 1e-3:
        return -radius, radius
    scale = 1.0 / determinant
    c0 = (ay * z0 - az * y0) * scale
    c1 = (ay * z0 - az * y1) * scale
    c2 = (ay * z1 - az * y0) * scale
    c3 = (ay * z1 - az * y1) * scale
    low = max(math.floor(min(min(c0, c1), min(c2, c3))) - 1, -radius)
    high = min(math.ceil(max(max(c0, c1), max(c2, c3))) + 1, radius)
    return int(low), int(high)


@register
def find_segments(steps, tile, offset, rows, image, segments):
    """List the runs of samples of one image that fall into one tile.

    A sample belongs to the cell floor(position + offset), folded to z >= 0.

    Parameters
    ----------
    steps : (2, 3) int64
        The image's row of `fastcryo.kernels.layout.fixed_point_steps`.
    tile : (4,) int64
        A row of `disc_tiles`.
    offset : int
        In units of 2^-52: 0, or one half for the nearest voxel.
    rows : (2 R + 1, 3) int64
        `disc_rows`.
    image : int
        Any number, written into the list.
    segments : (4 R + 2 or more, 5) int64, modified in place
        k, first h, last h + 1, sign (-1: the mirror of the sample falls into the tile), image.

    Returns
    -------
    count : int
        Number of runs found.
    """
    radius = (rows.shape[0] - 1) // 2
    unit = 1.0 / (1 << FRACTION_BITS)
    z_low = (tile[0] << FRACTION_BITS) - offset
    z_high = (tile[1] << FRACTION_BITS) - offset
    y_low = (tile[2] << FRACTION_BITS) - offset
    y_high = (tile[3] << FRACTION_BITS) - offset
    if tile[0] == 0:
        z_low = 0
    count = 0
    for sign in (1, -1):
        ay, az = sign * steps[0, 1], sign * steps[0, 2]
        by, bz = sign * steps[1, 1], sign * steps[1, 2]
        # A sample on the plane z = 0 stays, its mirror goes.
        low = 1 if sign < 0 and z_low == 0 else z_low
        k_low, k_high = row_range(
            ay * unit,
            az * unit,
            by * unit,
            bz * unit,
            y_low * unit,
            y_high * unit,
            z_low * unit,
            z_high * unit,
            radius,
        )
        steep = min(abs(ay), abs(az)) > FLAT
        z0, dz0, z1, dz1 = crossings(az, bz, low, z_high)
        y0, dy0, y1, dy1 = crossings(ay, by, y_low, y_high)
        for k in range(k_low, k_high + 1):
            start, stop = rows[k + radius, 1], rows[k + radius, 2]
            enters = max(z0 + k * dz0, y0 + k * dy0)
            leaves = min(z1 + k * dz1, y1 + k * dy1)
            first, last = math.ceil(enters), math.ceil(leaves)
            if steep and is_clear(first - enters) and is_clear(last - leaves):
                start, stop = max(start, int(first)), min(stop, int(last))
            else:
                start, stop = clip_run(k * bz, az, low, z_high, start, stop)
                start, stop = clip_run(k * by, ay, y_low, y_high, start, stop)
            if start < stop:
                segments[count, 0] = k
                segments[count, 1] = start
                segments[count, 2] = stop
                segments[count, 3] = sign
                segments[count, 4] = image
                count += 1
    return count
