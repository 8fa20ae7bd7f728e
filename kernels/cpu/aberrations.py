"""Packing of images whose optics are more than a CTF: aberrations, magnification, corrections.

The general forms of `fastcryo.kernels.cpu.prepare.pack_images` and `prepare_weights`, sample by
sample. An image belongs to an optics group, and a group has

    warp: sample (h, k) stands for the frequency warp (h, k) / length
    even: taken off the argument of the sine of the CTF; odd: a phase of the data
    limit: no sample beyond |(h, k)| = limit counts, the pixels hold none

A CTF is C = scale sin(chi + asin w - even) exp(-B q^2 / 4), and an image C exp(i odd) P V.
"""

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register, serial
from fastcryo.kernels.cpu.prepare import fill_phases
from fastcryo.kernels.formulas import ctf_argument, envelope, sine

AS_THEY_ARE, PHASE_FLIPPED, PREMULTIPLIED = 0, 1, 2


@register
def aberrated_ctf(coefficients, even, warp, h, k, length):
    """CTF at sample (h, k) of an image of the side `length`."""
    fx = (warp[0, 0] * h + warp[0, 1] * k) / length
    fy = (warp[1, 0] * h + warp[1, 1] * k) / length
    value = coefficients[6] * sine(ctf_argument(coefficients, fx, fy) - even)
    if coefficients[5] != 0.0:
        value *= envelope(coefficients, fx, fy)
    return value


@serial
def pack_images(
    transforms,
    places,
    groups,
    shifts,
    rows,
    ctf,
    warps,
    even,
    cosines,
    sines,
    limits,
    corrections,
    length,
    inverse_variance,
    weights,
    data,
    energies,
):
    """Pack the transforms of m images.

    Parameters
    ----------
    transforms, places, shifts, rows, length, inverse_variance, weights, data, energies
        As in `fastcryo.kernels.cpu.prepare.pack_images`. Energies are those of the pixels as they
        are, also of images that were multiplied by their CTF.
    groups : (m,) int64
        Optics group of each image.
    ctf : (m, 7) float64
    warps : (g, 2, 2) float64
    even : (g, samples) float64
    cosines, sines : (g, samples) float64
        Of the odd phase.
    limits : (g,) float64
    corrections : (g,) int64
        AS_THEY_ARE, PHASE_FLIPPED (the pixels hold sign(C) y) or PREMULTIPLIED (C y).
    """
    radius = (rows.shape[0] - 1) // 2
    side = transforms.shape[1]
    centre = float(side // 2)
    x_re, x_im = np.empty(radius + 1), np.empty(radius + 1)
    y_re, y_im = np.empty(2 * radius + 1), np.empty(2 * radius + 1)
    for i in range(transforms.shape[0]):
        g = groups[i]
        fill_phases((centre - shifts[i, 0]) / side, 0, x_re, x_im)
        fill_phases((centre - shifts[i, 1]) / side, -radius, y_re, y_im)
        energy = 0.0
        for k in range(-radius, radius + 1):
            first, stop = rows[k + radius, 1], rows[k + radius, 2]
            for h in range(first, stop):
                s = rows[k + radius, 0] + h
                v = inverse_variance[s]
                if h * h + k * k > limits[g] * limits[g]:
                    v = 0.0
                c = aberrated_ctf(ctf[i], even[g, s], warps[g], h, k, length)
                weights[places[i], s] = c * c * v
                factor = c
                if corrections[g] == PHASE_FLIPPED:
                    factor = abs(c)
                elif corrections[g] == PREMULTIPLIED:
                    factor = 1.0
                # Undone: the shift and the odd phase.
                p_re = x_re[h] * y_re[k + radius] - x_im[h] * y_im[k + radius]
                p_im = x_re[h] * y_im[k + radius] + x_im[h] * y_re[k + radius]
                q_re = p_re * cosines[g, s] + p_im * sines[g, s]
                q_im = p_im * cosines[g, s] - p_re * sines[g, s]
                y = transforms[i, k % side, 2 * h]
                z = transforms[i, k % side, 2 * h + 1]
                re = y * q_re - z * q_im
                im = y * q_im + z * q_re
                energy += v * (re * re + im * im)
                data[places[i], 2 * s] = factor * v * re
                data[places[i], 2 * s + 1] = factor * v * im
        energies[i] = energy


@parallel
def prepare_weights(groups, rows, ctf, warps, even, limits, length, inverse_variance, weights):
    """Fill weights (m, samples) with C^2 / sigma^2; arguments as in `pack_images`."""
    radius = (rows.shape[0] - 1) // 2
    for i in prange(ctf.shape[0]):
        g = groups[i]
        for k in range(-radius, radius + 1):
            for h in range(rows[k + radius, 1], rows[k + radius, 2]):
                s = rows[k + radius, 0] + h
                v = inverse_variance[s]
                if h * h + k * k > limits[g] * limits[g]:
                    v = 0.0
                c = aberrated_ctf(ctf[i], even[g, s], warps[g], h, k, length)
                weights[i, s] = c * c * v
