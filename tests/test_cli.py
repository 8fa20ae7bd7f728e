"""The commands from end to end, and what they say to input that cannot be used."""

import json
import os
import shutil
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

BOX, COUNT = 32, 240
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


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a folder with a small simulated data set."""
    folder = tmp_path_factory.mktemp("simulated")
    command = f"simulate {folder}/set --box {BOX} --count {COUNT} --snr 1 --angpix 4 --seed 5"
    assert main(command.split()) == 0
    return folder / "set"


@pytest.fixture
def copy(data, tmp_path):
    """Return a copy of the data set that a test may damage."""
    return shutil.copytree(data, tmp_path / "set")


def edit(path, old, new, count=-1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def amplitude(found, truth, shells):
    """Return the factor that fits the truth to a map in its first shells."""
    grid = fc.FourierGrid(len(truth))
    found, truth = (grid.from_real(m) * (grid.shells() < shells) for m in (found, truth))
    return grid.inner(truth, found) / grid.inner(truth, truth)


def refused(capsys, command):
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    assert main([str(word) for word in command]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "Traceback" not in lines[0]
    return lines[0]


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


def test_a_checkpoint_of_other_settings_is_refused(data, tmp_path, capsys):
    options = ["reconstruct", data / "particles.star", "--out", tmp_path]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastcryo", *map(str, options), "--epochs", "5000"],
        stdout=subprocess.DEVNULL,
    )
    while not (tmp_path / "checkpoint_half1.npz").exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert "already holds" in refused(capsys, options)
    message = refused(capsys, [*options, "--resume", "--epochs", "7"])
    assert "checkpoint_half1.npz" in message
    assert "--overwrite" in message
    (tmp_path / "checkpoint_half1.npz").write_bytes(b"damaged")
    assert "cannot be read" in refused(capsys, [*options, "--resume", "--epochs", "5000"])


def test_nothing_is_overwritten_unasked(data, tmp_path, capsys):
    (tmp_path / "run_class001.mrc").write_bytes(b"precious")
    message = refused(capsys, ["reconstruct", data / "particles.star", "--out", tmp_path])
    assert "--overwrite" in message
    assert (tmp_path / "run_class001.mrc").read_bytes() == b"precious"


def damage_missing_file(folder):
    (folder / "particles.star").unlink()


def damage_missing_stack(folder):
    (folder / "particles.mrcs").unlink()


def damage_truncated(folder):
    path = folder / "particles.mrcs"
    path.write_bytes(path.read_bytes()[:-5000])


def damage_index(folder):
    edit(folder / "particles.star", f"{COUNT:06d}@", f"{COUNT + 9:06d}@")


def damage_not_square(folder):
    with mrcfile.new(folder / "particles.mrcs", overwrite=True) as stack:
        stack.set_data(np.zeros((COUNT, BOX, BOX + 2), np.float32))


def damage_column(folder):
    edit(folder / "particles.star", "_rlnAngleTilt", "_rlnAngleTiltPrior")


def damage_pixels(folder):
    with mrcfile.open(folder / "particles.mrcs", "r+") as stack:
        stack.data[3, 2, 1] = np.nan
        stack.data[7, 2, 1] = np.inf


def damage_empty(folder):
    (folder / "particles.star").write_text("")


def damage_no_particles(folder):
    (folder / "particles.star").write_text("data_general\n\n_rlnFinalResolution 3.0\n")


def damage_cs_without_poses(folder):
    table = np.zeros(3, [("uid", "<u8"), ("blob/path", "S20"), ("blob/idx", "<u4")])
    with (folder / "particles.star").open("wb") as file:
        np.save(file, table)
    (folder / "particles.star").rename(folder / "particles.cs")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_missing_file, ["particles.star"]),
        (damage_missing_stack, ["particles.mrcs"]),
        (damage_truncated, ["particles.mrcs"]),
        (damage_index, ["particles.mrcs", str(COUNT + 9), str(COUNT)]),
        (damage_not_square, ["particles.mrcs", str(BOX + 2)]),
        (damage_column, ["rlnAngleTilt", "particles.star"]),
        (damage_pixels, ["2", "NaN"]),
        (damage_empty, ["particles.star"]),
        (damage_no_particles, ["particles.star"]),
        (damage_cs_without_poses, ["alignments3D/pose", "particles.cs"]),
    ],
)
def test_bad_input_gives_one_sentence_and_leaves_former_results(
    copy, tmp_path, capsys, damage, words
):
    damage(copy)
    name = "particles.cs" if (copy / "particles.cs").exists() else "particles.star"
    out = tmp_path / "out"
    out.mkdir()
    (out / "run_class001.mrc").write_bytes(b"precious")
    message = refused(capsys, ["reconstruct", copy / name, "--out", out, "--overwrite"])
    for word in words:
        assert word in message
    assert (out / "run_class001.mrc").read_bytes() == b"precious"


def test_optics_groups_with_different_pixel_sizes_are_resampled_or_refused(copy, tmp_path, capsys):
    star = copy / "particles.star"
    lines = star.read_text().splitlines(keepends=True)
    (row,) = [i for i, line in enumerate(lines) if line.startswith("simulated ")]
    fields = lines[row].split()
    columns = [line.split()[0] for line in lines[:row] if line.startswith("_rln")]
    fields[columns.index("_rlnOpticsGroupName")] = "opticsGroup2"
    fields[columns.index("_rlnOpticsGroup")] = "2"
    fields[columns.index("_rlnImagePixelSize")] = "5.5"
    lines.insert(row + 1, " ".join(fields) + "\n")
    star.write_text("".join(lines))
    particle_columns = [x.split()[0] for x in lines[row + 2 :] if x.startswith("_rln")]
    last = lines[-1].split() or lines[-2].split()
    new = list(last)
    new[particle_columns.index("_rlnOpticsGroup")] = "2"
    star.write_text(star.read_text() + " ".join(new) + "\n")
    arguments = ["reconstruct", star, "--out", tmp_path / "out"]
    message = refused(capsys, [*arguments, "--mixed-sizes", "refuse"])
    assert "5.5" in message
    assert "particles.star" in message
    assert main([*map(str, arguments), "--dry-run"]) == 0
    assert "of 5.5 A in opticsGroup2 (1) are resampled to those of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--maxres", "3"], "Nyquist"),
        (["--box", "64"], "box"),
        (["--box", "4"], "box"),
        (["--armijo", "2"], "armijo"),
        (["--j", "100000"], "threads"),
        (["--mask", "nowhere.mrc"], "nowhere.mrc"),
    ],
)
def test_bad_options_give_one_sentence(data, tmp_path, capsys, options, word):
    options = [*options, "--backend", "cpu"]  # of which nothing is said
    command = ["reconstruct", data / "particles.star", "--out", tmp_path / "out", *options]
    assert word in refused(capsys, command)


@pytest.mark.parametrize(
    "words",
    [
        ["--step", "fast"],
        ["--epochs", "0"],
        ["--angpix", "-1"],
        ["--solver", "magic"],
        ["--seed", "-1"],
        ["--armijo", "nan"],
    ],
)
def test_bad_usage_leaves_with_status_2_and_one_line(data, tmp_path, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main(["reconstruct", str(data / "particles.star"), "--out", str(tmp_path), *words])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words[0] in line


def test_a_folder_that_cannot_be_written_is_named(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert "file/out" in refused(capsys, ["reconstruct", data / "particles.star", "--out", out])


def test_a_file_in_place_of_the_folder_is_said_to_be_one(data, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    for command in ("reconstruct", "condition"):
        message = refused(capsys, [command, data / "particles.star", "--out", tmp_path / "out"])
        assert "a file has the name of the folder" in message
    assert (tmp_path / "out").read_text() == "mine"


def test_images_in_place_of_particles_are_said_to_be_images(data, capsys):
    assert "give the .star or .cs file" in refused(capsys, ["info", data / "particles.mrcs"])


def test_a_full_disk_removes_the_half_written_file(data, tmp_path):
    """A limit on the size of files acts as a disk that is full."""
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fastcryo", "reconstruct", str(data / "particles.star")]
    done = subprocess.run(
        [*command, "--out", str(out), "--backend", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "cannot be written" in line
    assert {p.name for p in out.iterdir()} == {"run.log", "progress.jsonl"}


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


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(fc.InputError):
        main(["info", str(tmp_path / "none.star"), "--debug"])


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
