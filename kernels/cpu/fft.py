"""Fourier transforms of many lines at once, one line a lane.

A *bundle* is as many lines as a vector of 64 bytes has lanes: 16 in single, 8 in double precision.
Its buffer ``work`` holds, element by element, the real parts of all lines and then the imaginary
ones. So a transform is adding and multiplying whole vectors, which stay in the first cache, and no
lane is moved. It is in place, by decimation in frequency (Gentleman & Sande, 1966): elements go in
in their order and come out in that of `Lengths.order`. Both are places of whole rows, so that
shifts, zero-padding and pruning cost nothing: rows are read and written where they belong.

On data in the cache that is four times as fast as scipy's transforms (85 instead of 20 GFlop/s of
5 n log2 n, single precision, lengths 128 to 384), and the copies around those, each a call that
waits for Python's lock, took as long again.
"""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import DTypeLike, NDArray

from fastcryo.kernels._jit import intrinsic_function, register
from fastcryo.kernels.cpu.simd import CONTRACT, all_integers, demand, splat

INTEGER = ir.IntType(64)
VECTOR_BYTES = 64
RADICES = (4, 2, 3, 5, 7, 11)


class Lengths(NamedTuple):
    """What a transform of one length needs.

    Attributes
    ----------
    radices : (s,) int64
        Their product is the length n.
    twiddles : (t,) float
        cos and sin of 2 pi j q / L by stage, j and q; see `transform`.
    order : (n,) int64
        The row of the frequency k after the transform.
    """

    radices: NDArray[np.int64]
    twiddles: NDArray
    order: NDArray[np.int64]


