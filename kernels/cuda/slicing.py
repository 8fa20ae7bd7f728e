"""Slices, back-projection and their fusions on a graphics card, made once per window.

A block of threads takes `TILE` neighbouring samples of one image at a time, and its threads change
their roles between barriers. One thread per sample finds its cell and its weights; a *lane* per
number of a row of the window, 2 W of them, reads and adds; one thread per sample sums its lanes and
applies weight and data. The lanes of a sample touch 8 W bytes in one piece, W^2 times: the memory
of a card works in sectors of 32 bytes, and a thread that took a sample alone would use 8 bytes of
each (docs/cuda.md has the counts).

The volume is read through the caches and added to by atomic sums that need no answer, which the
second-level cache carries out. Positions are the integers of `fastcryo.kernels.layout`, so that
samples fall into the same cells as on the processor. The volume is a half grid or the extended half
volume of `fastcryo.kernels.wide`, told apart by `row`, `plane` and `centre` alone.

Atomic sums in floating point come in any order, so that the last bits of a volume differ from run
to run. The kernels of ``exact=True`` add whole numbers instead, of which any order gives the same
sum: value times a power of two (see `fastcryo.kernels.cuda.vectors.exact_scale`).
"""

import math
from types import SimpleNamespace

import numpy as np

from fastcryo.kernels._jit import register
from fastcryo.kernels.cpu.windows import cell_index
from fastcryo.kernels.cuda._jit import THREADS, TILE, cuda, kernel
from fastcryo.kernels.layout import FRACTION_BITS


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
    """Add the rows of partials (b, 3) to sums (1, 3), in order; one block of threads."""
    a, b, c = 0.0, 0.0, 0.0
    for i in range(cuda.threadIdx.x, partials.shape[0], THREADS):
        a += partials[i, 0]
        b += partials[i, 1]
        c += partials[i, 2]
    block_sum((a, b, c), sums, 0)


