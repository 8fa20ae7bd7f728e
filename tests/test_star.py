"""STAR files: every dialect is read into the same particles, or refused by name."""

import numpy as np
import pytest

from fastcryo import InputError, rotation_matrices
from fastcryo.io.relion import read_relion
from fastcryo.io.star import read_star

OPTICS = {
    "rlnOpticsGroup": ["1"],
    "rlnOpticsGroupName": ["opticsGroup1"],
    "rlnVoltage": ["300.0"],
    "rlnSphericalAberration": ["2.7"],
    "rlnAmplitudeContrast": ["0.1"],
    "rlnImagePixelSize": ["1.5"],
    "rlnImageSize": ["32"],
}
PARTICLES = {
    "rlnImageName": ["000002@a.mrcs", "000001@a.mrcs", "1@b/c.mrcs"],
    "rlnAngleRot": ["10", "-20.5", "170"],
    "rlnAngleTilt": ["30", "90", "0"],
    "rlnAnglePsi": ["-5", "0", "1e1"],
    "rlnOriginXAngst": ["1.5", "0", "-3"],
    "rlnOriginYAngst": ["-2.25", "0", "4"],
    "rlnDefocusU": ["10000", "11000", "12000"],
    "rlnDefocusV": ["9000", "10000", "11500"],
    "rlnDefocusAngle": ["15", "25", "35"],
    "rlnPhaseShift": ["0", "90", "10"],
    "rlnCtfBfactor": ["0", "5", "10"],
    "rlnCtfScalefactor": ["1", "0.5", "1"],
    "rlnOpticsGroup": ["1", "1", "1"],
    "rlnRandomSubset": ["1", "2", "1"],
}


def block(name, columns, numbered=True, title="loop_"):
    tags = [f"_{c} #{i + 1}" if numbered else f"_{c}" for i, c in enumerate(columns)]
    rows = [" ".join(row) for row in zip(*columns.values(), strict=True)]
    return "\n".join([f"data_{name}", "", title, *tags, *rows, "", ""])


def without(columns, *names):
    return {c: v for c, v in columns.items() if c not in names}


def read(tmp_path, text, **options):
    path = tmp_path / "particles.star"
    path.write_text(text, newline="")
    return read_relion(path, **options)


def refused(tmp_path, message, text, **options):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text, **options)
    sentence = str(caught.value)
    assert sentence.startswith(str(tmp_path / "particles.star"))
    assert "\n" not in sentence


MODERN = block("optics", OPTICS) + block("particles", PARTICLES)
OLD = {
    **without(PARTICLES, "rlnOriginXAngst", "rlnOriginYAngst", "rlnOpticsGroup"),
    "rlnOriginX": ["1", "0", "-2"],
    "rlnOriginY": ["-1.5", "0", "2.6666666667"],
    "rlnVoltage": ["300"] * 3,
    "rlnSphericalAberration": ["2.7"] * 3,
    "rlnAmplitudeContrast": ["0.1"] * 3,
    "rlnDetectorPixelSize": ["7.5"] * 3,
    "rlnMagnification": ["50000"] * 3,
}


