"""Every threading layer of Numba gives the same bits, also when several Python threads call."""

import hashlib
import os
import subprocess
import sys

import pytest

# Four Python threads compute the same gradient again and again, next to each other.
SCRIPT = """
import concurrent.futures, hashlib, sys
import numba, numpy as np
import fastcryo as fc
from fastcryo.rotations import random_rotations

rng = np.random.default_rng(0)
images = rng.standard_normal((12, 24, 24), dtype=np.float32)
problem = fc.KnownPoseProblem.from_arrays(images, random_rotations(12, rng), 2.0)
volume = problem.grid.from_real(rng.standard_normal((24, 24, 24), dtype=np.float32))

def gradient(_):
    return hashlib.sha256(problem.loss_and_gradient(volume)[1].tobytes()).hexdigest()

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = set(pool.map(gradient, range(40)))
assert len(found) == 1
print(numba.threading_layer(), *found)
"""


def gradient_by(layer):
    """Return the layer in use and the hash of a gradient; skip where the layer cannot be had."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env=os.environ | {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No threading layer could be loaded" in finished.stderr:
        pytest.skip(f"Numba cannot load the threading layer {layer} here")
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_python_threads_get_the_same_bits_from_every_layer(layer):
    used, digest = gradient_by(layer)
    assert used == layer
    assert digest == gradient_by("workqueue")[1]
    assert len(digest) == hashlib.sha256().digest_size * 2
