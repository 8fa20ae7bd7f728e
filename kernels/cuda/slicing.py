"""Slices, back-projection and their fusions on a graphics card, made once per window.

A block of threads works on as many neighbouring samples of one image; its weights and data are read
once, 32 neighbours at a time, and never written. The volume is read through the caches (half a grid
of N = 192 takes 28.6 MB, and fits the 50 MB of an H100's second level) and added to by atomic sums
that need no answer, which the second level carries out. Positions are the integers of
`fastcryo.kernels.layout`, so that samples fall into the same cells as on the processor.

Atomic sums in floating point come in any order, so that the last bits of a volume differ from run
to run. The kernels of ``exact=True`` add whole numbers instead, of which any order gives the same
sum: value times `scale`, a power of two (see `fastcryo.cuda.sweeps.exact_scale`).
"""

import math
from types import SimpleNamespace

import numpy as np

from fastcryo.kernels._jit import register
from fastcryo.kernels.cpu.windows import cell_index, corner_weights
from fastcryo.kernels.cuda._jit import THREADS, cuda, kernel
from fastcryo.kernels.layout import FRACTION_BITS, HALF


@register
def position_of(step, base_step, h, k, centre, offset):
    """Return where a sample reads, folded to z >= 0, from the first voxel of the grid; and a sign.

    The sign is -1 where the mirror is read, and the value is its conjugate.
    """
    qx = h * step[0] + k * base_step[0]
    qy = h * step[1] + k * base_step[1]
    qz = h * step[2] + k * base_step[2]
    sign = 1 if qz >= 0 else -1
    shift = (centre << FRACTION_BITS) + offset
    return (sign * qx + shift, sign * qy + shift, sign * qz + offset), sign


@register
def block_sum(values, partials, block):
    """Add three float64 numbers of every thread of a block, always in the same order."""
    shared = cuda.shared.array((3, THREADS), np.float64)
    t = cuda.threadIdx.x
    for c in range(3):
        shared[c, t] = values[c]
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            for c in range(3):
                shared[c, t] += shared[c, t + half]
        cuda.syncthreads()
        half //= 2
    if t < 3:
        partials[block, t] = shared[t, 0]


@kernel
def add_columns(partials, sums):
    """Add the rows of partials (b, 3) to sums (3,), in order; one block of threads."""
    a, b, c = 0.0, 0.0, 0.0
    for i in range(cuda.threadIdx.x, partials.shape[0], THREADS):
        a += partials[i, 0]
        b += partials[i, 1]
        c += partials[i, 2]
    block_sum((a, b, c), sums, 0)


