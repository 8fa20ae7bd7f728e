"""The objective against its definition, image by image on full grids."""

from types import SimpleNamespace

import numpy as np
import pytest

import fastcryo.problem
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.operators import SliceOperator
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


@pytest.mark.parametrize(("side", "box"), [(24, 16), (24, 15), (25, 16)])
def test_fourier_cropping_keeps_the_low_frequencies_as_they_are(side, box):
    data = naive.data_set(side)
    problem = build(data, box=box, noise_std=2.0, regularization=0.1)
    assert problem.grid.box == box
    assert problem.grid_pixel_size == pytest.approx(3.0 * side / box, rel=1e-15)
    h, k = naive.disc(problem.grid.radius)
    cut = SimpleNamespace(rotations=data.rotations)
    for name in ("transforms", "ctfs", "phases"):
        values = getattr(data, name)
        cropped = np.zeros((len(values), box, box), values.dtype)
        cropped[:, k, h] = values[:, k, h]
        setattr(cut, name, cropped)
    volume = random_half(problem.grid)
    full = problem.grid.unfold(volume)
    expected_loss, expected = oracle(
        cut, full, problem.grid.radius, noise_std=2.0, regularization=0.1
    )
    loss, gradient = problem.loss_and_gradient(volume)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    ours = problem.grid.unfold(gradient)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_cropped_data_are_the_uncropped_data_cut():
    data = naive.data_set(24)
    whole, cropped = build(data), build(data, box=16)
    operator = SliceOperator(cropped.grid, dtype="float64")
    h, k = naive.disc(7)
    small = np.zeros((len(whole), 16, 16), complex)
    small[:, k, h] = whole.operator.unpack(whole.data)[:, k, h]
    np.testing.assert_allclose(cropped.data, operator.pack(small), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("options", "radius"),
    [
        ({}, 11),
        ({"radius": 6}, 6),
        ({"resolution": 12.0}, 6),
        ({"resolution": 11.9}, 6),
        ({"resolution": 12.1}, 5),
        ({"resolution": 6.0}, 11),
        ({"box": 16}, 7),
        ({"box": 16, "radius": 5}, 5),
        ({"box": 16, "resolution": 14.4}, 5),
    ],
)
def test_radius_follows_from_box_radius_or_resolution(options, radius):
    # 24 pixels of 3 angstrom: shell r is at 72 / r angstrom, whatever the cropped box.
    data = naive.data_set(24)
    problem = build(data, **options)
    assert problem.grid.radius == radius


def test_images_are_prepared_alike_in_any_number_of_blocks(monkeypatch):
    data = naive.data_set(12)
    whole = build(data)
    monkeypatch.setattr(fastcryo.problem, "PREPARATION_BYTES", 8 * 12 * 12 * 3)
    pieces = build(data)
    np.testing.assert_array_equal(pieces.data, whole.data)
    np.testing.assert_array_equal(pieces.energies, whole.energies)
    data.images[7, 2, 2] = np.inf
    data.images[4, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"^images: 1 contain NaN or infinity, .* image 4 \(from"):
        build(data)


def test_preparation_leaves_the_images_alone():
    data = naive.data_set(12)
    for dtype in ("float32", "float64"):
        images = data.images.astype(dtype)
        kept = images.copy()
        KnownPoseProblem.from_arrays(images, data.rotations, 3.0, dtype=dtype)
        np.testing.assert_array_equal(images, kept)


def test_whole_numbers_and_half_precision_images_are_read():
    rng = np.random.default_rng(0)
    rotations = naive.random_rotations(3, rng)
    images = rng.integers(-9, 9, size=(3, 12, 12))
    expected = KnownPoseProblem.from_arrays(images.astype(np.float64), rotations, 3.0)
    for dtype in (np.int8, np.int16, np.float16, ">f4"):
        ours = KnownPoseProblem.from_arrays(images.astype(dtype), rotations, 3.0)
        np.testing.assert_array_equal(ours.data, expected.data)


class TableOfParticles:
    """What `from_particles` needs of a table: metadata, and images read by index."""

    def __init__(self, data):
        self.box = data.images.shape[1]
        self.pixel_size = data.pixel_size
        self.ctf = CTF(**data.ctf)
        self.shifts = data.shifts
        self.rotations = data.rotations
        self.stack = data.images

    def __len__(self):
        return len(self.stack)

    def images(self, indices):
        return self.stack[indices].astype(np.float32)


