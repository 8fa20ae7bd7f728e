"""Sums and updates of whole half grids.

One plane kz is one unit of work with its own partial sum in float64, so that no result depends on
the number of threads.
"""

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, parallel_reduction
from fastcryo.kernels.formulas import probe_element, random_sign


@parallel_reduction
def inner_by_plane(left, right):
    """Re sum(conj(left) right) of every plane.

    Parameters
    ----------
    left, right : (nz, ny, nx), real or complex

    Returns
    -------
    sums : (nz,) float64
    """
    sums = np.zeros(left.shape[0], np.float64)
    for z in prange(left.shape[0]):
        total = 0.0
        for y in range(left.shape[1]):
            for x in range(left.shape[2]):
                a = left[z, y, x]
                b = right[z, y, x]
                total += np.float64(a.real) * np.float64(b.real)
                total += np.float64(a.imag) * np.float64(b.imag)
        sums[z] = total
    return sums


@parallel
def finish_sum(total, volume, scale, damping):
    """Turn a sum over images into a mean plus the prior: total <- scale total + damping volume.

    Parameters
    ----------
    total : (nz, ny, nx) complex, modified in place
    volume : (nz, ny, nx) complex
    scale : float
    damping : (1, 1, 1) or (nz, ny, nx) float

    Returns
    -------
    sums : (nz,) float64
        Sum of damping |volume|^2 of every plane.
    """
    same = damping.size == 1
    first = damping[0, 0, 0]
    sums = np.zeros(volume.shape[0], np.float64)
    for z in prange(total.shape[0]):
        norm = 0.0
        for y in range(total.shape[1]):
            for x in range(total.shape[2]):
                weight = first if same else damping[z, y, x]
                t = total[z, y, x]
                v = volume[z, y, x]
                re, im = weight * v.real, weight * v.imag
                norm += np.float64(re * v.real + im * v.imag)
                total[z, y, x] = complex(scale * t.real + re, scale * t.imag + im)
        sums[z] = norm
    return sums


@parallel
def step_along(volume, direction, step):
    """Move volume <- volume - step direction, in place; both (nz, ny, nx) complex."""
    for z in prange(volume.shape[0]):
        for y in range(volume.shape[1]):
            for x in range(volume.shape[2]):
                v = volume[z, y, x]
                d = direction[z, y, x]
                volume[z, y, x] = complex(v.real - step * d.real, v.imag - step * d.imag)


@parallel
def scale_by(volume, factor, out):
    """Multiply a complex volume by a real one of the same shape: out <- factor volume."""
    for z in prange(volume.shape[0]):
        for y in range(volume.shape[1]):
            for x in range(volume.shape[2]):
                v = volume[z, y, x]
                w = factor[z, y, x]
                out[z, y, x] = complex(w * v.real, w * v.imag)


@parallel_reduction
def damped_norm_by_plane(volume, damping):
    """Sum damping |volume|^2 of every plane in float64; arguments as in `finish_sum`."""
    same = damping.size == 1
    first = damping[0, 0, 0]
    sums = np.zeros(volume.shape[0], np.float64)
    for z in prange(volume.shape[0]):
        total = 0.0
        for y in range(volume.shape[1]):
            for x in range(volume.shape[2]):
                weight = np.float64(first if same else damping[z, y, x])
                v = volume[z, y, x]
                total += weight * (np.float64(v.real) ** 2 + np.float64(v.imag) ** 2)
        sums[z] = total
    return sums


@parallel
def fill_signs(first_key, second_key, out):
    """Fill a half grid, int8, with random signs that are those of a real volume's transform."""
    for z in prange(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                element = probe_element(z, y, x, out.shape[1], out.shape[0])
                out[z, y, x] = random_sign(first_key, second_key, element)


def take_probe(signs, product, mean, smoothed, probes, beta):
    """Take in a probe, signs times product: mean is that of so many, then smoothed follows it.

    All are real half grids, mean and smoothed modified in place: mean <- mean + (probe - mean) /
    probes, and smoothed <- beta smoothed + (1 - beta) mean.
    """
    real = mean.dtype.type
    _take_probe(signs, product, mean, smoothed, real(1 / probes), real(beta), real(1 - beta))


@parallel
def _take_probe(signs, product, mean, smoothed, share, beta, rest):
    for z in prange(mean.shape[0]):
        for y in range(mean.shape[1]):
            for x in range(mean.shape[2]):
                m = mean[z, y, x]
                m += share * (type(m)(signs[z, y, x]) * product[z, y, x] - m)
                mean[z, y, x] = m
                smoothed[z, y, x] = beta * smoothed[z, y, x] + rest * m


def invert(diagonal, threshold, spread, out):
    """Set out <- 1 / (max(|diagonal|, threshold) + spread), 0 where that is 0.

    Parameters
    ----------
    diagonal, out : float arrays of one shape
    threshold : float
    spread : (1,) float or an array of that shape
    """
    flat = diagonal.reshape(-1), diagonal.dtype.type(threshold), spread.reshape(-1)
    _invert(*flat, out.reshape(-1))


@parallel
def _invert(diagonal, threshold, spread, out):
    zero = threshold - threshold
    same = spread.size == 1
    for i in prange(diagonal.size):
        bounded = max(abs(diagonal[i]), threshold)
        bounded += spread[0] if same else spread[i]
        out[i] = type(threshold)(1) / bounded if bounded > 0 else zero
