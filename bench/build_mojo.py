"""Compile torch-fourier-slice's Mojo kernels, once: ``python bench/build_mojo.py``, two minutes.

On a machine without a GPU they cannot be compiled as the package does it when imported: the
compiler finds no accelerator to aim at. Given one (it is never used), it compiles the kernels for
the processor too. The result goes where the package's import hook looks for it.
"""

import importlib.util
import sys
from pathlib import Path

ACCELERATOR = "sm_80"
STEM = "fourier_slice_kernels"


def main() -> int:
    """Compile; returns an exit status."""
    try:
        # The name of the compiled file contains this hash of the sources.
        from mojo.importer import _calculate_mojo_source_hash as hash_of_sources
        from mojo.run import subprocess_run_mojo
    except ImportError:
        print("mojo is not installed: pip install mojo==1.0.0b2")
        return 2
    found = importlib.util.find_spec("torch_fourier_slice")
    if found is None:
        print("torch-fourier-slice is not installed: pip install torch-fourier-slice torch-ctf")
        return 2
    sources = Path(found.origin).parent / "experimental" / "_mojo"
    compiled = sources / "__mojocache__" / f"{STEM}.hash-{hash_of_sources(sources)}.so"
    compiled.parent.mkdir(exist_ok=True)
    command = ["build", str(sources / f"{STEM}.mojo"), "--emit", "shared-lib", "-o", str(compiled)]
    done = subprocess_run_mojo([*command, "--target-accelerator", ACCELERATOR])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
