"""L-BFGS against conjugate gradients, with and without the assembled operator."""

import numpy as np
import pytest

import fastcryo as fc
from fastcryo.errors import InputError
from fastcryo.threads import use_threads

from . import naive

BOX = 12


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems: waking a second thread costs more than it brings."""
    with use_threads(1):
        yield


def build(images=None, **options):
    data = naive.data_set(BOX, "ties")
    images = data.images if images is None else images
    options = {"regularization": 1e-3, "dtype": "float64", **options}
    return fc.KnownPoseProblem.from_arrays(
        images, data.rotations, data.pixel_size, fc.CTF(**data.ctf), data.shifts, **options
    )


@pytest.fixture(scope="module")
def problem():
    return build()


@pytest.fixture(scope="module")
def minimiser(problem):
    return fc.conjugate_gradient(problem, tolerance=1e-12, max_iterations=1000)


@pytest.mark.parametrize("assembled", [False, True])
@pytest.mark.parametrize("preconditioner", [None, "exact", "gridding"])
def test_agrees_with_conjugate_gradients(problem, minimiser, preconditioner, assembled):
    operator = problem.normal_operator() if assembled else None
    found = fc.lbfgs(
        problem, preconditioner, tolerance=1e-7, max_iterations=2000, operator=operator
    )
    assert found.converged
    # error <= condition number * residual; the condition number is some 10^3 here.
    off = problem.grid.norm(found.volume - minimiser.volume)
    assert off < 1e-4 * problem.grid.norm(minimiser.volume)
    assert found.loss[-1] == pytest.approx(minimiser.loss[-1], rel=1e-11)
    assert (np.diff(found.loss) <= 1e-12 * found.loss[0]).all()


def test_residual_and_loss_are_those_evaluated(problem):
    found = fc.lbfgs(problem, max_iterations=5)
    assert not found.converged
    assert len(found.residual) == len(found.loss) == len(found.seconds) == 6
    loss, gradient = problem.loss_and_gradient(found.volume)
    assert found.loss[-1] == pytest.approx(loss, rel=1e-12)
    right = problem.grid.norm(problem.right_hand_side())
    assert found.residual[-1] == pytest.approx(problem.grid.norm(gradient) / right, rel=1e-10)
    assert found.residual[0] == pytest.approx(1, rel=1e-12)


def test_single_precision_reaches_the_default_tolerance(minimiser):
    single = build(dtype="float32")
    for operator in (None, single.normal_operator()):
        found = fc.lbfgs(single, operator=operator)
        assert found.residual[-1] <= 1e-4
        assert found.converged
        assert found.volume.dtype == np.complex64
        off = single.grid.norm(found.volume - minimiser.volume)
        assert off < 3e-2 * single.grid.norm(minimiser.volume)


def test_a_warm_start_goes_on_from_where_it_is(problem):
    part = fc.lbfgs(problem, tolerance=1e-3)
    kept = part.volume.copy()
    told = []
    warm = fc.lbfgs(problem, initial=part.volume, callback=lambda *a: told.append(a))
    np.testing.assert_array_equal(part.volume, kept, err_msg="the start was written to")
    assert warm.residual[0] == pytest.approx(part.residual[-1], rel=1e-6)
    assert warm.converged
    assert told == list(enumerate(warm.residual))
    again = fc.lbfgs(problem, tolerance=1e-3, initial=warm.volume)
    assert len(again.residual) == 1
    off = problem.grid.norm(again.volume - warm.volume)
    assert off < 1e-14 * problem.grid.norm(warm.volume)


def test_empty_images_have_an_empty_solution():
    data = naive.data_set(BOX, "ties")
    found = fc.lbfgs(build(np.zeros_like(data.images)))
    assert found.converged
    assert not found.volume.any()


def test_without_prior_unseen_voxels_stay_empty():
    problem = build(regularization=0.0)
    found = fc.lbfgs(problem, max_iterations=20)
    unseen = problem.hessian_diagonal() == 0
    assert unseen.any()
    assert not found.volume[unseen].any()


def test_conjugate_gradients_go_through_the_assembled_operator(problem, minimiser):
    found = fc.conjugate_gradient(
        problem, tolerance=1e-12, max_iterations=1000, operator=problem.normal_operator()
    )
    assert found.converged
    off = problem.grid.norm(found.volume - minimiser.volume)
    assert off < 1e-8 * problem.grid.norm(minimiser.volume)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, r"^tolerance: 0.0 must lie between 0 and 1"),
        ({"max_iterations": 0}, r"^max_iterations: 0 given, at least 1 is needed"),
        ({"preconditioner": "hutchinson"}, r"^preconditioner: 'hutchinson' is unknown"),
        ({"initial": np.ones((2, 2, 2))}, r"^half grid: shape"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_by_name(problem, options, message):
    with pytest.raises(InputError, match=message):
        fc.lbfgs(problem, **options)
