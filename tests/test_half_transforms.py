"""Transforms of bundles, and the way from half grids to the finer grid without a box."""

import numpy as np
import pytest

from fastcryo.grid import FourierGrid
from fastcryo.kernels._jit import serial
from fastcryo.kernels.cpu import fft
from fastcryo.kernels.cpu.bundles import read_row, write_row
from fastcryo.operators import SliceOperator
from fastcryo.threads import use_threads


@serial
def transform_bundle(values, out, work, lengths, lanes):
    """Transform the lines of one bundle, (length, lanes) complex as flat real arrays."""
    one = lengths.twiddles.dtype.type(1)
    for j in range(lengths.order.size):
        read_row(values, 2 * j * lanes, work, j, one, ())
    fft.transform(work, lengths)
    for k in range(lengths.order.size):
        write_row(work, lengths.order[k], out, 2 * k * lanes, one, 0, ())


def test_bundles_are_transformed_as_numpy_does():
    lanes = fft.lanes_of(np.float64)
    rng = np.random.default_rng(0)
    for length in (1, 2, 8, 12, 15, 32, 49, 66, 77, 90, 121, 192, 350):
        values = rng.normal(size=(length, 2 * lanes)).view(complex)
        out, work = np.zeros_like(values), np.zeros(2 * length * lanes)
        flat = values.view(float).reshape(-1), out.view(float).reshape(-1)
        transform_bundle(*flat, work, fft.lengths_of(length, np.float64), lanes)
        expected = np.fft.fft(values, axis=0)
        # The odd radices are sums of products, whose rounding grows with the radix.
        limit = 5e-15 * np.abs(expected).max()
        np.testing.assert_allclose(out, expected, rtol=0, atol=limit, err_msg=str(length))


def test_other_lengths_have_no_tables():
    assert fft.radices_of(13) is None
    assert fft.radices_of(2 * 17) is None
    assert sorted(fft.radices_of(8 * 9 * 5)) == [2, 3, 3, 4, 5]


def noise_in_widths(plan, rng):
    """E with noise in all cells that windows reach."""
    extended = rng.normal(size=(*plan.shape, 2)).view(complex)[..., 0].astype(plan.dtype)
    return np.where(within(plan), extended, 0)


def within(plan):
    """Which cells of E windows reach."""
    distance = np.abs(np.arange(plan.shape[2]) - plan.bound - plan.low)
    return distance <= plan.widths[:, :, None]


KAISER_BESSEL = {"interpolation": "kaiser_bessel"}
PLANS = {
    "odd": (15, {}, KAISER_BESSEL | {"dtype": "float64", "width": 4}),
    "seven": (28, {}, KAISER_BESSEL | {"oversampling": 1.25}),
    "low resolution": (44, {"radius": 9}, KAISER_BESSEL | {"width": 6, "oversampling": 2}),
    "masked": (20, {}, KAISER_BESSEL | {"mask": True}),
    "radial": (18, {}, {"oversampling": 2, "compat": "relion"}),
}


@pytest.mark.parametrize("name", PLANS)
def test_half_grids_go_the_way_of_real_boxes(name):
    box, limits, options = PLANS[name]
    rng, grid = np.random.default_rng(1), FourierGrid(box, **limits)
    if "mask" in options:
        options = options | {"mask": rng.uniform(size=(box,) * 3)}
    operator = SliceOperator(grid, **options)
    plan = operator.oversampled(box)
    assert plan.passes is not None
    half = grid.from_real(rng.normal(size=(box,) * 3), operator.dtype)
    # Half grids need not belong to real boxes.
    half[0] += rng.normal(size=(box, box)) * half.dtype.type(1j)
    tolerance = 1e-5 if operator.real_dtype == np.float32 else 1e-13

    expected = plan.expand(grid.to_real(half)).copy()
    plan.volume[:] = np.nan
    found = plan.expand_half(grid, half)[within(plan)]
    limit = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(found, expected[within(plan)], rtol=0, atol=limit)

    extended = noise_in_widths(plan, rng)
    expected = 0.5 * grid.from_real(plan.contract(extended))
    limit = tolerance * np.abs(expected).max()
    plan.room[:] = np.nan
    plan.room[plan.planes.size :] = 0
    out = np.full(grid.shape, np.nan, operator.dtype)
    factor = operator.real_dtype.type(0.5)
    plan.contract_half(grid, extended, factor, out)
    np.testing.assert_allclose(out, expected, rtol=0, atol=limit)
    plan.contract_half(grid, extended, factor, out, fresh=False)
    np.testing.assert_allclose(out, 2 * expected, rtol=0, atol=2 * limit)


def test_transforms_do_not_depend_on_the_number_of_threads():
    rng, grid = np.random.default_rng(2), FourierGrid(40)
    plan = SliceOperator(grid, "kaiser_bessel").oversampled(40)
    half = grid.from_real(rng.normal(size=(40,) * 3), plan.dtype)
    extended, found = noise_in_widths(plan, rng), []
    for threads in (1, 2):
        out = grid.zeros(plan.dtype)
        with use_threads(threads):
            there = plan.expand_half(grid, half).copy()
            plan.contract_half(grid, extended, np.float32(1), out)
            real = grid.to_real(half)
            found.append((there, out, real, grid.from_real(real)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
