"""The windows on a graphics card: W weights along each axis, however wide.

A window is its width ``taps``, the ``offset`` that is added to positions before their cell is
taken, and ``weigh(kernel, q, unit, weights, first, s)``, which writes the W weights of a position
along one axis to ``weights[first : first + W, s]``.
"""

from types import SimpleNamespace

from fastcryo.kernels._jit import register
from fastcryo.kernels.cpu.wide_rows import EXTRA_DEGREE
from fastcryo.kernels.cpu.windows import fraction
from fastcryo.kernels.layout import HALF
from fastcryo.kernels.wide import window_offset


@register
def weigh_nearest(kernel, q, unit, weights, first, s):
    """Take the cell alone."""
    weights[first, s] = type(unit)(1)


@register
def weigh_trilinear(kernel, q, unit, weights, first, s):
    """Interpolate between two cells."""
    f = fraction(q, unit)
    weights[first, s] = type(unit)(1) - f
    weights[first + 1, s] = f


def wide_window(width):
    """Return the window of W cells whose weights are polynomials, by Horner's rule in registers.

    The coefficients, ``kernel`` of `fastcryo.kernels.cpu.wide_rows.fit_kernel`, are the same for
    all threads: one load serves a warp.
    """

    @register
    def weigh(kernel, q, unit, weights, first, s):
        u = fraction(q, unit) - type(unit)(0.5)
        for tap in range(width):
            total = kernel[width + EXTRA_DEGREE, tap]
            for power in range(width + EXTRA_DEGREE - 1, -1, -1):
                total = total * u + kernel[power, tap]
            weights[first + tap, s] = total

    return SimpleNamespace(taps=width, offset=window_offset(width), weigh=weigh)


NEAREST = SimpleNamespace(taps=1, offset=HALF, weigh=weigh_nearest)
TRILINEAR = SimpleNamespace(taps=2, offset=0, weigh=weigh_trilinear)
