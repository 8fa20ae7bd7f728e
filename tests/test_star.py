"""STAR files: every dialect is read into the same particles, or refused by name."""

import numpy as np
import pytest

from fastcryo import InputError, rotation_matrices
from fastcryo.io.relion import read_relion
from fastcryo.io.star import read_star, write_star

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


def test_tables_are_written_so_that_they_read_back_unchanged(tmp_path):
    tables = {
        "optics": {"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["two words"]},
        "particles": {"rlnA": ["0.5", "-1e-07"], "rlnImageName": ["1@a b/c.mrcs", "000002@d.mrcs"]},
    }
    write_star(tmp_path / "t.star", tables)
    found = read_star(tmp_path / "t.star")
    assert {
        name: {c: table.strings(c) for c in table.columns} for name, table in found.items()
    } == tables
    # RELION ends a table at an empty line, and starts the next at data_.
    assert "\n\ndata_particles\n" in (tmp_path / "t.star").read_text()


# count, pixel size, box, and of the first row: rot tilt psi, shift in A, defocus U, half-set
ZOO = {
    "cryodrgn_FinalRefinement-OriginalParticles-PfCRT.star": (
        5, 1.035, None, (16.09353, 86.352776, 98.22569), (-0.14063 * 1.035, -0.04688 * 1.035),
        15686.0, 2),
    "cryodrgn_relion31.star": (
        5, 2.806, 256, (-102.30296, 82.318041, 124.706463), (0.019324, -0.64686),
        13108.082418, 1),
    "cryodrgn_relion31.v2.star": (
        5, 2.806, 256, (-102.30296, 82.318041, 124.706463), (0.019324, -0.64686),
        13108.082418, 1),
    "cryodrgn_relion5.star": (
        17, 0.89, 448, (111.508618, 36.742536, 141.158035), (-3.12578, -1.41031),
        11949.06133, 1),
    "cryodrgn_sta_testing.star": (
        219, 1.96, None, (113.1491, 88.02, -95.35435), (0, 0), 20061.7, 2),
    "cryodrgn_sta_testing_bin8.star": (
        219, 1.96, None, (113.1491, 88.02, -95.35435), (0, 0), 20061.7, 2),
    "cryojax_test_starfile.star": (
        3, 12.0, 16, (50.19532, -70.588104, -81.394234), (32.05603, -21.564449),
        10061.054688, 0),
    "cryodrgn_relion31.6opticsgroups.star": (
        139, 1.25, 196, (-128.10516, 37.068920, -82.17809), (13.284554, -3.21701), 10352.805929, 2),
    "cryolike_relion_style_particles.star": (
        106, 0.725, 384, (-175.64627, 69.778893, 124.646599), (0.162908, 2.218803),
        11798.491211, 2),
    "drgnai_M_particles_sub10.star": (
        10, 3.9, None, (-163.15384, 41.12526, 101.2831), (0, 0), 25874.9, 1),
    "emtestdata_class2d_run_it025_data.star": (
        4786, 3.54, 64, (0, 0, -53.06426), (-29.85511, 16.164892), 10865.006836, 0),
    "iospi_test.star": (
        452, 1.911, 128, (117.71642, 21.078015, 113.923438), (-6.4048, -9.26365),
        11546.09375, 1),
    "isecc_test.star": (
        1, 1.1, 300, (-23.43405, 23.114279, -69.18217), (-0.73605, 0.363950), 30876.811323, 1),
}  # fmt: skip
NO_TABLE, NO_POSE, TOMOGRAPHY = "no particles table", "3D poses are needed", "subtomograms or tilt"
ZOO_REFUSED = {
    "cryocat_relion_3.0.star": TOMOGRAPHY,
    "cryocat_relion_3.1_optics.star": TOMOGRAPHY,
    "cryocat_relion_3.1_optics2.star": TOMOGRAPHY,
    "cryocat_relion_4.0.star": TOMOGRAPHY,
    "cylindra_relion5_class3d.star": TOMOGRAPHY,
    "cylindra_relion5_refine3d.star": TOMOGRAPHY,
    "starfile_one_loop.star": TOMOGRAPHY,
    "cryolike_particle_data.star": NO_POSE,
    "emtestdata_scipion_particles_1k.star": NO_POSE,
    "starfile_basic_double_quote.star": NO_POSE,
    "starfile_basic_single_quote.star": NO_POSE,
    "starfile_empty_loop.star": NO_POSE,
    "starfile_loop_double_quote.star": NO_POSE,
    "starfile_loop_single_quote.star": NO_POSE,
    "clangfield_example_mixed_1.star": NO_TABLE,
    "clangfield_example_mixed_2.star": NO_TABLE,
    "clangfield_example_no_loops.star": NO_TABLE,
    "clangfield_example_nonconsecutive.star": NO_TABLE,
    "clangfield_example_nonconsecutive_2.star": NO_TABLE,
    "clangfield_example_with_loops.star": NO_TABLE,
    "clangfield_sample_data_model.star": NO_TABLE,
    "emtestdata_corrected_micrographs.star": f"{NO_TABLE}.*found data_optics, data_micrographs",
    "starfile_default_pipeline.star": NO_TABLE,
    "starfile_postprocess.star": NO_TABLE,
    "starfile_rln3.1_data_style.star": NO_TABLE,
    "starfile_run_it025_optimiser_2D.star": NO_TABLE,
    "starfile_run_it025_optimiser_3D.star": NO_TABLE,
    "starfile_run_it025_sampling_2D.star": NO_TABLE,
    "starfile_run_it025_sampling_3D.star": NO_TABLE,
    "starfile_single_line_end_of_multiblock.star": NO_TABLE,
    "starfile_single_line_middle_of_multiblock.star": NO_TABLE,
    "starfile_two_basic_blocks.star": NO_TABLE,
    "starfile_two_single_line_loop_blocks.star": NO_TABLE,
}


def test_every_star_file_of_the_zoo_has_an_expectation(shared_data):
    found = {path.name for path in shared_data("reader-zoo", "star").glob("*.star")}
    assert found == set(ZOO) | set(ZOO_REFUSED)


@pytest.mark.parametrize("name", ZOO)
def test_particles_of_other_programs_are_read(shared_data, name):
    count, pixel_size, box, angles, shift, defocus, half = ZOO[name]
    found = read_relion(shared_data("reader-zoo", "star", name))
    assert len(found) == count
    assert found.pixel_size == pytest.approx(pixel_size, rel=1e-12)
    assert found.box == box
    assert len(found.ctf) == count
    np.testing.assert_array_equal(found.rotations[:1], rotation_matrices(*angles))
    np.testing.assert_allclose(found.shifts[0], shift, rtol=1e-12)
    assert found.ctf.defocus_u[0] == defocus
    assert found.half[0] == half


@pytest.mark.parametrize("name", ZOO_REFUSED)
def test_star_files_without_usable_particles_are_refused(shared_data, name):
    path = shared_data("reader-zoo", "star", name)
    with pytest.raises(InputError, match=ZOO_REFUSED[name]) as caught:
        read_relion(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).replace(str(path), "")) < 300


