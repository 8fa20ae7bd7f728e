"""Slices and back-projection against the oracle.

Every adjoint identity here holds over the reals, Re <A v, y> = Re <v, A^H y>, with the inner
products of the full grid: a sample with z < 0 reads the conjugate of its mirror, and conjugation is
not linear over the complex numbers. A complex dot-test on the half grid is wrong by construction.
"""

import numpy as np
import pytest

from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.operators import SliceOperator
from fastcryo.rotations import rotation_matrices

from . import naive

INTERPOLATIONS = ("nearest", "trilinear")
# Rounding of the weights, of 8 products, and of sums of a few hundred terms.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
# The largest that a slice may be off: weights in units of 2^-24 or 2^-52, 8 products.
SLICE_TOLERANCE = {"float32": 1e-6, "float64": 1e-13}


def views(count=6, seed=1):
    rng = np.random.default_rng(seed)
    return np.concatenate([naive.random_rotations(count, rng), naive.special_rotations()])


def comparable(box, rotations, radius, interpolation):
    """Samples on whose place the oracle and the kernels must agree."""
    if interpolation == "trilinear":
        return np.ones((len(rotations), box, box), bool)
    keep = naive.clear_of_ties(box, rotations, radius)
    # A turn by 45 degrees about two axes makes ties; the other views must stay in the test.
    assert keep.all(axis=(1, 2)).sum() >= len(rotations) - 4
    return keep


def random_half(grid, dtype="float64", seed=2):
    volume = np.random.default_rng(seed).normal(size=(grid.box,) * 3)
    return grid.from_real(volume.astype(dtype))


def random_transforms(count, box, seed=3):
    return np.fft.fft2(np.random.default_rng(seed).normal(size=(count, box, box)))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("box", [15, 16, 33, 64])
def test_back_projection_is_the_transpose_of_slicing(box, interpolation, dtype):
    # Over the reals, with full-grid inner products: see the head of this file. Slices are mixed
    # into y to keep the product from being small by accident.
    rotations = views()
    grid = FourierGrid(box)
    operator = SliceOperator(grid, interpolation, dtype=dtype)
    volume = random_half(grid, dtype)
    slices = operator.forward(volume, rotations)
    samples = operator.pack(random_transforms(len(rotations), box) * np.sqrt(box)) + slices
    left = operator.inner(slices, samples)
    right = grid.inner(volume, operator.adjoint(samples, rotations))
    assert abs(left - right) < TOLERANCE[dtype] * abs(left)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("box", [8, 12, 15, 33])
def test_slices_are_those_of_the_oracle(box, interpolation, dtype):
    rotations = views()
    grid = FourierGrid(box)
    operator = SliceOperator(grid, interpolation, dtype=dtype)
    volume = random_half(grid, dtype)
    keep = comparable(box, rotations, grid.radius, interpolation)
    expected = keep * naive.forward(grid.unfold(volume), rotations, grid.radius, interpolation)
    ours = keep * operator.unpack(operator.forward(volume, rotations))
    limit = SLICE_TOLERANCE[dtype] * np.abs(expected).max()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("box", [12, 15, 33])
def test_back_projections_are_those_of_the_oracle(box, interpolation, dtype):
    rotations = views()
    grid = FourierGrid(box)
    operator = SliceOperator(grid, interpolation, dtype=dtype)
    transforms = random_transforms(len(rotations), box)
    transforms *= comparable(box, rotations, grid.radius, interpolation)
    expected = naive.adjoint(transforms, rotations, grid.radius, interpolation)
    ours = grid.unfold(operator.adjoint(operator.pack(transforms), rotations))
    limit = 10 * SLICE_TOLERANCE[dtype] * np.abs(expected).max()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("radius", [1, 4, 7])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_smaller_radius_keeps_the_samples_within_it(interpolation, radius):
    rotations = naive.random_rotations(10, np.random.default_rng(9))
    grid = FourierGrid(16, radius)
    operator = SliceOperator(grid, interpolation, dtype="float64")
    volume = random_half(grid)
    expected = naive.forward(grid.unfold(volume), rotations, radius, interpolation)
    ours = operator.unpack(operator.forward(volume, rotations))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("box", [15, 16])
