"""What the simulator hides and a card would show: races, lost barriers, types never compiled.

    NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda_hidden.py

Blocks are smaller than tiles in the simulator; here they are larger, as on a card.
"""

import itertools
from typing import ClassVar

import numba
import numpy as np
import pytest

if not numba.config.ENABLE_CUDASIM:
    pytest.skip("looks into Numba's simulator", allow_module_level=True)

from measure import ptx
from numba.cuda.simulator import kernel as simulated
from numba.cuda.simulator.cudadrv import devicearray

import fastcryo as fc
from fastcryo import card_tables, card_volumes, cuda_sweeps
from fastcryo.kernels.cuda import _jit, axes, ctf, prepare, slicing, vectors
from fastcryo.kernels.cuda._jit import cuda, kernel

from . import naive
from .cuda_cases import CUDA, IMAGING, close, half, packer_of, problem_of
from .races import Race, watched

WINDOWS = {
    "nearest": {"interpolation": "nearest"},
    "trilinear": {},
    "wide": {"interpolation": "kaiser_bessel", "width": 4, "oversampling": 1.25},
}
BOX = 8


@pytest.fixture
def like_a_card(monkeypatch):
    """Twice as many threads as samples of a tile, and several blocks along both axes."""
    for module in (_jit, slicing, cuda_sweeps):
        monkeypatch.setattr(module, "TILE", 4)
    for module in (_jit, axes, ctf, prepare, slicing, vectors, cuda_sweeps):
        monkeypatch.setattr(module, "THREADS", 8)
    monkeypatch.setattr(_jit, "BLOCKS", 6)
    monkeypatch.setattr(vectors, "SHARES", 2)
    monkeypatch.setattr(card_volumes, "_kernels", {})


def type_of(argument):
    """Return the type that a kernel is compiled for; Numba's own simulator gives none to arrays."""
    if hasattr(argument, "_numba_type_"):
        return argument._numba_type_
    return numba.typeof(getattr(argument, "_ary", argument))


def launched_types(launches):
    """Return the types that a card would compile for, by kernel."""
    found = {}
    for compiled, arguments in launches:
        found.setdefault(compiled, set()).add(tuple(map(type_of, arguments)))
    return found


def use_everything(backend, window, batch):
    """Launch every kernel of a window, on few images of a small box."""
    problem = problem_of(backend, BOX, **window)
    volume, direction = half(BOX, 1), half(BOX, 2)
    problem.loss_gradient_and_product(volume, direction.real, batch)
    problem.loss_and_gradient(volume, batch)
    problem.loss_and_curvature(volume, direction, batch)
    problem.loss(volume, batch)
    rotations = naive.random_rotations(len(batch), np.random.default_rng(3))
    samples = problem.operator.forward(volume, rotations)
    problem.operator.adjoint(samples, rotations)
    if window.get("interpolation") != "kaiser_bessel":
        problem.hessian_diagonal(batch)
        problem.gridding_weight(batch)
    return problem


def prepare_images():
    """Launch the kernels of preparation and of CTFs."""
    images = np.random.default_rng(4).normal(size=(3, BOX + 4, BOX + 4)).astype(np.float32)
    for imaging in (None, IMAGING):
        packer = packer_of("cuda", box=BOX, imaging=imaging)
        shape, order = (3, packer.operator.samples), np.arange(3)
        weights, data = np.zeros(shape, np.float32), np.zeros(shape, np.complex64)
        packer.pack(images, order, order, weights, data)
        packer.fill_weights(order, weights)
    frequencies = map(packer.operator.place, (np.zeros(4), np.ones(4)))
    fc.CTF(np.array([1e4, 2e4]), 9000.0).evaluate(*frequencies)


@pytest.mark.parametrize(
    ("window", "backend"),
    [*itertools.product(("nearest", "trilinear"), CUDA), ("wide", "cuda")],
)
def test_no_two_threads_touch_a_number_at_a_time(window, backend, like_a_card, monkeypatch):
    with watched(monkeypatch) as launches:
        use_everything(backend, WINDOWS[window], [0] if window == "wide" else [0, 2])
    assert max(np.prod(kernel.grid_dim) for kernel, _ in launches) > 1


def test_nor_do_they_in_preparation_and_in_steps_of_sgd(like_a_card, monkeypatch):
    with watched(monkeypatch):
        prepare_images()
        problem = problem_of("cuda", BOX)
        fc.sgd(problem, epochs=1, batch_size=4)


