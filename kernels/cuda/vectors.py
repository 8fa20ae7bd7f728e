"""Sums and updates of whole half grids on a graphics card; names and arguments as on the processor.

One plane kz is summed by `SHARES` blocks of threads, each in a fixed order in float64, so that
results do not depend on the order in which blocks run. Functions take arrays on the card, and what
they return stays there: sums (planes, `SHARES`), which `add_planes` adds up.
"""

import math

import numpy as np

from fastcryo.kernels._jit import register
from fastcryo.kernels.cuda._jit import SIMULATED, THREADS, cuda, kernel, launch_shape
from fastcryo.kernels.formulas import probe_element, random_sign

# Blocks per plane: 97 planes of N = 192 fill a card of 132 multiprocessors with 5 blocks each.
SHARES = 1 if SIMULATED else 8
EXACT_BITS = 62


def make_reduction(combine):
    """Return a function of one float64 number of every thread of a block, once in a kernel.

    It returns to all threads what `combine`, of two numbers, makes of all of them, two by two and
    always in the same order.
    """

    @register
    def reduce(value):
        shared = cuda.shared.array(THREADS, np.float64)
        t = cuda.threadIdx.x
        shared[t] = value
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if t < half:
                shared[t] = combine(shared[t], shared[t + half])
            cuda.syncthreads()
            half //= 2
        return shared[0]

    return reduce


@register
def added(left, right):
    """Add two numbers."""
    return left + right


@register
def larger(left, right):
    """Take the larger of two numbers."""
    return max(left, right)


sum_of_block = make_reduction(added)
largest_of_block = make_reduction(larger)


@register
def keep_sum(value, partials):
    """Store the sum of a block in its place of partials."""
    total = sum_of_block(value)
    if cuda.threadIdx.x == 0:
        partials[cuda.blockIdx.y, cuda.blockIdx.x] = total


@kernel
def _inner(left, right, partials):
    z, total = cuda.blockIdx.y, 0.0
    for i in range(cuda.grid(2)[0], left.shape[1], cuda.gridsize(2)[0]):
        a, b = left[z, i], right[z, i]
        total += np.float64(a.real) * np.float64(b.real)
        total += np.float64(a.imag) * np.float64(b.imag)
    keep_sum(total, partials)


@kernel
def _finish(total, volume, scale, damping, partials):
    z, norm = cuda.blockIdx.y, 0.0
    for i in range(cuda.grid(2)[0], total.shape[1], cuda.gridsize(2)[0]):
        weight = damping[0, 0] if damping.size == 1 else damping[z, i]
        t, v = total[z, i], volume[z, i]
        re, im = weight * v.real, weight * v.imag
        norm += np.float64(re * v.real + im * v.imag)
        total[z, i] = complex(scale * t.real + re, scale * t.imag + im)
    keep_sum(norm, partials)


@kernel
def _damped_norm(volume, damping, partials):
    z, total = cuda.blockIdx.y, 0.0
    for i in range(cuda.grid(2)[0], volume.shape[1], cuda.gridsize(2)[0]):
        weight = np.float64(damping[0, 0] if damping.size == 1 else damping[z, i])
        v = volume[z, i]
        total += weight * (np.float64(v.real) ** 2 + np.float64(v.imag) ** 2)
    keep_sum(total, partials)


@kernel
def _step(volume, direction, step):
    for i in range(cuda.grid(1), volume.size, cuda.gridsize(1)):
        v, d = volume[i], direction[i]
        volume[i] = complex(v.real - step * d.real, v.imag - step * d.imag)


@kernel
def _scale(volume, factor, out):
    for i in range(cuda.grid(1), volume.size, cuda.gridsize(1)):
        v, w = volume[i], factor[i]
        out[i] = complex(w * v.real, w * v.imag)


@kernel
def _approach(mean, volume, share):
    for i in range(cuda.grid(1), mean.size, cuda.gridsize(1)):
        m, v = mean[i], volume[i]
        mean[i] = complex(m.real + share * (v.real - m.real), m.imag + share * (v.imag - m.imag))


@kernel
def _fill_signs(first_key, second_key, out):
    n = out.shape[1]
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        z, y, x = i // n // n, i // n % n, i % n
        element = probe_element(z, y, x, n, out.shape[0])
        out[z, y, x] = random_sign(first_key, second_key, element)


