"""cryoSPARC files: poses, CTF, half-sets and images as RELION would give them."""

import io

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fastcryo import InputError, rotation_matrices
from fastcryo.cli import main
from fastcryo.io.cs import read_cryosparc
from fastcryo.io.mrc import write_stack
from fastcryo.optics import imaging_of
from fastcryo.particles import read_particles
from fastcryo.scales import with_recorded_scales

ANGLES = np.array([[10, 30, -5], [-20.5, 90, 0], [170, 0.5, 10], [0, 179, 33]])
COUNT = len(ANGLES)
POSES = Rotation.from_euler("ZYZ", ANGLES, degrees=True).as_rotvec()
FIELDS = {
    "uid": np.array([40, 10, 30, 20], np.uint64),
    "blob/path": np.array([b">J1/b.mrc", b"J1/a.mrc", b">J1/b.mrc", b"J1/a.mrc"]),
    "blob/idx": np.array([1, 0, 0, 2], np.uint32),
    "blob/shape": np.full((COUNT, 2), 16, np.uint32),
    "blob/psize_A": np.full(COUNT, 1.5, np.float32),
    "blob/sign": np.ones(COUNT, np.float32),
    "alignments3D/pose": POSES.astype(np.float32),
    "alignments3D/shift": np.array([[1, -2], [0, 0], [0.5, 3], [4, 4]], np.float32),
    "alignments3D/psize_A": np.full(COUNT, 3.0, np.float32),
    "alignments3D/split": np.array([0, 1, 1, 0], np.uint32),
    "ctf/exp_group_id": np.array([5, 5, 2, 5], np.uint32),
    "ctf/accel_kv": np.full(COUNT, 200, np.float32),
    "ctf/cs_mm": np.full(COUNT, 1.5, np.float32),
    "ctf/amp_contrast": np.full(COUNT, 0.125, np.float32),
    "ctf/df1_A": np.array([10000, 11000, 12000, 13000], np.float32),
    "ctf/df2_A": np.array([9000, 10000, 11000, 12000], np.float32),
    "ctf/df_angle_rad": np.array([0, 0.5, 1, -0.5], np.float32),
    "ctf/phase_shift_rad": np.array([0, np.pi / 2, 0, 0], np.float32),
    "ctf/bfactor": np.array([0, 5, 0, 0], np.float32),
    "ctf/scale": np.ones(COUNT, np.float32),
    "ctf/tilt_A": np.zeros((COUNT, 2), np.float32),
}


def write_cs(path, fields):
    count = len(next(iter(fields.values())))
    array = np.zeros(count, [(n, v.dtype, v.shape[1:]) for n, v in fields.items()])
    for name, values in fields.items():
        array[name] = values
    with path.open("wb") as file:
        np.save(file, array)
    return path


def without(*names):
    return {name: values for name, values in FIELDS.items() if name not in names}


def test_poses_ctf_and_half_sets_are_those_of_relion(tmp_path):
    found = read_cryosparc(write_cs(tmp_path / "p.cs", FIELDS))
    # Rotation vectors are stored in single precision: 3 * 2^-24 radians at most.
    np.testing.assert_allclose(found.rotations, rotation_matrices(*ANGLES.T), atol=4e-7)
    # Shifts are in pixels of the alignment, not of the images.
    np.testing.assert_array_equal(found.shifts, [[3, -6], [0, 0], [1.5, 9], [12, 12]])
    assert (found.pixel_size, found.box) == (1.5, 16)
    assert found.half.tolist() == [1, 2, 2, 1]
    assert found.slice.tolist() == [1, 0, 0, 2]
    names = [found.stacks[s].as_posix() for s in found.stack]
    assert names == ["J1/b.mrc", "J1/a.mrc", "J1/b.mrc", "J1/a.mrc"]
    np.testing.assert_array_equal(found.ctf.defocus_u, FIELDS["ctf/df1_A"])
    np.testing.assert_array_equal(found.ctf.defocus_v, FIELDS["ctf/df2_A"])
    np.testing.assert_allclose(
        found.ctf.defocus_angle, [0, 90 / np.pi, 180 / np.pi, -90 / np.pi], rtol=1e-7
    )
    np.testing.assert_allclose(found.ctf.phase_shift, [0, 90, 0, 0], rtol=1e-7)
    assert found.ctf.bfactor.tolist() == [0, 5, 0, 0]
    assert (found.ctf.voltage == 200).all()
    assert (found.ctf.spherical_aberration == 1.5).all()
    assert (found.ctf.amplitude_contrast == 0.125).all()
    assert [found.optics[g].name for g in found.optics_group] == [
        f"exposure group {i}" for i in (5, 5, 2, 5)
    ]
    assert found.notes == ()


