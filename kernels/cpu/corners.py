"""The trilinear window with vectors: taps of a run, and reading and adding to cells.

Taps of four samples at a time are vectors, one sample a lane: cells and weights are sums, shifts
and products of whole vectors, with no lane moved. `list_taps` writes them down for a run; reading
and adding then need one load for the cell and one for each weight. Each of the four rows (y, z),
(y + 1, z), (y, z + 1), (y + 1, z + 1) of a cell is one vector of `fastcryo.kernels.cpu.simd`: one
load, one fused multiply-add and, when adding, one store.

**Taps.** ``places[i]`` is the flat index of the cell of sample i of a run; ``weights[0 to 3, i]``
are the weights of its four rows, ``weights[4, i]`` and ``weights[5, i]`` those of both
x-neighbours.
"""

from llvmlite import ir
from numba.core import types

from fastcryo.kernels._jit import intrinsic_function, register
from fastcryo.kernels.cpu.simd import (
    CONTRACT,
    Vector,
    all_integers,
    demand,
    element_pointer,
    shuffle,
    splat,
    value_type,
)
from fastcryo.kernels.layout import FRACTION_BITS

LANES = 4
TAP_ROWS = 6
POSITIONS = Vector(types.int64, LANES)
INTEGER = ir.IntType(64)


def _integers(value):
    return ir.Constant(ir.VectorType(INTEGER, LANES), [value] * LANES)


@intrinsic_function
def positions(typingctx, q, d):
    """Return q, q + d, q + 2 d, q + 3 d: one coordinate of four neighbouring samples."""
    all_integers(q, d)

    def generate(context, builder, sig, args):
        lanes = ir.Constant(ir.VectorType(INTEGER, LANES), list(range(LANES)))
        q, d = (splat(builder, number, LANES) for number in args)
        return builder.add(q, builder.mul(d, lanes))

    return POSITIONS(q, d), generate


@intrinsic_function
def advance(typingctx, position, d):
    """Return the coordinates of the next four samples."""
    demand(position == POSITIONS, f"positions are needed, got {position}")
    all_integers(d)

    def generate(context, builder, sig, args):
        step = builder.mul(args[1], ir.Constant(INTEGER, LANES))
        return builder.add(args[0], splat(builder, step, LANES))

    return POSITIONS(position, d), generate


def _fractions(builder, position, real, scalar):
    """Return the places within cells, in [0, 1), in single or double precision."""
    if real == types.float64:
        # The fraction as the mantissa of a number in [1, 2): processors convert no vector of 64-bit
        # integers.
        bits = builder.and_(position, _integers((1 << FRACTION_BITS) - 1))
        bits = builder.or_(bits, _integers(0x3FF << FRACTION_BITS))
        numbers = builder.bitcast(bits, ir.VectorType(scalar, LANES))
        return builder.fsub(numbers, ir.Constant(numbers.type, [1.0] * LANES))
    bits = builder.lshr(position, _integers(FRACTION_BITS - 24))
    bits = builder.trunc(bits, ir.VectorType(ir.IntType(32), LANES))
    bits = builder.and_(bits, ir.Constant(bits.type, [(1 << 24) - 1] * LANES))
    numbers = builder.sitofp(bits, ir.VectorType(scalar, LANES))
    return builder.fmul(numbers, ir.Constant(numbers.type, [2.0**-24] * LANES))


def _check_taps(places, weights, i, row, plane):
    demand(places == types.Array(types.int64, 1, "C"), f"places must be int64, got {places}")
    demand(
        weights in [types.Array(real, 2, "C") for real in (types.float32, types.float64)],
        f"weights must be a contiguous real array, got {weights}",
    )
    all_integers(i, row, plane)


