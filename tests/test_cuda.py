"""CUDA kernels against the processor: on a card if there is one, in Numba's simulator if asked.

    NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda*.py

The simulator checks no types: tests/test_cuda_ptx.py compiles the kernels for real; and no races:
tests/test_cuda_hidden.py does.
"""

import numpy as np
import pytest

import fastcryo as fc
from fastcryo import backends, cuda_sweeps
from fastcryo.arrays import fetch, on_host
from fastcryo.card_volumes import CROWDING
from fastcryo.kernels.cpu import vectors as cpu_vectors
from fastcryo.kernels.cuda import vectors
from fastcryo.masks import soft_spherical_mask
from fastcryo.preconditioner import rademacher, thresholded_inverse

from . import naive
from .cuda_cases import (
    BOXES,
    CHEAP_BOXES,
    CUDA,
    SMALL,
    TOLERANCE,
    close,
    half,
    needs_cuda,
    problem_of,
)

pytestmark = needs_cuda

OVERSAMPLED = {
    "kaiser-bessel": {"interpolation": "kaiser_bessel"},
    "masked": {
        "interpolation": "kaiser_bessel",
        "mask": soft_spherical_mask(BOXES[0], BOXES[0] / 4, BOXES[0] / 8),
    },
    "padded": {"interpolation": "trilinear", "oversampling": 2},
}


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
@pytest.mark.parametrize("box", CHEAP_BOXES)
def test_slices_and_back_projections_are_those_of_the_cpu(box, interpolation, backend):
    # Special views put samples on grid points, on ties and on the fold.
    special = naive.special_rotations()[:: 6 if SMALL else 1]
    rotations = np.concatenate([naive.random_rotations(2, np.random.default_rng(1)), special])
    grid, volume = fc.FourierGrid(box), half(box, 2)
    cpu = fc.SliceOperator(grid, interpolation)
    cuda = fc.SliceOperator(grid, interpolation, backend)
    samples = cpu.forward(volume, rotations)
    close(cuda.forward(volume, rotations), samples)
    close(cuda.adjoint(samples, rotations), cpu.adjoint(samples, rotations))


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
@pytest.mark.parametrize("box", BOXES)
def test_loss_gradient_and_products_are_those_of_the_cpu(box, interpolation, backend):
    cpu, cuda = (problem_of(name, box, interpolation=interpolation) for name in ("cpu", backend))
    volume, direction, batch = half(box, 5), half(box, 6), [0, 3, 1]
    for ours, expected in zip(
        cuda.loss_gradient_and_product(volume, direction.real, batch),
        cpu.loss_gradient_and_product(volume, direction.real, batch),
        strict=True,
    ):
        close(ours, expected)
    close(cuda.loss_and_gradient(volume)[1], cpu.loss_and_gradient(volume)[1])
    close(cuda.loss_and_curvature(volume, direction), cpu.loss_and_curvature(volume, direction))
    close(cuda.loss(volume, batch), cpu.loss(volume, batch))
    close(cuda.curvature(direction), cpu.curvature(direction))


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("window", OVERSAMPLED)
def test_oversampled_windows_are_those_of_the_cpu(window, backend):
    options, box = OVERSAMPLED[window], BOXES[0]
    cpu, cuda = (problem_of(name, **options) for name in ("cpu", backend))
    volume, direction, batch = half(box, 5), half(box, 6), [0, 1]
    for ours, expected in zip(
        cuda.loss_gradient_and_product(volume, direction.real, batch),
        cpu.loss_gradient_and_product(volume, direction.real, batch),
        strict=True,
    ):
        close(ours, expected)
    close(cuda.loss(volume, batch), cpu.loss(volume, batch))
    rotations = naive.random_rotations(2, np.random.default_rng(1))
    samples = cpu.operator.forward(volume, rotations)
    close(cuda.operator.forward(volume, rotations), samples)
    close(cuda.operator.adjoint(samples, rotations), cpu.operator.adjoint(samples, rotations))