def test_the_oldest_dialect_takes_its_pixel_size_from_the_magnification(shared_data):
    found = read_relion(shared_data("betagal10017-meta", "images.star"))
    assert len(found) == 6496
    assert found.pixel_size == pytest.approx(1e4 * 14 / 39548, rel=1e-12)
    assert found.box is None
    np.testing.assert_allclose(
        found.shifts[0], np.array([1.164659, 3.164659]) * 1e4 * 14 / 39548, rtol=1e-12
    )
    assert [(found.half == h).sum() for h in (1, 2)] == [3290, 3206]


def test_full_refinement_metadata_is_read_with_its_aberrations(shared_data):
    found = read_relion(shared_data("betagal", "refine3d", "run_it016_data.star"))
    assert (len(found), found.box, found.pixel_size) == (4748, 256, 1.244835)
    assert len(found.stacks) == 24
    (group,) = found.optics
    assert group.aberrations.beam_tilt == (0.017075, -0.14782)
    assert group.aberrations.odd == (
        -0.140006609061,
        0.0834170214934,
        1.15559317212,
        0,
        0,
        -1.3038997201,
    )
    assert len(group.aberrations.even) == 9
    assert group.magnification == (1.002971, 0.001953, 0.002070, 0.998469)


@pytest.mark.parametrize(
    "name", ["data_1.mrc", "_1.mrc", "$1.mrc", "loop_1.mrc", "'1.mrc", "[1].mrc", "m#1.mrc"]
)
def test_names_that_mean_something_to_cif_are_names(tmp_path, name):
    columns = {"rlnMicrographName": [name, "plain.mrc", name]} | PARTICLES
    text = block("optics", OPTICS) + block("particles", columns)
    found = read(tmp_path, text)
    assert len(found) == 3
    table = read_star(tmp_path / "particles.star")["particles"]
    assert table.strings("rlnMicrographName") == [name, "plain.mrc", name]
    assert table.strings("rlnImageName") == PARTICLES["rlnImageName"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_names_beyond_ascii_are_read_in_any_encoding(tmp_path, encoding):
    names = ["1@Jos\u00e9/a.mrcs", "2@Jos\u00e9/a.mrcs", "1@\u00c5/\u00e4.mrcs"]
    text = block("optics", OPTICS) + block("particles", PARTICLES | {"rlnImageName": names})
    path = tmp_path / "particles.star"
    path.write_bytes(text.encode(encoding))
    found = read_relion(path)
    assert [str(stack) for stack in found.stacks] == ["Jos\u00e9/a.mrcs", "\u00c5/\u00e4.mrcs"]


def test_a_row_that_is_cut_off_is_named_by_its_line(tmp_path):
    text = block("optics", OPTICS) + block("particles", PARTICLES)
    cut = text.rstrip()[:-4]
    refused(tmp_path, f"line {len(cut.splitlines())} has 12 values, 14 are needed", cut)


def test_old_line_ends_are_read(tmp_path):
    text = block("optics", OPTICS) + block("particles", PARTICLES)
    assert len(read(tmp_path, text.replace("\n", "\r"))) == 3
