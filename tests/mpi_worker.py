"""All that ranks compute together, for `test_mpi.py`: run under mpiexec, and in one process."""

import dataclasses
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np

import fastcryo as fc
from fastcryo import image_fit, noise
from fastcryo.communicator import launched
from fastcryo.noise import estimate_noise_std
from fastcryo.radial import condition_number_by_radius
from fastcryo.reconstruct import prepare
from fastcryo.reporting import silent
from fastcryo.settings import Settings
from fastcryo.variance_reduction import batch_spread


def of_mixed_groups(communicator, particles, folder):
    """Return noise by group, and what is fitted to the images, of two optics groups.

    The images of the second are taken as multiplied by their CTF.
    """
    first = particles.optics[0]
    second = dataclasses.replace(first, name="other", corrected="premultiplied")
    group = np.arange(len(particles)) % 5 // 3
    mixed = dataclasses.replace(particles, optics=(first, second), optics_group=group)
    with patch.object(noise, "FEWEST_IMAGES", 30), patch.object(image_fit, "FEWEST_IMAGES", 30):
        sigma, groups = noise.estimate_noise_by_group(mixed, 11, communicator=communicator)
        problem = fc.KnownPoseProblem.from_particles(
            mixed,
            noise_std=sigma,
            noise_group=groups,
            regularization=1.0,
            communicator=communicator,
        )
        settings = Settings(noise="residuals", scale="fitted", backend="cpu")
        fitted = prepare(
            mixed, mixed.half_sets(0), settings, silent, None, False, Path(folder), communicator
        )
    return {
        "noise by group": sigma,
        "b of groups": problem.right_hand_side(),
        "J of groups": problem.hessian_diagonal(),
        "residual noise": fitted.noise,
        "scales": fitted.particles.scale,
        "b of fitted": fitted.problem.right_hand_side(),
    }


def computed(communicator, star, folder):
    """Return arrays by name: every sum over images, and every solver."""
    particles = fc.read_particles(star)
    sigma = estimate_noise_std(particles, 11, communicator=communicator)
    found = {"noise": sigma}

    def problem_of(**options):
        return fc.KnownPoseProblem.from_particles(
            particles, noise_std=sigma, regularization=1.0, communicator=communicator, **options
        )

    problem = problem_of()
    rng = np.random.default_rng(5)
    volume, direction = (
        problem.grid.fold(np.fft.fftn(rng.standard_normal((24,) * 3))).astype(np.complex64)
        for _ in range(2)
    )
    every, some = rng.permutation(len(particles)), rng.permutation(len(particles))[:41]
    # All of the last batch are on one rank.
    for name, batch in {"all": None, "some": some, "few": np.arange(3)}.items():
        loss, gradient = problem.loss_and_gradient(volume, batch)
        both = problem.loss_gradient_and_product(volume, direction.real, batch)
        numbers = [loss, problem.loss(volume, batch), both[0]]
        numbers += problem.loss_and_curvature(volume, direction, batch)
        numbers.append(problem.curvature(direction, batch))
        found[f"{name}: numbers"] = np.array(numbers)
        found[f"{name}: gradient"] = gradient
        found[f"{name}: with product"] = np.stack(both[1:])
        found[f"{name}: product"] = problem.hvp(direction, batch)
        found[f"{name}: J"] = problem.hessian_diagonal(batch)
        found[f"{name}: rho"] = problem.gridding_weight(batch)
    subset = problem.select(every[:50])
    found["subset: J of some"] = subset.hessian_diagonal(np.arange(20))
    found["Hutchinson"] = fc.hutchinson_diagonal(problem, 2, rng=1)
    found["spread"] = batch_spread(subset, 10)
    operator = problem.normal_operator()
    found["assembled"] = operator.matvec(direction)
    found["condition by radius"] = condition_number_by_radius(problem).with_ctf

    found |= of_mixed_groups(communicator, particles, folder)

    found["CG"] = fc.conjugate_gradient(subset, max_iterations=6).volume
    found["L-BFGS"] = fc.lbfgs(problem, max_iterations=6, operator=operator).volume
    found["Wiener"] = fc.wiener(problem)
    found["Algorithm 1"] = fc.sgd(problem, 2, 30, armijo=0.5).volume
    svrg = dict(preconditioner="gridding", step=1.0, threshold=None, variance_reduction="svrg")
    found["SVRG"] = fc.sgd(problem, 2, 30, operator=operator, **svrg).volume
    found["SVRG of half"] = fc.sgd(subset, 2, 10, **svrg).volume

    symmetric = problem_of(symmetry="C2")
    found["C2"] = symmetric.hvp(direction, some)
    found["C2: loss"] = np.array([symmetric.loss(volume, some)])
    for window in ("nearest", "kaiser_bessel"):
        other = problem_of(interpolation=window)
        found[f"{window}: gradient"] = other.loss_and_gradient(volume, np.arange(3))[1]
        found[f"{window}: assembled"] = other.normal_operator().matvec(direction)
    for kind in ("float32", "int16"):
        stored = problem_of(store=Path(folder) / kind, storage=kind)
        found[f"{kind}: numbers"] = np.array([stored.loss(volume), stored.loss(volume, some)])
        found[f"{kind}: gradient"] = stored.loss_and_gradient(volume, some)[1]
    return found


def main():
    """Save what this rank has found."""
    star, folder = sys.argv[1:]
    ranks = launched()
    np.savez(Path(folder) / f"rank{ranks.rank}.npz", **computed(ranks, star, folder))


if __name__ == "__main__":
    main()
