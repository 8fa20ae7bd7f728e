"""What is done along one axis of an array on a graphics card, before and after its FFT."""

from fastcryo.kernels.cuda._jit import THREADS, cuda, kernel, launch_shape


@kernel
def _select(source, table, factors, out):
    n, inner = out.shape[1], out.shape[2]
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        m, last = i // inner % n, i % inner
        first = i // inner // n
        re, im = factors[m, 0] - factors[m, 0], factors[m, 0] - factors[m, 0]
        for c in range(2):
            if table[m, c] >= 0:
                value = source[first, table[m, c], last]
                re += factors[m, c] * value.real
                im += factors[m, c] * value.imag
        out[first, m, last] = complex(re, im)


@kernel
def _keep_real(volume, factor, scale):
    for i in range(cuda.grid(1), volume.size, cuda.gridsize(1)):
        f = scale * (factor[0] if factor.size == 1 else factor[i])
        volume[i] = complex(f * volume[i].real, scale - scale)


def select(source, axis, table, factors, out):
    """Fill out along one axis with sums of up to two elements of source.

    Parameters
    ----------
    source, out : 3-D complex arrays on the card
        Of the same shape but along `axis`.
    axis : int
    table : (n, 2) int32
        Which elements of the source make one of `out`; -1 for none.
    factors : (n, 2) float
        What they are multiplied by.
    """
    flat = []
    for array in (source, out):
        outer, inner = 1, 1
        for length in array.shape[:axis]:
            outer *= length
        for length in array.shape[axis + 1 :]:
            inner *= length
        flat.append(array.reshape(outer, array.shape[axis], inner))
    _select[launch_shape(out.size, 1)[0], THREADS](flat[0], table, factors, flat[1])


def keep_real(volume, factor, scale):
    """Set volume <- scale factor Re(volume), factor an array as large or (1,)."""
    flat = volume.reshape(volume.size)
    _keep_real[launch_shape(flat.size, 1)[0], THREADS](flat, factor.reshape(factor.size), scale)
