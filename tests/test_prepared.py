"""Prepared images on disk: the same results as in memory, and nothing but what was asked for."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections import namedtuple

import numpy as np
import pytest

import fastcryo as fc
import fastcryo.packing
import fastcryo.prepared
import fastcryo.rows
from fastcryo.cli import main
from fastcryo.errors import InputError
from fastcryo.particles import Particles
from fastcryo.prepared import read_header
from fastcryo.problem import KnownPoseProblem
from fastcryo.solvers import conjugate_gradient
from fastcryo.threads import use_threads

from . import naive
from .test_preparation import make_particles

BOX, COUNT = 16, 40
KINDS = ("float32", "float16", "int16")
# Rounding to 11 bits errs by at most 2^-11 of each value, 2^-11 / sqrt(3) in the mean of squares of
# evenly spread remainders at most; whole numbers up to 32767 by half of one: values whose largest
# is five times their mean square root err by 5 / 32767 / sqrt(12).
ERRORS = {"float16": 2.0**-11 / 3**0.5, "int16": 6 / 32767 / 12**0.5}


@pytest.fixture(autouse=True)
def one_thread():
    with use_threads(1):
        yield


@pytest.fixture
def particles(tmp_path):
    (tmp_path / "stacks").mkdir()
    data = naive.data_set(BOX, count=COUNT)
    order = np.random.default_rng(4).permutation(COUNT)
    return make_particles(tmp_path / "stacks", data, order)


def build(particles, store=None, kind="float32", **options):
    options = {"noise_std": np.linspace(20, 10, 8), "regularization": 1e-3, **options}
    return KnownPoseProblem.from_particles(particles, store=store, storage=kind, **options)


def volume_for(problem, seed=0):
    values = np.random.default_rng(seed).normal(size=(problem.grid.box,) * 3)
    return problem.grid.from_real(values.astype(np.float32))


def results(problem):
    """All that is computed from the rows, by name."""
    volume = volume_for(problem)
    batch = np.random.default_rng(1).permutation(len(problem))[:17]
    half = problem.select(np.arange(0, len(problem), 2))
    direction = volume_for(problem, seed=1)
    loss, gradient, product = problem.loss_gradient_and_product(volume, direction.real, batch)
    return {
        "fused": np.stack([gradient, product]),
        "fused losses": np.array([loss, *half.loss_and_curvature(volume, direction)]),
        "gradient": problem.loss_and_gradient(volume)[1],
        "losses": np.array([problem.loss(volume), problem.loss(volume, batch), half.loss(volume)]),
        "hvp": problem.hvp(volume, batch),
        "curvature": np.array(problem.curvature(volume)),
        "exact": problem.hessian_diagonal(),
        "gridding": half.gridding_weight(),
        "assembled": problem.normal_operator().matvec(volume),
        "condition": fc.conditioning.condition_number_by_radius(problem).with_ctf,
        "sgd": fc.sgd(problem, epochs=2, batch_size=9, rng=3).volume,
        "cg": conjugate_gradient(half, max_iterations=3).volume,
    }


@pytest.mark.parametrize("per_block", [1000, 7])
@pytest.mark.parametrize("with_ctf", [True, False])
def test_a_set_on_disk_gives_the_bits_of_one_in_memory(
    particles, tmp_path, monkeypatch, with_ctf, per_block
):
    if not with_ctf:
        particles = dataclasses.replace(particles, ctf=None)
    in_memory = build(particles)
    block = fastcryo.rows.SAMPLE_BYTES * in_memory.operator.samples * per_block
    monkeypatch.setattr(fastcryo.rows, "BLOCK_BYTES", block)
    expected = results(in_memory)
    for opened in range(2):
        on_disk = build(particles, tmp_path / "set")
        assert (tmp_path / "set" / "weights.npy").exists() == with_ctf
        np.testing.assert_array_equal(np.asarray(on_disk.data), in_memory.data)
        np.testing.assert_array_equal(np.asarray(on_disk.weights), in_memory.weights)
        np.testing.assert_array_equal(on_disk.energies, in_memory.energies)
        for name, value in results(on_disk).items():
            assert value.tobytes() == expected[name].tobytes(), (name, opened)


def test_blocks_change_no_more_than_the_order_of_sums(particles, monkeypatch):
    problem = build(particles)
    whole = results(problem)
    block = 3 * fastcryo.rows.SAMPLE_BYTES * problem.operator.samples
    monkeypatch.setattr(fastcryo.rows, "BLOCK_BYTES", block)
    for name, value in results(problem).items():
        limit = 1e-5 * np.abs(whole[name]).max()
        np.testing.assert_allclose(value, whole[name], rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("kind", ["float16", "int16"])
def test_codes_of_two_bytes_err_as_little_as_their_header_says(tmp_path, monkeypatch, kind, offset):
    # A mean of the pixels far from zero, ten thousand times their spread, must cost no digit.
    monkeypatch.setattr(fastcryo.prepared, "IMAGES_FOR_ERROR", COUNT)
    data = naive.data_set(BOX, count=COUNT)
    data.images += offset
    particles = make_particles(tmp_path, data)
    exact = build(particles)
    coded = build(particles, tmp_path / "set", kind)
    stated = read_header(tmp_path / "set")["relative_rms_error"]
    assert 0 < max(stated.values()) < ERRORS[kind]
    origin = exact.operator.origin
    sigma = 1 / np.sqrt(np.asarray(build(dataclasses.replace(particles, ctf=None)).weights))
    sigma[:, origin] /= np.sqrt(2)
    for name, scale in (("data", sigma), ("weights", sigma**2)):
        ours, right = (np.asarray(getattr(p, name)) * scale for p in (coded, exact))
        if name == "data":
            np.testing.assert_allclose(ours[:, origin], right[:, origin], rtol=1e-6)
            ours[:, origin] = right[:, origin] = 0
        error = np.linalg.norm(ours - right) / np.linalg.norm(right)
        assert error == pytest.approx(stated[name], rel=1e-3)
    size = sum(path.stat().st_size for path in (tmp_path / "set").glob("[dw]*.npy"))
    assert size - 2 * 128 == 6 * COUNT * exact.operator.samples
    # What is computed errs about as little: as many roundings go into a coefficient as images.
    expected = results(exact)
    for name in ("gradient", "hvp", "exact"):
        error = np.linalg.norm(results(coded)[name] - expected[name])
        assert error < 2 * ERRORS[kind] * np.linalg.norm(expected[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_block", [1000, 7])
def test_codes_give_the_same_bits_however_they_were_written(
    particles, tmp_path, monkeypatch, kind, per_block
):
    first = build(particles, tmp_path / "first", kind)
    monkeypatch.setattr(fastcryo.packing, "BLOCK_BYTES", 8 * BOX**2 * 5)
    monkeypatch.setattr(fastcryo.threads, "thread_count", lambda: 3)
    build(particles, tmp_path / "second", kind)
    for path in (tmp_path / "first").glob("*"):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name
    # Rows asked for by number are those of the whole, in any order.
    rows = np.array([5, 3, 39, 3])
    np.testing.assert_array_equal(first.data[rows], np.asarray(first.data)[rows])
    assert first.data.shape == (COUNT, first.operator.samples)
    assert first.data.dtype == np.complex64
    assert first.weights.dtype == np.float32
    assert first.select([1, 2]).data is first.data


def test_an_opened_set_reads_no_image_and_says_that_it_is_done(particles, tmp_path, monkeypatch):
    build(particles, tmp_path / "set")

    def fails(self, *arguments, **options):
        raise AssertionError

    monkeypatch.setattr(Particles, "images", fails)
    told = []
    build(particles, tmp_path / "set", progress=lambda *numbers: told.append(numbers))
    assert told == [(COUNT, COUNT)]
    # Poses are no part of what is prepared.
    turned = dataclasses.replace(particles, rotations=particles.rotations[::-1])
    build(turned, tmp_path / "set")
    # Rounding of another machine in sigma does not count.
    build(particles, tmp_path / "set", noise_std=np.linspace(20, 10, 8) * (1 + 1e-9))


CHANGES = {
    r"its number of particles is 40, 39 is asked for": lambda p: (p.select(np.arange(39)), {}),
    r"its images are others": lambda p: (p.select(np.r_[1, 0, 2:COUNT]), {}),
    r"its shifts are others": lambda p: (dataclasses.replace(p, shifts=p.shifts + 1e-9), {}),
    r"its CTF parameters are others": lambda p: (dataclasses.replace(p, ctf=None), {}),
    r"its pixel size is 3.0, 3.1 is asked": lambda p: (dataclasses.replace(p, pixel_size=3.1), {}),
    r"its last shell \(--box, --maxres\) is 7, 5 is asked for": lambda p: (p, {"box": 12}),
    r"its inversion of the contrast is False, True is": lambda p: (p, {"invert": True}),
    r"its noise_std \(sigma by shell\) is another": lambda p: (p, {"noise_std": 20.0}),
    r"its type of numbers is float32, int16 is asked for": lambda p: (p, {"kind": "int16"}),
    r"1\.mrcs has changed since it was made \(1 stacks": lambda p: (touched(p), {}),
}


def touched(particles):
    os.utime(particles.stacks[1], ns=(1, 1))
    return particles


@pytest.mark.parametrize("message", CHANGES)
def test_a_set_of_something_else_is_refused_unless_it_may_be_replaced(particles, tmp_path, message):
    build(particles, tmp_path / "set")
    other, options = CHANGES[message](particles)
    pattern = f"^{tmp_path / 'set'}: {message}.*, choose another folder .* --overwrite$"
    with pytest.raises(InputError, match=pattern):
        build(other, tmp_path / "set", **options)
    replaced = build(other, tmp_path / "set", overwrite=True, **options)
    options.pop("kind", None)
    expected = build(other, **options)
    np.testing.assert_allclose(replaced.data, expected.data, rtol=0.01, atol=0.02)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "stacks"]


DAMAGES = {
    "data.npy is damaged": lambda f: os.truncate(f / "data.npy", 5000),
    "weights.npy is missing or damaged": lambda f: (f / "weights.npy").unlink(),
    "energies.npy is missing or damaged": lambda f: (f / "energies.npy").write_bytes(b"1"),
    "its format 0 is that of another version": lambda f: (f / "header.json").write_text(
        (f / "header.json").read_text().replace('"version": 1', '"version": 0')
    ),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_set_is_refused_and_can_be_replaced(particles, tmp_path, message):
    build(particles, tmp_path / "set")
    DAMAGES[message](tmp_path / "set")
    with pytest.raises(InputError, match=f": {message}.*, choose another folder"):
        build(particles, tmp_path / "set")
    replaced = build(particles, tmp_path / "set", overwrite=True)
    np.testing.assert_array_equal(replaced.data, build(particles).data)


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "years of work"},
        {"header.json": "{", "data.npy": ""},
        {"header.json": '{"format": "something else"}'},
        {"header.json": "[1]"},
    ],
)
def test_a_folder_of_other_files_is_left_alone(particles, tmp_path, files):
    (tmp_path / "set").mkdir()
    for name, text in files.items():
        (tmp_path / "set" / name).write_text(text)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds something else than prepared images"):
            build(particles, tmp_path / "set", overwrite=overwrite)
    assert {p.name: p.read_text() for p in (tmp_path / "set").iterdir()} == files


def test_an_empty_folder_and_one_that_is_not_there_are_filled(particles, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        build(particles, folder)
        assert read_header(folder)["images"] == COUNT


def test_a_link_is_followed(particles, tmp_path):
    (tmp_path / "scratch" / "set").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "scratch" / "set")
    build(particles, tmp_path / "link")
    build(particles, tmp_path / "link", noise_std=2.0, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert read_header(tmp_path / "scratch" / "set")["noise_std"][0] == 2.0
    assert os.listdir(tmp_path / "scratch") == ["set"]


def test_a_file_in_place_of_the_folder_is_refused(particles, tmp_path):
    (tmp_path / "set").write_text("x")
    with pytest.raises(InputError, match="holds something else"):
        build(particles, tmp_path / "set", overwrite=True)


def test_what_no_set_on_disk_can_serve_is_refused(particles, tmp_path):
    with pytest.raises(InputError, match="are in single precision, use dtype float32"):
        build(particles, tmp_path / "set", dtype="float64")
    with pytest.raises(InputError, match="leave it out where metadata suffice"):
        build(particles, tmp_path / "set", metadata_only=True)
    with pytest.raises(InputError, match="'float8' is unknown, choose from float32, float16, int1"):
        build(particles, tmp_path / "set", "float8")
    with pytest.raises(InputError, match="names no images"):
        build(dataclasses.replace(particles, stacks=()), tmp_path / "set")
    particles.stacks[1].unlink()
    with pytest.raises(InputError, match=r"1\.mrcs: cannot be read"):
        build(particles, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_too_little_space_is_said_before_anything_is_written(particles, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    needed = COUNT * (build(particles).operator.samples * 12 + 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed - 1))
    with pytest.raises(InputError, match=r"GiB are needed .*, .* GiB are free, choose another"):
        build(particles, tmp_path / "set")
    assert os.listdir(tmp_path) == ["stacks"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed))
    build(particles, tmp_path / "set")


def test_a_failure_while_writing_leaves_nothing(particles, tmp_path, monkeypatch):
    monkeypatch.setattr(fastcryo.packing, "BLOCK_BYTES", 8 * BOX**2 * 5)
    build(particles, tmp_path / "set")
    before = {p.name: p.read_bytes() for p in (tmp_path / "set").iterdir()}

    def stop(done, total):
        raise KeyboardInterrupt

    for folder in ("set", "other"):
        with pytest.raises(KeyboardInterrupt):
            build(particles, tmp_path / folder, noise_std=3.0, overwrite=True, progress=stop)
    with particles.stacks[2].open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match="1 of 5 images contain NaN"):
        build(particles, tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["set", "stacks"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "set").iterdir()} == before


KILLED = """
import os, signal, sys
import fastcryo.packing
from fastcryo.particles import read_particles
from fastcryo.problem import KnownPoseProblem
fastcryo.packing.BLOCK_BYTES = 8 * 16**2 * 5
def progress(done, total):
    if done >= 20:
        os.kill(os.getpid(), signal.SIGKILL)
