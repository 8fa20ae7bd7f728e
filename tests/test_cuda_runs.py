"""Runs on a graphics card or in the simulator: what lies where, what is sent when, the bits."""

import copy
import dataclasses
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import fastcryo as fc
from fastcryo import backends, card_fft, card_tables, cuda_sweeps, operators
from fastcryo.arrays import fetch, on_host
from fastcryo.preconditioner import HutchinsonEstimate, rademacher
from fastcryo.rows import StoredRows

from . import naive
from .cuda_cases import BOXES, CUDA, IMAGES, close, half, needs_cuda, problem_of

pytestmark = needs_cuda


def staying(where):
    """Return a stand-in for `CardTables.stay` by which only some tables stay on the card."""

    def stay(tables, table):
        return tables.constant(table) if len(table) <= 1 or where(table) else None

    return stay


@pytest.mark.parametrize(
    "where",
    [lambda table: False, lambda table: table.dtype == np.float32],
    ids=["nothing stays", "weights stay"],
)
@pytest.mark.parametrize("backend", CUDA)
def test_images_that_do_not_fit_are_streamed_to_the_same_sums(where, backend, monkeypatch):
    """Parts of two images, in two buffers that take turns; what stays comes in parts as large."""
    volume = half(BOXES[0], 11)
    kept, streamed = problem_of(backend), problem_of(backend)
    samples = kept.operator.samples
    monkeypatch.setattr(card_tables, "STREAM_BYTES", 2 * 12 * samples)
    expected = kept.loss_and_gradient(volume)
    monkeypatch.setattr(card_tables.CardTables, "stay", staying(where))
    ours = streamed.loss_and_gradient(volume)
    assert ours[0] == expected[0]
    if backend == "cuda":
        close(ours[1], expected[1])
    else:
        np.testing.assert_array_equal(ours[1], expected[1])
    rotations = naive.random_rotations(3, np.random.default_rng(12))
    np.testing.assert_array_equal(
        streamed.operator.forward(volume, rotations), kept.operator.forward(volume, rotations)
    )


def test_streaming_takes_no_more_memory_for_batches_of_other_sizes(monkeypatch):
    operator = fc.SliceOperator(fc.FourierGrid(BOXES[0]), backend="cuda")
    monkeypatch.setattr(card_tables, "STREAM_BYTES", 3 * 12 * operator.samples)
    rotations, volume = naive.random_rotations(7, np.random.default_rng(34)), half(BOXES[0], 35)
    for count in (7, 2, 5, 1, 6):
        samples = operator.forward(volume, rotations[:count])
        close(samples, fc.SliceOperator(operator.grid).forward(volume, rotations[:count]))
        operator.adjoint(samples, rotations[:count])
    held = operator.card.tables._buffers
    assert len(held) == 2
    assert all(pinned.size == 3 * 8 * operator.samples for pinned, _ in held.values())


def test_rows_in_files_are_copied_as_they_are(tmp_path):
    rows = np.random.default_rng(36).normal(size=(5, 7)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    chosen, out = np.array([4, 0, 2]), np.empty((3, 7), np.float32)
    for table in (rows, StoredRows.open(tmp_path / "rows.npy")):
        out[...] = 0
        card_tables.copy_rows(table, chosen, out)
        np.testing.assert_array_equal(out, rows[chosen])


def test_threads_take_turns_on_the_card():
    problem = problem_of("cuda-deterministic")
    volumes = [half(BOXES[0], seed) for seed in (37, 38)]
    expected = [problem.loss_and_gradient(volume) for volume in volumes]
    found = {}

    def work(number):
        found[number] = problem.loss_and_gradient(volumes[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (loss, gradient) in enumerate(expected):
        assert found[number][0] == loss
        np.testing.assert_array_equal(found[number][1], gradient)


def test_prepared_images_are_sent_once_and_leave_with_their_problem():
    problem = problem_of("cuda")
    kept = problem.operator.card.tables._kept
    volume = half(BOXES[0], 13)
    problem.loss(volume)
    tables = [kept[id(table)][1] for table in (problem.weights, problem.data)]
    problem.loss(volume, [1])
    assert [kept[id(table)][1] for table in (problem.weights, problem.data)] == tables
    bare = dataclasses.replace(problem, data=problem.data.copy())
    bare.loss(volume)
    before = len(kept)
    del bare
    assert len(kept) == before - 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"preconditioner": "hutchinson"},
        {"preconditioner": None, "step": "exact"},
        {"preconditioner": "gridding", "step": "decay", "average": True},
        {"preconditioner": "gridding", "step": 1.0, "variance_reduction": "svrg"},
    ],
    ids=["algorithm 1", "plain", "averaged", "svrg"],
)
def test_sgd_runs_on_the_card_as_on_the_cpu(arguments):
    cpu, cuda = (problem_of(name) for name in ("cpu", "cuda"))
    expected = fc.sgd(cpu, epochs=2, batch_size=3, **arguments)
    volumes = []
    ours = fc.sgd(
        cuda,
        epochs=2,
        batch_size=3,
        checkpoint=lambda state: volumes.append(state.volume),
        **arguments,
    )
    close(ours.volume, expected.volume)
    close(ours.history.loss, expected.history.loss)
    close(ours.history.epoch_loss, expected.history.epoch_loss)
    assert all(on_host(volume) for volume in volumes)


