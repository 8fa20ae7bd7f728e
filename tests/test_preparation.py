"""The pass over all images: what it packs, in which order it reads, what does not change it."""

import itertools
import threading

import numpy as np
import pytest

import fastcryo.free_memory
import fastcryo.packing
import fastcryo.preparation
import fastcryo.threads
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.io.mrc import Stack, write_stack
from fastcryo.kernels import formulas
from fastcryo.kernels.cpu import codes
from fastcryo.packing import half_transforms, pieces
from fastcryo.particles import OpticsGroup, Particles
from fastcryo.problem import KnownPoseProblem
from fastcryo.rotations import rotation_matrices
from fastcryo.threads import in_threads

from . import naive


def make_particles(folder, data, order=None, stacks=3):
    """Write images to stacks in turn, and return particles that name them in any order."""
    count, box = len(data.images), data.images.shape[1]
    stack, place = np.arange(count) % stacks, np.arange(count) // stacks
    paths = tuple(folder / f"{number}.mrcs" for number in range(stacks))
    for number, path in enumerate(paths):
        write_stack(path, data.images[stack == number], data.pixel_size)
    particles = Particles(
        rotations=data.rotations,
        shifts=data.shifts,
        ctf=CTF(**data.ctf),
        pixel_size=data.pixel_size,
        box=box,
        half=np.int8(1 + np.arange(count) % 2),
        optics_group=np.zeros(count, int),
        optics=(OpticsGroup("", 300.0, 2.7, 0.1, data.pixel_size, box),),
        stack=stack,
        slice=place,
        stacks=paths,
        source=folder / "particles.star",
    )
    return particles if order is None else particles.select(order)


def build(data, **options):
    return KnownPoseProblem.from_arrays(
        data.images, data.rotations, data.pixel_size, CTF(**data.ctf), data.shifts, **options
    )


