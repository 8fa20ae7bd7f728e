"""Subsets: chosen by condition and number, written with every column of their file."""

import warnings

import numpy as np
import pytest

from fastcryo import InputError, read_particles
from fastcryo.cli import main
from fastcryo.io.mrc import write_stack
from fastcryo.io.relion import write_subset
from fastcryo.io.star import read_star
from fastcryo.selection import choose, evaluate, with_usable_images

from . import fuzz

COUNT = 6


@pytest.fixture(params=["3.0", "3.1", "cs"])
def source(request, tmp_path):
    """A file of each dialect, and its stack."""
    files = fuzz.seeds(tmp_path)
    old, new = files["star"]
    name, data = {"3.0": ("p.star", old), "3.1": ("p.star", new), "cs": ("p.cs", files["cs"][0])}[
        request.param
    ]
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


@pytest.fixture
def modern(tmp_path):
    (tmp_path / "p.star").write_bytes(fuzz.seeds(tmp_path)["star"][1])
    return tmp_path / "p.star"


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("rlnAngleRot > 4", [4, 5]),
        ("AngleRot <= 2 or rlnAngleRot == 6", [0, 1, 5]),
        ("2 <= rlnAngleRot < 5 and not rlnOpticsGroup == 2", [1, 3]),
        ("rlnAngleRot in (1, 3)", [0, 2]),
        ("rlnAngleRot not in [1, 3] and RandomSubset == 1", [1, 3, 5]),
        ("rlnImageName == '000002@a.mrcs'", [1]),
        ("rlnOpticsGroupName == 'g2'", [0, 2, 4]),
        ("(rlnDefocusU - rlnDefocusV) / 2 * -rlnAngleRot < -1000 - 500", [3, 4, 5]),
        ("rlnAngleRot % 2 == 0", [1, 3, 5]),
    ],
)
def test_conditions_choose_rows(modern, condition, rows):
    particles = read_particles(modern)
    assert np.flatnonzero(evaluate(condition, particles)).tolist() == rows
    chosen = choose(particles, condition)
    assert chosen.row.tolist() == rows
    assert f"6 particles read, {len(rows)} used: {6 - len(rows)} left out" in chosen.notes[-1]


def test_fields_of_cs_files_are_named_with_their_slash(tmp_path):
    (tmp_path / "p.cs").write_bytes(fuzz.seeds(tmp_path)["cs"][0])
    particles = read_particles(tmp_path / "p.cs")
    condition = "alignments3D/split == 1 and blob/idx > 2 and blob/path == 'a.mrcs'"
    assert choose(particles, condition).row.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("rlnFoo > 3", "names rlnFoo, which is no column .found rlnImageName"),
        ("rlnAngleRot", "is no condition on particles"),
        ("1 < 2", "is no condition on particles"),
        ("rlnAngleRot > 100", "holds for none of 6"),
        ("rlnAngleRot >", "cannot be understood"),
        ("(" * 5000 + "1" + ")" * 5000, "cannot be understood"),
        ("rlnImageName < 3", "cannot be evaluated"),
        ("rlnAngleRot < 'a'", "cannot be evaluated"),
        ("__import__('os').system('true')", "is not allowed"),
        ("[x for x in (1,)] == 1", "is not allowed"),
        ("rlnAngleRot ** 9 > 1", "is not allowed"),
        ("rlnAngleRot is None", "is not allowed|cannot be evaluated"),
    ],
)
def test_other_conditions_are_refused_in_one_sentence(modern, condition, message):
    with pytest.raises(InputError, match=message) as caught:
        choose(read_particles(modern), condition)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_limit_thins_out_both_half_sets_alike(modern):
    particles = read_particles(modern)
    chosen = choose(particles, limit=4)
    assert len(chosen) == 4
    assert np.bincount(chosen.half).tolist() == [0, 2, 2]
    assert (np.diff(chosen.row) > 0).all()
    assert choose(particles, limit=6) is particles


