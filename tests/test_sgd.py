"""Stochastic gradient descent: steps, batches, variants, and going on after a stop."""

import copy
from dataclasses import asdict

import numpy as np
import pytest

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.preconditioner import hutchinson_diagonal
from fastcryo.problem import KnownPoseProblem
from fastcryo.sgd import backtrack, sgd
from fastcryo.threads import use_threads

from . import naive


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems: waking a second thread costs more than it brings."""
    with use_threads(1):
        yield


@pytest.fixture(scope="module")
def problem():
    data = naive.data_set(12, "ties", count=12)
    return KnownPoseProblem.from_arrays(
        data.images,
        data.rotations,
        data.pixel_size,
        CTF(**data.ctf),
        data.shifts,
        noise_std=12.0,
        regularization=1e-3,
        dtype="float64",
    )


def batches(problem, epochs, size, seed=0):
    """The published loop's shuffled batches."""
    rng = np.random.default_rng(seed)
    count = -(-len(problem) // size)
    for _ in range(epochs):
        yield np.array_split(rng.permutation(len(problem)), count)


@pytest.mark.parametrize("armijo", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("preconditioner", [None, "exact"])
def test_armijo_steps_are_those_found_by_evaluating_the_loss(problem, preconditioner, armijo):
    # The textbook loop: every trial is a loss of its own. Halvings make the steps equal bit for
    # bit, unless a trial misses its bound by rounding.
    growth, first = (2.0, 1.0) if preconditioner is None else (1.2, 10.0)
    diagonal = 1.0 if preconditioner is None else problem.hessian_diagonal()
    volume, steps, losses = problem.grid.zeros(complex), [], []
    for epoch in batches(problem, 2, 5):
        eta = first
        for batch in epoch:
            loss, gradient = problem.loss_and_gradient(volume, batch)
            direction = gradient / diagonal
            slope = problem.grid.inner(gradient, direction)
            eta *= growth
            while problem.loss(volume - eta * direction, batch) > loss - armijo * eta * slope:
                eta /= 2
            volume = volume - eta * direction
            steps.append(eta)
            losses.append(loss)
    result = sgd(problem, 2, 5, preconditioner, armijo=armijo, threshold=None)
    assert result.history.step == steps
    np.testing.assert_allclose(result.history.loss, losses, rtol=1e-12)
    np.testing.assert_allclose(result.volume, volume, rtol=0, atol=1e-12 * np.abs(volume).max())


@pytest.mark.parametrize(("armijo", "curvature"), [(0.5, 3.0), (0.99, 3.0), (0.9, 1e4)])
def test_backtracking_takes_the_first_trial_that_passes(armijo, curvature):
    eta = backtrack(10.0, 2.0, curvature, armijo)
    passes = [
        trial
        for trial in 10.0 / 2.0 ** np.arange(60)
        if -trial * 2.0 + trial**2 * curvature / 2 <= -armijo * trial * 2.0
    ]
    assert eta == passes[0]


@pytest.mark.parametrize(
    ("slope", "curvature"),
    [(np.nan, 1.0), (1.0, np.nan), (np.inf, 1.0), (1.0, np.inf), (-np.inf, 1.0), (-1.0, 1.0)],
)
def test_backtracking_gives_no_step_where_no_trial_can_pass(slope, curvature):
    assert backtrack(1.0, slope, curvature, 0.5) == 0.0


def test_step_grows_within_an_epoch_and_starts_anew_with_each(problem):
    # Steps so short that no trial is halved.
    result = sgd(problem, 3, 4, "exact", armijo=0.01, initial_step=1e-6, growth=1.5, threshold=None)
    per_epoch = -(-len(problem) // 4)
    expected = [1e-6 * 1.5 ** (i + 1) for i in range(per_epoch)] * 3
    np.testing.assert_allclose(result.history.step, expected, rtol=1e-12)


def test_published_settings_are_the_defaults(problem):
    # First trials: 10 times 1.2, without preconditioner 1 times 2; then halvings.
    for preconditioner, first in [(None, 2.0), ("exact", 12.0), ("hutchinson", 12.0)]:
        by_default = sgd(problem, 2, 6, preconditioner)
        halvings = np.log2(first / by_default.history.step[0])
        assert halvings == round(halvings) >= 0
        growth = 2.0 if preconditioner is None else 1.2
        published = {"step": "armijo", "threshold": "auto", "beta": 0.9, "armijo": 0.99, "rng": 0}
        steps = {"initial_step": first / growth, "growth": growth}
        written = sgd(problem, 2, 6, preconditioner, **published, **steps)
        np.testing.assert_array_equal(written.volume, by_default.volume)


def test_exact_step_reaches_the_minimum_along_the_line(problem):
    for preconditioner in (None, "gridding"):
        result = sgd(problem, 1, len(problem), preconditioner, step="exact")
        _, gradient = problem.loss_and_gradient(result.volume)
        _, before = problem.loss_and_gradient(problem.grid.zeros(complex))
        slope = problem.grid.inner(gradient, result.volume)
        scale = problem.grid.norm(before) * problem.grid.norm(result.volume)
        assert abs(slope) < 1e-12 * scale


def test_steps_without_search_follow_their_formula(problem):
    constant = sgd(problem, 2, 5, "gridding", step=0.25)
    assert constant.history.step == [0.25] * len(constant.history.step)
    decaying = sgd(problem, 2, 5, "gridding", step="decay", initial_step=0.8, decay=0.3)
    iterations = np.arange(len(decaying.history.step))
    np.testing.assert_allclose(decaying.history.step, 0.8 / (1 + 0.3 * iterations), rtol=1e-15)
    assert sgd(problem, 1, 5, "gridding", step="decay").history.step[0] == 1.0


def test_constant_step_moves_against_the_scaled_gradient(problem):
    start = problem.grid.from_real(np.random.default_rng(1).normal(size=(12,) * 3))
    kept = start.copy()
    rho = problem.gridding_weight()
    result = sgd(problem, 1, len(problem), rho, step=0.5, initial=start, threshold=None)
    _, gradient = problem.loss_and_gradient(start)
    expected = start - 0.5 * gradient / rho
    np.testing.assert_allclose(result.volume, expected, rtol=0, atol=1e-12 * np.abs(start).max())
    np.testing.assert_array_equal(start, kept, err_msg="the start was written to")


@pytest.mark.parametrize("step", [1.0, 1.9])
def test_full_data_steps_below_2_with_the_gridding_weight_never_raise_the_loss(problem, step):
    # H <= diag rho: any eta < 2 lowers f.
    result = sgd(problem, 12, len(problem), "gridding", step=step, threshold=None)
    losses = [result.history.loss[0], *result.history.epoch_loss]
    assert (np.diff(losses) < 0).all()


def test_history_counts_batches_and_holds_their_losses(problem):
    told = []
    result = sgd(problem, 3, 6, "exact", callback=told.append)
    history = result.history
    count = -(-len(problem) // 6)
    assert len(history.loss) == len(history.step) == len(history.seconds) == 3 * count
    assert len(history.epoch_loss) == len(history.epoch_seconds) == 3
    assert history.epoch_loss[-1] == problem.loss(result.volume)
    first = next(batches(problem, 1, 6))[0]
    assert history.loss[0] == pytest.approx(problem.loss(problem.grid.zeros(complex), first))
    assert (np.diff(history.seconds + history.epoch_seconds[-1:]) >= 0).all()
    assert [p.loss for p in told] == history.loss
    assert [p.step for p in told] == history.step
    places = [(e, i) for e in range(3) for i in range(count)]
    assert [(p.epoch, p.iteration) for p in told] == places
    assert {(p.epochs, p.iterations) for p in told} == {(3, count)}


def test_a_batch_larger_than_the_set_is_the_set(problem):
    result = sgd(problem, 2, 10**6, "exact")
    assert len(result.history.step) == 2
    np.testing.assert_allclose(result.history.loss[1], result.history.epoch_loss[0], rtol=1e-13)


def test_every_image_enters_once_per_epoch(problem, monkeypatch):
    seen = []
    original = KnownPoseProblem.loss_and_gradient
    monkeypatch.setattr(
        KnownPoseProblem,
        "loss_and_gradient",
        lambda self, volume, batch=None, out=None: (
            seen.append(batch) or original(self, volume, batch, out)
        ),
    )
    sgd(problem, 2, 6, "exact")
    half = len(seen) // 2
    orders = [np.concatenate(seen[:half]), np.concatenate(seen[half:])]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(len(problem)))
    assert (orders[0] != orders[1]).any()
    sizes = [len(batch) for batch in seen]
    assert max(sizes) - min(sizes) <= 1


def test_runs_repeat_with_their_seed(problem):
    first = sgd(problem, 2, 6, rng=4)
    np.testing.assert_array_equal(first.volume, sgd(problem, 2, 6, rng=4).volume)
    again = sgd(problem, 2, 6, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(first.volume, again.volume)
    assert (first.volume != sgd(problem, 2, 6, rng=5).volume).any()


@pytest.mark.parametrize("epochs", [4, 5])
def test_average_is_the_mean_of_the_second_half_of_the_iterates(problem, epochs):
    kept = []
    settings = {"preconditioner": "gridding", "step": "decay"}
    sgd(problem, epochs, 10**6, checkpoint=lambda s: kept.append(s.volume.copy()), **settings)
    averaged = sgd(problem, epochs, 10**6, average=True, **settings)
    # Those of epochs that begin when half of the run is done: the last two of 4, and of 5.
    expected = (kept[-2] + kept[-1]) / 2
    limit = 1e-14 * np.abs(expected).max()
    np.testing.assert_allclose(averaged.volume, expected, rtol=0, atol=limit)
    assert averaged.history.epoch_loss[-1] == problem.loss(averaged.volume)


def test_result_holds_the_preconditioner_in_use(problem):
    assert sgd(problem, 1, 8, None).preconditioner is None
    exact = sgd(problem, 1, 8, "exact").preconditioner
    np.testing.assert_array_equal(exact, problem.hessian_diagonal())
    # beta = 0: D is the mean of the probes; with one batch of all images per epoch they are those
    # of the estimator. The running mean rounds.
    estimated = sgd(problem, 40, 10**6, "hutchinson", beta=0.0).preconditioner
    rng = np.random.default_rng(0)
    total = 0
    for _ in range(40):
        rng.permutation(len(problem))
        total = total + hutchinson_diagonal(problem, 1, rng=rng)
    np.testing.assert_allclose(estimated, total / 40, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"preconditioner": "hutchinson"},
        {"preconditioner": "gridding", "step": "decay", "average": True},
        {"preconditioner": None, "step": "exact"},
    ],
    ids=["hutchinson", "gridding-average", "plain"],
)
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_that_goes_on_gives_the_bits_of_one_that_never_stopped(problem, settings, stop):
    states = []
    whole = sgd(
        problem,
        4,
        6,
        rng=3,
        checkpoint=lambda state: states.append(copy.deepcopy(state)),
        **settings,
    )
    state = states[stop - 1]
    assert state.epoch == stop
    resumed = sgd(problem, 4, 6, rng=99, resume=state, **settings)
    np.testing.assert_array_equal(resumed.volume, whole.volume)
    for name in ("loss", "step", "epoch_loss"):
        assert asdict(resumed.history)[name] == asdict(whole.history)[name]
    if whole.preconditioner is not None:
        np.testing.assert_array_equal(resumed.preconditioner, whole.preconditioner)
    assert state.epoch == 4
    assert state.rng.bit_generator.state == states[-1].rng.bit_generator.state
    if whole.preconditioner is not None and settings["preconditioner"] == "hutchinson":
        np.testing.assert_array_equal(state.estimate.mean, states[-1].estimate.mean)
        assert state.estimate.probes == states[-1].estimate.probes


def test_a_loss_that_is_not_finite_stops_the_run(problem):
    with pytest.raises(InputError, match=r"^step: the loss became (inf|nan) in epoch \d+"):
        sgd(problem, 60, 10**6, None, step=1e12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"^epochs: 0 given, at least 1 is needed"),
        ({"batch_size": 0}, r"^batch_size: 0 given, at least 1 is needed"),
        ({"preconditioner": "jacobi"}, r"^preconditioner: 'jacobi' is unknown"),
        ({"preconditioner": np.ones(3)}, r"^half grid: shape"),
        ({"step": "wolfe"}, r"^step: 'wolfe' is unknown, choose armijo, exact, decay or a number"),
        ({"step": np.nan}, r"^step: nan must be a positive number"),
        ({"threshold": -1.0}, r"^threshold: -1.0 must be 'auto', None or a number"),
        ({"threshold": "none"}, r"^threshold: 'none' must be"),
        ({"beta": 1.0}, r"^beta: 1.0 must lie in \[0, 1\)"),
        ({"armijo": 0.0}, r"^armijo: 0.0 must lie between 0 and 1"),
        ({"initial": np.zeros((3, 3, 3))}, r"^half grid: shape"),
        ({"initial_step": 0.0}, r"^initial_step: 0.0 must be"),
        ({"initial_step": np.nan}, r"^initial_step: nan must be"),
        ({"growth": -1.0}, r"^growth: -1.0 must be"),
        ({"step": "decay", "decay": -1.0}, r"^decay: -1.0 must"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_by_name(problem, options, message):
    with pytest.raises(InputError, match=message):
        sgd(problem, **options)


def test_a_problem_without_images_cannot_be_reconstructed():
    metadata = KnownPoseProblem.from_arrays(None, np.eye(3)[None], 1.0, N=12, dtype="float64")
    with pytest.raises(InputError, match=r"^images: this problem was built from metadata only"):
        sgd(metadata)