@pytest.mark.parametrize("with_ctf", [True, False])
@pytest.mark.parametrize(
    ("side", "box"), [(20, 20), (21, 21), (20, 12), (21, 12), (35, 9), (36, 36)]
)
def test_packed_samples_are_those_of_the_definition(side, box, with_ctf):
    data = naive.data_set(side)
    radius = (box - 1) // 2
    sigma = np.linspace(1, 3, radius + 1)
    ctf = CTF(**data.ctf) if with_ctf else None
    problem = KnownPoseProblem.from_arrays(
        data.images,
        data.rotations,
        data.pixel_size,
        ctf,
        data.shifts,
        box=box,
        noise_std=sigma,
        dtype="float64",
    )
    h, k = naive.disc(radius)
    here = (h > 0) | ((h == 0) & (k >= 0))
    h, k = h[here], k[here]
    order = np.lexsort((h, k))
    h, k = h[order], k[order]
    variance = naive.by_shell(sigma, side, 2)[k, h] ** 2
    variance[(h == 0) & (k == 0)] *= 2
    c = data.ctfs[:, k, h] if with_ctf else np.ones((1, len(h)))
    centred = np.conj(data.phases[:, k, h]) * data.transforms[:, k, h]
    # |y| reaches 5 side: 53 bits of it, over some ten roundings.
    limit = 1e-14 * side
    np.testing.assert_allclose(problem.data, c * centred / variance, rtol=0, atol=limit)
    np.testing.assert_allclose(problem.weights, c**2 / variance, rtol=0, atol=1e-11)
    energy = (np.abs(centred) ** 2 / variance).sum(axis=1)
    np.testing.assert_allclose(problem.energies, energy, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_half_transforms_are_those_of_the_definition(dtype):
    # Bundles that fill the image, that do not, and the sides and radii that are left to scipy.
    sides = [16, 17, 30, 32, 33, 36, 62, 63, 64, 66, 100, 105, 320]
    for side, part in itertools.product(sides, (0.2, 0.5, 0.77, 1.0)):
        radius = int(part * ((side - 1) // 2))
        images = np.random.default_rng(side).normal(size=(2, side, side)).astype(dtype)
        found = half_transforms(images, radius)
        assert found.shape[2] >= radius + 1
        assert found.dtype == np.result_type(dtype, np.complex64)
        expected = np.fft.rfft2(images.astype(np.float64))[:, :, : found.shape[2]]
        kept = np.arange(-radius, radius + 1)
        limit = 4 * np.finfo(dtype).eps * np.abs(expected).max()
        np.testing.assert_allclose(
            found[:, kept], expected[:, kept], rtol=0, atol=limit, err_msg=f"{side}, {radius}"
        )


def test_single_precision_packs_what_double_precision_does():
    data = naive.data_set(40)
    data.images = data.images.astype(np.float32)
    found, expected = (build(data, box=36, dtype=dtype) for dtype in ("float32", "float64"))
    limit = 4e-7 * np.abs(expected.data).max()
    np.testing.assert_allclose(found.data, expected.data, rtol=0, atol=limit)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.energies, expected.energies, rtol=1e-6)


def test_half_transforms_do_not_depend_on_the_images_beside():
    images = np.random.default_rng(0).normal(size=(5, 36, 36)).astype(np.float32)
    together = half_transforms(images, 17).copy()
    kept = np.arange(-17, 18)
    for image, expected in zip(images, together, strict=True):
        alone = half_transforms(image[None], 17)
        np.testing.assert_array_equal(alone[0, kept], expected[kept])


@pytest.mark.parametrize("kind", ["read-only", "Fortran", "strided", "big-endian"])
def test_images_of_an_array_are_prepared_whatever_its_layout(kind):
    images = np.random.default_rng(0).standard_normal((3, 36, 36), dtype=np.float32)
    given = {
        "read-only": images.copy(),
        "Fortran": np.asfortranarray(images),
        "strided": np.repeat(images, 2, axis=2)[:, :, ::2],
        "big-endian": images.astype(">f4"),
    }[kind]
    given.flags.writeable = kind != "read-only"
    views = rotation_matrices(*np.random.default_rng(1).uniform(0, 180, (3, 3)))
    wanted, found = (KnownPoseProblem.from_arrays(a, views, 1.0) for a in (images, given))
    np.testing.assert_array_equal(found.data, wanted.data)


def test_most_columns_are_cut_off_where_the_disc_is_small():
    assert half_transforms(np.zeros((1, 64, 64), np.float32), 10).shape == (1, 64, 11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_images_are_packed_to_the_same_bits_by_any_number_of_threads(monkeypatch, dtype):
    data = naive.data_set(33, count=23)
    monkeypatch.setattr(fastcryo.packing, "BLOCK_BYTES", 8 * 33**2 * 4)
    monkeypatch.setattr(fastcryo.packing, "CACHE_BYTES", 8 * 33**2 * 2)
    found = []
    for count in (1, 2, 3, 7):
        monkeypatch.setattr(fastcryo.threads, "thread_count", lambda count=count: count)
        problem = build(data, dtype=dtype, noise_std=2.0)
        found.append([a.tobytes() for a in (problem.data, problem.weights, problem.energies)])
    assert found[1:] == found[:1] * 3


def test_particles_in_any_order_are_read_stack_by_stack_in_one_go_each(tmp_path, monkeypatch):
    data = naive.data_set(12, count=15)
    reads = []

    def read(self, first, out, former=Stack.read):
        reads.append((self.path.stem, first, len(out)))
        former(self, first, out)

    monkeypatch.setattr(Stack, "read", read)
    order = np.random.default_rng(0).permutation(15)
    particles = make_particles(tmp_path, data, order)
    problem = KnownPoseProblem.from_particles(particles)
    assert reads == [("0", 0, 5), ("1", 0, 5), ("2", 0, 5)]
    data.images = data.images.astype(np.float32)
    expected = build(data)
    np.testing.assert_array_equal(problem.data, expected.data[order])
    np.testing.assert_array_equal(problem.weights, expected.weights[order])
    np.testing.assert_array_equal(problem.energies, expected.energies[order])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_pixel_is_found_and_the_image_named(tmp_path, monkeypatch, value):
    monkeypatch.setattr(fastcryo.packing, "BLOCK_BYTES", 8 * 12**2 * 4)
    data = naive.data_set(12, count=15)
    data.images[7, 0, 0] = value
    with pytest.raises(InputError, match=r"images: 1 contain NaN or infinity, .* image 7 "):
        build(data)
    with np.errstate(invalid="ignore"):
        particles = make_particles(tmp_path, data)
    with pytest.raises(InputError, match=r"contain NaN or infinite .* row 8, 000003@.*1\.mrcs"):
        KnownPoseProblem.from_particles(particles)


def test_pixels_beyond_single_precision_are_refused():
    data = naive.data_set(12, count=2)
    data.images[1] *= 1e39
    with pytest.raises(InputError, match=r"images: 1 contain NaN or infinity, .* image 1"):
        build(data)
    data.images[1] = 3e37
    with pytest.raises(InputError, match="images: pixels are too large"):
        build(data)
    assert np.isfinite(build(data, dtype="float64").energies).all()


def test_progress_ends_with_the_last_image_and_is_not_told_of_every_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fastcryo.packing, "BLOCK_BYTES", 8 * 12**2)
    monkeypatch.setattr(fastcryo.packing, "REPORTS", 5)
    told = []
    particles = make_particles(tmp_path, naive.data_set(12, count=22))
    KnownPoseProblem.from_particles(particles, progress=lambda *numbers: told.append(numbers))
    assert told == [(5, 22), (10, 22), (15, 22), (20, 22), (22, 22)]


def test_more_images_than_memory_are_refused_before_any_is_read(monkeypatch):
    data = naive.data_set(12, count=4)
    needed = 4 * 12 * build(data).operator.samples
    monkeypatch.setattr(fastcryo.free_memory, "available_memory", lambda: needed)
    build(data)
    monkeypatch.setattr(fastcryo.free_memory, "available_memory", lambda: needed - 1)
    data.images[:] = np.nan
    with pytest.raises(InputError, match=r"^memory: .* for 4 prepared images of box 12, .*--box"):
        build(data)
    metadata = KnownPoseProblem.from_arrays(None, data.rotations, 3.0, CTF(**data.ctf), N=12)
    assert len(metadata.weights) == 4
    monkeypatch.setattr(fastcryo.free_memory, "available_memory", lambda: None)
    with pytest.raises(InputError, match="NaN"):
        build(data)


def test_pieces_of_work_come_back_in_order_and_a_failure_stops_the_rest(monkeypatch):
    monkeypatch.setattr(fastcryo.threads, "thread_count", lambda: 3)
    gate = threading.Event()

    def slow_first(piece):
        if piece == 0:
            gate.wait(10)
        elif piece == 2:
            gate.set()
        return 10 * piece

    assert list(in_threads(slow_first, range(9))) == [(i, 10 * i) for i in range(9)]

    done = []

    def fails(piece):
        if piece == 4:
            raise KeyError(piece)
        done.append(piece)

    with pytest.raises(KeyError):
        list(in_threads(fails, range(1000)))
    assert len(done) < 20


def test_pieces_cover_everything_once():
    assert [(p.start, p.stop) for p in pieces(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert [(p.start, p.stop) for p in pieces(2, 0)] == [(0, 1), (1, 2)]
    assert list(pieces(0, 3)) == []


def test_every_half_precision_number_is_read_exactly():
    halves = np.arange(2**16, dtype=np.uint16)
    found = np.empty(2**16, np.float32)
    codes.decode_half(halves, found)
    expected = halves.view(np.float16)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[finite], expected[finite])
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


def test_sine_is_exact_to_the_last_digits():
    # Against the sine in extended precision; near a whole number of pi, where nothing is left of
    # the angle, the remainder must keep its digits too.
    rng = np.random.default_rng(0)
    n = rng.integers(-900_000, 900_000, 1000)
    angles = np.concatenate([rng.uniform(-3e6, 3e6, 2000), rng.uniform(-10, 10, 1000), n * np.pi])
    found = np.array([formulas.sine(x) for x in angles])
    exact = np.sin(angles.astype(np.longdouble))
    np.testing.assert_allclose(found, exact.astype(float), rtol=0, atol=5e-16)
