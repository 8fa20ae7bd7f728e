"""Conjugate gradients and the Wiener quotient against the dense solution."""

import numpy as np
import pytest

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.problem import KnownPoseProblem
from fastcryo.solvers import conjugate_gradient, wiener
from fastcryo.threads import use_threads

from . import naive

BOX = 12
NOISE = np.array([30.0, 20.0, 15.0, 25.0, 40.0, 50.0])
PRIOR = np.array([2e-5, 1e-5, 3e-4, 1e-4, 5e-5, 2e-4])


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems: waking a second thread costs more than it brings."""
    with use_threads(1):
        yield


def build(data, **options):
    options = {"noise_std": NOISE, "regularization": PRIOR, "dtype": "float64", **options}
    return KnownPoseProblem.from_arrays(
        data.images, data.rotations, data.pixel_size, CTF(**data.ctf), data.shifts, **options
    )


@pytest.fixture(scope="module")
def data():
    return naive.data_set(BOX, "ties")


@pytest.fixture(scope="module")
def problem(data):
    return build(data)


@pytest.fixture(scope="module")
def solution(data):
    """H^-1 b, assembled and solved without fastcryo, on the full grid."""
    power = data.ctfs**2 / naive.by_shell(NOISE, BOX, 2) ** 2
    matrix = naive.hessian(BOX, data.rotations, 5, "trilinear", power)
    matrix[np.diag_indices(BOX**3)] += naive.by_shell(PRIOR, BOX).ravel()
    _, gradient = naive.loss_and_gradient(
        np.zeros((BOX,) * 3),
        data.transforms,
        data.rotations,
        5,
        "trilinear",
        data.ctfs,
        data.phases,
        NOISE,
        PRIOR,
    )
    right = -gradient.ravel()
    return np.linalg.solve(matrix, np.stack([right.real, right.imag], axis=1)) @ [1, 1j]


def relative_error(problem, volume, solution):
    full = problem.grid.unfold(volume).ravel()
    return np.linalg.norm(full - solution) / np.linalg.norm(solution)


@pytest.mark.parametrize("preconditioner", [None, "exact", "gridding"])
def test_conjugate_gradients_converge_to_the_dense_solution(problem, solution, preconditioner):
    # error <= condition number * residual; the condition number is some 10^3 here.
    result = conjugate_gradient(problem, preconditioner, tolerance=1e-12, max_iterations=500)
    assert result.converged
    assert result.residual[-1] <= 1e-12
    assert relative_error(problem, result.volume, solution) < 1e-9


def test_single_precision_reaches_the_default_tolerance(data, solution):
    single = build(data, dtype="float32")
    result = conjugate_gradient(single)
    assert result.converged
    assert result.volume.dtype == np.complex64
    assert relative_error(single, result.volume, solution) < 1e-3


def test_residual_and_loss_of_the_recursion_are_those_evaluated(problem):
    norm = problem.grid.norm(problem.right_hand_side())
    for iterations in (1, 4, 8):
        result = conjugate_gradient(problem, tolerance=1e-14, max_iterations=iterations)
        assert not result.converged
        assert len(result.loss) == len(result.residual) == len(result.seconds) == iterations + 1
        loss, gradient = problem.loss_and_gradient(result.volume)
        assert result.loss[-1] == pytest.approx(loss, rel=1e-12)
        assert result.residual[-1] == pytest.approx(problem.grid.norm(gradient) / norm, rel=1e-8)
    assert result.loss[0] == problem.loss(problem.grid.zeros(complex))
    assert (np.diff(result.loss) < 0).all()


def test_the_diagonal_shortens_the_way(problem):
    plain = conjugate_gradient(problem, None, tolerance=1e-8, max_iterations=1000)
    scaled = conjugate_gradient(problem, "exact", tolerance=1e-8, max_iterations=1000)
    assert len(scaled.residual) < 0.7 * len(plain.residual)


def test_a_warm_start_goes_on_from_where_it_is(problem):
    whole = conjugate_gradient(problem, tolerance=1e-10)
    part = conjugate_gradient(problem, tolerance=1e-4)
    kept = part.volume.copy()
    warm = conjugate_gradient(problem, tolerance=1e-10, initial=part.volume)
    np.testing.assert_array_equal(part.volume, kept, err_msg="the start was written to")
    # Residuals are relative to b, not to the start.
    assert warm.residual[0] == pytest.approx(part.residual[-1], rel=1e-6)
    assert warm.loss[0] == pytest.approx(part.loss[-1], rel=1e-12)
    assert warm.converged
    assert len(warm.residual) < len(whole.residual)
    difference = problem.grid.norm(warm.volume - whole.volume)
    assert difference < 1e-6 * problem.grid.norm(whole.volume)
    again = conjugate_gradient(problem, tolerance=1e-9, initial=warm.volume)
    assert len(again.residual) == 1
    np.testing.assert_array_equal(again.volume, warm.volume)


def empty_problem():
    dark = naive.data_set(BOX)
    dark.images[:] = 0
    return build(dark)


def test_empty_images_have_an_empty_solution():
    result = conjugate_gradient(empty_problem())
    assert result.converged
    assert not result.volume.any()


def test_empty_images_have_an_empty_solution_from_any_start():
    problem = empty_problem()
    start = problem.grid.from_real(np.random.default_rng(0).normal(size=(BOX,) * 3))
    result = conjugate_gradient(problem, initial=start, max_iterations=500)
    assert problem.loss(result.volume) < 1e-10 * problem.loss(start)


def test_without_prior_unseen_voxels_stay_empty(data):
    problem = build(data, regularization=0.0)
    result = conjugate_gradient(problem, tolerance=1e-6, max_iterations=500)
    assert np.isfinite(result.volume).all()
    unseen = problem.hessian_diagonal() == 0
    assert unseen.any()
    assert not result.volume[unseen].any()


def test_callback_is_told_every_residual(problem):
    told = []
    result = conjugate_gradient(problem, callback=lambda *arguments: told.append(arguments))
    assert told == list(enumerate(result.residual))


def test_wiener_quotient_is_exact_for_the_nearest_voxel():
    data = naive.data_set(BOX, "quarter")
    problem = build(data, interpolation="nearest")
    for weight in ("gridding", "exact"):
        volume = wiener(problem, weight)
        _, gradient = problem.loss_and_gradient(volume)
        right = problem.right_hand_side()
        assert problem.grid.norm(gradient) < 1e-13 * problem.grid.norm(right)


def test_wiener_quotient_divides_by_the_weight_it_is_given(problem):
    weight = 2 * problem.gridding_weight()
    expected = problem.right_hand_side() / weight
    np.testing.assert_allclose(wiener(problem, weight), expected, rtol=1e-13)
    np.testing.assert_allclose(wiener(problem), 2 * expected, rtol=1e-13)
    assert problem.loss(wiener(problem)) < problem.loss(problem.grid.zeros(complex))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, r"^tolerance: 0.0 must lie between 0 and 1"),
        ({"tolerance": 1.0}, r"^tolerance: 1.0 must lie"),
        ({"tolerance": np.nan}, r"^tolerance: nan must lie"),
        ({"max_iterations": 0}, r"^max_iterations: 0 given, at least 1 is needed"),
        ({"preconditioner": "hutchinson"}, r"^preconditioner: 'hutchinson' is unknown"),
        ({"preconditioner": np.ones(2)}, r"^half grid: shape"),
        ({"initial": np.ones((2, 2, 2))}, r"^half grid: shape"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_by_name(problem, options, message):
    with pytest.raises(InputError, match=message):
        conjugate_gradient(problem, **options)


def test_wiener_weight_that_cannot_be_used_is_refused(problem):
    with pytest.raises(InputError, match=r"^preconditioner: 'sampling' is unknown"):
        wiener(problem, "sampling")
