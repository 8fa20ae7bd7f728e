"""Hold the ratios of the last saved run to bench/baseline.json: ``python bench/compare.py``.

The run is one of ``pytest bench --benchmark-enable --benchmark-autosave``; a file of
pytest-benchmark can be named instead. Exit status 1 if a ratio has worsened by more than the
threshold; ``--save`` makes the run's ratios the baseline.
"""

import argparse
import sys
from pathlib import Path

from measure import ratios, records
from measure.tables import figures

BASELINE = records.BENCH / "baseline.json"
SAVED = records.BENCH.parent / ".benchmarks"
THRESHOLD = 1.3
COMMAND = "pytest bench --benchmark-enable --benchmark-autosave"


def last_run() -> Path:
    """Return the newest file that pytest-benchmark saved.

    Raises
    ------
    SystemExit
        There is none.
    """
    files = sorted(SAVED.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        sys.exit(f"no saved run, make one first: {COMMAND}")
    return files[-1]


def ratios_of(run: dict, path: Path) -> dict[str, float]:
    """Return the ratios of a run of pytest-benchmark.

    Raises
    ------
    SystemExit
        It has none, or it was quick.
    """
    for benchmark in run["benchmarks"]:
        info = benchmark["extra_info"]
        if "ratios" in info and not info["quick"]:
            return info["ratios"]
    sys.exit(f"{path}: holds no ratios, make a run of bench_ratios.py without --quick: {COMMAND}")


def main() -> int:
    """Compare or save; returns an exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="a file of pytest-benchmark")
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--save", action="store_true", help="make this run the baseline")
    chosen = parser.parse_args()
    path = chosen.run or last_run()
    run = records.load(path)
    found = ratios_of(run, path)
    if chosen.save:
        processor = run["machine_info"]["cpu"].get("brand_raw", "")
        record = {"processor": processor, "date": run["datetime"][:10], "ratios": found}
        records.save(BASELINE, record)
        print(f"{BASELINE}: {len(found)} ratios saved")
        return 0
    baseline = records.load(BASELINE)["ratios"]
    worse = ratios.worsened(found, baseline, chosen.threshold)
    for name in [*baseline, *(name for name in found if name not in baseline)]:
        before, now = (figures(r[name], 3) if name in r else "-" for r in (baseline, found))
        grown = f"   {worse[name]:.2f} times the baseline's" if name in worse else ""
        print(f"{name:<40}{before:>8}{now:>8}{grown}")
    if worse:
        print(f"worsened by more than {chosen.threshold}: {', '.join(worse)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
