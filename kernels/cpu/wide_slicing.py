"""Slices and back-projection with wide windows on an oversampled grid, and their fusions.

The sweep is that of `fastcryo.kernels.cpu.slicing`, tile by tile in buffers of a thread's own and
halos added in a fixed order, on the layout of `fastcryo.kernels.wide`. It ends with the extended
half volume: the prior, the fold of planes z < 0 and of periodic copies belong to the transform
that follows (`fastcryo.oversampling`).

A volume may be read and replaced by the sums in one pass: the halos of what is read are set aside
first, so that no tile reads a cell that another has written. A gradient then needs one oversampled
volume, where two would be most of its memory.
"""

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register
from fastcryo.kernels.cpu.runs import LISTED, far_from, make_process_images
from fastcryo.kernels.cpu.tickets import take
from fastcryo.kernels.cpu.wide_rows import gather, scatter
from fastcryo.kernels.cpu.wide_tiles import (
    add_wide_halos,
    clear_wide,
    load_wide,
    set_aside,
    store_wide,
)
from fastcryo.kernels.cpu.windows import TRILINEAR, fraction
from fastcryo.kernels.layout import FRACTION_BITS
from fastcryo.kernels.wide import halo_slots, wide_strides

register(wide_strides)
register(halo_slots)
touch = TRILINEAR.touch


def make_wide_sweep(process, ask):
    """Make the kernel that hands every run of samples to `process`.

    `process` and `ask` are those of `fastcryo.kernels.cpu.runs.make_process_images`, whose first
    two sums are taken by tile; frame is (stride along y, along z, polynomials of the window, unit),
    taps is a tuple of W numbers.
    """
    process_images = make_process_images(process, ask)

    @parallel
    def sweep(
        source,
        target,
        halos,
        tables,
        images,
        steps,
        rows,
        tiles,
        neighbours,
        widths,
        bound,
        offset,
        kernel,
        taps,
        unit,
        threads,
        fresh,
        sums,
    ):
        """Process all samples of a batch.

        Parameters
        ----------
        source, target : (cells,) complex, or (0,)
            Extended half volumes, flat: read; written (`fresh`) or added to. They may be the same
            array, if fresh. Rows that no window can touch are left alone.
        halos : (t slots (2 B + W),) of the target's type, modified in place
            Room for what tiles sum in cells of their neighbours: `fastcryo.kernels.wide.halo_slots`
            rows of each.
        tables : tuple of arrays
            Weights, data, samples: what `process` reads or writes by image.
        images : (m,) int64
            The images of the batch, indices into steps.
        steps : (n, 2, 3) int64
            `fastcryo.kernels.wide.oversampled_steps`.
        rows : (2 R + 1, 3) int64
            The packed samples.
        tiles, neighbours, widths
            From `fastcryo.kernels.wide`.
        bound, offset : int
            B and `window_offset`.
        kernel : (degree + 1, lanes) float
            `fastcryo.kernels.cpu.wide_rows.packed`.
        taps : tuple of W numbers
        unit : float
            2^-24 (float32) or 2^-52 (float64), the resolution and precision of weights.
        threads : int
        fresh : bool
        sums : (t, 2) float64, modified in place
        """
        radius = (rows.shape[0] - 1) // 2
        halo = len(taps) - 1
        depth, height, slots = halo_slots(tiles, halo)
        row, plane = wide_strides(widths.shape[1], height + halo)
        size = (depth + halo) * plane
        read_size = size if source.size > 0 else 0
        sum_size = size if target.size > 0 else 0
        shared = tiles.shape[0] if target.size > 0 else 0
        aside = read_size > 0 and sum_size > 0
        counter = np.zeros(1, np.int64)
        for _ in prange(threads if aside else 0):
            t = take(counter)
            while t < shared:
                set_aside(source, tiles[t], bound, widths, halo, halos, t * slots)
                t = take(counter)
        counter[0] = 0
        for _ in prange(threads):
            segments = np.empty((LISTED * (4 * radius + 2), 5), np.int64)
            # Unused lanes read cells that nothing wrote, with weight 0: they must be finite.
            volume = np.zeros(read_size, source.dtype)
            total = np.zeros(sum_size, target.dtype)
            t = take(counter)
            while t < tiles.shape[0]:
                if read_size > 0:
                    kept = t * slots if aside else -1
                    load_wide(
                        source, tiles[t], bound, widths, halo, row, plane, halos, kept, volume
                    )
                if sum_size > 0:
                    clear_wide(tiles[t], bound, widths, halo, row, plane, total)
                sum0, sum1 = 0.0, 0.0
                frame = (row, plane, kernel, unit)
                corner = (-bound, tiles[t, 2], tiles[t, 0])
                for block in range(0, images.size, LISTED):
                    few = (block, min(block + LISTED, images.size))
                    part = process_images(
                        (volume, total),
                        tables,
                        (images, steps),
                        few,
                        rows,
                        tiles[t],
                        (offset, corner),
                        frame,
                        taps,
                        segments,
                    )
                    sum0, sum1 = sum0 + part[0], sum1 + part[1]
                sums[t, 0], sums[t, 1] = sum0, sum1
                if sum_size > 0:
                    store_wide(
                        total,
                        tiles[t],
                        bound,
                        widths,
                        halo,
                        row,
                        plane,
                        target,
                        halos,
                        t * slots,
                        fresh,
                    )
                t = take(counter)
        counter[0] = 0
        for _ in prange(threads if shared > 0 else 0):
            t = take(counter)
            while t < shared:
                add_wide_halos(halos, slots, tiles, neighbours, t, bound, widths, halo, target)
                t = take(counter)

    return sweep