def test_the_view_along_z_is_exactly_the_central_plane(box):
    grid = FourierGrid(box)
    volume = random_half(grid)
    operator = SliceOperator(grid, "nearest", dtype="float64")
    ours = operator.forward(volume, np.eye(3)[None])
    np.testing.assert_array_equal(ours, operator.pack(grid.unfold(volume)[:1]))
    # The central plane is the transform of the projection along z.
    projection = np.fft.fft2(np.fft.ifftshift(grid.to_real(volume).sum(axis=0)))
    np.testing.assert_allclose(ours, operator.pack(projection[None]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("box", [15, 16])
def test_views_along_the_axes_are_projections_along_them(box, interpolation):
    # Real space tells what the rotation means: (x, y, z) of the object goes to A (x, y, z).
    grid = FourierGrid(box)
    operator = SliceOperator(grid, interpolation, dtype="float64")
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(box,) * 3) * (x**2 + y**2 + z**2 < (box // 2 - 1) ** 2)
    h, k = naive.disc(grid.radius)
    for angles in [(0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90), (90, 90, 0), (270, 90, 90)]:
        rotation = rotation_matrices(*angles)
        matrix = np.rint(rotation[0]).astype(int)
        image = np.zeros((box, box))
        moved = np.tensordot(matrix, np.stack([x, y, z]), axes=1)
        # On an even grid -N / 2 has no mirror; the volume is zero there.
        ix, iy = (np.minimum(m + box // 2, box - 1) for m in moved[:2])
        np.add.at(image, (iy, ix), volume)
        expected = np.fft.fft2(np.fft.ifftshift(image))
        ours = operator.unpack(operator.forward(grid.from_real(volume), rotation))[0]
        limit = 1e-12 * np.abs(expected).max()
        np.testing.assert_allclose(ours[k, h], expected[k, h], rtol=0, atol=limit)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_slicing_is_linear_over_the_reals_only(interpolation):
    grid = FourierGrid(12)
    operator = SliceOperator(grid, interpolation, dtype="float64")
    rotations = views(2)
    a, b = random_half(grid, seed=4), random_half(grid, seed=5)
    left = operator.forward(2.5 * a - 0.5 * b, rotations)
    right = 2.5 * operator.forward(a, rotations) - 0.5 * operator.forward(b, rotations)
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-13 * np.abs(right).max())
    # i V is no transform of a real volume: samples with z < 0 read conj(i V), not i conj(V).
    turned = operator.forward(1j * a, rotations)
    assert np.abs(turned - 1j * operator.forward(a, rotations)).max() > 0.1 * np.abs(turned).max()


@pytest.mark.parametrize("box", [15, 16])
def test_pack_and_unpack_are_inverse_on_images_of_real_pictures(box):
    operator = SliceOperator(FourierGrid(box, 5), dtype="float64")
    transforms = random_transforms(3, box)
    packed = operator.pack(transforms)
    assert packed.shape == (3, operator.samples)
    h, k = naive.disc(5)
    expected = np.zeros_like(transforms)
    expected[:, k, h] = transforms[:, k, h]
    unpacked = operator.unpack(packed)
    np.testing.assert_allclose(unpacked, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(operator.pack(unpacked), packed)


def test_inner_product_of_samples_is_that_of_the_full_disc():
    operator = SliceOperator(FourierGrid(16), dtype="float64")
    a, b = random_transforms(3, 16, seed=6), random_transforms(3, 16, seed=7)
    h, k = naive.disc(7)
    expected = np.vdot(a[:, k, h], b[:, k, h]).real
    ours = operator.inner(operator.pack(a), operator.pack(b))
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("box", [11, 12])
def test_slices_of_a_padded_phantom_converge_to_its_formula(box):
    # Linear interpolation of a function of bandwidth B with step s errs like (s B)^2: every
    # doubling of the box divides the error by 4, in the limit.
    rng = np.random.default_rng(8)
    positions = rng.uniform(-2.5, 2.5, size=(12, 3))
    amplitudes, sigmas = rng.uniform(0.5, 1.5, 12), rng.uniform(0.8, 1.2, 12)
    rotations = naive.random_rotations(4, rng)
    h, k = naive.disc((box - 1) // 2)
    q = (h[:, None] * rotations[:, None, 0] + k[:, None] * rotations[:, None, 1]) / box
    exact = naive.gaussians(positions, amplitudes, sigmas, q[..., 0], q[..., 1], q[..., 2])
    errors = []
    for padding in (1, 2, 4, 8):
        grid = FourierGrid(padding * box)
        f = np.fft.fftfreq(grid.box)
        full = naive.gaussians(positions, amplitudes, sigmas, f, f[:, None], f[:, None, None])
        operator = SliceOperator(grid, "trilinear", dtype="float64")
        slices = operator.unpack(operator.forward(grid.fold(full), rotations))
        ours = slices[:, padding * k, padding * h]
        errors.append(np.linalg.norm(ours - exact) / np.linalg.norm(exact))
    ratios = np.array(errors[:-1]) / errors[1:]
    assert (ratios > 3).all(), errors
    assert ratios[-1] == pytest.approx(4, rel=0.05)
    assert errors[-1] < 0.005


def test_single_precision_is_as_close_as_it_can_be():
    grid = FourierGrid(33)
    rotations = views(20)
    volume = random_half(grid)
    double = SliceOperator(grid, dtype="float64").forward(volume, rotations)
    single = SliceOperator(grid, dtype="float32").forward(volume, rotations)
    assert single.dtype == np.complex64
    assert np.abs(single - double).max() < 5e-7 * np.abs(double).max()


def test_volumes_of_another_layout_or_precision_are_converted():
    grid = FourierGrid(12)
    operator = SliceOperator(grid, dtype="float32")
    volume = random_half(grid, "float32")
    rotations = views(2)
    expected = operator.forward(volume, rotations)
    np.testing.assert_array_equal(operator.forward(np.asfortranarray(volume), rotations), expected)
    np.testing.assert_array_equal(operator.forward(volume.astype(complex), rotations), expected)


@pytest.mark.parametrize("interpolation", [*INTERPOLATIONS, "kaiser_bessel"])
def test_read_only_volumes_and_samples_are_as_good_as_others(interpolation):
    op = SliceOperator(FourierGrid(32), interpolation)
    given = random_half(op.grid, "float32"), op.forward(random_half(op.grid, "float32"), views())
    wanted = op.forward(given[0], views()), op.adjoint(given[1], views())
    for array in given:
        array.flags.writeable = False
    np.testing.assert_array_equal(op.forward(given[0], views()), wanted[0])
    np.testing.assert_array_equal(op.adjoint(given[1], views()), wanted[1])
    with pytest.raises(InputError, match="writable"):
        op.forward(given[0], views(), out=given[1])


def test_no_views_give_no_slices_and_an_empty_back_projection():
    grid = FourierGrid(12)
    operator = SliceOperator(grid)
    none = np.empty((0, 3, 3))
    samples = operator.forward(random_half(grid, "float32"), none)
    assert samples.shape == (0, operator.samples)
    assert not operator.adjoint(samples, none).any()


def test_unknown_names_are_refused():
    grid = FourierGrid(8)
    with pytest.raises(InputError, match=r"^interpolation: 'cubic' is unknown, choose from n"):
        SliceOperator(grid, "cubic")
    with pytest.raises(InputError, match=r"^backend: 'tpu' is unknown, choose from auto, cpu"):
        SliceOperator(grid, backend="tpu")
    with pytest.raises(InputError, match=r"^dtype: float16 is not supported, choose float32"):
        SliceOperator(grid, dtype="float16")


def test_arrays_of_the_wrong_shape_are_refused():
    grid = FourierGrid(8)
    operator = SliceOperator(grid)
    eye = np.eye(3)[None]
    with pytest.raises(InputError, match=r"^half grid: shape \(5, 8, 8\) needed"):
        operator.forward(np.zeros((8, 8, 8), np.complex64), eye)
    with pytest.raises(InputError, match=r"^rotations: shape \(n, 3, 3\) needed, got \(3, 3\)"):
        operator.forward(grid.zeros(), np.eye(3))
    with pytest.raises(InputError, match=r"^samples: shape \(1, \d+\) needed, got \(2, 3\)"):
        operator.adjoint(np.zeros((2, 3)), eye)
    with pytest.raises(InputError, match=r"^images: shape \(n, 8, 8\) needed, got \(1, 8, 9\)"):
        operator.pack(np.zeros((1, 8, 9)))