def test_shifts_are_pixels_of_the_images_where_the_alignment_has_no_pixel_size(tmp_path):
    found = read_cryosparc(write_cs(tmp_path / "p.cs", without("alignments3D/psize_A")))
    np.testing.assert_array_equal(found.shifts[0], [1.5, -3])


def test_a_passthrough_file_is_joined_by_uid_and_the_first_file_wins(tmp_path):
    mine = {n: v for n, v in FIELDS.items() if not n.startswith(("blob", "ctf/df"))}
    order = np.array([2, 0, 3, 1])
    others = {n: v[order] for n, v in FIELDS.items() if n == "uid" or n not in mine}
    others = {n: np.concatenate([v, v[:1]]) for n, v in others.items()}
    others["uid"][-1] = 99  # a particle that the refinement dropped
    others["ctf/accel_kv"] = np.full(COUNT + 1, 100, np.float32)
    first = write_cs(tmp_path / "p.cs", mine)
    second = write_cs(tmp_path / "passthrough.cs", others)
    joined = read_cryosparc(first, second)
    whole = read_cryosparc(write_cs(tmp_path / "whole.cs", FIELDS))
    np.testing.assert_array_equal(joined.slice, whole.slice)
    assert [joined.stacks[s] for s in joined.stack] == [whole.stacks[s] for s in whole.stack]
    np.testing.assert_array_equal(joined.ctf.coefficients(), whole.ctf.coefficients())
    np.testing.assert_array_equal(joined.rotations, whole.rotations)


@pytest.mark.parametrize(
    ("uids", "message"),
    [
        ([40, 10, 30, 21], r"passthrough\.cs: lacks 1 of the 4 particles"),
        ([40, 10, 30, 30], r"passthrough\.cs: a uid occurs twice"),
        ([], r"passthrough\.cs: lacks 4 of the 4 particles"),
    ],
)
def test_a_passthrough_file_that_does_not_match_is_refused(tmp_path, uids, message):
    first = write_cs(tmp_path / "p.cs", without("blob/path"))
    uids = np.array(uids, np.uint64)
    second = write_cs(
        tmp_path / "passthrough.cs", {"uid": uids, "blob/path": np.full(len(uids), b"a.mrc")}
    )
    with pytest.raises(InputError, match=message):
        read_cryosparc(first, second)


def test_images_are_found_from_the_parents_of_the_cs_file(tmp_path):
    job = tmp_path / "project" / "J2"
    job.mkdir(parents=True)
    (tmp_path / "project" / "J1").mkdir()
    stacks = {name: np.random.default_rng(i).normal(size=(3, 16, 16)).astype(np.float32)
              for i, name in enumerate("ab")}  # fmt: skip
    for name, images in stacks.items():
        write_stack(tmp_path / "project" / "J1" / f"{name}.mrc", images, 1.5)
    found = read_particles(write_cs(job / "p.cs", FIELDS))
    expected = [stacks["b"][1], stacks["a"][0], stacks["b"][0], stacks["a"][2]]
    np.testing.assert_array_equal(found.images(), expected)


def test_what_is_not_modelled_and_the_sign_of_the_images_are_noted(tmp_path):
    fields = FIELDS | {
        "blob/sign": -np.ones(COUNT, np.float32),
        "ctf/tilt_A": np.full((COUNT, 2), 0.1, np.float32),
        "ctf/trefoil_A": np.full((COUNT, 2), 0.01, np.float32),
        "alignments3D/class": np.array([0, 1, 0, 0], np.uint32),
    }
    notes = read_cryosparc(write_cs(tmp_path / "p.cs", fields)).notes
    assert notes[:2] == (
        "beam tilt (ctf/tilt_A) is not modelled: its convention is not documented",
        "trefoil (ctf/trefoil_A) is not modelled: its convention is not documented",
    )
    assert "blob/sign is -1" in notes[2]
    assert notes[3] == "particles of 2 classes are used together"


