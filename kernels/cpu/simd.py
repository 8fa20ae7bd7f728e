"""Vectors of a few lanes as a type of compiled code, and the arithmetic of complex samples in them.

LLVM does not vectorise the trilinear window by itself (see docs/kernels.md for what vectors gain).
The vectors are plain LLVM vectors, which every target lowers to what it has.

**Lanes.** A volume of one channel is a flat array of complex numbers; one of two channels, shape
(voxels, 2), holds two volumes voxel by voxel. The real and imaginary parts of all channels of two
x-neighbours are consecutive: 4 or 8 numbers, one vector. A *value*, what a sample reads or adds,
stands twice in such a vector, once for each neighbour: (re, im, re, im) or (re, im, re', im', re,
im, re', im'); data belong to the first channel and are 0 in the other.

An intrinsic sees raw pointers. Types, layouts and agreement of precisions are checked when a call
is compiled; bounds are the caller's promise.
"""

from llvmlite import ir
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import models, register_model

from fastcryo.kernels._jit import intrinsic_function

CONTRACT = ("contract",)


class Vector(types.Type):
    """The type of a vector of `lanes` numbers of type `element`."""

    def __init__(self, element, lanes):
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vector({element}, {lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is an LLVM vector."""

    def __init__(self, manager, vector):
        element = manager.lookup(vector.element).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def demand(condition, message):
    """Refuse at compile time what the generated code would misread."""
    if not condition:
        raise TypingError(message)


def real_of(array, dimensions):
    """Return the real type of a contiguous complex array."""
    demand(
        isinstance(array, types.Array)
        and array.ndim in dimensions
        and array.layout == "C"
        and array.dtype in (types.complex64, types.complex128),
        f"a contiguous complex array is needed, got {array}",
    )
    return array.dtype.underlying_float


def value_type(volume):
    """Return the type of the values of a volume."""
    return Vector(real_of(volume, (1, 2)), 4 * volume.ndim)


def all_integers(*numbers):
    """Refuse anything but 64-bit integers."""
    message = f"64-bit integers are needed, got {numbers}"
    demand(all(isinstance(n, types.Integer) and n.bitwidth == 64 for n in numbers), message)


def lane(builder, vector, number):
    """Return one lane."""
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), number))


def shuffle(builder, vector, lanes):
    """Return the named lanes of a vector."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def splat(builder, scalar, lanes):
    """Return a scalar in every lane."""
    vector = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    vector = builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), 0))
    return shuffle(builder, vector, [0] * lanes)


def element_pointer(context, builder, array_type, array, row, column):
    """Return the address of array[row, column]."""
    parts = context.make_array(array_type)(context, builder, value=array)
    width = builder.extract_value(parts.shape, 1)
    return builder.gep(parts.data, [builder.add(builder.mul(row, width), column)])


def _data_lanes(lanes):
    """Return where the two numbers of a datum go; 2 and 3 stand for zeros."""
    return [0, 1, 0, 1] if lanes == 4 else [0, 1, 2, 3, 0, 1, 2, 3]


