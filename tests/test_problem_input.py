"""From images and metadata to the objective: cropping, blocks, particles, bad input."""

from types import SimpleNamespace

import numpy as np
import pytest

import fastcryo.packing
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.operators import SliceOperator
from fastcryo.problem import KnownPoseProblem

from . import naive

NOISE = np.array([3.0, 2.0, 1.5, 2.5, 4.0, 5.0])


def build(data, **options):
    options = {"dtype": "float64", **options}
    return KnownPoseProblem.from_arrays(
        data.images, data.rotations, data.pixel_size, CTF(**data.ctf), data.shifts, **options
    )


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
    volume = problem.grid.from_real(np.random.default_rng(2).normal(size=(box,) * 3))
    expected_loss, expected = naive.loss_and_gradient(
        problem.grid.unfold(volume),
        cut.transforms,
        cut.rotations,
        problem.grid.radius,
        "trilinear",
        cut.ctfs,
        cut.phases,
        noise_std=2.0,
        regularization=0.1,
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
        ({"resolution": 72 / 7}, 7),
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
    monkeypatch.setattr(fastcryo.packing, "BLOCK_BYTES", 8 * 12 * 12 * 3)
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
        self.optics = ()
        self.scale = None
        self.stack = data.images

    def __len__(self):
        return len(self.stack)

    def images(self, indices, check_finite=True, out=None):
        return self.stack[indices].astype(np.float32)

    def reading_order(self):
        return np.arange(len(self))


def test_particles_give_the_problem_of_their_arrays(monkeypatch):
    monkeypatch.setattr(fastcryo.packing, "BLOCK_BYTES", 8 * 12 * 12 * 3)
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
        ({"resolution": 5.9}, r"^resolution: 5.9 angstrom is beyond Nyquist"),
        ({"resolution": 4.0}, r"^resolution: 4 angstrom is beyond Nyquist, 6 angstrom is the"),
        ({"resolution": 0.0}, r"^resolution: 0 angstrom"),
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
