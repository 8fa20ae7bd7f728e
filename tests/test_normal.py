"""The assembled normal operator against the dense matrix and the matrix-free product."""

import numpy as np
import pytest

from fastcryo import normal
from fastcryo.ctf import CTF
from fastcryo.grid import FourierGrid
from fastcryo.normal import real_coordinates
from fastcryo.problem import KnownPoseProblem
from fastcryo.threads import use_threads

from . import naive

PRIOR = 0.03


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems: waking a second thread costs more than it brings."""
    with use_threads(1):
        yield


def rotations(seed=0):
    """All axis-aligned views, samples on planes of the grid, and views of no symmetry."""
    turned = naive.random_rotations(6, np.random.default_rng(seed))
    return np.concatenate([naive.special_rotations(), turned])


def build(box, views=None, ctf=True, **options):
    views = rotations() if views is None else views
    defocus = np.linspace(8000, 20000, len(views))
    ctf = CTF(defocus_u=defocus, defocus_v=defocus + 500, defocus_angle=30.0) if ctf else None
    options = {"dtype": "float64", "regularization": PRIOR, **options}
    return KnownPoseProblem.from_arrays(None, views, 3.0, ctf, N=box, **options)


def random_half(grid, dtype="float64", seed=1):
    volume = np.random.default_rng(seed).normal(size=(grid.box,) * 3)
    return grid.from_real(volume.astype(dtype))


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("interpolation", ["trilinear", "nearest"])
@pytest.mark.parametrize("box", [12, 13])
def test_product_is_that_of_the_dense_matrix(box, interpolation):
    # Half-way samples have no nearest voxel to agree about.
    views = None if interpolation == "trilinear" else naive.special_rotations()[:24]
    problem = build(box, views, ctf=False, interpolation=interpolation)
    used = rotations() if views is None else views
    radius = (box - 1) // 2
    dense = naive.hessian(box, used, radius, interpolation, np.ones((len(used), box, box)))
    dense[np.diag_indices(box**3)] += PRIOR
    Z = random_half(problem.grid)
    expected = dense @ problem.grid.unfold(Z).ravel()
    operator = problem.normal_operator()
    found = problem.grid.unfold(operator.matvec(Z)).ravel()
    close(found, expected, 1e-13)
    full = np.real(problem.grid.unfold(operator.diagonal().astype(complex))).ravel()
    close(full, np.diag(dense), 1e-13)


@pytest.mark.parametrize("box", [12, 13, 16, 31])
def test_product_agrees_with_the_images_one_view_at_a_time(box):
    # Every view alone, so that none can hide a tap on the wrong side of z = 0.
    Z = random_half(FourierGrid(box))
    every = rotations()
    for i in range(len(every)) if box < 16 else (0, 5, 24, 31):
        problem = build(box, every[i : i + 1], regularization=0.0)
        close(problem.normal_operator().matvec(Z), problem.hvp(Z), 1e-14)


@pytest.mark.parametrize("options", [{"radius": 5}, {"interpolation": "nearest"}])
def test_radius_and_window_are_those_of_the_problem(options):
    problem = build(17, **options)
    operator = problem.normal_operator()
    Z = random_half(problem.grid)
    close(operator.matvec(Z), problem.hvp(Z), 1e-14)
    close(operator.diagonal(), problem.hessian_diagonal(), 1e-14)
    close(operator.gridding_weight(), problem.gridding_weight(), 1e-14)


def test_noise_and_prior_by_shell_and_selected_images_are_kept():
    shells = np.linspace(1, 3, 9)
    problem = build(17, noise_std=shells, regularization=shells / 100).select([3, 9, 33])
    Z = random_half(problem.grid)
    close(problem.normal_operator().matvec(Z), problem.hvp(Z), 1e-14)


def test_single_precision_is_kept_and_double_vectors_are_summed_in_double():
    # Entries carry 2^-24 each, relative to H as a whole; sums of 27 products a few times as much.
    problem = build(33, dtype="float32")
    exact = build(33).normal_operator()
    operator = problem.normal_operator()
    assert operator.stencil.dtype == np.float32
    single = random_half(problem.grid, "float32")
    assert operator.matvec(single).dtype == np.complex64
    close(operator.matvec(single), exact.matvec(single.astype(complex)), 3e-6)
    assert operator.matvec(single.astype(complex)).dtype == np.complex128
    # With the entries given, sums in double are symmetric to 1e-15.
    a, b = random_half(problem.grid, seed=3), random_half(problem.grid, seed=4)
    grid = problem.grid
    left, right = grid.inner(a, operator.matvec(b)), grid.inner(operator.matvec(a), b)
    scale = grid.norm(a) * grid.norm(operator.matvec(b))
    assert abs(left - right) < 1e-14 * scale


@pytest.mark.parametrize("box", [8, 9])
def test_linear_operator_is_the_dense_matrix_in_another_basis(box):
    problem = build(box, ctf=False)
    operator = problem.normal_operator().as_linear_operator()
    assert operator.shape == (box**3, box**3)
    matrix = operator.matmat(np.eye(box**3))
    close(matrix, matrix.T, 1e-14)
    dense = naive.hessian(
        box, rotations(), (box - 1) // 2, "trilinear", np.ones((len(rotations()), box, box))
    )
    dense[np.diag_indices(box**3)] += PRIOR
    found, expected = np.linalg.eigvalsh(matrix), np.linalg.eigvalsh(dense)
    close(found, expected, 1e-12)
    assert found[0] > 0.999 * PRIOR


@pytest.mark.parametrize("box", [8, 9, 12])
def test_real_coordinates_keep_lengths_and_lose_nothing(box):
    grid = FourierGrid(box)
    coordinates = real_coordinates(grid)
    assert len(coordinates) == box**3
    a, b = random_half(grid, seed=1), random_half(grid, seed=2)
    np.testing.assert_allclose(coordinates.unpack(coordinates.pack(a)), a, rtol=1e-14, atol=1e-13)
    inner = coordinates.pack(a) @ coordinates.pack(b)
    assert inner == pytest.approx(grid.inner(a, b), rel=1e-11)
    weight = np.abs(a) ** 2
    scaled = coordinates.pack_diagonal(weight) * coordinates.pack(b)
    np.testing.assert_allclose(scaled, coordinates.pack(weight * b), rtol=1e-12)


def test_a_domain_restricts_the_operator_to_a_block():
    problem = build(12)
    grid = problem.grid
    ball = grid.shells() <= 3
    coordinates = real_coordinates(grid, ball)
    full = np.fft.fftfreq(12, 1 / 12)
    radii = np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + full**2)
    assert len(coordinates) == np.count_nonzero(np.rint(radii) <= 3)
    Z = random_half(grid)
    x = coordinates.pack(Z)
    found = problem.normal_operator().as_linear_operator(coordinates) @ x
    np.testing.assert_allclose(found, coordinates.pack(problem.hvp(Z * ball)), atol=1e-12)


def test_an_operator_that_does_not_fit_goes_through_the_images_and_says_so():
    problem = build(12)
    needed = normal.memory(problem.grid, itemsize=8)
    assert problem.normal_operator(limit=needed).stencil.nbytes == needed
    operator = problem.normal_operator(limit=needed - 1)
    assert not operator.assembled
    assert "every product goes through all images" in operator.notes[0]
    Z = random_half(problem.grid)
    np.testing.assert_array_equal(operator.matvec(Z), problem.hvp(Z))
    np.testing.assert_array_equal(operator.diagonal(), problem.hessian_diagonal())
    np.testing.assert_array_equal(operator.gridding_weight(), problem.gridding_weight())


def test_result_does_not_depend_on_the_number_of_threads():
    problem = build(33, dtype="float32")
    Z = random_half(problem.grid, "float32")
    results = []
    for threads in (1, 2):
        with use_threads(threads):
            operator = problem.normal_operator()
            results.append((operator.stencil, operator.matvec(Z)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
