"""What a run tells while it goes on, and what a kill or a full disk leaves of it."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import mrcfile
import numpy as np
import pytest

from fastcryo.cli import main
from fastcryo.io.mrc import read_map
from fastcryo.reporting import duration, logged, silent, with_time_left
from fastcryo.run_folder import open_folder


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "set"
    assert main(f"simulate {folder} --box 24 --count 300 --snr 0.3 --angpix 4".split()) == 0
    return folder / "particles.star"


def lines(folder):
    return [json.loads(text) for text in (folder / "progress.jsonl").read_text().splitlines()]


def test_progress_is_one_json_object_a_line_with_loss_resolution_and_time_left(star, tmp_path):
    assert main(["reconstruct", str(star), "--out", str(tmp_path)]) == 0
    told = lines(tmp_path)
    stages = list(dict.fromkeys(line["stage"] for line in told))
    assert [s for s in stages if s in ("half1", "half2", "full")] == ["half1", "half2", "full"]
    assert stages[-1] == "finished"
    seconds = [line["seconds"] for line in told]
    assert seconds == sorted(seconds)
    last = {line["stage"]: line for line in told}
    for name in ("half1", "half2", "full"):
        assert last[name]["done"] == last[name]["total"]
        assert last[name]["loss"] > 0
    assert last["half1"]["seconds_left"] > 0
    assert last["full"]["seconds_left"] > 0
    assert last["writing"]["seconds_left"] == 0
    assert all("seconds_left" in line for line in told[:-1])
    assert "left in all" in last["half1"]["detail"]
    assert 8 <= last["half2"]["resolution"] < 40
    assert "resolution" not in last["half1"]
    log = (tmp_path / "run.log").read_text()
    assert "fastcryo reconstruct" in log.splitlines()[0]
    assert "memory: about" in log
    assert "half2: ends after" in log
    assert log.splitlines()[-1].endswith("finished")


def test_a_failure_is_the_last_line(tmp_path):
    def fail():
        with logged(tmp_path, silent) as tell:
            tell("stage", 1, 2, "")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert lines(tmp_path)[-1]["stage"] == "failed"
    assert lines(tmp_path)[-1]["error"] == "broken"
    assert (tmp_path / "run.log").read_text().strip().endswith("failed: broken")


def test_a_resumed_run_appends_and_numbers_do_not_reach_the_caller(tmp_path):
    heard = []

    def listen(stage, done, total, detail):
        heard.append((stage, done, total, detail))

    for resume in (False, True):
        with logged(tmp_path, listen, resume=resume) as tell:
            tell("stage", 2, 2, "well", loss=1.5)
    assert heard == [("stage", 2, 2, "well")] * 2
    assert [line["stage"] for line in lines(tmp_path)] == ["stage", "finished"] * 2
    with logged(tmp_path, listen):
        pass
    assert [line["stage"] for line in lines(tmp_path)] == ["finished"]


def test_logs_that_cannot_be_written_do_not_end_the_run(tmp_path):
    (tmp_path / "progress.jsonl").mkdir()
    with logged(tmp_path, silent) as tell:
        tell("stage", 1, 1, "")
    assert "stage: ends" in (tmp_path / "run.log").read_text()


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set, and what a report with the time left tells by it."""
    now, heard = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    forecast = {"reading images": 2, "prior, half 1": 1, "half1": 5, "half2": 5, "full": 10}
    tell = with_time_left(
        lambda stage, done, total, detail, **numbers: heard.append(numbers["seconds_left"]),
        forecast | {"writing": 1},
    )

    def at(seconds, stage, done, total=10):
        now[0] = seconds
        tell(stage, done, total, "")
        return heard[-1]

    return at


def test_time_left_is_that_of_all_stages_corrected_by_what_has_passed(clock):
    assert clock(0, "reading images", 0) == 24  # as forecast
    assert clock(2, "reading images", 5) == 2 + 22 * 2  # half of it took all of its time
    assert clock(4, "reading images", 10) == 44
    assert clock(4, "half1", 1) == 41  # the prior was skipped; half1 has shown no pace
    assert clock(13, "half1", 10) == 15 * 2 + 1 * 2  # maps like half1, the rest like everything
    assert clock(13, "full", 0) == 22  # half2 was skipped
    assert clock(23, "full", 10) == 1.4
    assert clock(25, "writing", 1, 1) == 0