def make_kernels(window, exact=False):
    """Make the kernels of one window of `fastcryo.kernels.cpu.windows`; they compile when launched.

    All take ``steps`` (m, 2, 3) int64, the rotations of the images of this launch; ``places``
    (samples, 2) int16, h and k of every sample; `box`; and `unit`, 2^-24 or 2^-52. Volumes are flat
    half grids, complex to read and (voxels, 2) real to add to. ``lines`` (m,) int64 says which rows
    of the tables belong to the images; weights of one row serve all, data of no rows are zeros.

    forward(volume, samples, ...) : samples (m, samples) complex, filled
    adjoint(samples, target, scale, ...) : samples (m, samples) complex, added to the target
    gradient(volume, other, target, other_target, weights, data, lines, scale, other_scale,
        partials, ...) : adds P^H (c P V - d) to the target; partials (blocks, 3): c |s|^2,
        Re(conj(d) s), 0. The other volume is not touched
    gradient_pair : the same, and P^H c P `other` from the same pass; the third sum is c |s'|^2
    energy, energy_pair : the same sums; no target is touched
    diagonal, gridding(target, weights, lines, scale, ...) : c w^2 or c w, added to a real target
    """
    offset, nearest = window.offset, window.offset == HALF

    @register
    def gather(volume, q, row, plane, unit):
        """Read the volume at a position."""
        i = cell_index(q[0], q[1], q[2], row, plane)
        if nearest:
            v = volume[i]
            return v.real, v.imag
        w = corner_weights(q[0], q[1], q[2], unit)
        re = im = w[4] - w[4]
        for corner in range(4):
            j = i + (corner >> 1) * plane + (corner & 1) * row
            a, b = volume[j], volume[j + 1]
            re += w[corner] * (w[4] * a.real + w[5] * b.real)
            im += w[corner] * (w[4] * a.imag + w[5] * b.imag)
        return re, im

    @register
    def add(target, i, part, value, scale):
        """Add a number to target[i, part]."""
        if exact:
            cuda.atomic.add(target, (i, part), np.int64(math.floor(value * scale + 0.5)))
        else:
            cuda.atomic.add(target, (i, part), value)

    @register
    def spread(target, q, row, plane, unit, values, scale, squared):
        """Add numbers, one or two, to the voxels that `gather` reads, by the window's weights."""
        i = cell_index(q[0], q[1], q[2], row, plane)
        if nearest:
            for part in range(len(values)):
                add(target, i, part, values[part], scale)
        else:
            w = corner_weights(q[0], q[1], q[2], unit)
            for corner in range(4):
                p, r = w[corner] * w[4], w[corner] * w[5]
                if squared:
                    p, r = p * p, r * r
                j = i + (corner >> 1) * plane + (corner & 1) * row
                for part in range(len(values)):
                    add(target, j, part, p * values[part], scale)
                    add(target, j + 1, part, r * values[part], scale)

    @kernel
    def forward(volume, samples, steps, places, box, unit):
        for image in range(cuda.blockIdx.y, steps.shape[0], cuda.gridDim.y):
            step, base = steps[image, 0], steps[image, 1]
            for j in range(cuda.grid(2)[0], places.shape[0], cuda.gridsize(2)[0]):
                h, k = places[j, 0], places[j, 1]
                q, sign = position_of(step, base, h, k, box // 2, offset)
                re, im = gather(volume, q, box, box * box, unit)
                samples[image, j] = complex(re, im if sign > 0 else -im)

    @kernel
    def adjoint(samples, target, scale, steps, places, box, unit):
        for image in range(cuda.blockIdx.y, steps.shape[0], cuda.gridDim.y):
            step, base = steps[image, 0], steps[image, 1]
            for j in range(cuda.grid(2)[0], places.shape[0], cuda.gridsize(2)[0]):
                h, k = places[j, 0], places[j, 1]
                q, sign = position_of(step, base, h, k, box // 2, offset)
                s = samples[image, j]
                im = s.imag if sign > 0 else -s.imag
                spread(target, q, box, box * box, unit, (s.real, im), scale, False)

    def make_normal(pair, adds):
        @kernel
        def normal(
            volume,
            other,
            target,
            other_target,
            weights,
            data,
            lines,
            scale,
            other_scale,
            partials,
            steps,
            places,
            box,
            unit,
        ):
            square, mixed, other_square = 0.0, 0.0, 0.0
            plane = box * box
            for image in range(cuda.blockIdx.y, steps.shape[0], cuda.gridDim.y):
                step, base, line = steps[image, 0], steps[image, 1], lines[image]
                row = 0 if weights.shape[0] == 1 else line
                for j in range(cuda.grid(2)[0], places.shape[0], cuda.gridsize(2)[0]):
                    h, k = places[j, 0], places[j, 1]
                    q, sign = position_of(step, base, h, k, box // 2, offset)
                    c = weights[row, j]
                    re, im = gather(volume, q, box, plane, unit)
                    a, b = c * re, c * im
                    square += np.float64(a * re + b * im)
                    if data.shape[0] > 0:
                        d = data[line, j]
                        d_im = d.imag if sign > 0 else -d.imag
                        mixed += np.float64(d.real * re + d_im * im)
                        a, b = a - d.real, b - d_im
                    if adds:
                        spread(target, q, box, plane, unit, (a, b), scale, False)
                    if pair:
                        re, im = gather(other, q, box, plane, unit)
                        a, b = c * re, c * im
                        other_square += np.float64(a * re + b * im)
                        if adds:
                            spread(other_target, q, box, plane, unit, (a, b), other_scale, False)
            block = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x
            block_sum((square, mixed, other_square), partials, block)

        return normal

    def make_power(squared):
        @kernel
        def power(target, weights, lines, scale, steps, places, box, unit):
            for image in range(cuda.blockIdx.y, steps.shape[0], cuda.gridDim.y):
                step, base = steps[image, 0], steps[image, 1]
                row = 0 if weights.shape[0] == 1 else lines[image]
                for j in range(cuda.grid(2)[0], places.shape[0], cuda.gridsize(2)[0]):
                    h, k = places[j, 0], places[j, 1]
                    q, _ = position_of(step, base, h, k, box // 2, offset)
                    spread(target, q, box, box * box, unit, (weights[row, j],), scale, squared)

        return power

    return SimpleNamespace(
        forward=forward,
        adjoint=adjoint,
        gradient=make_normal(False, True),
        gradient_pair=make_normal(True, True),
        energy=make_normal(False, False),
        energy_pair=make_normal(True, False),
        diagonal=make_power(True),
        gridding=make_power(False),
    )
