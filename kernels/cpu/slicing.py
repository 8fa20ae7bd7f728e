"""Slices, back-projection and their fusions, made once per window.

One sweep serves them all. It walks the volume tile by tile and, within a tile, image by image (see
`fastcryo.kernels.layout.disc_tiles`): a tile of the volume stays in the cache while all images of
the batch read it or add to it. What is done to a run of neighbouring samples, a few lines per
operation, is all that differs. Every tile is one thread's alone and sums in a fixed order, so
results do not depend on the number of threads.
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


def make_sweep(process, offset):
    """Make the kernel that hands every run of samples to `process`.

    ``process(arrays, batch, image, first, count, q, d, sign, box, unit)`` treats the samples
    first to first + count of an image, at positions q, q + d, ...; it returns two float64 numbers,
    which are summed by tile.
    """

    @parallel
    def sweep(arrays, images, steps, rows, tiles, colours, box, unit, threads, sums):
        """Process all samples of a batch.

        Parameters
        ----------
        arrays : tuple of arrays
            What `process` reads and adds to; volumes are flat half grids.
        images : (m,) int64
            The images of the batch, indices into steps.
        steps : (n, 2, 3) int64
            Fixed-point rows of the rotations.
        rows : (2 R + 1, 3) int64
            The packed samples.
        tiles : (t, 4) int64
        colours : (c + 1,) int64
            Tiles colours[c] to colours[c + 1] may be added to side by side; (0, t) where nothing is
            added to a volume.
        box : int
            N.
        unit : float
            2^-24 (float32) or 2^-52 (float64), the resolution and precision of weights.
        threads : int
            Number of threads to deal the tiles to.
        sums : (t, 2) float64, modified in place
        """
        radius = (rows.shape[0] - 1) // 2
        for colour in range(colours.size - 1):
            for worker in prange(threads):
                segments = np.empty((4 * radius + 2, 4), np.int64)
                for t in range(colours[colour] + worker, colours[colour + 1], threads):
                    total = (0.0, 0.0)
                    for j in range(images.size):
                        i = images[j]
                        a, b = steps[i, 0], steps[i, 1]
                        count = find_segments(steps[i], tiles[t], offset, rows, segments)
                        for s in range(count):
                            k, start, stop, sign = segments[s]
                            qx, dx = segment_start(a[0], b[0], k, start, sign, offset)
                            qy, dy = segment_start(a[1], b[1], k, start, sign, offset)
                            qz, dz = segment_start(a[2], b[2], k, start, sign, offset)
                            first = rows[k + radius, 0] + start
                            q, d = (qx, qy, qz), (dx, dy, dz)
                            p = process(arrays, j, i, first, stop - start, q, d, sign, box, unit)
                            total = (total[0] + p[0], total[1] + p[1])
                    sums[t, 0], sums[t, 1] = total

    return sweep


def make_kernels(window):
    """Make the kernels of one window of `fastcryo.kernels.cpu.windows`; they compile when called.

    The ``arrays`` of each, with weights (n, samples) or (1, samples) = C^2 / sigma^2 and data
    (n, samples) = C y / sigma^2, both halved at the origin; data of no rows stand for zeros:

    forward : (volume, samples (m, samples))
    adjoint : (samples (m, samples), volume)
    gradient : (volume, weights, data, total); sums are c |s|^2 and Re(conj(d) s)
    energy : (volume, weights, data); the same sums
    diagonal : (weights, real volume), c w^2; gridding : the same, c w
    """
    gather, scatter, scatter_power = window.gather, window.scatter, window.scatter_power

    @register
    def slice_run(arrays, batch, image, first, count, q, d, sign, box, unit):
        """Read the volume."""
        volume, samples = arrays
        conjugate = type(unit)(sign)
        qx, qy, qz = q
        for h in range(count):
            re, im = gather(volume, qx, qy, qz, box, unit)
            samples[batch, first + h] = complex(re, conjugate * im)
            qx += d[0]
            qy += d[1]
            qz += d[2]
        return 0.0, 0.0

    @register
    def project_back_run(arrays, batch, image, first, count, q, d, sign, box, unit):
        """Add samples to the volume."""
        samples, volume = arrays
        conjugate = type(unit)(sign)
        qx, qy, qz = q
        for h in range(count):
            s = samples[batch, first + h]
            scatter(volume, qx, qy, qz, box, unit, s.real, conjugate * s.imag)
            qx += d[0]
            qy += d[1]
            qz += d[2]
        return 0.0, 0.0

    @register
    def gradient_run(arrays, batch, image, first, count, q, d, sign, box, unit):
        """Add P^H (c P V - d) without storing the slice."""
        volume, weights, data, total = arrays
        conjugate = type(unit)(sign)
        row = 0 if weights.shape[0] == 1 else image
        with_data = data.shape[0] > 0
        qx, qy, qz = q
        square = 0.0
        mixed = 0.0
        for h in range(count):
            re, im = gather(volume, qx, qy, qz, box, unit)
            c = weights[row, first + h]
            square += np.float64(c * (re * re + im * im))
            r, s = c * re, c * im
            if with_data:
                y = data[image, first + h]
                yi = conjugate * y.imag
                mixed += np.float64(y.real * re + yi * im)
                r -= y.real
                s -= yi
            scatter(total, qx, qy, qz, box, unit, r, s)
            qx += d[0]
            qy += d[1]
            qz += d[2]
        return square, mixed

    @register
    def energy_run(arrays, batch, image, first, count, q, d, sign, box, unit):
        """Sum as `gradient_run` does, and touch no second volume."""
        volume, weights, data = arrays
        conjugate = type(unit)(sign)
        row = 0 if weights.shape[0] == 1 else image
        with_data = data.shape[0] > 0
        qx, qy, qz = q
        square = 0.0
        mixed = 0.0
        for h in range(count):
            re, im = gather(volume, qx, qy, qz, box, unit)
            c = weights[row, first + h]
            square += np.float64(c * (re * re + im * im))
            if with_data:
                y = data[image, first + h]
                mixed += np.float64(y.real * re + conjugate * y.imag * im)
            qx += d[0]
            qy += d[1]
            qz += d[2]
        return square, mixed

    def make_power_run(squared):
        @register
        def power_run(arrays, batch, image, first, count, q, d, sign, box, unit):
            """Add c w^2 (squared) or c w."""
            weights, volume = arrays
            row = 0 if weights.shape[0] == 1 else image
            qx, qy, qz = q
            for h in range(count):
                scatter_power(volume, qx, qy, qz, box, unit, weights[row, first + h], squared)
                qx += d[0]
                qy += d[1]
                qz += d[2]
            return 0.0, 0.0

        return power_run

    return SimpleNamespace(
        forward=make_sweep(slice_run, window.offset),
        adjoint=make_sweep(project_back_run, window.offset),
        gradient=make_sweep(gradient_run, window.offset),
        energy=make_sweep(energy_run, window.offset),
        diagonal=make_sweep(make_power_run(True), window.offset),
        gridding=make_sweep(make_power_run(False), window.offset),
    )
