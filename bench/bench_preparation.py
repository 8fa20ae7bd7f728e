"""Preparation of images, whole and part by part, and products with prepared sets on disk.

`images_per_second_per_core` is what `docs/preparation.md` quotes: from processor time, which other
programs on the machine change less than the time on the clock. The plain read of the same stack is
the limit that the disk sets.
"""

import time

import mrcfile
import numpy as np
import pytest
import scipy.fft

import fastcryo as fc
from fastcryo.io.mrc import open_stack, write_stack
from fastcryo.kernels.cpu import codes, prepare
from fastcryo.packing import Packer, half_transforms
from fastcryo.particles import OpticsGroup, Particles
from fastcryo.rotations import random_rotations
from fastcryo.threads import thread_count, use_threads

PIXEL_SIZE = 1.3
REPEATS = 9


@pytest.fixture(scope="module")
def size(request):
    """Return side and number of the images: those of EMPIAR-10076, or small ones."""
    return (64, 20) if request.config.getoption("--quick") else (320, 200)


@pytest.fixture(scope="module")
def made(size, tmp_path_factory):
    """Return images, and particles that name them in a float32 and in a float16 stack."""
    side, count = size
    folder = tmp_path_factory.mktemp("stacks")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count, side, side), dtype=np.float32)
    write_stack(folder / "float32.mrcs", images, PIXEL_SIZE)
    with mrcfile.new(folder / "float16.mrcs") as mrc:
        mrc.set_data(images.astype(np.float16))
        mrc.set_image_stack()
    ctf = fc.CTF(rng.uniform(1e4, 2.5e4, count), 1.5e4, 30.0)
    rotations = random_rotations(count, rng)
    particles = {
        kind: Particles(
            rotations=rotations,
            shifts=rng.normal(scale=3, size=(count, 2)),
            ctf=ctf,
            pixel_size=PIXEL_SIZE,
            box=side,
            half=np.ones(count, np.int8),
            optics_group=np.zeros(count, int),
            optics=(OpticsGroup("", 300.0, 2.7, 0.1, PIXEL_SIZE, side),),
            stack=np.zeros(count, int),
            slice=np.arange(count),
            stacks=(folder / f"{kind}.mrcs",),
            source=folder / "particles.star",
        )
        for kind in ("float32", "float16")
    }
    return images, particles


@pytest.fixture(params=[1, None], ids=["one thread", "all threads"])
def threads(request):
    """Run with one thread, or with all."""
    with use_threads(request.param):
        yield


def measure(benchmark, group, function, images, **info):
    """Benchmark a function of so many images after one call that compiles."""
    benchmark.group = group
    benchmark.extra_info.update(images=images, threads=thread_count(), **info)
    function()
    benchmark(function)
    if benchmark.stats is not None:
        benchmark.extra_info["images_per_second"] = images / benchmark.stats.stats.min
        seconds = min(processor_time(function) for _ in range(REPEATS))
        benchmark.extra_info["images_per_second_per_core"] = images / seconds
        benchmark.extra_info["core_microseconds_per_image"] = 1e6 * seconds / images


def processor_time(function):
    """Return the processor time of one call, all threads together."""
    began = time.process_time()
    function()
    return time.process_time() - began


@pytest.mark.parametrize("cropped", [False, True], ids=["whole", "cropped"])
@pytest.mark.parametrize("source", ["array", "float32", "float16"])
def bench_preparation(benchmark, made, size, threads, source, cropped):
    images, particles = made
    box = size[0] * 3 // 5 if cropped else size[0]
    one = particles["float32" if source == "array" else source]

    def from_array():
        return fc.KnownPoseProblem.from_arrays(
            images, one.rotations, PIXEL_SIZE, one.ctf, one.shifts, box=box
        )

    def from_stack():
        return fc.KnownPoseProblem.from_particles(one, box=box)

    group = f"preparation {size[0]} -> N={box}"
    measure(benchmark, group, from_array if source == "array" else from_stack, size[1], box=box)


@pytest.mark.parametrize("kind", ["float32", "float16", "int16"])
def bench_writing(benchmark, made, size, threads, kind, tmp_path):
    particles = made[1]["float32"]
    settings = iter(range(10**9))

    def write():
        # Another noise each time, so that the set is written anew.
        fc.KnownPoseProblem.from_particles(
            particles,
            box=size[0] * 3 // 5,
            noise_std=1.0 + next(settings),
            store=tmp_path / "set",
            storage=kind,
            overwrite=True,
        )

    measure(benchmark, f"writing {size[0]} -> N={size[0] * 3 // 5}", write, size[1])