def test_files_without_ctf_half_sets_or_images_are_read_as_such(tmp_path):
    few = {n: v for n, v in FIELDS.items() if n.startswith("alignments3D") and "split" not in n}
    found = read_particles(write_cs(tmp_path / "p.cs", few), need_images=False)
    assert (found.ctf, found.box, found.stacks, found.pixel_size) == (None, None, (), 3.0)
    assert not found.half.any()
    assert found.notes == ("no ctf/df1_A: the CTF is taken as 1",)
    with pytest.raises(InputError, match=r"p\.cs: names no images"):
        read_particles(tmp_path / "p.cs")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (without("alignments3D/pose"), "lacks alignments3D/pose, particles with 3D poses"),
        (without("blob/idx"), "lacks blob/idx"),
        (without("ctf/df2_A"), "lacks ctf/df2_A, the CTF needs them"),
        (without("ctf/accel_kv"), "lacks ctf/accel_kv, the CTF needs them"),
        (without("blob/psize_A", "alignments3D/psize_A"), "no pixel size"),
        ({n: v[:0] for n, v in FIELDS.items()}, "holds no particles"),
        (FIELDS | {"blob/shape": np.full((COUNT, 2), (16, 18), np.uint32)},
         "images of 18 x 16 pixels"),
        (FIELDS | {"blob/sign": np.array([1, -1, 1, 1], np.float32)}, "blob/sign differs"),
        (FIELDS | {"alignments3D/split": np.array([0, 1, 2, 0], np.uint32)}, "split is 2"),
        (FIELDS | {"alignments3D/pose": np.where(np.eye(4, 3), np.nan, 0)},
         "alignments3D/pose of 3 particles is NaN or infinite, the first in row 1"),
        (FIELDS | {"alignments3D/pose": np.zeros(COUNT)},
         r"alignments3D/pose holds float64 of shape \(\) per row, numbers of shape \(3,\)"),
        (FIELDS | {"ctf/df1_A": np.array([1, np.inf, 1, 1])}, "ctf/df1_A of 1 particles"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, fields, message):
    path = write_cs(tmp_path / "p.cs", fields)
    with pytest.raises(InputError, match=message) as caught:
        read_cryosparc(path)
    assert str(caught.value).startswith(str(path))


def test_files_that_are_no_table_are_refused(tmp_path):
    whole = write_cs(tmp_path / "p.cs", FIELDS).read_bytes()
    plain = io.BytesIO()
    np.save(plain, np.arange(3))
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    named = io.BytesIO()
    np.save(named, np.array([({},)], dtype=[("uid", object)]), allow_pickle=True)
    for content, message in (
        (whole[:-10], "truncated, 4 rows of 113 bytes are promised and 442 bytes are left"),
        (whole[:8], "not a readable"),
        (plain.getvalue(), "not a readable .cs file .an array without named fields"),
        (objects.getvalue(), "an array without named fields"),
        (named.getvalue(), "holds Python objects, which are not read from files"),
        (b"\x94CSDAT" + whole, "compressed stream format"),
    ):
        (tmp_path / "bad.cs").write_bytes(content)
        with pytest.raises(InputError, match=rf"bad\.cs: .*{message}"):
            read_particles(tmp_path / "bad.cs")
    (tmp_path / "p.csg").write_text("group:\n")
    with pytest.raises(InputError, match=r"p\.csg: a list of results, give the \.cs"):
        read_particles(tmp_path / "p.csg")
    (tmp_path / "p.star").write_text("")
    with pytest.raises(InputError, match="a passthrough file goes with a"):
        read_particles(tmp_path / "p.star", passthrough=tmp_path / "p.cs")


def test_headers_beyond_the_limit_of_numpy_are_read(tmp_path):
    many = {f"alignments_class_{i}/{'x' * 60}": np.zeros(COUNT, "<f4") for i in range(300)}
    path = write_cs(tmp_path / "p.cs", FIELDS | many)
    assert path.stat().st_size > 20000
    assert len(read_cryosparc(path)) == COUNT


