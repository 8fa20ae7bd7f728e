"""Formulas of one point, as plain functions: the equations stand here and nowhere else."""

import math

import numpy as np

from fastcryo.kernels._jit import register

# pi in two parts: the first has 33 bits, so that its product with a whole number below 2^20 is
# exact, and no digit of the angle is lost when the two are taken off one after the other.
PI_HIGH = 3.1415926534682512
PI_LOW = 1.2154201013012384e-10
# Adding and subtracting 1.5 * 2^52 rounds to the nearest whole number.
ROUND = 6755399441055744.0
SINE = tuple((-1) ** j / math.factorial(2 * j + 1) for j in range(1, 10))


def electron_wavelength(volts):
    """Relativistic electron wavelength in angstrom; `volts` a number or an array."""
    return 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))


@register
def sine(x):
    """Sine of |x| < 3e6 in float64, to 4e-16.

    math.sin is a call, 22 ns; sums and products become vectors, 1 ns. With n the whole number next
    to x / pi and r = x - n pi, |r| <= pi / 2, sin x = (-1)^n sin r, and the series of sin r up to
    r^19 is exact to 3e-16.
    """
    n = (x * (1 / math.pi) + ROUND) - ROUND
    r = (x - n * PI_HIGH) - n * PI_LOW
    s = r * r
    p = s * (SINE[6] + s * (SINE[7] + s * SINE[8]))
    p = s * (SINE[3] + s * (SINE[4] + s * (SINE[5] + p)))
    p = s * (SINE[0] + s * (SINE[1] + s * (SINE[2] + p)))
    odd = n - 2.0 * ((0.5 * n + ROUND) - ROUND)
    return (1.0 - 2.0 * odd * odd) * (r + r * p)


@register
def ctf_argument(coefficients, fx, fy):
    """Argument of the sine of the contrast transfer function at (fx, fy) in 1/angstrom.

    With q^2 = fx^2 + fy^2 and the defocus along the azimuth of (fx, fy),
    U(t) = (U1+U2)/2 + (U1-U2)/2 cos 2(t - t0):

        chi = pi lambda U(t) q^2 - (pi/2) Cs lambda^3 q^4 + phase shift
        C = sqrt(1-w^2) sin chi + w cos chi = sin(chi + asin w)

    and q^2 cos 2(t - t0) = (fx^2 - fy^2) cos 2 t0 + 2 fx fy sin 2 t0 needs no angle of (fx, fy).

    Parameters
    ----------
    coefficients : (7,) float64
        One row of `fastcryo.ctf.CTF.coefficients`.
    """
    xx = fx * fx
    yy = fy * fy
    q2 = xx + yy
    defocus = coefficients[0] * q2 + coefficients[1] * (xx - yy) + coefficients[2] * (2.0 * fx * fy)
    return defocus - coefficients[3] * q2 * q2 + coefficients[4]


@register
def ctf_without_envelope(coefficients, fx, fy):
    """Contrast transfer function with B = 0; see `ctf_argument`."""
    return coefficients[6] * sine(ctf_argument(coefficients, fx, fy))


@register
def envelope(coefficients, fx, fy):
    """exp(-B q^2/4), a product of its values at (fx, 0) and (0, fy); see `ctf_argument`."""
    return math.exp(-coefficients[5] * (fx * fx + fy * fy))


@register
def ctf_value(coefficients, fx, fy):
    """Contrast transfer function with its envelope; arguments as in `ctf_argument`."""
    value = ctf_without_envelope(coefficients, fx, fy)
    if coefficients[5] != 0.0:
        value *= envelope(coefficients, fx, fy)
    return value


@register
def scramble(x):
    """Mix the 32 bits of a number; every bit of the result depends on all of them.

    References
    ----------
    C. Wellons, "Prospecting for hash functions" (2018): lowbias32.
    """
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


@register
def random_sign(first_key, second_key, number):
    """Return -1 or 1, the same wherever it is computed, for two keys and a number below 2^32."""
    return 2 * (scramble(scramble(number ^ first_key) ^ second_key) & 1) - 1


@register
def probe_element(z, y, x, n, planes):
    """Return the number of an element of a half grid, the same for it and a mirror in its plane."""
    element = (z * n + y) * n + x
    if z == 0 or (n % 2 == 0 and z == planes - 1):
        mirror = (z * n + (2 * (n // 2) - y) % n) * n + (2 * (n // 2) - x) % n
        element = min(element, mirror)
    return element
