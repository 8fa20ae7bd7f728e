"""CUDA against the processor: on a card if there is one, in Numba's simulator if it is asked for.

    NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda.py

The simulator checks no types: tests/test_cuda_ptx.py compiles the kernels for real.
"""

import copy
import dataclasses
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import fastcryo as fc
from fastcryo import backends, card_fft, card_packing, cuda_sweeps, operators
from fastcryo.arrays import fetch, on_host
from fastcryo.card_volumes import CROWDING
from fastcryo.kernels.cpu import vectors as cpu_vectors
from fastcryo.kernels.cpu.aberrations import AS_THEY_ARE, PHASE_FLIPPED, PREMULTIPLIED
from fastcryo.kernels.cuda import vectors
from fastcryo.masks import soft_spherical_mask
from fastcryo.optics import Aberrations, Imaging
from fastcryo.packing import ImagingTables, Packer
from fastcryo.preconditioner import HutchinsonEstimate, rademacher, thresholded_inverse

from . import naive

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
REASON = "no CUDA here: set NUMBA_ENABLE_CUDASIM=1 to run the kernels in the simulator"
pytestmark = pytest.mark.skipif(backends.why_not_cuda() is not None, reason=REASON)

BOXES = (16,) if SIMULATED else (64, 128)
CHEAP_BOXES = (15, 24) if SIMULATED else (63, 128)
CUDA = ("cuda", "cuda-deterministic")
OVERSAMPLED = {
    "kaiser-bessel": {"interpolation": "kaiser_bessel"},
    "masked": {
        "interpolation": "kaiser_bessel",
        "mask": soft_spherical_mask(BOXES[0], BOXES[0] / 4, BOXES[0] / 8),
    },
    "padded": {"interpolation": "trilinear", "oversampling": 2},
}
IMAGES = 4 if SIMULATED else 300
TOLERANCE = 1e-5


def close(ours, expected):
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert ours.dtype == expected.dtype
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def half(box, seed):
    volume = np.random.default_rng(seed).normal(size=(box,) * 3)
    return fc.FourierGrid(box).from_real(volume.astype(np.float32))


def problem_of(backend, box=BOXES[0], with_ctf=True, symmetry="C1", **arguments):
    rng = np.random.default_rng(4)
    angles = rng.uniform(0, 360, (3, IMAGES))
    ctf = fc.CTF(
        defocus_u=rng.uniform(8000, 20000, IMAGES),
        defocus_v=rng.uniform(8000, 20000, IMAGES),
        defocus_angle=rng.uniform(0, 180, IMAGES),
        voltage=300.0,
        spherical_aberration=2.7,
        amplitude_contrast=0.1,
    )
    return fc.KnownPoseProblem.from_arrays(
        rng.normal(size=(IMAGES, box, box)).astype(np.float32),
        fc.rotation_matrices(*angles),
        pixel_size=3.0,
        ctf=ctf if with_ctf else None,
        regularization=0.1,
        symmetry=symmetry,
        backend=backend,
        **arguments,
    )


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
@pytest.mark.parametrize("box", CHEAP_BOXES)
def test_slices_and_back_projections_are_those_of_the_cpu(box, interpolation, backend):
    # Special views put samples on grid points, on ties and on the fold.
    special = naive.special_rotations()[:: 6 if SIMULATED else 1]
    rotations = np.concatenate([naive.random_rotations(2, np.random.default_rng(1)), special])
    grid, volume = fc.FourierGrid(box), half(box, 2)
    cpu = fc.SliceOperator(grid, interpolation)
    cuda = fc.SliceOperator(grid, interpolation, backend)
    samples = cpu.forward(volume, rotations)
    close(cuda.forward(volume, rotations), samples)
    close(cuda.adjoint(samples, rotations), cpu.adjoint(samples, rotations))


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
@pytest.mark.parametrize("box", BOXES)
def test_loss_gradient_and_products_are_those_of_the_cpu(box, interpolation, backend):
    cpu, cuda = (problem_of(name, box, interpolation=interpolation) for name in ("cpu", backend))
    volume, direction, batch = half(box, 5), half(box, 6), [0, 3, 1]
    for ours, expected in zip(
        cuda.loss_gradient_and_product(volume, direction.real, batch),
        cpu.loss_gradient_and_product(volume, direction.real, batch),
        strict=True,
    ):
        close(ours, expected)
    close(cuda.loss_and_gradient(volume)[1], cpu.loss_and_gradient(volume)[1])
    close(cuda.loss_and_curvature(volume, direction), cpu.loss_and_curvature(volume, direction))
    close(cuda.loss(volume, batch), cpu.loss(volume, batch))
    close(cuda.curvature(direction), cpu.curvature(direction))


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("window", OVERSAMPLED)
def test_oversampled_windows_are_those_of_the_cpu(window, backend):
    options, box = OVERSAMPLED[window], BOXES[0]
    cpu, cuda = (problem_of(name, **options) for name in ("cpu", backend))
    volume, direction, batch = half(box, 5), half(box, 6), [0, 1]
    for ours, expected in zip(
        cuda.loss_gradient_and_product(volume, direction.real, batch),
        cpu.loss_gradient_and_product(volume, direction.real, batch),
        strict=True,
    ):
        close(ours, expected)
    close(cuda.loss(volume, batch), cpu.loss(volume, batch))
    rotations = naive.random_rotations(2, np.random.default_rng(1))
    samples = cpu.operator.forward(volume, rotations)
    close(cuda.operator.forward(volume, rotations), samples)
    close(cuda.operator.adjoint(samples, rotations), cpu.operator.adjoint(samples, rotations))


