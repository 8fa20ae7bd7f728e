"""Measure step rules on simulated sets: the table of docs/defaults.md.

``python bench/defaults.py [--quick]`` prints it as Markdown: loss above the minimiser's (conjugate
gradients) after 10 epochs, relative to what the minimiser gains over V = 0, and the mean FSC with
the truth. The objective has the Wiener prior of `fastcryo reconstruct`; noise is given as 1, as
Algorithm 1 presumes.
"""

import argparse

import numpy as np

import fastcryo as fc
from fastcryo.prior import regularizations
from fastcryo.reporting import silent
from fastcryo.settings import Settings

RULES = {
    "plain, armijo 0.99": {"preconditioner": None, "step": "armijo"},
    "exact, armijo 0.99": {"preconditioner": "exact", "step": "armijo"},
    "Algorithm 1 as published": {"preconditioner": "hutchinson", "step": "armijo"},
    "Algorithm 1, armijo 0.9": {"preconditioner": "hutchinson", "step": "armijo", "armijo": 0.9},
    "exact, armijo 0.9": {"preconditioner": "exact", "step": "armijo", "armijo": 0.9},
    "exact, exact step": {"preconditioner": "exact", "step": "exact"},
    "gridding, step 1": {"preconditioner": "gridding", "step": 1.0},
    "gridding, step 1, averaged": {"preconditioner": "gridding", "step": 1.0, "average": True},
    "exact, decay from 0.5, averaged": {
        "preconditioner": "exact",
        "step": "decay",
        "initial_step": 0.5,
        "average": True,
    },
    "gridding, decay from 1": {"preconditioner": "gridding", "step": "decay"},
    "gridding, decay from 1.5": {
        "preconditioner": "gridding",
        "step": "decay",
        "initial_step": 1.5,
    },
    "gridding, decay from 1.5, averaged": {
        "preconditioner": "gridding",
        "step": "decay",
        "initial_step": 1.5,
        "average": True,
    },
    "Algorithm 1, SVRG": {
        "preconditioner": "hutchinson",
        "step": "armijo",
        "variance_reduction": "svrg",
    },
    "exact, SVRG, step 0.5": {
        "preconditioner": "exact",
        "step": 0.5,
        "variance_reduction": "svrg",
    },
    "gridding, SVRG, step 1.5": {
        "preconditioner": "gridding",
        "step": 1.5,
        "variance_reduction": "svrg",
    },
    "gridding, SVRG, step 1 (default)": {
        "preconditioner": "gridding",
        "step": 1.0,
        "variance_reduction": "svrg",
    },
}


def make_sets(quick):
    """Yield name, problem and truth (half grid) of every set."""
    box, count = (24, 200) if quick else (64, 4000)
    for orientations in ("uniform", "preferred"):
        for snr in (0.02, 0.5):
            made = fc.simulate_arrays(
                box=box, count=count, snr=snr, orientations=orientations, seed=1
            )
            problem = fc.KnownPoseProblem.from_arrays(
                made.images,
                made.rotations,
                made.pixel_size,
                ctf=made.ctf,
                shifts=made.shifts,
                noise_std=1.0,
                regularization=0.0,
            )
            halves = [problem.select(np.flatnonzero(made.half == h)) for h in (1, 2)]
            prior = regularizations(problem, halves, Settings(), silent)
            damped = problem.with_regularization(prior["full"])
            yield f"{orientations}, SNR {snr}", damped, made.truth


def relative_excess(operator, volume, minimiser):
    """Return f above its minimum, relative to f(0) above its minimum.

    f is quadratic, so both are half the squared length of an error in the norm of H: they are free
    of the rounding of f itself, which is larger than the excess of the best rules.
    """
    inner = operator.grid.inner
    error = volume - minimiser
    return inner(error, operator.matvec(error)) / inner(minimiser, operator.matvec(minimiser))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a toy size")
    quick = parser.parse_args().quick
    names, cells = [], {(rule, b): [] for rule in RULES for b in ("tenth", "small")}
    floors = []
    for name, problem, truth in make_sets(quick):
        names.append(name)
        operator = problem.normal_operator()
        exact = fc.conjugate_gradient(problem, tolerance=1e-6, operator=operator)
        quality = fc.fsc(problem.to_map(exact.volume), truth)[1:-1].mean()
        floors.append(f"FSC {quality:.3f}, {len(exact.residual)} products")
        for (rule, batch), row in cells.items():
            size = len(problem) // 10 if batch == "tenth" else len(problem) // 80
            options = dict(RULES[rule])
            if "variance_reduction" in options:
                options["operator"] = operator
            try:
                result = fc.sgd(problem, batch_size=size, **options)
            except fc.InputError:
                row.append("diverges")
                continue
            excess = relative_excess(operator, result.volume, exact.volume)
            quality = fc.fsc(problem.to_map(result.volume), truth)[1:-1].mean()
            row.append(f"{excess:.2g} ({quality:.3f})")
    print("| rule | batch | " + " | ".join(names) + " |")
    print("|---|---|" + "---|" * len(names))
    print("| conjugate gradients | all | " + " | ".join(floors) + " |")
    for (rule, batch), row in cells.items():
        print(f"| {rule} | {'n/10' if batch == 'tenth' else 'n/80'} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
