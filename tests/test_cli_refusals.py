"""What the commands say to input that cannot be used, and that nothing already written is lost."""

import subprocess
import sys
import time

import mrcfile
import numpy as np
import pytest

import fastcryo as fc
from fastcryo.cli import main

from .command_line import BOX, COUNT, edit, refused


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


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(fc.InputError):
        main(["info", str(tmp_path / "none.star"), "--debug"])
