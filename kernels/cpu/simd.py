"""Reading and adding to the eight corners of a cell with vectors of four lanes.

LLVM does not vectorise the trilinear window by itself. The real and imaginary parts of the two
neighbours along x are four consecutive numbers, so each of the four rows of a cell is one vector
load, one fused multiply-add and, when adding, one store: 14 instead of 29 ns per sample of the
gradient at N = 64 (see docs/kernels.md). The vectors are plain LLVM vectors, which every target
lowers to what it has.

An intrinsic sees raw pointers. Types, layout and agreement of precisions are checked when a call is
compiled; bounds are the caller's promise.
"""

from llvmlite import ir
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

CONTRACT = ("contract",)
LANES = 4


def _check(volume, integers, reals):
    """Refuse at compile time whatever the generated code would misread."""
    if not (
        isinstance(volume, types.Array)
        and volume.ndim == 1
        and volume.layout == "C"
        and volume.dtype in (types.complex64, types.complex128)
    ):
        raise TypingError(f"a flat contiguous complex array is needed, got {volume}")
    if not all(isinstance(i, types.Integer) and i.bitwidth == 64 for i in integers):
        raise TypingError("indices must be 64-bit integers")
    real = volume.dtype.underlying_float
    if any(r != real for r in reals):
        raise TypingError(f"weights and values must be {real} like the volume, got {reals}")
    return real


def _vector(builder, scalars):
    """Build a vector from scalars."""
    vector = ir.Constant(ir.VectorType(scalars[0].type, LANES), ir.Undefined)
    for lane, scalar in enumerate(scalars):
        vector = builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), lane))
    return vector


def _row_weights(builder, fx, fy, fz):
    """Return the weights of the four rows (y, z), (y+1, z), (y, z+1), (y+1, z+1)."""
    one = ir.Constant(fx.type, 1.0)
    gx, gy, gz = (builder.fsub(one, f) for f in (fx, fy, fz))
    along_x = _vector(builder, [gx, gx, fx, fx])
    rows = [(gy, gz), (fy, gz), (gy, fz), (fy, fz)]
    products = [builder.fmul(y, z, flags=CONTRACT) for y, z in rows]
    return [builder.fmul(_vector(builder, [p] * LANES), along_x, flags=CONTRACT) for p in products]


def _row_pointers(context, builder, array_type, array, index, row, plane):
    """Return the addresses of the four rows, as pointers to vectors."""
    data = context.make_array(array_type)(context, builder, value=array).data
    real = context.get_value_type(array_type.dtype.underlying_float)
    pointer = ir.VectorType(real, LANES).as_pointer()
    above = builder.add(index, plane)
    starts = [index, builder.add(index, row), above, builder.add(above, row)]
    return [builder.bitcast(builder.gep(data, [s]), pointer) for s in starts]


def _alignment(array_type):
    return array_type.dtype.bitwidth // 16


@intrinsic
def gather_corners(typingctx, volume, index, row, plane, fx, fy, fz):
    """Interpolate: returns (re, im) of the cell at flat `index`.

    `row` and `plane` are the distances to the neighbours along y and z, (fx, fy, fz) the place in
    the cell.
    """
    real = _check(volume, (index, row, plane), (fx, fy, fz))
    signature = types.UniTuple(real, 2)(volume, index, row, plane, fx, fy, fz)

    def generate(context, builder, sig, args):
        array_type = sig.args[0]
        pointers = _row_pointers(context, builder, array_type, *args[:4])
        total = None
        for weight, pointer in zip(_row_weights(builder, *args[4:]), pointers, strict=True):
            value = builder.load(pointer, align=_alignment(array_type))
            term = builder.fmul(weight, value, flags=CONTRACT)
            total = term if total is None else builder.fadd(total, term, flags=CONTRACT)
        lanes = [
            builder.extract_element(total, ir.Constant(ir.IntType(32), i)) for i in range(LANES)
        ]
        parts = [builder.fadd(lanes[i], lanes[i + 2], flags=CONTRACT) for i in range(2)]
        return context.make_tuple(builder, sig.return_type, parts)

    return signature, generate


@intrinsic
def scatter_corners(typingctx, volume, index, row, plane, fx, fy, fz, re, im):
    """Add (re, im) to the corners of a cell with their weights, the transpose of the above."""
    _check(volume, (index, row, plane), (fx, fy, fz, re, im))
    signature = types.void(volume, index, row, plane, fx, fy, fz, re, im)

    def generate(context, builder, sig, args):
        array_type = sig.args[0]
        pointers = _row_pointers(context, builder, array_type, *args[:4])
        value = _vector(builder, [args[7], args[8], args[7], args[8]])
        align = _alignment(array_type)
        for weight, pointer in zip(_row_weights(builder, *args[4:7]), pointers, strict=True):
            former = builder.load(pointer, align=align)
            term = builder.fmul(weight, value, flags=CONTRACT)
            builder.store(builder.fadd(former, term, flags=CONTRACT), pointer, align=align)
        return context.get_dummy_value()

    return signature, generate
