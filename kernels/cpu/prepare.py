"""From transformed images to what the objective needs: C^2 / sigma^2 and C y / sigma^2.

`pack_images` runs on one thread at a time, and many threads run it side by side on different
images. Its loops along the rows of the disc are sums and products of plain numbers (real and
imaginary parts apart, arrays that begin at the row), which is what the compiler turns into vectors.
"""

import math

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register, serial
from fastcryo.kernels.formulas import ROUND, ctf_without_envelope, envelope, sine


@register
def fill_phases(turn, first, cosines, sines):
    """Write exp(2 pi i turn f), f = first, first + 1, ..., part by part.

    Whole turns are taken off first, so that the sine need not: the library's took an eighth of the
    time of packing an image of 64 px.
    """
    for j in range(cosines.size):
        turns = turn * (first + j)
        turns -= (turns + ROUND) - ROUND
        cosines[j] = sine(2.0 * math.pi * (turns + 0.25))
        sines[j] = sine(2.0 * math.pi * turns)


@register
def fill_envelope(coefficients, frequency, values):
    """Write the envelope along one axis; it is 1 already."""
    if coefficients[5] == 0.0:
        return
    for j in range(values.size):
        values[j] = envelope(coefficients, frequency[j], 0.0)


@register
def fill_ctf(coefficients, fx, fy, decay_x, decay_y, values):
    """Write the CTF at the frequencies (fx[j], fy), decay_x[j] decay_y its envelope there."""
    for j in range(values.size):
        values[j] = ctf_without_envelope(coefficients, fx[j], fy) * (decay_x[j] * decay_y)


@serial
def pack_images(
    transforms, places, shifts, rows, ctf, length, inverse_variance, weights, data, energies
):
    """Pack the transforms of m images: centre, undo the shift, multiply by C / sigma^2.

    Parameters
    ----------
    transforms : (m, M, 2 W) real
        The columns 0 to W - 1, W > R, of rfft2 of the images as they are, real and imaginary parts
        in turn; M at least as large as the grid's box.
    places : (m,) int64
        Row of each image in the arrays to fill.
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
    weights : (n, samples) real, modified in place
        C^2 / sigma^2; not touched without CTF.
    data : (n, 2 samples) real, modified in place
        C y / sigma^2, real and imaginary parts in turn.
    energies : (m,) float64, modified in place
        Sum of |y|^2 / sigma^2 over the half disc.
    """
    radius = (rows.shape[0] - 1) // 2
    side = transforms.shape[1]
    centre = float(side // 2)
    with_ctf = ctf.shape[0] > 0
    frequency = np.arange(-radius, radius + 1) / length
    x_re, x_im = np.empty(radius + 1), np.empty(radius + 1)
    y_re, y_im = np.empty(2 * radius + 1), np.empty(2 * radius + 1)
    for i in range(transforms.shape[0]):
        fill_phases((centre - shifts[i, 0]) / side, 0, x_re, x_im)
        fill_phases((centre - shifts[i, 1]) / side, -radius, y_re, y_im)
        values, decay = np.ones(radius + 1), np.ones(2 * radius + 1)
        if with_ctf:
            fill_envelope(ctf[i], frequency, decay)
        energy = np.zeros(radius + 1)
        for k in range(-radius, radius + 1):
            first, stop = rows[k + radius, 1], rows[k + radius, 2]
            start, end = rows[k + radius, 0] + first, rows[k + radius, 0] + stop
            c, v = values[first:stop], inverse_variance[start:end]
            if with_ctf:
                fx = frequency[radius + first : radius + stop]
                decay_x = decay[radius + first : radius + stop]
                fill_ctf(ctf[i], fx, frequency[k + radius], decay_x, decay[k + radius], c)
                w = weights[places[i], start:end]
                for j in range(w.size):
                    w[j] = c[j] * c[j] * v[j]
            a_re, a_im = x_re[first:stop], x_im[first:stop]
            b_re, b_im = y_re[k + radius], y_im[k + radius]
            y = transforms[i, k % side, 2 * first : 2 * stop]
            e = energy[first:stop]
            out = data[places[i], 2 * start : 2 * end]
            for j in range(e.size):
                p_re = a_re[j] * b_re - a_im[j] * b_im
                p_im = a_re[j] * b_im + a_im[j] * b_re
                re = y[2 * j] * p_re - y[2 * j + 1] * p_im
                im = y[2 * j] * p_im + y[2 * j + 1] * p_re
                e[j] += v[j] * (re * re + im * im)
                out[2 * j] = c[j] * v[j] * re
                out[2 * j + 1] = c[j] * v[j] * im
        energies[i] = energy.sum()


@parallel
def prepare_weights(rows, ctf, length, inverse_variance, weights):
    """Fill weights (m, samples) with C^2 / sigma^2; arguments as in `pack_images`."""
    radius = (rows.shape[0] - 1) // 2
    for i in prange(ctf.shape[0]):
        frequency = np.arange(-radius, radius + 1) / length
        values, decay = np.empty(radius + 1), np.ones(2 * radius + 1)
        fill_envelope(ctf[i], frequency, decay)
        for k in range(-radius, radius + 1):
            first, stop = rows[k + radius, 1], rows[k + radius, 2]
            start, end = rows[k + radius, 0] + first, rows[k + radius, 0] + stop
            c, v = values[first:stop], inverse_variance[start:end]
            fx = frequency[radius + first : radius + stop]
            decay_x = decay[radius + first : radius + stop]
            fill_ctf(ctf[i], fx, frequency[k + radius], decay_x, decay[k + radius], c)
            w = weights[i, start:end]
            for j in range(w.size):
                w[j] = c[j] * c[j] * v[j]


@serial
def add_mirror(plane, out):
    """Add to the plane kz = 0 the conjugate of its mirror: out <- plane + conj(mirrored plane)."""
    n = plane.shape[0]
    twice = 2 * (n // 2)
    for y in range(n):
        for x in range(n):
            out[y, x] = plane[y, x] + np.conj(plane[(twice - y) % n, (twice - x) % n])
