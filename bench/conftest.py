"""Options and fixtures of the benchmarks."""

import numpy as np
import pytest

import fastcryo as fc
from fastcryo.rotations import random_rotations
from fastcryo.threads import thread_count


def pytest_addoption(parser):
    """Add --quick: one small box, to see that everything runs."""
    parser.addoption("--quick", action="store_true", help="one small box only")


def pytest_generate_tests(metafunc):
    """Give `box` the sizes of the paper's field, or one small one."""
    if "box" in metafunc.fixturenames:
        quick = metafunc.config.getoption("--quick")
        metafunc.parametrize("box", [32] if quick else [64, 128, 192, 256])


@pytest.fixture
def case(request, box):
    """Return a problem with CTFs and noise-like data, and a volume."""
    images = 32 if request.config.getoption("--quick") else 256
    rng = np.random.default_rng(0)
    grid = fc.FourierGrid(box)
    ctf = fc.CTF(rng.uniform(1e4, 2.5e4, images), 1.5e4, 30.0)
    pixels = rng.standard_normal((images, box, box), dtype=np.float32)
    problem = fc.KnownPoseProblem.from_arrays(
        pixels, random_rotations(images, rng), 1.5, ctf=ctf, regularization=1e-8
    )
    volume = grid.from_real(rng.standard_normal((box,) * 3, dtype=np.float32))
    return problem, volume


@pytest.fixture
def rate():
    """Return a function that adds images/s and ns per sample to a finished benchmark."""

    def note(benchmark, problem, images):
        benchmark.extra_info["box"] = problem.grid.box
        benchmark.extra_info["images"] = images
        benchmark.extra_info["threads"] = thread_count()
        if benchmark.stats is not None:
            seconds = benchmark.stats.stats.min
            samples = images * problem.operator.samples
            benchmark.extra_info["images_per_second"] = images / seconds
            benchmark.extra_info["ns_per_sample"] = 1e9 * seconds / samples

    return note
