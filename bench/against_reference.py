"""Time the fused gradient against the plain NumPy reference of the tests and against slicing.

``python bench/against_reference.py [--box 128] [--images 1000] [--threads 2]``; in one process, the
reference on a few images (its cost is proportional to their number), the minimum of several runs.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np

import fastcryo as fc
from fastcryo.rotations import random_rotations
from fastcryo.threads import use_threads

REFERENCE_IMAGES = 4


def load_reference():
    """Import tests/naive.py from the checkout."""
    path = Path(__file__).resolve().parents[1] / "tests" / "naive.py"
    spec = importlib.util.spec_from_file_location("naive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shortest(function, repeats):
    """Return the shortest of several runs, seconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def main():
    """Print seconds per image and the two ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    box, count = chosen.box, chosen.images
    naive = load_reference()
    rng = np.random.default_rng(0)
    rotations = random_rotations(count, rng)
    ctf = fc.CTF(rng.uniform(1e4, 2.5e4, count), 1.5e4, 30.0)
    pixels = rng.standard_normal((count, box, box), dtype=np.float32)
    problem = fc.KnownPoseProblem.from_arrays(pixels, rotations, 1.5, ctf=ctf)
    grid = problem.grid
    volume = grid.from_real(rng.standard_normal((box,) * 3, dtype=np.float32))

    few = slice(0, REFERENCE_IMAGES)
    h, k = naive.frequencies(box)
    reference = (
        grid.unfold(volume),
        naive.transform_images(pixels[few]),
        rotations[few],
        grid.radius,
        "trilinear",
        ctf.select(np.arange(REFERENCE_IMAGES)).evaluate(h / (1.5 * box), k / (1.5 * box)),
        np.ones((REFERENCE_IMAGES, box, box)),
        1.0,
        1e-8,
    )
    with use_threads(chosen.threads):
        problem.loss_and_gradient(volume)
        problem.operator.forward(volume, rotations)
        gradient = shortest(lambda: problem.loss_and_gradient(volume), 7) / count
        forward = shortest(lambda: problem.operator.forward(volume, rotations), 7) / count
    plain = shortest(lambda: naive.loss_and_gradient(*reference), 3) / REFERENCE_IMAGES
    print(f"N = {box}, {count} images, {chosen.threads} threads, per image:")
    print(f"  NumPy reference  {1e3 * plain:8.3f} ms")
    print(f"  fused gradient   {1e3 * gradient:8.3f} ms, {plain / gradient:.0f} times faster")
    print(
        f"  forward slices   {1e3 * forward:8.3f} ms, gradient / forward {gradient / forward:.2f}"
    )


if __name__ == "__main__":
    main()
