"""Rows and blocks of arrays on their way into the bundles of `fastcryo.kernels.cpu.fft` and back.

Arrays of complex numbers are seen as flat real ones, the imaginary part after the real; places in
them are those of real numbers. Where lines lie beside each other a row of a bundle is one piece of
memory; where they lie one after another, blocks are transposed in registers.

Two real lines a and b are transformed as one complex line a + i b. With A and B their transforms,
of which half is kept, Z(k) = A(k) + i B(k) and Z(-k) = conj A(k) + i conj B(k).
"""

from llvmlite import ir
from numba.core import types

from fastcryo.kernels._jit import intrinsic_function
from fastcryo.kernels.cpu.fft import INTEGER, Arithmetic, Rows, flat_reals
from fastcryo.kernels.cpu.simd import all_integers, demand, splat


@intrinsic_function
def clear_row(typingctx, work, row):
    """Fill a row of a bundle with zeros."""
    flat_reals(work)
    all_integers(row)

    def generate(context, builder, sig, args):
        rows = Rows(context, builder, sig.args[0], args[0])
        rows.store_row([rows.constant(0.0)] * 2, args[1])
        return context.get_dummy_value()

    return types.void(work, row), generate


def _apart(builder, low, high):
    """Return the even and the odd numbers of two vectors."""
    lanes = low.type.count
    masks = [[ir.Constant(ir.IntType(32), 2 * i + part) for i in range(lanes)] for part in (0, 1)]
    return [
        builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(ir.IntType(32), lanes), mask))
        for mask in masks
    ]


