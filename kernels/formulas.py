"""Formulas of one point, as plain functions: the equations stand here and nowhere else."""

import math

import numpy as np

from fastcryo.kernels._jit import register


def electron_wavelength(volts):
    """Relativistic electron wavelength in angstrom; `volts` a number or an array."""
    return 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))


@register
def ctf_value(coefficients, fx, fy):
    """Contrast transfer function at the frequency (fx, fy) in 1/angstrom.

    With q^2 = fx^2 + fy^2 and the defocus along the azimuth of (fx, fy),
    U(t) = (U1+U2)/2 + (U1-U2)/2 cos 2(t - t0):

        chi = pi lambda U(t) q^2 - (pi/2) Cs lambda^3 q^4 + phase shift
        C = (sqrt(1-w^2) sin chi + w cos chi) exp(-B q^2/4) = sin(chi + asin w) exp(-B q^2/4)

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
    value = coefficients[6] * math.sin(defocus - coefficients[3] * q2 * q2 + coefficients[4])
    if coefficients[5] != 0.0:
        value *= math.exp(-coefficients[5] * q2)
    return value
