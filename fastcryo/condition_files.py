"""The tables of ``fastcryo condition``: JSON and CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastcryo._version import __version__
from fastcryo.conditioning import ResolutionCondition, predicted_rate
from fastcryo.io.atomic import replacing
from fastcryo.preparation import shells_of_damping

if TYPE_CHECKING:
    from fastcryo.condition_report import ConditionReport


def _plain(value: float) -> float | None:
    """Return a number as JSON can hold it; infinity as null."""
    return float(value) if np.isfinite(value) else None


def _eigenvalues(entry: ResolutionCondition) -> dict:
    ends = entry.eigenvalues
    low, high = ends.condition_range
    return {
        "radius": entry.radius,
        "resolution": entry.resolution,
        "smallest": ends.smallest,
        "smallest_residual": ends.smallest_residual,
        "smallest_converged": ends.smallest_converged,
        "largest": ends.largest,
        "largest_residual": ends.largest_residual,
        "largest_converged": ends.largest_converged,
        "condition_number": _plain(ends.condition_number),
        "condition_number_range": [_plain(low), _plain(high)],
        "predicted_rate": predicted_rate(ends.condition_number),
        "products": ends.products,
        "note": ends.note,
    }


def write_json(path: Path, result: ConditionReport, command: str) -> None:
    """Write all of a report."""
    radial, directions = result.radial, result.directions
    record = {
        "version": __version__,
        "command": command,
        "particles": str(result.particles.source),
        "images": len(result.particles),
        "image_box": result.particles.box,
        "image_pixel_size": result.particles.pixel_size,
        "spectrum_box": result.problem.grid.box,
        "regularization": shells_of_damping(result.problem.grid, result.problem.damping),
        "notes": [*result.notes, *([radial.note] if radial.note else [])],
        "nearest": {
            "radius": radial.radius.tolist(),
            "resolution": radial.resolution.tolist(),
            "bound": [_plain(v) for v in radial.bound],
            "without_ctf": [_plain(v) for v in radial.without_ctf],
            "with_ctf": [_plain(v) for v in radial.with_ctf],
            "uncovered": radial.uncovered.tolist(),
        },
        "eigenvalues": {
            name: [_eigenvalues(entry) for entry in entries]
            for name, entries in result.scaled.items()
        },
        "densities": {
            name: {
                "values": d.values.tolist(),
                "density": d.density.tolist(),
                "error": d.error.tolist(),
                "kernel_decades": d.kernel,
                "probes": d.probes,
                "steps": d.steps,
            }
            for name, d in result.densities.items()
        },
        "worst": {
            "shell": directions.shell,
            "share_by_shell": directions.shares.tolist(),
            "direction_xyz": directions.direction.tolist(),
            "moments": directions.moments.tolist(),
            "thinnest_xyz": directions.thinnest.tolist(),
            "thinness": directions.thinness,
        },
        "observed_rate_exact": result.observed,
        "summary": result.lines(),
    }
    with replacing(path) as temporary:
        text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, result: ConditionReport) -> None:
    """One row per radius; columns of the spectra are empty where they were not computed."""
    radial = result.radial
    names = list(result.scaled)
    spectra = {
        (name, entry.radius): entry.eigenvalues
        for name, entries in result.scaled.items()
        for entry in entries
    }
    header = ["radius", "resolution_A", "bound", "nearest_without_ctf", "nearest_with_ctf"]
    header += ["uncovered"]
    for name in names:
        label = name.replace(", ", "_")
        header += [f"kappa_{label}", f"kappa_{label}_low", f"kappa_{label}_high"]
    columns = zip(
        radial.radius, radial.resolution, radial.bound, radial.without_ctf, radial.with_ctf,
        radial.uncovered, strict=True,
    )  # fmt: skip
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in columns:
            extra = []
            for name in names:
                ends = spectra.get((name, int(row[0])))
                numbers = [] if ends is None else [ends.condition_number, *ends.condition_range]
                extra += [f"{v:.6g}" for v in numbers] or ["", "", ""]
            writer.writerow([int(row[0]), *(f"{v:.6g}" for v in row[1:5]), int(row[5]), *extra])
