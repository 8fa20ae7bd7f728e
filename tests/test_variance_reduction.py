"""SVRG: what its gradients are, where it ends, which steps are safe, and going on after a stop."""

import copy

import numpy as np
import pytest

import fastcryo as fc
from fastcryo.errors import InputError
from fastcryo.experiment import Experiment
from fastcryo.threads import use_threads
from fastcryo.variance_reduction import ControlVariate, batch_spread

from . import naive

BOX = 12


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems: waking a second thread costs more than it brings."""
    with use_threads(1):
        yield


def build(count=24, **options):
    """Images of a random map drowned in noise."""
    data = naive.data_set(BOX, count=count, seed=1)
    rng = np.random.default_rng(2)
    images = data.images + rng.normal(size=data.images.shape) * 3 * data.images.std()
    options = {"noise_std": 30.0, "regularization": 1e-3, "dtype": "float64", **options}
    return fc.KnownPoseProblem.from_arrays(
        images, data.rotations, data.pixel_size, fc.CTF(**data.ctf), data.shifts, **options
    )


@pytest.fixture(scope="module")
def problem():
    return build()


def random_half(grid, seed):
    return grid.from_real(np.random.default_rng(seed).normal(size=(grid.box,) * 3))


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("assembled", [False, True])
@pytest.mark.parametrize("interpolation", ["trilinear", "nearest"])
def test_gradient_is_that_of_the_batch_corrected_at_the_reference(interpolation, assembled):
    problem = build(interpolation=interpolation)
    operator = problem.normal_operator() if assembled else None
    reference, volume = random_half(problem.grid, 3), random_half(problem.grid, 4)
    variate = ControlVariate.start(problem, operator, reference)
    assert variate.loss == pytest.approx(problem.loss(reference), rel=1e-12)
    every = []
    for batch in ([5], [0, 7, 3]):
        loss, gradient = variate.loss_and_gradient(volume, batch)
        own, at_reference = (problem.loss_and_gradient(v, batch) for v in (volume, reference))
        close(gradient, own[1] - at_reference[1] + problem.loss_and_gradient(reference)[1], 1e-12)
    # Without bias: the mean over the images is loss and gradient of all.
    every = [variate.loss_and_gradient(volume, [i]) for i in range(len(problem))]
    loss, gradient = problem.loss_and_gradient(volume)
    assert np.mean([e[0] for e in every]) == pytest.approx(loss, rel=1e-12)
    close(np.mean([e[1] for e in every], axis=0), gradient, 1e-12)


@pytest.mark.parametrize("assembled", [False, True])
def test_a_new_reference_is_that_of_a_new_start(problem, assembled):
    operator = problem.normal_operator() if assembled else None
    moved = random_half(problem.grid, 4)
    variate = ControlVariate.start(problem, operator, problem.grid.zeros(complex))
    assert variate.refresh(moved) == pytest.approx(problem.loss(moved), rel=1e-12)
    started = ControlVariate.start(problem, operator, moved)
    np.testing.assert_array_equal(variate.gradient, started.gradient)
    assert variate.loss == started.loss
    # At the reference no batch adds noise.
    for batch in ([1], [4, 9]):
        loss, gradient = variate.loss_and_gradient(moved, batch)
        assert loss == variate.loss
        np.testing.assert_array_equal(gradient, variate.gradient)


@pytest.mark.parametrize("assembled", [False, True])
@pytest.mark.parametrize("preconditioner", ["gridding", "exact", "hutchinson"])
def test_iterates_converge_to_the_minimiser_where_minibatch_steps_stall(
    problem, preconditioner, assembled
):
    minimiser = fc.conjugate_gradient(problem, tolerance=1e-12, max_iterations=500)
    gain = problem.loss(problem.grid.zeros(complex)) - minimiser.loss[-1]
    # H <= 8 diag H, as a sample has 8 corners: an eighth of the step that is safe for rho.
    step = {"gridding": 1.0, "exact": 0.125, "hutchinson": 0.125}[preconditioner]
    options = {"epochs": 100, "batch_size": 4, "preconditioner": preconditioner, "step": step}
    operator = problem.normal_operator() if assembled else None
    found = fc.sgd(problem, variance_reduction="svrg", operator=operator, **options)
    assert found.history.epoch_loss[-1] - minimiser.loss[-1] < 1e-9 * gain
    stalled = fc.sgd(problem, **options)
    assert problem.loss(stalled.volume) - minimiser.loss[-1] > 1e-2 * gain


def test_history_holds_the_corrected_losses(problem):
    result = fc.sgd(problem, 3, 6, "gridding", 1.0, variance_reduction="svrg")
    history = result.history
    assert history.loss[0] == problem.loss(problem.grid.zeros(complex))
    # The first batch of an epoch is met at the reference.
    assert history.loss[4::4] == history.epoch_loss[:2]
    assert history.epoch_loss[-1] == pytest.approx(problem.loss(result.volume), rel=1e-13)


def test_one_batch_of_all_images_is_descent(problem):
    reduced = fc.sgd(problem, 4, 10**6, "gridding", 1.0, variance_reduction="svrg", threshold=None)
    plain = fc.sgd(problem, 4, 10**6, "gridding", 1.0, threshold=None)
    close(reduced.volume, plain.volume, 1e-12)
    np.testing.assert_array_equal(reduced.preconditioner, problem.gridding_weight())


@pytest.mark.parametrize("interpolation", ["trilinear", "nearest"])
@pytest.mark.parametrize("ctf", [False, True])
def test_spread_bounds_what_a_single_image_adds(interpolation, ctf):
    # A_i <= m (n - 1) / (n - m): the inequality that the safe step rests on, for every image.
    count, box, shells = 60, 20, np.linspace(1, 4, 10)
    rng = np.random.default_rng(5)
    defocus = rng.uniform(5000, 20000, count)
    problem = fc.KnownPoseProblem.from_arrays(
        None, naive.random_rotations(count, rng), 3.0, N=box, dtype="float64",
        ctf=fc.CTF(defocus, defocus, 0.0) if ctf else None,
        noise_std=shells, regularization=0.0, interpolation=interpolation,
    )  # fmt: skip
    rho = problem.gridding_weight()
    single = [problem.gridding_weight([i]) for i in range(count)]
    for size in (1, 7, 40):
        spread = batch_spread(problem, size)
        bound = size * (count - 1) / (count - size)
        excess = [one / (bound * (rho + spread)) for one in single]
        assert np.max(excess) <= 1
        # And is no larger than that by far: with one image at a time rho adds little to it.
        assert size > 1 or np.max(excess) > 0.5
    assert not batch_spread(problem, count).any()
    assert not batch_spread(problem, count + 1).any()


def test_steps_of_1_are_safe_for_crowded_views_and_small_batches():
    # Views within some 10 degrees of one axis: most voxels are met by no more than a few images.
    drawn = Experiment(
        box=16, pixel_size=3.0, count=400, orientations="preferred", concentration=50.0, ctf=False
    )
    rng = np.random.default_rng(0)
    rotations = drawn.draw_rotations(rng)
    images = rng.normal(size=(400, 16, 16))
    problem = fc.KnownPoseProblem.from_arrays(
        images, rotations, 3.0, noise_std=16.0, regularization=1e-6, dtype="float64"
    )
    options = {"epochs": 5, "batch_size": 5, "step": 1.0, "variance_reduction": "svrg"}
    found = fc.sgd(problem, preconditioner="gridding", threshold=None, **options)
    losses = [found.history.loss[0], *found.history.epoch_loss]
    assert (np.diff(losses) < 0).all()
    # Without the spread the same steps run away.
    bare = problem.gridding_weight() - batch_spread(problem, 5)
    assert bare.min() < 0
    offset = random_half(problem.grid, 1) * problem.grid.ball()
    inverse = 1 / problem.gridding_weight()
    start = problem.grid.norm(offset)
    for batch in np.array_split(rng.permutation(400), 80):
        offset = offset - inverse * problem.hvp(offset, batch)
    assert problem.grid.norm(offset) > 10 * start


@pytest.mark.parametrize("assembled", [False, True])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_that_goes_on_gives_the_bits_of_one_that_never_stopped(problem, assembled, stop):
    states = []
    options = {"preconditioner": "gridding", "step": 1.0, "variance_reduction": "svrg"}
    options["operator"] = problem.normal_operator() if assembled else None
    whole = fc.sgd(
        problem, 4, 6, rng=3, checkpoint=lambda s: states.append(copy.deepcopy(s)), **options
    )
    resumed = fc.sgd(problem, 4, 6, rng=99, resume=states[stop - 1], **options)
    np.testing.assert_array_equal(resumed.volume, whole.volume)
    assert resumed.history.epoch_loss == whole.history.epoch_loss
    assert resumed.history.loss == whole.history.loss


def test_an_operator_that_does_not_fit_is_done_without(problem):
    operator = problem.normal_operator(limit=0)
    options = {"preconditioner": "gridding", "step": 1.0, "variance_reduction": "svrg"}
    through_images = fc.sgd(problem, 2, 6, operator=operator, **options)
    np.testing.assert_array_equal(through_images.volume, fc.sgd(problem, 2, 6, **options).volume)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance_reduction": "saga"}, r"^variance_reduction: 'saga' is unknown, choose svrg"),
        ({"variance_reduction": "svrg", "average": True}, r"^average: SVRG leaves no noise"),
        ({"operator": "H"}, r"^operator: only variance_reduction='svrg' uses it"),
        (
            {"variance_reduction": "svrg", "operator": "others"},
            r"^operator: it was made for other images",
        ),
        (
            {"variance_reduction": "svrg", "operator": "damped"},
            r"^operator: it was made for another regularization",
        ),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_by_name(problem, options, message):
    made = {
        "H": problem.normal_operator,
        "others": problem.select([0, 1]).normal_operator,
        "damped": problem.with_regularization(0.5).normal_operator,
    }
    if "operator" in options:
        options = options | {"operator": made[options["operator"]]()}
    with pytest.raises(InputError, match=message):
        fc.sgd(problem, **options)
