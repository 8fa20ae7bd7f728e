"""Measure strong scaling under MPI: ``python bench/scaling.py [--ranks 1 2] [--box 64] [--quick]``.

The same images, shared among P ranks of one thread each: gradients of minibatches as SGD takes
them, and H assembled. Efficiency is the time of the fewest ranks over that of P, times the ratio of
ranks; more ranks than cores show only that it works. docs/mpi.md extrapolates from the table.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import fastcryo as fc
from fastcryo import communicator, forecast
from fastcryo.normal import memory
from fastcryo.rotations import random_rotations

ROUNDS = 15
NODES = (1, 2, 4, 8, 16, 32, 64)


def timed(ranks):
    """Count the bytes that ranks sum, and the seconds that they wait for it, in a dictionary."""
    spent = {"bytes": 0, "seconds": 0.0}
    plain = ranks.sum

    def counted(array):
        began = time.perf_counter()
        plain(array)
        spent["seconds"] += time.perf_counter() - began
        spent["bytes"] += array.nbytes
        return array

    if ranks.size > 1:
        ranks.sum = counted
    return spent


def measure(box, count, batch_size):
    """Return what this rank took, seconds: the fastest of some rounds."""
    ranks = communicator.launched()
    spent = timed(ranks)
    rng = np.random.default_rng(0)
    ctf = fc.CTF(rng.uniform(1e4, 2e4, count), rng.uniform(1e4, 2e4, count), np.zeros(count))
    problem = fc.KnownPoseProblem.from_arrays(
        np.broadcast_to(rng.standard_normal((1, box, box), np.float32), (count, box, box)),
        random_rotations(count, rng),
        2.0,
        ctf,
        backend="cpu",
        communicator=ranks,
    )
    volume = problem.grid.fold(np.fft.fftn(rng.standard_normal((box,) * 3)))
    volume = volume.astype(problem.operator.dtype)
    batches = [rng.permutation(count)[:batch_size] for _ in range(ROUNDS + 1)]
    jobs = {
        "gradient": lambda turn: problem.loss_and_gradient(volume, batches[turn]),
        "assembling": lambda turn: problem.normal_operator(limit=2**40),
    }
    found = {"ranks": ranks.size}
    for name, job in jobs.items():
        rounds = []
        for turn in range(ROUNDS + 1):  # the first compiles
            ranks.wait()
            spent.update(bytes=0, seconds=0.0)
            began = time.perf_counter()
            job(turn)
            rounds.append((time.perf_counter() - began, spent["seconds"], spent["bytes"]))
        seconds, reducing, size = min(rounds[1:])
        found[name] = {"seconds": seconds, "reducing": reducing, "bytes": size}
    if ranks.rank == 0:
        print(json.dumps(found))


def run(ranks, sizes):
    """Return what rank 0 of a job found."""
    beside = Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        sys.exit("mpiexec: not found, pip install 'fastcryo[mpi]' mpich")
    command = [launcher, "-n", str(ranks), sys.executable, __file__, "--rank", *map(str, sizes)]
    threads = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **threads}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def row(found, first, name, images):
    """Return a line of the table."""
    took, ranks = found[name], found["ranks"]
    efficiency = first[name]["seconds"] * first["ranks"] / (took["seconds"] * ranks)
    return (
        f"| {name} | {ranks} | {1e3 * took['seconds']:.1f} | {1e3 * took['reducing']:.1f} | "
        f"{took['bytes'] / 2**20:.2f} | {images / took['seconds']:.0f} | {100 * efficiency:.0f} % |"
    )


def extrapolated(box, images, batch, cores, bandwidth):
    """Return lines of a table: milliseconds by number of nodes, one rank each.

    Costs per sample, pixel and voxel are those of `fastcryo.forecast`, CPU time of one core; a sum
    over P ranks moves 2 (P - 1) / P times the array through every node's link.
    """
    operator = fc.SliceOperator(fc.FourierGrid(box))
    voxels, samples = int(np.prod(operator.grid.shape)), operator.samples
    stencil = memory(operator.grid)
    lines = []
    for nodes in NODES:
        moved = 2 * (nodes - 1) / nodes / bandwidth
        share = 1e-9 / (nodes * cores)
        step = forecast.PASS_SAMPLE * samples * batch * share
        update = forecast.ITERATE_VOXEL * voxels * 1e-9 / cores
        reading = forecast.READ_PIXEL * box**2 * images * share
        assembling = forecast.ASSEMBLE_SAMPLE * samples * images * share
        times = step, 8 * voxels * moved, update, reading, assembling, 2 * stencil * moved
        lines.append(f"| {nodes} | " + " | ".join(f"{1e3 * t:.3g}" for t in times) + " |")
    return lines


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], metavar="P")
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=400)
    parser.add_argument("--nodes", action="store_true", help="extrapolate to 64 nodes instead")
    parser.add_argument("--cores", type=int, default=32, help="of a node")
    parser.add_argument("--bandwidth", type=float, default=12.5, help="of a node's link, GB/s")
    parser.add_argument("--quick", action="store_true", help="toy sizes: does it run")
    parser.add_argument("--rank", type=int, nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rank:
        measure(*chosen.rank)
        return
    if chosen.nodes:
        print(f"N = {chosen.box}, {chosen.images} images, batches of {chosen.batch}, ms\n")
        print("| nodes | step, own | its sum | update | reading, own | H, own | its sum |")
        print("|---|---|---|---|---|---|---|")
        link = 1e9 * chosen.bandwidth
        print(*extrapolated(chosen.box, chosen.images, chosen.batch, chosen.cores, link), sep="\n")
        return
    sizes = [16, 60, 20] if chosen.quick else [chosen.box, chosen.images, chosen.batch]
    print(f"N = {sizes[0]}, {sizes[1]} images, batches of {sizes[2]}, one thread per rank\n")
    print("| | ranks | ms | of it summing, ms | MiB summed | images/s | efficiency |")
    print("|---|---|---|---|---|---|---|")
    found = [run(ranks, sizes) for ranks in chosen.ranks]
    for name, images in (("gradient", sizes[2]), ("assembling", sizes[1])):
        for entry in found:
            print(row(entry, found[0], name, images))


if __name__ == "__main__":
    main()
