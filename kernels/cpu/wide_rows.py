"""Reading and adding W^3 cells with vectors, and the window's weights from polynomials.

All 3 W weights of a sample are one vector, the value of a polynomial with vectors as coefficients
by Horner's rule: no Bessel function, no table. With a vector for each axis, reading took 26 instead
of 22 ns per sample (W = 5, single precision). A row of W complex cells is one vector of 2 W
numbers, to the next power of two; the lanes too many have weight zero.

``kernel`` is (degree + 1, `packed_lanes`): coefficients of u^j by axis (x, y, z) and tap, degree =
W + `EXTRA_DEGREE`, from `packed`; ``ux, uy, uz`` are the places within the cell, -1/2 to 1/2;
``taps`` is a tuple of W numbers, whose length alone counts: it makes W known when a call is
compiled.
"""

import numpy as np
from llvmlite import ir
from numba import config
from numba.core import types

from fastcryo.kernels._jit import intrinsic_function, register
from fastcryo.kernels.cpu.simd import CONTRACT, all_integers, demand, real_of, shuffle, splat
from fastcryo.kernels.wide import lanes_of

EXTRA_DEGREE = 4


def _check(volume, place, row, plane, kernel, u, taps):
    """Return the real type of a buffer and W."""
    real = volume.dtype if isinstance(volume.dtype, types.Float) else real_of(volume, (1,))
    demand(volume.ndim == 1 and volume.layout == "C", f"a flat buffer is needed, got {volume}")
    demand(
        kernel == types.Array(real, 2, "C") and all(number == real for number in u),
        f"coefficients and places must be {real} like the volume, got {kernel}, {u}",
    )
    all_integers(place, row, plane)
    demand(isinstance(taps, types.UniTuple), f"a tuple of W numbers is needed, got {taps}")
    return real, taps.count


