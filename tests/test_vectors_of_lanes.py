"""The window with vectors against the plain loops, and against input that it would misread."""

import numpy as np
import pytest
from numba.core.errors import TypingError

from fastcryo.grid import FourierGrid
from fastcryo.kernels._jit import serial
from fastcryo.kernels.cpu import corners, simd, slicing, windows
from fastcryo.kernels.layout import fixed_point_steps
from fastcryo.operators import SliceOperator

from . import naive

BOX = 18
PLAIN = slicing.make_kernels(windows.TRILINEAR_PLAIN)
compiled = pytest.mark.skipif(
    windows.TRILINEAR is windows.TRILINEAR_PLAIN, reason="there are no vectors without compilation"
)
# Sums of some hundred terms in another order.
TOLERANCE = {"float32": 2e-6, "float64": 2e-14}


def case(dtype):
    """Return both operators, steps, weights, data and two volumes."""
    rng = np.random.default_rng(0)
    grid = FourierGrid(BOX)
    vectors, plain = (SliceOperator(grid, dtype=dtype) for _ in range(2))
    plain._tiled.kernels = PLAIN
    rotations = np.concatenate([naive.random_rotations(5, rng), naive.special_rotations()])
    weights = rng.random((len(rotations), vectors.samples)).astype(dtype)
    data = rng.normal(size=(2, len(rotations), vectors.samples)).astype(dtype)
    volumes = [grid.from_real(rng.normal(size=(BOX,) * 3).astype(dtype)) for _ in range(2)]
    return vectors, plain, rotations, weights, data[0] + 1j * data[1], volumes


def close(left, right, dtype):
    return np.abs(left - right).max() <= TOLERANCE[dtype] * np.abs(right).max()


@compiled
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_vectors_do_what_the_plain_loops_do(dtype):
    vectors, plain, rotations, weights, data, (volume, _) = case(dtype)
    images, steps = np.arange(len(rotations)), fixed_point_steps(rotations)
    arguments = (volume, steps, images, weights, data)
    for one, other in zip(vectors.normal(*arguments), plain.normal(*arguments), strict=True):
        assert close(np.asarray(one), np.asarray(other), dtype)


@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_two_volumes_in_one_pass_are_two_passes(dtype, interpolation):
    operator, _, rotations, weights, data, (volume, direction) = case(dtype)
    operator = SliceOperator(operator.grid, interpolation, dtype=dtype)
    images, steps = np.arange(len(rotations))[::2], fixed_point_steps(rotations)
    last = 0.25, np.full((1, 1, 1), 0.5, dtype)
    energies = operator.energies(volume, direction, steps, images, weights, data)
    none = np.empty((0, operator.samples), operator.dtype)
    square, mixed = operator.energy(volume, steps, images, weights, data)
    other, _ = operator.energy(direction, steps, images, weights, none)
    assert np.allclose(energies, [square, mixed, other], rtol=1e-6)
    total, product, *sums = operator.normal_with_product(
        volume, direction.real, steps, images, weights, data, *last
    )
    direction = direction.real.astype(operator.dtype)
    first, square, mixed, norm = operator.normal(volume, steps, images, weights, data, *last)
    second, _, _, _ = operator.normal(direction, steps, images, weights, none, *last)
    assert close(total, first, dtype)
    assert close(product, second, dtype)
    assert np.allclose(sums, [square, mixed, norm], rtol=1e-6)


@compiled
def test_precisions_that_do_not_agree_are_refused_when_a_call_is_compiled():
    @serial
    def read(array, conjugate_of, sign, unit):
        conjugate = simd.conjugation(conjugate_of, sign, unit)
        return simd.channel_sums(simd.read(array, 0, 0, conjugate))

    single, double = np.ones(4, np.complex64), np.ones((1, 1), np.complex128)
    assert read(double, double[0], 1, 1.0) == (1.0, 0.0)
    with pytest.raises(TypingError, match="precision of the volume"):
        read(double, single, 1, np.float32(1))
    with pytest.raises(TypingError, match="contiguous complex array"):
        read(double, np.ones(8, np.complex128)[::2], 1, 1.0)


@compiled
def test_a_value_of_two_volumes_is_not_added_to_one():
    @serial
    def add(pair, single, unit):
        places, weights = np.zeros(4, np.int64), np.full((corners.TAP_ROWS, 4), unit)
        value = corners.gather(pair, places, weights, 0, 2, 4)
        corners.scatter(single, places, weights, 0, 2, 4, value)

    pair, single = np.ones((16, 2), np.complex128), np.ones(16, np.complex128)
    with pytest.raises(TypingError, match="the value must be"):
        add(pair, single, 1.0)
