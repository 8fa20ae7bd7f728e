"""The same work on several ranks, under mpiexec: results, and how a job ends when a rank fails."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import fastcryo as fc
from fastcryo import rank_watch
from fastcryo.checkpoint import load_checkpoint
from fastcryo.communicator import ALONE, Communicator, launched, launched_as
from fastcryo.errors import InputError
from fastcryo.run_folder import fingerprint
from fastcryo.settings import Settings
from fastcryo.simulate import simulate

from . import mpi_worker

BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
AGREEMENT = 1e-5
LIMIT = 30  # seconds that a job may live on after one of its ranks has failed

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="mpiexec and mpi4py are needed: pip install fastcryo[mpi] mpich",
)


def start(ranks, *command):
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    return subprocess.Popen(
        [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(ranks, *command):
    with start(ranks, *command) as job:
        try:
            out, err = job.communicate(timeout=120)
        finally:
            job.terminate()
    return job.returncode, out, err


def fastcryo(ranks, *arguments):
    return run(ranks, "-m", "fastcryo", *arguments)


def difference(found, expected):
    """Largest difference relative to the largest value."""
    found, expected = (np.asarray(a, np.complex128) for a in (found, expected))
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mpi")
    simulate(folder, overwrite=True, box=24, count=100, snr=0.5, seed=3)
    return folder


@pytest.fixture(scope="module")
def star(data):
    return data / "particles.star"


@pytest.fixture(scope="module")
def alone(star, tmp_path_factory):
    return mpi_worker.computed(ALONE, star, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def reconstructed(star, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    fc_main(["reconstruct", str(star), "--out", str(folder), *OPTIONS])
    return folder


OPTIONS = ("--epochs", "40", "--batch-size", "20")


def fc_main(arguments):
    from fastcryo.cli import main

    assert main(arguments) == 0


def maps_agree(folder, expected):
    for name in ("run_class001", "run_half1_class001_unfil", "run_half2_class001_unfil"):
        one, other = (mrcfile.read(f / f"{name}.mrc") for f in (folder, expected))
        assert difference(one, other) < AGREEMENT
        assert fc.fsc(one, other).min() > 0.9999


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_sums_and_solvers_agree_with_one_rank_and_on_all_ranks(ranks, star, alone, tmp_path):
    status, _, err = run(ranks, mpi_worker.__file__, star, tmp_path)
    assert status == 0, err
    found = [np.load(tmp_path / f"rank{rank}.npz") for rank in range(ranks)]
    assert set(found[0]) == set(alone)
    for name, expected in alone.items():
        assert difference(found[0][name], expected) < AGREEMENT, name
        for other in found[1:]:
            np.testing.assert_array_equal(other[name], found[0][name], err_msg=name)


@needs_mpi
def test_reconstruct_on_two_ranks_is_that_of_one_and_repeats_bit_for_bit(
    star, reconstructed, tmp_path
):
    outputs = []
    for name in ("first", "second"):
        status, out, err = fastcryo(2, "reconstruct", star, "--out", tmp_path / name, *OPTIONS)
        assert status == 0, err
        assert len(set(err.splitlines())) == len(err.splitlines())
        assert out.count("resolution:") == out.count("particles, box 24") == 1
        outputs.append(tmp_path / name)
    maps_agree(outputs[0], reconstructed)
    for name in ("run_class001", "run_half1_class001_unfil"):
        one, other = (mrcfile.read(folder / f"{name}.mrc") for folder in outputs)
        np.testing.assert_array_equal(one, other)
    assert {p.name for p in outputs[0].iterdir()} == {p.name for p in reconstructed.iterdir()}


def children(pid):
    """Return the processes that a process has started, and theirs."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            child = int(status.parent.name)
            found += [child, *children(child)]
    return found


