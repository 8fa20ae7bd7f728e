"""The Fourier grid: layout, transforms, inner product, shells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid

BOXES = (8, 9, 12, 15, 16, 33)


def random_volume(box, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(box,) * 3).astype(dtype)


def centred_transform(volume):
    return np.fft.fftn(np.fft.ifftshift(volume))


@pytest.mark.parametrize("box", BOXES)
def test_half_grid_is_half_of_the_centred_transform(box):
    volume = random_volume(box)
    grid = FourierGrid(box)
    full = centred_transform(volume)
    half = grid.from_real(volume)
    assert half.shape == grid.shape == (box // 2 + 1, box, box)
    # The rounding of an FFT grows like eps log N times the largest value.
    limit = 1e-14 * np.abs(full).max()
    np.testing.assert_allclose(grid.unfold(half), full, rtol=0, atol=limit)
    np.testing.assert_allclose(half, grid.fold(full), rtol=0, atol=limit)


@pytest.mark.parametrize("box", BOXES)
def test_frequency_k_stands_where_documented(box):
    grid = FourierGrid(box)
    for k in [(0, 0, 0), (1, -2, 3), (2, 1, -3)]:
        z, y, x = np.mgrid[:box, :box, :box] - box // 2
        wave = np.cos(2 * np.pi * (k[0] * x + k[1] * y + k[2] * z) / box)
        half = grid.from_real(wave)
        kx, ky, kz = k if k[2] >= 0 else np.negative(k)
        there = (kz, ky + box // 2, kx + box // 2)
        expected = np.zeros(grid.shape)
        expected[there] = box**3 / 2
        if kz == 0:
            expected[0, box // 2 - ky, box // 2 - kx] += box**3 / 2
        np.testing.assert_allclose(half, expected, rtol=0, atol=1e-11 * box**3)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 2e-6), (np.float64, 2e-15)])
def test_round_trip_returns_the_volume_in_its_precision(box, dtype, eps):
    volume = random_volume(box, dtype=dtype)
    kept = volume.copy()
    grid = FourierGrid(box)
    half = grid.from_real(volume)
    back = grid.to_real(half)
    assert half.dtype == np.result_type(dtype, np.complex64)
    assert back.dtype == dtype
    np.testing.assert_array_equal(volume, kept, err_msg="the input was written to")
    np.testing.assert_allclose(back, volume, rtol=0, atol=eps * np.abs(volume).max())


def test_from_real_reads_whole_numbers_and_float16():
    grid = FourierGrid(8)
    numbers = np.arange(512).reshape(8, 8, 8) % 7
    expected = grid.from_real(numbers.astype(np.float64))
    np.testing.assert_array_equal(grid.from_real(numbers), expected)
    np.testing.assert_array_equal(grid.from_real(numbers.astype(np.uint8)), expected)
    single = grid.from_real(numbers.astype(np.float16))
    assert single.dtype == np.complex64
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert grid.from_real(numbers, dtype=np.complex64).dtype == np.complex64


@settings(max_examples=20, deadline=None, derandomize=True)
@given(box=st.integers(8, 21), seed=st.integers(0, 1000))
def test_fold_undoes_unfold(box, seed):
    grid = FourierGrid(box)
    half = grid.from_real(random_volume(box, seed))
    full = grid.unfold(half)
    np.testing.assert_array_equal(grid.fold(full), half)
    mirror = -np.arange(box)
    hermitian = np.conj(full[mirror][:, mirror][:, :, mirror])
    np.testing.assert_allclose(full, hermitian, rtol=0, atol=1e-13 * np.abs(full).max())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(box=st.integers(8, 21), seed=st.integers(0, 1000))
def test_inner_product_is_that_of_the_full_grid(box, seed):
    # Parseval: over the full grid it is N^3 times the inner product of the volumes, which fails
    # as soon as a plane that is its own mirror (kz = 0, and N / 2 if N is even) counts twice.
    grid = FourierGrid(box)
    left, right = random_volume(box, seed), random_volume(box, seed + 1)
    half_left, half_right = grid.from_real(left), grid.from_real(right)
    size = np.linalg.norm(left) * np.linalg.norm(right) * box**3
    assert abs(grid.inner(half_left, half_right) - box**3 * np.vdot(left, right)) < 1e-13 * size
    full = np.vdot(grid.unfold(half_left), grid.unfold(half_right)).real
    assert abs(grid.inner(half_left, half_right) - full) < 1e-13 * size
    assert grid.norm(half_left) == pytest.approx(box**1.5 * np.linalg.norm(left), rel=1e-13)


def test_inner_product_of_single_precision_sums_in_double():
    # One large term and 8000 that single precision would lose one by one.
    grid = FourierGrid(32)
    half = np.full(grid.shape, 1e-4, np.complex64)
    half[0, 16, 16] = 1.0
    exact = 1.0 + (32**3 - 1) * np.float64(np.float32(1e-4)) ** 2
    assert grid.inner(half, half) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("box", BOXES)
def test_shells_and_ball_follow_the_distance_from_the_origin(box):
    grid = FourierGrid(box, radius=3)
    f = np.fft.fftfreq(box) * box
    distance = np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)
    np.testing.assert_array_equal(grid.shells(), grid.fold(np.rint(distance)))
    np.testing.assert_array_equal(grid.ball(), grid.fold(distance <= 3))


@pytest.mark.parametrize("box", BOXES)
def test_shell_sums_and_means_run_over_the_full_grid(box):
    grid = FourierGrid(box)
    values = np.abs(grid.from_real(random_volume(box)))
    full = np.abs(grid.unfold(values.astype(complex)))
    f = np.fft.fftfreq(box) * box
    shells = np.rint(np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)).astype(int)
    sums = [full[shells == s].sum() for s in range(grid.radius + 1)]
    means = [full[shells == s].mean() for s in range(grid.radius + 1)]
    np.testing.assert_allclose(grid.shell_sums(values), sums, rtol=1e-12)
    np.testing.assert_allclose(grid.shell_means(values), means, rtol=1e-12)
    everything = grid.shell_sums(np.ones(grid.shape), shells=shells.max() + 1)
    assert everything.sum() == box**3


@pytest.mark.parametrize(("box", "radius"), [(8, 3), (9, 4), (64, 31), (65, 32)])
def test_default_radius_stays_below_nyquist(box, radius):
    assert FourierGrid(box).radius == radius


@pytest.mark.parametrize("box", [7, 513, 8.5, 0, -16])
def test_box_out_of_range_is_refused(box):
    with pytest.raises(InputError, match=rf"^box: {box} pixels cannot be used"):
        FourierGrid(box)


@pytest.mark.parametrize("box", [8, 512])
def test_smallest_and_largest_box_are_taken(box):
    assert FourierGrid(box).box == box


@pytest.mark.parametrize("radius", [0, 8, 2.5, -1])
def test_radius_out_of_range_is_refused(radius):
    with pytest.raises(InputError, match=rf"^radius: {radius} cannot be used for a box of 16"):
        FourierGrid(16, radius)


def test_arrays_of_the_wrong_shape_are_refused():
    grid = FourierGrid(8)
    wrong = np.zeros((8, 8, 9))
    with pytest.raises(InputError, match=r"^volume: shape \(8, 8, 8\) needed, got \(8, 8, 9\)"):
        grid.from_real(wrong)
    with pytest.raises(InputError, match=r"^full grid: shape \(8, 8, 8\) needed, got"):
        grid.fold(wrong)
    for use in (grid.to_real, grid.unfold, lambda v: grid.inner(v, v), grid.check):
        with pytest.raises(InputError, match=r"^half grid: shape \(5, 8, 8\) needed for box 8"):
            use(wrong)


def test_complex_volume_is_refused():
    with pytest.raises(InputError, match=r"^volume: real values needed"):
        FourierGrid(8).from_real(np.zeros((8, 8, 8), complex))
