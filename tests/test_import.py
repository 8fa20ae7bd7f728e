"""Importing the package is cheap: it compiles nothing and leaves heavy packages for later."""

import subprocess
import sys

import pytest

COMPILED = """
import gc, sys
import fastcryo
from numba.core.dispatcher import Dispatcher
kernels = [o for o in gc.get_objects() if isinstance(o, Dispatcher)
           and o.py_func.__module__.startswith("fastcryo")]
print(len(kernels), sum(len(kernel.signatures) for kernel in kernels))
"""


def run(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("package", ["matplotlib", "rich", "gemmi"])
def test_import_leaves_packages_of_commands_for_later(package):
    assert run(f"import sys, fastcryo; print({package!r} in sys.modules)") == "False\n"


def test_import_compiles_nothing():
    kernels, signatures = map(int, run(COMPILED).split())
    assert kernels > 10
    assert signatures == 0