def _store_cells(context, builder, sig, args):
    """Store the flat indices of four cells."""
    places, i, *position, row, plane = args
    # Cells and strides have less than 32 bits; said so, the products are single instructions.
    low = ir.Constant(INTEGER, 0xFFFFFFFF)
    row, plane = (splat(builder, builder.and_(n, low), LANES) for n in (row, plane))
    x, y, z = (builder.lshr(q, _integers(FRACTION_BITS)) for q in position)
    cells = builder.add(builder.add(builder.mul(z, plane), builder.mul(y, row)), x)
    data = context.make_array(sig.args[0])(context, builder, value=places).data
    pointer = builder.bitcast(builder.gep(data, [i]), cells.type.as_pointer())
    builder.store(cells, pointer, align=8)


@intrinsic_function
def list_cells(typingctx, places, i, x, y, z, row, plane):
    """Write down the cells of samples i to i + 3 from their coordinates."""
    demand(places == types.Array(types.int64, 1, "C"), f"places must be int64, got {places}")
    all_integers(i, row, plane)
    demand(x == y == z == POSITIONS, f"positions are needed, got {x}, {y}, {z}")

    def generate(context, builder, sig, args):
        _store_cells(context, builder, sig, args)
        return context.get_dummy_value()

    return types.void(places, i, x, y, z, row, plane), generate


@intrinsic_function
def list_block(typingctx, places, weights, i, x, y, z, row, plane):
    """Write down the taps of samples i to i + 3 from their coordinates."""
    _check_taps(places, weights, i, row, plane)
    demand(x == y == z == POSITIONS, f"positions are needed, got {x}, {y}, {z}")

    def generate(context, builder, sig, args):
        places, weights, i, *position, row, plane = args
        _store_cells(context, builder, sig, (places, i, *position, row, plane))
        real = sig.args[1].dtype
        scalar = context.get_value_type(real)
        one = ir.Constant(ir.VectorType(scalar, LANES), [1.0] * LANES)
        fx, fy, fz = (_fractions(builder, q, real, scalar) for q in position)
        gx, gy, gz = (builder.fsub(one, f) for f in (fx, fy, fz))
        rows = [builder.fmul(a, b) for b in (gz, fz) for a in (gy, fy)]
        for number, values in enumerate([*rows, gx, fx]):
            number = ir.Constant(INTEGER, number)
            pointer = element_pointer(context, builder, sig.args[1], weights, number, i)
            pointer = builder.bitcast(pointer, values.type.as_pointer())
            builder.store(values, pointer, align=real.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(places, weights, i, x, y, z, row, plane), generate


@register
def list_taps(q, d, count, row, plane, unit, places, weights):
    """Write down the taps of a run, and of up to three samples beyond it that are not used."""
    x, y, z = positions(q[0], d[0]), positions(q[1], d[1]), positions(q[2], d[2])
    for i in range(0, count, LANES):
        list_block(places, weights, i, x, y, z, row, plane)
        x, y, z = advance(x, d[0]), advance(y, d[1]), advance(z, d[2])


@register
def list_nearest(q, d, count, row, plane, unit, places, weights):
    """Write down the cells of a run, and of up to three samples beyond it that are not used."""
    x, y, z = positions(q[0], d[0]), positions(q[1], d[1]), positions(q[2], d[2])
    for i in range(0, count, LANES):
        list_cells(places, i, x, y, z, row, plane)
        x, y, z = advance(x, d[0]), advance(y, d[1]), advance(z, d[2])


def _rows(context, builder, sig, args, vector):
    """Return weights and addresses of the four rows of a cell, and the weights along x."""
    array, places, weights, i, row, plane = args[:6]
    array_type, places_type, weights_type = sig.args[:3]
    cells = context.make_array(places_type)(context, builder, value=places).data
    index = builder.load(builder.gep(cells, [i]))
    above = builder.add(index, plane)
    starts = [index, builder.add(index, row), above, builder.add(above, row)]
    data = context.make_array(array_type)(context, builder, value=array).data
    channels = ir.Constant(INTEGER, array_type.ndim)
    pointers = [
        builder.bitcast(builder.gep(data, [builder.mul(s, channels)]), vector.as_pointer())
        for s in starts
    ]

    def weight(number):
        number = ir.Constant(INTEGER, number)
        pointer = element_pointer(context, builder, weights_type, weights, number, i)
        return splat(builder, builder.load(pointer), vector.count)

    half = vector.count // 2
    lanes = [*range(half), *range(vector.count + half, 2 * vector.count)]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), lanes)
    along_x = builder.shuffle_vector(weight(4), weight(5), mask)
    return [weight(number) for number in range(4)], pointers, along_x


