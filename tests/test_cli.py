"""The commands from end to end."""

import json
import os
import signal
import subprocess
import sys
import time

import mrcfile
import numpy as np
import pytest

import fastcryo as fc
from fastcryo.assembled import operator_memory
from fastcryo.cli import main
from fastcryo.io.mrc import read_map, write_stack

from .command_line import BOX, COUNT

OUTPUTS = {
    "run_class001.mrc",
    "run_class001_sharp.mrc",
    "run_half1_class001_unfil.mrc",
    "run_half2_class001_unfil.mrc",
    "run_fsc.star",
    "run_fsc.xml",
    "run_fsc.png",
    "run_history.json",
    "run_report.html",
    "run.log",
    "progress.jsonl",
    "run_report.png",
}


def amplitude(found, truth, shells):
    """Return the factor that fits the truth to a map in its first shells."""
    grid = fc.FourierGrid(len(truth))
    found, truth = (grid.from_real(m) * (grid.shells() < shells) for m in (found, truth))
    return grid.inner(truth, found) / grid.inner(truth, truth)


def test_reconstruct_writes_all_files_and_recovers_the_truth(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reconstruct", str(data / "particles.star"), "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == OUTPUTS
    assert "resolution" in capsys.readouterr().out
    full, pixel_size = read_map(out / "run_class001.mrc")
    truth, _ = read_map(data / "truth.mrc")
    assert pixel_size == pytest.approx(4)
    curve = fc.fsc(full, truth)
    assert (curve[1:9] > 0.9).all()
    # The amplitude is that of the truth, but for the prior, which takes little where FSC is near 1.
    assert amplitude(full, truth, shells=6) == pytest.approx(1, abs=0.05)
    record = json.loads((out / "run_history.json").read_text())
    assert record["version"] == fc.__version__
    assert record["command"].startswith("fastcryo reconstruct")
    assert len(record["maps"]["half1"]["epoch_loss"]) == 10
    with mrcfile.open(out / "run_half1_class001_unfil.mrc") as half:
        assert half.is_volume()


@pytest.mark.parametrize(
    "options",
    [
        "--solver cg",
        "--solver cg --interpolation nearest --preconditioner gridding",
        "--solver lbfgs --maxres 10 --subset 2",
        "--solver lbfgs --preconditioner none --regularization 1e-6 --subset 2",
        "--solver wiener --box 24",
        "--solver wiener --preconditioner exact --regularization 1e-6",
        "--variance-reduction none",
        "--variance_reduction svrg --preconditioner hutchinson --step 0.1",
        "--published --batch-size 80 --epochs 2",
        "--step armijo --armijo 0.9 --preconditioner exact --maxres 12 --regularization 1e-6",
        "--step exact --preconditioner none --epochs 3 --threshold none",
        "--step 0.5 --batch_size 100000 --random_seed 7",
        "--subset 2",
    ],
)
def test_options_of_reconstruct(data, tmp_path, options):
    out = tmp_path / "out"
    command = ["reconstruct", "--i", str(data / "particles.star"), "--o", str(out)]
    assert main([*command, *options.split()]) == 0
    name = "run_half2_class001_unfil.mrc" if "subset" in options else "run_class001.mrc"
    full, pixel_size = read_map(out / name)
    assert pixel_size * len(full) == pytest.approx(4 * BOX)
    if "--box" not in options:
        truth, _ = read_map(data / "truth.mrc")
        assert (fc.fsc(full, truth)[1:5] > 0.7).all()


def test_half_maps_that_do_not_correlate_are_said_to(copy, tmp_path, capsys):
    noise = np.random.default_rng(0).standard_normal((COUNT, BOX, BOX), dtype=np.float32)
    ramp = np.linspace(-1, 1, BOX, dtype=np.float32)
    sign = np.where([r.split()[-1] == "1" for r in rows_of(copy)], 1, -1)
    write_stack(copy / "particles.mrcs", noise + 9 * sign[:, None, None] * ramp, 4.0)
    out = tmp_path / "out"
    assert main(["reconstruct", str(copy / "particles.star"), "--out", str(out)]) == 0
    assert "do not correlate" in capsys.readouterr().out
    assert json.loads((out / "run_history.json").read_text())["resolution"] is None


def rows_of(folder):
    text = (folder / "particles.star").read_text()
    return [line for line in text.splitlines() if "@particles.mrcs" in line]


def test_cropped_maps_keep_the_grey_scale(data, tmp_path):
    truth, _ = read_map(data / "truth.mrc")
    full_grid, grid = fc.FourierGrid(BOX), fc.FourierGrid(24)
    wide = np.fft.fftshift(full_grid.unfold(full_grid.from_real(truth)))
    low = (BOX - 24) // 2
    cut = np.fft.ifftshift(wide[low : low + 24, low : low + 24, low : low + 24])
    small = grid.to_real(grid.fold(cut) * grid.ball()) * (24 / BOX) ** 3
    out = tmp_path / "out"
    command = ["reconstruct", str(data / "particles.star"), "--out", str(out), "--box", "24"]
    assert main(command) == 0
    found, _ = read_map(out / "run_class001.mrc")
    assert amplitude(found, small, shells=6) == pytest.approx(1, abs=0.05)


def test_same_seed_same_bits_whatever_the_threads(data, tmp_path):
    maps = []
    for threads in (1, 2):
        out = tmp_path / str(threads)
        command = ["reconstruct", str(data / "particles.star"), "--out", str(out)]
        if os.cpu_count() < threads:
            pytest.skip("one processor only")
        assert main([*command, "--j", str(threads)]) == 0
        maps.append((out / "run_class001.mrc").read_bytes()[1024:])
    assert maps[0] == maps[1]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_run_stopped_and_killed_resumes_with_the_same_bits(data, tmp_path):
    """Ctrl-C in the first map, kill in the second, then a run to the end."""
    options = [str(data / "particles.star"), "--epochs", "150", "--batch-size", "40"]
    options += ["--preconditioner", "hutchinson", "--step", "armijo"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(["reconstruct", *options, "--out", str(whole)]) == 0

    command = [sys.executable, "-m", "fastcryo", "reconstruct", *options, "--out", str(broken)]
    for name, stop, status in (("half1", signal.SIGINT, 130), ("half2", signal.SIGKILL, -9)):
        process = subprocess.Popen(
            [*command, "--resume"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts background jobs, such as these tests may be, with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        checkpoint = broken / f"checkpoint_{name}.npz"
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == status, errors
        assert checkpoint.exists()
        assert not (broken / "run_class001.mrc").exists()
        if stop == signal.SIGINT:
            assert "--resume" in errors
            assert "Traceback" not in errors
    assert main(["reconstruct", *options, "--out", str(broken), "--resume"]) == 0
    for name in OUTPUTS:
        if name.endswith(".mrc"):
            assert (whole / name).read_bytes()[1024:] == (broken / name).read_bytes()[1024:]
    assert {p.name for p in broken.iterdir()} == OUTPUTS


def test_info_fsc_and_dry_run(data, tmp_path, capsys):
    assert main(["info", str(data / "particles.star"), "--json", str(tmp_path / "i.json")]) == 0
    assert str(COUNT) in capsys.readouterr().out
    assert json.loads((tmp_path / "i.json").read_text())
    truth = str(data / "truth.mrc")
    assert main(["fsc", truth, truth, "--out", str(tmp_path / "c.star")]) == 0
    assert "resolution: 8.00" in capsys.readouterr().out
    assert (tmp_path / "c.xml").exists()
    out = tmp_path / "out"
    command = ["reconstruct", str(data / "particles.star"), "--out", str(out), "--dry-run"]
    assert main(command) == 0
    assert not out.exists()


def test_the_demo_ends_with_resolution_and_report(tmp_path, capsys, monkeypatch):
    from fastcryo import demo

    for name, value in {"BOX": 32, "COUNT": 300, "VARIANT_BATCH": 100}.items():
        monkeypatch.setattr(demo, name, value)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    text = capsys.readouterr().out
    assert "resolution" in text
    assert "run_report.png" in text
    record = json.loads((tmp_path / "demo" / "demo.json").read_text())
    ends = {name: losses[-1] for name, losses in record["losses"].items()}
    assert min(ends.values()) >= record["minimum"]
    assert min(ends, key=ends.get) == "fastcryo's default"


MEMORY = """
import resource, sys
from pathlib import Path
from fastcryo.particles import read_particles
from fastcryo.reconstruct import reconstruct
from fastcryo.settings import Settings
small, large, out = sys.argv[1:]
reconstruct(read_particles(small), out + "/small", Settings(epochs=1))
def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith(field)) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
reconstruct(read_particles(large), out + "/large", Settings(epochs=1))
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
def test_peak_memory_is_data_and_operators_and_ten_half_volumes_per_thread(data, tmp_path):
    box, count = 128, 2000
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((50, box, box), dtype=np.float32)
    write_stack(tmp_path / "large.mrcs", (pixels[i % 50] for i in range(count)), 2.0)
    text = (data / "particles.star").read_text()
    head, rows = text[: text.index("000001@")], text[text.index("000001@") :].splitlines()
    rows = [r for r in rows if r.strip()]
    table = [
        f"{i + 1:06d}@large.mrcs " + " ".join(rows[i % len(rows)].split()[1:]) for i in range(count)
    ]
    star = tmp_path / "large.star"
    star.write_text(head.replace(f" {BOX} ", f" {box} ") + "\n".join(table) + "\n")
    arguments = [str(data / "particles.star"), str(star), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    operator = fc.SliceOperator(fc.FourierGrid(box))
    half_volume = (box // 2 + 1) * box * box * 8
    allowed = count * operator.samples * (8 + 4) + operator_memory(operator)
    allowed += 10 * half_volume * (os.cpu_count() or 1)
    assert int(done.stdout.split()[-1]) < allowed


def test_real_particles_give_a_map(shared_data, tmp_path):
    """506 images of beta-galactosidase: any wrong sign anywhere brings the FSC to zero."""
    star = shared_data("betagal", "particles.star")
    assert main(["reconstruct", str(star), "--out", str(tmp_path / "out")]) == 0
    halves = []
    for number in (1, 2):
        half, pixel_size = read_map(tmp_path / "out" / f"run_half{number}_class001_unfil.mrc")
        # The twofold axes of D2 are x, y and z through voxel N // 2.
        turned = [np.roll(np.flip(half, axes), (1, 1), axes) for axes in ((0, 1), (0, 2), (1, 2))]
        halves.append(half + sum(turned))
    curve = fc.fsc(*halves)
    assert curve[round(64 * pixel_size / 10)] > 0.5
    assert curve[round(64 * pixel_size / 14)] > 0.7