def test_without_ffts_on_the_card_the_host_transforms_and_it_is_said_once(monkeypatch, capsys):
    backends.say_that_the_host_transforms.cache_clear()
    cpu, cuda = (problem_of(name, interpolation="kaiser_bessel") for name in ("cpu", "cuda"))
    monkeypatch.setattr(cuda_sweeps, "card_fft", lambda: None)
    volume = half(BOXES[0], 27)
    there = cuda.operator.place(volume)
    loss, gradient = cuda.loss_and_gradient(there, [2])
    expected = cpu.loss_and_gradient(volume, [2])
    close(float(loss), expected[0])
    close(fetch(gradient), expected[1])
    assert capsys.readouterr().err.count("pip install 'cupy-cuda13x[ctk]'") == 1


def test_diagonals_of_exact_slices_are_those_of_the_cpu():
    cpu, cuda = (problem_of(name, interpolation="kaiser_bessel") for name in ("cpu", "cuda"))
    close(cuda.hessian_diagonal([1]), cpu.hessian_diagonal([1]))


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
def test_diagonals_are_those_of_the_cpu(interpolation, backend):
    cpu, cuda = (problem_of(name, interpolation=interpolation) for name in ("cpu", backend))
    close(cuda.hessian_diagonal(), cpu.hessian_diagonal())
    close(cuda.gridding_weight([1, 2]), cpu.gridding_weight([1, 2]))


def test_images_without_ctf_share_one_row_of_weights_and_symmetry_adds_views():
    cpu, cuda = (problem_of(name, with_ctf=False, symmetry="C2") for name in ("cpu", "cuda"))
    volume = half(BOXES[0], 7)
    close(cuda.loss_and_gradient(volume)[1], cpu.loss_and_gradient(volume)[1])
    close(cuda.hvp(volume), cpu.hvp(volume))


def test_double_precision_is_kept():
    cpu, cuda = (problem_of(name, dtype="float64") for name in ("cpu", "cuda-deterministic"))
    volume = half(BOXES[0], 8).astype(np.complex128)
    expected = cpu.loss_and_gradient(volume)
    ours = cuda.loss_and_gradient(volume)
    assert ours[0] == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(ours[1], expected[1], rtol=0, atol=1e-11 * np.abs(ours[1]).max())


@pytest.mark.parametrize(
    "window",
    [{}, {"interpolation": "kaiser_bessel", "width": 4, "oversampling": 1.25}],
    ids=["trilinear", "kaiser-bessel"],
)
@pytest.mark.parametrize("box", [BOXES[0], CHEAP_BOXES[0]])
def test_back_projection_on_the_card_is_the_transpose_of_slicing(box, window):
    # Over the reals, as in tests/test_operators.py.
    rng = np.random.default_rng(9)
    operator = fc.SliceOperator(fc.FourierGrid(box), backend="cuda", **window)
    rotations, volume = naive.random_rotations(2, rng), half(box, 10)
    slices = operator.forward(volume, rotations)
    noise = rng.normal(size=(2, *slices.shape)).astype(np.float32)
    samples = slices + noise[0] + 1j * noise[1]
    left = operator.inner(slices, samples)
    right = operator.grid.inner(volume, operator.adjoint(samples, rotations))
    assert abs(left - right) < TOLERANCE * abs(left)


def test_volumes_and_samples_come_back_where_they_were_given():
    problem = problem_of("cuda")
    operator, volume = problem.operator, half(BOXES[0], 24)
    there = operator.place(volume)
    assert on_host(problem.hvp(volume))
    assert not on_host(problem.hvp(there))
    close(fetch(problem.hvp(there)), problem.hvp(volume))
    rotations = naive.random_rotations(3, np.random.default_rng(31))
    samples = operator.forward(there, rotations)
    back = operator.adjoint(samples, rotations)
    assert not on_host(samples)
    assert not on_host(back)
    close(fetch(samples), operator.forward(volume, rotations))
    close(fetch(back), operator.adjoint(fetch(samples), rotations))
    out = np.empty(samples.shape, samples.dtype)
    assert operator.forward(there, rotations, out) is out
    with pytest.raises(fc.InputError, match="samples: complex64 needed, got complex128"):
        operator.adjoint(operator.place(out.astype(np.complex128)), rotations)


