"""The normal operator of the trilinear window, assembled: a stencil of 27 points.

A sample with corner weights w adds c w w^T. A corner (x, y, z) and its partner at offset (dx, dy,
dz) share an entry with the pair seen from the other end, so that only the offsets of 5 *row pairs*
are kept, (dy, dz) = (0, 0), (1, 0), (-1, 1), (0, 1), (1, 1), each with dx = -1, 0, 1: 15 arrays, of
which the two dx = -1, 1 of the row itself say the same.

**Layout.** ``stencil[z, y, pair, 3 L]`` of shape (R + 1, 2 R + 1, 5, 3 L), L = 2 R + 3, real: z
from 0, y from -R, x from -R - 1 (a column to spare on both sides). While samples are added, (x, dx)
stands at 3 (x + R + 1) + dx + 1: the four entries of a row pair of a cell, (x, 0), (x, 1), (x + 1,
-1), (x + 1, 0), are neighbours and one vector. `separate` then makes three rows of L of each, for
products that run along x.

**Fold.** Samples are folded to z >= 0 and only they are added, so no entry reaches below the plane
z = 0. What the mirrored samples add to that plane is the mirror of what these add: the product's
plane z = 0 needs its own mirror added once, as the adjoint's does.
"""

import numpy as np
from llvmlite import ir
from numba import config, prange
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastcryo.kernels._jit import parallel, parallel_reduction, register
from fastcryo.kernels.cpu.slicing import make_sweep
from fastcryo.kernels.cpu.windows import fraction
from fastcryo.kernels.layout import FRACTION_BITS

PAIRS = 5
# Rows in y that one thread multiplies plane after plane: what it read of the plane below is still
# in its cache.
BLOCK_ROWS = 8
PAIR_Y = (0, 1, -1, 0, 1)
PAIR_Z = (0, 0, 1, 1, 1)


def stencil_shape(radius):
    """Return the shape of the stencil of a ball of radius R."""
    return radius + 1, 2 * radius + 1, PAIRS, 3 * (2 * radius + 3)


@register
def add_band_plain(stencil, index, scale, first, middle, last):
    """Add scale (first, middle, middle, last) to four neighbours."""
    stencil[index] += scale * first
    stencil[index + 1] += scale * middle
    stencil[index + 2] += scale * middle
    stencil[index + 3] += scale * last


@intrinsic
def add_band_vector(typingctx, stencil, index, scale, first, middle, last):
    """Do as `add_band_plain`, with a vector of four lanes."""
    if not (isinstance(stencil, types.Array) and stencil.ndim == 1 and stencil.layout == "C"):
        raise TypingError(f"a flat contiguous array is needed, got {stencil}")
    if stencil.dtype not in (types.float32, types.float64):
        raise TypingError(f"a real array is needed, got {stencil}")
    if any(v != stencil.dtype for v in (scale, first, middle, last)):
        raise TypingError(f"values must be {stencil.dtype} like the array")
    if not (isinstance(index, types.Integer) and index.bitwidth == 64):
        raise TypingError("the index must be a 64-bit integer")
    signature = types.void(stencil, index, scale, first, middle, last)

    def generate(context, builder, sig, args):
        array, start, factor, *band = args
        data = context.make_array(sig.args[0])(context, builder, value=array).data
        vector_type = ir.VectorType(factor.type, 4)
        pointer = builder.bitcast(builder.gep(data, [start]), vector_type.as_pointer())
        value = factors = ir.Constant(vector_type, ir.Undefined)
        for lane, part in enumerate((band[0], band[1], band[1], band[2])):
            place = ir.Constant(ir.IntType(32), lane)
            value = builder.insert_element(value, part, place)
            factors = builder.insert_element(factors, factor, place)
        align = sig.args[0].dtype.bitwidth // 8
        former = builder.load(pointer, align=align)
        term = builder.fmul(value, factors, flags=("contract",))
        builder.store(builder.fadd(former, term, flags=("contract",)), pointer, align=align)
        return context.get_dummy_value()

    return signature, generate


# Without compilation there are no vectors.
add_band = add_band_plain if config.DISABLE_JIT else add_band_vector


@register
def scatter_pairs(stencil, qx, qy, qz, radius, unit, c):
    """Add c w w^T of one sample to the flat stencil."""
    one = type(unit)(1)
    fx, fy, fz = fraction(qx, unit), fraction(qy, unit), fraction(qz, unit)
    gx, gy, gz = one - fx, one - fy, one - fz
    first, middle, last = gx * gx, gx * fx, fx * fx
    cx, cy, cz = qx >> FRACTION_BITS, qy >> FRACTION_BITS, qz >> FRACTION_BITS
    band = 3 * (2 * radius + 3)
    row = PAIRS * band
    plane = (2 * radius + 1) * row
    # Rows a, b = (y, z), (y + 1, z) and d, e above them.
    at_a = cz * plane + (cy + radius) * row + 3 * (cx + radius + 1) + 1
    at_b = at_a + row
    at_d = at_a + plane
    at_e = at_d + row
    a, b, d, e = gy * gz, fy * gz, gy * fz, fy * fz
    add_band(stencil, at_a, c * a * a, first, middle, last)
    add_band(stencil, at_a + band, c * a * b, first, middle, last)
    add_band(stencil, at_a + 3 * band, c * a * d, first, middle, last)
    add_band(stencil, at_a + 4 * band, c * a * e, first, middle, last)
    add_band(stencil, at_b, c * b * b, first, middle, last)
    add_band(stencil, at_b + 2 * band, c * b * d, first, middle, last)
    add_band(stencil, at_b + 3 * band, c * b * e, first, middle, last)
    add_band(stencil, at_d, c * d * d, first, middle, last)
    add_band(stencil, at_d + band, c * d * e, first, middle, last)
    add_band(stencil, at_e, c * e * e, first, middle, last)


