"""The record of a reconstruction: what was done, with what, and how it went."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fastcryo._version import __version__
from fastcryo.io.atomic import replacing
from fastcryo.particles import Particles
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
        "notes": [*particles.notes, *result.notes],
        "resolution": result.resolution if np.isfinite(result.resolution or 0) else None,
        "fsc": curves,
        "seconds": result.seconds,
        "maps": {
            name: {
                "regularization": s.regularization,
                "preconditioner_by_shell": None
                if s.preconditioner is None
                else s.preconditioner.tolist(),
                **s.history,
            }
            for name, s in result.solutions.items()
        },
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
