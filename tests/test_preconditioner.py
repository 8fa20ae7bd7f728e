"""Diagonals of the Hessian, exact and estimated, against the assembled matrix."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.preconditioner import (
    HutchinsonEstimate,
    default_threshold,
    hutchinson_diagonal,
    named_diagonal,
    parity_colours,
    probe,
    rademacher,
    thresholded_inverse,
)
from fastcryo.problem import KnownPoseProblem
from fastcryo.threads import use_threads

from . import naive

BOX = 12
NOISE = np.array([3.0, 2.0, 1.5, 2.5, 4.0, 5.0])
PRIOR = np.array([0.002, 0.001, 0.03, 0.01, 0.005, 0.02])


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems: waking a second thread costs more than it brings."""
    with use_threads(1):
        yield


def case(interpolation, box=BOX):
    """A problem of metadata only and its Hessian on the full grid."""
    data = naive.data_set(box, "ties" if interpolation == "trilinear" else "quarter")
    radius = (box - 1) // 2
    noise, prior = np.resize(NOISE, radius + 1), np.resize(PRIOR, radius + 1)
    problem = KnownPoseProblem.from_arrays(
        None,
        data.rotations,
        data.pixel_size,
        CTF(**data.ctf),
        N=box,
        noise_std=noise,
        regularization=prior,
        interpolation=interpolation,
        dtype="float64",
    )
    power = data.ctfs**2 / naive.by_shell(noise, box, 2) ** 2
    matrix = naive.hessian(box, data.rotations, radius, interpolation, power)
    matrix[np.diag_indices(box**3)] += naive.by_shell(prior, box).ravel()
    return SimpleNamespace(problem=problem, matrix=matrix, grid=problem.grid)


@pytest.fixture(scope="module")
def trilinear():
    return case("trilinear")


@pytest.fixture(scope="module")
def nearest():
    return case("nearest")


@pytest.fixture(params=["trilinear", "nearest"])
def either(request):
    return request.getfixturevalue(request.param)


def half_of(case, full_vector):
    return case.grid.fold(full_vector.reshape((case.grid.box,) * 3))


def test_exact_diagonal_is_that_of_the_assembled_matrix(either):
    diagonal = either.problem.hessian_diagonal()
    assert diagonal.dtype == np.float64
    np.testing.assert_allclose(diagonal, half_of(either, np.diag(either.matrix)), rtol=1e-12)


def test_exact_diagonal_of_an_odd_box():
    odd = case("trilinear", box=11)
    np.testing.assert_allclose(
        odd.problem.hessian_diagonal(), half_of(odd, np.diag(odd.matrix)), rtol=1e-12
    )


def test_coloured_probes_give_the_exact_diagonal(either):
    expected = either.problem.hessian_diagonal()
    ours = hutchinson_diagonal(either.problem, probing="coloured", rng=3)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13 * expected.max())


@pytest.mark.parametrize(("name", "products"), [("trilinear", 8), ("nearest", 1)])
def test_coloured_probes_cost_as_many_products_as_colours(name, products, request, monkeypatch):
    problem = request.getfixturevalue(name).problem
    calls = []
    product = KnownPoseProblem.hvp
    monkeypatch.setattr(
        KnownPoseProblem, "hvp", lambda *arguments: calls.append(1) or product(*arguments)
    )
    hutchinson_diagonal(problem, probing="coloured")
    assert len(calls) == products


def test_voxels_of_one_colour_are_never_coupled(trilinear):
    colours = trilinear.grid.unfold(parity_colours(trilinear.grid) + 0j).real.astype(int).ravel()
    rows, columns = np.nonzero(trilinear.matrix - np.diag(np.diag(trilinear.matrix)))
    assert len(rows) > 1000
    assert (colours[rows] != colours[columns]).all()
    assert np.bincount(colours).min() > 0


def test_gridding_weight_is_the_hessian_of_ones(either):
    # H 1 includes lambda once; outside the ball and the corners of its cells only lambda is left.
    rho = either.problem.gridding_weight()
    np.testing.assert_allclose(rho, half_of(either, either.matrix.sum(axis=1)), rtol=1e-12)
    ones = np.ones(either.grid.shape, complex)
    np.testing.assert_allclose(either.problem.hvp(ones), rho, rtol=0, atol=1e-13 * rho.max())


