"""The objective against its definition, image by image on full grids."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.problem import KnownPoseProblem

from . import naive

INTERPOLATIONS = ("nearest", "trilinear")
NOISE = np.array([3.0, 2.0, 1.5, 2.5, 4.0, 5.0])
PRIOR = np.array([0.02, 0.01, 0.3, 0.1, 0.05, 0.2])


def build(data, **options):
    options = {"dtype": "float64", **options}
    return KnownPoseProblem.from_arrays(
        data.images, data.rotations, data.pixel_size, CTF(**data.ctf), data.shifts, **options
    )


def oracle(data, full, radius, interpolation="trilinear", noise_std=1.0, regularization=1e-8):
    return naive.loss_and_gradient(
        full,
        data.transforms,
        data.rotations,
        radius,
        interpolation,
        data.ctfs,
        data.phases,
        noise_std,
        regularization,
    )


def views_for(interpolation):
    """Half-way samples have no nearest voxel to agree about."""
    return "ties" if interpolation == "trilinear" else "quarter"


def random_half(grid, dtype="float64", seed=2):
    volume = np.random.default_rng(seed).normal(size=(grid.box,) * 3)
    return grid.from_real(volume.astype(dtype))


@pytest.mark.parametrize(("noise_std", "regularization"), [(1.7, 0.1), (NOISE, PRIOR)])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("box", [12, 13])
def test_loss_and_gradient_are_those_of_the_definition(
    box, interpolation, noise_std, regularization
):
    data = naive.data_set(box, views_for(interpolation))
    radius = (box - 1) // 2
    noise_std = noise_std if np.ndim(noise_std) == 0 else np.resize(noise_std, radius + 1)
    settings = {"noise_std": noise_std, "regularization": regularization}
    if np.ndim(regularization):
        settings["regularization"] = np.resize(regularization, radius + 1)
    problem = build(data, interpolation=interpolation, **settings)
    volume = random_half(problem.grid)
    full = problem.grid.unfold(volume)
    expected_loss, expected = oracle(data, full, radius, interpolation, **settings)
    loss, gradient = problem.loss_and_gradient(volume)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert problem.loss(volume) == pytest.approx(expected_loss, rel=1e-12)
    ours = problem.grid.unfold(gradient)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_single_precision_stays_close_to_double(interpolation):
    # 16 views of 450 samples: the loss is summed in float64, its terms carry 2^-24 each.
    data = naive.data_set(33, views_for(interpolation))
    settings = {"interpolation": interpolation, "noise_std": 2.0, "regularization": 0.01}
    double = build(data, **settings)
    single = build(data, dtype="float32", **settings)
    volume = random_half(double.grid)
    loss, gradient = double.loss_and_gradient(volume)
    single_loss, single_gradient = single.loss_and_gradient(volume.astype(np.complex64))
    assert single_gradient.dtype == np.complex64
    assert single_loss == pytest.approx(loss, rel=1e-6)
    limit = 2e-6 * np.abs(gradient).max()
    np.testing.assert_allclose(single_gradient, gradient, rtol=0, atol=limit)
    product = double.hvp(volume)
    limit = 2e-6 * np.abs(product).max()
    np.testing.assert_allclose(single.hvp(volume.astype(np.complex64)), product, rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("box", [15, 16, 33, 64])
def test_data_side_is_the_transpose_of_the_model_side(box, interpolation, dtype):
    # <b, V> over the full grid, with b = A^H y / sigma^2 of the images, equals <y / sigma^2, A V>
    # over the full discs, with A = C * phase * P of the oracle's phases and CTF. It holds over the
    # reals, see test_operators.py. A product that is small by accident is held to its usual size.
    data = naive.data_set(box, "ties", count=4)
    problem = build(data, interpolation=interpolation, dtype=dtype, noise_std=2.0)
    grid, operator = problem.grid, problem.operator
    volume = random_half(grid, dtype)
    slices = operator.unpack(operator.forward(volume, data.rotations))
    model = data.ctfs * data.phases * slices
    left = np.vdot(model, data.transforms).real / 4.0 / len(problem)
    right = grid.inner(problem.right_hand_side(), volume)
    scale = np.linalg.norm(model) * np.linalg.norm(data.transforms) / 4.0 / len(problem)
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    assert abs(left - right) < tolerance * max(abs(left), 0.01 * scale)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_gradient_is_the_slope_of_the_loss(interpolation):
    # f is quadratic: central differences are exact for any step, so a long one loses no digits.
    problem = build(
        naive.data_set(13, "ties"),
        interpolation=interpolation,
        noise_std=np.resize(NOISE, 7),
        regularization=np.resize(PRIOR, 7),
    )
    volume, direction = random_half(problem.grid), random_half(problem.grid, seed=3)
    loss, gradient = problem.loss_and_gradient(volume)
    ahead, behind = problem.loss(volume + direction), problem.loss(volume - direction)
    slope = problem.grid.inner(gradient, direction)
    curvature = problem.grid.inner(direction, problem.hvp(direction))
    scale = max(ahead, behind)
    assert abs((ahead - behind) / 2 - slope) < 1e-12 * scale
    assert abs(ahead + behind - 2 * loss - curvature) < 1e-12 * scale


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_hessian_products_are_those_of_the_assembled_matrix(interpolation):
    data = naive.data_set(12, views_for(interpolation))
    problem = build(data, interpolation=interpolation, noise_std=NOISE, regularization=PRIOR)
    power = data.ctfs**2 / naive.by_shell(NOISE, 12, 2) ** 2
    matrix = naive.hessian(12, data.rotations, 5, interpolation, power)
    matrix[np.diag_indices(12**3)] += naive.by_shell(PRIOR, 12).ravel()
    for seed in (4, 5):
        direction = random_half(problem.grid, seed=seed)
        full = problem.grid.unfold(direction).ravel()
        expected = (matrix @ full).reshape(12, 12, 12)
        ours = problem.grid.unfold(problem.hvp(direction))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
        curvature = np.vdot(full, expected.ravel()).real
        assert problem.curvature(direction) == pytest.approx(curvature, rel=1e-12)


def test_right_hand_side_is_minus_the_gradient_at_zero():
    data = naive.data_set(12)
    problem = build(data, noise_std=NOISE, regularization=PRIOR)
    _, gradient = oracle(data, np.zeros((12,) * 3), 5, noise_std=NOISE, regularization=PRIOR)
    ours = problem.grid.unfold(problem.right_hand_side())
    np.testing.assert_allclose(ours, -gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())


def test_a_shift_moves_the_image_onto_its_centre():
    # RELION: the origin offset is added to the image to centre it; the particle lies at -offset.
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] - 8
    centred = np.exp(-((x - 1) ** 2 + (y + 2) ** 2) / 4.0)
    rotations = naive.random_rotations(1, rng)
    moved = np.roll(centred, (-3, 2), axis=(0, 1))
    plain = KnownPoseProblem.from_arrays(centred[None], rotations, 1.5, dtype="float64")
    undone = KnownPoseProblem.from_arrays(
        moved[None], rotations, 1.5, shifts=[[-2 * 1.5, 3 * 1.5]], dtype="float64"
    )
    np.testing.assert_allclose(undone.data, plain.data, rtol=0, atol=1e-12)


def test_without_ctf_all_images_share_one_row_of_weights():
    data = naive.data_set(12)
    plain = KnownPoseProblem.from_arrays(
        data.images, data.rotations, 3.0, shifts=data.shifts, dtype="float64", noise_std=NOISE
    )
    assert len(plain.weights) == 1
    data.ctfs = np.ones_like(data.ctfs)
    volume = random_half(plain.grid)
    expected, _ = oracle(data, plain.grid.unfold(volume), 5, noise_std=NOISE)
    assert plain.loss(volume) == pytest.approx(expected, rel=1e-12)


def test_one_ctf_serves_all_images():
    data = naive.data_set(12)
    one = {name: values[0] for name, values in data.ctf.items()}
    data.ctf = {name: np.full(len(data.images), value) for name, value in one.items()}
    many = build(data)
    single = KnownPoseProblem.from_arrays(
        data.images, data.rotations, 3.0, CTF(**one), data.shifts, dtype="float64"
    )
    np.testing.assert_array_equal(single.weights, many.weights)
    np.testing.assert_array_equal(single.data, many.data)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_batch_is_the_mean_over_its_images(interpolation):
    data = naive.data_set(12, "ties")
    settings = {"interpolation": interpolation, "noise_std": NOISE, "regularization": PRIOR}
    problem = build(data, **settings)
    volume = random_half(problem.grid)
    batch = [5, 0, 3, 5]
    part = SimpleNamespace(**vars(data))
    part.images, part.rotations, part.shifts = (
        a[batch] for a in (data.images, data.rotations, data.shifts)
    )
    part.ctf = {name: values[batch] for name, values in data.ctf.items()}
    alone = build(part, **settings)
    loss, gradient = problem.loss_and_gradient(volume, batch)
    expected_loss, expected = alone.loss_and_gradient(volume)
    assert loss == pytest.approx(expected_loss, rel=1e-14)
    assert problem.loss(volume, batch) == pytest.approx(expected_loss, rel=1e-14)
    np.testing.assert_array_equal(gradient, expected)
    np.testing.assert_array_equal(problem.hvp(volume, batch), alone.hvp(volume))
    np.testing.assert_array_equal(problem.hessian_diagonal(batch), alone.hessian_diagonal())
    np.testing.assert_array_equal(problem.gridding_weight(batch), alone.gridding_weight())
    assert problem.curvature(volume, batch) == alone.curvature(volume)


def test_selected_images_share_the_prepared_data():
    problem = build(naive.data_set(12))
    volume = random_half(problem.grid)
    chosen = problem.select([6, 1, 4])
    assert len(chosen) == 3
    assert chosen.data is problem.data
    assert chosen.weights is problem.weights
    assert chosen.loss(volume) == problem.loss(volume, [6, 1, 4])
    assert chosen.select([2, 0]).loss(volume) == problem.loss(volume, [4, 6])
    assert chosen.loss(volume, [0]) == problem.loss(volume, [6])
    np.testing.assert_array_equal(chosen.hessian_diagonal(), problem.hessian_diagonal([6, 1, 4]))
    with pytest.raises(InputError, match=r"^batch: indices must lie between 0 and 2"):
        chosen.loss(volume, [3])


def test_another_regularization_changes_only_the_prior():
    problem = build(naive.data_set(12), regularization=0.0)
    volume = random_half(problem.grid)
    shells = problem.grid.shells()
    for prior, by_voxel in [(0.5, 0.5), (PRIOR, PRIOR[np.minimum(shells, 5)])]:
        other = problem.with_regularization(prior)
        assert other.data is problem.data
        damped = by_voxel * volume
        expected = problem.loss(volume) + 0.5 * problem.grid.inner(volume, damped)
        assert other.loss(volume) == pytest.approx(expected, rel=1e-13)
        np.testing.assert_allclose(
            other.hvp(volume), problem.hvp(volume) + damped, rtol=1e-12, atol=1e-12
        )
        np.testing.assert_allclose(
            other.hessian_diagonal(), problem.hessian_diagonal() + by_voxel, rtol=1e-13
        )


def test_the_hessian_needs_metadata_only():
    data = naive.data_set(12)
    settings = {"noise_std": NOISE, "regularization": PRIOR, "dtype": "float64"}
    problem = build(data, **settings)
    metadata = KnownPoseProblem.from_arrays(
        None, data.rotations, 3.0, CTF(**data.ctf), N=12, **settings
    )
    volume = random_half(problem.grid)
    np.testing.assert_array_equal(metadata.hessian_diagonal(), problem.hessian_diagonal())
    np.testing.assert_array_equal(metadata.gridding_weight(), problem.gridding_weight())
    np.testing.assert_array_equal(metadata.hvp(volume), problem.hvp(volume))
    assert metadata.curvature(volume) == problem.curvature(volume)
    for use in (metadata.loss, metadata.loss_and_gradient):
        with pytest.raises(InputError, match=r"^images: this problem was built from metadata only"):
            use(volume)
    with pytest.raises(InputError, match=r"^images: this problem was built from metadata only"):
        metadata.right_hand_side()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_gradient_and_product_of_one_pass_are_those_of_two(interpolation):
    problem = build(naive.data_set(13, "ties"), interpolation=interpolation, regularization=0.1)
    volume, direction = random_half(problem.grid), random_half(problem.grid, seed=3)
    batch = np.arange(1, len(problem), 2)
    assert problem.loss_and_curvature(volume, direction, batch) == pytest.approx(
        (problem.loss(volume, batch), problem.curvature(direction, batch)), rel=1e-12
    )
    # The even part of a map has a real transform.
    direction = direction.real.copy()
    loss, gradient, product = problem.loss_gradient_and_product(volume, direction, batch)
    expected_loss, expected = problem.loss_and_gradient(volume, batch)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12 * abs(expected).max())
    expected = problem.hvp(direction.astype(complex), batch)
    assert product.dtype == np.float64
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-12 * abs(expected).max())
    first, second = problem.products(volume, direction, batch)
    np.testing.assert_array_equal(second, product)
    expected = problem.hvp(volume, batch)
    np.testing.assert_allclose(first, expected, rtol=0, atol=1e-12 * abs(expected).max())
    signs = np.sign(direction).astype(np.int8)
    product = problem.loss_gradient_and_product(volume, signs, batch)[2]
    np.testing.assert_array_equal(
        product, problem.loss_gradient_and_product(volume, signs.astype(float), batch)[2]
    )


def test_a_complex_direction_is_refused_where_a_real_one_is_needed():
    problem = build(naive.data_set(13, "ties"))
    volume = random_half(problem.grid)
    with pytest.raises(InputError, match=r"^direction: real numbers are needed, use hvp"):
        problem.loss_gradient_and_product(volume, volume)
