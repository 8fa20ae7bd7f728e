"""Numbers in two bytes: half precision and scaled whole numbers, to and from single precision.

Half precision is made of bits: what stands for a number x in half precision stands, 13 bits further
up in single precision, for x 2^-112, subnormal numbers included.
"""

import math

import numpy as np
from numba import prange

from fastcryo.kernels._jit import parallel, register, serial

MANTISSA_BITS = np.uint32(13)
SIGN_SHIFT = np.uint32(16)
HALF_SIGN, HALF_MAGNITUDE, HALF_INFINITY = np.uint32(0x8000), np.uint32(0x7FFF), np.uint32(0x7C00)
SINGLE_MAGNITUDE, SINGLE_INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
LARGEST_SHORT = 32767
UP, DOWN = np.float32(2.0**112), np.float32(2.0**-112)


@register
def half_to_single_bits(half):
    """Bits of x 2^-112 in single precision, from those of x in half precision."""
    bits = np.uint32(half)
    magnitude = bits & HALF_MAGNITUDE
    exponent = SINGLE_INFINITY if magnitude >= HALF_INFINITY else np.uint32(0)
    return (magnitude << MANTISSA_BITS) | exponent | ((bits & HALF_SIGN) << SIGN_SHIFT)


@register
def single_to_half_bits(single):
    """Bits of x in half precision, to the nearest, from those of x 2^-112 in single precision."""
    magnitude = single & SINGLE_MAGNITUDE
    odd = (magnitude >> MANTISSA_BITS) & np.uint32(1)
    rounded = (magnitude + np.uint32(0xFFF) + odd) >> MANTISSA_BITS
    return np.uint16(rounded | ((single >> SIGN_SHIFT) & HALF_SIGN))


@serial
def decode_half(halves, out):
    """Turn half precision, flat uint16, into float32, flat; infinite and NaN stay so.

    NumPy does the same in seven times the time.
    """
    bits = out.view(np.uint32)
    for j in range(out.size):
        bits[j] = half_to_single_bits(halves[j])
    for j in range(out.size):
        out[j] *= UP


@register
def peak_of(bits):
    """Bits of the largest |x| among the bits of some x; whole numbers compare as those do."""
    peak = np.uint32(0)
    for j in range(bits.size):
        peak = max(peak, bits[j] & SINGLE_MAGNITUDE)
    return peak


@serial
def encode_half(values, factors, codes, scales):
    """Write rows in half precision: values * factors = codes * scales.

    Parameters
    ----------
    values : (m, s) float32
    factors : (s,) float32
    codes : (m, s) uint16, modified in place
    scales : (m,) float32, modified in place
        Powers of two, so that nothing is lost by them, with the largest |code| from 2^14 to 2^15.
    """
    scaled = np.empty(factors.size, np.float32)
    bits = scaled.view(np.uint32)
    exponent = np.empty(1, np.uint32)
    power = exponent.view(np.float32)
    for i in range(values.shape[0]):
        for j in range(factors.size):
            scaled[j] = values[i, j] * factors[j]
        exponent[0] = peak_of(bits) & SINGLE_INFINITY
        scales[i] = power[0] * np.float32(2.0**-14) if power[0] > 0 else np.float32(1)
        inverse = np.float32(1) / scales[i]
        for j in range(factors.size):
            scaled[j] = scaled[j] * inverse * DOWN
        for j in range(factors.size):
            codes[i, j] = single_to_half_bits(bits[j])


@serial
def encode_short(values, factors, codes, scales):
    """Write rows as whole numbers up to 32767 in size; as `encode_half` does, with codes int16."""
    scaled = np.empty(factors.size, np.float32)
    bits = scaled.view(np.uint32)
    largest = np.empty(1, np.uint32)
    peak = largest.view(np.float32)
    for i in range(values.shape[0]):
        for j in range(factors.size):
            scaled[j] = values[i, j] * factors[j]
        largest[0] = peak_of(bits)
        scales[i] = peak[0] / np.float32(LARGEST_SHORT) if peak[0] > 0 else np.float32(1)
        inverse = np.float32(1) / scales[i]
        for j in range(factors.size):
            code = int(math.floor(scaled[j] * inverse + np.float32(0.5)))
            codes[i, j] = min(max(code, -LARGEST_SHORT), LARGEST_SHORT)


@parallel
def decode_half_rows(codes, rows, scales, factors, out):
    """Read some rows of `encode_half`: out = codes * scales * factors.

    Parameters
    ----------
    codes : (n, s) uint16
    rows : (m,) int64
        Which of the n.
    scales : (n,) float32
    factors : (s,) float32
        Inverse of those of the encoder.
    out : (m, s) float32, modified in place
    """
    for i in prange(rows.size):
        single = out[i]
        bits = single.view(np.uint32)
        code, scale = codes[rows[i]], scales[rows[i]]
        for j in range(factors.size):
            bits[j] = half_to_single_bits(code[j])
        for j in range(factors.size):
            single[j] = (single[j] * UP) * (scale * factors[j])


@parallel
def decode_short_rows(codes, rows, scales, factors, out):
    """Read some rows of `encode_short`; arguments as in `decode_half_rows`, codes int16."""
    for i in prange(rows.size):
        single, code, scale = out[i], codes[rows[i]], scales[rows[i]]
        for j in range(factors.size):
            single[j] = np.float32(code[j]) * (scale * factors[j])
