"""From transformed images to what the objective needs: C^2 / sigma^2 and C y / sigma^2."""

import math

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register, serial
from fastcryo.kernels.formulas import ctf_value


@register
def fill_phases(phases, first, turn):
    """Write exp(2 pi i turn f), f = first, first + 1, ..., into a complex array."""
    for j in range(phases.size):
        angle = 2.0 * math.pi * turn * (first + j)
        phases[j] = complex(math.cos(angle), math.sin(angle))


@parallel
def prepare_images(transforms, shifts, rows, ctf, length, inverse_variance, data, energies):
    """Pack the transforms of m images: centre, undo the shift, multiply by C / sigma^2.

    Parameters
    ----------
    transforms : (m, M, M // 2 + 1) complex
        rfft2 of the images as they are, M at least as large as the grid's box.
    shifts : (m, 2) float64
        (sx, sy) in pixels of these images.
    rows : (2 R + 1, 3) int64
        The packed samples.
    ctf : (m, 7) or (0, 7) float64
        Coefficients of the CTFs; no rows: C = 1.
    length : float
        Side of the box, angstrom.
    inverse_variance : (samples,) float64
        1 / sigma^2 of every sample, halved at the origin.
    data : (m, samples) complex, modified in place
        C y / sigma^2.
    energies : (m,) float64, modified in place
        Sum of |y|^2 / sigma^2 over the half disc.
    """
    radius = (rows.shape[0] - 1) // 2
    side = transforms.shape[1]
    centre = float(side // 2)
    for i in prange(transforms.shape[0]):
        px = np.empty(radius + 1, np.complex128)
        py = np.empty(2 * radius + 1, np.complex128)
        fill_phases(px, 0, (centre - shifts[i, 0]) / side)
        fill_phases(py, -radius, (centre - shifts[i, 1]) / side)
        energy = 0.0
        for k in range(-radius, radius + 1):
            start = rows[k + radius, 0]
            for h in range(rows[k + radius, 1], rows[k + radius, 2]):
                y = transforms[i, k % side, h] * px[h] * py[k + radius]
                v = inverse_variance[start + h]
                energy += v * (y.real * y.real + y.imag * y.imag)
                if ctf.shape[0] > 0:
                    v *= ctf_value(ctf[i], h / length, k / length)
                data[i, start + h] = complex(v * y.real, v * y.imag)
        energies[i] = energy


@parallel
def prepare_weights(rows, ctf, length, inverse_variance, weights):
    """Fill weights (m, samples) with C^2 / sigma^2; arguments as in `prepare_images`."""
    radius = (rows.shape[0] - 1) // 2
    for i in prange(ctf.shape[0]):
        for k in range(-radius, radius + 1):
            start = rows[k + radius, 0]
            for h in range(rows[k + radius, 1], rows[k + radius, 2]):
                c = ctf_value(ctf[i], h / length, k / length)
                weights[i, start + h] = inverse_variance[start + h] * c * c


@serial
def add_mirror(plane, out):
    """Add to the plane kz = 0 the conjugate of its mirror: out <- plane + conj(mirrored plane)."""
    n = plane.shape[0]
    twice = 2 * (n // 2)
    for y in range(n):
        for x in range(n):
            out[y, x] = plane[y, x] + np.conj(plane[(twice - y) % n, (twice - x) % n])
