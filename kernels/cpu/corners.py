"""The trilinear window with vectors: reading and adding to the eight corners of a cell.

Each of the four rows (y, z), (y + 1, z), (y, z + 1), (y + 1, z + 1) of a cell is one vector of
`fastcryo.kernels.cpu.simd`: one load, one fused multiply-add and, when adding, one store. The
three coordinates of a position are lanes of one vector too; counted from the corner of a tile, none
is negative.
"""

from llvmlite import ir
from numba.core import types

from fastcryo.kernels._jit import intrinsic_function
from fastcryo.kernels.cpu.simd import (
    CONTRACT,
    Vector,
    all_integers,
    demand,
    lane,
    shuffle,
    splat,
    value_type,
)
from fastcryo.kernels.layout import FRACTION_BITS

POSITION = Vector(types.int64, 4)
INTEGER = ir.IntType(64)


def _integers(values):
    return ir.Constant(ir.VectorType(INTEGER, 4), list(values))


@intrinsic_function
def start(typingctx, x, y, z):
    """Return a position, or the step from one to the next, from its coordinates."""
    all_integers(x, y, z)

    def generate(context, builder, sig, args):
        position = _integers([0] * 4)
        for number, value in enumerate(args):
            position = builder.insert_element(position, value, ir.Constant(ir.IntType(32), number))
        return position

    return POSITION(x, y, z), generate


@intrinsic_function
def advance(typingctx, position, step):
    """Return the next position."""
    demand(position == step == POSITION, f"positions are needed, got {position} and {step}")

    def generate(context, builder, sig, args):
        return builder.add(*args)

    return POSITION(position, step), generate


def _cell_index(builder, position, row, plane):
    """Return the flat index of the cell of a position."""
    cells = builder.lshr(position, _integers([FRACTION_BITS] * 4))
    x, y, z = (lane(builder, cells, number) for number in range(3))
    return builder.add(builder.add(builder.mul(z, plane), builder.mul(y, row)), x)


def _fractions(builder, position, real, unit):
    """Return the place in the cell, (fx, fy, fz, 0), in single or double precision."""
    if real == types.float64:
        # The fraction as the mantissa of a number in [1, 2): processors convert no vector of 64-bit
        # integers.
        bits = builder.and_(position, _integers([(1 << FRACTION_BITS) - 1] * 4))
        bits = builder.or_(bits, _integers([0x3FF << FRACTION_BITS] * 4))
        numbers = builder.bitcast(bits, ir.VectorType(unit.type, 4))
        return builder.fsub(numbers, ir.Constant(numbers.type, [1.0] * 4))
    bits = builder.lshr(position, _integers([FRACTION_BITS - 24] * 4))
    bits = builder.trunc(bits, ir.VectorType(ir.IntType(32), 4))
    bits = builder.and_(bits, ir.Constant(bits.type, [(1 << 24) - 1] * 4))
    return builder.fmul(builder.sitofp(bits, ir.VectorType(unit.type, 4)), splat(builder, unit, 4))


def _row_weights(builder, fractions, lanes):
    """Return the weights of the four rows."""
    one = ir.Constant(fractions.type, [1.0] * 4)
    other = builder.fsub(one, fractions)

    def select(mask):
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(mask)), mask)
        return builder.shuffle_vector(other, fractions, mask)

    # Lanes 0 to 3 of the pair are 1 - f, lanes 4 to 7 are f, of x, y, z.
    along_x = select([0] * (lanes // 2) + [4] * (lanes // 2))
    rows = builder.fmul(select([1, 5, 1, 5]), select([2, 2, 6, 6]), flags=CONTRACT)
    return [
        builder.fmul(shuffle(builder, rows, [number] * lanes), along_x, flags=CONTRACT)
        for number in range(4)
    ]


def _rows(context, builder, array_type, args, vector):
    """Return weights and addresses of the four rows of a cell."""
    array, position, row, plane, unit = args
    real = array_type.dtype.underlying_float
    index = _cell_index(builder, position, row, plane)
    above = builder.add(index, plane)
    starts = [index, builder.add(index, row), above, builder.add(above, row)]
    data = context.make_array(array_type)(context, builder, value=array).data
    channels = ir.Constant(INTEGER, array_type.ndim)
    pointers = [
        builder.bitcast(builder.gep(data, [builder.mul(s, channels)]), vector.as_pointer())
        for s in starts
    ]
    fractions = _fractions(builder, position, real, unit)
    return zip(_row_weights(builder, fractions, vector.count), pointers, strict=True)


def _check(volume, position, row, plane, unit):
    value = value_type(volume)
    demand(position == POSITION, f"a position is needed, got {position}")
    all_integers(row, plane)
    demand(unit == value.element, f"the unit must be {value.element} like the volume, got {unit}")
    return value


@intrinsic_function
def gather(typingctx, volume, position, row, plane, unit):
    """Interpolate: return the value at a position."""
    value = _check(volume, position, row, plane, unit)

    def generate(context, builder, sig, args):
        vector = context.get_value_type(value)
        total = None
        for weight, pointer in _rows(context, builder, sig.args[0], args, vector):
            row = builder.load(pointer, align=value.element.bitwidth // 8)
            term = builder.fmul(weight, row, flags=CONTRACT)
            total = term if total is None else builder.fadd(total, term, flags=CONTRACT)
        half = vector.count // 2
        swapped = shuffle(builder, total, [*range(half, 2 * half), *range(half)])
        return builder.fadd(total, swapped, flags=CONTRACT)

    return value(volume, position, row, plane, unit), generate


@intrinsic_function
def scatter(typingctx, volume, position, row, plane, unit, added):
    """Add a value at a position, the transpose of the above."""
    value = _check(volume, position, row, plane, unit)
    demand(added == value, f"the value must be {value}, got {added}")

    def generate(context, builder, sig, args):
        vector = context.get_value_type(value)
        align = value.element.bitwidth // 8
        for weight, pointer in _rows(context, builder, sig.args[0], args[:5], vector):
            former = builder.load(pointer, align=align)
            term = builder.fmul(weight, args[5], flags=CONTRACT)
            builder.store(builder.fadd(former, term, flags=CONTRACT), pointer, align=align)
        return context.get_dummy_value()

    return types.void(volume, position, row, plane, unit, added), generate
