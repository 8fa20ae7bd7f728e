"""Write bench/RESULTS.md from the records of the last measurements: ``python bench/results.py``."""

import argparse
import sys
from pathlib import Path

from measure import records
from measure.aims import aims_section
from measure.sections import epochs_section, kernels_section, machine_section, system_section
from measure.sections_peers import peers_section

from fastcryo.io.atomic import replacing

RESULTS = records.BENCH / "RESULTS.md"
SECTIONS = {
    "peers": ("Beside other programs", peers_section),
    "kernels": ("Kernels", kernels_section),
    "system": ("Threads, memory, start-up", system_section),
    "epochs": ("Whole runs", epochs_section),
}


def write(folder: Path, path: Path) -> None:
    """Write the page from the records of a folder.

    Raises
    ------
    SystemExit
        There is no record.
    """
    files = {part: records.part_file(part, folder) for part in SECTIONS}
    found = {part: records.load(file) for part, file in files.items() if file.exists()}
    if not found:
        sys.exit(f"{folder}: holds no records, make them first: python bench/all.py")
    lines = [
        "# Measurements",
        "",
        "Made by `python bench/results.py` from the records in `bench/results/`, which "
        "`python bench/all.py` measures; no number here is written by hand. "
        "[docs/benchmarks.md](../docs/benchmarks.md) says how each is measured.",
        "",
        *machine_section(found),
        "",
    ]
    if not any(record["quick"] for record in found.values()):
        lines += ["## Aims", "", *aims_section(found)]
    for part, (title, section) in SECTIONS.items():
        if part in found:
            lines += ["", f"## {title}", "", *section(found[part])]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=records.FOLDER)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    write(chosen.records, chosen.out)
    print(chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
