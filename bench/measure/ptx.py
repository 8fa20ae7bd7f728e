"""CUDA kernels compiled for cards that are not there: their PTX, and what the assembler says."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np

CAPABILITIES = ((7, 5), (8, 0), (9, 0))
REGISTERS = re.compile(r"Used (\d+) registers")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
SHARED = re.compile(r"(\d+) bytes smem")
# Of a multiprocessor: registers; threads, bytes of shared memory and blocks at most. From 8.0 on a
# block takes 1 KiB of shared memory more than it says.
REGISTER_FILE = 65536
RESIDENT = {(7, 5): 1024, (8, 0): 2048, (9, 0): 2048}
SHARED_MEMORY = {(7, 5): 64 * 1024, (8, 0): 164 * 1024, (9, 0): 228 * 1024}


def signatures(exact=False, real=numba.float32):
    """Return the types of the arguments of every kernel of a window, by name."""
    i64, f64 = numba.int64, numba.float64
    complex_ = numba.complex64 if real == numba.float32 else numba.complex128
    volume, table, weights, scales = real[::1], complex_[:, ::1], real[:, ::1], f64[::1]
    total = i64[::1] if exact else real[::1]
    common = (i64[:, :, ::1], numba.int16[:, ::1], i64, i64, i64, weights, real)
    lines = i64[:, ::1]
    tables = weights, table, lines
    normal = (volume, volume, total, total, *tables, scales, scales, f64[:, ::1], *common)
    power = (total, weights, lines, scales, *common)
    found = {
        "adjoint": (table, total, scales, *common),
        "gradient": normal,
        "gradient_pair": normal,
        "diagonal": power,
        "gridding": power,
    }
    if not exact:
        found["forward"] = (volume, table, *common)
        found["energy"] = normal
        found["energy_pair"] = normal
    return found


def vector_signatures(real=numba.float32):
    """Return the types of the arguments of the kernels of whole half grids, by name.

    What follows a blank tells apart the types that one kernel is compiled for.
    """
    f64, i8 = numba.float64, numba.int8
    complex_ = numba.complex64 if real == numba.float32 else numba.complex128
    plane, flat, numbers = complex_[:, ::1], complex_[::1], real[::1]
    sums = f64[:, ::1]
    return {
        "_inner": (plane, plane, sums),
        "_finish": (plane, plane, real, real[:, ::1], sums),
        "_damped_norm": (plane, real[:, ::1], sums),
        "_step": (flat, flat, real),
        "_scale": (flat, numbers, flat),
        "_approach": (flat, flat, real),
        "_fill_signs": (numba.int64, numba.int64, i8[:, :, ::1]),
        "_complex_of": (i8[::1], real, flat),
        "_complex_of real": (numbers, real, flat),
        "_real_part": (flat, numbers),
        "_take_probe": (i8[::1], numbers, numbers, numbers, real, real, real),
        "_invert": (numbers, real, numbers, numbers),
        "_add_mirror": (plane, plane),
        "_add_mirror_real": (real[:, ::1], real[:, ::1]),
        "_from_exact": (numba.int64[::1], f64[::1], numbers),
        "_clear": (flat,),
        "_clear real": (numbers,),
        "_clear whole": (numba.int64[::1],),
        "_clear sums": (f64[::1],),
        "_largest": (flat, f64[::1]),
        "_largest real": (numbers, f64[::1]),
        "_exact_scale": (f64[::1], f64, f64, f64[::1]),
        "_add_planes": (sums, f64, f64[::1]),
    }


def axis_signatures(real=numba.float32):
    """Return the types of the arguments of the kernels about FFTs, by name."""
    complex_ = numba.complex64 if real == numba.float32 else numba.complex128
    cube = complex_[:, :, ::1]
    return {
        "_select": (cube, numba.int32[:, ::1], real[:, ::1], cube),
        "_keep_real": (complex_[::1], real[::1], real),
    }


def preparation_signatures(real=numba.float32):
    """Return the types of the arguments of the kernels that prepare images, by name."""
    i64, f64 = numba.int64, numba.float64
    complex_ = numba.complex64 if real == numba.float32 else numba.complex128
    lines, table, numbers = i64[::1], f64[:, ::1], f64[::1]
    places, weights = numba.int16[:, ::1], real[:, ::1]
    warps = f64[:, :, ::1]
    tables = warps, table, table, table, numbers, lines, f64, table
    return {
        "_to_complex": (real[::1], complex_[::1]),
        "_pack_images": (
            *(complex_[:, :, ::1], lines, lines, table, places, table),
            *tables,
            *(weights, complex_[:, ::1], table),
        ),
        "_prepare_weights": (
            *(lines, lines, places, table),
            *(warps, table, numbers, f64, table, weights),
        ),
    }


def all_kernels(real=numba.float32, windows=None):
    """Yield (name, kernel, signature) of every CUDA kernel of the package, of all windows or some.

    Wide windows have their width for a name.
    """
    from fastcryo.card_volumes import WINDOWS, kernels_of
    from fastcryo.kernels.cuda import axes, ctf, prepare, slicing, vectors

    for window in windows or WINDOWS:
        for exact in (False, True):
            kernels = kernels_of(window, numba.np.numpy_support.as_dtype(real), exact)
            for name, types in signatures(exact, real).items():
                label = f"{window} {name}{' exact' if exact else ''}"
                yield label, getattr(kernels, name), types
    for name, types in vector_signatures(real).items():
        yield name.lstrip("_"), getattr(vectors, name.split()[0]), types
    for name, types in axis_signatures(real).items():
        yield name.lstrip("_"), getattr(axes, name), types
    for name, types in preparation_signatures(real).items():
        yield name.lstrip("_"), getattr(prepare, name), types
    table, numbers = numba.float64[:, ::1], numba.float64[::1]
    yield "evaluate", ctf._evaluate, (table, numbers, numbers, table)
    yield "add_columns", slicing.add_columns, (numba.float64[:, ::1], numba.float64[:, ::1])


def compile_to_ptx(kernel, types, capability):
    """Return the PTX of a kernel for a compute capability, without a card or driver.

    Numba asks the current card which capability its device functions are for; here it is told.
    """
    from numba import cuda
    from numba.cuda import dispatcher

    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        return cuda.compile_ptx(kernel.py_func, types, cc=capability, device=False)[0]
    finally:
        dispatcher.get_current_device = asked


def find_ptxas():
    """Return the assembler of the wheel nvidia-cuda-nvcc, or that on the path; None if none.

    The wheel comes first: it is of the same version as the compiler that writes the PTX.
    """
    packages = Path(np.__file__).parents[1]
    inside = sorted(packages.glob("nvidia/*/bin/ptxas"))
    return str(inside[-1]) if inside else shutil.which("ptxas")


def assemble(ptxas, ptx, capability):
    """Return registers, shared memory, stack and spilled bytes of a kernel."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        target = f"sm_{capability[0]}{capability[1]}"
        command = [ptxas, "-v", "-arch", target, "-o", str(source) + ".o", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    stack, stores, loads = MEMORY.findall(said)[-1]
    shared = SHARED.search(said)
    return {
        "registers": int(REGISTERS.search(said)[1]),
        "shared": int(shared[1]) if shared else 0,
        "stack": int(stack),
        "spilled": int(stores) + int(loads),
    }


def resident_threads(used, capability, threads):
    """Return the threads of a kernel that fit on a multiprocessor beside each other.

    Parameters
    ----------
    used : dict
        From `assemble`.
    capability : (int, int)
    threads : int
        Of a block. A warp gets registers in pieces of 256.
    """
    per_warp = -(-used["registers"] * 32 // 256) * 256
    shared = used["shared"] + (1024 if capability >= (8, 0) else 0)
    by_registers = REGISTER_FILE // (per_warp * threads // 32)
    by_shared = SHARED_MEMORY[capability] // max(1, shared)
    return min(min(by_registers, by_shared) * threads, RESIDENT[capability])
