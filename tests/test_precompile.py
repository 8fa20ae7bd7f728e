"""Kernels that are compiled beside a command are those that it needs."""

import json
import subprocess
import sys

import numba
import pytest

from fastcryo import precompile
from fastcryo.tile_sweeps import KERNELS

SCRIPT = """
import json, sys
import fastcryo as fc
from fastcryo.kernels.cpu import stencil, vectors
from fastcryo.precompile import compile_for_demo
from fastcryo.tile_sweeps import KERNELS

kernels = {name: getattr(KERNELS["trilinear"], name) for name in ("power", "energy", "gradient")}
kernels |= {name: getattr(stencil, name) for name in ("separate", "split_parts", "multiply")}
kernels |= {name: getattr(vectors, name) for name in ("fill_signs", "finish_sum")}

def compiled():
    return {
        name: {str(types) for types in kernel.__wrapped__.overloads}
        for name, kernel in kernels.items()
    }

compile_for_demo()
before = compiled()
fc.simulate(sys.argv[1], box=16, pixel_size=6.0, count=40, snr=1.0)
particles = fc.read_particles(sys.argv[1] + "/particles.star")
problem = fc.KnownPoseProblem.from_particles(particles)
fc.sgd(problem, epochs=1, batch_size=20)
problem.hessian_diagonal()
problem.normal_operator().matvec(problem.right_hand_side())
after = compiled()
print(json.dumps({name: [len(before[name]), len(after[name] - before[name])] for name in kernels}))
"""


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_a_run_needs_no_other_signatures_than_those_compiled_beforehand(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    # The gradient of one volume is left to the command.
    assert found.pop("gradient") == [1, 1]
    assert found == {name: [1, 0] for name in found}


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
@pytest.mark.parametrize(
    ("index", "processors", "starts"), [({}, 2, True), ({"a": "b"}, 2, False), ({}, 1, False)]
)
def test_it_starts_where_nothing_is_compiled_and_two_processors_are_there(
    monkeypatch, index, processors, starts
):
    started = []

    class Process:
        def __init__(self, command, **streams):
            started.append(command)

        def terminate(self):
            pass

    file = KERNELS["trilinear"].gradient.__wrapped__._cache._cache_file
    monkeypatch.setattr(file, "_load_index", lambda: index)
    monkeypatch.setattr(precompile, "_processors", lambda: processors)
    monkeypatch.setattr(precompile.subprocess, "Popen", Process)
    process = precompile.precompile_beside()
    assert (process is not None) == starts
    assert started == [[sys.executable, "-m", "fastcryo.precompile"]] * starts