def test_particles_give_the_problem_of_their_arrays(monkeypatch):
    monkeypatch.setattr(fastcryo.problem, "PREPARATION_BYTES", 8 * 12 * 12 * 3)
    data = naive.data_set(12)
    table = TableOfParticles(data)
    told = []
    problem = KnownPoseProblem.from_particles(
        table, noise_std=NOISE, progress=lambda done, count: told.append((done, count))
    )
    expected = build(data, dtype="float32", noise_std=NOISE)
    np.testing.assert_array_equal(problem.data, expected.data)
    np.testing.assert_array_equal(problem.weights, expected.weights)
    assert told == [(3, 8), (6, 8), (8, 8)]
    inverted = KnownPoseProblem.from_particles(table, noise_std=NOISE, invert=True)
    np.testing.assert_array_equal(inverted.data, -expected.data)
    metadata = KnownPoseProblem.from_particles(table, noise_std=NOISE, metadata_only=True)
    assert len(metadata.data) == 0
    np.testing.assert_array_equal(metadata.hessian_diagonal(), expected.hessian_diagonal())
    cropped = KnownPoseProblem.from_particles(table, box=9, resolution=12.0)
    assert (cropped.grid.box, cropped.grid.radius) == (9, 3)


GOOD = naive.data_set(12, count=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": None}, r"^images: without images the box is needed, give N="),
        ({"images": GOOD.images[0]}, r"^images: real values of shape \(n, N, N\) needed"),
        ({"images": GOOD.images[:, :11]}, r"^images: real .* needed, got \(4, 11, 12\)"),
        ({"images": GOOD.images + 0j}, r"^images: real values"),
        ({"images": GOOD.images[:3]}, r"^images: 3 given, but 4 rotations"),
        ({"images": GOOD.images * np.nan}, r"^images: 4 contain NaN .* the first is image 0"),
        ({"images": GOOD.images[:0], "rotations": GOOD.rotations[:0]}, r"^images: there are none"),
        ({"rotations": GOOD.rotations * 2}, r"^rotations: 4 of 4 matrices are not rotations"),
        ({"pixel_size": 0.0}, r"^pixel_size: 0.0 must be a positive number"),
        ({"pixel_size": np.nan}, r"^pixel_size: nan must be a positive number"),
        ({"shifts": np.zeros((3, 2))}, r"^shifts: finite values of shape \(4, 2\) needed"),
        ({"shifts": np.full((4, 2), np.inf)}, r"^shifts: finite values"),
        ({"ctf": CTF([1.0, 2.0], 1.0)}, r"^ctf: 2 functions given for 4 images"),
        ({"box": 13}, r"^box: 13 is larger than the images, 12 pixels"),
        ({"box": 6}, r"^box: 6 pixels cannot be used"),
        ({"radius": 6}, r"^radius: 6 cannot be used for a box of 12"),
        ({"radius": 3, "resolution": 9.0}, r"^radius and resolution cannot both be given"),
        ({"resolution": 4.0}, r"^resolution: 4.0 angstrom is beyond Nyquist, 7.2 angstrom is the"),
        ({"resolution": 0.0}, r"^resolution: 0.0 angstrom"),
        ({"noise_std": 0.0}, r"^noise_std: every value must be positive"),
        ({"noise_std": -1.0}, r"^noise_std: values must be finite and not negative"),
        ({"noise_std": np.ones(5)}, r"^noise_std: one number or 6 values \(shells 0 to R\)"),
        ({"noise_std": [1, 1, 1, 1, 1, np.nan]}, r"^noise_std: values must be finite"),
        ({"regularization": -1e-3}, r"^regularization: values must be finite and not negative"),
        ({"regularization": np.ones(3)}, r"^regularization: one number or 6 values"),
        ({"interpolation": "linear"}, r"^interpolation: 'linear' is unknown"),
        ({"dtype": "int32"}, r"^dtype: int32 is not supported"),
        ({"backend": "cuda0"}, r"^backend: 'cuda0' is unknown"),
    ],
)
def test_input_that_cannot_be_used_is_refused_by_name(options, message):
    arguments = {
        "images": GOOD.images,
        "rotations": GOOD.rotations,
        "pixel_size": 3.0,
        "ctf": CTF(**GOOD.ctf),
        **options,
    }
    with pytest.raises(InputError, match=message):
        KnownPoseProblem.from_arrays(**arguments)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "^batch: a non-empty list"),
        ([[0, 1]], "^batch: a non-empty list"),
        ([0.0, 1.0], "^batch: a non-empty list"),
        ([True, False, True, True], "^batch: a non-empty list"),
        ([0, 4], "^batch: indices must lie between 0 and 3"),
        ([-1], "^batch: indices must lie between 0 and 3"),
    ],
)
def test_batches_that_cannot_be_used_are_refused(batch, message):
    problem = build(GOOD)
    volume = problem.grid.zeros(complex)
    uses = (problem.loss, problem.loss_and_gradient, problem.hvp, problem.curvature)
    for use in uses:
        with pytest.raises(InputError, match=message):
            use(volume, batch)
    with pytest.raises(InputError, match=message):
        problem.hessian_diagonal(batch)
    with pytest.raises(InputError, match=message):
        problem.select(batch)


def test_volumes_of_another_box_are_refused():
    problem = build(GOOD)
    wrong = np.zeros((8, 13, 13), complex)
    for use in (problem.loss, problem.loss_and_gradient, problem.hvp, problem.curvature):
        with pytest.raises(InputError, match=r"^half grid: shape \(7, 12, 12\) needed for box 12"):
            use(wrong)