@kernel
def _complex_of(numbers, one, out):
    for i in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
        out[i] = complex(one * numbers[i], one - one)


@kernel
def _real_part(values, out):
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        out[i] = values[i].real


@kernel
def _take_probe(signs, product, mean, smoothed, share, beta, rest):
    for i in range(cuda.grid(1), signs.size, cuda.gridsize(1)):
        m = mean[i]
        m += share * (signs[i] * product[i] - m)
        mean[i] = m
        smoothed[i] = beta * smoothed[i] + rest * m


@kernel
def _invert(diagonal, threshold, spread, out):
    zero = threshold - threshold
    for i in range(cuda.grid(1), diagonal.size, cuda.gridsize(1)):
        bounded = max(abs(diagonal[i]), threshold)
        bounded += spread[0] if spread.size == 1 else spread[i]
        out[i] = type(threshold)(1) / bounded if bounded > 0 else zero


@kernel
def _add_mirror(plane, out):
    n = plane.shape[0]
    twice = 2 * (n // 2)
    for i in range(cuda.grid(1), n * n, cuda.gridsize(1)):
        y, x = i // n, i % n
        a, b = plane[y, x], plane[(twice - y) % n, (twice - x) % n]
        out[y, x] = complex(a.real + b.real, a.imag - b.imag)


@kernel
def _add_mirror_real(plane, out):
    n = plane.shape[0]
    twice = 2 * (n // 2)
    for i in range(cuda.grid(1), n * n, cuda.gridsize(1)):
        y, x = i // n, i % n
        out[y, x] = plane[y, x] + plane[(twice - y) % n, (twice - x) % n]


@kernel
def _from_exact(whole, scales, out):
    unit = 1.0 / scales[0]
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = whole[i] * unit


@kernel
def _clear(out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = 0


@kernel
def _largest(values, partials):
    """Store the largest |value| that each block meets; NaN counts as infinite."""
    largest = 0.0
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        size = np.float64(abs(values[i]))
        if not size <= largest:
            largest = size if size == size else math.inf
    largest = largest_of_block(largest)
    if cuda.threadIdx.x == 0:
        partials[cuda.blockIdx.x] = largest


@register
def exact_scale(bound):
    """Return the power of two that turns sums of at most `bound` into whole numbers below 2^62.

    Of a sum whose bound is B, 2^-61 B is still seen; single precision sees 2^-24 of the sum itself.
    An infinite or NaN bound gives NaN.
    """
    if not bound < math.inf:
        return math.nan
    return math.ldexp(1.0, EXACT_BITS - math.frexp(bound)[1]) if bound > 0 else 1.0


@kernel
def _exact_scale(partials, factor, summand, scales):
    """Store the scale of sums of at most factor times the largest of partials, plus summand."""
    largest = 0.0
    for i in range(cuda.threadIdx.x, partials.size, THREADS):
        largest = max(largest, partials[i])
    largest = largest_of_block(largest)
    if cuda.threadIdx.x == 0:
        scales[0] = exact_scale(factor * largest + summand)


@kernel
def _add_planes(partials, last, out):
    """Add up sums by plane (planes, shares), in order: a plane and its mirror, or one alone."""
    total = 0.0
    for i in range(cuda.threadIdx.x, partials.size, THREADS):
        z = i // partials.shape[1]
        times = 2.0
        if z == 0:
            times = 1.0
        elif z == partials.shape[0] - 1:
            times = last
        total += times * partials[z, i % partials.shape[1]]
    total = sum_of_block(total)
    if cuda.threadIdx.x == 0:
        out[0] = total


def _by_plane(function, arrays, numbers=()):
    """Launch a kernel that sums planes; returns its sums (nz, shares)."""
    planes = arrays[0].shape[0]
    partials = cuda.device_array((planes, SHARES), np.float64)
    flat = [a.reshape(a.shape[0], a.shape[1] * a.shape[2]) for a in arrays]
    function[(SHARES, planes), THREADS](*flat[:2], *numbers, *flat[2:], partials)
    return partials


def _everywhere(function, arrays, numbers=(), last=()):
    """Launch a kernel that treats every element."""
    flat = [a.reshape(a.size) for a in arrays]
    function[launch_shape(flat[0].size, 1)[0], THREADS](*flat, *numbers, *last)


def place(array):
    """Return a copy of a host array on the card."""
    return cuda.to_device(array)


def empty_like(array, dtype=None):
    """Return an array of the same shape, of the same type unless given."""
    return cuda.device_array(array.shape, array.dtype if dtype is None else dtype)


def clear(out):
    """Set an array to zero."""
    _everywhere(_clear, (out,))


def inner_by_plane(left, right):
    """Re sum(conj(left) right) of every plane; see `fastcryo.kernels.cpu.vectors`."""
    return _by_plane(_inner, (left, right))


def finish_sum(total, volume, scale, damping):
    """Set total <- scale total + damping volume; sums damping |volume|^2 by plane."""
    return _by_plane(_finish, (total, volume, damping), (scale,))


def damped_norm_by_plane(volume, damping):
    """Sum damping |volume|^2 of every plane."""
    return _by_plane(_damped_norm, (volume, damping))


def step_along(volume, direction, step):
    """Move volume <- volume - step direction."""
    _everywhere(_step, (volume, direction), (step,))


def scale_by(volume, factor, out):
    """Multiply a complex volume by a real one: out <- factor volume."""
    _everywhere(_scale, (volume, factor, out))


def approach(mean, volume, share):
    """Move mean <- mean + share (volume - mean)."""
    _everywhere(_approach, (mean, volume), (share,))


def fill_signs(first_key, second_key, out):
    """Fill a half grid, int8, with the random signs that the processor gives."""
    _fill_signs[launch_shape(out.size, 1)[0], THREADS](first_key, second_key, out)


def complex_of(numbers, out):
    """Copy real numbers to a complex volume."""
    _everywhere(_complex_of, (numbers,), (_real(out)(1),), (out.reshape(out.size),))


def real_part(values, out):
    """Copy the real part of a complex volume to a real one."""
    _everywhere(_real_part, (values, out))


def take_probe(signs, product, mean, smoothed, probes, beta):
    """Take in a probe, signs times product: mean is that of so many, then smoothed follows it.

    Signs are int8; mean <- mean + (probe - mean) / probes, and
    smoothed <- beta smoothed + (1 - beta) mean.
    """
    real = mean.dtype.type
    numbers = real(1 / probes), real(beta), real(1 - beta)
    _everywhere(_take_probe, (signs, product, mean, smoothed), numbers)


def invert(diagonal, threshold, spread, out):
    """Set out <- 1 / (max(|diagonal|, threshold) + spread), 0 where that is 0."""
    numbers = (diagonal.dtype.type(threshold),)
    arrays = spread.reshape(spread.size), out.reshape(out.size)
    _everywhere(_invert, (diagonal,), numbers, arrays)


def add_mirror_of(volume):
    """Add to the plane kz = 0 of a half grid the conjugate of its mirror."""
    n = volume.shape[1]
    out = volume.reshape(volume.size)[: n * n].reshape(n, n)
    plane = cuda.device_array((n, n), volume.dtype)
    plane.copy_to_device(out)
    function = _add_mirror if out.dtype.kind == "c" else _add_mirror_real
    function[launch_shape(n * n, 1)[0], THREADS](plane, out)


def from_exact(whole, scales, out):
    """Turn whole numbers back: out <- whole / scale, flat real arrays; scales is (1,)."""
    _everywhere(_from_exact, (whole,), (scales,), (out.reshape(out.size),))


def scale_for(values, factor, summand):
    """Return `exact_scale` of factor max |values| + summand, (1,); NaN if a value is."""
    blocks = launch_shape(values.size, 1)[0]
    partials, scales = cuda.device_array(blocks, np.float64), cuda.device_array(1, np.float64)
    _largest[blocks, THREADS](values.reshape(values.size), partials)
    _exact_scale[1, THREADS](partials, float(factor), float(summand), scales)
    return scales


def add_planes(partials, last, out):
    """Add up what a function here returned, to out (1,).

    Planes count twice but the first, and the last as `last` says.
    """
    _add_planes[1, THREADS](partials, last, out)


def _real(array):
    """Return the real type of an array's numbers."""
    return np.zeros(0, array.dtype).real.dtype.type