@register
def add_pairs_run(buffers, tables, run, path, frame, taps):
    """Add c w w^T of a run of samples; tables: weights, flat stencil, R."""
    (powers, stencil, radius), (_, image, first, count, _) = tables, run
    (qx, qy, qz), d = path
    _, _, origin, unit = frame
    line = powers[0 if powers.shape[0] == 1 else image]
    qx += origin[0] << FRACTION_BITS
    qy += origin[1] << FRACTION_BITS
    qz += origin[2] << FRACTION_BITS
    for j in range(first, first + count):
        scatter_pairs(stencil, qx, qy, qz, radius, unit, line[j])
        qx += d[0]
        qy += d[1]
        qz += d[2]
    return 0.0, 0.0, 0.0


@register
def ask_nothing(tables, batch, image, first, count):
    """Ask for nothing: the stencil costs more than the weights."""


assemble = make_sweep(add_pairs_run, ask_nothing, 0, reads=False, adds=False)


@parallel
def separate(stencil, scale):
    """Turn rows of (x, dx) into three rows of x each, and scale; (R + 1, 2 R + 1, 5, 3 L)."""
    for z in prange(stencil.shape[0]):
        length = stencil.shape[3] // 3
        former = np.empty(3 * length, stencil.dtype)
        for y in range(stencil.shape[1]):
            for pair in range(stencil.shape[2]):
                former[:] = stencil[z, y, pair]
                for d in range(3):
                    for x in range(length):
                        stencil[z, y, pair, d * length + x] = scale * former[3 * x + d]


@parallel
def split_parts(volume, radius, real, imaginary):
    """Copy the cube |x|, |y| <= R, 0 <= z <= R of a half grid into padded real volumes.

    Parameters
    ----------
    volume : (N // 2 + 1, N, N) complex
    radius : int
        R.
    real, imaginary : (R + 2, 2 R + 3, 2 R + 3) float, modified in place
        z from 0, y and x from -R - 1; zeros to begin with, so that the margin is zero.
    """
    low = volume.shape[1] // 2 - radius
    for z in prange(radius + 1):
        for y in range(2 * radius + 1):
            for x in range(2 * radius + 1):
                v = volume[z, y + low, x + low]
                real[z, y + 1, x + 1] = v.real
                imaginary[z, y + 1, x + 1] = v.imag


@register
def add_products(stencil, left, middle, right, values, place, count, total):
    """Add three rows of the stencil times the values at x - 1, x and x + 1 to total.

    `left`, `middle`, `right` and `place` are where the rows and the values at x begin in the flat
    arrays. Unsigned, they need no test for counting from the end, and the loop becomes vectors.
    """
    left, middle, right = np.uint64(left), np.uint64(middle), np.uint64(right)
    before, here, after = np.uint64(place - 1), np.uint64(place), np.uint64(place + 1)
    for x in range(np.uint64(count)):
        total[x] += (
            stencil[left + x] * values[before + x]
            + stencil[middle + x] * values[here + x]
            + stencil[right + x] * values[after + x]
        )


@parallel_reduction
def multiply(stencil, real, imaginary, widths, box, threads, out):
    """Multiply by the stencil; the mirror of the plane z = 0 is left to add.

    Every row of the result is summed by one thread in a fixed order.

    Parameters
    ----------
    stencil : flat float, separated
    real, imaginary : flat float
        From `split_parts`; their precision is that of the sums.
    widths : (R + 1, 2 R + 1) int64
        `fastcryo.kernels.layout.row_widths`.
    box, threads : int
    out : flat half grid, complex, modified in place
        Rows that no sample reaches are left as they are.
    """
    radius = widths.shape[0] - 1
    length = 2 * radius + 3
    blocks = (2 * radius + BLOCK_ROWS) // BLOCK_ROWS
    for worker in prange(threads):
        sum_re = np.empty(length, real.dtype)
        sum_im = np.empty(length, real.dtype)
        for block in range(worker, blocks, threads):
            y_stop = min((block + 1) * BLOCK_ROWS, 2 * radius + 1)
            for z in range(radius + 1):
                for y in range(block * BLOCK_ROWS, y_stop):
                    count = 2 * widths[z, y] + 1
                    low = radius + 1 - widths[z, y]
                    for x in range(count):
                        sum_re[x] = 0
                        sum_im[x] = 0
                    for pair in range(PAIRS if count > 0 else 0):
                        dy, dz = PAIR_Y[pair], PAIR_Z[pair]
                        row = ((z * (2 * radius + 1) + y) * PAIRS + pair) * 3 * length + low
                        place = ((z + dz) * length + y + dy + 1) * length + low
                        a, b, c = row, row + length, row + 2 * length
                        add_products(stencil, a, b, c, real, place, count, sum_re)
                        add_products(stencil, a, b, c, imaginary, place, count, sum_im)
                        if pair > 0 and z >= dz and 0 <= y - dy <= 2 * radius:
                            # The same entries seen from the other end: coefficients of x - 1, x
                            # and x + 1 for their own partners at 1, 0 and -1.
                            row -= (dz * (2 * radius + 1) + dy) * PAIRS * 3 * length
                            place = ((z - dz) * length + y - dy + 1) * length + low
                            a, b, c = row + 2 * length - 1, row + length, row + 1
                            add_products(stencil, a, b, c, real, place, count, sum_re)
                            add_products(stencil, a, b, c, imaginary, place, count, sum_im)
                    start = (z * box + y - radius + box // 2) * box + low - 1 - radius + box // 2
                    for x in range(count):
                        out[start + x] = complex(sum_re[x], sum_im[x])
