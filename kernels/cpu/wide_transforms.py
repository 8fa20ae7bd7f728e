"""From a half grid to the extended half volume and back, in three passes over memory.

Along the way from V to E (`fastcryo.kernels.wide`):

1. ``planes_of``: every plane kz of V is transformed to x and y;
2. ``along_z``: every line is transformed to z, weighed, padded with zeros and transformed to the kz
   of the finer grid: real space is there for a moment, a bundle of lines at a time;
3. ``spread``: every plane is transformed to the kx and ky that windows can reach, and to its place.

The transpose is `gather`, `along_z` and `half_of`. Between passes there are *planes*, one array
(nz, size), the imaginary part after the real: line (x, y) of a plane at 2 (x N + y), both from 0 in
the order of numpy.fft, then zeros to a whole pair of bundles. Real lines are transformed two at a
time, as the real and the imaginary part of one.

Bundles are those of `fastcryo.kernels.cpu.fft`.
"""

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register
from fastcryo.kernels.cpu.bundles import (
    clear_row,
    pack_real,
    pack_row,
    read_row,
    unpack_row,
    weigh_row,
    write_row,
)
from fastcryo.kernels.cpu.fft import VECTOR_BYTES, transform
from fastcryo.kernels.cpu.lines import bundles, line_aligned, read_lines, start_of, write_lines
from fastcryo.kernels.cpu.tickets import take


@register
def clear_rows(work, first, stop):
    """Fill rows of a bundle with zeros."""
    for row in range(first, stop):
        clear_row(work, row)


@parallel
def planes_of(half, planes, box, size, lengths, inputs, threads):
    """Transform the planes of a half grid to x and y, without 1 / N^2.

    Parameters
    ----------
    half : flat real
        V, its planes (N, N) with the origin at N // 2.
    planes : flat real, modified in place
    box, size : int
        N, and the numbers of a plane.
    lengths : Lengths of N
    inputs : (N,) int64
        Where the elements of a centred axis go to.
    threads : int
    """
    bundle = VECTOR_BYTES // half.itemsize
    one = lengths.twiddles.dtype.type(1)
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        work = line_aligned(2 * bundle * box, half)
        plane = line_aligned(2 * box * box, half)
        kz = take(counter)
        while kz < box // 2 + 1:
            source = 2 * kz * box * box
            for number in range(bundles(box, bundle)):
                kx = start_of(number, box, bundle)
                for i in range(box):
                    read_row(half, source + 2 * (i * box + kx), work, inputs[i], -one, ())
                transform(work, lengths)
                for y in range(box):
                    write_row(work, lengths.order[y], plane, 2 * (y * box + kx), one, 0, ())
            for number in range(bundles(box, bundle)):
                y = start_of(number, box, bundle)
                read_lines(plane, 2 * y * box, 2 * box, box, work, inputs)
                transform(work, lengths)
                for x in range(box):
                    target = kz * size + 2 * (x * box + y)
                    write_row(work, lengths.order[x], planes, target, -one, 0, ())
            planes[kz * size + 2 * box * box : (kz + 1) * size] = 0
            kz = take(counter)


@parallel
def half_of(planes, half, box, size, lengths, outputs, fresh, threads):
    """Transform planes to kx and ky, the transpose of `planes_of`.

    Parameters
    ----------
    planes, box, size, lengths, threads
        As there.
    half : flat real, modified in place
    outputs : (N,) int64
        Where the elements of a centred axis are after a transform.
    fresh : bool
        Overwrite the half grid, else add to it.
    """
    bundle = VECTOR_BYTES // half.itemsize
    one = lengths.twiddles.dtype.type(1)
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        work = line_aligned(2 * bundle * box, half)
        plane = line_aligned(2 * box * box, half)
        kz = take(counter)
        while kz < box // 2 + 1:
            for number in range(bundles(box, bundle)):
                y = start_of(number, box, bundle)
                for x in range(box):
                    read_row(planes, kz * size + 2 * (x * box + y), work, x, one, ())
                transform(work, lengths)
                write_lines(work, outputs, plane, 2 * y * box, 2 * box, box, ())
            target = 2 * kz * box * box
            for number in range(bundles(box, bundle)):
                kx = start_of(number, box, bundle)
                first = number * bundle - kx
                for y in range(box):
                    read_row(plane, 2 * (y * box + kx), work, y, one, ())
                transform(work, lengths)
                for i in range(box):
                    place = target + 2 * (i * box + kx)
                    if fresh:
                        write_row(work, outputs[i], half, place, one, 0, ())
                    else:
                        write_row(work, outputs[i], half, place, one, first, (0,))
            kz = take(counter)


