"""Interpolation windows: how a sample reads the volume and adds to it.

A window is a set of plain functions. Those that differ from window to window:

``list_taps(q, d, count, row, plane, unit, places, weights)`` writes down, for a run of samples at
positions q, q + d, ..., the flat index of the cell of each and the weights of its window, sample by
column: `taps` rows of weights, as many columns as the longest run has samples and `SPARE` more;
``gather(volume, places, weights, i, row, plane)`` returns the value of sample i of the run;
``scatter(volume, places, weights, i, row, plane, value)`` adds one, its exact transpose;
``scatter_power(volume, places, weights, i, row, plane, c, squared)`` adds c w^2 or c w, w the
window's weights, to a real volume.

`volume` is the flat buffer of a tile with strides `row` and `plane`; positions are three
fixed-point coordinates (see `fastcryo.kernels.layout`) from the corner of the tile, to which the
window's `offset` has been added; `unit` is 2^-24 in float32 or 2^-52 in float64 and carries the
precision of the weights.

`pairs` says whether a value may belong to two volumes at once. The others, `conjugation` to
`touch`, are the arithmetic of complex values in the form that suits the window: tuples of scalars
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

# Columns beyond the longest run that `list_taps` may fill.
SPARE = corners.LANES - 1


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


@overload(fraction)
def _choose_fraction(q, unit):
    """Choose by the type of `unit`, not sample by sample."""
    return fraction_single if unit == types.float32 else fraction_double


@register
def list_nearest_plain(q, d, count, row, plane, unit, places, weights):
    """Write down the nearest voxels of a run; their weights are 1."""
    for i in range(count):
        places[i] = cell_index(q[0] + i * d[0], q[1] + i * d[1], q[2] + i * d[2], row, plane)


@register
def gather_nearest(volume, places, weights, i, row, plane):
    """Read the nearest voxel."""
    value = volume[np.uint64(places[i])]
    return value.real, value.imag


@register
def scatter_nearest(volume, places, weights, i, row, plane, value):
    """Add to the nearest voxel."""
    place = np.uint64(places[i])
    former = volume[place]
    volume[place] = complex(former.real + value[0], former.imag + value[1])


@register
def scatter_power_nearest(volume, places, weights, i, row, plane, value, squared):
    """Add to the nearest voxel."""
    volume[np.uint64(places[i])] += value


@register
def corner_weights(qx, qy, qz, unit):
    """Weights of the corners of a cell: of its four rows along x, then of their two ends."""
    one = type(unit)(1)
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    gx, gy, gz = one - fx, one - fy, one - fz
    return gy * gz, fy * gz, gy * fz, fy * fz, gx, fx


@register
def list_trilinear_plain(q, d, count, row, plane, unit, places, weights):
    """Write down cells and weights of a run, products of 1 - distance: see `corners`."""
    for i in range(count):
        qx, qy, qz = q[0] + i * d[0], q[1] + i * d[1], q[2] + i * d[2]
        places[i] = cell_index(qx, qy, qz, row, plane)
        w = corner_weights(qx, qy, qz, unit)
        for corner in range(6):
            weights[corner, i] = w[corner]


@register
def gather_trilinear_plain(volume, places, weights, i, row, plane):
    """Read the eight corners of a cell."""
    gx, fx = weights[4, i], weights[5, i]
    re = im = gx - gx
    for corner in range(4):
        w = weights[corner, i]
        j = places[i] + (corner >> 1) * plane + (corner & 1) * row
        a, b = volume[j], volume[j + 1]
        re += w * (gx * a.real + fx * b.real)
        im += w * (gx * a.imag + fx * b.imag)
    return re, im


@register
def scatter_trilinear_plain(volume, places, weights, i, row, plane, value):
    """Add to the eight corners of a cell, the transpose of the above."""
    re, im = value
    gx, fx = weights[4, i], weights[5, i]
    for corner in range(4):
        j = places[i] + (corner >> 1) * plane + (corner & 1) * row
        a, b = volume[j], volume[j + 1]
        p, r = weights[corner, i] * gx, weights[corner, i] * fx
        volume[j] = complex(a.real + p * re, a.imag + p * im)
        volume[j + 1] = complex(b.real + r * re, b.imag + r * im)


@register
def scatter_power_trilinear_plain(volume, places, weights, i, row, plane, value, squared):
    """Add to the eight corners of a cell with their weights, or the squares of these."""
    gx, fx = weights[4, i], weights[5, i]
    if squared:
        gx, fx = gx * gx, fx * fx
    for corner in range(4):
        w = weights[corner, i]
        if squared:
            w *= w
        j = places[i] + (corner >> 1) * plane + (corner & 1) * row
        volume[j] += value * w * gx
        volume[j + 1] += value * w * fx


SCALARS = {
    "pairs": False,
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
    taps=0,
    list_taps=list_nearest_plain if config.DISABLE_JIT else corners.list_nearest,
    gather=gather_nearest,
    scatter=scatter_nearest,
    scatter_power=scatter_power_nearest,
    **SCALARS,
)
TRILINEAR_PLAIN = SimpleNamespace(
    offset=0,
    taps=corners.TAP_ROWS,
    list_taps=list_trilinear_plain,
    gather=gather_trilinear_plain,
    scatter=scatter_trilinear_plain,
    scatter_power=scatter_power_trilinear_plain,
    **SCALARS,
)
TRILINEAR_VECTORS = SimpleNamespace(
    offset=0,
    taps=corners.TAP_ROWS,
    list_taps=corners.list_taps,
    gather=corners.gather,
    scatter=corners.scatter,
    scatter_power=corners.scatter_power,
    **VECTORS,
)
# Without compilation there are no vectors.
TRILINEAR = TRILINEAR_PLAIN if config.DISABLE_JIT else TRILINEAR_VECTORS
