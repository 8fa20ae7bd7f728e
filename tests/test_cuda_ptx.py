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

from fastcryo.kernels.cuda import axes, prepare, slicing, vectors

# Other widths differ in nothing but the length of loops: `bench/graphics_card.py registers`.
WINDOWS = ("nearest", "trilinear", 5)
KERNELS = {name: (kernel, types) for name, kernel, types in ptx.all_kernels(windows=WINDOWS)}
# Where float64 belongs: sums over images, whole numbers for exact sums, and phases.
SUMS = ("gradient", "energy", "inner", "finish", "damped_norm")
MAY_USE_DOUBLE = (*SUMS, "add_columns", "add_planes", "largest", "pack_images", "prepare_weights")
PTXAS = ptx.find_ptxas()


@pytest.fixture(scope="module", params=ptx.CAPABILITIES, ids="cc{0[0]}.{0[1]}".format)
def compiled(request):
    """Every kernel's PTX for one compute capability."""
    return request.param, {
        name: ptx.compile_to_ptx(kernel, types, request.param)
        for name, (kernel, types) in KERNELS.items()
    }


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


def test_a_thread_of_a_wide_window_adds_one_number_per_row(compiled):
    """W^2 atomic sums, each of a whole row for the 2 W lanes of a sample."""
    text = compiled[1]["5 adjoint"]
    assert (
        instructions(text)["atom.global.add.f32"] + instructions(text)["red.global.add.f32"] == 25
    )


@pytest.mark.skipif(PTXAS is None, reason="needs ptxas, from the wheel nvidia-cuda-nvcc")
def test_no_kernel_spills_registers(compiled):
    capability, texts = compiled
    for name, text in texts.items():
        used = ptx.assemble(PTXAS, text, capability)
        assert used["spilled"] == used["stack"] == 0, name


def test_no_kernel_is_left_out():
    dispatchers = type(slicing.add_columns)
    found = {kernel.py_func for kernel, _ in KERNELS.values()}
    for module in (axes, prepare, slicing, vectors):
        for name, value in vars(module).items():
            if isinstance(value, dispatchers):
                assert value.py_func in found, name
