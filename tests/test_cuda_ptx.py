"""Every CUDA kernel compiled for real, without a card: the simulator checks no types.

Needs the extra ``fastcryo[cuda]``, neither a card nor a driver.
"""

import collections

import numba
import pytest

pytest.importorskip("numba_cuda", reason="needs the extra fastcryo[cuda]")
if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)

from measure import ptx

from fastcryo.kernels.cuda import _jit, axes, ctf, prepare, slicing, vectors

# Widths differ in the length of loops, which decides how many registers they take: all of them are
# compiled for one card, for the others those that users get unless they ask.
WINDOWS = {(7, 5): ("nearest", "trilinear", 5), (8, 0): None, (9, 0): ("nearest", "trilinear", 5)}
# Where float64 belongs: sums over images, whole numbers for exact sums, and phases.
SUMS = ("gradient", "energy", "inner", "finish", "damped_norm")
PHASES = ("pack_images", "prepare_weights", "evaluate")
MAY_USE_DOUBLE = (*SUMS, "add_columns", "add_planes", "largest", *PHASES)
PTXAS = ptx.find_ptxas()


def compile_all(capability, real, windows):
    """Return the PTX of all kernels of some windows, by name."""
    return {
        name: ptx.compile_to_ptx(kernel, types, capability)
        for name, kernel, types in ptx.all_kernels(real, windows)
    }


@pytest.fixture(scope="module", params=ptx.CAPABILITIES, ids="cc{0[0]}.{0[1]}".format)
def compiled(request):
    """Every kernel's PTX for one compute capability."""
    return request.param, compile_all(request.param, numba.float32, WINDOWS[request.param])


@pytest.fixture(scope="module")
def compiled_in_double():
    """Kernels in double precision: the default window and the widest."""
    return (8, 0), compile_all((8, 0), numba.float64, ("trilinear", 6))


def instructions(text):
    """Count the instructions of PTX by their first word."""
    lines = (line.split() for line in text.splitlines() if line.startswith("\t"))
    words = [line[1] if line[0].startswith("@") else line[0] for line in lines]
    return collections.Counter(word.rstrip(";") for word in words if word[0] != ".")


def test_every_kernel_compiles_and_its_sums_are_native_atomics(compiled):
    capability, texts = compiled
    for name, text in texts.items():
        assert f".target sm_{capability[0]}{capability[1]}" in text
        used = instructions(text)
        atomics = {word for word in used if word.startswith(("atom.", "red."))}
        adds = name.split()[-1] in ("adjoint", "gradient", "gradient_pair", "diagonal", "gridding")
        if name.endswith(" exact"):
            assert atomics <= {"atom.global.add.u64", "red.global.add.u64"}, name
            assert atomics
        else:
            assert all(word.endswith(".f32") and ".add." in word for word in atomics), name
            assert bool(atomics) == adds, name
        # An atomic sum that the card lacks would be a loop about a comparison.
        assert not any(".cas." in word for word in used), name


def test_float64_stays_in_sums_over_images(compiled):
    for name, text in compiled[1].items():
        if "exact" in name or any(word in name for word in MAY_USE_DOUBLE):
            continue
        doubles = [word for word in instructions(text) if "f64" in word]
        assert doubles == [], name


def test_sums_in_float64_are_sums_alone(compiled):
    """Products are taken in the precision of the volume: few cards are fast in float64."""
    for name, text in compiled[1].items():
        if "exact" not in name and any(word in name for word in ("gradient", "energy", "finish")):
            words = {word.split(".")[0] for word in instructions(text) if "f64" in word}
            assert words <= {"add", "cvt", "ld", "st", "mov", "selp"}, name


def test_double_precision_stays_double(compiled_in_double):
    for name, text in compiled_in_double[1].items():
        used = instructions(text)
        # The exponential of phases tests its argument by half of its bits.
        assert name in PHASES or not any("f32" in word for word in used), name
        assert not any(".cas." in word for word in used), name
        sums = [word for word in used if word.startswith(("atom.", "red."))]
        assert all(word.endswith((".add.f64", ".add.u64")) for word in sums), name


def test_places_within_cells_are_read_in_the_precision_of_the_volume(compiled, compiled_in_double):
    """24 bits of a position in single precision, all 52 in double; by an overload on the type."""
    bits = [str(2**n - 1) for n in (24, 52)]
    for (_, texts), expected in ((compiled, [True, False]), (compiled_in_double, [False, True])):
        assert [word in texts["trilinear forward"] for word in bits] == expected


def test_a_thread_of_a_wide_window_adds_one_number_per_row(compiled):
    """W^2 atomic sums, each of a whole row for the 2 W lanes of a sample."""
    for width in (4, 5, 6):
        if f"{width} adjoint" in compiled[1]:
            used = instructions(compiled[1][f"{width} adjoint"])
            sums = used["atom.global.add.f32"] + used["red.global.add.f32"]
            # A loop over rows is unrolled as far as the compiler likes; of the default, wholly.
            assert sums == 25 if width == 5 else width**2 % sums == 0


def test_launches_are_within_what_cards_allow():
    for samples in (20, 14173, 102_000, 10**9):
        for images in (1, 36, 1000, 10**7):
            for at_a_time in (_jit.TILE, _jit.THREADS):
                across, down = _jit.launch_shape(samples, images, at_a_time)
                assert 1 <= across * down <= _jit.BLOCKS <= 65535
    assert _jit.THREADS <= 1024
    assert _jit.THREADS & (_jit.THREADS - 1) == 0, "sums halve the threads"


@pytest.mark.skipif(PTXAS is None, reason="needs ptxas, from the wheel nvidia-cuda-nvcc")
def test_no_kernel_spills_registers_and_all_of_a_block_fit(compiled):
    check_registers(*compiled)


@pytest.mark.skipif(PTXAS is None, reason="needs ptxas, from the wheel nvidia-cuda-nvcc")
def test_no_kernel_spills_registers_in_double_precision(compiled_in_double):
    check_registers(*compiled_in_double)


def check_registers(capability, texts):
    for name, text in texts.items():
        used = ptx.assemble(PTXAS, text, capability)
        assert used["spilled"] == used["stack"] == 0, name
        assert ptx.resident_threads(used, capability, _jit.THREADS) >= _jit.THREADS, name


def test_no_kernel_is_left_out():
    dispatchers = type(slicing.add_columns)
    found = {kernel.py_func for _, kernel, _ in ptx.all_kernels(windows=("trilinear",))}
    for module in (axes, ctf, prepare, slicing, vectors):
        for name, value in vars(module).items():
            if isinstance(value, dispatchers):
                assert value.py_func in found, name