@pytest.mark.parametrize(
    "text",
    [
        MODERN,
        block("particles", PARTICLES) + block("optics", OPTICS),
        block("optics", OPTICS, numbered=False) + block("particles", PARTICLES, numbered=False),
        MODERN.replace("\n", "\r\n"),
        "\n# version 30001\n\n" + MODERN.replace("loop_\n", "loop_ # rows follow\n"),
        "\N{ZERO WIDTH NO-BREAK SPACE}" + MODERN,
        MODERN.replace("opticsGroup1", "'opticsGroup1'").replace("000002@a", '"000002@a')
        .replace('"000002@a.mrcs', '"000002@a.mrcs"'),
        block("general", {"rlnTomoSubTomosAre2DStacks": ["0"]}) + MODERN,
        block("", OLD),
        block("images", OLD),
        block("images", {**without(OLD, "rlnDetectorPixelSize", "rlnMagnification"),
                         "rlnImagePixelSize": ["1.5"] * 3}, numbered=False),
        "data_optics\n" + "".join(f"_{c} {v[0]}\n" for c, v in OPTICS.items())
        + block("particles", PARTICLES),
        block("optics", {**OPTICS, "rlnPhaseShift": ["45"]}) + block("particles", PARTICLES),
        block("optics", without(OPTICS, "rlnVoltage"))
        + block("particles", {**PARTICLES, "rlnVoltage": ["300"] * 3}),
    ],
    ids=["3.1", "particles-first", "no-numbers", "windows", "comments", "byte-order-mark",
         "quotes", "general-block", "nameless", "data_images", "image-pixel-size", "pairs",
         "particles-win", "voltage-in-particles"],
)  # fmt: skip
def test_every_dialect_gives_the_same_particles(tmp_path, text):
    particles = read(tmp_path, text)
    rotations = rotation_matrices([10, -20.5, 170], [30, 90, 0], [-5, 0, 10])
    np.testing.assert_array_equal(particles.rotations, rotations)
    # Old shifts are pixels of 1.5 A, given with 10 decimals.
    np.testing.assert_allclose(particles.shifts, [[1.5, -2.25], [0, 0], [-3, 4]], atol=1e-9)
    assert particles.pixel_size == pytest.approx(1.5, rel=1e-14)
    assert particles.half.tolist() == [1, 2, 1]
    assert particles.stack.tolist() == [0, 0, 1]
    assert particles.slice.tolist() == [1, 0, 0]
    assert [path.as_posix() for path in particles.stacks] == ["a.mrcs", "b/c.mrcs"]
    ctf = particles.ctf
    np.testing.assert_array_equal(ctf.defocus_u, [10000, 11000, 12000])
    np.testing.assert_array_equal(ctf.defocus_v, [9000, 10000, 11500])
    np.testing.assert_array_equal(ctf.defocus_angle, [15, 25, 35])
    np.testing.assert_array_equal(ctf.phase_shift, [0, 90, 10])
    np.testing.assert_array_equal(ctf.bfactor, [0, 5, 10])
    np.testing.assert_array_equal(ctf.scale, [1, 0.5, 1])
    assert (ctf.voltage == 300).all()
    assert (ctf.spherical_aberration == 2.7).all()
    assert (ctf.amplitude_contrast == 0.1).all()
    (group,) = particles.optics
    assert (group.name, group.voltage, group.amplitude_contrast) == ("opticsGroup1", 300, 0.1)
    assert particles.optics_group.tolist() == [0, 0, 0]
    assert particles.notes == ()


def test_particles_find_their_optics_group_by_number_not_by_row(tmp_path):
    optics = {
        "rlnOpticsGroup": ["7", "3", "5"],
        "rlnOpticsGroupName": ["seven", "three", "five"],
        "rlnVoltage": ["200", "300", "100"],
        **{c: v * 3 for c, v in OPTICS.items() if not c.startswith(("rlnOptics", "rlnVolt"))},
    }
    particles = {**PARTICLES, "rlnOpticsGroup": ["3", "7", "3"]}
    found = read(tmp_path, block("optics", optics) + block("particles", particles))
    assert found.ctf.voltage.tolist() == [300, 200, 300]
    assert [found.optics[g].name for g in found.optics_group] == ["three", "seven", "three"]
    assert [found.optics[g].voltage for g in found.optics_group] == [300, 200, 300]
    assert len(found.optics) == 2


def test_old_files_with_two_voltages_make_two_optics_groups(tmp_path):
    found = read(tmp_path, block("", {**OLD, "rlnVoltage": ["200", "300", "200"]}))
    assert [found.optics[g].voltage for g in found.optics_group] == [200, 300, 200]
    assert [group.name for group in found.optics] == ["opticsGroup1", "opticsGroup2"]


def test_pixel_size_given_by_the_user_replaces_that_of_the_file(tmp_path):
    assert read(tmp_path, MODERN, pixel_size=2.0).pixel_size == 2.0
    old = read(tmp_path, block("", OLD), pixel_size=2.0)
    np.testing.assert_allclose(old.shifts[0], [2, -3], rtol=1e-12)  # given in pixels