def test_a_subset_keeps_every_column_and_is_read_by_starfile(source):
    starfile = pytest.importorskip("starfile")
    particles = read_particles(source).select([4, 1, 3])
    out = source.with_name("subset.star")
    write_subset(out, particles)
    again = read_particles(out)
    np.testing.assert_allclose(again.rotations, particles.rotations, atol=1e-6)
    np.testing.assert_allclose(again.shifts, particles.shifts, atol=1e-6)
    np.testing.assert_allclose(
        again.ctf.coefficients(), particles.ctf.coefficients(), rtol=1e-6, atol=1e-5
    )
    np.testing.assert_array_equal(again.half, particles.half)
    np.testing.assert_array_equal(again.images(), particles.images())
    assert again.pixel_size == pytest.approx(particles.pixel_size)
    used = [particles.optics[i].aberrations for i in particles.optics_group]
    assert [again.optics[i].aberrations for i in again.optics_group] == used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas
        theirs = starfile.read(out)
    assert set(theirs) == {"optics", "particles"}
    assert len(theirs["particles"]) == 3
    assert theirs["particles"]["rlnRandomSubset"].tolist() == particles.half.tolist()
    if source.suffix == ".star":
        before = read_star(source)
        table = before.get("particles", before.get(""))
        after = read_star(out)["particles"]
        for name in set(table.columns) & set(after.columns):
            assert after.strings(name) == [table.strings(name)[i] for i in (4, 1, 3)]
        for name in {"rlnImageName", "rlnMicrographName"} & set(after.columns):
            assert theirs["particles"][name].tolist() == after.strings(name)
        lost = set(table.columns) - set(after.columns) - set(read_star(out)["optics"].columns)
        assert lost <= {"rlnOriginX", "rlnOriginY", "rlnMagnification", "rlnDetectorPixelSize"}


def test_files_of_starfile_are_read(modern):
    starfile = pytest.importorskip("starfile")
    out = modern.with_name("theirs.star")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        starfile.write(starfile.read(modern), out)
    ours, theirs = read_particles(modern), read_particles(out)
    np.testing.assert_allclose(theirs.rotations, ours.rotations, atol=1e-6)
    assert theirs.optics == ours.optics


def test_images_that_cannot_be_used_are_left_out_with_reasons(modern):
    images = np.random.default_rng(0).normal(size=(COUNT, 8, 8))
    images[1] = 3
    images[4, 2, 2] = np.nan
    write_stack(modern.with_name("a.mrcs"), images, 1.5)
    told = []
    chosen = with_usable_images(read_particles(modern), lambda *numbers: told.append(numbers))
    assert chosen.row.tolist() == [0, 2, 3, 5]
    (note,) = chosen.notes
    assert note.startswith("6 particles read, 4 used: ")
    assert "1 left out for images that are constant (the first: row 2, 000002@" in note
    assert "1 left out for images that are NaN or infinite (the first: row 5, 000005@" in note
    assert told[-1] == (6, 6)


def test_an_unreadable_stack_is_left_out(modern):
    text = modern.read_text().replace("000003@a.mrcs", "000001@b.mrcs")
    modern.write_text(text)
    chosen = with_usable_images(read_particles(modern, need_images=False))
    assert chosen.row.tolist() == [0, 1, 3, 4, 5]
    assert "for images that are unreadable" in chosen.notes[-1]
    write_stack(modern.with_name("a.mrcs"), np.zeros((COUNT, 8, 8)), 1.5)
    with pytest.raises(InputError, match="no image can be used"):
        with_usable_images(read_particles(modern, need_images=False))


def test_the_command_writes_a_star_file_and_replaces_none(modern, capsys):
    out = modern.with_name("some.star")
    arguments = ["select", str(modern), "--o", str(out), "--select", "rlnAngleRot > 2"]
    assert main([*arguments, "--subset", "1", "--check-images"]) == 0
    assert len(read_particles(out)) == 2
    printed = capsys.readouterr().out
    assert "6 particles read, 4 used: 2 left out by --select rlnAngleRot > 2" in printed
    assert "4 particles read, 2 used: 2 left out by --subset 1" in printed
    assert main(arguments) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["select", str(modern), "--o", str(modern.with_name("x.txt"))]) == 2
    assert main(["info", str(modern), "--limit", "3"]) == 0
    assert "6 particles read, 3 used" in capsys.readouterr().out


def test_the_command_says_how_images_are_found_from_another_folder(
    modern, tmp_path_factory, capsys
):
    out = tmp_path_factory.mktemp("elsewhere") / "some.star"
    assert main(["select", str(modern), "--out", str(out)]) == 0
    root = modern.parent
    assert f"give --image-root {root} together with {out}" in capsys.readouterr().out
    assert len(read_particles(out, image_root=root)) == COUNT
    below = modern.parent / "below"
    below.mkdir()
    assert main(["select", str(modern), "--out", str(below / "some.star")]) == 0
    assert "image-root" not in capsys.readouterr().out
