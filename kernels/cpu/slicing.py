"""Slices, back-projection and their fusions, made once per window.

All kernels walk the volume tile by tile and, within a tile, image by image (see
`fastcryo.kernels.layout.disc_tiles`): a tile of the volume stays in the cache while all images of
the batch read it or add to it. Every tile is one thread's alone and sums in a fixed order, so
results do not depend on the number of threads.

Common arguments:

volume : flat half grid, complex
images : (m,) int64, the images of the batch, indices into steps, weights and data
steps : (n, 2, 3) int64, fixed-point rows of the rotations
rows : (2 R + 1, 3) int64, the packed samples
tiles, colours : the tiles and where each colour begins
box : N
unit : 2^-24 (float32) or 2^-52 (float64), the resolution and precision of weights
threads : number of threads to deal the tiles to
weights : (n, samples) or (1, samples) float, C^2 / sigma^2, halved at the origin
data : (n, samples) complex, C y / sigma^2, halved at the origin
sums : (tiles, 2) float64, modified in place: sum of c |s|^2 and of Re(conj(d) s) by tile
"""

from types import SimpleNamespace

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register
from fastcryo.kernels.cpu.segments import find_segments


@register
def segment_start(step, base, k, h, sign, offset):
    """Return position and increment along one axis of the first sample of a run."""
    return sign * (h * step + k * base) + offset, sign * step


