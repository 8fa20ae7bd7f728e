"""The demonstration: simulate, reconstruct, compare with the truth and with the paper."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo import plots
from fastcryo.fsc import fsc, resolution_at
from fastcryo.io.atomic import replacing
from fastcryo.io.mrc import read_map
from fastcryo.particles import Particles, read_particles
from fastcryo.problem import KnownPoseProblem
from fastcryo.reconstruct import reconstruct
from fastcryo.reporting import Report, silent
from fastcryo.results import Reconstruction
from fastcryo.run_folder import map_name
from fastcryo.sgd import sgd
from fastcryo.simulate import simulate
from fastcryo.solvers import conjugate_gradient

BOX, PIXEL_SIZE, COUNT, SNR = 64, 3.0, 2000, 0.1
VARIANT_EPOCHS, VARIANT_BATCH = 10, 200
FLOOR_TOLERANCE, FLOOR_ITERATIONS = 1e-4, 60
# The four variants of the paper, with its settings (lambda = 1e-8, noise of variance 1), and the
# rule of `reconstruct` on the same objective.
VARIANTS = {
    "plain SGD": {"preconditioner": None},
    "precomputed": {"preconditioner": "exact"},
    "estimated (Algorithm 1)": {"preconditioner": "hutchinson"},
    "estimated, no threshold": {"preconditioner": "hutchinson", "threshold": None},
    "fastcryo's default": {
        "preconditioner": "gridding",
        "step": 1.0,
        "variance_reduction": "svrg",
    },
}


@dataclass(frozen=True, eq=False)
class Demo:
    """What the demonstration found.

    Attributes
    ----------
    reconstruction : Reconstruction
    truth_curve : ndarray
        FSC of the map of all particles with the truth.
    truth_resolution : float
        At FSC = 0.5, angstrom.
    losses : dict of list of float
        Loss by epoch of every variant.
    floor : float
        Loss of the minimiser, by conjugate gradients.
    picture : Path
    """

    reconstruction: Reconstruction
    truth_curve: NDArray
    truth_resolution: float
    losses: dict[str, list[float]]
    floor: float
    picture: Path

    def lines(self) -> list[str]:
        """Return what to print."""
        found = self.reconstruction
        lines = [
            f"resolution: {found.resolution:.2f} Å (half-map FSC 0.143), "
            f"{self.truth_resolution:.2f} Å against the truth (FSC 0.5), "
            f"Nyquist is {2 * found.pixel_size:.2f} Å",
            f"loss above the exact minimiser's ({self.floor:.6g}) after {VARIANT_EPOCHS} epochs:",
        ]
        lines += [
            f"  {name:<24} {loss[-1] - self.floor:10.4g}" for name, loss in self.losses.items()
        ]
        lines += [
            f"variants: {self.picture}",
            f"report: {found.folder / 'run_report.png'}",
        ]
        return lines


def demo(
    folder: str | os.PathLike,
    *,
    overwrite: bool = False,
    report: Report = silent,
    command: str = "",
) -> Demo:
    """Run the demonstration in a folder.

    Files: ``data/`` (the simulated set), the files of `fastcryo.reconstruct.reconstruct`,
    ``demo_variants.png`` and ``demo.json``.

    Parameters
    ----------
    folder : path
    overwrite : bool
        Replace an earlier demonstration.
    report : callable
        Called with (stage, done, total, detail).
    command : str
        Command line, for the record.
    """
    folder = Path(folder)
    simulate(
        folder / "data",
        box=BOX,
        pixel_size=PIXEL_SIZE,
        count=COUNT,
        snr=SNR,
        overwrite=overwrite,
        progress=lambda done, total: report("simulating images", done, total, ""),
    )
    particles = read_particles(folder / "data" / "particles.star")
    found = reconstruct(particles, folder, overwrite=overwrite, report=report, command=command)

    truth, _ = read_map(folder / "data" / "truth.mrc")
    full, _ = read_map(folder / map_name("full"))
    curve = fsc(full, truth)
    losses, floor = compare_variants(particles, report)
    picture = folder / "demo_variants.png"
    plots.save_variants(picture, losses, floor)
    result = Demo(
        reconstruction=found,
        truth_curve=curve,
        truth_resolution=resolution_at(curve, 0.5, found.pixel_size, BOX),
        losses=losses,
        floor=floor,
        picture=picture,
    )
    record = {
        "fsc_with_truth": np.asarray(curve).tolist(),
        "resolution": found.resolution,
        "resolution_with_truth": result.truth_resolution,
        "losses": losses,
        "minimum": floor,
    }
    with replacing(folder / "demo.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    return result


def compare_variants(
    particles: Particles, report: Report = silent
) -> tuple[dict[str, list[float]], float]:
    """Run the paper's variants on its objective; losses by epoch, and the minimiser's loss."""
    problem = KnownPoseProblem.from_particles(particles, regularization=1e-8)
    operator = problem.normal_operator()
    losses = {}
    for name, options in VARIANTS.items():
        result = sgd(
            problem,
            epochs=VARIANT_EPOCHS,
            batch_size=VARIANT_BATCH,
            callback=lambda p, name=name: report(
                name, p.epoch * p.iterations + p.iteration + 1, p.epochs * p.iterations, ""
            ),
            operator=operator if "variance_reduction" in options else None,
            **options,
        )
        losses[name] = result.history.epoch_loss
    exact = conjugate_gradient(
        problem,
        tolerance=FLOOR_TOLERANCE,
        max_iterations=FLOOR_ITERATIONS,
        callback=lambda i, r: report("minimiser (CG)", i, FLOOR_ITERATIONS, f"residual {r:.1e}"),
        operator=operator,
    )
    report("minimiser (CG)", FLOOR_ITERATIONS, FLOOR_ITERATIONS, "")
    return losses, problem.loss(exact.volume)
