"""From transformed images to C^2 / sigma^2 and C y / sigma^2, on a graphics card.

One form for all optics, that of `fastcryo.kernels.cpu.aberrations`, a thread per sample: images
without aberrations belong to one group whose tables say so. The formulas are those of the
processor, in float64.
"""

import math

import numpy as np

from fastcryo.kernels.cpu.aberrations import PHASE_FLIPPED, PREMULTIPLIED, aberrated_ctf
from fastcryo.kernels.cuda._jit import THREADS, cuda, kernel, launch_shape
from fastcryo.kernels.formulas import sine


@kernel
def _to_complex(real, out):
    for i in range(cuda.grid(1), real.size, cuda.gridsize(1)):
        out[i] = complex(real[i], real[i] - real[i])


@kernel
def _pack_images(
    transforms,
    groups,
    noise_groups,
    shifts,
    places,
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
    partials,
):
    side = transforms.shape[1]
    centre = side // 2
    shared = cuda.shared.array(THREADS, np.float64)
    for i in range(cuda.blockIdx.y, transforms.shape[0], cuda.gridDim.y):
        g = groups[i]
        turn_x, turn_y = (centre - shifts[i, 0]) / side, (centre - shifts[i, 1]) / side
        energy = 0.0
        for s in range(cuda.grid(2)[0], places.shape[0], cuda.gridsize(2)[0]):
            h, k = int(places[s, 0]), int(places[s, 1])
            v = inverse_variance[noise_groups[i], s]
            if h * h + k * k > limits[g] * limits[g]:
                v = 0.0
            c = 1.0
            if ctf.shape[0] > 0:
                c = aberrated_ctf(ctf[i], even[g, s], warps[g], h, k, length)
                weights[i, s] = c * c * v
            factor = c
            if corrections[g] == PHASE_FLIPPED:
                factor = abs(c)
            elif corrections[g] == PREMULTIPLIED:
                factor = 1.0
            angle = 2.0 * math.pi * (turn_x * h + turn_y * k)
            p_re, p_im = sine(angle + 0.5 * math.pi), sine(angle)
            q_re = p_re * cosines[g, s] + p_im * sines[g, s]
            q_im = p_im * cosines[g, s] - p_re * sines[g, s]
            y = transforms[i, k % side, h]
            re = y.real * q_re - y.imag * q_im
            im = y.real * q_im + y.imag * q_re
            energy += v * (re * re + im * im)
            data[i, s] = complex(factor * v * re, factor * v * im)
        shared[cuda.threadIdx.x] = energy
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            total = 0.0
            for thread in range(THREADS):
                total += shared[thread]
            partials[i, cuda.blockIdx.x] = total
        cuda.syncthreads()


@kernel
def _prepare_weights(
    groups, noise_groups, places, ctf, warps, even, limits, length, inverse_variance, weights
):
    for i in range(cuda.blockIdx.y, ctf.shape[0], cuda.gridDim.y):
        g = groups[i]
        for s in range(cuda.grid(2)[0], places.shape[0], cuda.gridsize(2)[0]):
            h, k = int(places[s, 0]), int(places[s, 1])
            v = inverse_variance[noise_groups[i], s]
            if h * h + k * k > limits[g] * limits[g]:
                v = 0.0
            c = aberrated_ctf(ctf[i], even[g, s], warps[g], h, k, length)
            weights[i, s] = c * c * v


def to_complex(real):
    """Return real images on the card as complex ones."""
    out = cuda.device_array(real.shape, np.result_type(real.dtype, np.complex64))
    _to_complex[launch_shape(real.size, 1)[0], THREADS](
        real.reshape(real.size), out.reshape(out.size)
    )
    return out


def pack_images(transforms, groups, *tables_and_rows):
    """Fill rows of weights and data with images; returns their energies, on the host.

    Arguments are arrays on the card, those of `fastcryo.kernels.cpu.aberrations.pack_images` but:
    transforms (m, M, W) are complex, row i belongs to image i, ``noise_groups`` (m,) are rows of
    the inverse variances (g, samples), and ``places`` (samples, 2) stands for rows of the disc.
    """
    images, samples = transforms.shape[0], tables_and_rows[2].shape[0]
    shape = launch_shape(samples, images)
    partials = cuda.device_array((images, shape[0]), np.float64)
    _pack_images[shape, THREADS](transforms, groups, *tables_and_rows, partials)
    return partials.copy_to_host().sum(axis=1)


def prepare_weights(groups, noise_groups, places, ctf, *tables_and_rows):
    """Fill weights (m, samples) with C^2 / sigma^2; arguments as in `pack_images`."""
    shape = launch_shape(places.shape[0], ctf.shape[0])
    _prepare_weights[shape, THREADS](groups, noise_groups, places, ctf, *tables_and_rows)
