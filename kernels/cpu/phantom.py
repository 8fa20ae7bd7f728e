"""Central slices of densities that are known everywhere: Gaussian atoms, and maps between voxels.

One image is one unit of work, so no result depends on the number of threads.
"""

import math

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register

# The window exp(STEEPNESS (sqrt(1 - (2 t / TAPS)^2) - 1)), the exponential of a semicircle of
# Barnett, Magland & af Klinteberg (2019); oversampling by 2 it errs by about 1e-7.
TAPS = 8
STEEPNESS = 2.30 * TAPS


@register
def fill_gaussian(weights, count, first, variance):
    """Write exp(-(first + t)^2 / (2 variance)), t = 0 to count - 1, with three exponentials.

    Both the values and their quotients follow by multiplication; the rounding grows with count^2.
    """
    value = math.exp(-0.5 * first * first / variance)
    quotient = math.exp(-(first + 0.5) / variance)
    change = math.exp(-1.0 / variance)
    for t in range(count):
        weights[t] = value
        value *= quotient
        quotient *= change


@parallel
def project_atoms(
    positions, amplitudes, sigmas, blur, reach, rotations, heights, phase, scratch, out
):
    """Project Gaussian atoms onto periodic images, modulated along the direction of projection.

    Image i samples, at the whole pixels (x, y) and with period M, the integral over z of

        sum_j a_j g_j(r - A_i c_j) cos(2 pi l_i z + phase)

    g_j a Gaussian of integral 1 and standard deviation sigma_j. Across the image it is widened by
    the variance `blur`.

    Parameters
    ----------
    positions : (m, 3) float64
        c, (x, y, z) in pixels from the origin, which is the pixel (0, 0).
    amplitudes, sigmas : (m,) float64
        Integrals, and standard deviations in pixels.
    blur : float
        Additional variance, square pixels.
    reach : float
        Atoms are cut off at this many (widened) standard deviations.
    rotations : (n, 3, 3) float64
    heights : (n,) float64
        l, cycles per pixel.
    phase : float
    scratch : (n, 2, taps) float64, modified in place
        Room for the widest atom: taps >= 2 ceil(reach s) + 1.
    out : (n, M, M) float64, modified in place
        ``[i, y, x]``.
    """
    side = out.shape[1]
    for i in prange(out.shape[0]):
        image = out[i]
        across, down = scratch[i, 0], scratch[i, 1]
        a = rotations[i]
        image[:] = 0.0
        for j in range(positions.shape[0]):
            px, py, pz = positions[j, 0], positions[j, 1], positions[j, 2]
            x = a[0, 0] * px + a[0, 1] * py + a[0, 2] * pz
            y = a[1, 0] * px + a[1, 1] * py + a[1, 2] * pz
            z = a[2, 0] * px + a[2, 1] * py + a[2, 2] * pz
            turn = 2.0 * math.pi * heights[i]
            variance = sigmas[j] * sigmas[j] + blur
            peak = amplitudes[j] / (2.0 * math.pi * variance)
            peak *= math.exp(-0.5 * (turn * sigmas[j]) ** 2) * math.cos(turn * z + phase)
            half = int(math.ceil(reach * math.sqrt(variance)))
            taps = 2 * half + 1
            column, row = int(round(x)) - half, int(round(y)) - half
            fill_gaussian(across, taps, column - x, variance)
            fill_gaussian(down, taps, row - y, variance)
            for u in range(taps):
                line = image[(row + u) % side]
                height = peak * down[u]
                # In runs without a wrap, which the compiler turns into vector instructions.
                done, start = 0, column % side
                while done < taps:
                    run = min(taps - done, side - start)
                    for t in range(run):
                        line[start + t] += height * across[done + t]
                    done += run
                    start = 0


@register
def window(distance):
    """Window at a distance of at most TAPS / 2 grid points."""
    t = 2.0 * distance / TAPS
    return math.exp(STEEPNESS * (math.sqrt(max(1.0 - t * t, 0.0)) - 1.0))


@parallel
def interpolate_slices(spectrum, bases, heights, limit, weights, columns, out):
    """Read planes out of the transform of a zero-padded map that was divided by the window's own.

    Parameters
    ----------
    spectrum : (M // 2 + 1, M, M) complex
        ``[kz, ky, kx]`` in numpy.fft order, kz not negative.
    bases : (n, 3, 3) float64
        Rows: steps along h, k and l in grid points (x, y, z).
    heights : (n,) float64
        l of every plane.
    limit : float
        Values at grid radii of `limit` and more are zero.
    weights : (n, 3, TAPS) float64, modified in place
    columns : (n, TAPS) int64, modified in place
    out : (n, N, N // 2 + 1) complex, modified in place
        ``[i, k, h]`` in the order of rfft2; the Nyquist lines of an even N are zero.
    """
    side = spectrum.shape[1]
    box = out.shape[1]
    radius = (box - 1) // 2
    for i in prange(out.shape[0]):
        out[i] = 0.0
        b, w, column = bases[i], weights[i], columns[i]
        for k in range(-radius, radius + 1):
            for h in range(radius + 1):
                x = h * b[0, 0] + k * b[1, 0] + heights[i] * b[2, 0]
                y = h * b[0, 1] + k * b[1, 1] + heights[i] * b[2, 1]
                z = h * b[0, 2] + k * b[1, 2] + heights[i] * b[2, 2]
                if x * x + y * y + z * z >= limit * limit:
                    continue
                x0 = int(math.floor(x)) - TAPS // 2 + 1
                y0 = int(math.floor(y)) - TAPS // 2 + 1
                z0 = int(math.floor(z)) - TAPS // 2 + 1
                for t in range(TAPS):
                    w[0, t] = window(x0 + t - x)
                    w[1, t] = window(y0 + t - y)
                    w[2, t] = window(z0 + t - z)
                re = im = 0.0
                for tz in range(TAPS):
                    iz = (z0 + tz) % side
                    # The half that is not stored is the conjugate of its mirror.
                    sign = 1 if iz <= side // 2 else -1
                    plane = spectrum[iz if sign > 0 else side - iz]
                    for t in range(TAPS):
                        column[t] = (sign * (x0 + t)) % side
                    for ty in range(TAPS):
                        line = plane[(sign * (y0 + ty)) % side]
                        weight = w[2, tz] * w[1, ty]
                        for t in range(TAPS):
                            value = line[column[t]]
                            re += weight * w[0, t] * np.float64(value.real)
                            im += sign * weight * w[0, t] * np.float64(value.imag)
                out[i, k % box, h] = complex(re, im)
