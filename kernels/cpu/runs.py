"""Runs of neighbouring samples that fall into a tile: a few images' are listed, then processed.

The samples of an image lie far from those of the next, so a run's data would be waited for at its
first sample. The runs of a few images are therefore listed before they are processed, and the data
of a run are asked for while earlier runs are at work.
"""

from fastcryo.kernels._jit import register
from fastcryo.kernels.cpu.segments import find_segments
from fastcryo.kernels.layout import FRACTION_BITS

# Images whose runs are listed at a time, and how many runs ahead data are asked for.
LISTED = 8
AHEAD = 2
# Samples of a run that lie between one that is added and the next.
STRIDE = 4


@register
def segment_start(step, base, k, h, sign, offset):
    """Return position and increment along one axis of the first sample of a run."""
    return sign * (h * step + k * base) + offset, sign * step


@register
def far_from(i, count):
    """Return the sample of a run to add after sample i: 0, 4, 8, ..., then 1, 5, 9, ..., and so on.

    Samples four apart lie in cells that share no voxel. Neighbours do, and reading a voxel that has
    just been written with another offset waits until the write has left the processor's queue.
    """
    after = i + STRIDE
    return after if after < count else i % STRIDE + 1


def make_process_images(process, ask):
    """Make the function that hands the runs of a few images in a tile to `process`.

    ``process(buffers, tables, run, path, frame, taps)`` treats a run of neighbouring samples and
    returns three float64 numbers:

    buffers : what is read and what is added to, of a tile
    tables : arrays of samples, weights or data by image
    run : place of the image in the batch, image, first sample, number of samples, sign
    path : position (x, y, z) of the first sample from the corner of the tile, step to the next
    frame, taps : as given, of the window

    ``ask(tables, batch, image, first, count)`` is called some runs before.
    """

    @register
    def process_images(buffers, tables, batch, few, rows, tile, origin, frame, taps, segments):
        """Process the samples of some images of a batch in a tile; returns three sums.

        `batch` is (images, steps), `few` the first of them and the last + 1, `origin` the offset of
        the window and the corner (x, y, z) of the buffers, `segments` room for the list.

        Nothing here counts references to arrays, as the loops of a sweep do: with two threads a
        gradient takes 0.9 of the time.
        """
        (images, steps), (offset, corner) = batch, origin
        radius = (rows.shape[0] - 1) // 2
        sum0, sum1, sum2 = 0.0, 0.0, 0.0
        count = 0
        for j in range(few[0], few[1]):
            count += find_segments(steps[images[j]], tile, offset, rows, j, segments[count:])
        for s in range(count):
            if s + AHEAD < count:
                k, start, stop, sign, j = segments[s + AHEAD]
                first = rows[k + radius, 0] + start
                ask(tables, j, images[j], first, stop - start)
            k, start, stop, sign, j = segments[s]
            a, b = steps[images[j], 0], steps[images[j], 1]
            shift = offset - (corner[0] << FRACTION_BITS)
            qx, dx = segment_start(a[0], b[0], k, start, sign, shift)
            shift = offset - (corner[1] << FRACTION_BITS)
            qy, dy = segment_start(a[1], b[1], k, start, sign, shift)
            shift = offset - (corner[2] << FRACTION_BITS)
            qz, dz = segment_start(a[2], b[2], k, start, sign, shift)
            first = rows[k + radius, 0] + start
            run = (j, images[j], first, stop - start, sign)
            path = ((qx, qy, qz), (dx, dy, dz))
            part = process(buffers, tables, run, path, frame, taps)
            sum0, sum1, sum2 = sum0 + part[0], sum1 + part[1], sum2 + part[2]
        return sum0, sum1, sum2

    return process_images