@register
def place_of(path, i, frame):
    """Return where the window of sample i of a run begins, and u along x, y and z."""
    (row, plane, _, unit), (q, d) = frame, path
    qx, qy, qz = q[0] + i * d[0], q[1] + i * d[1], q[2] + i * d[2]
    place = (qz >> FRACTION_BITS) * plane + (qy >> FRACTION_BITS) * row + (qx >> FRACTION_BITS)
    half = type(unit)(0.5)
    return place, fraction(qx, unit) - half, fraction(qy, unit) - half, fraction(qz, unit) - half


@register
def read_run(buffers, tables, run, path, frame, taps):
    """Read the volume: tables are (samples (m, samples),)."""
    (volume, _), (samples,), (batch, _, first, count, sign) = buffers, tables, run
    row, plane, kernel, unit = frame
    conjugate = type(unit)(sign)
    for i in range(count):
        place, ux, uy, uz = place_of(path, i, frame)
        re, im = gather(volume, place, row, plane, kernel, ux, uy, uz, taps)
        samples[batch, first + i] = complex(re, conjugate * im)
    return 0.0, 0.0, 0.0


@register
def add_run(buffers, tables, run, path, frame, taps):
    """Add samples to the volume: tables are (samples (m, samples), the one that is halved)."""
    (_, total), (samples, origin), (batch, _, first, count, sign) = buffers, tables, run
    row, plane, kernel, unit = frame
    conjugate, one, half = type(unit)(sign), type(unit)(1), type(unit)(0.5)
    i = 0
    for _ in range(count):
        place, ux, uy, uz = place_of(path, i, frame)
        value = samples[batch, first + i]
        part = half if first + i == origin else one
        pair = (part * value.real, part * conjugate * value.imag)
        scatter(total, place, row, plane, kernel, ux, uy, uz, taps, pair)
        i = far_from(i, count)
    return 0.0, 0.0, 0.0


@register
def gradient_run(buffers, tables, run, path, frame, taps):
    """Add P^H (c P V - d) without storing the slice: tables are (weights, data)."""
    (volume, total), (powers, data), (_, image, first, count, sign) = buffers, tables, run
    row, plane, kernel, unit = frame
    line = 0 if powers.shape[0] == 1 else image
    with_data = data.shape[0] > 0
    conjugate = type(unit)(sign)
    square, mixed = 0.0, 0.0
    i = 0
    for _ in range(count):
        place, ux, uy, uz = place_of(path, i, frame)
        re, im = gather(volume, place, row, plane, kernel, ux, uy, uz, taps)
        c = powers[line, first + i]
        square += np.float64(c * (re * re + im * im))
        added_re, added_im = c * re, c * im
        if with_data:
            y = data[image, first + i]
            y_re, y_im = y.real, conjugate * y.imag
            mixed += np.float64(y_re * re + y_im * im)
            added_re, added_im = added_re - y_re, added_im - y_im
        scatter(total, place, row, plane, kernel, ux, uy, uz, taps, (added_re, added_im))
        i = far_from(i, count)
    return square, mixed, 0.0


@register
def energy_run(buffers, tables, run, path, frame, taps):
    """Sum as `gradient_run` does, and touch no second volume."""
    (volume, _), (powers, data), (_, image, first, count, sign) = buffers, tables, run
    row, plane, kernel, unit = frame
    line = 0 if powers.shape[0] == 1 else image
    with_data = data.shape[0] > 0
    conjugate = type(unit)(sign)
    square, mixed = 0.0, 0.0
    for i in range(count):
        place, ux, uy, uz = place_of(path, i, frame)
        re, im = gather(volume, place, row, plane, kernel, ux, uy, uz, taps)
        square += np.float64(powers[line, first + i] * (re * re + im * im))
        if with_data:
            y = data[image, first + i]
            mixed += np.float64(y.real * re + conjugate * y.imag * im)
    return square, mixed, 0.0


@register
def power_run(buffers, tables, run, path, frame, taps):
    """Add c w to a real volume: tables are (weights,)."""
    (_, total), (powers,), (_, image, first, count, _) = buffers, tables, run
    row, plane, kernel, _ = frame
    line = 0 if powers.shape[0] == 1 else image
    i = 0
    for _ in range(count):
        place, ux, uy, uz = place_of(path, i, frame)
        c = powers[line, first + i]
        scatter(total, place, row, plane, kernel, ux, uy, uz, taps, (c,))
        i = far_from(i, count)
    return 0.0, 0.0, 0.0


@register
def ask_nothing(tables, batch, image, first, count):
    """Ask for nothing: what is only written need not be near."""


@register
def ask_samples(tables, batch, image, first, count):
    """Ask for the samples of a run."""
    for i in range(first, first + count, 8):
        touch(tables[0], batch, i)


@register
def ask_weights(tables, batch, image, first, count):
    """Ask for the weights of a run."""
    if tables[0].shape[0] > 1:
        for i in range(first, first + count, 16):
            touch(tables[0], image, i)


@register
def ask_weights_and_data(tables, batch, image, first, count):
    """Ask for the weights and data of a run."""
    ask_weights(tables, batch, image, first, count)
    if tables[1].shape[0] > 0:
        for i in range(first, first + count, 8):
            touch(tables[1], image, i)


forward = make_wide_sweep(read_run, ask_nothing)
adjoint = make_wide_sweep(add_run, ask_samples)
gradient = make_wide_sweep(gradient_run, ask_weights_and_data)
energy = make_wide_sweep(energy_run, ask_weights_and_data)
gridding = make_wide_sweep(power_run, ask_weights)