def test_without_ffts_on_the_card_the_host_transforms_and_it_is_said_once(monkeypatch, capsys):
    backends.say_that_the_host_transforms.cache_clear()
    cpu, cuda = (problem_of(name, interpolation="kaiser_bessel") for name in ("cpu", "cuda"))
    monkeypatch.setattr(cuda_sweeps, "card_fft", lambda: None)
    volume = half(BOXES[0], 27)
    there = cuda.operator.place(volume)
    loss, gradient = cuda.loss_and_gradient(there, [2])
    expected = cpu.loss_and_gradient(volume, [2])
    close(float(loss), expected[0])
    close(fetch(gradient), expected[1])
    assert capsys.readouterr().err.count("pip install cupy-cuda13x") == 1


def test_diagonals_of_exact_slices_are_those_of_the_cpu():
    cpu, cuda = (problem_of(name, interpolation="kaiser_bessel") for name in ("cpu", "cuda"))
    close(cuda.hessian_diagonal([1]), cpu.hessian_diagonal([1]))


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
def test_diagonals_are_those_of_the_cpu(interpolation, backend):
    cpu, cuda = (problem_of(name, interpolation=interpolation) for name in ("cpu", backend))
    close(cuda.hessian_diagonal(), cpu.hessian_diagonal())
    close(cuda.gridding_weight([1, 2]), cpu.gridding_weight([1, 2]))


def test_images_without_ctf_share_one_row_of_weights_and_symmetry_adds_views():
    cpu, cuda = (problem_of(name, with_ctf=False, symmetry="C2") for name in ("cpu", "cuda"))
    volume = half(BOXES[0], 7)
    close(cuda.loss_and_gradient(volume)[1], cpu.loss_and_gradient(volume)[1])
    close(cuda.hvp(volume), cpu.hvp(volume))


def test_double_precision_is_kept():
    cpu, cuda = (problem_of(name, dtype="float64") for name in ("cpu", "cuda-deterministic"))
    volume = half(BOXES[0], 8).astype(np.complex128)
    expected = cpu.loss_and_gradient(volume)
    ours = cuda.loss_and_gradient(volume)
    assert ours[0] == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(ours[1], expected[1], rtol=0, atol=1e-11 * np.abs(ours[1]).max())


@pytest.mark.parametrize(
    "window",
    [{}, {"interpolation": "kaiser_bessel", "width": 4, "oversampling": 1.25}],
    ids=["trilinear", "kaiser-bessel"],
)
@pytest.mark.parametrize("box", [BOXES[0], CHEAP_BOXES[0]])
def test_back_projection_on_the_card_is_the_transpose_of_slicing(box, window):
    # Over the reals, as in tests/test_operators.py.
    rng = np.random.default_rng(9)
    operator = fc.SliceOperator(fc.FourierGrid(box), backend="cuda", **window)
    rotations, volume = naive.random_rotations(2, rng), half(box, 10)
    slices = operator.forward(volume, rotations)
    noise = rng.normal(size=(2, *slices.shape)).astype(np.float32)
    samples = slices + noise[0] + 1j * noise[1]
    left = operator.inner(slices, samples)
    right = operator.grid.inner(volume, operator.adjoint(samples, rotations))
    assert abs(left - right) < TOLERANCE * abs(left)