def test_missing_pieces_that_have_a_usual_meaning_are_noted(tmp_path):
    few = without(PARTICLES, "rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset")
    text = block("optics", without(OPTICS, "rlnAmplitudeContrast")) + block("particles", few)
    particles = read(tmp_path, text)
    assert not particles.shifts.any()
    assert not particles.half.any()
    assert (particles.ctf.amplitude_contrast == 0.1).all()
    assert particles.notes == (
        "no rlnOriginXAngst or rlnOriginX: particles are taken as centred",
        "no rlnAmplitudeContrast: 0.1 is assumed",
    )
    bare = without(PARTICLES, *(c for c in PARTICLES if c.startswith(("rlnDefocus", "rlnPhase"))))
    particles = read(tmp_path, block("optics", OPTICS) + block("particles", bare))
    assert particles.ctf is None
    assert particles.notes == ("no rlnDefocusU: the CTF is taken as 1",)


def test_aberrations_magnification_and_corrections_are_read(tmp_path):
    zeros = {
        "rlnBeamTiltX": ["0.0"],
        "rlnBeamTiltY": ["0"],
        "rlnOddZernike": ["[0,0.000,0.0,0,0,0]"],
        "rlnEvenZernike": ["[0,0]"],
        "rlnMagMat00": ["1.0"],
        "rlnMagMat01": ["0"],
        "rlnMagMat10": ["0"],
        "rlnMagMat11": ["1"],
        "rlnCtfDataAreCtfPremultiplied": ["0"],
    }
    found = read(tmp_path, block("optics", OPTICS | zeros) + block("particles", PARTICLES))
    assert found.notes == ()
    (group,) = found.optics
    assert not any((*group.aberrations.beam_tilt, *group.aberrations.odd, *group.aberrations.even))
    assert (group.magnification, group.corrected) == ((1, 0, 0, 1), "")
    some = zeros | {
        "rlnBeamTiltY": ["-0.25"],
        "rlnOddZernike": ["[0,0.1,-1e-2,3,4,.5]"],
        "rlnEvenZernike": ["'[0, -2]'"],
        "rlnMagMat01": ["0.01"],
        "rlnCtfDataAreCtfPremultiplied": ["1"],
    }
    found = read(tmp_path, block("optics", OPTICS | some) + block("particles", PARTICLES))
    assert found.notes == ()
    (group,) = found.optics
    assert group.aberrations.beam_tilt == (0, -0.25)
    # What RELION calls tilt stands in for these two.
    assert group.aberrations.odd == (0, 0.1, -0.01, 0, 0, 0.5)
    assert group.aberrations.even == (0, -2)
    assert (group.magnification, group.corrected) == ((1, 0.01, 0, 1), "premultiplied")


def test_beam_tilt_of_older_files_stands_with_the_particles(tmp_path):
    tilts = {"rlnBeamTiltX": ["0.1", "0.1", "0.2"], "rlnBeamTiltY": ["0", "0", "0"]}
    flipped = {"rlnCtfDataArePhaseFlipped": ["1"] * 3}
    found = read(tmp_path, block("", OLD | tilts | flipped))
    assert [g.aberrations.beam_tilt for g in found.optics] == [(0.1, 0), (0.2, 0)]
    assert [g.corrected for g in found.optics] == ["phase-flipped"] * 2
    np.testing.assert_array_equal(found.optics_group, [0, 0, 1])


def test_groups_of_other_pixel_and_box_sizes_keep_them(tmp_path):
    sizes = TWO | {"rlnImagePixelSize": ["1.5", "1.6"], "rlnImageSize": ["32", "40"]}
    origins = {"rlnOriginX": ["2", "2", "0"], "rlnOriginY": ["0", "1", "0"]}
    rows = without(PARTICLES, "rlnOriginXAngst", "rlnOriginYAngst") | origins
    rows |= {"rlnOpticsGroup": ["1", "2", "1"]}
    found = read(tmp_path, block("optics", sizes) + block("particles", rows))
    assert [(g.pixel_size, g.box) for g in found.optics] == [(1.5, 32), (1.6, 40)]
    assert (found.pixel_size, found.box) == (1.5, 32)
    np.testing.assert_allclose(found.shifts, [[3, 0], [3.2, 1.6], [0, 0]])