def _weights(context, builder, kernel_type, kernel, places, width):
    """Return the vector of all weights at the places along the axes, by Horner's rule."""
    data = context.make_array(kernel_type)(context, builder, value=kernel).data
    lanes = packed_lanes(width)
    vector = ir.VectorType(places[0].type, lanes)
    align = kernel_type.dtype.bitwidth // 8

    def coefficient(power):
        start = builder.gep(data, [ir.Constant(ir.IntType(64), power * lanes)])
        return builder.load(builder.bitcast(start, vector.as_pointer()), align=align)

    u = ir.Constant(ir.VectorType(places[0].type, 4), ir.Undefined)
    for axis, place in enumerate(places):
        u = builder.insert_element(u, place, ir.Constant(ir.IntType(32), axis))
    u = shuffle(builder, u, [min(lane // width, 2) for lane in range(lanes)])
    total = coefficient(width + EXTRA_DEGREE)
    for power in reversed(range(width + EXTRA_DEGREE)):
        product = builder.fmul(total, u, flags=CONTRACT)
        total = builder.fadd(product, coefficient(power), flags=CONTRACT)
    return total


def _row_pointers(context, builder, volume_type, volume, place, row, plane, real, lanes, width):
    """Return the addresses of the W^2 rows, by z and y."""
    data = context.make_array(volume_type)(context, builder, value=volume).data
    vector = ir.VectorType(context.get_value_type(real), lanes)
    pointers = []
    for _ in range(width):
        here, line = place, []
        for _ in range(width):
            line.append(builder.bitcast(builder.gep(data, [here]), vector.as_pointer()))
            here = builder.add(here, row)
        pointers.append(line)
        place = builder.add(place, plane)
    return pointers


def _along_x(builder, weights, width, count):
    """Return the weights of a row, each for `count` numbers, then zeros."""
    # To the next power of two: 16 lanes for W = 5, where 12 would be two vectors, make a gradient
    # 20 % faster.
    lanes = 1 << (count * width - 1).bit_length()
    zero = weights.type.count - 1
    numbers = [i // count if i < count * width else zero for i in range(lanes)]
    return shuffle(builder, weights, numbers)


def _from_line(builder, row, width, count, place):
    """Move the numbers of a row so that it begins at a multiple of cells; return where.

    As many as the unused lanes allow: for W = 5 half of the rows then lie in one line of the
    cache, where one in eight did. Adding takes 30 instead of 32 ns per sample; reading, which is
    not held up by such rows, would take 25 instead of 22.
    """
    lanes, shift = row.type.count, 1
    while count * (2 * shift - 1 + width) <= lanes:
        moved = shuffle(builder, row, [(i - count * shift) % lanes for i in range(lanes)])
        bit = builder.trunc(builder.and_(place, ir.Constant(place.type, shift)), ir.IntType(32))
        # The bit in every lane: with a single one, the choice would become a jump.
        bit = splat(builder, bit, lanes)
        is_set = builder.icmp_unsigned("!=", bit, ir.Constant(bit.type, [0] * lanes))
        row = builder.select(is_set, moved, row)
        place = builder.and_(place, ir.Constant(place.type, ~shift))
        shift *= 2
    return row, place


def _lane_splat(builder, vector, number, lanes):
    return shuffle(builder, vector, [number] * lanes)


@intrinsic_function
def gather_vectors(typingctx, volume, place, row, plane, kernel, ux, uy, uz, taps):
    """Return (re, im) of the sum of W^3 cells times their weights."""
    real, width = _check(volume, place, row, plane, kernel, (ux, uy, uz), taps)

    def generate(context, builder, sig, args):
        volume, place, row, plane, kernel, *u, _ = args
        weights = _weights(context, builder, sig.args[4], kernel, u, width)
        along_x = _along_x(builder, weights, width, 2)
        lanes = along_x.type.count
        pointers = _row_pointers(
            context, builder, sig.args[0], volume, place, row, plane, real, lanes, width
        )
        by_y = [_lane_splat(builder, weights, width + j, lanes) for j in range(width)]
        total = None
        for i, line in enumerate(pointers):
            inner = None
            for weight, pointer in zip(by_y, line, strict=True):
                cells = builder.load(pointer, align=real.bitwidth // 8)
                term = builder.fmul(weight, cells, flags=CONTRACT)
                inner = term if inner is None else builder.fadd(inner, term, flags=CONTRACT)
            term = builder.fmul(
                _lane_splat(builder, weights, 2 * width + i, lanes), inner, flags=CONTRACT
            )
            total = term if total is None else builder.fadd(total, term, flags=CONTRACT)
        total = builder.fmul(total, along_x, flags=CONTRACT)
        fours = [shuffle(builder, total, range(i, i + 4)) for i in range(0, lanes, 4)]
        four = fours[0]
        for other in fours[1:]:
            four = builder.fadd(four, other, flags=CONTRACT)
        number = ir.IntType(32)
        parts = [builder.extract_element(four, ir.Constant(number, i)) for i in range(4)]
        parts = [builder.fadd(parts[0], parts[2]), builder.fadd(parts[1], parts[3])]
        return context.make_tuple(builder, sig.return_type, parts)

    result = types.UniTuple(real, 2)
    return result(volume, place, row, plane, kernel, ux, uy, uz, taps), generate


@intrinsic_function
def scatter_vectors(typingctx, volume, place, row, plane, kernel, ux, uy, uz, taps, value):
    """Add (re, im) times the weights to W^3 cells; (c,) to the cells of a real volume."""
    real, width = _check(volume, place, row, plane, kernel, (ux, uy, uz), taps)
    count = 1 if isinstance(volume.dtype, types.Float) else 2
    demand(value == types.UniTuple(real, count), f"{count} numbers {real} are needed, got {value}")

    def generate(context, builder, sig, args):
        volume, place, row, plane, kernel, *u, _, value = args
        weights = _weights(context, builder, sig.args[4], kernel, u, width)
        numbers = [builder.extract_value(value, i) for i in range(count)]
        x = _along_x(builder, weights, width, count)
        lanes = x.type.count
        added = ir.Constant(x.type, ir.Undefined)
        for i in range(count):
            added = builder.insert_element(added, numbers[i], ir.Constant(ir.IntType(32), i))
        added = shuffle(builder, added, [i % count for i in range(lanes)])
        added = builder.fmul(added, x, flags=CONTRACT)
        added, place = _from_line(builder, added, width, count, place)
        pointers = _row_pointers(
            context, builder, sig.args[0], volume, place, row, plane, real, lanes, width
        )
        by_y = [_lane_splat(builder, weights, width + j, lanes) for j in range(width)]
        align = real.bitwidth // 8
        for i, line in enumerate(pointers):
            outer = builder.fmul(
                _lane_splat(builder, weights, 2 * width + i, lanes), added, flags=CONTRACT
            )
            # All rows of a plane are read before one is stored: the compiler cannot know that they
            # are apart.
            former = [builder.load(pointer, align=align) for pointer in line]
            for weight, before, pointer in zip(by_y, former, line, strict=True):
                term = builder.fmul(weight, outer, flags=CONTRACT)
                builder.store(builder.fadd(before, term, flags=CONTRACT), pointer, align=align)
        return context.get_dummy_value()

    signature = types.void(volume, place, row, plane, kernel, ux, uy, uz, taps, value)
    return signature, generate


@register
def window_weights(kernel, u, taps):
    """Return the W weights at u."""
    total = kernel[-1].copy()
    for power in range(len(kernel) - 2, -1, -1):
        total = total * u + kernel[power]
    return total[: len(taps)]


@register
def gather_plain(volume, place, row, plane, kernel, ux, uy, uz, taps):
    """Do as `gather_vectors` does, in plain loops."""
    x, y, z = (window_weights(kernel, u, taps) for u in (ux, uy, uz))
    re = im = ux - ux
    for i in range(len(taps)):
        for j in range(len(taps)):
            for k in range(len(taps)):
                w, cell = z[i] * y[j] * x[k], volume[place + i * plane + j * row + k]
                re, im = re + w * cell.real, im + w * cell.imag
    return re, im


@register
def scatter_plain(volume, place, row, plane, kernel, ux, uy, uz, taps, value):
    """Do as `scatter_vectors` does, in plain loops."""
    x, y, z = (window_weights(kernel, u, taps) for u in (ux, uy, uz))
    added = complex(*value) if len(value) == 2 else value[0]
    for i in range(len(taps)):
        for j in range(len(taps)):
            for k in range(len(taps)):
                volume[place + i * plane + j * row + k] += z[i] * y[j] * x[k] * added


# Without compilation there are no vectors.
gather = gather_plain if config.DISABLE_JIT else gather_vectors
scatter = scatter_plain if config.DISABLE_JIT else scatter_vectors


def packed_lanes(width):
    """Return the lanes of the weights of all three axes and of a zero at least."""
    return 1 << (3 * width).bit_length()


def packed(kernel, width):
    """Return the polynomials of all three axes side by side, W lanes each, then zeros."""
    found = np.zeros((len(kernel), packed_lanes(width)), kernel.dtype)
    found[:, : 3 * width] = np.tile(kernel[:, :width], 3)
    return found


def fit_kernel(function, width, dtype):
    """Fit the polynomials of a window.

    Parameters
    ----------
    function : callable
        phi(distance in cells) of arrays; even, of support W.
    width : int
        W.
    dtype : float dtype

    Returns
    -------
    kernel : (W + 5, lanes) of dtype
    """
    degree = width + EXTRA_DEGREE
    nodes = np.cos(np.pi * (np.arange(4 * degree) + 0.5) / (4 * degree)) / 2
    kernel = np.zeros((degree + 1, lanes_of(width)))
    for tap in range(width):
        distance = nodes + (width - 1) / 2 - tap
        series = np.polynomial.Chebyshev.fit(nodes, function(distance), degree, [-0.5, 0.5])
        coefficients = series.convert(kind=np.polynomial.Polynomial).coef
        kernel[: len(coefficients), tap] = coefficients
    return np.ascontiguousarray(kernel, dtype)
