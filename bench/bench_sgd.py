"""One SGD iteration, minibatch of all images of the case, for every variant of the paper."""

import numpy as np
import pytest

import fastcryo as fc

VARIANTS = {
    "plain": {"preconditioner": None},
    "precomputed": {"preconditioner": "exact"},
    "estimated": {"preconditioner": "hutchinson"},
    "estimated, no threshold": {"preconditioner": "hutchinson", "threshold": None},
    "decay": {"preconditioner": "gridding", "step": "decay", "initial_step": 1.5},
    "default of reconstruct": {
        "preconditioner": "gridding",
        "step": 1.0,
        "variance_reduction": "svrg",
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def bench_iteration(measured, case, variant):
    problem = case.problem
    options = dict(VARIANTS[variant])
    if options["preconditioner"] in ("exact", "gridding"):
        name = options["preconditioner"]
        diagonal = problem.hessian_diagonal() if name == "exact" else problem.gridding_weight()
        options["preconditioner"] = np.array(diagonal)

    def iterate():
        return fc.sgd(problem, epochs=1, batch_size=len(problem), **options)

    measured(
        f"SGD iteration and loss, {variant}",
        iterate,
        box=problem.grid.box,
        images=len(problem),
        samples=case.total_samples,
    )
