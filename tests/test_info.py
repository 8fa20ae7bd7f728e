"""The summary says what is in a file and what is wrong with it, whatever is missing."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastcryo import CTF, rotation_matrices
from fastcryo.cli import main
from fastcryo.coverage import pose_coverage
from fastcryo.info import describe, print_info
from fastcryo.io.mrc import write_stack
from fastcryo.particles import OpticsGroup, Particles, read_particles
from fastcryo.rotations import random_rotations
from fastcryo.symmetry import replicated, symmetry_matrices

BOX = 24
COUNT = 60


def make_particles(stacks, per_stack, rotations=None, **changes):
    rng = np.random.default_rng(0)
    count = len(stacks) * per_stack
    fields = {
        "rotations": random_rotations(count, rng) if rotations is None else rotations,
        "shifts": np.tile([3.0, 4.0], (count, 1)),
        "ctf": CTF(
            defocus_u=np.linspace(10000, 20000, count) + 100,
            defocus_v=np.linspace(10000, 20000, count) - 100,
            phase_shift=np.zeros(count),
        ),
        "pixel_size": 2.0,
        "box": BOX,
        "half": np.arange(count, dtype=np.int8) % 2 + 1,
        "optics_group": np.zeros(count, int),
        "optics": (OpticsGroup("[red]only", 300.0, 2.7, 0.1, 2.0, BOX),),
        "stack": np.repeat(np.arange(len(stacks)), per_stack),
        "slice": np.tile(np.arange(per_stack), len(stacks)),
        "stacks": tuple(map(Path, stacks)),
        "source": Path("made.star"),
        "notes": ("a note of the reader",),
    }
    return Particles(**fields | changes)


def write_images(path, sign=1, count=COUNT // 2, pixel_size=2.0):
    """Write images of a blob in noise: 0.5 high, noise of standard deviation 1."""
    axis = np.arange(BOX) - BOX // 2
    blob = 0.5 * np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 4.0**2))
    noise = np.random.default_rng(count).normal(size=(count, BOX, BOX))
    write_stack(path, sign * blob + noise, pixel_size)
    return path


def printed(info):
    console = Console(file=io.StringIO(), width=100)
    print_info(info, console)
    return console.file.getvalue()


def test_a_good_file_is_described_in_numbers(tmp_path):
    stacks = [write_images(tmp_path / name) for name in ("a.mrcs", "b.mrcs")]
    info = describe(make_particles(stacks, COUNT // 2))
    assert info.problems == ()
    assert info.notes == ("a note of the reader",)
    assert (info.particles, info.box, info.pixel_size) == (60, 24, 2.0)
    assert info.half_sets == (30, 30, 0)
    assert info.defocus == (10000, 15000, 20000)
    assert info.largest_astigmatism == pytest.approx(200)
    assert (info.median_shift, info.largest_shift) == (5.0, 5.0)
    assert (info.stacks, info.stacks_found, info.images_in_stacks) == (2, 2, 60)
    assert info.optics[0].particles == 60
    # The blob adds 0.014 to the variance of the noise, 1, of 30 x 24^2 independent pixels:
    # their deviation is known to 1 / sqrt(2 x 30 x 24^2) = 0.005.
    assert info.sample.std == pytest.approx(1.007, abs=0.02)
    assert info.sample.count == 60


@pytest.mark.parametrize(
    ("sign", "verdict"), [(1, "light on dark"), (-1, "dark on light.*--invert"), (0, "not certain")]
)
def test_contrast_is_judged_from_the_images(tmp_path, sign, verdict):
    info = describe(make_particles([write_images(tmp_path / "a.mrcs", sign)], COUNT // 2))
    assert np.sign(info.sample.contrast) == sign or sign == 0
    text = printed(info)
    assert verdict.partition(".*")[0] in text
    assert ("--invert" in text) == (sign < 0)


def test_everything_that_is_wrong_is_collected(tmp_path):
    good = write_images(tmp_path / "good.mrcs")
    short = write_images(tmp_path / "short.mrcs", count=20)
    broken = write_images(tmp_path / "broken.mrcs")
    broken.write_bytes(broken.read_bytes()[:-100])
    write_stack(tmp_path / "wide.mrcs", np.zeros((30, 30, 30)), 2.0)
    stacks = [good, short, broken, tmp_path / "wide.mrcs", tmp_path / "gone.mrcs"]
    info = describe(make_particles(stacks, 30))
    wrong = "\n".join(info.problems)
    assert len(info.problems) == 4
    assert "1 of 5 stacks (30 of 150 images) not found, the first is" in wrong
    assert "row 60, 000030@" in wrong
    assert "short.mrcs: the stack holds 20 images" in wrong
    assert "broken.mrcs: the header promises 30 images but the file holds 29" in wrong
    assert "wide.mrcs: images are 30 pixels wide, 24 are expected" in wrong
    # What can be read is measured all the same.
    assert info.stacks_found == 4
    assert info.images_in_stacks == 50
    assert info.sample.count == 50
    for problem in info.problems:
        assert problem in printed(info)


def test_nan_pixels_are_a_problem_not_a_crash(tmp_path):
    images = np.zeros((30, BOX, BOX))
    images[3] = np.nan
    with np.errstate(invalid="ignore"):
        write_stack(tmp_path / "a.mrcs", images, 2.0)
    info = describe(make_particles([tmp_path / "a.mrcs"], 30))
    assert info.sample is None
    assert "NaN or infinite pixels" in info.problems[0]


def test_oddities_of_the_stacks_are_noted(tmp_path):
    path = write_images(tmp_path / "a.mrcs", count=40, pixel_size=2.5)
    info = describe(make_particles([path], 30, half=np.ones(30, np.int8)))
    assert info.problems == ()
    assert info.notes[1:] == (
        "images in the stacks that no row uses: 10",
        "pixel size 2 A is taken from the table, headers of 1 stacks say otherwise (2.5 A)",
        "no half-sets in the file: they are drawn from the seed",
    )
    # 0 and 1 stand for "not set".
    assert not any("headers" in note for note in describe(
        make_particles([write_images(tmp_path / "b.mrcs", pixel_size=1.0)], 30)).notes)  # fmt: skip


def test_files_without_images_ctf_or_box_are_described(tmp_path):
    made = dataclasses.replace(make_particles(["none.mrcs"], 5), ctf=None, box=None, stacks=())
    info = describe(made)
    assert info.problems == ("made.star: names no images (rlnImageName or blob/path)",)
    text = printed(info)
    assert "none: the CTF is taken as 1" in text
    assert "box unknown" in text
    assert "0 of 0 found" in text


def test_the_printed_summary_shows_names_as_they_are(tmp_path):
    text = printed(describe(make_particles([write_images(tmp_path / "a.mrcs")], 30)))
    assert "Optics [red]only" in text
    assert "24 x 24 pixels of 2 A" in text
    assert "1.00 to 2.00 um, median 1.50, astigmatism up to 200 A" in text


def test_many_optics_groups_are_cut_short(tmp_path):
    groups = tuple(OpticsGroup(f"g{i}", None, None, None, 2.0, BOX) for i in range(25))
    made = make_particles(["a.mrcs"], 25, optics=groups, optics_group=np.arange(25))
    assert "and 15 more optics groups" in printed(describe(made))


def test_json_holds_the_same(tmp_path):
    info = describe(make_particles([write_images(tmp_path / "a.mrcs")], 30))
    data = json.loads(info.as_json())
    assert data["particles"] == 30
    assert data["defocus"] == list(info.defocus)
    assert data["sample"]["contrast_verdict"] == info.sample.contrast_verdict
    assert data["coverage"]["verdict"] == info.coverage.verdict


def views(*directions):
    """Return rotations whose views are these directions, as polar angles in degrees."""
    rot, tilt = np.array(directions, dtype=float).T
    return rotation_matrices(rot, tilt, 0)


def test_even_views_have_equal_moments_and_leave_no_gap():
    coverage = pose_coverage(random_rotations(5000, np.random.default_rng(2)), 64)
    # The moments of n random directions scatter by about sqrt(4 / 45 / n) = 0.004 around 1/3.
    np.testing.assert_allclose(coverage.moments, 1 / 3, atol=0.02)
    assert coverage.uncovered == 0
    assert coverage.verdict == "even"


def test_a_single_view_covers_one_plane_of_fourier_space():
    coverage = pose_coverage(views((20, 35)), 64)
    np.testing.assert_allclose(coverage.moments, [0, 0, 1], atol=1e-14)
    # Directions within half a Fourier pixel of a plane at radius 31: a share of 0.5 / 31, of 2000
    # points spread evenly (those of a plane scatter less than at random: sqrt(32) / 2000).
    assert coverage.uncovered == pytest.approx(1 - 0.5 / 31, abs=0.003)
    assert coverage.verdict.startswith("crowded around one direction, with gaps")


def test_views_in_a_plane_are_told_from_views_around_a_direction():
    side = pose_coverage(views(*[(angle, 90) for angle in range(360)]), 64)
    np.testing.assert_allclose(side.moments, [0, 0.5, 0.5], atol=1e-14)
    assert side.verdict.startswith("close to one plane")
    assert side.uncovered == 0
    rng = np.random.default_rng(0)
    top = pose_coverage(views(*zip(rng.uniform(0, 360, 999), rng.uniform(0, 30, 999))), 64)  # noqa: B905
    assert top.verdict.startswith("crowded around one direction, with gaps")
    # Slices of views within 30 degrees of z leave out a cone of 60 degrees around it:
    # 1 - cos 60 = half of all directions.
    assert top.uncovered == pytest.approx(0.5, abs=0.02)


def test_larger_boxes_need_more_views():
    rotations = random_rotations(300, np.random.default_rng(1))
    small, large = pose_coverage(rotations, 32), pose_coverage(rotations, 256)
    assert small.moments == large.moments
    # A direction is missed by all n slices with probability (1 - t)^n, t = 0.5 / radius.
    assert small.uncovered == pytest.approx((1 - 0.5 / 15) ** 300, abs=0.005)
    assert large.uncovered == pytest.approx((1 - 0.5 / 127) ** 300, abs=0.04)


def test_coverage_counts_symmetric_copies():
    rng = np.random.default_rng(3)
    top = views(*zip(rng.uniform(0, 360, 99), rng.uniform(60, 90, 99)))  # noqa: B905
    for symmetry in ("C4", "D2", "O"):
        copies = replicated(top, symmetry_matrices(symmetry)).reshape(-1, 3, 3)
        found, whole = pose_coverage(top, 64, symmetry), pose_coverage(copies, 64)
        np.testing.assert_allclose(found.moments, whole.moments, atol=1e-12)
        assert found.uncovered == whole.uncovered
        assert found.verdict == whole.verdict
        assert found.symmetry == symmetry
    assert pose_coverage(top, 64).uncovered > 2 * pose_coverage(top, 64, "D2").uncovered


def test_info_says_which_symmetry_it_counts(shared_data, capsys):
    star = str(shared_data("betagal", "particles.star"))
    for options, words in (([], "symmetry not counted, give --sym"), (["--sym", "D2"], "of D2)")):
        assert main(["info", star, *options]) == 0
        assert words in capsys.readouterr().out
    assert main(["info", star, "--sym", "D1.5"]) == 2
    assert "symmetry: 'D1.5' is unknown" in capsys.readouterr().err


def test_real_particles_are_described(shared_data):
    info = describe(read_particles(shared_data("betagal", "particles.star"), need_images=False))
    assert info.problems == ()
    assert (info.particles, info.half_sets) == (506, (244, 262, 0))
    assert info.images_in_stacks == 920
    assert info.notes == ("images in the stacks that no row uses: 414",)
    assert info.sample.contrast_verdict == "light on dark, as needed"


def test_a_stack_with_one_image_more_than_rows_is_noted(shared_data):
    star = shared_data("reader-zoo", "star", "cryodrgn_sta_testing_bin8.star")
    found = read_particles(star, image_root=shared_data("reader-zoo", "mrc"), need_images=False)
    info = describe(found)
    assert info.problems == ()
    assert "images in the stacks that no row uses: 1" in info.notes


@pytest.mark.parametrize(
    "parts",
    [
        ("betagal", "refine3d", "run_it016_data.star"),
        ("betagal10017-meta", "images.star"),
        ("t20s-cryosparc", "cryosparc_P9_J209_000_particles.cs"),
        ("reader-zoo", "star", "drgnai_M_particles_sub10.star"),
    ],
)
def test_real_metadata_without_images_are_described_with_the_problem(shared_data, parts):
    info = describe(read_particles(shared_data(*parts), need_images=False))
    assert info.particles > 0
    assert "not found" in info.problems[0]
    assert info.sample is None
    assert "Problems" in printed(info)