KnownPoseProblem.from_particles(read_particles(sys.argv[1]), store=sys.argv[2], progress=progress)
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    command = f"simulate {folder}/set --box {BOX} --count {COUNT} --snr 1 --angpix 6 --seed 5"
    assert main(command.split()) == 0
    return folder / "set" / "particles.star"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_that_is_killed_leaves_no_set_under_the_name(simulated, tmp_path):
    command = [sys.executable, "-c", KILLED, simulated, tmp_path / "set"]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "set").exists()
    particles = fc.read_particles(simulated)
    problem = KnownPoseProblem.from_particles(particles, store=tmp_path / "set")
    expected = KnownPoseProblem.from_particles(particles)
    np.testing.assert_array_equal(problem.data, expected.data)


def test_reconstruct_gives_the_same_maps_from_disk(simulated, tmp_path, capsys):
    maps, histories = {}, {}
    cases = {"memory": "", "written": "--prepared SET", "opened": "--prepared SET"}
    cases["int16"] = "--prepared CODES --prepared-type int16"
    for name, options in cases.items():
        words = options.replace("SET", f"{tmp_path}/set").replace("CODES", f"{tmp_path}/codes")
        out = tmp_path / name
        command = ["reconstruct", str(simulated), "--out", str(out), "--epochs", "2"]
        assert main([*command, *words.split()]) == 0
        maps[name] = {p.name: p.read_bytes() for p in sorted(out.glob("*.mrc"))}
        histories[name] = json.loads((out / "run_history.json").read_text())
    assert "int16, relative error" in capsys.readouterr().out
    assert len(maps["memory"]) == 4
    assert maps["memory"] == maps["written"] == maps["opened"] != maps["int16"]
    assert histories["memory"]["prepared"] is None
    assert histories["opened"]["prepared"]["folder"] == f"{tmp_path}/set"
    assert 0 < histories["int16"]["prepared"]["relative_rms_error"]["data"] < ERRORS["int16"]
    loss = [h["maps"]["full"]["epoch_loss"][-1] for h in histories.values()]
    assert loss[3] == pytest.approx(loss[0], rel=1e-3)


