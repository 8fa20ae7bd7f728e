"""STAR files that other programs wrote: real ones are read, or refused by name."""

import numpy as np
import pytest

from fastcryo import InputError, rotation_matrices
from fastcryo.io.relion import read_relion

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
