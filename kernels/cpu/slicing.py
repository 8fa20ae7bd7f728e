"""Slices, back-projection and their fusions, made once per window.

One sweep serves them all. It walks the volume tile by tile and, within a tile, image by image (see
`fastcryo.kernels.layout.disc_tiles`): a tile is copied into a buffer of the thread's own, which
stays in the cache while all images of the batch read it, and sums are collected in another and
added to the volume once. What is done to a run of neighbouring samples, a few lines per operation,
is all that differs. A thread takes the next tile when it is done with one. Every tile is one
thread's alone and sums in a fixed order, as do the rows that neighbouring tiles share, so results
do not depend on the number of threads.
"""

from types import SimpleNamespace

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register
from fastcryo.kernels.cpu.runs import LISTED, far_from, make_process_images
from fastcryo.kernels.cpu.tickets import take
from fastcryo.kernels.cpu.tiles import (
    add_halos,
    clear_tile,
    fill_outside,
    load_tile,
    make_buffer,
    store_ground,
    store_tile,
    zeros_like_all,
)
from fastcryo.kernels.cpu.windows import SPARE
from fastcryo.kernels.layout import buffer_strides

register(buffer_strides)


def make_sweep(process, ask, offset, tap_rows=0, reads=True, adds=True):
    """Make the kernel that hands every run of samples to `process`.

    `process` and `ask` are those of `fastcryo.kernels.cpu.runs.make_process_images`, whose sums are
    taken by tile; frame is (stride along y, along z, origin of the tile, unit), taps are places
    (samples,) and weights (tap_rows, samples), to write the taps of a run into.
    `reads` and `adds` tell whether `process` uses the source and the target: what they need is not
    compiled otherwise.
    """
    process_images = make_process_images(process, ask)

    @parallel
    def sweep(
        source,
        target,
        tables,
        images,
        steps,
        rows,
        tiles,
        neighbours,
        widths,
        box,
        unit,
        threads,
        scale,
        damping,
        fresh,
        chunk,
        sums,
    ):
        """Process all samples of a batch.

        Parameters
        ----------
        source : tuple of one or two (voxels,) complex, or ((0,),)
            The flat half grids that are read.
        target : tuple of one or two (voxels,), or ((0,),), modified in place
            The flat half grids that are written, or added to.
        tables : tuple of arrays
            Weights, data, samples: what `process` reads or writes by image.
        images : (m,) int64
            The images of the batch, indices into steps.
        steps : (n, 2, 3) int64
            Fixed-point rows of the rotations.
        rows : (2 R + 1, 3) int64
            The packed samples.
        tiles : (t, 4) int64
        neighbours : (t, 3) int64
            Both from `fastcryo.kernels.layout.disc_tiles`.
        widths : (R + 1, 2 R + 1) int64
            `fastcryo.kernels.layout.row_widths`.
        box : int
            N.
        unit : float
            2^-24 (float32) or 2^-52 (float64), the resolution and precision of weights.
        threads : int
            Number of threads that share the tiles.
        scale : float
            Factor of the sums that go to `target`.
        damping : (0,), (1,) or (voxels,) float
            lambda of the prior; needs a source.
        fresh : bool
            Whether to write scale S + prior to the targets, whatever they hold, or to add scale S.
        chunk : int
            Images that are processed at a time: without target, parts of the batch are shared among
            threads as well as tiles; with one, all images.
        sums : (u + N // 2 + 1, 4) float64, modified in place
            The three sums by tile and chunk and, by tile and plane, lambda |V|^2.
        """
        radius = (rows.shape[0] - 1) // 2
        depth, width = 0, 0
        for t in range(tiles.shape[0]):
            depth = max(depth, tiles[t, 1] - tiles[t, 0] + 1)
            width = max(width, tiles[t, 3] - tiles[t, 2])
        row, plane = buffer_strides(radius, width)
        if adds:
            grounds = zeros_like_all(target, box * box)
            halos = np.empty((tiles.shape[0], depth + width, row * len(target)), target[0].dtype)
        chunks = max(1, (images.size + chunk - 1) // chunk)
        units = tiles.shape[0] * chunks
        counter = np.zeros(1, np.int64)
        for _ in prange(threads):
            segments = np.empty((LISTED * (4 * radius + 2), 5), np.int64)
            longest = radius + 1 + SPARE
            taps = (np.empty(longest, np.int64), np.full((tap_rows, longest), unit))
            loaded = -1
            unit_of_work = take(counter)
            # A thread that finds no work left needs no memory.
            size = depth * plane if unit_of_work < units else 0
            volume = make_buffer(source, size if reads else 0)
            total = make_buffer(target, size if adds else 0)
            while unit_of_work < units:
                t, part_of_batch = unit_of_work // chunks, unit_of_work % chunks
                first_image = part_of_batch * chunk
                stop_image = min(first_image + chunk, images.size)
                origin = (-radius, tiles[t, 2], tiles[t, 0])
                frame = (row, plane, origin, unit)
                if reads and t != loaded:
                    load_tile(source, tiles[t], widths, row, plane, box, volume)
                    loaded = t
                if adds:
                    clear_tile(tiles[t], widths, row, plane, box, total)
                sum0, sum1, sum2 = 0.0, 0.0, 0.0
                for block in range(first_image, stop_image, LISTED):
                    few = (block, min(block + LISTED, stop_image))
                    part = process_images(
                        (volume, total),
                        tables,
                        (images, steps),
                        few,
                        rows,
                        tiles[t],
                        (offset, origin),
                        frame,
                        taps,
                        segments,
                    )
                    sum0, sum1, sum2 = sum0 + part[0], sum1 + part[1], sum2 + part[2]
                if adds:
                    sums[unit_of_work, 3] = store_tile(
                        (volume, total),
                        tiles[t],
                        widths,
                        row,
                        plane,
                        box,
                        target,
                        grounds,
                        halos[t],
                        scale,
                        fresh,
                        damping,
                    )
                sums[unit_of_work, 0] = sum0
                sums[unit_of_work, 1] = sum1
                sums[unit_of_work, 2] = sum2
                unit_of_work = take(counter)
        if adds:
            planes = box // 2 if fresh else 0
            counter[0] = 0
            for _ in prange(threads):
                u = take(counter)
                while u < planes + tiles.shape[0]:
                    if u < planes:
                        z = planes - u
                        norm = fill_outside(z, widths, box, target, source, damping)
                        sums[units + z, 3] = norm
                    else:
                        t = u - planes
                        add_halos(halos, tiles, neighbours, t, widths, box, target, grounds, scale)
                    u = take(counter)
            norm = store_ground(grounds, box, target, scale, fresh, source, damping)
            sums[units, 3] = norm

    return sweep


def make_kernels(window):
    """Make the kernels of one window of `fastcryo.kernels.cpu.windows`; they compile when called.

    The ``tables`` of each, with weights (n, samples) or (1, samples) = C^2 / sigma^2 and data
    (n, samples) = C y / sigma^2, both halved at the origin; data of no rows stand for zeros:

    forward : (samples (m, samples),), filled from the source
    adjoint : (samples (m, samples),), added to the target
    gradient : (weights, data), P^H (c P V - d) added to the target; sums are c |s|^2,
        Re(conj(d) s) and, where there is a second volume, c |s'|^2 of that; data concern the first
    energy : (weights, data); the same sums
    power : (weights, (1,) bool), c w^2 or c w added to a real target
    diagonal : (weights,), with squares; gridding : without
    """
    gather, scatter, scatter_power = window.gather, window.scatter, window.scatter_power
    list_taps, conjugation = window.list_taps, window.conjugation
    read, write, scale, subtract = window.read, window.write, window.scale, window.subtract
    zero, accumulate, channel_sums = window.zero, window.accumulate, window.channel_sums
    touch = window.touch

    @register
    def touch_run(array, line, first, count, step):
        for j in range(first, first + count, step):
            touch(array, line, j)

    @register
    def ask_samples(tables, batch, image, first, count):
        """Ask for the samples of a run."""
        touch_run(tables[0], batch, first, count, 8)

    @register
    def ask_weights(tables, batch, image, first, count):
        """Ask for the weights of a run."""
        if tables[0].shape[0] > 1:
            touch_run(tables[0], image, first, count, 16)

    @register
    def ask_weights_and_data(tables, batch, image, first, count):
        """Ask for weights and data of a run."""
        if tables[0].shape[0] > 1:
            touch_run(tables[0], image, first, count, 16)
        if tables[1].shape[0] > 0:
            touch_run(tables[1], image, first, count, 8)

    @register
    def ask_nothing(tables, batch, image, first, count):
        """Ask for nothing: what is only written need not be near."""

    @register
    def slice_run(buffers, tables, run, path, frame, taps):
        """Read the volume."""
        (volume, _), (samples,), (batch, _, first, count, sign) = buffers, tables, run
        (row, plane, _, unit), (places, weights) = frame, taps
        list_taps(*path, count, row, plane, unit, places, weights)
        conjugate = conjugation(volume, sign, unit)
        for i in range(count):
            value = gather(volume, places, weights, i, row, plane)
            write(samples, batch, first + i, conjugate, value)
        return 0.0, 0.0, 0.0

    @register
    def project_back_run(buffers, tables, run, path, frame, taps):
        """Add samples to the volume."""
        (_, total), (samples,), (batch, _, first, count, sign) = buffers, tables, run
        (row, plane, _, unit), (places, weights) = frame, taps
        list_taps(*path, count, row, plane, unit, places, weights)
        conjugate = conjugation(total, sign, unit)
        i = 0
        for _ in range(count):
            value = read(samples, batch, first + i, conjugate)
            scatter(total, places, weights, i, row, plane, value)
            i = far_from(i, count)
        return 0.0, 0.0, 0.0

    @register
    def gradient_run(buffers, tables, run, path, frame, taps):
        """Add P^H (c P V - d) without storing the slice."""
        (volume, total), (powers, data), (_, image, first, count, sign) = buffers, tables, run
        (row, plane, _, unit), (places, weights) = frame, taps
        line = 0 if powers.shape[0] == 1 else image
        with_data = data.shape[0] > 0
        list_taps(*path, count, row, plane, unit, places, weights)
        conjugate = conjugation(volume, sign, unit)
        squares = mixed = zero(conjugate)
        i = 0
        for _ in range(count):
            j = first + i
            value = gather(volume, places, weights, i, row, plane)
            scaled = scale(powers, line, j, value)
            squares = accumulate(squares, scaled, value)
            if with_data:
                y = read(data, image, j, conjugate)
                mixed = accumulate(mixed, y, value)
                scaled = subtract(scaled, y)
            scatter(total, places, weights, i, row, plane, scaled)
            i = far_from(i, count)
        square, other_square = channel_sums(squares)
        return square, channel_sums(mixed)[0], other_square

    @register
    def energy_run(buffers, tables, run, path, frame, taps):
        """Sum as `gradient_run` does, and touch no second volume."""
        (volume, _), (powers, data), (_, image, first, count, sign) = buffers, tables, run
        (row, plane, _, unit), (places, weights) = frame, taps
        line = 0 if powers.shape[0] == 1 else image
        with_data = data.shape[0] > 0
        list_taps(*path, count, row, plane, unit, places, weights)
        conjugate = conjugation(volume, sign, unit)
        squares = mixed = zero(conjugate)
        for i in range(count):
            j = first + i
            value = gather(volume, places, weights, i, row, plane)
            squares = accumulate(squares, scale(powers, line, j, value), value)
            if with_data:
                mixed = accumulate(mixed, read(data, image, j, conjugate), value)
        square, other_square = channel_sums(squares)
        return square, channel_sums(mixed)[0], other_square

    @register
    def power_run(buffers, tables, run, path, frame, taps):
        """Add c w^2 or c w."""
        (_, total), (powers, squared), (_, image, first, count, _) = buffers, tables, run
        (row, plane, _, unit), (places, weights) = frame, taps
        line = 0 if powers.shape[0] == 1 else image
        list_taps(*path, count, row, plane, unit, places, weights)
        i = 0
        for _ in range(count):
            c = powers[line, first + i]
            scatter_power(total, places, weights, i, row, plane, c, squared[0])
            i = far_from(i, count)
        return 0.0, 0.0, 0.0

    def make(process, ask, **uses):
        return make_sweep(process, ask, window.offset, window.taps, **uses)

    power = make(power_run, ask_weights, reads=False)

    def make_power(squared):
        # One kernel for both: it takes seconds to compile.
        choice = np.array([squared])

        def sweep(source, target, tables, *others):
            power(source, target, (*tables, choice), *others)

        return sweep

    return SimpleNamespace(
        pairs=window.pairs,
        forward=make(slice_run, ask_nothing, adds=False),
        adjoint=make(project_back_run, ask_samples, reads=False),
        gradient=make(gradient_run, ask_weights_and_data),
        energy=make(energy_run, ask_weights_and_data, adds=False),
        power=power,
        diagonal=make_power(True),
        gridding=make_power(False),
    )