def lanes_of(dtype: DTypeLike) -> int:
    """Return the lines of a bundle, of real numbers of that type."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def radices_of(length: int) -> list[int] | None:
    """Return the factors of a length, None if there are others than `RADICES`."""
    found = []
    for radix in RADICES:
        while length % radix == 0:
            found.append(radix)
            length //= radix
    return found if length == 1 else None


def lengths_of(length: int, dtype: DTypeLike) -> Lengths:
    """Make the tables of one length."""
    radices = radices_of(length)
    twiddles, block = [np.zeros(0)], length
    order, rest = np.zeros(length, np.int64), np.arange(length)
    for radix in radices:
        angle = 2 * np.pi / block * np.outer(np.arange(block // radix), np.arange(1, radix))
        twiddles.append(np.stack([np.cos(angle), np.sin(angle)], axis=-1).ravel())
        # Frequencies k = q mod radix come from the leg q, and are k // radix in its block.
        block //= radix
        order += rest % radix * block
        rest //= radix
    return Lengths(np.array(radices, np.int64), np.concatenate(twiddles).astype(dtype), order)


def flat_reals(*arrays):
    """Return the type of the numbers of flat real arrays."""
    real = arrays[0].dtype
    demand(real in (types.float32, types.float64), f"real numbers are needed, got {real}")
    flat = types.Array(real, 1, "C")
    demand(all(array == flat for array in arrays), f"flat arrays of {real} needed, got {arrays}")
    return real


def _lanes(real):
    return VECTOR_BYTES * 8 // real.bitwidth


class Rows:
    """Loads and stores of vectors at places of a flat array."""

    def __init__(self, context, builder, array_type, array):
        self.builder = builder
        self.data = context.make_array(array_type)(context, builder, value=array).data
        self.align = array_type.dtype.bitwidth // 8
        self.lanes = _lanes(array_type.dtype)
        self.vector = ir.VectorType(context.get_value_type(array_type.dtype), self.lanes)

    def _pointer(self, place, more):
        place = self.builder.add(place, ir.Constant(INTEGER, more))
        start = self.builder.gep(self.data, [place])
        return self.builder.bitcast(start, self.vector.as_pointer())

    def load(self, place, more=0):
        """Return the vector at a place."""
        return self.builder.load(self._pointer(place, more), align=self.align)

    def store(self, vector, place, more=0):
        """Write a vector to a place."""
        self.builder.store(vector, self._pointer(place, more), align=self.align)

    def row(self, number):
        """Return the place of a row of a bundle."""
        return self.builder.mul(number, ir.Constant(INTEGER, 2 * self.lanes))

    def load_row(self, number):
        """Return the real and the imaginary parts of a row."""
        place = self.row(number)
        return self.load(place), self.load(place, self.lanes)

    def store_row(self, pair, number):
        """Write real and imaginary parts to a row."""
        place = self.row(number)
        self.store(pair[0], place)
        self.store(pair[1], place, self.lanes)

    def constant(self, number):
        """Return a number in every lane."""
        return ir.Constant(self.vector, [number] * self.lanes)


class Arithmetic:
    """Sums and products that may be contracted."""

    def __init__(self, builder):
        self.builder = builder

    def add(self, a, b):
        """Return a + b."""
        return self.builder.fadd(a, b, flags=CONTRACT)

    def sub(self, a, b):
        """Return a - b."""
        return self.builder.fsub(a, b, flags=CONTRACT)

    def mul(self, a, b):
        """Return a b."""
        return self.builder.fmul(a, b, flags=CONTRACT)


def _even_transform(do, legs):
    """Return the transform of two or four complex numbers."""
    if len(legs) == 2:
        (a, b), (c, d) = legs
        return [(do.add(a, c), do.add(b, d)), (do.sub(a, c), do.sub(b, d))]
    (s, t), (u, v) = (_even_transform(do, legs[i::2]) for i in range(2))
    last = [(do.add(t[0], v[1]), do.sub(t[1], v[0])), (do.sub(t[0], v[1]), do.add(t[1], v[0]))]
    first, third = _even_transform(do, [s, u])
    return [first, last[0], third, last[1]]


def _odd_transform(do, legs, constant):
    """Return the transform of an odd number of complex numbers."""
    count = len(legs)
    half = range(1, count // 2 + 1)
    sums = {k: _even_transform(do, [legs[k], legs[count - k]]) for k in half}
    out = [legs[0]] * count
    for k in half:
        out[0] = tuple(do.add(a, b) for a, b in zip(out[0], sums[k][0], strict=True))
    for q in half:
        even, odd = legs[0], None
        for k in half:
            angle = 2 * math.pi * (q * k % count) / count
            c, s = constant(math.cos(angle)), constant(math.sin(angle))
            even = tuple(do.add(e, do.mul(c, a)) for e, a in zip(even, sums[k][0], strict=True))
            terms = tuple(do.mul(s, a) for a in sums[k][1])
            odd = terms if odd is None else tuple(map(do.add, odd, terms))
        out[q] = do.add(even[0], odd[1]), do.sub(even[1], odd[0])
        out[count - q] = do.sub(even[0], odd[1]), do.add(even[1], odd[0])
    return out


@intrinsic_function
def butterfly(typingctx, work, first, step, twiddles, at, legs, turned):
    """Transform the rows first, first + step, ... of a bundle, one for each of `legs`.

    `turned`, a tuple of one number or none: multiply them by the twiddles from `at` on.
    """
    real = flat_reals(work, twiddles)
    all_integers(first, step, at)
    count, with_twiddles = len(legs), len(turned) > 0

    def generate(context, builder, sig, args):
        work, first, step, twiddles, at, _, _ = args
        rows, do = Rows(context, builder, sig.args[0], work), Arithmetic(builder)
        numbers = [first]
        for _ in range(count - 1):
            numbers.append(builder.add(numbers[-1], step))
        values = [rows.load_row(number) for number in numbers]
        if count % 2:
            values = _odd_transform(do, values, rows.constant)
        else:
            values = _even_transform(do, values)
        if with_twiddles:
            data = context.make_array(sig.args[3])(context, builder, value=twiddles).data

            def factor(number):
                place = builder.add(at, ir.Constant(INTEGER, number))
                return splat(builder, builder.load(builder.gep(data, [place])), _lanes(real))

            for leg in range(1, count):
                c, s = factor(2 * leg - 2), factor(2 * leg - 1)
                a, b = values[leg]
                a, b = do.add(do.mul(a, c), do.mul(b, s)), do.sub(do.mul(b, c), do.mul(a, s))
                values[leg] = a, b
        for number, pair in zip(numbers, values, strict=True):
            rows.store_row(pair, number)
        return context.get_dummy_value()

    return types.void(work, first, step, twiddles, at, legs, turned), generate


@register
def stage(work, length, left, twiddles, at, legs):
    """Do one stage of `transform`, in blocks of `left` elements."""
    radix = len(legs)
    step = left // radix
    for block in range(0, length, left):
        butterfly(work, block, step, twiddles, at, legs, ())
    for j in range(1, step):
        place = at + 2 * (radix - 1) * j
        for block in range(0, length, left):
            butterfly(work, block + j, step, twiddles, place, legs, (0,))


@register
def transform(work, lengths):
    """Transform a bundle, sum_j x[j] e^(-2 pi i j k / n), in place."""
    length = lengths.order.size
    left, at = length, 0
    for radix in lengths.radices:
        if radix == 4:
            stage(work, length, left, lengths.twiddles, at, (0, 0, 0, 0))
        elif radix == 2:
            stage(work, length, left, lengths.twiddles, at, (0, 0))
        elif radix == 3:
            stage(work, length, left, lengths.twiddles, at, (0, 0, 0))
        elif radix == 5:
            stage(work, length, left, lengths.twiddles, at, (0, 0, 0, 0, 0))
        elif radix == 7:
            stage(work, length, left, lengths.twiddles, at, (0, 0, 0, 0, 0, 0, 0))
        else:
            stage(work, length, left, lengths.twiddles, at, (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        at += 2 * (radix - 1) * (left // radix)
        left //= radix
