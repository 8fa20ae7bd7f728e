"""The scripts run, at toy sizes, and the page of results can be made from their records."""

import os
import subprocess
import sys

import pytest
from measure import records
from results import write

BENCH = records.BENCH


@pytest.fixture
def toy(quick):
    if not quick:
        pytest.skip("python bench/all.py measures; here only --quick runs the scripts")


def bench_scripts(toy, tmp_path):
    parts = ["system", "peers", "epochs"]
    command = [sys.executable, BENCH / "all.py", "--quick", "--only", ",".join(parts)]
    command += ["--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {part: records.load(records.part_file(part, tmp_path)) for part in parts}
    assert found["system"]["same_bits"]["same"]
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert all(f"* {part}: {found[part]['machine']['date']}" in page for part in parts)
    for name, reason in found["peers"]["skipped"].items():
        assert f"* {name}: {reason}" in page


def bench_scaling(toy):
    pytest.importorskip("mpi4py", reason="MPI is measured with fastcryo[mpi]")
    for arguments in (["--quick", "--ranks", "1", "2"], ["--nodes"]):
        command = [sys.executable, BENCH / "scaling.py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "| ranks |" in done.stdout or "| nodes |" in done.stdout


def bench_counts_of_atomic_sums(toy):
    command = [sys.executable, BENCH / "graphics_card.py", "sums", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kaiser_bessel" in done.stdout


def bench_record_of_a_card(toy, tmp_path):
    record = tmp_path / "card.json"
    command = [sys.executable, BENCH / "graphics_card.py", "card", "--quick", "--out", record]
    simulated = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=simulated)
    assert done.returncode == 0, done.stdout + done.stderr
    found = records.load(record)
    assert found["paper"]["published_seconds"] == 235
    shares = [line.get("share_of_atomic_rate", 0) for line in found["rows"]]
    assert sum(share > 0 for share in shares) == 6


def bench_committed_records(toy, tmp_path):
    if not records.FOLDER.exists():
        pytest.skip("no records in bench/results, make them: python bench/all.py")
    write(records.FOLDER, tmp_path / "RESULTS.md")
    made = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert made == (BENCH / "RESULTS.md").read_text(encoding="utf-8")