@pytest.mark.parametrize("window", [{}, {"interpolation": "kaiser_bessel"}], ids=["grid", "fine"])
def test_an_iteration_reads_the_card_once_and_no_half_grid_crosses_the_bus(window, monkeypatch):
    """Line search and loss come back in one copy of a few numbers."""
    problem = problem_of("cuda", **window)
    if window and card_fft.card_fft() is None:
        pytest.skip("cupy, which transforms on the card, is not installed")
    array = type(problem.operator.place(np.zeros(1)))
    copies, by_iteration = [], []
    copy_to_host, to_device = array.copy_to_host, cuda_sweeps.cuda.to_device

    def fetched(self, *arguments, **options):
        # The simulator's FFTs work on its arrays, which lie on the host.
        if sys._getframe(1).f_code is not card_fft._simulated.__code__:
            copies.append(("fetched", self.size))
        return copy_to_host(self, *arguments, **options)

    def sent(data, *arguments, **options):
        copies.append(("sent", data.size))
        return to_device(data, *arguments, **options)

    def after(progress):
        by_iteration.append(list(copies))
        copies.clear()

    monkeypatch.setattr(array, "copy_to_host", fetched)
    monkeypatch.setattr(cuda_sweeps.cuda, "to_device", sent)
    fc.sgd(problem, epochs=1, batch_size=1, callback=after)
    assert len(by_iteration) == IMAGES
    # The first one sends what stays on the card.
    for found in by_iteration[1:]:
        assert len([size for kind, size in found if kind == "fetched"]) == 1
        assert max(size for _, size in found) < 50


def test_sgd_goes_on_from_a_checkpoint_bit_for_bit():
    problem = problem_of("cuda-deterministic")
    states = []

    def keep(state):
        states.append(copy.deepcopy(state))

    whole = fc.sgd(problem, epochs=2, batch_size=3, checkpoint=keep)
    resumed = fc.sgd(problem, epochs=2, batch_size=3, resume=states[0])
    np.testing.assert_array_equal(resumed.volume, whole.volume)


def test_deterministic_sums_are_the_same_in_any_order():
    problem = problem_of("cuda-deterministic")
    volume, order = half(BOXES[0], 14), np.random.default_rng(15).permutation(IMAGES)
    expected = problem.loss_and_gradient(volume)[1]
    np.testing.assert_array_equal(problem.loss_and_gradient(volume, order)[1], expected)


def test_numbers_that_are_not_finite_reach_the_loss_and_the_gradient():
    for backend in CUDA:
        problem = problem_of(backend)
        volume = half(BOXES[0], 16)
        volume[0, BOXES[0] // 2, BOXES[0] // 2] = np.nan
        loss, gradient = problem.loss_and_gradient(volume)
        assert np.isnan(loss)
        assert np.isnan(gradient).any()


def test_the_running_estimate_is_that_of_the_cpu():
    problem = problem_of("cuda")
    rng, place = np.random.default_rng(21), problem.operator.place
    estimate = HutchinsonEstimate.start(problem, 0.9)
    ours = dataclasses.replace(
        estimate, mean=place(estimate.mean), smoothed=place(estimate.smoothed)
    )
    for seed in (22, 23):
        signs, product = rademacher(problem.grid, rng), half(BOXES[0], seed).real.copy()
        close(fetch(ours.take(place(signs), place(product))), estimate.take(signs, product))


def test_too_little_memory_on_the_card_is_refused_and_auto_goes_on_with_the_cpu(
    monkeypatch, capsys
):
    monkeypatch.setattr(cuda_sweeps.CudaSweeps, "needs", lambda sweeps: 1 << 60)
    memory = SimpleNamespace(free=1 << 30)
    context = SimpleNamespace(get_memory_info=lambda: memory)
    monkeypatch.setattr(cuda_sweeps.cuda, "current_context", lambda: context)
    grid = fc.FourierGrid(BOXES[0])
    with pytest.raises(fc.InputError, match=r"GiB are free: close other programs .* use the CPU"):
        fc.SliceOperator(grid, backend="cuda")
    monkeypatch.setattr(operators, "choose_backend", lambda name: "cuda")
    backends.say_once.cache_clear()
    for _ in range(2):
        assert fc.SliceOperator(grid, backend="auto").backend == "cpu"
    assert capsys.readouterr().err.count("of the card's memory are needed") == 1
