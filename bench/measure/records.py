"""Results on disk: one JSON record per part of the measurements, beside bench/RESULTS.md."""

import json
from pathlib import Path

from fastcryo.io.atomic import replacing

BENCH = Path(__file__).resolve().parents[1]
FOLDER = BENCH / "results"
PARTS = ("kernels", "system", "peers", "epochs")


def save(path: Path, record: dict) -> None:
    """Write a record, replacing an earlier one only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def load(path: Path) -> dict:
    """Read a record."""
    return json.loads(path.read_text())


def part_file(part: str, folder: Path = FOLDER) -> Path:
    """Return where the record of a part is kept."""
    return folder / f"{part}.json"