def test_the_magnification_matrix_is_that_of_relion_less_the_identity(tmp_path):
    matrix = np.array([[0.01, 0.002, -0.003, -0.02]] * 2 + [[0, 0, 0, 0]] * 2, np.float32)
    path = write_cs(tmp_path / "p.cs", FIELDS | {"ctf/anisomag": matrix})
    found = read_particles(path, need_images=False)
    assert not any("not modelled" in note for note in found.notes)
    whole = [found.optics[g].magnification for g in found.optics_group]
    np.testing.assert_allclose(np.subtract(whole, [1, 0, 0, 1]), matrix, atol=1e-15)
    # A STAR file of the same particles has it in RELION's columns.
    assert main(["select", str(path), "--out", str(tmp_path / "p.star")]) == 0
    star = read_particles(tmp_path / "p.star", need_images=False)
    names = [star.optics[g].magnification for g in star.optics_group]
    np.testing.assert_allclose(names, whole, atol=1e-6)
    for one, other in zip(imaging_of(found).arrays(), imaging_of(star).arrays(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(star.rotations, found.rotations, atol=1e-6)
    np.testing.assert_allclose(star.shifts, found.shifts, atol=1e-6)
    np.testing.assert_allclose(
        star.ctf.coefficients(), found.ctf.coefficients(), rtol=1e-5, atol=1e-7
    )


def test_scales_of_cryosparc_are_used_when_asked_for(tmp_path):
    alpha = np.array([0.5, 1.0, 1.5, 1.0], np.float32)
    path = write_cs(tmp_path / "p.cs", FIELDS | {"alignments3D/alpha": alpha})
    particles = read_particles(path, need_images=False)
    assert particles.scale is None
    found, words = with_recorded_scales(particles.select([2, 0]))
    np.testing.assert_allclose(found.scale, [1.5, 0.5])
    assert words == ["alignments3D/alpha from the file, 0.5 to 1.5 of its mean"]
    plain = read_particles(write_cs(tmp_path / "q.cs", FIELDS), need_images=False)
    with pytest.raises(InputError, match="nor alignments3D/alpha"):
        with_recorded_scales(plain)


def test_a_matrix_that_no_microscope_has_is_refused(tmp_path):
    matrix = np.full((COUNT, 4), 0.5, np.float32)
    with pytest.raises(InputError, match=r"ctf/anisomag gives the magnification 1\.5, 0\.5"):
        read_cryosparc(write_cs(tmp_path / "p.cs", FIELDS | {"ctf/anisomag": matrix}))


def test_real_refinements_are_read(shared_data):
    name = "cryosparc_P9_J209_000_particles.cs"
    found = read_particles(shared_data("t20s-cryosparc", name), need_images=False)
    assert (len(found), found.box, found.pixel_size) == (11764, 256, 1.02734375)
    assert [(found.half == h).sum() for h in (1, 2)] == [5882, 5882]
    assert len(found.stacks) == 196
    np.testing.assert_allclose(
        found.shifts[0], np.array([5.890625, 7.678124904632568]) * 1.02734375, rtol=1e-7
    )
    pose = np.array([-1.4971652030944824, -1.0974537134170532, 1.6444274187088013])
    np.testing.assert_allclose(found.rotations[0] @ pose, pose, atol=1e-15)  # its own axis
    assert np.degrees(np.arccos((np.trace(found.rotations[0]) - 1) / 2)) == pytest.approx(
        np.degrees(np.linalg.norm(pose)), abs=1e-10
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cryosparc_P12_J24_001_particles.cs", (2019, 180, 1010)),
        ("cryosparc_J2_particles_exported.cs", "lacks alignments3D/pose, .*found alignments2D,"),
        ("cryosparc-tools_4k_dataset.cs", "holds no particles"),
    ],
)
def test_cs_files_of_the_zoo_are_read_or_refused(shared_data, name, expected):
    path = shared_data("reader-zoo", "cs", name)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            read_particles(path, need_images=False)
        return
    found = read_particles(path, need_images=False)
    assert (len(found), found.box, (found.half == 1).sum()) == expected
