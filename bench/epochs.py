"""Whole epochs and reconstructions beside published ones: ``python bench/epochs.py``.

One epoch of Algorithm 1 and `fastcryo reconstruct` on simulated images, each in a process of its
own whose peak memory is noted. Writes a JSON record for bench/RESULTS.md. ``--quick`` takes a toy
size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from measure import machine, records, timing
from measure.memory import peak_megabytes

import fastcryo as fc
from fastcryo.rotations import random_rotations

SOURCE = (
    "measured on 2 cores of an AMD EPYC (Zen 3, 24 GiB), 22 November 2026, 4000 images at N = 64; "
    "median of the runs undisturbed by other processes, after a first run that compiles"
)
# Not measured again: these programs need environments, or checkouts, of their own.
QUOTED_EPOCH = {
    "program": "simplecryoem f29db1d, the paper's own code, JAX",
    "seconds": 44,
    "peak_mb": 2600,
}
QUOTED_RECONSTRUCTIONS = (
    {"program": "recovar 1.0.5, half-set mean with noise estimate", "seconds": 10},
    {"program": "cryoDRGN 4.3.1, backproject_voxel without half-maps", "seconds": 21},
    {"program": "cryoDRGN 4.3.1, backproject_voxel with half-maps", "seconds": 25},
    {"program": "ASPIRE 0.14.3, mean estimator, 50 CG iterations", "seconds": 34},
)
# The published run on a data-centre GPU: 235 s for 10 epochs of 30000 images at N = 192.
PUBLISHED_GPU = {"images": 30000, "box": 192, "seconds": 23.5}


@dataclass(frozen=True)
class Size:
    """How large the sets are."""

    box: int
    images: int
    batch: int
    large_box: int
    large_images: int
    rounds: int


FULL = Size(box=64, images=4000, batch=1000, large_box=192, large_images=3000, rounds=7)
QUICK = Size(box=32, images=200, batch=50, large_box=36, large_images=60, rounds=1)


def epoch(folder: Path, size: Size) -> dict:
    """Time epochs of Algorithm 1 with its published settings; the first one does not count."""
    imported = peak_megabytes()
    particles = fc.read_particles(folder / "set" / "particles.star")
    began = time.perf_counter()
    problem = fc.KnownPoseProblem.from_particles(particles, regularization=1e-8)
    preparation = time.perf_counter() - began
    times, losses = time_epochs(problem, size)
    return {
        "box": size.box,
        "images": size.images,
        "batch": size.batch,
        "seconds": median(times),
        "fastest": min(times),
        "rounds": len(times),
        "preparation_seconds": preparation,
        "peak_mb": peak_megabytes(),
        "peak_mb_after_import": imported,
        "loss": losses,
    }


def large_epoch(folder: Path, size: Size) -> dict:
    """Time an epoch of a part of the published run's images, all of noise."""
    rng = np.random.default_rng(0)
    count, box = size.large_images, size.large_box
    pixels = rng.standard_normal((count, box, box), dtype=np.float32)
    ctf = fc.CTF(rng.uniform(1e4, 2.5e4, count), 1.5e4, 30.0)
    rotations = random_rotations(count, rng)
    problem = fc.KnownPoseProblem.from_arrays(pixels, rotations, 1.5, ctf=ctf)
    del pixels
    times, _ = time_epochs(problem, size)
    return {"box": box, "images": count, "batch": size.batch, "seconds": median(times)}


def time_epochs(problem: fc.KnownPoseProblem, size: Size) -> tuple[list[float], list[float]]:
    """Return the seconds of epochs, probe, gradient, line search and final loss included."""
    losses: list[float] = []

    def one_epoch() -> None:
        losses[:] = fc.sgd(problem, epochs=1, batch_size=size.batch).history.epoch_loss

    one_epoch()
    return [timing.seconds_of(one_epoch) for _ in range(size.rounds)], losses


def reconstruction(folder: Path, size: Size) -> dict:
    """Time `reconstruct`, everything included; the first run does not count."""
    from fastcryo.reconstruct import reconstruct

    particles = fc.read_particles(folder / "set" / "particles.star")
    seconds = []
    for _ in range(2 if size.rounds == 1 else 4):
        out = folder / "reconstructed"
        began = time.perf_counter()
        found = reconstruct(particles, out, overwrite=True)
        seconds.append(time.perf_counter() - began)
    return {
        "box": size.box,
        "images": size.images,
        "seconds": median(seconds[1:]),
        "first_seconds": seconds[0],
        "peak_mb": peak_megabytes(),
        "resolution": found.resolution,
        "nyquist": 2 * found.pixel_size,
    }


JOBS = {"epoch": epoch, "large_epoch": large_epoch, "reconstruction": reconstruction}


def run_job(name: str, folder: Path, quick: bool) -> dict:
    """Run a job in a process of its own."""
    command = [sys.executable, __file__, "--job", name, "--folder", str(folder)]
    command += ["--quick"] if quick else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def command_seconds(folder: Path) -> float:
    """Return the seconds of `fastcryo reconstruct` as a user types it, the median of three runs."""
    star = str(folder / "set" / "particles.star")
    command = [sys.executable, "-m", "fastcryo", "reconstruct", star]
    command += ["--out", str(folder / "by-command"), "--overwrite"]

    def run() -> None:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    return median(timing.seconds_of(run) for _ in range(3))


def measure(quick: bool, tell: Callable[[str], None]) -> dict:
    """Return the record."""
    size = QUICK if quick else FULL
    record = {"machine": machine.describe(), "quick": quick}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tell(f"simulating {size.images} images, N = {size.box}")
        fc.simulate(folder / "set", box=size.box, pixel_size=3.0, count=size.images, snr=0.1)
        if not quick:
            tell("compiling what is not in the cache yet: it would count as memory")
            run_job("epoch", folder, quick)
        for job in JOBS:
            tell(job.replace("_", " "))
            record[job] = run_job(job, folder, quick)
        tell("fastcryo reconstruct, as a command")
        record["reconstruction"]["command_seconds"] = command_seconds(folder)
    quoted = {"source": SOURCE, "epoch": QUOTED_EPOCH, "published_gpu": PUBLISHED_GPU}
    record["quoted"] = quoted | {"reconstructions": list(QUOTED_RECONSTRUCTIONS)}
    return record


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=records.part_file("epochs"))
    parser.add_argument("--job", choices=list(JOBS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.job:
        size = QUICK if chosen.quick else FULL
        print(json.dumps(JOBS[chosen.job](chosen.folder, size)))
        return 0
    records.save(chosen.out, measure(chosen.quick, lambda line: print(line, flush=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
