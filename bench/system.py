"""Start-up, compilation, memory, threads and fixed cost of the kernels: ``python bench/system.py``.

Writes a JSON record for bench/RESULTS.md. ``--quick`` takes a toy size and compiles nothing anew.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from measure import cases, machine, merging, records, timing

from fastcryo.threads import thread_count, use_threads

# Timed from within, so that the start of the interpreter does not count.
FIRST_GRADIENT = """
import time
began = time.perf_counter()
import fastcryo as fc
imported = time.perf_counter()
import numpy as np
pixels = np.random.default_rng(0).standard_normal((100, 64, 64), dtype=np.float32)
angles = np.random.default_rng(1).uniform(0, 180, (3, 100))
views, ctf = fc.rotation_matrices(*angles), fc.CTF(1e4, 1e4)
problem = fc.KnownPoseProblem.from_arrays(pixels, views, 1.5, ctf=ctf)
problem.loss_and_gradient(problem.grid.zeros())
print(imported - began, time.perf_counter() - imported)
"""
# The lock is held while a kernel is compiled, or read from the cache.
COMPILATION = """
import sys, time
from numba.core import event
from fastcryo.cli import main
def tell(seconds):
    print("compiling", seconds)
with event.install_timer("numba:compiler_lock", tell):
    began = time.perf_counter()
    main(["demo", "--out", sys.argv[1]])
print("in all", time.perf_counter() - began)
"""
SAME_BITS_THREADS = (1, 2, 3, 4)
# Each holds a tile's buffers: memory is that of a workstation, whatever this machine is.
MEMORY_THREADS = 16


def run_python(arguments: list[str], **environment: str) -> str:
    """Run Python on some arguments; returns what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return done.stdout


def start_up(runs: int) -> dict:
    """Return seconds of the import, and from there to the end of the first gradient; cache warm."""
    run_python(["-c", FIRST_GRADIENT])
    pairs = [[float(n) for n in run_python(["-c", FIRST_GRADIENT]).split()] for _ in range(runs)]
    imports, gradients = zip(*pairs, strict=True)
    return {"import_seconds": median(imports), "first_gradient_seconds": median(gradients)}


def compilation() -> dict:
    """Return the seconds of `fastcryo demo` with an empty cache of kernels, and of compiling."""
    with tempfile.TemporaryDirectory() as folder:
        out, cache = Path(folder) / "demo", Path(folder) / "cache"
        told = run_python(["-c", COMPILATION, str(out)], NUMBA_CACHE_DIR=str(cache))
    compiling, whole = (float(line.split()[-1]) for line in told.splitlines()[-2:])
    return {"compilation_seconds": compiling, "demo_seconds": whole}


def gradient_memory(box: int, calls: int = 5) -> dict:
    """Return what a gradient allocates at its peak, in half volumes, beside V and the result.

    As `tracemalloc` sees it: all arrays of NumPy and of the kernels. Where there are more threads
    than processors some may be done before others begin, so it is the most of some calls.
    """
    case = cases.make_case(box, 256)
    out = np.empty_like(case.volume)
    case.problem.loss_and_gradient(case.volume, out=out)
    tracemalloc.start()
    for _ in range(calls):
        case.problem.loss_and_gradient(case.volume, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    half_volumes = peak / case.volume.nbytes
    return {"box": box, "threads": thread_count(), "bytes": peak, "half_volumes": half_volumes}


def thread_scaling(box: int, images: int, rounds: int) -> dict:
    """Return images/s of the gradient by number of threads, timed in turns."""
    case = cases.make_case(box, images)
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= thread_count()]

    def on(threads: int) -> Callable[[], object]:
        def gradient():
            with use_threads(threads):
                case.problem.loss_and_gradient(case.volume)

        return gradient

    times = timing.alternate({str(n): on(n) for n in counts}, rounds)
    return {
        "box": box,
        "images_per_second": {n: images / median(values) for n, values in times.items()},
        "speed_up": {n: timing.median_ratio(times["1"], values) for n, values in times.items()},
    }


def fixed_share(box: int, images: int, rounds: int) -> dict:
    """Return two parts of a gradient that do not grow with the number of images, on one thread.

    "share": all of it, the reading of V and the writing of the result included; what is left of
    the gradient of one image after the time per image, from that of all, is taken off. "merging":
    what of it is owed to tiles with buffers of their own, see `measure.merging`.
    """
    case = cases.make_case(box, images)
    gradient = case.problem.loss_and_gradient
    one, out = np.arange(1), np.empty_like(case.volume)
    with use_threads(1):
        times = timing.alternate(
            {
                "one": lambda: gradient(case.volume, one, out=out),
                "all": lambda: gradient(case.volume, case.batch, out=out),
                "merging": merging.zero_and_merge(case),
            },
            rounds,
        )
    least = {name: min(values) for name, values in times.items()}
    per_image = (least["all"] - least["one"]) / (images - 1)
    fixed = max(least["one"] - per_image, 0.0)
    record = {"box": box, "images": images, "seconds": least["all"]}
    shares = {"share": fixed / least["all"], "merging": least["merging"] / least["all"]}
    return record | shares


def digest(threads: int) -> str:
    """Return a hash of gradient, product, slices and adjoint, computed with some threads."""
    case = cases.make_case(48, 40)
    problem, operator = case.problem, case.problem.operator
    with use_threads(threads):
        loss, gradient = problem.loss_and_gradient(case.volume)
        results = [np.array(loss), gradient, problem.hvp(case.volume), problem.hessian_diagonal()]
        results += [operator.forward(case.volume, case.rotations)]
        results += [operator.adjoint(case.samples, case.rotations)]
    return hashlib.sha256(b"".join(np.ascontiguousarray(r).tobytes() for r in results)).hexdigest()


def same_bits() -> dict:
    """Return whether results have the same bits for several numbers of threads."""
    command = [__file__, "--digests"]
    most = str(max(SAME_BITS_THREADS))
    digests = json.loads(run_python(command, NUMBA_NUM_THREADS=most))
    return {"threads": list(SAME_BITS_THREADS), "same": len(set(digests)) == 1}


def measure(quick: bool, tell: Callable[[str], None]) -> dict:
    """Return the record."""
    boxes = (32,) if quick else (64, 128, 192, 256)
    rounds = 2 if quick else 9
    record = {"machine": machine.describe(), "quick": quick}
    tell("start-up")
    record["start_up"] = start_up(1 if quick else 5)
    tell("same bits for any number of threads")
    record["same_bits"] = same_bits()
    tell("memory of the gradient")
    command = [__file__, "--memory", str(boxes[-1])]
    record["memory"] = json.loads(run_python(command, NUMBA_NUM_THREADS=str(MEMORY_THREADS)))
    tell("threads")
    record["threads"] = thread_scaling(32 if quick else 128, 16 if quick else 256, rounds)
    record["fixed"] = []
    for box in boxes:
        tell(f"fixed cost, N = {box}")
        record["fixed"].append(fixed_share(box, 20 if quick else 200, rounds))
    if not quick:
        tell("compilation of all that the demonstration needs, about a minute")
        record["compilation"] = compilation()
    return record


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=records.part_file("system"))
    parser.add_argument("--digests", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.digests:
        print(json.dumps([digest(threads) for threads in SAME_BITS_THREADS]))
        return 0
    if chosen.memory:
        print(json.dumps(gradient_memory(chosen.memory)))
        return 0
    records.save(chosen.out, measure(chosen.quick, lambda line: print(line, flush=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
