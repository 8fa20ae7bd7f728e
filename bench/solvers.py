"""Solvers side by side: what they cost and where they end, exact diagonals, condition numbers.

    python bench/solvers.py [solvers|diagonal|kappa|all] [--quick] [--out bench/results]

* solvers: conjugate gradients and L-BFGS, matrix-free and assembled, beside 10 epochs of every
  variant of SGD: iterations, seconds, loss above the minimiser's relative to what that gains.
* diagonal: diag H in one pass beside the 1000 epochs of Hutchinson products that it replaces, and
  an assembled product beside one through all images; the poses and CTFs of EMPIAR-10076 where
  ``../shared/data`` has them, else simulated ones.
* kappa: the condition number of H as it is and scaled, for even and clustered views.

Writes ``solvers.json`` (a part of it is replaced when that part is run) and ``solvers.md``, the
tables of docs/solvers.md. Everything is measured in one process; every time is the least of the
repeats, and the repeats of the methods take turns.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import defaults
import numba
import numpy as np
import scipy
import solver_tables

import fastcryo as fc
from fastcryo import conditioning
from fastcryo.experiment import Experiment
from fastcryo.prior import regularizations
from fastcryo.reporting import silent
from fastcryo.rotations import random_rotations
from fastcryo.settings import Settings
from fastcryo.threads import thread_count

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "empiar10076" / "poses_ctf.npz"
HUTCHINSON_EPOCHS = 1000
SGD = {
    "plain SGD": {"preconditioner": None},
    "precomputed": {"preconditioner": "exact"},
    "estimated (Algorithm 1)": {"preconditioner": "hutchinson"},
    "estimated, no threshold": {"preconditioner": "hutchinson", "threshold": None},
    "gridding, decay from 1.5, averaged": {
        "preconditioner": "gridding",
        "step": "decay",
        "initial_step": 1.5,
        "average": True,
    },
    "SVRG (default)": {"preconditioner": "gridding", "step": 1.0, "variance_reduction": "svrg"},
}


def timed(function):
    """Return a function's result and its seconds."""
    began = time.perf_counter()
    found = function()
    return found, time.perf_counter() - began


def costs(problem, operator, volume):
    """Return the seconds of assembling H, of its product and of a gradient; least of three."""
    jobs = {
        "assembling": problem.normal_operator,
        "product": lambda: operator.matvec(volume),
        "gradient": lambda: problem.loss_and_gradient(volume),
    }
    return {name: min(timed(job)[1] for _ in range(3)) for name, job in jobs.items()}