def _merged(builder, re, im):
    """Return two vectors of which `_apart` makes these."""
    lanes = re.type.count
    number = ir.IntType(32)
    found = []
    for begin in (0, lanes // 2):
        mask = [i + part * lanes for i in range(begin, begin + lanes // 2) for part in (0, 1)]
        mask = ir.Constant(ir.VectorType(number, lanes), [ir.Constant(number, i) for i in mask])
        found.append(builder.shuffle_vector(re, im, mask))
    return found


@intrinsic_function
def read_row(typingctx, array, place, work, row, sign, added):
    """Copy numbers from `place` on to a row, imaginary parts times `sign`.

    `added`, a tuple of one number or none: add them to the row.
    """
    real = flat_reals(array, work)
    all_integers(place, row)
    demand(sign == real, f"the sign must be {real}, got {sign}")
    add = len(added) > 0

    def generate(context, builder, sig, args):
        array, place, work, row, sign, _ = args
        source = Rows(context, builder, sig.args[0], array)
        rows, do = Rows(context, builder, sig.args[2], work), Arithmetic(builder)
        re, im = _apart(builder, source.load(place), source.load(place, source.lanes))
        im = do.mul(im, splat(builder, sign, rows.lanes))
        if add:
            former = rows.load_row(row)
            re, im = do.add(former[0], re), do.add(former[1], im)
        rows.store_row((re, im), row)
        return context.get_dummy_value()

    return types.void(array, place, work, row, sign, added), generate


@intrinsic_function
def write_row(typingctx, work, row, array, place, sign, first, added):
    """Copy a row to `place`, imaginary parts times `sign`; or add its lanes from `first` on."""
    real = flat_reals(array, work)
    all_integers(place, row, first)
    demand(sign == real, f"the sign must be {real}, got {sign}")
    add = len(added) > 0

    def generate(context, builder, sig, args):
        work, row, array, place, sign, first, _ = args
        target = Rows(context, builder, sig.args[2], array)
        rows, do = Rows(context, builder, sig.args[0], work), Arithmetic(builder)
        re, im = rows.load_row(row)
        im = do.mul(im, splat(builder, sign, rows.lanes))
        if add:
            lanes = ir.Constant(ir.VectorType(INTEGER, rows.lanes), list(range(rows.lanes)))
            ours = builder.icmp_signed(">=", lanes, splat(builder, first, rows.lanes))
            re, im = (builder.select(ours, part, rows.constant(0.0)) for part in (re, im))
        for number, part in enumerate(_merged(builder, re, im)):
            more = number * rows.lanes
            if add:
                part = do.add(target.load(place, more), part)
            target.store(part, place, more)
        return context.get_dummy_value()

    return types.void(work, row, array, place, sign, first, added), generate


def _transposed(builder, vectors):
    """Transpose as many vectors of complex numbers as each has of them."""
    count = len(vectors)
    number = ir.IntType(32)
    distance = 1
    while distance < count:
        after = list(vectors)
        for i in range(count):
            if i & distance:
                continue
            for which in (0, 1):
                mask = []
                for unit in range(count):
                    other = bool(unit & distance)
                    if which == 0:
                        lane = unit - distance + count if other else unit
                    else:
                        lane = unit + count if other else unit + distance
                    mask += [ir.Constant(number, 2 * lane), ir.Constant(number, 2 * lane + 1)]
                mask = ir.Constant(ir.VectorType(number, 2 * count), mask)
                a, b = vectors[i], vectors[i + distance]
                after[i + which * distance] = builder.shuffle_vector(a, b, mask)
        vectors, distance = after, 2 * distance
    return vectors


@intrinsic_function
def read_block(typingctx, array, place, step, work, places, i):
    """Copy a few columns of an array, one line a row of it, to rows of a bundle.

    The line of a lane begins `step` after that of the one before; the columns, half as many as
    there are lanes, go to the rows places[i], places[i + 1], ...
    """
    flat_reals(array, work)
    all_integers(place, step, i)
    demand(places == types.Array(types.int64, 1, "C"), f"places must be int64, got {places}")

    def generate(context, builder, sig, args):
        array, place, step, work, places, i = args
        source = Rows(context, builder, sig.args[0], array)
        rows = Rows(context, builder, sig.args[3], work)
        lines = []
        for _ in range(rows.lanes):
            lines.append(source.load(place))
            place = builder.add(place, step)
        half = rows.lanes // 2
        low, high = (_transposed(builder, lines[n : n + half]) for n in (0, half))
        data = context.make_array(sig.args[4])(context, builder, value=places).data
        for c in range(half):
            at = builder.add(i, ir.Constant(INTEGER, c))
            row = builder.load(builder.gep(data, [at]))
            rows.store_row(_apart(builder, low[c], high[c]), row)
        return context.get_dummy_value()

    return types.void(array, place, step, work, places, i), generate


@intrinsic_function
def write_block(typingctx, work, places, i, array, place, step, conjugate):
    """Copy rows of a bundle to columns of an array, the inverse of `read_block`.

    `conjugate`, a tuple of one number or none: write the conjugate.
    """
    flat_reals(array, work)
    all_integers(place, step, i)
    demand(places == types.Array(types.int64, 1, "C"), f"places must be int64, got {places}")

    mirror = len(conjugate) > 0

    def generate(context, builder, sig, args):
        work, places, i, array, place, step, _ = args
        target = Rows(context, builder, sig.args[3], array)
        rows, do = Rows(context, builder, sig.args[0], work), Arithmetic(builder)
        half = rows.lanes // 2
        data = context.make_array(sig.args[1])(context, builder, value=places).data
        low, high = [], []
        for c in range(half):
            at = builder.add(i, ir.Constant(INTEGER, c))
            row = builder.load(builder.gep(data, [at]))
            re, im = rows.load_row(row)
            if mirror:
                im = do.sub(rows.constant(0.0), im)
            a, b = _merged(builder, re, im)
            low.append(a)
            high.append(b)
        for line in [*_transposed(builder, low), *_transposed(builder, high)]:
            target.store(line, place)
            place = builder.add(place, step)
        return context.get_dummy_value()

    return types.void(work, places, i, array, place, step, conjugate), generate


@intrinsic_function
def pack_row(typingctx, array, place, other, work, row, mirrored):
    """Pack conj(a + i b) and its mirror, a and b the half transforms of two real lines.

    a and b are read from `place` and `other`; what belongs to frequency k goes to the row `row`,
    that of -k to `mirrored`.
    """
    flat_reals(array, work)
    all_integers(place, other, row, mirrored)

    def generate(context, builder, sig, args):
        array, place, other, work, row, mirrored = args
        source = Rows(context, builder, sig.args[0], array)
        rows, do = Rows(context, builder, sig.args[3], work), Arithmetic(builder)
        a, b = (
            _apart(builder, source.load(at), source.load(at, rows.lanes)) for at in (place, other)
        )
        zero = rows.constant(0.0)
        minus = do.sub(zero, do.add(a[1], b[0]))
        rows.store_row((do.sub(a[0], b[1]), minus), row)
        rows.store_row((do.add(a[0], b[1]), do.sub(a[1], b[0])), mirrored)
        return context.get_dummy_value()

    return types.void(array, place, other, work, row, mirrored), generate


@intrinsic_function
def pack_real(typingctx, array, place, other, work, row, factor):
    """Do as `pack_row` where k is its own mirror: real parts alone, times a factor."""
    real = flat_reals(array, work)
    all_integers(place, other, row)
    demand(factor == real, f"the factor must be {real}, got {factor}")

    def generate(context, builder, sig, args):
        array, place, other, work, row, factor = args
        source = Rows(context, builder, sig.args[0], array)
        rows, do = Rows(context, builder, sig.args[3], work), Arithmetic(builder)
        a, b = (
            _apart(builder, source.load(at), source.load(at, rows.lanes))[0]
            for at in (place, other)
        )
        factor = splat(builder, factor, rows.lanes)
        minus = do.sub(rows.constant(0.0), do.mul(b, factor))
        rows.store_row((do.mul(a, factor), minus), row)
        return context.get_dummy_value()

    return types.void(array, place, other, work, row, factor), generate


@intrinsic_function
def weigh_row(typingctx, work, row, out, to, weights, place, factor):
    """Copy the conjugate of a row times weights, of the first line and then of the second."""
    real = flat_reals(work, out, weights)
    all_integers(row, to, place)
    demand(factor == real, f"the factor must be {real}, got {factor}")

    def generate(context, builder, sig, args):
        work, row, out, to, weights, place, factor = args
        rows, do = Rows(context, builder, sig.args[0], work), Arithmetic(builder)
        table = Rows(context, builder, sig.args[4], weights)
        factor = splat(builder, factor, rows.lanes)
        first = do.mul(table.load(place), factor)
        minus = do.sub(rows.constant(0.0), do.mul(table.load(place, rows.lanes), factor))
        re, im = rows.load_row(row)
        target = Rows(context, builder, sig.args[2], out)
        target.store_row((do.mul(re, first), do.mul(im, minus)), to)
        return context.get_dummy_value()

    return types.void(work, row, out, to, weights, place, factor), generate


@intrinsic_function
def read_halved(typingctx, array, place, work, row):
    """Copy half of the numbers from `place` on to a row, two bundles of real lines.

    Those of the second bundle become imaginary parts. `unpack_row` makes twice what it reads.
    """
    flat_reals(array, work)
    all_integers(place, row)

    def generate(context, builder, sig, args):
        array, place, work, row = args
        source = Rows(context, builder, sig.args[0], array)
        rows, do = Rows(context, builder, sig.args[2], work), Arithmetic(builder)
        half = rows.constant(0.5)
        parts = [do.mul(source.load(place, more), half) for more in (0, rows.lanes)]
        rows.store_row(parts, row)
        return context.get_dummy_value()

    return types.void(array, place, work, row), generate


@intrinsic_function
def unpack_row(typingctx, work, row, mirrored, array, place, other):
    """Write twice the half transforms of two real lines, from rows k and -k of a + i b."""
    flat_reals(array, work)
    all_integers(place, other, row, mirrored)

    def generate(context, builder, sig, args):
        work, row, mirrored, array, place, other = args
        target = Rows(context, builder, sig.args[3], array)
        rows, do = Rows(context, builder, sig.args[0], work), Arithmetic(builder)
        (a, b), (c, d) = rows.load_row(row), rows.load_row(mirrored)
        first = do.add(a, c), do.sub(b, d)
        second = do.add(b, d), do.sub(c, a)
        for at, pair in ((place, first), (other, second)):
            for number, part in enumerate(_merged(builder, *pair)):
                target.store(part, at, number * rows.lanes)
        return context.get_dummy_value()

    return types.void(work, row, mirrored, array, place, other), generate