def test_hessian_is_bounded_by_the_gridding_weight():
    # w >= 0 and sum w = 1 give w w^T <= diag(w). The vector of ones attains zero, up to the
    # rounding of the eigenvalues. Voxels without neighbours in H are left out: they attain it too.
    small = case("trilinear", box=9)
    matrix = small.matrix
    rho = small.grid.unfold(small.problem.gridding_weight() + 0j).real.ravel()
    coupled = np.count_nonzero(matrix, axis=1) > 1
    np.testing.assert_allclose(rho[~coupled], np.diag(matrix)[~coupled], rtol=1e-13)
    matrix, rho = matrix[np.ix_(coupled, coupled)], rho[coupled]
    assert abs(np.linalg.eigvalsh(np.diag(rho) - matrix)[0]) < 1e-13 * rho.max()
    # The diagonal J is no such bound.
    scale = 1 / np.sqrt(np.diag(matrix))
    assert np.linalg.eigvalsh(scale[:, None] * matrix * scale)[-1] > 1.2


def test_nearest_hessian_is_diagonal(nearest):
    volume = nearest.grid.from_real(np.random.default_rng(1).normal(size=(BOX,) * 3))
    diagonal = nearest.problem.hessian_diagonal()
    product = nearest.problem.hvp(volume)
    limit = 1e-13 * np.abs(product).max()
    np.testing.assert_allclose(product, diagonal * volume, rtol=0, atol=limit)
    np.testing.assert_allclose(nearest.problem.gridding_weight(), diagonal, rtol=1e-14)


@pytest.mark.parametrize("box", [8, 9, 12, 15])
def test_probes_are_signs_equal_at_mirrors(box):
    grid = FourierGrid(box)
    signs = rademacher(grid, np.random.default_rng(0))
    assert set(np.unique(signs)) == {-1, 1}
    full = grid.unfold(signs + 0j).real
    mirror = -np.arange(box)
    np.testing.assert_array_equal(full, full[mirror][:, mirror][:, :, mirror])
    np.testing.assert_array_equal(grid.fold(full), signs)
    # Fair and independent: about N^3 / 2 draws, mean 0 within 5 sigma; likewise for neighbours.
    free = box**3 / 2
    assert abs(full.mean()) < 5 / np.sqrt(free)
    for axis in range(3):
        assert abs((full * np.roll(full, 1, axis)).mean()) < 5 / np.sqrt(free)


def spread_of_one_probe(case):
    """Standard deviation of z (H z) per voxel, from the off-diagonal elements.

    z(k) = z(-k): the columns k and -k act as one, so their elements add up before squaring.
    """
    box = case.grid.box
    index = np.arange(box**3).reshape((box,) * 3)
    mirror = -np.arange(box)
    mirrored = index[mirror][:, mirror][:, :, mirror].ravel()
    orbit = np.minimum(index.ravel(), mirrored)
    merged = np.zeros_like(case.matrix)
    np.add.at(merged.T, orbit, case.matrix.T)
    own = merged[np.arange(box**3), orbit]
    # No voxel but the origin is coupled to its mirror, so the estimate is unbiased.
    np.testing.assert_allclose(own, np.diag(case.matrix), rtol=1e-12)
    variance = (merged**2).sum(axis=1) - own**2
    return half_of(case, np.sqrt(np.maximum(variance, 0)))


def test_hutchinson_error_falls_as_the_matrix_predicts(trilinear):
    exact = trilinear.problem.hessian_diagonal()
    ball = trilinear.grid.ball()
    predicted = np.sqrt((spread_of_one_probe(trilinear)[ball] ** 2).mean())
    for probes in (4, 64, 1024):
        estimate = hutchinson_diagonal(trilinear.problem, probes, rng=7)
        error = np.sqrt(((estimate - exact)[ball] ** 2).mean())
        # Some 300 free voxels, their errors correlated among neighbours: 10 % of spread.
        assert error * np.sqrt(probes) == pytest.approx(predicted, rel=0.25)


def test_probes_of_a_batch_estimate_its_own_hessian(trilinear):
    batch = [1, 4, 6]
    ours = hutchinson_diagonal(trilinear.problem, probing="coloured", batch=batch)
    expected = trilinear.problem.hessian_diagonal(batch)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13 * expected.max())


