"""Interpolation windows: how a sample reads the volume and adds to it.

Every window is a triple of plain functions with the same arguments:

``gather(volume, qx, qy, qz, n, unit)`` returns (re, im) at a position;
``scatter(volume, qx, qy, qz, n, unit, re, im)`` adds a value, its exact transpose;
``scatter_power(volume, qx, qy, qz, n, unit, value, squared)`` adds value w^2 or value w, w the
window's weights, to a real volume.

`volume` is the flat half grid of box n; qx, qy, qz are fixed-point positions (see
`fastcryo.kernels.layout`) to which the window's `OFFSET` has been added; `unit` is 2^-24 in float32
or 2^-52 in float64 and carries the precision of the weights.
"""

from types import SimpleNamespace

from numba import config

from fastcryo.kernels._jit import register
from fastcryo.kernels.cpu.simd import gather_corners, scatter_corners
from fastcryo.kernels.layout import FRACTION_BITS, HALF


@register
def cell_index(qx, qy, qz, n):
    """Flat index of the cell that holds a position."""
    c = n // 2
    cx, cy, cz = qx >> FRACTION_BITS, qy >> FRACTION_BITS, qz >> FRACTION_BITS
    return (cz * n + cy + c) * n + cx + c


@register
def fraction(q, unit):
    """Place within its cell, in [0, 1), in the precision of `unit`."""
    if unit > 1e-10:
        return type(unit)((q >> 28) & 0xFFFFFF) * unit
    return type(unit)(q & 0xFFFFFFFFFFFFF) * unit


@register
def gather_nearest(volume, qx, qy, qz, n, unit):
    """Read the nearest voxel."""
    value = volume[cell_index(qx, qy, qz, n)]
    return value.real, value.imag


@register
def scatter_nearest(volume, qx, qy, qz, n, unit, re, im):
    """Add to the nearest voxel."""
    i = cell_index(qx, qy, qz, n)
    value = volume[i]
    volume[i] = complex(value.real + re, value.imag + im)


@register
def scatter_power_nearest(volume, qx, qy, qz, n, unit, value, squared):
    """Add to the nearest voxel; its weight is 1."""
    volume[cell_index(qx, qy, qz, n)] += value


@register
def gather_trilinear_plain(volume, qx, qy, qz, n, unit):
    """Read the eight corners of a cell, weighted by the product of 1 - distance along each axis."""
    one = type(unit)(1)
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    gx, gy, gz = one - fx, one - fy, one - fz
    i = cell_index(qx, qy, qz, n)
    re = im = type(unit)(0)
    for corner in range(4):
        dy, dz = corner & 1, corner >> 1
        w = (fy if dy else gy) * (fz if dz else gz)
        j = i + (dz * n + dy) * n
        a, b = volume[j], volume[j + 1]
        re += w * (gx * a.real + fx * b.real)
        im += w * (gx * a.imag + fx * b.imag)
    return re, im


@register
def scatter_trilinear_plain(volume, qx, qy, qz, n, unit, re, im):
    """Add to the eight corners of a cell, the transpose of the above."""
    one = type(unit)(1)
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    gx, gy, gz = one - fx, one - fy, one - fz
    i = cell_index(qx, qy, qz, n)
    for corner in range(4):
        dy, dz = corner & 1, corner >> 1
        w = (fy if dy else gy) * (fz if dz else gz)
        j = i + (dz * n + dy) * n
        a, b = volume[j], volume[j + 1]
        p, q = w * gx, w * fx
        volume[j] = complex(a.real + p * re, a.imag + p * im)
        volume[j + 1] = complex(b.real + q * re, b.imag + q * im)


@register
def gather_trilinear(volume, qx, qy, qz, n, unit):
    """Do as `gather_trilinear_plain`, with vectors."""
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    return gather_corners(volume, cell_index(qx, qy, qz, n), n, n * n, fx, fy, fz)


@register
def scatter_trilinear(volume, qx, qy, qz, n, unit, re, im):
    """Do as `scatter_trilinear_plain`, with vectors."""
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    scatter_corners(volume, cell_index(qx, qy, qz, n), n, n * n, fx, fy, fz, re, im)


@register
def scatter_power_trilinear(volume, qx, qy, qz, n, unit, value, squared):
    """Add to the eight corners of a cell with their weights, or the squares of these."""
    one = type(unit)(1)
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    gx, gy, gz = one - fx, one - fy, one - fz
    if squared:
        fx, fy, fz = fx * fx, fy * fy, fz * fz
        gx, gy, gz = gx * gx, gy * gy, gz * gz
    i = cell_index(qx, qy, qz, n)
    for corner in range(4):
        dy, dz = corner & 1, corner >> 1
        w = value * (fy if dy else gy) * (fz if dz else gz)
        j = i + (dz * n + dy) * n
        volume[j] += w * gx
        volume[j + 1] += w * fx


NEAREST = SimpleNamespace(
    offset=HALF,
    gather=gather_nearest,
    scatter=scatter_nearest,
    scatter_power=scatter_power_nearest,
)
TRILINEAR_PLAIN = SimpleNamespace(
    offset=0,
    gather=gather_trilinear_plain,
    scatter=scatter_trilinear_plain,
    scatter_power=scatter_power_trilinear,
)
TRILINEAR_VECTORS = SimpleNamespace(
    offset=0,
    gather=gather_trilinear,
    scatter=scatter_trilinear,
    scatter_power=scatter_power_trilinear,
)
# Without compilation there are no vectors.
TRILINEAR = TRILINEAR_PLAIN if config.DISABLE_JIT else TRILINEAR_VECTORS
