"""Run experiments of the paper, or turn their records into Markdown."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.paper import (
    e1_kappa_by_radius,
    e2_kappa_by_box,
    e3_hutchinson,
    e4_loss,
    e5_fsc,
    e6_gradient_variance,
    records,
    report,
)
from fastcryo.errors import InputError

EXPERIMENTS = {
    "e1": e1_kappa_by_radius,
    "e2": e2_kappa_by_box,
    "e3": e3_hutchinson,
    "e4": e4_loss,
    "e5": e5_fsc,
    "e6": e6_gradient_variance,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.paper", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in (*EXPERIMENTS, "all"):
        title = EXPERIMENTS[name].TITLE if name in EXPERIMENTS else "E1 to E6"
        command = commands.add_parser(name, help=title)
        command.add_argument("--size", choices=records.SIZES, default="laptop")
        command.add_argument("--out", type=Path, required=True, help="folder for the results")
    command = commands.add_parser("report", help="records as Markdown")
    command.add_argument("folder", type=Path)
    command.add_argument("--into", type=Path, help="replace the sections of this document")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "report":
            _report(chosen.folder, chosen.into)
        else:
            names = EXPERIMENTS if chosen.command == "all" else [chosen.command]
            for name in names:
                _run(name, chosen.size, chosen.out)
    except InputError as error:
        print(f"bench.paper: {error}", file=sys.stderr)
        return 2
    return 0


def _run(name: str, size: str, folder: Path) -> None:
    began = time.perf_counter()
    print(EXPERIMENTS[name].TITLE, flush=True)
    records.run(name, EXPERIMENTS[name], size, folder, _say)
    _say(f"{time.perf_counter() - began:.1f} s: {folder / f'{name}_{size}.json'}, .csv, .png")


def _report(folder: Path, into: Path | None) -> None:
    sections = report.sections(folder, EXPERIMENTS)
    if into is None:
        for name, text in sections.items():
            print(f"## {EXPERIMENTS[name].TITLE}\n\n{text}")
    else:
        report.replace_sections(into, sections)


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
