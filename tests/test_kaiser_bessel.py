"""Oversampled windows: against direct evaluation, their transposes, and H as a convolution.

Accuracy is that of white noise in the ball of radius N / 2: the corners of the box, where windows
alias most, are empty in maps. Everything else is tested with noise that fills the box.
"""

from concurrent.futures import ThreadPoolExecutor

import finufft
import numpy as np
import pytest

from fastcryo import rows
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.kernels import layout, wide
from fastcryo.kernels.cpu import wide_rows
from fastcryo.masks import soft_edge
from fastcryo.operators import SliceOperator
from fastcryo.oversampling import kaiser_bessel
from fastcryo.preconditioner import hutchinson_diagonal, named_diagonal
from fastcryo.problem import KnownPoseProblem
from fastcryo.rotations import random_rotations
from fastcryo.sgd import sgd
from fastcryo.solvers import conjugate_gradient
from fastcryo.threads import use_threads

from . import naive

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
WIDEST = {"interpolation": "kaiser_bessel", "width": 6, "oversampling": 2}
# Every one is compiled in one precision only, which takes most of the time.
WINDOWS = {
    "width 4": ("float64", {"interpolation": "kaiser_bessel", "width": 4, "oversampling": 1.25}),
    "width 5": ("float32", {"interpolation": "kaiser_bessel"}),
    "width 6": ("float64", WIDEST),
    "padded": ("float32", {"interpolation": "trilinear", "oversampling": 2}),
    "relion": ("float32", {"interpolation": "trilinear", "oversampling": 2, "compat": "relion"}),
    "masked": ("float64", WIDEST | {"mask": True}),
}


