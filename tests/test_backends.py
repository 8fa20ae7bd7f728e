"""Which backend is taken, and what is said where CUDA cannot be used."""

import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import fastcryo as fc
from fastcryo import backends
from fastcryo.errors import InputError


@pytest.fixture(autouse=True)
def forget():
    backends.why_not_cuda.cache_clear()
    backends.say_once.cache_clear()
    yield
    backends.why_not_cuda.cache_clear()
    backends.say_once.cache_clear()


@pytest.fixture
def real(monkeypatch):
    """Pretend that a driver is there and nothing is simulated; returns what CUDA looks like."""
    monkeypatch.setattr(backends.numba.config, "ENABLE_CUDASIM", 0)
    monkeypatch.setattr(backends, "_driver_is_there", lambda: True)
    monkeypatch.setattr(backends, "_try_kernel", lambda: None)
    device = SimpleNamespace(compute_capability=(9, 0), name=b"NVIDIA H100")
    cuda = SimpleNamespace(said=None, gpus=[device], get_current_device=lambda: device)
    # As Numba's: nothing is said before the driver was started.
    started = []
    cuda.is_available = lambda: started.append(True) or cuda.said is None
    cuda.cuda_error = lambda: cuda.said if started else None
    from fastcryo.kernels.cuda import _jit

    monkeypatch.setattr(_jit, "cuda", cuda)
    return cuda, device


def refusal(name="cuda"):
    with pytest.raises(InputError) as caught:
        fc.SliceOperator(fc.FourierGrid(8), backend=name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("backend: ")
    assert message.endswith("or use the CPU (backend 'cpu')")
    return message


def test_no_driver(real, monkeypatch):
    monkeypatch.setattr(backends, "_driver_is_there", lambda: False)
    assert "no NVIDIA driver is installed" in refusal()
    assert "install that of your card" in refusal("cuda-deterministic")


def test_a_driver_that_does_not_answer(real):
    real[0].said = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)\n"
    assert "does not answer (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)): update" in refusal()


@pytest.mark.parametrize("said", [None, "Call to cuInit results in CUDA_ERROR_NO_DEVICE (100)"])
def test_no_card(said, real):
    real[0].gpus, real[0].said = [], said
    assert "no NVIDIA card is visible: look at nvidia-smi" in refusal()


def test_too_old_a_card(real):
    real[1].compute_capability = (6, 1)
    assert "compute capability 6.1, 7.5 or more is needed" in refusal()


def test_no_toolkit(real, monkeypatch):
    def fail():
        raise RuntimeError("libNVVM cannot be found.\nSearched in many places")

    monkeypatch.setattr(backends, "_try_kernel", fail)
    assert "libNVVM cannot be found" in refusal()
    assert "pip install 'fastcryo[cuda]'" in refusal()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY",
            "the memory of the card is in use .*: close other programs that use it, or",
        ),
        (
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled with another",
            "the NVIDIA driver is older than the CUDA that is installed .*: update the driver, or",
        ),
    ],
    ids=["memory in use", "old driver"],
)
def test_a_card_that_refuses_the_first_kernel(error, words, real, monkeypatch):
    def fail():
        raise RuntimeError(error)

    monkeypatch.setattr(backends, "_try_kernel", fail)
    assert re.search(words, refusal())


def test_out_of_the_memory_of_the_card():
    with pytest.raises(InputError, match="memory of the card is too small for box 256"), on_card():
        raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(InputError, match="of the card is too small"), on_card():
        raise RuntimeError("CUFFT_ALLOC_FAILED")
    with pytest.raises(RuntimeError, match="an illegal memory access"), on_card():
        raise RuntimeError("an illegal memory access was encountered")
    with pytest.raises(MemoryError, match="Unable to allocate"), on_card():
        np.empty(1 << 55)


def on_card():
    return backends.on_card(256)


@pytest.mark.parametrize("complete", [True, False])
def test_ffts_are_those_of_cupy_only_if_it_finds_its_libraries(complete, monkeypatch, capsys):
    error = None if complete else RuntimeError("libcufft.so.12: cannot open shared object file")
    assert (fft_of_a_cupy_that_raises(error, monkeypatch) is not None) == complete
    assert ("cupy has no FFT (libcufft.so.12: cannot" in capsys.readouterr().err) != complete


@pytest.mark.parametrize("error", [MemoryError("out of memory"), TypeError("overwrite_x")])
def test_other_failures_of_cupy_are_no_reason_to_transform_on_the_host(error, monkeypatch):
    with pytest.raises(type(error), match=str(error)):
        fft_of_a_cupy_that_raises(error, monkeypatch)


def fft_of_a_cupy_that_raises(error, monkeypatch):
    """Return what `card_fft` finds beside a cupy whose transforms raise an error, or do nothing."""
    from fastcryo import card_fft

    def fft(array, axis, overwrite_x, norm="backward"):
        if error is not None:
            raise error
        return array

    array = SimpleNamespace(data=SimpleNamespace(ptr=1))
    cupy = SimpleNamespace(zeros=lambda shape, dtype: array, asarray=lambda values: values)
    module = ModuleType("cupyx.scipy")
    module.fft = SimpleNamespace(fft=fft, ifft=fft)
    for name, value in {"cupy": cupy, "cupyx": ModuleType("cupyx"), "cupyx.scipy": module}.items():
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.setattr(card_fft, "SIMULATED", False)
    return card_fft.card_fft.__wrapped__()


def test_auto_goes_on_with_the_cpu_and_says_so_once(real, capsys):
    real[0].gpus = []
    grid = fc.FourierGrid(8)
    operators = [fc.SliceOperator(grid, backend="auto") for _ in range(3)]
    assert {operator.backend for operator in operators} == {"cpu"}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("fastcryo: backend auto: CPU, because no NVIDIA card is visible")
    assert operators[0].forward(grid.zeros(), np.eye(3)[None]).shape == (1, operators[0].samples)


def test_auto_says_which_card_it_takes(real, capsys):
    assert backends.choose_backend("auto") == "cuda"
    assert capsys.readouterr().err == "fastcryo: backend auto: CUDA: NVIDIA H100\n"


def test_the_cpu_is_taken_without_a_word(capsys):
    assert fc.SliceOperator(fc.FourierGrid(8), backend="cpu").backend == "cpu"
    assert capsys.readouterr().err == ""


def test_import_looks_for_no_cuda():
    code = "import sys, fastcryo, fastcryo.cli; print([m for m in sys.modules if 'cuda' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [m for m in eval(done.stdout) if m.split(".")[0] != "_numba_cuda_redirector"] == []