@needs_mpi
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds ranks in /proc")
def test_a_killed_rank_ends_the_job_and_another_number_of_ranks_goes_on(
    star, reconstructed, tmp_path
):
    out, checkpoint = tmp_path / "out", tmp_path / "out" / "checkpoint_half1.npz"
    job = start(2, "-m", "fastcryo", "reconstruct", star, "--out", out, *OPTIONS)
    began = time.monotonic()
    while not checkpoint.exists():
        assert job.poll() is None
        assert time.monotonic() < began + 100
        time.sleep(0.001)
    ranks = [
        pid
        for pid in children(job.pid)
        if b"reconstruct" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"mpiexec" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"PMI_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    os.kill(ranks[-1], signal.SIGKILL)
    printed, err = job.communicate(timeout=LIMIT)
    assert job.returncode != 0
    assert f"1 ({ranks[-1]})" in printed
    if rank_watch.POSSIBLE:
        said = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(said) == 1
        assert f"rank 1 of 2 (process {ranks[-1]} on " in said[0]
        assert "was killed" in said[0]
    assert not (out / "run_class001.mrc").exists()
    particles = fc.read_particles(star)
    identity = fingerprint(particles, Settings(epochs=40, batch_size=20))
    assert 1 <= load_checkpoint(checkpoint, identity).epoch < 40

    status, _, err = fastcryo(3, "reconstruct", star, "--out", out, *OPTIONS, "--resume")
    assert status == 0, err
    maps_agree(out, reconstructed)


@needs_mpi
def test_an_unreadable_image_on_one_rank_ends_the_job_with_one_message(data, tmp_path):
    for name in ("particles.star", "particles.mrcs"):
        shutil.copy(data / name, tmp_path)
    with mrcfile.open(tmp_path / "particles.mrcs", "r+") as stack:
        stack.data[95, 3, 4] = np.nan
    star = tmp_path / "particles.star"
    status, _, err = fastcryo(2, "reconstruct", star, "--out", tmp_path / "out", "--noise", "unit")
    assert status == 2
    assert err.count("error:") == 1
    assert "was killed" not in err
    assert "error: rank 1 of 2: " in err
    assert "NaN" in err
    assert "96@" in err


@needs_mpi
def test_what_all_ranks_refuse_is_said_once(star, tmp_path):
    out = ("--out", tmp_path / "out")
    for arguments, message in {
        ("reconstruct", tmp_path / "none.star", *out): "rank 0 of 2: ",
        ("reconstruct", star, *out, "--prepared-type", "int16"): "--prepared",
        ("reconstruct", star, *out, "--epochs", "none"): "--epochs",
        ("info", star): "leave out mpiexec",
    }.items():
        status, _, err = fastcryo(2, *arguments)
        assert status == 2
        assert err.count("error:") == 1, err
        assert message in err


@needs_mpi
def test_condition_on_two_ranks_is_that_of_one(star, tmp_path):
    import json

    fc_main(["condition", str(star), "--out", str(tmp_path / "one")])
    status, out, err = fastcryo(2, "condition", star, "--out", tmp_path / "two")
    assert status == 0, err
    assert out.count("report:") == 1
    one, two = (
        json.loads((tmp_path / name / "conditioning.json").read_text()) for name in ("one", "two")
    )
    assert two["nearest"]["uncovered"] == one["nearest"]["uncovered"]
    for kind in ("without_ctf", "with_ctf"):
        found, expected = (
            np.array([v or np.inf for v in record["nearest"][kind]]) for record in (two, one)
        )
        np.testing.assert_allclose(found, expected, rtol=AGREEMENT)
    for name in one["eigenvalues"]:
        for found, expected in zip(two["eigenvalues"][name], one["eigenvalues"][name], strict=True):
            assert found["largest"] == pytest.approx(expected["largest"], rel=1e-4)


def test_ranks_get_ranges_that_cover_everything_once():
    for size in (1, 2, 3, 7):
        parts = []
        for rank in range(size):
            ranks = Communicator()
            ranks.rank, ranks.size = rank, size
            parts.append(np.arange(7 * 13 + 5)[ranks.part(7 * 13 + 5)])
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(7 * 13 + 5))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_ranks_that_share_cores_divide_them():
    ranks = Communicator()
    ranks.rank = 1
    for cores, threads in {
        (range(8), range(8)): 4,
        (range(4), range(4, 8)): 4,
        (range(1), range(1)): 1,
        (range(8), range(8), range(8)): 2,
    }.items():
        ranks.ranks_of_node = lambda cores=cores: [(i, frozenset(c)) for i, c in enumerate(cores)]
        assert ranks.threads() == threads


def test_the_launcher_says_which_rank_this_is():
    assert launched_as({}) == (0, 1)
    assert launched_as({"PMI_RANK": "1", "PMI_SIZE": "4"}) == (1, 4)
    assert launched_as({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}) == (2, 3)
    # A batch script's own process is no rank, whatever the job has asked for.
    assert launched_as({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == (0, 1)
    assert launched_as({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}) == (3, 4)


def test_ranks_without_mpi4py_are_refused(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError, match=r"2 ranks were started.*fastcryo\[mpi\]"):
        launched()


def test_more_ranks_than_images_are_refused():
    ranks = Communicator()
    ranks.size = 5
    with pytest.raises(InputError, match="4 are too few for 5 ranks"):
        fc.KnownPoseProblem.from_arrays(
            np.ones((4, 8, 8), np.float32), np.tile(np.eye(3), (4, 1, 1)), 1.0, communicator=ranks
        )
