"""Every option of Numba's decorators, and the cache of compiled kernels.

``error_model="numpy"`` removes the zero test from divisions (0.14 instead of 2.15 ns each). The
only floating-point licence is ``contract`` (fused multiply-add); NaN keeps its meaning, because the
line search relies on it. `register` makes a plain function callable from compiled code while it
stays a plain function, so that kernels made by a factory are found again in the cache on disk;
`register_allocating` is for those that make arrays.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import secrets
import threading
import uuid
from pathlib import Path

import numba
from numba.core import bytecode
from numba.extending import intrinsic, register_jitable
from numba.np import linalg

# OpenMP threads that spin between launches wait for a processor that another program, or another
# thread of this one, holds: a launch took 2 ms on average on a machine with two shared cores, and
# 65 us with sleeping threads. GNU OpenMP reads this when the first kernel is launched.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FLAGS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
REDUCTION_FLAGS = FLAGS | {"fastmath": {"contract", "reassoc", "nsz"}}


def _hash_of_sources():
    """Hash of every kernel's source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = _hash_of_sources()

# Numba numbers the functions that a process compiles, from 1, and names their symbols by number,
# qualified name and types. Symbols are weak: of two kernels of one factory that two processes
# compiled, with the same number by chance, a third one would load one and call it in place of the
# other (numba issue 10486). So numbers are drawn.
bytecode.FunctionIdentity._unique_ids = iter(functools.partial(secrets.randbits, 64), None)


def _import_without_blas():
    """Import Numba's array functions without scipy.linalg: 22 MB and 0.1 s of every process.

    They import it to see whether there is a BLAS, which no kernel here calls. Where others compile
    a call of it, Numba looks again.
    """
    look = getattr(linalg, "ensure_blas", None)
    if look is None:
        return
    linalg.ensure_blas = lambda: None
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = look


_import_without_blas()

# A launch uses all threads; Numba's own layer ("workqueue") aborts the process when a second Python
# thread launches meanwhile.
LAUNCH = threading.Lock()


def _cached(function, **options):
    """Compile lazily, and keep the result on disk until any kernel's source changes.

    Numba's own stamp sees a function's file, not those of the functions it calls. Where nothing can
    be written (no folder of its own, no user cache), each process compiles anew.
    """
    compiled = numba.njit(**options)(function)
    if not numba.config.DISABLE_JIT:
        with contextlib.suppress(RuntimeError):
            compiled.enable_caching()
            file = compiled._cache._cache_file
            file._source_stamp = SOURCES
            file._data_name = functools.partial(_name_of_its_own, file._index_name)
            file.save = _forgiving(file)
    return compiled


def _name_of_its_own(index_name, number):
    """Name the file of a compiled kernel.

    Numba numbers the files of one function, here of all kernels of a factory. Two processes that
    compile two of them at the same time may take the same number, and one kernel then be loaded
    as the other, without a word.
    """
    return f"{Path(index_name).stem}.{number}.{uuid.uuid4().hex}.nbc"


def _forgiving(file):
    """Let a cache that cannot be written, on a full disk, cost the next process time only."""
    save = file.save

    @functools.wraps(save)
    def try_to_save(key, data):
        with contextlib.suppress(OSError):
            if not file._load_index():
                _remove_old_files(file)
            save(key, data)

    return try_to_save


def _remove_old_files(file):
    """Remove what was compiled from other sources; who wants it compiles anew."""
    for path in Path(file._cache_path).glob(f"{Path(file._index_name).stem}.*.nbc"):
        with contextlib.suppress(OSError):
            path.unlink()


def serial(function):
    """Compile a function for one thread."""
    return _cached(function, **FLAGS)


def _one_at_a_time(compiled):
    """Let one Python thread launch at a time, whatever the threading layer."""

    @functools.wraps(compiled)
    def launch(*arguments):
        with LAUNCH:
            return compiled(*arguments)

    return launch


def parallel(function):
    """Compile a function whose prange loops are shared among threads."""
    return _one_at_a_time(_cached(function, parallel=True, **FLAGS))


def parallel_reduction(function):
    """Compile a parallel function whose inner sums may be reordered to be vectorised."""
    return _one_at_a_time(_cached(function, parallel=True, **REDUCTION_FLAGS))


# References to arrays are counted by locked instructions on a cache line that all threads share:
# with them two threads took 10 % longer for a gradient, and to write a row of a volume took three
# times as long. A function that allocates nothing need not count.
BORROWING = {"error_model": "numpy", "_nrt": False}
register = register_jitable(fastmath={"contract"}, **BORROWING)
register_reduction = register_jitable(fastmath=REDUCTION_FLAGS["fastmath"], **BORROWING)
register_allocating = register_jitable(error_model="numpy", fastmath={"contract"})


def intrinsic_function(function):
    """Make a Numba intrinsic for kernels that a factory makes and that the cache must find again.

    The key of such a kernel is the pickle of what it uses; Numba pickles an intrinsic with an
    identity that is new in every process, a plain function of a module by its name.
    """
    generated = intrinsic(function)

    @functools.wraps(function)
    def call(*arguments):
        return generated(*arguments)

    del call.__wrapped__
    return register_jitable(call)
