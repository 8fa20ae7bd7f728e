"""Stochastic gradient descent with a diagonal preconditioner: Algorithm 1 and its relatives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastcryo.arrays import approach, copy_of, empty_like, fetch, vectors_of
from fastcryo.errors import InputError
from fastcryo.normal import NormalOperator
from fastcryo.preconditioner import (
    HutchinsonEstimate,
    default_threshold,
    rademacher,
    safe_diagonal,
    thresholded_inverse,
)
from fastcryo.problem import KnownPoseProblem
from fastcryo.variance_reduction import VARIANCE_REDUCTIONS, ControlVariate, batch_spread

STEPS = ("armijo", "exact", "decay")
MOST_HALVINGS = 60


@dataclass
class History:
    """What happened, by iteration and by epoch.

    Attributes
    ----------
    loss, step, seconds : list of float
        Per iteration: loss of the batch before the step (with SVRG the corrected one,
        `ControlVariate.loss_and_gradient`), step size, time since the start.
    epoch_loss, epoch_seconds : list of float
        Per epoch: loss of all images after it, time since the start.
    """

    loss: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    epoch_loss: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)


@dataclass
class SGDState:
    """All that a run needs to go on after an epoch, bit for bit.

    Attributes
    ----------
    volume : ndarray, half grid
    epoch : int
        Epochs done.
    rng : Generator
    history : History
    average : ndarray or None
        Mean of the iterates since averaging began, and how many.
    estimate : HutchinsonEstimate or None
    """

    volume: NDArray
    epoch: int
    rng: np.random.Generator
    history: History
    average: NDArray | None = None
    averaged: int = 0
    estimate: HutchinsonEstimate | None = None

    def move(self, where: Callable) -> None:
        """Replace every array by what `where` makes of it: `place` of an operator, or `fetch`."""
        self.volume = where(self.volume)
        if self.average is not None:
            self.average = where(self.average)
        if self.estimate is not None:
            self.estimate.mean = where(self.estimate.mean)
            self.estimate.smoothed = where(self.estimate.smoothed)


@dataclass(frozen=True)
class Progress:
    """What a callback is told after every iteration."""

    epoch: int
    epochs: int
    iteration: int
    iterations: int
    loss: float
    step: float


@dataclass(frozen=True, eq=False)
class SGDResult:
    """A reconstruction by SGD.

    Attributes
    ----------
    volume : ndarray, half grid
    history : History
    preconditioner : ndarray or None
        The diagonal D at the end, a real half grid; without threshold and spread.
    """

    volume: NDArray
    history: History
    preconditioner: NDArray | None


def sgd(
    problem: KnownPoseProblem,
    epochs: int = 10,
    batch_size: int = 1000,
    preconditioner: str | NDArray | None = "hutchinson",
    step: str | float = "armijo",
    threshold: str | float | None = "auto",
    beta: float = 0.9,
    rng: np.random.Generator | int | None = 0,
    callback: Callable[[Progress], None] | None = None,
    *,
    initial: NDArray | None = None,
    initial_step: float | None = None,
    growth: float | None = None,
    armijo: float = 0.99,
    decay: float = 0.1,
    average: bool = False,
    variance_reduction: str | None = None,
    operator: NormalOperator | None = None,
    resume: SGDState | None = None,
    checkpoint: Callable[[SGDState], None] | None = None,
) -> SGDResult:
    """Minimise the objective by V <- V - eta D^-1 grad f_I(V) over shuffled minibatches I.

    The defaults are Algorithm 1 of Toader, Brubaker & Lederman (2025) with its published settings.
    Its four variants are ``preconditioner=None``, ``"exact"`` (precomputed), ``"hutchinson"`` and
    ``"hutchinson"`` with ``threshold=None``.

    Parameters
    ----------
    problem : KnownPoseProblem
    epochs : int
        Passes through the images.
    batch_size : int
        Images per minibatch; larger than the set: one batch. An epoch is cut into equal batches.
    preconditioner : {"hutchinson", "exact", "gridding"}, ndarray or None
        D: estimated with one probe per minibatch, diag H, H 1, a given one, or 1.
    step : {"armijo", "exact", "decay"} or float
        Armijo backtracking, the exact minimum along the line (both of the batch's loss), a step
        that falls as initial_step / (1 + decay t) with the iteration t, or a constant.
    threshold : "auto", float or None
        alpha in max(|D|, alpha); "auto": `default_threshold`; None: no threshold.
    beta : float
        Smoothing of the estimated diagonal.
    rng : Generator or seed
        Batches and probes.
    callback : callable, optional
        Called with a `Progress` after every iteration.
    initial : ndarray, half grid, optional
        Start; zero unless given.
    initial_step : float, optional
        eta_0: 10 for Armijo (plain SGD: 1), 1 for "decay".
    growth : float, optional
        Growth of eta before each Armijo search: 1.2 (plain SGD: 2). Each epoch starts from eta_0.
    armijo : float
        c of the condition f_I(V - eta d) <= f_I(V) - c eta <grad f_I, d>.
    decay : float
        Rate of step="decay" per iteration.
    average : bool
        Return the mean of the iterates of the second half of the run (Polyak-Ruppert).
    variance_reduction : {"svrg"} or None
        "svrg": the gradients of minibatches are corrected by that of all images at the last epoch's
        end (`fastcryo.variance_reduction.ControlVariate`), so that the iterates converge to the
        minimiser. `batch_spread` is added to D; then a constant step of 1 with "gridding" is safe
        for all views and batches.
    operator : NormalOperator, optional
        H assembled, for SVRG: makes the gradients of all images free. Without it each takes the
        place of the loss at the end of an epoch, a pass through all images.
    resume : SGDState, optional
        Continue from a checkpoint of a run with the same arguments.
    checkpoint : callable, optional
        Called with the `SGDState` after every epoch; it must not keep the arrays.

    Returns
    -------
    SGDResult

    Raises
    ------
    InputError
        An argument that cannot be used, or a loss that is not finite.
    """
    _check_arguments(epochs, batch_size, step, threshold, beta, armijo)
    _check_positive("initial_step", initial_step)
    _check_positive("growth", growth)
    _check_positive("decay", decay)
    _check_variance_reduction(problem, variance_reduction, operator, average)
    estimated = isinstance(preconditioner, str) and preconditioner == "hutchinson"
    diagonal = None if estimated else safe_diagonal(problem, preconditioner)
    if threshold == "auto":
        threshold = default_threshold(problem)
    plain = preconditioner is None
    if initial_step is None:
        initial_step = (1.0 if plain else 10.0) if step == "armijo" else 1.0
    if growth is None:
        growth = 2.0 if plain else 1.2
    state = _start(problem, initial, rng, estimated, beta) if resume is None else resume
    place = problem.operator.place
    state.move(place)
    vectors = vectors_of(state.volume)
    began = time.perf_counter() - (state.history.epoch_seconds or [0.0])[-1]
    batches_per_epoch = -(-len(problem) // batch_size)
    gradient, direction = empty_like(state.volume), empty_like(state.volume)
    product = empty_like(state.volume, problem.operator.real_dtype) if estimated else None
    variate, spread = None, 0.0
    if variance_reduction is not None:
        variate = ControlVariate.start(problem, operator, state.volume)
        spread = place(batch_spread(problem, len(problem) // batches_per_epoch))
    objective = problem if variate is None else variate
    inverse = None
    if diagonal is not None:
        inverse = thresholded_inverse(place(diagonal), threshold or 0.0, spread)

    while state.epoch < epochs:
        eta = initial_step
        batches = np.array_split(state.rng.permutation(len(problem)), batches_per_epoch)
        for number, batch in enumerate(batches):
            if estimated:
                signs = rademacher(problem.grid, state.rng, state.volume)
                loss, _, _ = objective.loss_gradient_and_product(
                    state.volume, signs, batch, (gradient, product)
                )
                diagonal = state.estimate.take(signs, product)
                inverse = thresholded_inverse(diagonal, threshold or 0.0, spread)
            else:
                loss, _ = objective.loss_and_gradient(state.volume, batch, gradient)
            if inverse is None:
                direction = gradient
            else:
                vectors.scale_by(gradient, inverse, direction)
            slope, curvature = 0.0, 0.0
            if step in ("armijo", "exact"):
                slope = problem.grid.inner(gradient, direction)
                curvature = problem.curvature(direction, batch)
            # All that an iteration reads back from a graphics card, in one copy.
            loss, slope, curvature = float(loss), float(slope), float(curvature)
            if not np.isfinite(loss):
                raise InputError(
                    f"step: the loss became {loss} in epoch {state.epoch + 1}, "
                    "choose a smaller step or --step decay"
                )
            if step == "decay":
                done = state.epoch * batches_per_epoch + number
                eta = initial_step / (1 + decay * done)
            elif step == "exact":
                eta = slope / curvature if curvature > 0 else 0.0
            elif step == "armijo":
                eta = backtrack(eta * growth, slope, curvature, armijo)
            else:
                eta = float(step)
            vectors.step_along(state.volume, direction, problem.operator.real_dtype.type(eta))
            if average and 2 * state.epoch >= epochs:
                _average(state)
            history = state.history
            history.loss.append(loss)
            history.step.append(eta)
            history.seconds.append(time.perf_counter() - began)
            if callback is not None:
                callback(Progress(state.epoch, epochs, number, batches_per_epoch, loss, eta))
        state.epoch += 1
        result = state.volume if state.average is None else state.average
        state.history.epoch_loss.append(
            float(problem.loss(result) if variate is None else variate.refresh(result))
        )
        state.history.epoch_seconds.append(time.perf_counter() - began)
        if checkpoint is not None:
            state.move(fetch)
            checkpoint(state)
            state.move(place)
    state.move(fetch)
    result = state.volume if state.average is None else state.average
    return SGDResult(result, state.history, state.estimate.smoothed if estimated else diagonal)


def backtrack(eta: float, slope: float, curvature: float, armijo: float) -> float:
    """Halve eta until f(V - eta d) <= f(V) - c eta slope.

    f is quadratic, so f(V - eta d) = f(V) - eta slope + eta^2 curvature / 2, with
    slope = <grad f, d> and curvature = <d, H d>: no trial needs a pass over the images. A slope or
    curvature that is not finite fails every trial and gives 0.

    Parameters
    ----------
    eta : float
        First trial.
    slope, curvature : float
    armijo : float
        c.

    Returns
    -------
    float
        The step; 0 if no trial of 60 passed.
    """
    for _ in range(MOST_HALVINGS):
        change = -eta * slope + 0.5 * eta**2 * curvature
        if np.isfinite(change) and change <= -armijo * eta * slope:
            return eta
        eta /= 2
    return 0.0


def _start(
    problem: KnownPoseProblem,
    initial: NDArray | None,
    rng: np.random.Generator | int | None,
    estimated: bool,
    beta: float,
) -> SGDState:
    if initial is None:
        volume = problem.grid.zeros(problem.operator.dtype)
    else:
        problem.grid.check(initial)
        volume = np.array(initial, dtype=problem.operator.dtype, order="C")
    estimate = HutchinsonEstimate.start(problem, beta) if estimated else None
    return SGDState(volume, 0, np.random.default_rng(rng), History(), estimate=estimate)


def _average(state: SGDState) -> None:
    state.averaged += 1
    if state.average is None:
        state.average = copy_of(state.volume)
    else:
        approach(state.average, state.volume, 1 / state.averaged)


def _check_arguments(
    epochs: int,
    batch_size: int,
    step: str | float,
    threshold: str | float | None,
    beta: float,
    armijo: float,
) -> None:
    if epochs < 1:
        raise InputError(f"epochs: {epochs} given, at least 1 is needed")
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} given, at least 1 is needed")
    if isinstance(step, str) and step not in STEPS:
        raise InputError(f"step: {step!r} is unknown, choose {', '.join(STEPS)} or a number")
    if not isinstance(step, str) and not (np.isfinite(step) and step > 0):
        raise InputError(f"step: {step} must be a positive number")
    known = threshold is None or threshold == "auto"
    if not known and (isinstance(threshold, str) or not 0 <= threshold < np.inf):
        raise InputError(f"threshold: {threshold!r} must be 'auto', None or a number of at least 0")
    if not 0 <= beta < 1:
        raise InputError(f"beta: {beta} must lie in [0, 1)")
    if not 0 < armijo < 1:
        raise InputError(f"armijo: {armijo} must lie between 0 and 1")


def _check_variance_reduction(
    problem: KnownPoseProblem, name: str | None, operator: NormalOperator | None, average: bool
) -> None:
    if name is not None and name not in VARIANCE_REDUCTIONS:
        raise InputError(f"variance_reduction: {name!r} is unknown, choose svrg or None")
    if name is not None and average:
        raise InputError("average: SVRG leaves no noise to average, leave one of the two out")
    if operator is not None:
        if name is None:
            raise InputError("operator: only variance_reduction='svrg' uses it, leave it out")
        operator.check(problem)


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < np.inf:
        raise InputError(f"{name}: {value} must be a positive number")
