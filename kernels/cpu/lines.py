"""Lines of an array by the bundle: which ones, and the way there and back where they are its rows.

Where lines are no multiple of a bundle, the last one begins earlier: some lines are then done
twice, with the same result.
"""

import numpy as np

from fastcryo.kernels._jit import register, register_allocating
from fastcryo.kernels.cpu.bundles import read_block, write_block
from fastcryo.kernels.cpu.fft import VECTOR_BYTES


@register
def start_of(number, lines, bundle):
    """Return the first line of a bundle."""
    return min(number * bundle, lines - bundle)


@register
def bundles(lines, bundle):
    """Return how many bundles there are."""
    return (lines + bundle - 1) // bundle


@register
def read_lines(array, place, step, count, work, rows):
    """Copy lines that are rows of an array to a bundle, element c to the row rows[c]."""
    bundle = VECTOR_BYTES // work.itemsize
    for number in range(bundles(count, bundle // 2)):
        c = start_of(number, count, bundle // 2)
        read_block(array, place + 2 * c, step, work, rows, c)


@register
def write_lines(work, rows, array, place, step, count, conjugate):
    """Copy a bundle to lines that are rows of an array, element c from the row rows[c].

    `conjugate`: as in `fastcryo.kernels.cpu.bundles.write_block`.
    """
    bundle = VECTOR_BYTES // work.itemsize
    for number in range(bundles(count, bundle // 2)):
        c = start_of(number, count, bundle // 2)
        write_block(work, rows, c, array, place + 2 * c, step, conjugate)


@register_allocating
def line_aligned(size, like):
    """Return an empty flat array that begins with a line of the cache, of the type of another.

    Vectors that lie across two lines make transforms of bundles take up to 1.4 times as long.
    """
    room = np.empty(size + VECTOR_BYTES // like.itemsize, like.dtype)
    begin = (-room.ctypes.data % VECTOR_BYTES) // like.itemsize
    return room[begin : begin + size]