@parallel
def along_z(planes, size, count, before, after, rows, weights, factors, edge, threads):
    """Transform lines to z, weigh them, and transform them to another number of planes.

    Parameters
    ----------
    planes : flat real, modified in place
    size, count : int
        Numbers of a plane; planes that are not zero.
    before, after : Lengths
    rows : (m, 2) int64
        Where the values that are kept are in both bundles, by z in the order of numpy.fft.
    weights : flat real
        By line, or by z and line.
    factors : (m,)
        By z.
    edge : float
        How often planes count that are their own mirrors; others count twice.
    threads : int
    """
    bundle = VECTOR_BYTES // planes.itemsize
    there, here, kept = before.order.size, after.order.size, rows.shape[0]
    by_z = 0 if weights.size < size else size // 2
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        work = line_aligned(2 * bundle * there, planes)
        padded = line_aligned(2 * bundle * here, planes)
        number = take(counter)
        while number < size // (4 * bundle):
            first, second = 4 * bundle * number, 4 * bundle * number + 2 * bundle
            for kz in range(there // 2 + 1):
                place, mirrored = kz * size, (there - kz) % there
                if kz >= count:
                    clear_row(work, kz)
                    clear_row(work, mirrored)
                elif mirrored == kz:
                    pack_real(planes, place + first, place + second, work, kz, edge)
                else:
                    pack_row(planes, place + first, place + second, work, kz, mirrored)
            transform(work, before)
            clear_rows(padded, (kept + 1) // 2, here - kept // 2)
            for z in range(kept):
                place = z * by_z + first // 2
                weigh_row(work, rows[z, 0], padded, rows[z, 1], weights, place, factors[z])
            transform(padded, after)
            for kz in range(here // 2 + 1):
                row, mirrored = after.order[kz], after.order[(here - kz) % here]
                unpack_row(padded, row, mirrored, planes, kz * size + first, kz * size + second)
            number = take(counter)


@register
def reach_of(widths, z, centre, first, stop):
    """Return the largest |y| of the rows of a plane of E with a cell first <= x < stop; -1: none.

    `centre` is the element of the frequency 0.
    """
    nearest = max(max(first - centre, centre - (stop - 1)), 0)
    # No axis is longer before its origin than after it.
    reach = widths.shape[1] - 1 - centre
    while reach >= 0 and widths[z, centre + reach] < nearest:
        reach -= 1
    return reach


@register
def span_of(reach, centre, columns, bundle):
    """Return the elements |k| <= reach of an axis of E, a bundle of them at least."""
    first, stop = max(centre - reach, 0), min(centre + reach + 1, columns)
    if stop - first < bundle:
        first = max(min(first, columns - bundle), 0)
        stop = first + bundle
    return first, stop


@parallel
def spread(planes, extended, box, size, lengths, inputs, elements, widths, centre, low, threads):
    """Transform planes to E.

    Parameters
    ----------
    planes : flat real
    extended : flat real, modified in place
        E.
    box, size : int
        N, and the numbers of a plane.
    lengths : Lengths of M
    inputs : (N,) int64
        Where the elements of an axis in the order of numpy.fft go to.
    elements : (2 B + W,) int64
        Where the elements of an axis of E are after a transform.
    widths : (B + W, 2 B + W) int64
    centre, low : int
        The elements of frequency 0 along x and y, and along z.
    threads : int
    """
    bundle = VECTOR_BYTES // planes.itemsize
    fine, columns = lengths.order.size, widths.shape[1]
    one = lengths.twiddles.dtype.type(1)
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        work = line_aligned(2 * bundle * fine, planes)
        plane = line_aligned(2 * columns * box, planes)
        z = take(counter)
        while z < widths.shape[0]:
            reach = reach_of(widths, z, centre, 0, columns)
            # Planes z < 0 and those beyond M / 2 are conjugate.
            kz, sign = abs(z - low), one if z >= low else -one
            if 2 * kz > fine:
                kz, sign = fine - kz, -one
            begin, end = span_of(reach, centre, columns, bundle)
            for number in range(bundles(box, bundle) if reach >= 0 else 0):
                y = start_of(number, box, bundle)
                clear_rows(work, (box + 1) // 2, fine - box // 2)
                for x in range(box):
                    place = kz * size + 2 * (x * box + y)
                    read_row(planes, place, work, inputs[x], sign, ())
                transform(work, lengths)
                for e in range(begin, end):
                    write_row(work, elements[e], plane, 2 * (e * box + y), one, 0, ())
            for number in range(bundles(end - begin, bundle) if reach >= 0 else 0):
                e = begin + start_of(number, end - begin, bundle)
                reach = reach_of(widths, z, centre, e, e + bundle)
                clear_rows(work, (box + 1) // 2, fine - box // 2)
                read_lines(plane, 2 * e * box, 2 * box, box, work, inputs)
                transform(work, lengths)
                for r in range(max(centre - reach, 0), min(centre + reach + 1, columns)):
                    target = 2 * ((z * columns + r) * columns + e)
                    write_row(work, elements[r], extended, target, one, 0, ())
            z = take(counter)


@parallel
def gather(extended, planes, box, size, lengths, wrapped, outputs, widths, centre, low, threads):
    """Transform E to planes, the transpose of `spread`: E is 0 beyond its widths.

    Parameters
    ----------
    extended, planes, box, size, lengths, widths, centre, low, threads
        As there; planes are modified in place.
    wrapped : (2 B + W,) int64
        Where the elements of an axis of E go to.
    outputs : (N,) int64
        Where the elements of an axis in the order of numpy.fft are after a transform.
    """
    bundle = VECTOR_BYTES // planes.itemsize
    fine, columns = lengths.order.size, widths.shape[1]
    one = lengths.twiddles.dtype.type(1)
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        work = line_aligned(2 * bundle * fine, planes)
        plane = line_aligned(2 * columns * box, planes)
        kz = take(counter)
        while kz < fine // 2 + 1:
            fresh = True
            for copy in range(3):
                z, sign = low + kz, -one
                if copy == 1:
                    z, sign = low - kz, one
                elif copy == 2:
                    z, sign = low + fine - kz, one
                known = 0 <= z < widths.shape[0] and (
                    copy == 0 or (kz > 0 and (copy == 1 or 2 * kz < fine))
                )
                reach = reach_of(widths, z, centre, 0, columns) if known else -1
                if reach < 0:
                    continue
                begin, end = span_of(reach, centre, columns, bundle)
                for number in range(bundles(end - begin, bundle)):
                    e = begin + start_of(number, end - begin, bundle)
                    reach = reach_of(widths, z, centre, e, e + bundle)
                    clear_rows(work, 0, fine)
                    for r in range(max(centre - reach, 0), min(centre + reach + 1, columns)):
                        place = 2 * ((z * columns + r) * columns + e)
                        read_row(extended, place, work, wrapped[r], -one, (0,))
                    transform(work, lengths)
                    write_lines(work, outputs, plane, 2 * e * box, 2 * box, box, ())
                for number in range(bundles(box, bundle)):
                    y = start_of(number, box, bundle)
                    first = number * bundle - y
                    clear_rows(work, 0, fine)
                    for e in range(begin, end):
                        read_row(plane, 2 * (e * box + y), work, wrapped[e], one, (0,))
                    transform(work, lengths)
                    for x in range(box):
                        place = kz * size + 2 * (x * box + y)
                        if fresh:
                            write_row(work, outputs[x], planes, place, sign, 0, ())
                        else:
                            write_row(work, outputs[x], planes, place, sign, first, (0,))
                fresh = False
            planes[kz * size + (0 if fresh else 2 * box * box) : (kz + 1) * size] = 0
            kz = take(counter)
