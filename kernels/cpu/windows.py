"""Interpolation windows: how a sample reads the volume and adds to it.

A window is a set of plain functions. Those that differ from window to window:

``gather(volume, position, row, plane, unit)`` returns the value at a position;
``scatter(volume, position, row, plane, unit, value)`` adds one, its exact transpose;
``scatter_power(volume, qx, qy, qz, row, plane, unit, c, squared)`` adds c w^2 or c w, w the
window's weights, to a real volume.

`volume` is the flat buffer of a tile with strides `row` and `plane`; qx, qy, qz are fixed-point
coordinates (see `fastcryo.kernels.layout`) from the corner of the tile, to which the window's
`offset` has been added; `unit` is 2^-24 in float32 or 2^-52 in float64 and carries the precision of
the weights.

`pairs` says whether a value may belong to two volumes at once. The others, `start` to `touch`, are
the arithmetic of positions and complex values in the form that suits the window: tuples of scalars
here, vectors in `fastcryo.kernels.cpu.simd`.
"""

from types import SimpleNamespace

import numpy as np
from numba import config
from numba.core import types
from numba.extending import overload

from fastcryo.kernels._jit import register
from fastcryo.kernels.cpu import corners, simd
from fastcryo.kernels.layout import FRACTION_BITS, HALF


@register
def start(qx, qy, qz):
    """Return a position, or the step from one to the next, from its coordinates."""
    return qx, qy, qz


@register
def advance(position, step):
    """Return the next position."""
    return position[0] + step[0], position[1] + step[1], position[2] + step[2]


@register
def conjugation(volume, sign, unit):
    """Return the factor of imaginary parts, 1 or -1, in the precision of `unit`."""
    return type(unit)(sign)


@register
def zero(conjugate):
    """Return where `accumulate` begins."""
    return 0.0


@register
def read(array, row, column, conjugate):
    """Return array[row, column], conjugated if asked."""
    value = array[row, column]
    return value.real, conjugate * value.imag


@register
def write(array, row, column, conjugate, value):
    """Store a value in array[row, column], conjugated if asked."""
    array[row, column] = complex(value[0], conjugate * value[1])


@register
def scale(array, row, column, value):
    """Return a value times the real array[row, column]."""
    factor = array[row, column]
    return factor * value[0], factor * value[1]


@register
def subtract(left, right):
    """Return left - right."""
    return left[0] - right[0], left[1] - right[1]


@register
def accumulate(total, left, right):
    """Return total + Re(conj(left) right)."""
    return total + np.float64(left[0] * right[0] + left[1] * right[1])


@register
def channel_sums(total):
    """Return a total and, for a second channel, 0."""
    return total, 0.0


@register
def touch(array, row, column):
    """Do nothing; with vectors, bring a cache line near."""


@register
def cell_index(qx, qy, qz, row, plane):
    """Flat index of the cell that holds a position."""
    return (qz >> FRACTION_BITS) * plane + (qy >> FRACTION_BITS) * row + (qx >> FRACTION_BITS)


def fraction(q, unit):
    """Place within its cell, in [0, 1), in the precision of `unit`."""
    return fraction_single(q, unit) if unit > 1e-10 else fraction_double(q, unit)


@register
def fraction_single(q, unit):
    """Keep the upper 24 bits of the fraction."""
    return type(unit)((q >> 28) & 0xFFFFFF) * unit


@register
def fraction_double(q, unit):
    """Keep all 52 bits of the fraction."""
    return type(unit)(q & 0xFFFFFFFFFFFFF) * unit


@overload(fraction, inline="always")
def _choose_fraction(q, unit):
    """Choose by the type of `unit`, not sample by sample."""
    return fraction_single if unit == types.float32 else fraction_double


@register
def gather_nearest(volume, position, row, plane, unit):
    """Read the nearest voxel."""
    value = volume[cell_index(*position, row, plane)]
    return value.real, value.imag


@register
def scatter_nearest(volume, position, row, plane, unit, value):
    """Add to the nearest voxel."""
    i = cell_index(*position, row, plane)
    former = volume[i]
    volume[i] = complex(former.real + value[0], former.imag + value[1])