@pytest.mark.parametrize("kind", ["float32", "float16"])
def bench_plain_read(benchmark, made, size, kind):
    path = made[1][kind].stacks[0]
    buffer = bytearray(2**22)

    def read():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    measure(benchmark, f"reading {size[0]}", read, size[1], bytes=path.stat().st_size)


@pytest.mark.parametrize("kind", ["float32", "float16"])
def bench_read_and_convert(benchmark, made, size, kind):
    stack = open_stack(made[1][kind].stacks[0])
    out = np.empty((min(10, size[1]), size[0], size[0]), np.float32)

    def read():
        for first in range(0, size[1], len(out)):
            stack.read(first, out)

    measure(benchmark, f"reading {size[0]}", read, size[1])


@pytest.mark.parametrize("part", ["rows", "all columns", "whole", "cropped"])
def bench_transform(benchmark, made, size, part):
    image = made[0][:1]
    rows = scipy.fft.rfft(image, axis=2)
    radius = size[0] // 2 - 1 if part == "whole" else size[0] * 3 // 10 - 1
    functions = {
        "rows": lambda: scipy.fft.rfft(image, axis=2),
        "all columns": lambda: scipy.fft.fft(rows, axis=1),
        "whole": lambda: half_transforms(image, radius),
        "cropped": lambda: half_transforms(image, radius),
    }
    measure(benchmark, f"transform {size[0]}", functions[part], 1)


@pytest.mark.parametrize("cropped", [False, True], ids=["whole", "cropped"])
@pytest.mark.parametrize("part", ["weights", "pack"])
def bench_pack(benchmark, made, size, part, cropped):
    box = size[0] * 3 // 5 if cropped else size[0]
    operator = fc.SliceOperator(fc.FourierGrid(box))
    ctf = made[1]["float32"].ctf.coefficients()[:1]
    length = size[0] * PIXEL_SIZE
    variance, group = np.ones((1, operator.samples)), np.zeros(1, np.int64)
    packer = Packer(operator, length, np.zeros((1, 2)), ctf, variance, group)
    transforms = half_transforms(made[0][:1], operator.grid.radius).view(np.float32)
    weights = np.empty((1, operator.samples), np.float32)
    data = np.empty((1, 2 * operator.samples), np.float32)
    first, energies, shifts = np.zeros(1, int), np.empty(1), np.zeros((1, 2))

    def pack():
        prepare.pack_images(
            transforms,
            first,
            shifts,
            operator.rows,
            ctf,
            length,
            packer.inverse_variance[0],
            weights,
            data,
            energies,
        )

    with use_threads(1):
        function = (
            pack
            if part == "pack"
            else lambda: packer.fill_weights(np.arange(len(weights)), weights)
        )
        measure(benchmark, f"CTF and packing N={box}", function, 1, samples=operator.samples)


@pytest.mark.parametrize("kind", ["half", "short"])
@pytest.mark.parametrize("direction", ["encode", "decode"])
def bench_codes(benchmark, kind, direction):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((16, 40_000), dtype=np.float32)
    factors, scales = np.ones(40_000, np.float32), np.ones(16, np.float32)
    coded = np.empty(values.shape, np.uint16 if kind == "half" else np.int16)
    encode = {"half": codes.encode_half, "short": codes.encode_short}[kind]
    decode = {"half": codes.decode_half_rows, "short": codes.decode_short_rows}[kind]
    encode(values, factors, coded, scales)
    functions = {
        "encode": lambda: encode(values, factors, coded, scales),
        "decode": lambda: decode(coded, np.arange(16), scales, factors, values),
    }
    with use_threads(1):
        measure(benchmark, "codes, 40000 numbers", functions[direction], len(values))


@pytest.mark.parametrize("kind", ["memory", "float32", "float16", "int16"])
def bench_gradient_of_prepared(benchmark, made, size, kind, tmp_path):
    where = {} if kind == "memory" else {"store": tmp_path / "set", "storage": kind}
    box = size[0] * 3 // 5
    problem = fc.KnownPoseProblem.from_particles(made[1]["float32"], box=box, **where)
    rng = np.random.default_rng(0)
    volume = problem.grid.from_real(rng.standard_normal((box,) * 3, dtype=np.float32))
    batch = rng.permutation(len(problem))
    measure(
        benchmark,
        f"gradient of a prepared set N={box}",
        lambda: problem.loss_and_gradient(volume, batch),
        len(problem),
    )
