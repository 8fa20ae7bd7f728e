"""Wheel and sdist hold the kernels; importing the package is light and compiles nothing."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numba
import pytest

from fastcryo.kernels._jit import serial

ROOT = Path(__file__).resolve().parents[1]


def tracked(*folders):
    found = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode or not found.stdout:
        pytest.skip("not a git checkout: no list of files to compare with")
    return set(found.stdout.split())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build sdist and, from it, the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_wheel_holds_all_tracked_code(built):
    names = {
        name.replace("kernels/", "fastcryo/kernels/", 1) if name.startswith("kernels/") else name
        for name in tracked("fastcryo", "kernels")
    }
    (wheel,) = built.glob("*.whl")
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert inside == names


def test_sdist_holds_all_tracked_code_and_tests(built):
    names = tracked("fastcryo", "kernels", "tests", "bench", "docs")
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert names <= inside


def test_version_stands_in_one_place(built):
    import fastcryo

    (wheel,) = built.glob("*.whl")
    assert wheel.name.startswith(f"fastcryo-{fastcryo.__version__}-")


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_is_light():
    heavy = "[m for m in ('matplotlib', 'rich', 'scipy.fft', 'scipy.spatial') if m in sys.modules]"
    assert run_python(f"import sys, fastcryo; print(*{heavy})") == []


def test_import_compiles_nothing():
    code = (
        "import gc, fastcryo, fastcryo.cli\n"
        "from numba.core.dispatcher import Dispatcher\n"
        "found = [d for d in gc.get_objects() if isinstance(d, Dispatcher)\n"
        "         and d.py_func.__module__.startswith('fastcryo')]\n"
        "print(len(found) > 5, sum(len(d.signatures) for d in found))"
    )
    assert run_python(code) == ["True", "0"]


AN_EPOCH = """
import sys
import numba
import numpy as np
import fastcryo as fc
images = np.random.default_rng(0).standard_normal((4, 32, 32), dtype=np.float32)
views = fc.rotation_matrices(*np.random.default_rng(1).uniform(0, 180, (3, 4)))
problem = fc.KnownPoseProblem.from_arrays(images, views, 1.5)
fc.sgd(problem, epochs=1)
print("scipy.linalg" in sys.modules)
product = numba.njit(lambda a, b: a @ b)(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
print(*product.ravel())
"""


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_kernels_do_without_scipys_linear_algebra_and_others_still_get_it():
    assert run_python(AN_EPOCH) == ["False", "1.0", "2.0", "3.0", "4.0"]


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
@pytest.mark.parametrize("user_folder", ["writable", "read-only"])
def test_a_read_only_installation_compiles_into_the_users_cache_or_into_memory(
    user_folder, tmp_path
):
    refused = ["InTree"] if user_folder == "writable" else ["InTree", "UserWide"]
    code = (
        "import numba.core.caching as caching\n"
        "def refuse(locator):\n"
        "    raise OSError('Read-only file system')\n"
        "for name, value in list(vars(caching).items()):\n"
        f"    if any(start in name for start in {refused}) and isinstance(value, type):\n"
        "        value.ensure_cache_path = refuse\n"
        "import numpy as np, fastcryo as fc\n"
        "grid = fc.FourierGrid(8)\n"
        "volume = grid.from_real(np.ones((8, 8, 8)))\n"
        "print(grid.inner(volume, volume))"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert float(done.stdout) == 512.0**2
    written = list(tmp_path.rglob("*.nbc"))
    assert bool(written) == (user_folder == "writable")


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_compiled_kernels_are_found_again_by_another_process():
    """The keys of kernels that a factory makes depend on all that they use."""
    code = (
        "from fastcryo.tile_sweeps import KERNELS\n"
        "from numba.core.registry import cpu_target\n"
        "codegen = cpu_target.target_context.codegen()\n"
        "for kernels in KERNELS.values():\n"
        "    for kernel in vars(kernels).values():\n"
        "        if hasattr(kernel, '__wrapped__'):\n"
        "            print(kernel.__wrapped__._cache._index_key((), codegen)[-1][1])"
    )
    keys = run_python(code)
    assert len(keys) == 10
    assert len(set(keys)) == len(keys)
    assert run_python(code) == keys


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_processes_that_compile_at_the_same_time_do_not_swap_kernels(tmp_path, monkeypatch):
    """Two write the index before either writes its kernel, and number their files alike."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def compiled():
        return 1

    first, second = (serial(compiled)._cache._cache_file for _ in range(2))
    save_data = first._save_data

    def save_data_last(name, data):
        with monkeypatch.context() as too_early:
            too_early.setattr(second, "_load_index", dict)
            second.save("key of second", "second")
        save_data(name, data)

    monkeypatch.setattr(first, "_save_data", save_data_last)
    first.save("key of first", "first")
    assert second.load("key of second") == "second"
    assert second.load("key of first") in (None, "first")


def kernels_package(folder):
    """Make a package fastcryo.kernels that holds `_jit` alone."""
    package = folder / "fastcryo" / "kernels"
    package.mkdir(parents=True)
    (folder / "fastcryo" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "_jit.py").write_text((ROOT / "kernels" / "_jit.py").read_text())
    return package


def run_in(folder, code):
    """Return the words that code prints, run with the packages of a folder."""
    code = f"import site; site.main()\nimport sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_kernels_of_one_factory_compiled_by_two_processes_are_not_mixed_up(tmp_path):
    """Their inner functions have the same name and types, and the same place in each process."""
    # Too long to be inlined: it stays a symbol of its own.
    steps = [f"        t = t * {3 + i} + (t >> {i % 5 + 1}) ^ number" for i in range(100)]
    steps += [f"        if t % {i + 7} == number:\n            t += {i}" for i in range(100)]
    (kernels_package(tmp_path) / "factory.py").write_text(
        "from fastcryo.kernels._jit import register, serial\n"
        "def make(number):\n"
        "    @register\n"
        "    def inner(t):\n" + "\n".join(steps) + "\n"
        "        return t\n"
        "    @serial\n"
        "    def outer(x, y):\n"
        "        return inner(x) - inner(y)\n"
        "    return outer\n"
        "one, two = make(1), make(2)\n"
    )
    load = "from fastcryo.kernels.factory import one, two\n"
    (first,) = run_in(tmp_path, load + "print(one(5, 6))")
    (second,) = run_in(tmp_path, load + "print(two(5, 6))")
    assert first != second
    both = "print(one(5, 6), two(5, 6), *one.stats.cache_hits.values())"
    assert run_in(tmp_path, load + both) == [first, second, "1"]


def test_compiled_kernels_are_dropped_when_another_kernel_file_changes(tmp_path):
    """Numba itself looks only at the file of the function that is called."""
    package = kernels_package(tmp_path)
    (package / "callee.py").write_text(
        "from fastcryo.kernels._jit import register\n@register\ndef value():\n    return 1\n"
    )
    (package / "caller.py").write_text(
        "from fastcryo.kernels._jit import serial\nfrom fastcryo.kernels.callee import value\n"
        "@serial\ndef call():\n    return value()\n"
    )
    code = (
        "from fastcryo.kernels.caller import call\n"
        "print(call(), sum(call.stats.cache_hits.values()))"
    )

    def run():
        return run_in(tmp_path, code)

    assert run() == ["1", "0"]
    assert run() == ["1", "1"]
    callee = package / "callee.py"
    callee.write_text(callee.read_text().replace("return 1", "return 2"))
    assert run() == ["2", "0"]