@register
def scatter_power_nearest(volume, qx, qy, qz, row, plane, unit, value, squared):
    """Add to the nearest voxel; its weight is 1."""
    volume[cell_index(qx, qy, qz, row, plane)] += value


@register
def gather_trilinear_plain(volume, position, row, plane, unit):
    """Read the eight corners of a cell, weighted by the product of 1 - distance along each axis."""
    qx, qy, qz = position
    one = type(unit)(1)
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    gx, gy, gz = one - fx, one - fy, one - fz
    i = cell_index(qx, qy, qz, row, plane)
    re = im = type(unit)(0)
    for corner in range(4):
        dy, dz = corner & 1, corner >> 1
        w = (fy if dy else gy) * (fz if dz else gz)
        j = i + dz * plane + dy * row
        a, b = volume[j], volume[j + 1]
        re += w * (gx * a.real + fx * b.real)
        im += w * (gx * a.imag + fx * b.imag)
    return re, im


@register
def scatter_trilinear_plain(volume, position, row, plane, unit, value):
    """Add to the eight corners of a cell, the transpose of the above."""
    qx, qy, qz = position
    re, im = value
    one = type(unit)(1)
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    gx, gy, gz = one - fx, one - fy, one - fz
    i = cell_index(qx, qy, qz, row, plane)
    for corner in range(4):
        dy, dz = corner & 1, corner >> 1
        w = (fy if dy else gy) * (fz if dz else gz)
        j = i + dz * plane + dy * row
        a, b = volume[j], volume[j + 1]
        p, q = w * gx, w * fx
        volume[j] = complex(a.real + p * re, a.imag + p * im)
        volume[j + 1] = complex(b.real + q * re, b.imag + q * im)


@register
def scatter_power_trilinear(volume, qx, qy, qz, row, plane, unit, value, squared):
    """Add to the eight corners of a cell with their weights, or the squares of these."""
    one = type(unit)(1)
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    gx, gy, gz = one - fx, one - fy, one - fz
    if squared:
        fx, fy, fz = fx * fx, fy * fy, fz * fz
        gx, gy, gz = gx * gx, gy * gy, gz * gz
    i = cell_index(qx, qy, qz, row, plane)
    for corner in range(4):
        dy, dz = corner & 1, corner >> 1
        w = value * (fy if dy else gy) * (fz if dz else gz)
        j = i + dz * plane + dy * row
        volume[j] += w * gx
        volume[j + 1] += w * fx


SCALARS = {
    "pairs": False,
    "start": start,
    "advance": advance,
    "conjugation": conjugation,
    "zero": zero,
    "read": read,
    "write": write,
    "scale": scale,
    "subtract": subtract,
    "accumulate": accumulate,
    "channel_sums": channel_sums,
    "touch": touch,
}
VECTORS = {
    "pairs": True,
    "start": corners.start,
    "advance": corners.advance,
    "conjugation": simd.conjugation,
    "zero": simd.zero,
    "read": simd.read,
    "write": simd.write,
    "scale": simd.scale,
    "subtract": simd.subtract,
    "accumulate": simd.accumulate,
    "channel_sums": simd.channel_sums,
    "touch": simd.prefetch,
}
NEAREST = SimpleNamespace(
    offset=HALF,
    gather=gather_nearest,
    scatter=scatter_nearest,
    scatter_power=scatter_power_nearest,
    **SCALARS,
)
TRILINEAR_PLAIN = SimpleNamespace(
    offset=0,
    gather=gather_trilinear_plain,
    scatter=scatter_trilinear_plain,
    scatter_power=scatter_power_trilinear,
    **SCALARS,
)
TRILINEAR_VECTORS = SimpleNamespace(
    offset=0,
    gather=corners.gather,
    scatter=corners.scatter,
    scatter_power=scatter_power_trilinear,
    **VECTORS,
)
# Without compilation there are no vectors.
TRILINEAR = TRILINEAR_PLAIN if config.DISABLE_JIT else TRILINEAR_VECTORS
