"""Cost per sample of the trilinear gradient by box, tile shape and window code, one thread.

``python bench/tiles.py [--quick]`` prints the table of docs/kernels.md: CPU time, least of several
interleaved runs.
"""

import argparse
import time

import numpy as np

import fastcryo as fc
from fastcryo.kernels import layout
from fastcryo.kernels.cpu import slicing, windows
from fastcryo.preconditioner import rademacher
from fastcryo.rotations import random_rotations

SHAPES = {"whole": (1000, 1000), "8 x 16": (8, 16), "16 x 16": (16, 16), "16 x 24": (16, 24)}
CODES = {
    "plain": (windows.TRILINEAR_PLAIN, 1),
    "vectors": (windows.TRILINEAR_VECTORS, 1),
    "vectors, and a product": (windows.TRILINEAR_VECTORS, 2),
}


def make_runs(box, count):
    """Return a function per (code, shape) that computes the gradient of `count` images."""
    rng = np.random.default_rng(0)
    grid = fc.FourierGrid(box)
    rows = layout.disc_rows(grid.radius)
    samples = int(rows[-1, 0] + rows[-1, 2])
    steps = layout.fixed_point_steps(random_rotations(count, rng))
    volume = grid.from_real(rng.standard_normal((box,) * 3, dtype=np.float32)).reshape(-1)
    other, total = rademacher(grid, rng).reshape(-1), np.zeros_like(volume)
    product = np.zeros(volume.size, np.float32)
    weights = rng.random((count, samples), dtype=np.float32)
    data = np.zeros((count, samples), np.complex64)
    runs = {}
    for code, (window, volumes) in CODES.items():
        kernel = slicing.make_kernels(window).gradient
        for shape, size in SHAPES.items():
            tiles, neighbours = layout.disc_tiles(grid.radius, *size)
            arguments = (
                (volume, other)[:volumes],
                (total, product)[:volumes],
                (weights, data),
                np.arange(count),
                steps,
                rows,
                tiles,
                neighbours,
                layout.row_widths(grid.radius),
                box,
                np.float32(2.0**-24),
                1,
                np.float32(1 / count),
                np.full(1, 1e-8, np.float32),
                True,
                count,
                np.zeros((len(tiles) + grid.shape[0], 4)),
            )
            runs[code, shape] = lambda kernel=kernel, arguments=arguments: kernel(*arguments)
    return runs, count * samples


def main():
    """Print ns per sample."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    boxes = (32,) if quick else (64, 128, 192, 256)
    table = {}
    for box in boxes:
        runs, samples = make_runs(box, 16 if quick else 200)
        times = {name: [] for name in runs}
        for _ in range(2 if quick else 7):
            for name, run in runs.items():
                began = time.process_time()
                run()
                times[name].append(time.process_time() - began)
        for name, values in times.items():
            table.setdefault(name, []).append(1e9 * min(values[1:]) / samples)
    print("| code | tile (z x y) | " + " | ".join(f"N = {box}" for box in boxes) + " |")
    print("|---|---|" + "---|" * len(boxes))
    for (code, shape), values in table.items():
        print(f"| {code} | {shape} | " + " | ".join(f"{v:.1f}" for v in values) + " |")


if __name__ == "__main__":
    from fastcryo.threads import use_threads

    with use_threads(1):
        main()