def test_sums_of_whole_numbers_of_samples_on_the_card_are_those_of_samples_on_the_host():
    operator = fc.SliceOperator(fc.FourierGrid(BOXES[0]), backend="cuda-deterministic")
    rotations = naive.random_rotations(2, np.random.default_rng(32))
    samples = operator.forward(half(BOXES[0], 33), rotations)
    there = operator.adjoint(operator.place(samples), rotations)
    close(fetch(there), operator.adjoint(samples, rotations))


@pytest.mark.parametrize("bound", [1e-30, 1.0, 3.0, 2.0**40])
def test_exact_sums_cannot_overflow_and_lose_less_than_single_precision(bound):
    scale = vectors.exact_scale(bound)
    assert np.log2(scale) == round(np.log2(scale))
    assert 2.0**61 <= bound * scale <= 2.0**62
    assert vectors.exact_scale(0.0) == 1.0
    assert np.isnan(vectors.exact_scale(np.inf))
    assert np.isnan(vectors.exact_scale(np.nan))


def test_no_voxel_gets_more_of_an_image_than_exact_sums_allow():
    """Sums of window weights of single views, against the bound on overflow."""
    grid = fc.FourierGrid(15)
    rng = np.random.default_rng(17)
    views = np.concatenate([naive.random_rotations(40, rng), naive.special_rotations()])
    for interpolation in ("nearest", "trilinear"):
        operator = fc.SliceOperator(grid, interpolation)
        ones = np.ones((1, operator.samples), np.complex64)
        worst = max(operator.adjoint(ones, view[None]).real.max() for view in views)
        assert 1 <= worst < CROWDING


def test_sums_of_half_grids_are_those_of_the_cpu():
    box = BOXES[0]
    grid = fc.FourierGrid(box)
    left, right = half(box, 18), half(box, 19)
    real = np.random.default_rng(20).uniform(0, 2, grid.shape).astype(np.float32)
    real[0, 0, :3] = 0
    place = fc.SliceOperator(grid, backend="cuda").place
    sums = vectors.inner_by_plane(place(left), place(right))
    close(fetch(sums).sum(axis=1), cpu_vectors.inner_by_plane(left, right))
    assert float(grid.inner(place(left), place(right))) == pytest.approx(grid.inner(left, right))
    for damping in (real, real[:1, :1, :1].copy() + 1):
        ours, expected = place(left), left.copy()
        factor = np.float32(0.3)
        sums = vectors.finish_sum(ours, place(right), factor, place(damping))
        close(fetch(sums).sum(axis=1), cpu_vectors.finish_sum(expected, right, factor, damping))
        close(fetch(ours), expected)
    ours, expected = place(left), left.copy()
    vectors.step_along(ours, place(right), np.float32(0.7))
    cpu_vectors.step_along(expected, right, np.float32(0.7))
    close(fetch(ours), expected)
    vectors.scale_by(place(right), place(real), ours)
    close(fetch(ours), right * real)
    close(fetch(thresholded_inverse(place(real), 0.0)), thresholded_inverse(real, 0.0))
    close(
        fetch(thresholded_inverse(place(real), 0.5, place(real))),
        thresholded_inverse(real, 0.5, real),
    )
    bound = 3 * np.abs(left).max() + 1
    assert fetch(vectors.scale_for(place(left), 3.0, 1.0)) == vectors.exact_scale(bound)


@pytest.mark.parametrize("box", CHEAP_BOXES)
def test_random_signs_are_those_of_the_cpu(box):
    grid, volume = fc.FourierGrid(box), half(box, 25)
    there = fc.SliceOperator(grid, backend="cuda").place(volume)
    ours = rademacher(grid, np.random.default_rng(26), there)
    assert not on_host(ours)
    np.testing.assert_array_equal(fetch(ours), rademacher(grid, np.random.default_rng(26)))
