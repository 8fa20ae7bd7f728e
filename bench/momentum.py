"""Measure heavy-ball and Nesterov momentum beside SGD and SVRG: why `fastcryo.sgd` has neither.

``python bench/momentum.py [--quick]`` prints the table of docs/defaults.md: loss above the
minimiser's after 10 epochs, relative to what the minimiser gains over V = 0, as in
``bench/defaults.py``, on two of its sets.
"""

import argparse

import defaults
import numpy as np

import fastcryo as fc
from fastcryo.preconditioner import thresholded_inverse
from fastcryo.variance_reduction import ControlVariate, batch_spread

EPOCHS = 10
SETS = ("uniform, SNR 0.02", "preferred, SNR 0.5")
MOMENTA = {
    "none": ("nesterov", 0.0),
    "heavy ball 0.5": ("heavy ball", 0.5),
    "heavy ball 0.9": ("heavy ball", 0.9),
    "Nesterov 0.5": ("nesterov", 0.5),
    "Nesterov 0.7": ("nesterov", 0.7),
    "Nesterov 0.9": ("nesterov", 0.9),
}
METHODS = {
    "SVRG, step 1": {"corrected": True, "decay": 0.0, "average": False},
    "SGD, decay from 1, averaged": {"corrected": False, "decay": 0.1, "average": True},
}


def descend(problem, operator, batch_size, momentum, corrected, decay, average):
    """Run steps along minibatches with momentum from V = 0 and return the volume."""
    kind, beta = momentum
    count = -(-len(problem) // batch_size)
    rng, real = np.random.default_rng(0), problem.operator.real_dtype.type
    spread = batch_spread(problem, len(problem) // count)
    inverse = thresholded_inverse(problem.gridding_weight(), 0.0, spread)
    volume = problem.grid.zeros(problem.operator.dtype)
    variate = ControlVariate.start(problem, operator, volume)
    objective = variate if corrected else problem
    former, mean, averaged, iteration = volume, 0 * volume, 0, 0
    for epoch in range(EPOCHS):
        for batch in np.array_split(rng.permutation(len(problem)), count):
            ahead = volume + real(beta) * (volume - former)
            place = ahead if kind == "nesterov" else volume
            gradient = objective.loss_and_gradient(place, batch)[1]
            former, volume = volume, ahead - real(1 / (1 + decay * iteration)) * inverse * gradient
            iteration += 1
            if 2 * epoch >= EPOCHS:
                averaged += 1
                mean += (volume - mean) / real(averaged)
        if corrected and not np.isfinite(variate.refresh(volume)):
            break
    return mean if average else volume


def main():
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a toy size")
    quick = parser.parse_args().quick
    cells = {(m, k, b): [] for m in METHODS for k in MOMENTA for b in ("all", "n/10", "n/80")}
    for name, problem, _ in defaults.make_sets(quick):
        if name not in SETS:
            continue
        operator = problem.normal_operator()
        exact = fc.conjugate_gradient(problem, tolerance=1e-6, operator=operator)
        for (method, momentum, batch), row in cells.items():
            share = {"all": 1, "n/10": 10, "n/80": 80}[batch]
            size = len(problem) // share
            with np.errstate(over="ignore", invalid="ignore"):
                found = descend(problem, operator, size, MOMENTA[momentum], **METHODS[method])
                excess = defaults.relative_excess(operator, found, exact.volume)
            row.append(f"{excess:.1e}" if excess < 1 else "diverges")
    print("| method | momentum | batch | " + " | ".join(SETS) + " |")
    print("|---|---|---|" + "---|" * len(SETS))
    for (method, momentum, batch), row in cells.items():
        print(f"| {method} | {momentum} | {batch} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