@intrinsic_function
def conjugation(typingctx, volume, sign, unit):
    """Return the vector that conjugates a value of `volume` if sign is -1, when multiplied."""
    vector = value_type(volume)
    all_integers(sign)
    demand(unit == vector.element, f"the unit must be {vector.element} like the volume, got {unit}")

    def generate(context, builder, sig, args):
        sign = builder.sitofp(args[1], context.get_value_type(vector.element))
        one = ir.Constant(sign.type, 1.0)
        pair = ir.Constant(ir.VectorType(sign.type, 2), [one, one])
        pair = builder.insert_element(pair, sign, ir.Constant(ir.IntType(32), 1))
        return shuffle(builder, pair, [0, 1] * (vector.lanes // 2))

    return vector(volume, sign, unit), generate


@intrinsic_function
def zero(typingctx, conjugate):
    """Return a value of zero like another."""
    demand(isinstance(conjugate, Vector), f"a vector is needed, got {conjugate}")

    def generate(context, builder, sig, args):
        return ir.Constant(args[0].type, None)

    return conjugate(conjugate), generate


@intrinsic_function
def read(typingctx, array, row, column, conjugate):
    """Return array[row, column] as a value, conjugated."""
    real = real_of(array, (2,))
    all_integers(row, column)
    demand(
        isinstance(conjugate, Vector) and conjugate.element == real,
        f"samples must be of the precision of the volume, got {array} and {conjugate}",
    )

    def generate(context, builder, sig, args):
        pointer = element_pointer(context, builder, sig.args[0], *args[:3])
        pair = ir.VectorType(args[3].type.element, 2)
        value = builder.load(builder.bitcast(pointer, pair.as_pointer()), align=real.bitwidth // 8)
        lanes = _data_lanes(conjugate.lanes)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        value = builder.shuffle_vector(value, ir.Constant(pair, None), mask)
        return builder.fmul(value, args[3], flags=CONTRACT)

    return conjugate(array, row, column, conjugate), generate


@intrinsic_function
def write(typingctx, array, row, column, conjugate, value):
    """Store the conjugated first channel of a value in array[row, column]."""
    real = real_of(array, (2,))
    all_integers(row, column)
    demand(
        value == conjugate and isinstance(value, Vector) and value.element == real,
        f"samples must be of the precision of the volume, got {array} and {value}",
    )

    def generate(context, builder, sig, args):
        pointer = element_pointer(context, builder, sig.args[0], *args[:3])
        value = shuffle(builder, builder.fmul(args[4], args[3], flags=CONTRACT), [0, 1])
        pointer = builder.bitcast(pointer, value.type.as_pointer())
        builder.store(value, pointer, align=real.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, row, column, conjugate, value), generate


@intrinsic_function
def scale(typingctx, array, row, column, value):
    """Return a value times the real array[row, column]."""
    demand(
        isinstance(array, types.Array)
        and array.ndim == 2
        and array.layout == "C"
        and isinstance(value, Vector)
        and array.dtype == value.element,
        f"contiguous weights of the precision of the volume are needed, got {array}",
    )
    all_integers(row, column)

    def generate(context, builder, sig, args):
        pointer = element_pointer(context, builder, sig.args[0], *args[:3])
        return builder.fmul(
            splat(builder, builder.load(pointer), value.lanes), args[3], flags=CONTRACT
        )

    return value(array, row, column, value), generate


@intrinsic_function
def subtract(typingctx, left, right):
    """Return left - right."""
    demand(isinstance(left, Vector) and left == right, f"{left} and {right} do not agree")

    def generate(context, builder, sig, args):
        return builder.fsub(*args, flags=CONTRACT)

    return left(left, right), generate


@intrinsic_function
def accumulate(typingctx, total, left, right):
    """Return total + left * right, lane by lane."""
    demand(isinstance(left, Vector) and left == right == total, "three vectors of one type needed")

    def generate(context, builder, sig, args):
        product = builder.fmul(args[1], args[2], flags=CONTRACT)
        return builder.fadd(args[0], product, flags=CONTRACT)

    return total(total, left, right), generate


@intrinsic_function
def channel_sums(typingctx, total):
    """Return re + im of both channels (0 for the second of one) as two float64."""
    demand(isinstance(total, Vector), f"a vector is needed, got {total}")

    def generate(context, builder, sig, args):
        double = ir.DoubleType()

        def wide(number):
            value = lane(builder, args[0], number)
            return value if value.type == double else builder.fpext(value, double)

        first = builder.fadd(wide(0), wide(1))
        second = builder.fadd(wide(2), wide(3)) if total.lanes == 8 else ir.Constant(double, 0.0)
        return context.make_tuple(builder, sig.return_type, [first, second])

    return types.UniTuple(types.float64, 2)(total), generate


@intrinsic_function
def prefetch(typingctx, array, row, column):
    """Ask for the cache line of array[row, column], which need not exist."""
    demand(
        isinstance(array, types.Array) and array.ndim == 2 and array.layout == "C",
        f"a contiguous array is needed, got {array}",
    )
    all_integers(row, column)

    def generate(context, builder, sig, args):
        pointer = element_pointer(context, builder, sig.args[0], *args)
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        # To be read, to be kept in all caches, data.
        options = [ir.Constant(number, value) for value in (0, 3, 1)]
        builder.call(function, [builder.bitcast(pointer, byte), *options])
        return context.get_dummy_value()

    return types.void(array, row, column), generate