def test_what_a_resumed_run_finds_done_has_taken_no_time(clock):
    clock(0, "half1", 8)
    assert clock(1, "half1", 9) == 1 + 15 * 2 + 1 * 2
    assert [duration(s) for s in (5, 240, 9000)] == ["5 s", "4 min", "2.5 h"]


def test_a_stage_that_was_not_foreseen_delays_no_other(clock):
    assert clock(3, "something", 1, 2) == 24
    assert clock(5, "something", 2, 2) == 24


def command(star, out, *options):
    words = [sys.executable, "-m", "fastcryo", "reconstruct", str(star), "--out", str(out)]
    return [*words, "--backend", "cpu", *options]


def run(star, out, *options, **keywords):
    """Run a reconstruction; return its exit status and the lines of standard error."""
    done = subprocess.run(
        command(star, out, *options), capture_output=True, text=True, check=False, **keywords
    )
    return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_kill_at_any_moment_loses_no_checkpoint_and_leaves_no_broken_file(star, tmp_path):
    options = ["--epochs", "40", "--j", "1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(star, whole, *options)[0] == 0  # compiles
    began = time.monotonic()
    assert run(star, whole, *options, "--overwrite")[0] == 0
    length = time.monotonic() - began
    moments = random.Random(3)
    kills = 0
    for _ in range(5):
        try:
            # SIGKILL at the end of that time.
            subprocess.run(
                command(star, broken, *options, "--resume"),
                stdout=subprocess.DEVNULL,
                timeout=length * moments.uniform(0.3, 0.9),
                check=True,
            )
            break  # what was left took less time than that
        except subprocess.TimeoutExpired:
            kills += 1
        for path in broken.glob("*"):
            if path.suffix == ".mrc" and not path.name.startswith("."):
                mrcfile.validate(path)
            elif path.suffix == ".npz" and not path.name.startswith("."):
                assert np.load(path, allow_pickle=False)["volume"].ndim == 3
            elif path.name == "progress.jsonl":
                lines(broken)
    assert kills > 0
    assert run(star, broken, *options, "--resume") == (0, [])
    for name in ("run_class001.mrc", "run_class001_sharp.mrc", "run_half1_class001_unfil.mrc"):
        np.testing.assert_array_equal(read_map(whole / name)[0], read_map(broken / name)[0])
    assert not list(broken.glob("*.npz"))


def test_halves_of_files_of_a_killed_run_are_removed_by_the_next(tmp_path):
    halves = [tmp_path / ".checkpoint_half1.837.npz", tmp_path / ".run_class001.12.mrc"]
    others = [tmp_path / ".hidden.12.txt", tmp_path / ".run_of_mine"]
    for path in (*halves, *others):
        path.touch()
    assert open_folder(tmp_path, resume=True, overwrite=False) == tmp_path
    assert sorted(tmp_path.iterdir()) == sorted(others)


def limited(size):
    """Return what makes a process fail to write files beyond a size, as a full disk does."""
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
def test_a_disk_that_is_full_says_so_and_keeps_what_was_there(star, tmp_path):
    assert main(["reconstruct", str(star), "--out", str(tmp_path)]) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.mrc")}
    status, said = run(star, tmp_path, "--overwrite", preexec_fn=limited(20_000))
    assert (status, len(said)) == (2, 1)
    assert "checkpoint_half1.npz: cannot be written" in said[0]
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.mrc")} == before
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert lines(tmp_path)[-1]["stage"] == "failed"


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
def test_a_disk_that_fills_later_leaves_the_checkpoint_to_resume_from(star, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = ["--solver", "sgd", "--epochs", "3"]
    assert run(star, whole, *options) == (0, [])
    # Checkpoints and maps fit, pictures do not.
    status, said = run(star, broken, *options, preexec_fn=limited(100_000))
    assert (status, len(said)) == (2, 1)
    assert "run_fsc.png: cannot be written" in said[0]
    assert (broken / "checkpoint_full.npz").exists()
    assert run(star, broken, *options, "--resume") == (0, [])
    np.testing.assert_array_equal(
        read_map(whole / "run_class001.mrc")[0], read_map(broken / "run_class001.mrc")[0]
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_ends_the_logs_and_not_the_run(tmp_path):
    for name in ("run.log", "progress.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    with logged(tmp_path, silent, ["command"]) as tell:
        tell("full", 1, 1, "")
