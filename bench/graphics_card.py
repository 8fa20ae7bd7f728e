"""CUDA: ``python bench/graphics_card.py registers``, ``sums``, ``rates``, ``paper`` or ``card``.

docs/cuda.md says what is counted and how.

registers: what the assembler says of every kernel, without a card (needs the extra fastcryo[cuda]).
sums: atomic sums of every window and the sectors that they touch, counted from the places of
samples, without a card.
rates: slices, adjoints and gradients of the CPU, of CUDA and of torch-projectors on the same card,
with the shares of the card's bandwidth and of its rate of atomic sums.
paper: 10 epochs of Algorithm 1 on 30000 simulated images at N = 192 (published: 235 s).
card: the last two in one record, bench/results/card.json unless --out says otherwise.
``--quick`` takes a toy size, which the simulator manages too. Without a card the last three stop
with the reason.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
from measure import machine, ptx, records, sectors
from rich.console import Console
from rich.table import Table

import fastcryo as fc
from fastcryo.backends import why_not_cuda
from fastcryo.interpolation import INTERPOLATIONS
from fastcryo.kernels.cuda._jit import BLOCKS, SIMULATED, THREADS, cuda, kernel
from fastcryo.rotations import random_rotations

PUBLISHED_SECONDS = 235
# Bytes of a sample: weight and data are streamed; taps are read from and added to the volume.
STREAMED, TAPS = 4 + 8, 8
ROUNDS = 7


def registers(chosen: argparse.Namespace) -> dict:
    """Compile and assemble every kernel for every card."""
    assembler = ptx.find_ptxas()
    if importlib.util.find_spec("numba_cuda") is None or assembler is None:
        sys.exit("registers: numba-cuda and ptxas are needed, pip install 'fastcryo[cuda]'")
    rows = []
    for capability in ptx.CAPABILITIES[-1:] if chosen.quick else ptx.CAPABILITIES:
        for name, compiled, types in ptx.all_kernels():
            text = ptx.compile_to_ptx(compiled, types, capability)
            used = ptx.assemble(assembler, text, capability)
            share = ptx.resident_threads(used, capability, THREADS) / ptx.RESIDENT[capability]
            label = f"{capability[0]}.{capability[1]}"
            rows.append({"card": label, "kernel": name, **used, "occupancy": share})
    return {"rows": rows}


def sums(chosen: argparse.Namespace) -> dict:
    """Count what back-projections of every window ask of the memory."""
    grid = fc.FourierGrid(16 if chosen.quick else chosen.box)
    windows = {
        "nearest": {"interpolation": "nearest"},
        "trilinear": {},
        "padded": {"oversampling": 2.0},
        "kaiser_bessel": {"interpolation": "kaiser_bessel"},
    }
    rows = []
    for name, options in windows.items():
        found = sectors.count_sums(fc.SliceOperator(grid, **options), 1 if chosen.quick else 8)
        rows.append({"window": name, **found})
    return {"box": grid.box, "rows": rows}


def rates(chosen: argparse.Namespace) -> dict:
    """Time the three operations on CPU and card."""
    box, count = (16, 4) if chosen.quick else (chosen.box, chosen.images)
    rng = np.random.default_rng(0)
    rotations = random_rotations(count, rng)
    grid = fc.FourierGrid(box)
    volume = grid.from_real(rng.standard_normal((box,) * 3, dtype=np.float32))
    defocus = rng.uniform(8000, 20000, count)
    ctf = fc.CTF(
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle=np.zeros(count),
        voltage=300.0,
        spherical_aberration=2.7,
        amplitude_contrast=0.1,
    )
    images = rng.standard_normal((count, box, box), dtype=np.float32)
    rounds = 1 if chosen.quick else ROUNDS
    reached = card(chosen.quick)
    rows = []
    for backend in ("cpu", "cuda", "cuda-deterministic"):
        problem = fc.KnownPoseProblem.from_arrays(images, rotations, 1.0, ctf, backend=backend)
        operator = problem.operator
        there = operator.place(volume)
        signs = operator.place(np.sign(volume.real) + (volume.real == 0))
        samples = operator.forward(there, rotations)
        for name, run in {
            "forward": lambda o=operator, v=there: o.forward(v, rotations),
            "adjoint": lambda o=operator, s=samples: o.adjoint(s, rotations),
            "loss": lambda p=problem, v=there: p.loss(v),
            "gradient": lambda p=problem, v=there: p.loss_and_gradient(v),
            "gradient and product": lambda p=problem, v=there, z=signs: p.loss_gradient_and_product(
                v, z
            ),
        }.items():
            seconds = least(run, rounds)
            rows.append(row(backend, name, seconds, operator.samples * count, count, reached))
    rows += torch_rows(rotations, box, count, reached)
    return {"box": box, "images": count, "rows": rows, "card": reached}


def row(backend: str, name: str, seconds: float, samples: int, count: int, reached: dict) -> dict:
    """Return the rates of one operation; on the card, their shares of what it `reached`.

    Volumes and samples stay where the operation runs.
    """
    found = {"backend": backend, "operation": name, "seconds": seconds}
    found["images_per_second"] = count / seconds
    if not backend.startswith("cuda"):
        return found
    streamed = 8 if name in ("forward", "adjoint") else STREAMED
    volumes = {"forward": 0, "loss": 0, "gradient and product": 2}.get(name, 1)
    bytes_, sums = streamed * samples / seconds, 2 * TAPS * volumes * samples / seconds
    found["streamed_bytes_per_second"] = bytes_
    found["share_of_bandwidth"] = bytes_ / reached["copied_bytes_per_second"]
    if sums:
        found["atomic_sums_per_second"] = sums
        found["share_of_atomic_rate"] = sums / reached["atomic_sums_per_second"]
    return found


def least(run, rounds: int = ROUNDS) -> float:
    """Return the seconds of a function, and of all that it leaves the card to do.

    The shortest of some rounds, after one that compiles.
    """
    found = []
    for _ in range(rounds + 1):
        cuda.synchronize()
        began = time.perf_counter()
        run()
        cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found[1:])


@kernel
def add_scattered(target, places):
    """Add 1 at each place: the rate of atomic sums that a card reaches."""
    for i in range(cuda.grid(1), places.size, cuda.gridsize(1)):
        cuda.atomic.add(target, places[i], np.float32(1))


def card(quick: bool) -> dict:
    """Return what the card can do: bytes per second of a copy, atomic sums to scattered places."""
    size = 1 << (8 if quick else 26)
    # As many voxels as half a grid of N = 192 has, in runs of 16 neighbours as a row of taps.
    voxels = 1 << (6 if quick else 22)
    rng = np.random.default_rng(0)
    runs = rng.integers(0, voxels - 16, size // 16)[:, None] + np.arange(16)
    source, places = cuda.to_device(np.zeros(size, np.float32)), cuda.to_device(runs.ravel())
    copy, target = cuda.device_array_like(source), cuda.to_device(np.zeros(voxels, np.float32))

    def copies():
        copy.copy_to_device(source)

    def sums():
        add_scattered[BLOCKS, THREADS](target, places)

    rounds = 1 if quick else ROUNDS
    name = "simulator" if SIMULATED else cuda.get_current_device().name
    return {
        "name": name.decode() if isinstance(name, bytes) else name,
        "copied_bytes_per_second": 2 * source.nbytes / least(copies, rounds),
        "atomic_sums_per_second": size / least(sums, rounds),
    }


def torch_rows(rotations, box: int, count: int, reached: dict) -> list[dict]:
    """Time torch-projectors on the card, where it is installed."""
    try:
        import torch
        from torch_projectors import backproject_2d_to_3d_forw, project_3d_to_2d_forw
    except ImportError as error:
        print(f"torch-projectors is left out: {error}", file=sys.stderr)
        return []
    if not torch.cuda.is_available():
        print("torch-projectors is left out: torch sees no card", file=sys.stderr)
        return []
    turned = torch.from_numpy(rotations.transpose(0, 2, 1).copy()).float()[None].cuda()
    volume = torch.fft.rfftn(torch.randn((box,) * 3, device="cuda"))[None]
    cutoff = float((box - 1) // 2)

    def forward():
        found = project_3d_to_2d_forw(volume, turned, fourier_radius_cutoff=cutoff)
        torch.cuda.synchronize()
        return found

    images = forward()

    def adjoint():
        backproject_2d_to_3d_forw(images, turned, fourier_radius_cutoff=cutoff)
        torch.cuda.synchronize()

    runs = {"forward": forward, "adjoint": adjoint}
    name = "torch-projectors"
    return [row(name, kind, least(run), 0, count, reached) for kind, run in runs.items()]


def paper(chosen: argparse.Namespace) -> dict:
    """Run Algorithm 1 with its published settings and record every epoch."""
    box, count, batch, epochs = (16, 8, 4, 1) if chosen.quick else (192, 30000, 1000, 10)
    pixel_size = 8.0 if chosen.quick else 1.31 * 320 / 192
    simulated = fc.simulate_arrays(box=box, count=count, pixel_size=pixel_size, seed=0)
    problem = fc.KnownPoseProblem.from_arrays(
        simulated.images,
        simulated.rotations,
        simulated.pixel_size,
        simulated.ctf,
        simulated.shifts,
        regularization=1e-8,
        interpolation=chosen.interpolation,
        backend=chosen.backend,
    )
    if not chosen.quick:
        fc.sgd(problem.select(np.arange(2000)), epochs=1, batch_size=batch)  # compiles, sends
    began = time.perf_counter()
    history = fc.sgd(problem, epochs=epochs, batch_size=batch).history
    return {
        "box": box,
        "images": count,
        "epochs": epochs,
        "backend": chosen.backend,
        "interpolation": chosen.interpolation,
        "seconds": time.perf_counter() - began,
        "published_seconds": PUBLISHED_SECONDS,
        "epoch_seconds": history.epoch_seconds,
        "epoch_loss": history.epoch_loss,
        "card": card(chosen.quick)["name"],
    }


def everything(chosen: argparse.Namespace) -> dict:
    """Record what a card is good for."""
    if chosen.out is None and not chosen.quick:
        chosen.out = records.part_file("card")
    return {"paper": paper(chosen), **rates(chosen)}


PARTS = {
    "registers": registers,
    "sums": sums,
    "rates": rates,
    "paper": paper,
    "card": everything,
}


def main() -> None:
    """Run one part, print it and write its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--quick", action="store_true", help="a toy size, to see that it runs")
    parser.add_argument("--box", type=int, default=192)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument(
        "--interpolation", choices=INTERPOLATIONS, default="trilinear", help="of paper"
    )
    parser.add_argument("--backend", choices=("cuda", "cuda-deterministic"), default="cuda")
    parser.add_argument("--out", type=Path, help="record; none is written unless given")
    chosen = parser.parse_args()
    problem = None if chosen.part in ("registers", "sums") else why_not_cuda()
    if problem is not None:
        sys.exit(f"{chosen.part}: left out, {problem}")
    record = PARTS[chosen.part](chosen)
    for name, value in record.items():
        if name != "rows":
            print(f"{name}: {value}")
    if "rows" in record:
        columns = list(dict.fromkeys(key for line in record["rows"] for key in line))
        table = Table(*columns)
        for line in record["rows"]:
            values = (line.get(key, "") for key in columns)
            table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
        Console(width=160).print(table)
    if chosen.out:
        records.save(chosen.out, {"machine": machine.describe(), **record})


if __name__ == "__main__":
    main()