def make_kernels(window, real, exact=False):
    """Make the kernels of one window of `fastcryo.kernels.cuda.windows`; they compile when used.

    All take ``steps`` (m, 2, 3) int64, the rotations of the images of this launch; ``places``
    (samples, 2) int16, h and k of every sample; ``row``, ``plane`` and ``centre``, the distances of
    neighbours along y and z and the element of x = 0; ``coefficients`` of wide windows; and `unit`,
    2^-24 or 2^-52. Volumes are flat and real, real and imaginary parts in turn; so are the rows of
    data. ``lines`` (m, 2) int64 says which rows of weights and of data belong to the images;
    weights of one row serve all, data of no rows are zeros. ``scales`` (1,) are the powers of two
    of exact sums.

    forward(volume, samples, ...) : samples (m, samples) complex, filled
    adjoint(samples, target, scales, ...) : samples (m, samples) complex, added to the target; half
        of that at the origin, which is its own mirror
    gradient(volume, other, target, other_target, weights, data, lines, scales, other_scales,
        partials, ...) : adds P^H (c P V - d) to the target; partials (blocks, 3): c |s|^2,
        Re(conj(d) s), 0. The other volume is not touched
    gradient_pair : the same, and P^H c P `other` from the same pass; the third sum is c |s'|^2
    energy, energy_pair : the same sums; no target is touched
    diagonal, gridding(target, weights, lines, scales, ...) : c w^2 or c w, added to a real target

    Parameters
    ----------
    window : SimpleNamespace
    real : float32 or float64
        Precision of volumes, weights and data.
    exact : bool
        Targets are whole numbers (int64).
    """
    taps, offset, weigh = window.taps, window.offset, window.weigh
    lanes, zero, half, one = 2 * taps, real(0), real(0.5), real(1)
    # One more column than samples, so that lanes of a sample lie in banks of their own.
    weights_shape, parts_shape = (3 * taps, TILE + 1), (lanes, TILE + 1)

    @register
    def settle(start, step, base, places, row, plane, centre, coefficients, unit, shared):
        """Find the cell, the sign of imaginary parts and the weights of the samples of a tile."""
        weights, cells, signs = shared
        for s in range(cuda.threadIdx.x, min(TILE, places.shape[0] - start), THREADS):
            h, k = places[start + s, 0], places[start + s, 1]
            q, sign = position_of(step, base, h, k, centre, offset)
            cells[s] = cell_index(q[0], q[1], q[2], row, plane)
            signs[s] = real(sign)
            for axis in range(3):
                weigh(coefficients, q[axis], unit, weights, (2 - axis) * taps, s)

    @register
    def gather(volume, count, row, plane, shared, parts):
        """Read the volume: what every lane finds, times its weights."""
        weights, cells, _ = shared
        for item in range(cuda.threadIdx.x, count * lanes, THREADS):
            s, lane = item // lanes, item % lanes
            first = 2 * cells[s] + lane
            total = zero
            for i in range(taps):
                line = zero
                for j in range(taps):
                    line += weights[taps + j, s] * volume[first + 2 * (i * plane + j * row)]
                total += weights[i, s] * line
            parts[lane, s] = weights[2 * taps + lane // 2, s] * total

    @register
    def value_of(s, parts):
        """Add up the lanes of a sample."""
        re, im = zero, zero
        for tap in range(taps):
            re += parts[2 * tap, s]
            im += parts[2 * tap + 1, s]
        return re, im

    @register
    def add(target, i, value, scales):
        """Add a number to target[i]."""
        if exact:
            scaled = value * scales[0]
            if scaled == scaled:
                cuda.atomic.add(target, i, np.int64(math.floor(scaled + 0.5)))
        else:
            cuda.atomic.add(target, i, value)

    def make_spread(numbers, squared):
        lanes = numbers * taps

        @register
        def spread(target, count, row, plane, shared, values, scales):
            """Add values (numbers, TILE) to the cells that `gather` reads, by the weights."""
            weights, cells, _ = shared
            for item in range(cuda.threadIdx.x, count * lanes, THREADS):
                s, lane = item // lanes, item % lanes
                first = numbers * cells[s] + lane
                x = weights[2 * taps + lane // numbers, s]
                if squared:
                    x *= x
                x *= values[lane % numbers, s]
                for i in range(taps):
                    z = weights[i, s]
                    if squared:
                        z *= z
                    z *= x
                    for j in range(taps):
                        y = weights[taps + j, s]
                        if squared:
                            y *= y
                        add(target, first + numbers * (i * plane + j * row), y * z, scales)

        return spread

    spread_pairs = make_spread(2, False)

    @kernel
    def forward(volume, samples, steps, places, row, plane, centre, coefficients, unit):
        weights = cuda.shared.array(weights_shape, real)
        parts = cuda.shared.array(parts_shape, real)
        cells = cuda.shared.array(TILE, np.int64)
        signs = cuda.shared.array(TILE, real)
        shared = weights, cells, signs
        for image in range(cuda.blockIdx.y, steps.shape[0], cuda.gridDim.y):
            step, base = steps[image, 0], steps[image, 1]
            for start in range(cuda.blockIdx.x * TILE, places.shape[0], cuda.gridDim.x * TILE):
                count = min(TILE, places.shape[0] - start)
                settle(start, step, base, places, row, plane, centre, coefficients, unit, shared)
                cuda.syncthreads()
                gather(volume, count, row, plane, shared, parts)
                cuda.syncthreads()
                for s in range(cuda.threadIdx.x, count, THREADS):
                    re, im = value_of(s, parts)
                    samples[image, start + s] = complex(re, signs[s] * im)

    @kernel
    def adjoint(samples, target, scales, steps, places, row, plane, centre, coefficients, unit):
        weights = cuda.shared.array(weights_shape, real)
        values = cuda.shared.array((2, TILE), real)
        cells = cuda.shared.array(TILE, np.int64)
        signs = cuda.shared.array(TILE, real)
        shared = weights, cells, signs
        for image in range(cuda.blockIdx.y, steps.shape[0], cuda.gridDim.y):
            step, base = steps[image, 0], steps[image, 1]
            for start in range(cuda.blockIdx.x * TILE, places.shape[0], cuda.gridDim.x * TILE):
                count = min(TILE, places.shape[0] - start)
                settle(start, step, base, places, row, plane, centre, coefficients, unit, shared)
                for s in range(cuda.threadIdx.x, count, THREADS):
                    value = samples[image, start + s]
                    alone = places[start + s, 0] == 0 and places[start + s, 1] == 0
                    part = half if alone else one
                    values[0, s], values[1, s] = part * value.real, part * signs[s] * value.imag
                cuda.syncthreads()
                spread_pairs(target, count, row, plane, shared, values, scales)
                cuda.syncthreads()

    def make_normal(pair, adds):
        @kernel
        def normal(
            volume,
            other,
            target,
            other_target,
            powers,
            data,
            lines,
            scales,
            other_scales,
            partials,
            steps,
            places,
            row,
            plane,
            centre,
            coefficients,
            unit,
        ):
            weights = cuda.shared.array(weights_shape, real)
            parts = cuda.shared.array(parts_shape, real)
            values = cuda.shared.array((2, TILE), real)
            cells = cuda.shared.array(TILE, np.int64)
            signs = cuda.shared.array(TILE, real)
            shared = weights, cells, signs
            square, mixed, other_square = 0.0, 0.0, 0.0
            for image in range(cuda.blockIdx.y, steps.shape[0], cuda.gridDim.y):
                step, base, line = steps[image, 0], steps[image, 1], lines[image, 1]
                weight_line = 0 if powers.shape[0] == 1 else lines[image, 0]
                for start in range(cuda.blockIdx.x * TILE, places.shape[0], cuda.gridDim.x * TILE):
                    count = min(TILE, places.shape[0] - start)
                    settle(
                        start, step, base, places, row, plane, centre, coefficients, unit, shared
                    )
                    cuda.syncthreads()
                    gather(volume, count, row, plane, shared, parts)
                    cuda.syncthreads()
                    for s in range(cuda.threadIdx.x, count, THREADS):
                        re, im = value_of(s, parts)
                        c = powers[weight_line, start + s]
                        a, b = c * re, c * im
                        square += np.float64(a * re + b * im)
                        if data.shape[0] > 0:
                            d = data[line, start + s]
                            d_im = signs[s] * d.imag
                            mixed += np.float64(d.real * re + d_im * im)
                            a, b = a - d.real, b - d_im
                        if adds:
                            values[0, s], values[1, s] = a, b
                    # Weights, lanes and values are written anew after all have read them.
                    cuda.syncthreads()
                    if adds:
                        spread_pairs(target, count, row, plane, shared, values, scales)
                    if pair:
                        gather(other, count, row, plane, shared, parts)
                        cuda.syncthreads()
                        for s in range(cuda.threadIdx.x, count, THREADS):
                            re, im = value_of(s, parts)
                            c = powers[weight_line, start + s]
                            a, b = c * re, c * im
                            other_square += np.float64(a * re + b * im)
                            if adds:
                                values[0, s], values[1, s] = a, b
                        cuda.syncthreads()
                        if adds:
                            spread_pairs(
                                other_target, count, row, plane, shared, values, other_scales
                            )
                    if adds:
                        cuda.syncthreads()
            block = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x
            block_sum((square, mixed, other_square), partials, block)

        return normal

    def make_power(squared):
        spread = make_spread(1, squared)

        @kernel
        def power(
            target, powers, lines, scales, steps, places, row, plane, centre, coefficients, unit
        ):
            weights = cuda.shared.array(weights_shape, real)
            values = cuda.shared.array((1, TILE), real)
            cells = cuda.shared.array(TILE, np.int64)
            signs = cuda.shared.array(TILE, real)
            shared = weights, cells, signs
            for image in range(cuda.blockIdx.y, steps.shape[0], cuda.gridDim.y):
                step, base = steps[image, 0], steps[image, 1]
                line = 0 if powers.shape[0] == 1 else lines[image, 0]
                for start in range(cuda.blockIdx.x * TILE, places.shape[0], cuda.gridDim.x * TILE):
                    count = min(TILE, places.shape[0] - start)
                    settle(
                        start, step, base, places, row, plane, centre, coefficients, unit, shared
                    )
                    for s in range(cuda.threadIdx.x, count, THREADS):
                        values[0, s] = powers[line, start + s]
                    cuda.syncthreads()
                    spread(target, count, row, plane, shared, values, scales)
                    cuda.syncthreads()

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