def test_several_classes_and_angles_of_2d_classes_are_noted(tmp_path):
    flat = {
        **PARTICLES,
        "rlnAngleRot": ["0"] * 3,
        "rlnAngleTilt": ["0"] * 3,
        "rlnClassNumber": ["1", "2", "1"],
    }
    found = read(tmp_path, block("optics", OPTICS) + block("particles", flat))
    assert found.notes == (
        "rlnAngleRot and rlnAngleTilt are 0 in all rows: angles of a 2D classification?",
        "particles of 2 classes (rlnClassNumber) are used together",
    )


def test_negative_bfactors_of_warp_and_m_are_taken_as_decays(tmp_path):
    found = read(tmp_path, MODERN.replace(" 5 0.5 ", " -5 0.5 "))
    assert found.ctf.bfactor.tolist() == [0, 5, 10]
    assert "negative (down to -5 A^2)" in found.notes[0]


def optics(**columns):
    return block("optics", OPTICS | columns) + block("particles", PARTICLES)


def particles(**columns):
    return block("optics", OPTICS) + block("particles", PARTICLES | columns)


TWO = {c: v * 2 for c, v in OPTICS.items()} | {
    "rlnOpticsGroup": ["1", "2"],
    "rlnOpticsGroupName": ["one", "two"],
}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("an empty STAR file", ""),
        ("an empty STAR file", "\n# nothing\n"),
        (r"line 1: expected block header", "hello"),
        (r"line \d+ has \d+ values, 14 are needed", MODERN.rstrip() + " 3\n"),
        ("duplicate block name: particles", MODERN + block("particles", PARTICLES)),
        (r"duplicate tag _rlnAngleRot", MODERN.replace("_rlnAngleTilt", "_rlnAngleRot")),
        ("data_particles holds 2 tables", MODERN + "loop_\n_a\n1\n"),
        (r"no particles table .*found data_optics, data_micrographs",
         block("optics", OPTICS) + block("micrographs", PARTICLES)),
        ("the particles table has no rows", particles(**{c: [] for c in PARTICLES})),
        (r"data_particles lacks rlnAngleTilt, rlnAnglePsi, .*found rlnImageName, rlnAngleRot, rln",
         block("particles", without(PARTICLES, "rlnAngleTilt", "rlnAnglePsi"))),
        (r"rlnAngleRot in row 2 of data_particles is 'none', a number is needed$",
         particles(rlnAngleRot=["1", "none", "3"])),
        (r"rlnAngleRot in row 2 .* is 'nan', a number is needed \(2 rows have no number there\)",
         particles(rlnAngleRot=["1", "nan", "inf"])),
        ("rlnDefocusU in row 3 of data_particles is '[?]'",
         particles(rlnDefocusU=["1", "2", "?"])),
        ("data_particles lacks rlnOriginYAngst, both shifts",
         block("optics", OPTICS) + block("particles", without(PARTICLES, "rlnOriginYAngst"))),
        ("no rlnDefocusAngle in any table beside rlnDefocusU",
         block("optics", OPTICS) + block("particles", without(PARTICLES, "rlnDefocusAngle"))),
        ("no rlnVoltage in any table",
         block("optics", without(OPTICS, "rlnVoltage")) + block("particles", PARTICLES)),
        (r"the voltage is 300000, kV are needed", optics(rlnVoltage=["300000"])),
        ("CTF: amplitude_contrast must lie between 0 and 1", optics(rlnAmplitudeContrast=["10"])),
        ("rlnRandomSubset of row 2 is 3", particles(rlnRandomSubset=["1", "3", "2"])),
        ("rlnRandomSubset in row 1 .* is '1.5', a whole number",
         particles(rlnRandomSubset=["1.5", "1", "2"])),
        (r"rlnImageName of row 2 is '0@a.mrcs', a number from 1",
         particles(rlnImageName=["1@a.mrcs", "0@a.mrcs", "2@a.mrcs"])),
        (r"rlnImageName of row 3 is '99999999999@a.mrcs'",
         particles(rlnImageName=["1@a.mrcs", "2@a.mrcs", "99999999999@a.mrcs"])),
        (r"rlnImageName of row 1 is '-1@a.mrcs'",
         particles(rlnImageName=["-1@a.mrcs", "2@a.mrcs", "1@a.mrcs"])),
        ("rlnOpticsGroup 2 of row 3 .1 rows in all. is not in data_optics",
         particles(rlnOpticsGroup=["1", "1", "2"])),
        ("an rlnOpticsGroup occurs twice",
         block("optics", TWO | {"rlnOpticsGroup": ["1", "1"]}) + block("particles", PARTICLES)),
        ("data_particles lacks rlnOpticsGroup",
         block("optics", OPTICS) + block("particles", without(PARTICLES, "rlnOpticsGroup"))),
        ("no pixel size of the images, neither rlnImagePixelSize .* give it by --angpix",
         block("optics", without(OPTICS, "rlnImagePixelSize")) + block("particles", PARTICLES)),
        ("rlnMicrographOriginalPixelSize is not used: the images may be downsampled",
         block("optics", {**without(OPTICS, "rlnImagePixelSize"),
                          "rlnMicrographOriginalPixelSize": ["0.9"]})
         + block("particles", PARTICLES)),
        ("the pixel size is 0 A", optics(rlnImagePixelSize=["0"])),
        ("rlnMagnification must be positive",
         block("", {**OLD, "rlnMagnification": ["50000", "0", "50000"]})),
        ("rlnCtfDataArePhaseFlipped and rlnCtfDataAreCtfPremultiplied are both set .row 1.",
         particles(rlnCtfDataArePhaseFlipped=["1"] * 3, rlnCtfDataAreCtfPremultiplied=["1"] * 3)),
        ("says that the images are phase-flipped, but there is no CTF",
         block("optics", OPTICS) + block("particles", without(
             PARTICLES, "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
             | {"rlnCtfDataArePhaseFlipped": ["1"] * 3})),
        (r"rlnEvenZernike is '\[1,x\]', a list of numbers", optics(rlnEvenZernike=["[1,x]"])),
        ("rlnOddZernike is 'nan', a list of numbers", optics(rlnOddZernike=["nan"])),
        ("rlnMagMat00 to 11 gives the magnification 0, 0, 0, 1,", optics(rlnMagMat00=["0"])),
        ("rlnImageSize is 32.5, a number of pixels", optics(rlnImageSize=["32.5"])),
        ("subtomograms or tilt series .found rlnImageDimensionality.",
         optics(rlnImageDimensionality=["3"])),
        ("subtomograms or tilt series .found rlnTomoName.", particles(rlnTomoName=["t"] * 3)),
        ("subtomograms or tilt series .found volume v.mrc.",
         particles(rlnImageName=["v.mrc"] * 3, rlnCtfImage=["c.mrc"] * 3)),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, message, text):
    refused(tmp_path, message, text)


def test_an_optics_group_that_no_particle_uses_does_not_matter(tmp_path):
    odd = TWO | {"rlnImagePixelSize": ["1.5", "9"], "rlnImageSize": ["32", "99"]}
    found = read(tmp_path, block("optics", odd) + block("particles", PARTICLES))
    assert (found.pixel_size, found.box, len(found.optics)) == (1.5, 32, 1)


def test_missing_files_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.star: cannot be read \(No such file"):
        read_star(tmp_path / "none.star")
    (tmp_path / "image.star").write_bytes(bytes(range(256)) * 10)
    with pytest.raises(InputError, match=r"image\.star: not a valid STAR file"):
        read_star(tmp_path / "image.star")
