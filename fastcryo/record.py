"""The record of a reconstruction: what was done, with what, and how it went."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo._version import __version__
from fastcryo.io.atomic import replacing
from fastcryo.particles import Particles
from fastcryo.postprocess import Postprocessed
from fastcryo.prepared import read_header
from fastcryo.results import Reconstruction
from fastcryo.settings import Settings


def write_history(
    path: Path,
    result: Reconstruction,
    particles: Particles,
    settings: Settings,
    command: str,
    prepared: str | os.PathLike | None = None,
) -> None:
    """Write what was done, with what, and how it went, as JSON."""
    curves = None
    if result.curves is not None:
        curves = {
            key: value.tolist() for key, value in asdict(result.curves).items() if value is not None
        }
    record = {
        "version": __version__,
        "command": command,
        "particles": str(particles.source),
        "images": len(particles),
        "image_box": particles.box,
        "image_pixel_size": particles.pixel_size,
        "map_pixel_size": result.pixel_size,
        "settings": asdict(settings),
        "prepared": None
        if prepared is None
        else {
            "folder": str(prepared),
            "relative_rms_error": read_header(prepared)["relative_rms_error"],
        },
        "image_scales": scale_summary(result.image_scales),
        "notes": [*particles.notes, *result.notes],
        "warnings": list(result.warnings),
        "resolution": result.resolution if np.isfinite(result.resolution or 0) else None,
        "fsc": curves,
        "postprocess": postprocessed(result.after),
        "seconds": result.seconds,
        "maps": {
            name: {
                "regularization": s.regularization,
                "preconditioner_by_shell": None
                if s.preconditioner is None
                else s.preconditioner.tolist(),
                "signal_kept_by_prior": None if s.kept is None else s.kept.tolist(),
                **s.history,
            }
            for name, s in result.solutions.items()
        },
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def scale_summary(scales: NDArray | None) -> dict | None:
    """Return the distribution of the images' scales, for JSON."""
    if scales is None:
        return None
    shares = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    quantiles = np.quantile(scales, shares).round(4).tolist()
    return {
        "quantiles": dict(zip(map(str, shares), quantiles, strict=True)),
        "standard_deviation": float(scales.std()),
    }


def postprocessed(after: Postprocessed | None) -> dict | None:
    """Return the numbers of what followed the half-maps, for JSON."""
    if after is None:
        return None
    directional, guinier = after.directional, after.guinier
    resolved = np.isfinite(directional.resolution)
    return {
        "resolution_at_0.5": finite_or_none(after.resolution_half),
        "mask_share_of_box": None if after.mask is None else float(after.mask.mean()),
        "b_factor": guinier.b_factor,
        "b_factor_fitted": guinier.fitted,
        "conical_fsc_area_ratio": directional.area_ratio,
        "directions_unresolved": float(1 - resolved.mean()),
        "best_direction": finite_or_none(directional.resolution.min()),
        "worst_direction": finite_or_none(directional.resolution.max()),
    }


def finite_or_none(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if np.isfinite(value) else None