def with_mask(options, box):
    """Options with a lopsided soft mask that is 0 in places, where they ask for one."""
    options = dict(options)
    if not options.pop("mask", False):
        return options
    z, y, x = (axis - box // 2 for axis in np.ogrid[:box, :box, :box])
    distance = np.sqrt(z**2 + (y - 1) ** 2 + 1.5 * (x + 0.5) ** 2)
    return options | {"mask": soft_edge(distance - box / 5, box / 6)}


def views(count=4, seed=1):
    rng = np.random.default_rng(seed)
    return np.concatenate([naive.random_rotations(count, rng), naive.special_rotations()[::4]])


def noise(box, seed=2):
    return np.random.default_rng(seed).normal(size=(box,) * 3)


def noise_in_ball(box):
    z, y, x = (axis - box // 2 for axis in np.ogrid[:box, :box, :box])
    return noise(box) * (z**2 + y**2 + x**2 < (box / 2) ** 2)


def frequencies(rotations, radius):
    """Positions (x, y, z) of every sample of the full discs, in cycles per box."""
    h, k = naive.disc(radius)
    return (h[:, None] * rotations[:, None, 0] + k[:, None] * rotations[:, None, 1]).reshape(-1, 3)


def direct_slices(volume, rotations, radius):
    """The non-uniform DFT of a map, term by term."""
    box = len(volume)
    x = np.arange(box) - box // 2
    waves = np.exp(-2j * np.pi * frequencies(rotations, radius).T[..., None] * x / box)
    return np.einsum("zyx,sz,sy,sx->s", volume, waves[2], waves[1], waves[0], optimize="optimal")


def slices_of(operator, volume, rotations):
    h, k = naive.disc(operator.grid.radius)
    half = operator.grid.from_real(volume.astype(operator.real_dtype))
    return operator.unpack(operator.forward(half, rotations))[:, k, h].ravel()


def small_problem(dtype="float64", box=12, count=30, regularization=1e-2, **window):
    rng = np.random.default_rng(5)
    return KnownPoseProblem.from_arrays(
        rng.normal(size=(count, box, box)),
        naive.random_rotations(count, rng),
        pixel_size=2.0,
        noise_std=np.linspace(1, 2, (box - 1) // 2 + 1),
        regularization=regularization,
        dtype=dtype,
        **with_mask(window, box),
    )


@pytest.mark.parametrize("box", [31, 32])
@pytest.mark.parametrize(("width", "error"), [(4, 1e-3), (6, 1e-5)])
def test_slices_are_those_of_the_direct_transform(width, error, box):
    rotations, volume = views(), noise_in_ball(box)
    operator = SliceOperator(
        FourierGrid(box), "kaiser_bessel", dtype="float64", oversampling=2, width=width
    )
    expected = direct_slices(volume, rotations, operator.grid.radius)
    ours = slices_of(operator, volume, rotations)
    assert np.linalg.norm(ours - expected) < error * np.linalg.norm(expected)


def test_slices_are_those_of_finufft():
    box, rotations = 24, views()
    volume = noise_in_ball(box)
    operator = SliceOperator(
        FourierGrid(box), "kaiser_bessel", dtype="float64", oversampling=2, width=6
    )
    positions = frequencies(rotations, operator.grid.radius)
    points = np.ascontiguousarray(2 * np.pi / box * positions.T)
    # finufft's first coordinate goes with the first axis.
    expected = finufft.nufft3d2(*points[::-1], volume.astype(complex), eps=1e-12, isign=-1)
    ours = slices_of(operator, volume, rotations)
    assert np.linalg.norm(ours - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("box", [15, 16, 48])
def test_back_projection_is_the_transpose_of_slicing(box, window):
    # Over the reals, with full-grid inner products: see tests/test_operators.py. The planes of the
    # Nyquist frequency of even boxes are part of it.
    rotations, grid = views(), FourierGrid(box)
    dtype, options = WINDOWS[window]
    operator = SliceOperator(grid, dtype=dtype, **with_mask(options, box))
    volume = grid.from_real(noise(box).astype(dtype))
    slices = operator.forward(volume, rotations)
    rng = np.random.default_rng(3)
    transforms = np.fft.fft2(rng.normal(size=(len(rotations), box, box)))
    samples = operator.pack(transforms * np.sqrt(box)) + slices
    left = operator.inner(slices, samples)
    right = grid.inner(volume, operator.adjoint(samples, rotations))
    assert abs(left - right) < TOLERANCE[dtype] * abs(left)


def test_masked_slices_are_those_of_the_masked_map():
    box, rotations = 16, views()
    operator = SliceOperator(
        FourierGrid(box), dtype="float64", **with_mask(WINDOWS["masked"][1], box)
    )
    bare = SliceOperator(FourierGrid(box), dtype="float64", **WIDEST)
    volume = noise(box)
    np.testing.assert_allclose(
        slices_of(operator, volume, rotations),
        slices_of(bare, volume * operator.mask, rotations),
        rtol=0,
        atol=1e-6,
    )
    half = operator.grid.from_real(volume)
    np.testing.assert_allclose(operator.to_map(half), volume * operator.mask, atol=1e-12)


masks = pytest.mark.parametrize("mask", [False, True], ids=["open", "masked"])


@masks
def test_gradient_is_that_of_finite_differences(mask):
    problem = small_problem(**WIDEST, mask=mask)
    grid = problem.grid
    volume, direction = grid.from_real(noise(12)), grid.from_real(noise(12, 7))
    loss, gradient = problem.loss_and_gradient(volume)
    assert loss == pytest.approx(problem.loss(volume), rel=1e-12)
    step = 1e-3
    difference = problem.loss(volume + step * direction) - problem.loss(volume - step * direction)
    slope = grid.inner(gradient, direction)
    assert difference / (2 * step) == pytest.approx(slope, rel=1e-7)
    assert problem.curvature(direction) == pytest.approx(
        grid.inner(direction, problem.hvp(direction)), rel=1e-12
    )


@masks
def test_the_convolution_is_the_normal_operator(mask):
    problem = small_problem(**WIDEST, mask=mask)
    grid, operator = problem.grid, problem.normal_operator()
    volume, other = grid.from_real(noise(12)), grid.from_real(noise(12, 8))
    product = operator.matvec(volume)
    assert grid.norm(product - problem.hvp(volume)) < 2e-5 * grid.norm(product)
    # Symmetric to rounding, whatever the window's error.
    assert grid.inner(other, product) == pytest.approx(
        grid.inner(operator.matvec(other), volume), rel=1e-12
    )
    assert operator.assembled


@masks
def test_the_diagonal_is_that_of_products_with_unit_volumes(mask):
    problem = small_problem(**WIDEST, mask=mask)
    diagonal = problem.hessian_diagonal()
    np.testing.assert_allclose(problem.normal_operator().diagonal(), diagonal, rtol=1e-10)
    for place in [(0, 6, 6), (2, 8, 7), (5, 6, 6), (1, 2, 9), (3, 0, 6)]:
        unit = problem.grid.zeros(complex)
        unit[place] = 1
        if place[0] == 0:
            expected = problem.hvp(unit)[place].real
        else:
            # Real and imaginary part, so that the coupling with the mirror drops out.
            both = problem.hvp(unit)[place].real + problem.hvp(1j * unit)[place].imag
            expected = both / 2
        assert diagonal[place] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("probing", "probes"), [("coloured", 4), ("rademacher", 32)])
def test_probes_estimate_the_diagonal(probing, probes):
    problem = small_problem(**WIDEST)
    diagonal = problem.hessian_diagonal()
    found = hutchinson_diagonal(problem, probes, probing)
    assert np.linalg.norm(found - diagonal) < 0.15 * np.linalg.norm(diagonal)


@masks
def test_conjugate_gradients_agree_with_and_without_the_convolution(mask):
    problem = small_problem(**WIDEST, mask=mask)
    through_images = conjugate_gradient(problem, tolerance=1e-9)
    assembled = conjugate_gradient(problem, tolerance=1e-9, operator=problem.normal_operator())
    assert through_images.converged
    assert assembled.converged
    difference = through_images.volume - assembled.volume
    assert problem.grid.norm(difference) < 1e-4 * problem.grid.norm(assembled.volume)


def test_weights_outside_the_ball_are_filled_in_which_saves_iterations():
    problem = small_problem(**WIDEST, box=16, regularization=1e-4)
    ball, plain = problem.grid.ball(), problem.hessian_diagonal()
    used = named_diagonal(problem, "exact")
    np.testing.assert_array_equal(used[ball], plain[ball])
    last = problem.grid.shell_means(plain)[-1]
    assert plain[~ball].min() < 0.1 * last <= used[~ball].min() * (1 + 1e-12)
    operator = problem.normal_operator()
    counts = [
        len(conjugate_gradient(problem, d, tolerance=1e-4, operator=operator).residual)
        for d in ("exact", plain)
    ]
    assert counts[0] < 0.8 * counts[1]


@masks
def test_sgd_with_default_steps_reaches_the_minimiser(mask):
    problem = small_problem(**WIDEST, mask=mask)
    operator = problem.normal_operator()
    minimum = conjugate_gradient(problem, tolerance=1e-9, operator=operator)
    result = sgd(
        problem,
        epochs=40,
        batch_size=10,
        preconditioner="gridding",
        step=1.0,
        variance_reduction="svrg",
        rng=0,
        operator=operator,
    )
    lowest, start = problem.loss(minimum.volume), problem.loss(problem.grid.zeros(complex))
    assert problem.loss(result.volume) - lowest < 1e-2 * (start - lowest)


def test_results_do_not_depend_on_the_number_of_threads():
    problem = small_problem("float32", box=48, interpolation="kaiser_bessel")
    volume = problem.grid.from_real(noise(48).astype(np.float32))
    found = []
    for threads in (1, 2):
        with use_threads(threads):
            found.append((problem.loss_and_gradient(volume), problem.hessian_diagonal()))
    (one, gradient), diagonal = found[0]
    (other, second), again = found[1]
    assert one == other
    np.testing.assert_array_equal(gradient, second)
    np.testing.assert_array_equal(diagonal, again)


@pytest.mark.parametrize("symmetry", ["C1", "C2"])
def test_gradients_of_blocks_add_up_in_one_volume_or_two(monkeypatch, symmetry):
    problem = small_problem(**WIDEST, symmetry=symmetry)
    volume, zero = problem.grid.from_real(noise(12)), problem.grid.zeros(complex)
    loss, gradient = problem.loss_and_gradient(volume)
    # By the transpose of the slices, which never are in one volume with their sums.
    apart = problem.hvp(volume) - problem.right_hand_side()
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(gradient, apart, rtol=0, atol=1e-12 * scale)
    assert np.array_equal(problem.loss_and_gradient(zero)[1], -problem.right_hand_side())
    monkeypatch.setattr(rows, "BLOCK_BYTES", 7 * rows.SAMPLE_BYTES * problem.operator.samples)
    again, parts = problem.loss_and_gradient(volume)
    assert again == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(parts, gradient, rtol=0, atol=1e-12 * scale)


def test_a_gradient_is_the_transpose_of_the_residual():
    problem = small_problem(**WIDEST)
    operator, volume = problem.operator, problem.grid.from_real(noise(12))
    rotations = naive.random_rotations(30, np.random.default_rng(5))
    halved = np.ones(operator.samples)
    halved[operator.origin] = 2
    residual = problem.weights * operator.forward(volume, rotations) - problem.data
    sums = operator.normal(
        volume,
        layout.fixed_point_steps(rotations),
        np.arange(30),
        problem.weights,
        problem.data,
    )[0]
    expected = operator.adjoint(residual * halved, rotations)
    np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("width", [4, 5, 6])
def test_polynomials_are_the_window(width):
    window = kaiser_bessel(width, 2.0)
    kernel = wide_rows.fit_kernel(window, width, np.float64)
    u = np.linspace(-0.5, 0.5, 101)
    weights = np.polynomial.polynomial.polyval(u, kernel)[:width]
    distance = u + (width - 1) / 2 - np.arange(width)[:, None]
    np.testing.assert_allclose(weights, window(distance), rtol=0, atol=2e-7)


@pytest.mark.parametrize("width", [2, 4, 5, 6])
@pytest.mark.parametrize("bound", [3, 17, 40])
def test_every_cell_that_a_window_reaches_has_one_owner(bound, width):
    widths = wide.extended_widths(bound - 0.5, bound, width)
    tiles, neighbours = wide.wide_tiles(widths, bound, width)
    owner = np.full(widths.shape, -1)
    for t, (z0, z1, y0, y1) in enumerate(tiles):
        assert (owner[z0:z1, y0 + bound : y1 + bound] == -1).all()
        owner[z0:z1, y0 + bound : y1 + bound] = t
        for other in neighbours[t]:
            assert other < 0 or (tiles[other, 1] - tiles[other, 0] >= width - 1)
    assert (owner[widths >= 0] >= 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"interpolation": "kaiser_bessel", "width": 3}, "width: 3"),
        ({"interpolation": "kaiser_bessel", "oversampling": 1.1}, "oversampling: 1.1"),
        ({"interpolation": "trilinear", "width": 5}, "width: goes with kaiser_bessel"),
        ({"interpolation": "nearest", "oversampling": 2}, "oversampling: nearest"),
        ({"interpolation": "trilinear", "compat": "relion"}, "compat: relion goes with"),
        ({"interpolation": "trilinear", "oversampling": 2, "compat": "x"}, "compat: 'x'"),
        ({"interpolation": "trilinear", "mask": np.ones((12,) * 3)}, "mask: trilinear slices"),
        ({"interpolation": "kaiser_bessel", "mask": np.ones((8,) * 3)}, "mask: shape"),
    ],
)
def test_windows_that_cannot_be_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        SliceOperator(FourierGrid(12), **options)


def test_python_threads_that_share_an_operator_do_not_disturb_each_other():
    """Its oversampled volume is used again by every call."""
    grid = FourierGrid(16)
    operator = SliceOperator(grid, "kaiser_bessel")
    rng = np.random.default_rng(5)
    rotations = random_rotations(6, rng)
    volumes = [grid.from_real(rng.normal(size=(16,) * 3).astype(np.float32)) for _ in range(8)]
    expected = [operator.forward(volume, rotations) for volume in volumes]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda volume: operator.forward(volume, rotations), 4 * volumes)
        for ours, alone in zip(found, 4 * expected, strict=True):
            np.testing.assert_array_equal(ours, alone)