def make_kernels(window):
    """Compile (lazily) the kernels of one window of `fastcryo.kernels.cpu.windows`."""
    offset = window.offset
    gather = window.gather
    scatter = window.scatter
    scatter_power = window.scatter_power

    @parallel
    def forward(volume, images, steps, rows, tiles, box, unit, threads, out):
        """Slice the volume: out (m, samples) complex, modified in place."""
        radius = (rows.shape[0] - 1) // 2
        for worker in prange(threads):
            segments = np.empty((4 * radius + 2, 4), np.int64)
            for t in range(worker, tiles.shape[0], threads):
                for j in range(images.size):
                    a, b = steps[images[j], 0], steps[images[j], 1]
                    count = find_segments(steps[images[j]], tiles[t], offset, rows, segments)
                    for s in range(count):
                        k, start, stop, sign = segments[s]
                        qx, dx = segment_start(a[0], b[0], k, start, sign, offset)
                        qy, dy = segment_start(a[1], b[1], k, start, sign, offset)
                        qz, dz = segment_start(a[2], b[2], k, start, sign, offset)
                        conjugate = type(unit)(sign)
                        first = rows[k + radius, 0]
                        for h in range(start, stop):
                            re, im = gather(volume, qx, qy, qz, box, unit)
                            out[j, first + h] = complex(re, conjugate * im)
                            qx += dx
                            qy += dy
                            qz += dz

    @parallel
    def adjoint(samples, images, steps, rows, tiles, colours, box, unit, threads, out):
        """Back-project samples (m, samples) complex into out, a flat half grid, in place."""
        radius = (rows.shape[0] - 1) // 2
        for colour in range(colours.size - 1):
            for worker in prange(threads):
                segments = np.empty((4 * radius + 2, 4), np.int64)
                for t in range(colours[colour] + worker, colours[colour + 1], threads):
                    for j in range(images.size):
                        a, b = steps[images[j], 0], steps[images[j], 1]
                        count = find_segments(steps[images[j]], tiles[t], offset, rows, segments)
                        for s in range(count):
                            k, start, stop, sign = segments[s]
                            qx, dx = segment_start(a[0], b[0], k, start, sign, offset)
                            qy, dy = segment_start(a[1], b[1], k, start, sign, offset)
                            qz, dz = segment_start(a[2], b[2], k, start, sign, offset)
                            conjugate = type(unit)(sign)
                            first = rows[k + radius, 0]
                            for h in range(start, stop):
                                d = samples[j, first + h]
                                scatter(out, qx, qy, qz, box, unit, d.real, conjugate * d.imag)
                                qx += dx
                                qy += dy
                                qz += dz

    @parallel
    def gradient(
        volume,
        images,
        steps,
        rows,
        tiles,
        colours,
        box,
        unit,
        threads,
        weights,
        data,
        out,
        sums,
    ):
        """Sum P^H (c P V - d) into out, a flat half grid; data of no rows stand for zeros."""
        radius = (rows.shape[0] - 1) // 2
        common = weights.shape[0] == 1
        with_data = data.shape[0] > 0
        for colour in range(colours.size - 1):
            for worker in prange(threads):
                segments = np.empty((4 * radius + 2, 4), np.int64)
                for t in range(colours[colour] + worker, colours[colour + 1], threads):
                    square = 0.0
                    mixed = 0.0
                    for j in range(images.size):
                        i = images[j]
                        a, b = steps[i, 0], steps[i, 1]
                        w = 0 if common else i
                        count = find_segments(steps[i], tiles[t], offset, rows, segments)
                        for s in range(count):
                            k, start, stop, sign = segments[s]
                            qx, dx = segment_start(a[0], b[0], k, start, sign, offset)
                            qy, dy = segment_start(a[1], b[1], k, start, sign, offset)
                            qz, dz = segment_start(a[2], b[2], k, start, sign, offset)
                            conjugate = type(unit)(sign)
                            first = rows[k + radius, 0]
                            for h in range(start, stop):
                                re, im = gather(volume, qx, qy, qz, box, unit)
                                c = weights[w, first + h]
                                square += np.float64(c * (re * re + im * im))
                                r, q = c * re, c * im
                                if with_data:
                                    d = data[i, first + h]
                                    e = conjugate * d.imag
                                    mixed += np.float64(d.real * re + e * im)
                                    r -= d.real
                                    q -= e
                                scatter(out, qx, qy, qz, box, unit, r, q)
                                qx += dx
                                qy += dy
                                qz += dz
                    sums[t, 0] = square
                    sums[t, 1] = mixed

    @parallel
    def energy(volume, images, steps, rows, tiles, box, unit, threads, weights, data, sums):
        """Fill `sums` without touching a second volume; data of no rows stand for zeros."""
        radius = (rows.shape[0] - 1) // 2
        common = weights.shape[0] == 1
        with_data = data.shape[0] > 0
        for worker in prange(threads):
            segments = np.empty((4 * radius + 2, 4), np.int64)
            for t in range(worker, tiles.shape[0], threads):
                square = 0.0
                mixed = 0.0
                for j in range(images.size):
                    i = images[j]
                    a, b = steps[i, 0], steps[i, 1]
                    w = 0 if common else i
                    count = find_segments(steps[i], tiles[t], offset, rows, segments)
                    for s in range(count):
                        k, start, stop, sign = segments[s]
                        qx, dx = segment_start(a[0], b[0], k, start, sign, offset)
                        qy, dy = segment_start(a[1], b[1], k, start, sign, offset)
                        qz, dz = segment_start(a[2], b[2], k, start, sign, offset)
                        conjugate = type(unit)(sign)
                        first = rows[k + radius, 0]
                        for h in range(start, stop):
                            re, im = gather(volume, qx, qy, qz, box, unit)
                            c = weights[w, first + h]
                            square += np.float64(c * (re * re + im * im))
                            if with_data:
                                d = data[i, first + h]
                                mixed += np.float64(d.real * re + conjugate * d.imag * im)
                            qx += dx
                            qy += dy
                            qz += dz
                sums[t, 0] = square
                sums[t, 1] = mixed

    @parallel
    def diagonal(images, steps, rows, tiles, colours, box, unit, threads, weights, squared, out):
        """Sum c w^2 (squared) or c w over all samples into out, a flat real half grid."""
        radius = (rows.shape[0] - 1) // 2
        common = weights.shape[0] == 1
        for colour in range(colours.size - 1):
            for worker in prange(threads):
                segments = np.empty((4 * radius + 2, 4), np.int64)
                for t in range(colours[colour] + worker, colours[colour + 1], threads):
                    for j in range(images.size):
                        i = images[j]
                        a, b = steps[i, 0], steps[i, 1]
                        w = 0 if common else i
                        count = find_segments(steps[i], tiles[t], offset, rows, segments)
                        for s in range(count):
                            k, start, stop, sign = segments[s]
                            qx, dx = segment_start(a[0], b[0], k, start, sign, offset)
                            qy, dy = segment_start(a[1], b[1], k, start, sign, offset)
                            qz, dz = segment_start(a[2], b[2], k, start, sign, offset)
                            first = rows[k + radius, 0]
                            for h in range(start, stop):
                                c = weights[w, first + h]
                                scatter_power(out, qx, qy, qz, box, unit, c, squared)
                                qx += dx
                                qy += dy
                                qz += dz

    return SimpleNamespace(
        forward=forward, adjoint=adjoint, gradient=gradient, energy=energy, diagonal=diagonal
    )
