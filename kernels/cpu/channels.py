"""Rows of one or two volumes on their way into a tile's buffer and out of it.

A *span* names a row: cell of the buffer and voxel of the volume where it begins, number of voxels.
Two volumes lie in the buffer voxel by voxel. The second may be real, as probes and products with
them are: in the buffer it is complex. What was summed S goes out as scale S + lambda V, and
V is taken from the buffer that it was read into: from the volume itself, which has left the cache
meanwhile, it would take twice the time. lambda, *damping*, has no entry (no prior), one, or one for
each voxel.

Indices are unsigned. Signed ones may be negative for all that the compiler knows, and loops with
them do not become vectors: reading a volume of 256^3 took 9.2 instead of 2.4 ms, writing it with
the prior 17 instead of 4 ms. Two volumes are treated in one loop, whose stores have no gaps: 9
instead of 13 ms.
"""

import numpy as np
from numba.core import types
from numba.extending import overload

from fastcryo.kernels._jit import register, register_reduction


def times(factor, value):
    """Return a real factor times a real or complex value."""
    return factor * value


@overload(times)
def _choose_times(factor, value):
    """Spare complex values the product of two complex numbers."""
    if isinstance(value, types.Complex):
        return lambda factor, value: complex(factor * value.real, factor * value.imag)
    return lambda factor, value: factor * value


def in_form_of(volume, value):
    """Return a complex value as the elements of a volume are: its real part for a real one."""
    return value if np.iscomplexobj(volume) else value.real


@overload(in_form_of)
def _choose_form(volume, value):
    """Choose by the type of the volume."""
    if isinstance(volume.dtype, types.Complex):
        return lambda volume, value: value
    return lambda volume, value: value.real


def read_row(volumes, span, buffer):
    """Copy a row of the volumes into a flat buffer."""
    return read_one(volumes, span, buffer) if len(volumes) == 1 else read_two(volumes, span, buffer)


@register
def read_one(volumes, span, buffer):
    """Copy a row of one volume."""
    (volume,), (here, there, count) = volumes, span
    to, start = np.uint64(here), np.uint64(there)
    for x in range(np.uint64(count)):
        buffer[to + x] = volume[start + x]


@register
def read_two(volumes, span, buffer):
    """Copy a row of two volumes."""
    (first, second), (here, there, count) = volumes, span
    to, start, two = np.uint64(2 * here), np.uint64(there), np.uint64(2)
    for x in range(np.uint64(count)):
        buffer[to + two * x] = first[start + x]
        buffer[to + two * x + np.uint64(1)] = second[start + x]


@overload(read_row)
def _choose_read(volumes, span, buffer):
    """Choose by the number of volumes."""
    return read_one if len(volumes) == 1 else read_two


def add_row(sums, targets, span, scale):
    """Add scale times a row of a flat buffer to the targets."""
    return (add_one if len(targets) == 1 else add_two)(sums, targets, span, scale)


@register
def add_one(sums, targets, span, scale):
    """Add to one target."""
    (target,), (here, there, count) = targets, span
    start, to = np.uint64(here), np.uint64(there)
    for x in range(np.uint64(count)):
        target[to + x] += times(scale, sums[start + x])


@register
def add_two(sums, targets, span, scale):
    """Add to two targets."""
    (first, second), (here, there, count) = targets, span
    start, to, two = np.uint64(2 * here), np.uint64(there), np.uint64(2)
    for x in range(np.uint64(count)):
        first[to + x] += times(scale, sums[start + two * x])
        other = in_form_of(second, sums[start + two * x + np.uint64(1)])
        second[to + x] += times(scale, other)


@overload(add_row)
def _choose_add(sums, targets, span, scale):
    """Choose by the number of targets."""
    return add_one if len(targets) == 1 else add_two


def write_row(sums, values, damping, targets, span, scale):
    """Write scale S + lambda V to a row of the targets.

    Parameters
    ----------
    sums, values : (cells channels,)
        S and V, flat; without prior, values are not read.
    damping : (0,), (1,) or (voxels,) float
    targets : tuple of one or two flat half grids, modified in place
    span : tuple of int
    scale : float

    Returns
    -------
    norm : float
        Sum of lambda |V|^2 of the first channel.
    """
    write = write_one if len(targets) == 1 else write_two
    return write(sums, values, damping, targets, span, scale)


