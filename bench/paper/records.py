"""Files of an experiment: JSON with settings and machine, CSV, PNG; read back for the report."""

from __future__ import annotations

import csv
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numba
import numpy as np

import fastcryo as fc
from bench.paper.views import Say
from fastcryo.errors import InputError
from fastcryo.io.atomic import replacing
from fastcryo.plots import new_figure, save_figure
from fastcryo.threads import thread_count

SIZES = ("quick", "laptop", "full")


def run(name: str, experiment: ModuleType, size: str, folder: Path, say: Say) -> dict:
    """Run an experiment and write NAME_SIZE.json, .csv and .png.

    Parameters
    ----------
    name : str
        "e1" to "e6".
    experiment : module
    size : {"quick", "laptop", "full"}
    folder : Path
        Made if needed.
    say : callable
        Told about progress.

    Returns
    -------
    dict
        What the JSON file holds.

    Raises
    ------
    InputError
        A folder that cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made a folder ({error.strerror}), choose another one with --out"
        ) from error
    settings = experiment.SIZES[size]
    results, seconds = experiment.measure(settings, say)
    record = {
        "experiment": name,
        "title": experiment.TITLE,
        "size": size,
        "settings": asdict(settings),
        "machine": machine(),
        "seconds": seconds,
        "results": results,
    }
    # A number that is not finite has no JSON; it is stored as null.
    record = json.loads(json.dumps(record, default=_plain), parse_constant=lambda _: None)
    stem = folder / f"{name}_{size}"
    with replacing(stem.with_suffix(".json")) as path:
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    with replacing(stem.with_suffix(".csv")) as path, open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(experiment.table(record["results"]))
    figure = new_figure(*experiment.FIGURE)
    experiment.draw(figure, record["results"])
    figure.suptitle(f"{experiment.TITLE}\n{record['results']['data']}", fontsize=11)
    save_figure(stem.with_suffix(".png"), figure)
    return record


def read(folder: Path) -> dict[str, dict[str, dict]]:
    """Read all records of a folder: by experiment, then by size.

    Raises
    ------
    InputError
        A file of such a name that is no JSON.
    """
    found: dict[str, dict[str, dict]] = {}
    for size in SIZES:
        for path in sorted(folder.glob(f"e?_{size}.json")):
            try:
                record = json.loads(path.read_text())
            except ValueError as error:
                raise InputError(
                    f"{path}: is no record ({error}), run its experiment again"
                ) from error
            found.setdefault(record["experiment"], {})[size] = record
    return found


def machine() -> dict:
    """Say what the numbers were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": thread_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "fastcryo": fc.__version__,
    }


def _processor() -> str:
    report = Path("/proc/cpuinfo")
    if report.exists():
        for line in report.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _plain(value: object) -> object:
    """Turn NumPy's numbers and arrays into what JSON knows."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a record")
