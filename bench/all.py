"""Measure everything and write bench/RESULTS.md: ``python bench/all.py``, some 25 minutes.

``--only kernels,peers`` measures some of the parts and keeps the records of the others, so that a
run that was stopped goes on where it was. ``--quick`` takes toy sizes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import records
from results import RESULTS, write

SCRIPTS = {"system": "system.py", "peers": "compare_peers.py", "epochs": "epochs.py"}
# Besides what the operation is called, the two that are no operations of measure.cases.
KEPT = ("operation", "window", "box", "images", "threads")


def kernels(folder: Path, quick: bool) -> int:
    """Run the benchmarks of pytest and keep what RESULTS.md needs; returns an exit status."""
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary) / "run.json"
        command = [sys.executable, "-m", "pytest", "-q", str(records.BENCH)]
        command += ["--benchmark-enable", f"--benchmark-json={saved}", "--benchmark-columns=median"]
        # A run that is not quick can then be held to the baseline: python bench/compare.py
        command += ["--quick"] if quick else ["--benchmark-autosave"]
        status = subprocess.run(command, cwd=records.BENCH.parent, check=False).returncode
        if status == 0:
            record = reduce_run(records.load(saved), quick)
            records.save(records.part_file("kernels", folder), record)
    return status


def reduce_run(run: dict, quick: bool) -> dict:
    """Return the record of the part from a file of pytest-benchmark."""
    rows, ratios = [], {}
    for benchmark in run["benchmarks"]:
        info = benchmark["extra_info"]
        if "ratios" in info:
            ratios = info["ratios"]
        elif "operation" in info:
            test = benchmark["name"].split("[")[0]
            stats = {key: benchmark["stats"][key] for key in ("median", "min", "rounds")}
            rows.append({"test": test, **info, **stats})
    return {"machine": run["fastcryo_machine"], "quick": quick, "rows": rows, "ratios": ratios}


def script(part: str, folder: Path, quick: bool) -> int:
    """Run the script of another part; returns an exit status."""
    command = [sys.executable, str(records.BENCH / SCRIPTS[part])]
    command += ["--out", str(records.part_file(part, folder))] + (["--quick"] if quick else [])
    return subprocess.run(command, check=False).returncode


def main() -> int:
    """Measure; returns an exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(records.PARTS), help="parts, with commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=records.FOLDER, help="folder of the records")
    chosen = parser.parse_args()
    parts = chosen.only.split(",")
    unknown = [part for part in parts if part not in records.PARTS]
    if unknown:
        parser.error(f"--only: {unknown[0]!r} is unknown, choose from {', '.join(records.PARTS)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for number, part in enumerate(parts, 1):
        print(f"[{number}/{len(parts)}] {part}", flush=True)
        began = time.perf_counter()
        run = kernels if part == "kernels" else lambda *rest, part=part: script(part, *rest)
        status = run(chosen.out, chosen.quick)
        ended = f"failed with status {status} after" if status else "done in"
        print(f"{part}: {ended} {time.perf_counter() - began:.0f} s", flush=True)
        failed += [part] if status else []
    page = RESULTS if chosen.out == records.FOLDER else chosen.out / "RESULTS.md"
    write(chosen.out, page)
    print(page)
    if failed:
        print(f"failed: {', '.join(failed)}; run again with --only {','.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
