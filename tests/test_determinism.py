"""The same bits from any number of threads, and the same results without the compiler."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from fastcryo.errors import InputError
from fastcryo.threads import thread_count, use_threads

SCRIPT = Path(__file__).with_name("all_results.py")


def results(out, threads, boxes, **variables):
    """Run the script in a process of its own, in which threads sleep while they wait."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, out, threads, boxes],
        env=os.environ | {"OMP_WAIT_POLICY": "passive"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    with np.load(out) as stored:
        return dict(stored)


def test_results_are_the_same_bits_for_any_number_of_threads(tmp_path):
    # N = 33 has three tiles along z and three along y, enough for four threads to take turns in.
    found = results(tmp_path / "out.npz", "1,2,3,4", "33", NUMBA_NUM_THREADS="4")
    alone = {key: value for key, value in found.items() if key.split()[3] == "1"}
    assert len(alone) == len(found) / 4 > 50
    for key, value in found.items():
        box, interpolation, dtype, _, name = key.split()
        expected = alone[f"{box} {interpolation} {dtype} 1 {name}"]
        assert value.dtype == expected.dtype
        assert value.tobytes() == expected.tobytes(), key


def test_kernels_stay_within_their_arrays_and_need_no_compiler(tmp_path):
    # Python raises on an index beyond the end, the script on one below 0, in odd and even boxes and
    # views along the axes and diagonals. Compiled kernels must agree to the rounding of their sums.
    plain = results(tmp_path / "plain.npz", "1", "8,9", NUMBA_DISABLE_JIT="1")
    compiled = results(tmp_path / "compiled.npz", "1", "8,9")
    assert plain.keys() == compiled.keys()
    for key, value in plain.items():
        tolerance = 1e-5 if "float32" in key else 1e-12
        limit = tolerance * np.abs(value).max()
        np.testing.assert_allclose(compiled[key], value, rtol=0, atol=limit, err_msg=key)


def test_number_of_threads_is_set_for_a_block_only():
    former = thread_count()
    with use_threads(1):
        assert thread_count() == 1
        with use_threads(None):
            assert thread_count() == 1
    assert thread_count() == former
    with pytest.raises(KeyError), use_threads(1):
        raise KeyError
    assert thread_count() == former


def test_numbers_of_threads_that_cannot_be_had_are_refused():
    most = numba.config.NUMBA_NUM_THREADS
    for count in (0, -1, most + 1):
        message = rf"^threads: {count} asked for, .* 1 to {most} "
        with pytest.raises(InputError, match=message), use_threads(count):
            pass