def _check(volume, places, weights, i, row, plane):
    value = value_type(volume)
    _check_taps(places, weights, i, row, plane)
    demand(weights.dtype == value.element, f"weights must be {value.element} like the volume")
    return value


@intrinsic_function
def gather(typingctx, volume, places, weights, i, row, plane):
    """Interpolate: return the value of sample i of a run."""
    value = _check(volume, places, weights, i, row, plane)

    def generate(context, builder, sig, args):
        vector = context.get_value_type(value)
        rows, pointers, along_x = _rows(context, builder, sig, args, vector)
        total = None
        for weight, pointer in zip(rows, pointers, strict=True):
            row = builder.load(pointer, align=value.element.bitwidth // 8)
            term = builder.fmul(weight, row, flags=CONTRACT)
            total = term if total is None else builder.fadd(total, term, flags=CONTRACT)
        total = builder.fmul(total, along_x, flags=CONTRACT)
        half = vector.count // 2
        swapped = shuffle(builder, total, [*range(half, 2 * half), *range(half)])
        return builder.fadd(total, swapped, flags=CONTRACT)

    return value(volume, places, weights, i, row, plane), generate


@intrinsic_function
def scatter(typingctx, volume, places, weights, i, row, plane, added):
    """Add the value of sample i of a run, the transpose of the above."""
    value = _check(volume, places, weights, i, row, plane)
    demand(added == value, f"the value must be {value}, got {added}")

    def generate(context, builder, sig, args):
        vector = context.get_value_type(value)
        align = value.element.bitwidth // 8
        rows, pointers, along_x = _rows(context, builder, sig, args, vector)
        added = builder.fmul(args[6], along_x, flags=CONTRACT)
        # All rows are read before one is stored: the compiler cannot know that they are apart.
        former = [builder.load(pointer, align=align) for pointer in pointers]
        for weight, before, pointer in zip(rows, former, pointers, strict=True):
            term = builder.fmul(weight, added, flags=CONTRACT)
            builder.store(builder.fadd(before, term, flags=CONTRACT), pointer, align=align)
        return context.get_dummy_value()

    return types.void(volume, places, weights, i, row, plane, added), generate


@intrinsic_function
def scatter_power(typingctx, volume, places, weights, i, row, plane, added, squared):
    """Add to the corners of a cell of a real volume with their weights, or the squares of these."""
    _check_taps(places, weights, i, row, plane)
    real = weights.dtype
    demand(
        volume == types.Array(real, 1, "C") and added == real,
        f"volume and value must be {real} like the weights, got {volume} and {added}",
    )
    demand(squared == types.boolean, f"a choice is needed, got {squared}")
    pair = Vector(real, 2)

    def generate(context, builder, sig, args):
        vector = context.get_value_type(pair)
        rows, pointers, along_x = _rows(context, builder, sig, args, vector)
        added, squared = args[6:]
        align = real.bitwidth // 8

        def power(weight):
            square = builder.fmul(weight, weight, flags=CONTRACT)
            return builder.select(squared, square, weight)

        along_x = builder.fmul(splat(builder, added, 2), power(along_x), flags=CONTRACT)
        former = [builder.load(pointer, align=align) for pointer in pointers]
        for weight, before, pointer in zip(rows, former, pointers, strict=True):
            term = builder.fmul(power(weight), along_x, flags=CONTRACT)
            builder.store(builder.fadd(before, term, flags=CONTRACT), pointer, align=align)
        return context.get_dummy_value()

    return types.void(volume, places, weights, i, row, plane, added, squared), generate