def test_options_of_prepared_images_give_one_sentence(simulated, tmp_path, capsys):
    command = ["reconstruct", str(simulated), "--out", str(tmp_path / "out")]
    assert main([*command, "--prepared-type", "int16"]) == 2
    assert "goes with prepared images on disk" in capsys.readouterr().err
    assert main([*command, "--dry-run", "--prepared", str(tmp_path / "set")]) == 0
    assert f"GiB in {tmp_path / 'set'}" in capsys.readouterr().out
    assert not (tmp_path / "set").exists()
    prepared = ["--prepared", str(tmp_path / "set")]
    assert main([*command, *prepared, "--epochs", "1"]) == 0
    command[3] = str(tmp_path / "other")
    assert main([*command, *prepared, "--epochs", "1", "--noise", "unit"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert "noise_std" in line
    assert main([*command, *prepared, "--epochs", "1", "--noise", "unit", "--overwrite"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_memory_stays_bounded_however_many_images_there_are(tmp_path, monkeypatch, kind):
    # tracemalloc sees what NumPy allocates, and not the pages of mapped files.
    monkeypatch.setattr(fastcryo.packing, "BLOCK_BYTES", 2**20)
    monkeypatch.setattr(fastcryo.packing, "CACHE_BYTES", 2**18)
    monkeypatch.setattr(fastcryo.rows, "BLOCK_BYTES", 2**20)
    few = make_particles(tmp_path, naive.data_set(32, count=20))
    problem = build(few, tmp_path / "few", kind, noise_std=1.0)  # compiles
    volume = volume_for(problem)
    problem.loss(volume)
    many = few.select(np.arange(4000) % 20)
    in_memory = len(many) * 12 * problem.operator.samples
    tracemalloc.start()
    try:
        problem = build(many, tmp_path / "many", kind, noise_std=1.0)
        problem.loss(volume)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < in_memory / 3