def test_all_that_a_run_launches_is_compiled_for_cards(like_a_card, monkeypatch):
    with watched(monkeypatch, races=False) as launches:
        prepare_images()
        problem = use_everything("cuda-deterministic", {}, [0, 2])
        use_everything("cuda", WINDOWS["wide"], [1])
        fc.sgd(problem, epochs=1, batch_size=4)
        averaged = {"preconditioner": "gridding", "step": "decay", "average": True}
        fc.sgd(problem, epochs=2, batch_size=4, **averaged)
        view = naive.special_rotations()[:1]
        there = problem.operator.forward(problem.operator.place(half(BOX, 5)), view)
        problem.operator.adjoint(there, view)
    compiled = {}
    for _, function, types in ptx.all_kernels():
        compiled.setdefault(function, set()).add(types)
    launched = launched_types(launches)
    assert len(launched) > 25
    unknown = {
        function.__name__: found - compiled.get(function, set())
        for function, found in launched.items()
    }
    assert not any(unknown.values()), {name: found for name, found in unknown.items() if found}


class LaggingStream:
    """A stream that does nothing before somebody waits for it."""

    made: ClassVar[list] = []

    def __init__(self):
        self.waiting = []
        self.made.append(self)

    def synchronize(self):
        while self.waiting:
            self.waiting.pop(0)()


@pytest.fixture
def lagging(monkeypatch):
    """Copies from pinned memory and kernels in streams happen as late as a card may let them."""
    configure = simulated.FakeCUDAKernel.__getitem__
    copy = devicearray.FakeCUDAArray.copy_to_device
    fetch = devicearray.FakeCUDAArray.copy_to_host

    def getitem(compiled, configuration):
        stream = configuration[2] if len(configuration) > 2 else 0
        if not isinstance(stream, LaggingStream):
            return configure(compiled, configuration)

        def launch(*arguments):
            stream.waiting.append(lambda: configure(compiled, configuration)(*arguments))

        return launch

    def copy_to_device(array, source, stream=0):
        if isinstance(stream, LaggingStream):
            stream.waiting.append(lambda: copy(array, source))
        else:
            copy(array, source)

    def copy_to_host(array, out=None, stream=0):
        # To memory that is not pinned: the driver waits.
        if isinstance(stream, LaggingStream):
            stream.synchronize()
        return fetch(array, out)

    def synchronize():
        for stream in reversed(LaggingStream.made):
            stream.synchronize()

    monkeypatch.setattr(LaggingStream, "made", [])
    monkeypatch.setattr(cuda, "stream", LaggingStream)
    monkeypatch.setattr(cuda, "synchronize", synchronize)
    monkeypatch.setattr(simulated.FakeCUDAKernel, "__getitem__", getitem)
    monkeypatch.setattr(devicearray.FakeCUDAArray, "copy_to_device", copy_to_device)
    monkeypatch.setattr(devicearray.FakeCUDAArray, "copy_to_host", copy_to_host)


def test_buffers_are_filled_anew_only_when_the_card_has_read_them(lagging, monkeypatch):
    volume, rotations = half(BOX, 6), naive.random_rotations(5, np.random.default_rng(7))
    kept = problem_of("cuda-deterministic", BOX)
    samples = kept.operator.forward(volume, rotations)
    close(samples, fc.SliceOperator(kept.grid).forward(volume, rotations))
    monkeypatch.setattr(card_tables, "STREAM_BYTES", 12 * kept.operator.samples)
    expected = kept.loss_and_gradient(volume)
    monkeypatch.setattr(card_tables.CardTables, "stay", lambda tables, table: None)
    streamed = problem_of("cuda-deterministic", BOX)
    found = streamed.loss_and_gradient(volume)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(streamed.operator.forward(volume, rotations), samples)
    close(
        streamed.operator.adjoint(samples, rotations),
        fc.SliceOperator(kept.grid).adjoint(samples, rotations),
    )


@kernel
def _without_barrier(out):
    shared = cuda.shared.array(4, np.float64)
    t = cuda.threadIdx.x
    shared[t] = t
    cuda.syncthreads()
    shared[t] += shared[3 - t]
    out[cuda.blockIdx.x, t] = shared[t]


@kernel
def _without_writing(out):
    shared = cuda.shared.array(4, np.float64)
    cuda.syncthreads()
    out[cuda.blockIdx.x, cuda.threadIdx.x] = shared[cuda.threadIdx.x]


@kernel
def _barrier_of_some(out):
    if cuda.threadIdx.x < 2:
        cuda.syncthreads()
    out[cuda.blockIdx.x, cuda.threadIdx.x] = 1


@kernel
def _sum_of_blocks(out):
    out[0, cuda.threadIdx.x] += 1


@kernel
def _below_zero(out):
    out[0, cuda.threadIdx.x - 2] = 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_without_barrier, "one thread (writes|reads), another"),
        (_without_writing, "that nobody has written"),
        (_barrier_of_some, "not all threads meet"),
        (_sum_of_blocks, "another"),
        (_below_zero, "index"),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("_"),
)
def test_what_a_card_would_do_wrong_is_seen(function, words, monkeypatch):
    out = cuda.to_device(np.zeros((2, 4)))
    with watched(monkeypatch), pytest.raises(Race, match=words):
        function[2, 4](out)