@register
def write_plain(sums, values, damping, targets, span, scale):
    """Write to one target, without prior."""
    (target,), (here, there, count) = targets, span
    start, to = np.uint64(here), np.uint64(there)
    for x in range(np.uint64(count)):
        target[to + x] = times(scale, sums[start + x])
    return 0.0


@register_reduction
def write_one(sums, values, damping, targets, span, scale):
    """Write to one target."""
    if damping.size == 0:
        return write_plain(sums, values, damping, targets, span, scale)
    (target,), (here, there, count) = targets, span
    start, to = np.uint64(here), np.uint64(there)
    same, constant = damping.size == 1, damping[0]
    norm = 0.0
    for x in range(np.uint64(count)):
        weight = constant if same else damping[to + x]
        s, v = sums[start + x], values[start + x]
        re, im = weight * v.real, weight * v.imag
        norm += np.float64(re * v.real + im * v.imag)
        target[to + x] = complex(scale * s.real + re, scale * s.imag + im)
    return norm


@register_reduction
def write_two(sums, values, damping, targets, span, scale):
    """Write to two targets."""
    (first, second), (here, there, count) = targets, span
    start, to, two = np.uint64(2 * here), np.uint64(there), np.uint64(2)
    same, constant = damping.size < 2, type(scale)(0)
    if damping.size == 1:
        constant = damping[0]
    norm = 0.0
    for x in range(np.uint64(count)):
        weight = constant if same else damping[to + x]
        s, v = sums[start + two * x], values[start + two * x]
        re, im = weight * v.real, weight * v.imag
        norm += np.float64(re * v.real + im * v.imag)
        first[to + x] = complex(scale * s.real + re, scale * s.imag + im)
        s, v = sums[start + two * x + np.uint64(1)], values[start + two * x + np.uint64(1)]
        other = complex(scale * s.real + weight * v.real, scale * s.imag + weight * v.imag)
        second[to + x] = in_form_of(second, other)
    return norm


@overload(write_row)
def _choose_write(sums, values, damping, targets, span, scale):
    """Choose by the number of targets; real ones have no prior."""
    if isinstance(targets[0].dtype, types.Float):
        return write_plain
    return write_one if len(targets) == 1 else write_two


def fill_row(sources, damping, targets, begin, stop):
    """Write lambda V to the voxels begin to stop - 1, which no sample reaches.

    Returns
    -------
    norm : float
        Sum of lambda |V|^2 of the first channel.
    """
    norms = [
        fill_one(source, damping, target, begin, stop)
        for source, target in zip(sources, targets, strict=True)
    ]
    return norms[0]


@register
def fill_zeros(source, damping, target, begin, stop):
    """Write zeros to one target."""
    to = np.uint64(begin)
    for x in range(np.uint64(stop - begin)):
        target[to + x] = 0
    return 0.0


@register_reduction
def fill_one(source, damping, target, begin, stop):
    """Write to one target."""
    if damping.size == 0:
        return fill_zeros(source, damping, target, begin, stop)
    to = np.uint64(begin)
    same, constant = damping.size == 1, damping[0]
    norm = 0.0
    for x in range(np.uint64(stop - begin)):
        weight = constant if same else damping[to + x]
        v = source[to + x]
        re, im = weight * v.real, weight * v.imag
        norm += np.float64(re * v.real + im * v.imag)
        target[to + x] = in_form_of(target, complex(re, im))
    return norm


@register
def fill_only(sources, damping, targets, begin, stop):
    """Write to one target."""
    return fill_one(sources[0], damping, targets[0], begin, stop)


@register
def fill_real(sources, damping, targets, begin, stop):
    """Write to one real target."""
    return fill_zeros(sources[0], damping, targets[0], begin, stop)


@register
def fill_two(sources, damping, targets, begin, stop):
    """Write to two targets, one after the other."""
    norm = fill_one(sources[0], damping, targets[0], begin, stop)
    fill_one(sources[1], damping, targets[1], begin, stop)
    return norm


@overload(fill_row)
def _choose_fill(sources, damping, targets, begin, stop):
    """Choose by the number of targets; real ones have no prior."""
    if isinstance(targets[0].dtype, types.Float):
        return fill_real
    return fill_only if len(targets) == 1 else fill_two
