"""Kernels under compute-sanitizer, on a card: accesses out of bounds, races, lost barriers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .cuda_cases import SIMULATED, needs_cuda


def find_sanitizer():
    """Return the tool of the toolkit, or of the wheel nvidia-cuda-sanitizer-api; None if none."""
    packages = Path(np.__file__).parents[1]
    inside = sorted(packages.glob("nvidia/**/bin/compute-sanitizer"))
    return shutil.which("compute-sanitizer") or (str(inside[-1]) if inside else None)


SANITIZER = find_sanitizer()
FILES = ("test_cuda.py", "test_cuda_runs.py", "test_cuda_preparation.py")


@needs_cuda
@pytest.mark.skipif(SIMULATED, reason="compute-sanitizer looks at a card, not at the simulator")
@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer, of the CUDA toolkit, is missing")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool):
    """All tests of kernels and runs, in small: a sanitizer slows them a hundred times."""
    folder = Path(__file__).parent
    tests = [sys.executable, "-m", "pytest", "-q", *(str(folder / name) for name in FILES)]
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "9", *tests]
    small = os.environ | {"FASTCRYO_SMALL_TESTS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=small)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