def test_images_that_do_not_fit_are_streamed_to_the_same_sums(monkeypatch):
    """Parts of two images, in two buffers that take turns."""
    volume = half(BOXES[0], 11)
    staying, streamed = problem_of("cuda-deterministic"), problem_of("cuda-deterministic")
    samples = staying.operator.samples
    expected = staying.loss_and_gradient(volume)
    monkeypatch.setattr(cuda_sweeps, "STREAM_BYTES", 2 * 12 * samples)
    monkeypatch.setattr(cuda_sweeps.CudaSweeps, "_stay", stay_if_small)
    ours = streamed.loss_and_gradient(volume)
    np.testing.assert_array_equal(ours[1], expected[1])
    assert ours[0] == pytest.approx(expected[0], rel=1e-12)
    rotations = naive.random_rotations(3, np.random.default_rng(12))
    np.testing.assert_array_equal(
        streamed.operator.forward(volume, rotations), staying.operator.forward(volume, rotations)
    )


def stay_if_small(sweeps, table):
    return None if len(table) > 1 else sweeps.place(table)


def packer_of(backend, with_ctf=True, imaging=None):
    """What prepares images of two noise groups, shifted, on a grid smaller than they are."""
    rng, count, box = np.random.default_rng(29), 3, BOXES[0]
    operator = fc.SliceOperator(fc.FourierGrid(box), backend=backend)
    ctf = fc.CTF(rng.uniform(8000, 20000, count), 9000.0, 30.0, bfactor=20.0).coefficients()
    tables = None if imaging is None else ImagingTables.of(imaging, operator, 3.0 * (box + 4))
    return Packer(
        operator,
        3.0 * (box + 4),
        rng.normal(size=(count, 2)),
        ctf if with_ctf else np.empty((0, 7)),
        rng.uniform(0.5, 2, (2, operator.samples)),
        np.array([0, 1, 0]),
        tables,
        np.array([0.8, 1.0, 1.3]) if with_ctf else None,
    )


IMAGING = Imaging(
    group=np.array([2, 0, 1]),
    warps=np.stack([np.eye(2), np.array([[0.98, 0.01], [0.0, 0.97]]), np.eye(2)]),
    limits=np.array([np.inf, 5.0, np.inf]),
    corrections=np.array([AS_THEY_ARE, PHASE_FLIPPED, PREMULTIPLIED]),
    scales=np.ones(3),
    aberrations=(
        (Aberrations(beam_tilt=(0.4, -0.3), even=(0.0, 0.2)), 0.0197, 2.7),
        (Aberrations(odd=(0.1, 0.2)), 0.0197, 2.7),
        (Aberrations(), 0.0197, 2.7),
    ),
)


@pytest.mark.parametrize("on_card", [True, False], ids=["ffts on the card", "ffts on the host"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"with_ctf": False}, {"imaging": IMAGING}],
    ids=["ctf", "no ctf", "aberrations"],
)
def test_images_are_prepared_on_the_card_as_on_the_cpu(arguments, on_card, monkeypatch):
    found = []
    if not on_card:
        monkeypatch.setattr(card_packing, "card_fft", lambda: None)
    side = BOXES[0] + 4
    images = np.random.default_rng(30).normal(size=(3, side, side)).astype(np.float32)
    for backend in ("cpu", "cuda"):
        packer = packer_of(backend, **arguments)
        shape, order = (3, packer.operator.samples), np.array([2, 0, 1])
        weights, data = np.zeros(shape, np.float32), np.zeros(shape, np.complex64)
        energies = packer.pack(images, order, order, weights, data)
        made = np.zeros(shape, np.float32)
        if len(packer.ctf):
            packer.fill_weights(order, made)
        found.append((weights, data, energies, made))
    for expected, ours in zip(*found, strict=True):
        assert ours.dtype == expected.dtype
        assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_prepared_images_are_sent_once_and_leave_with_their_problem():
    problem = problem_of("cuda")
    kept = problem.operator.card._kept
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