def methods(problem, operator, epochs):
    """Return functions by name that give (volume, steps, what a step is)."""

    def direct(solver, name, through):
        def run():
            found = solver(problem, name, tolerance=1e-6, max_iterations=1000, operator=through)
            return found.volume, len(found.residual) - 1, "iterations"

        return run

    def descent(options, through, share):
        def run():
            size = max(len(problem) // share, 1)
            extra = {"operator": through} if "variance_reduction" in options else {}
            found = fc.sgd(problem, epochs, size, **options, **extra)
            return found.volume, epochs, f"epochs of {share}"

        return run

    table = {}
    for solver, title in ((fc.conjugate_gradient, "CG"), (fc.lbfgs, "L-BFGS")):
        for name, sign in (("exact", "J"), ("gridding", "rho")):
            table[f"{title}, {sign}, assembled"] = direct(solver, name, operator)
            if title == "CG" or name == "exact":
                table[f"{title}, {sign}, matrix-free"] = direct(solver, name, None)
    for title, options in SGD.items():
        through = operator if "variance_reduction" in options else None
        table[f"{title}, n/10"] = descent(options, through, 10)
    table["SVRG (default), matrix-free, n/10"] = descent(SGD["SVRG (default)"], None, 10)
    table["estimated (Algorithm 1), n/80"] = descent(SGD["estimated (Algorithm 1)"], None, 80)
    table["SVRG (default), n/80"] = descent(SGD["SVRG (default)"], operator, 80)
    return table


def measure_solvers(boxes, count, repeats):
    """Run every method on simulated sets; with the paper's lambda and with the Wiener prior."""
    found = []
    for box in boxes:
        made = fc.simulate_arrays(box=box, count=count, snr=0.1, seed=1)
        problem = fc.KnownPoseProblem.from_arrays(
            made.images, made.rotations, made.pixel_size, made.ctf, made.shifts, regularization=0.0
        )
        halves = [problem.select(np.flatnonzero(made.half == h)) for h in (1, 2)]
        del made
        prior = regularizations(problem, halves, Settings(), silent)["full"]
        for objective, lam in (("lambda = 1e-8", 1e-8), ("Wiener prior", prior)):
            damped = problem.with_regularization(lam)
            damped.loss_and_gradient(damped.grid.zeros(np.complex64))
            operator = damped.normal_operator()
            minimiser = fc.conjugate_gradient(
                damped, tolerance=2e-7, max_iterations=1000, operator=operator
            ).volume
            rows = {}
            for _ in range(repeats):
                for name, run in methods(damped, operator, 10).items():
                    (volume, steps, unit), seconds = timed(run)
                    excess = defaults.relative_excess(operator, volume, minimiser)
                    best = min(seconds, rows.get(name, {}).get("seconds", np.inf))
                    rows[name] = {
                        "steps": steps, "unit": unit, "seconds": best, "excess": excess
                    }  # fmt: skip
            found.append(
                {
                    "box": box,
                    "images": count,
                    "objective": objective,
                    "seconds": costs(damped, operator, minimiser),
                    "rows": rows,
                }
            )
            print(solver_tables.solvers([found[-1]]), flush=True)
    return found


def metadata(box, count):
    """Return a problem without images, and where its poses come from."""
    if REAL.exists():
        with np.load(REAL) as stored:
            chosen = stored["kept"][:count]
            length = float(stored["box"] * stored["pixel_size"])
            ctf = fc.CTF(
                *(stored[f"defocus_{x}"][chosen] for x in ("u", "v", "angle")),
                voltage=float(stored["voltage"]),
                spherical_aberration=float(stored["spherical_aberration"]),
                amplitude_contrast=float(stored["amplitude_contrast"]),
            )
            rotations, source = stored["rotations"][chosen].astype(float), "EMPIAR-10076"
    else:
        experiment = Experiment(box=box, pixel_size=2.0, count=count)
        rng = np.random.default_rng(0)
        rotations, ctf, length = random_rotations(count, rng), experiment.draw_ctf(rng), 2.0 * box
        source = "simulated, even views"
    problem = fc.KnownPoseProblem.from_arrays(None, rotations, length / box, ctf, N=box)
    return problem, source


def measure_diagonal(box, count, repeats):
    """Time both diagonals, a product through all images, and one with the assembled operator."""
    problem, source = metadata(box, count)
    rng = np.random.default_rng(0)
    Z = problem.grid.from_real(rng.standard_normal((box,) * 3, dtype=np.float32))
    few = np.arange(min(100, count))
    problem.hessian_diagonal(few)
    problem.gridding_weight(few)
    problem.hvp(Z, few)
    operator, assembling = timed(problem.normal_operator)
    operator.matvec(Z)
    jobs = {
        "diagonal": problem.hessian_diagonal,
        "product through the images": lambda: problem.hvp(Z),
        "assembled product": lambda: operator.matvec(Z),
    }
    seconds = dict.fromkeys(jobs, np.inf)
    for _ in range(repeats):
        for name, job in jobs.items():
            again = 5 if name == "assembled product" else 1
            seconds[name] = min([seconds[name], *(timed(job)[1] for _ in range(again))])
    product = problem.hvp(Z)
    off = problem.grid.norm(operator.matvec(Z) - product) / problem.grid.norm(product)
    return {
        "box": box,
        "images": len(problem),
        "views": source,
        "seconds": seconds | {"assembling": assembling},
        "bytes": operator.stencil.nbytes,
        "difference": off,
        "diagonal_ratio": HUTCHINSON_EPOCHS * seconds["product through the images"]
        / seconds["diagonal"],
        "product_ratio": seconds["product through the images"] / seconds["assembled product"],
    }  # fmt: skip


def views(count):
    """Return rotations by name: even, nine tenths about one axis, and all about one axis."""
    rng = np.random.default_rng(0)
    even = random_rotations(count, rng)
    about = Experiment(count=count, orientations="preferred", concentration=5.0).draw_rotations(rng)
    mixed = np.where((np.arange(count) % 10 == 0)[:, None, None], even, about)
    return {
        "even": even,
        "9 of 10 within some 30 degrees of one axis": mixed,
        "all within some 30 degrees of one axis": about,
    }


def measure_kappa(radii, count):
    """Return condition numbers without CTF by views, radius and preconditioner, with errors."""
    found = []
    box = 2 * radii[-1] + 2
    for name, rotations in views(count).items():
        problem = fc.KnownPoseProblem.from_arrays(None, rotations, 2.0, N=box)
        operator = problem.normal_operator()
        for scaling in (None, "exact", "gridding"):
            for entry in conditioning.kappa_by_resolution(
                problem, scaling, radii, operator=operator
            ):
                ends = entry.eigenvalues
                low, high = ends.condition_range
                found.append(
                    {
                        "views": name, "images": count, "scaling": scaling, "radius": entry.radius,
                        "kappa": ends.condition_number, "low": low, "converged": ends.converged,
                        "high": high if np.isfinite(high) else None,
                    }
                )  # fmt: skip
    return found


def machine():
    """Say what everything ran on."""
    model = platform.processor() or platform.machine()
    report = Path("/proc/cpuinfo")
    if report.exists():
        names = [x.split(":")[1] for x in report.read_text().splitlines() if "model name" in x]
        model = names[0].strip() if names else model
    modules = {"fastcryo": fc, "numpy": np, "numba": numba, "scipy": scipy}
    versions = {name: module.__version__ for name, module in modules.items()}
    return {"processor": model, "cores": os.cpu_count(), "threads": thread_count()} | versions


def main(arguments=None):
    """Measure what is asked for and write the tables."""
    parser = argparse.ArgumentParser(description="Measure the solvers; see the top of this file.")
    parser.add_argument("part", nargs="?", default="all", choices=(*PARTS, "all"))
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "solvers.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    for name in PARTS if chosen.part == "all" else [chosen.part]:
        found = PARTS[name](chosen)
        if name == "solvers":
            fresh = {entry["box"] for entry in found}
            found += [e for e in record.get(name, []) if e["box"] not in fresh]
            found.sort(key=lambda entry: entry["box"])
        record |= {name: found, "machine": machine()}
        path.write_text(json.dumps(record, indent=1) + "\n")
        (chosen.out / "solvers.md").write_text(solver_tables.tables(record))
    print(solver_tables.tables(record))


PARTS = {
    "solvers": lambda chosen: (
        measure_solvers([20], 400, 1)
        if chosen.quick
        else measure_solvers(chosen.boxes, 4000, chosen.repeats)
    ),
    "diagonal": lambda chosen: (
        measure_diagonal(32, 300, 1)
        if chosen.quick
        else measure_diagonal(192, 30000, chosen.repeats)
    ),
    "kappa": lambda chosen: (
        measure_kappa([4, 8], 600) if chosen.quick else measure_kappa([8, 16, 24, 32], 10000)
    ),
}

if __name__ == "__main__":
    main()