def test_estimates_repeat_with_their_seed(trilinear):
    first = hutchinson_diagonal(trilinear.problem, 2, rng=5)
    np.testing.assert_array_equal(first, hutchinson_diagonal(trilinear.problem, 2, rng=5))
    again = hutchinson_diagonal(trilinear.problem, 2, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(first, again)
    assert (first != hutchinson_diagonal(trilinear.problem, 2, rng=6)).any()


def test_running_estimate_is_that_of_the_algorithm(trilinear):
    problem, beta = trilinear.problem, 0.7
    rng = np.random.default_rng(0)
    estimate = HutchinsonEstimate.start(problem, beta)
    samples, smoothed = [], np.ones(problem.grid.shape)
    for count in range(1, 6):
        signs = rademacher(problem.grid, rng)
        samples.append(probe(problem, signs, [0, 1]))
        smoothed = beta * smoothed + (1 - beta) * np.mean(samples, axis=0)
        ours = estimate.take(signs, signs * samples[-1])
        assert estimate.probes == count
        np.testing.assert_allclose(ours, smoothed, rtol=1e-12, atol=1e-15)


def test_running_estimate_keeps_the_precision_of_the_problem():
    problem = KnownPoseProblem.from_arrays(None, np.eye(3)[None], 1.0, N=12)
    estimate = HutchinsonEstimate.start(problem, 0.9)
    signs = rademacher(problem.grid, np.random.default_rng(0))
    assert estimate.take(signs, probe(problem, signs)).dtype == np.float32


def test_threshold_bounds_the_modulus_from_below():
    diagonal = np.array([-3.0, -0.1, 0.0, 0.1, 2.0])
    np.testing.assert_array_equal(
        thresholded_inverse(diagonal, 0.5), 1 / np.array([3, 0.5, 0.5, 0.5, 2])
    )
    # Nothing is known of a voxel that no image sees: it stays where it is.
    np.testing.assert_array_equal(thresholded_inverse(diagonal, 0.0), [1 / 3, 10.0, 0.0, 10.0, 0.5])
    assert thresholded_inverse(diagonal.astype(np.float32), 0.5).dtype == np.float32


@pytest.mark.parametrize("box", [15, 16, 64])
def test_published_threshold_is_one_over_the_points_of_the_largest_shell(box):
    f = np.fft.fftfreq(box) * box
    shells = np.rint(np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)).astype(int)
    points = (shells == (box - 1) // 2).sum()
    for sigma in (1.0, 5.0):
        problem = KnownPoseProblem.from_arrays(None, np.eye(3)[None], 1.0, N=box, noise_std=sigma)
        alpha = 1 / points / sigma**2
        assert default_threshold(problem) == pytest.approx(alpha, rel=1e-12)


def test_names_stand_for_their_diagonals(trilinear):
    problem = trilinear.problem
    assert named_diagonal(problem, None) is None
    np.testing.assert_array_equal(named_diagonal(problem, "exact"), problem.hessian_diagonal())
    np.testing.assert_array_equal(named_diagonal(problem, "gridding"), problem.gridding_weight())
    given = np.full(problem.grid.shape, 2.0, np.float32)
    np.testing.assert_array_equal(named_diagonal(problem, given), given)


def test_preconditioners_that_cannot_be_used_are_refused(trilinear):
    problem = trilinear.problem
    with pytest.raises(InputError, match=r"^preconditioner: 'jacobi' is unknown, choose exact or"):
        named_diagonal(problem, "jacobi")
    with pytest.raises(InputError, match=r"^half grid: shape"):
        named_diagonal(problem, np.ones((2, 2, 2)))
    for bad in (np.nan, np.inf, -1.0):
        diagonal = np.ones(problem.grid.shape)
        diagonal[1, 2, 3] = bad
        with pytest.raises(InputError, match=r"^preconditioner: the array must be finite and not"):
            named_diagonal(problem, diagonal)


def test_probing_that_cannot_be_used_is_refused(trilinear):
    with pytest.raises(InputError, match=r"^probing: 'gaussian' is unknown, choose from rademac"):
        hutchinson_diagonal(trilinear.problem, probing="gaussian")
    for probing in ("rademacher", "coloured"):
        with pytest.raises(InputError, match=r"^probes: 0 given, at least 1 is needed"):
            hutchinson_diagonal(trilinear.problem, 0, probing)