@pytest.mark.parametrize("bound", [1e-30, 1.0, 3.0, 2.0**40])
def test_exact_sums_cannot_overflow_and_lose_less_than_single_precision(bound):
    scale = vectors.exact_scale(bound)
    assert np.log2(scale) == round(np.log2(scale))
    assert 2.0**61 <= bound * scale <= 2.0**62
    assert vectors.exact_scale(0.0) == 1.0
    assert np.isnan(vectors.exact_scale(np.inf))
    assert np.isnan(vectors.exact_scale(np.nan))


def test_no_voxel_gets_more_of_an_image_than_exact_sums_allow():
    """Sums of window weights of single views, against the bound on overflow."""
    grid = fc.FourierGrid(15)
    rng = np.random.default_rng(17)
    views = np.concatenate([naive.random_rotations(40, rng), naive.special_rotations()])
    for interpolation in ("nearest", "trilinear"):
        operator = fc.SliceOperator(grid, interpolation)
        ones = np.ones((1, operator.samples), np.complex64)
        worst = max(operator.adjoint(ones, view[None]).real.max() for view in views)
        assert 1 <= worst < CROWDING


def test_sums_of_half_grids_are_those_of_the_cpu():
    box = BOXES[0]
    grid = fc.FourierGrid(box)
    left, right = half(box, 18), half(box, 19)
    real = np.random.default_rng(20).uniform(0, 2, grid.shape).astype(np.float32)
    real[0, 0, :3] = 0
    place = fc.SliceOperator(grid, backend="cuda").place
    sums = vectors.inner_by_plane(place(left), place(right))
    close(fetch(sums).sum(axis=1), cpu_vectors.inner_by_plane(left, right))
    assert float(grid.inner(place(left), place(right))) == pytest.approx(grid.inner(left, right))
    for damping in (real, real[:1, :1, :1].copy() + 1):
        ours, expected = place(left), left.copy()
        factor = np.float32(0.3)
        sums = vectors.finish_sum(ours, place(right), factor, place(damping))
        close(fetch(sums).sum(axis=1), cpu_vectors.finish_sum(expected, right, factor, damping))
        close(fetch(ours), expected)
    ours, expected = place(left), left.copy()
    vectors.step_along(ours, place(right), np.float32(0.7))
    cpu_vectors.step_along(expected, right, np.float32(0.7))
    close(fetch(ours), expected)
    vectors.scale_by(place(right), place(real), ours)
    close(fetch(ours), right * real)
    close(fetch(thresholded_inverse(place(real), 0.0)), thresholded_inverse(real, 0.0))
    close(
        fetch(thresholded_inverse(place(real), 0.5, place(real))),
        thresholded_inverse(real, 0.5, real),
    )
    bound = 3 * np.abs(left).max() + 1
    assert fetch(vectors.scale_for(place(left), 3.0, 1.0)) == vectors.exact_scale(bound)


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


@pytest.mark.parametrize("box", CHEAP_BOXES)
def test_random_signs_are_those_of_the_cpu(box):
    grid, volume = fc.FourierGrid(box), half(box, 25)
    there = fc.SliceOperator(grid, backend="cuda").place(volume)
    ours = rademacher(grid, np.random.default_rng(26), there)
    assert not on_host(ours)
    np.testing.assert_array_equal(fetch(ours), rademacher(grid, np.random.default_rng(26)))


def test_half_grids_come_back_where_they_were_given():
    problem = problem_of("cuda")
    volume = half(BOXES[0], 24)
    there = problem.operator.place(volume)
    assert on_host(problem.hvp(volume))
    assert not on_host(problem.hvp(there))
    close(fetch(problem.hvp(there)), problem.hvp(volume))


SANITIZER = shutil.which("compute-sanitizer")


@pytest.mark.skipif(SIMULATED, reason="compute-sanitizer looks at a card, not at the simulator")
@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer, of the CUDA toolkit, is missing")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool):
    tests = [sys.executable, "-m", "pytest", "-q", "-k", "oversampled or prepared_on", __file__]
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "9", *tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


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
