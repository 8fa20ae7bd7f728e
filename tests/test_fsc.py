"""Fourier shell correlation, resolution, masks and the files they are written to."""

from dataclasses import fields

import numpy as np
import pytest

from fastcryo.errors import InputError
from fastcryo.fsc import (
    FSCCurves,
    corrected_for_mask,
    fsc,
    half_map_curves,
    resolution_at,
)
from fastcryo.io.fsc_files import read_fsc_table, write_fsc_star, write_fsc_xml
from fastcryo.masks import soft_spherical_mask


def noise(box, seed=0):
    return np.random.default_rng(seed).normal(size=(box,) * 3)


def blob_pair(box=32, level=0.03):
    """Two noisy copies of a few blobs near the centre."""
    z, y, x = np.indices((box,) * 3) - box // 2
    signal = sum(
        np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 4)
        for a, b, c in [(3, 0, 1), (-4, 2, 0), (0, -3, -4), (1, 4, 3)]
    )
    return [signal + level * noise(box, seed) for seed in (1, 2)]


@pytest.mark.parametrize("box", [15, 16])
def test_correlation_is_that_of_the_definition_on_the_full_grid(box):
    first, second = noise(box, 1), noise(box, 2) + noise(box, 1)
    f1, f2 = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(box, 1 / box)
    shell = np.rint(np.sqrt(k**2 + k[:, None] ** 2 + k[:, None, None] ** 2)).astype(int)
    expected = []
    for s in range(box // 2 + 1):
        a, b = f1[shell == s], f2[shell == s]
        expected.append(np.vdot(a, b).real / (np.linalg.norm(a) * np.linalg.norm(b)))
    np.testing.assert_allclose(fsc(first, second), expected, rtol=0, atol=1e-12)


def test_map_correlates_perfectly_with_itself_at_any_scale():
    volume = noise(17)
    np.testing.assert_allclose(fsc(volume, volume), 1, atol=1e-12)
    np.testing.assert_allclose(fsc(volume, -3 * volume), -1, atol=1e-12)
    # float32 rounds the transforms to about 1e-7; the squares of the errors add up.
    np.testing.assert_allclose(fsc(volume.astype(np.float32), 1e4 * volume), 1, atol=1e-6)


def test_independent_noise_does_not_correlate():
    curve = fsc(noise(32, 1), noise(32, 2))
    shell = np.arange(17)
    independent = np.maximum(2 * np.pi * shell**2, 1)  # half of the points of the shell
    assert (np.abs(curve[2:]) < 4 / np.sqrt(independent[2:])).all()


def test_empty_shells_are_zero():
    curve = fsc(np.ones((8, 8, 8)), noise(8))
    assert abs(curve[0]) == pytest.approx(1)
    np.testing.assert_array_equal(curve[1:], 0)


def test_mask_multiplies_both_maps():
    first, second = blob_pair()
    mask = soft_spherical_mask(32, 8, 4)
    np.testing.assert_allclose(
        fsc(first, second, mask), fsc(first * mask, second * mask), rtol=0, atol=1e-12
    )
    assert fsc(first, second, mask)[9] > fsc(first, second)[9]


@pytest.mark.parametrize(
    ("first", "second", "mask", "message"),
    [
        (np.ones((8, 8, 8)), np.ones((9, 9, 9)), None, "differ in size"),
        (np.ones((8, 8, 9)), np.ones((8, 8, 9)), None, "cubes"),
        (np.ones((8, 8)), np.ones((8, 8)), None, "cubes"),
        (np.full((8, 8, 8), np.nan), np.ones((8, 8, 8)), None, "512 voxels of map 1"),
        (np.ones((8, 8, 8)), np.full((8, 8, 8), np.inf), None, "512 voxels of map 2"),
        (np.ones((8, 8, 8)), np.ones((8, 8, 8)), np.ones((9, 9, 9)), "mask: shape"),
        (np.ones((8, 8, 8)), np.ones((8, 8, 8)), np.full((8, 8, 8), 2.0), "0 to 1"),
        (np.ones((8, 8, 8)), np.ones((8, 8, 8)), np.full((8, 8, 8), -0.1), "0 to 1"),
        (np.ones((8, 8, 8)), np.ones((8, 8, 8)), np.full((8, 8, 8), np.nan), "0 to 1"),
        (np.ones((8, 8, 8)), np.ones((8, 8, 8)), np.zeros((8, 8, 8)), "all its values are 0"),
    ],
)
def test_maps_and_masks_that_do_not_fit_are_refused(first, second, mask, message):
    with pytest.raises(InputError, match=message):
        fsc(first, second, mask)
    with pytest.raises(InputError, match=message):
        half_map_curves(first, second, mask)


@pytest.mark.parametrize(
    ("curve", "box", "expected"),
    [
        ([1, 0.9, 0.5, 0.1, 0.0], None, 8 * 2.0 / 2),
        ([1, 0.9, 0.1, 0.9, 0.9], None, 8 * 2.0 / 1),  # the first drop counts
        ([1, 0.9, 0.143, 0.142, 0.9], None, 8 * 2.0 / 2),  # equal is not below
        ([1, 0.9, 0.8, 0.7, 0.6], None, 8 * 2.0 / 4),  # no drop: Nyquist
        ([1, 0.9, 0.8, 0.7, 0.6], 9, 9 * 2.0 / 4),
        ([1, 0.9, 0.5, 0.1, 0.0], 9, 9 * 2.0 / 2),
        ([1, 0.0, 0.9, 0.9, 0.9], None, np.inf),
        ([-1, 0.9, 0.8, 0.1, 0.0], None, 8 * 2.0 / 2),  # the mean says nothing
    ],
)
def test_resolution_is_the_last_shell_before_the_first_drop(curve, box, expected):
    assert resolution_at(curve, 0.143, 2.0, box) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("curve", "box"), [([1, np.nan, 0.5], None), ([1, 0.5, 0.1], 8)])
def test_resolution_refuses_a_curve_that_makes_no_sense(curve, box):
    with pytest.raises(InputError, match="FSC"):
        resolution_at(curve, 0.143, 2.0, box)


@pytest.mark.parametrize("box", [16, 17])
def test_soft_mask_is_a_raised_cosine_about_the_centre(box):
    mask = soft_spherical_mask(box, 3, 4)
    line = mask[box // 2, box // 2, box // 2 :]
    expected = [1, 1, 1, 1, 0.5 + 0.5 * np.sqrt(0.5), 0.5, 0.5 - 0.5 * np.sqrt(0.5), 0]
    np.testing.assert_allclose(line[:8], expected, atol=1e-7)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, mask.transpose(2, 0, 1))
    hard = soft_spherical_mask(box, 3, 0)
    assert set(np.unique(hard)) == {0, 1}
    assert hard.sum() == 123  # lattice points with |r| <= 3


@pytest.mark.parametrize(("radius", "edge"), [(0, 2), (5, 4), (3, -1), (np.nan, 1)])
def test_soft_mask_that_does_not_fit_is_refused(radius, edge):
    with pytest.raises(InputError, match="mask: radius"):
        soft_spherical_mask(16, radius, edge)


def test_half_map_curves_without_mask_hold_the_plain_correlation_only():
    first, second = blob_pair()
    curves = half_map_curves(first, second)
    np.testing.assert_array_equal(curves.unmasked, fsc(first, second))
    np.testing.assert_array_equal(curves.best, curves.unmasked)
    assert curves.masked is curves.randomised is curves.corrected is None
    assert curves.box == 32
    assert half_map_curves(noise(15), noise(15)).box == 15


def test_correlation_that_comes_from_the_mask_alone_is_removed():
    # Noise on a common mean: the transform of the mask correlates, the noise does not.
    first, second = (noise(48, seed) + 2.0 for seed in (1, 2))
    curves = half_map_curves(first, second, soft_spherical_mask(48, 9, 2))
    assert curves.randomised_from == 1
    assert curves.masked[3:14].mean() > 0.6
    # About 3500 voxels remain, hence few independent points in the first shells.
    assert curves.corrected[3:14].mean() < 0.2


def test_phases_are_random_from_where_the_unmasked_curve_drops_below_08():
    first, second = blob_pair()
    mask = soft_spherical_mask(32, 10, 4)
    curves = half_map_curves(first, second, mask, seed=5)
    start = curves.randomised_from
    assert start > 5
    assert curves.unmasked[start] < 0.8
    assert (curves.unmasked[1:start] >= 0.8).all()
    np.testing.assert_allclose(curves.masked, fsc(first, second, mask), rtol=0, atol=1e-12)
    # The mask mixes only neighbouring shells: well below the start nothing changes.
    np.testing.assert_allclose(
        curves.randomised[: start - 3], curves.masked[: start - 3], atol=0.02
    )
    assert np.abs(curves.randomised[start + 3 :]).mean() < 0.3
    np.testing.assert_array_equal(
        curves.corrected, corrected_for_mask(curves.masked, curves.randomised, start)
    )
    again = half_map_curves(first, second, mask, seed=5)
    np.testing.assert_array_equal(again.randomised, curves.randomised)


def test_maps_that_agree_everywhere_need_no_correction():
    volume = noise(16)
    curves = half_map_curves(volume, volume, soft_spherical_mask(16, 4, 2))
    assert curves.randomised is None
    np.testing.assert_array_equal(curves.corrected, curves.masked)


def test_correction_is_that_of_relion(shared_data):
    table = read_fsc_table(shared_data("fsc-tables", "relion_postprocess.star"))
    curves = table.curves
    start = FSCCurves(table.frequencies, curves["unmasked"]).randomised_from
    assert start == 22  # the file says phases are random from 32.727 A = 96 * 7.5 A / 22
    ours = corrected_for_mask(curves["masked"], curves["randomised"], start)
    # Six decimals of three numbers, divided by 1 - randomised >= 0.37.
    np.testing.assert_allclose(ours, curves["corrected"], rtol=0, atol=4e-6)
    assert resolution_at(curves["corrected"], 0.143, 7.5) == pytest.approx(
        table.resolution, rel=1e-6
    )


def example_curves(box=16, masked=True):
    rng = np.random.default_rng(0)
    count = box // 2 + 1
    values = rng.uniform(-0.2, 1, (4, count))
    values[0, 3] = 0.5
    return FSCCurves(np.arange(count) / box, *(values if masked else values[:1]))


@pytest.mark.parametrize("box", [15, 16])
def test_star_file_holds_what_was_written(tmp_path, box):
    curves, path = example_curves(box), tmp_path / "run_fsc.star"
    halves = ["run_half1_class001_unfil.mrc", "with a blank_half2.mrc"]
    write_fsc_star(path, curves, 1.5, 4.25, halves, "fastcryo reconstruct x\nsecond", "m.mrc")
    table = read_fsc_table(path)
    assert table.resolution == 4.25
    np.testing.assert_allclose(table.frequencies, np.arange(box // 2 + 1) / (box * 1.5), atol=6e-7)
    for field in fields(FSCCurves)[1:]:
        np.testing.assert_allclose(table.curves[field.name], getattr(curves, field.name), atol=6e-7)
    text = path.read_text()
    assert "# fastcryo reconstruct x\n# second\n" in text
    assert "'with a blank_half2.mrc'" in text
    assert "_rlnMaskName" in text
    assert "0 0.000000 999.000000" in " ".join(text.split())


def test_star_file_without_mask_states_the_plain_curve_as_final(tmp_path):
    curves, path = example_curves(masked=False), tmp_path / "run_fsc.star"
    write_fsc_star(path, curves, 1.5, np.inf)
    table = read_fsc_table(path)
    assert set(table.curves) == {"corrected", "unmasked"}
    np.testing.assert_array_equal(table.curves["corrected"], table.curves["unmasked"])
    assert table.resolution == 999.0


def test_xml_holds_the_curve_that_the_resolution_is_read_from(tmp_path):
    curves, path = example_curves(), tmp_path / "run_fsc.xml"
    write_fsc_xml(path, curves, 1.5, "β & <γ>")
    table = read_fsc_table(path)
    np.testing.assert_allclose(table.frequencies, curves.frequencies / 1.5, atol=6e-7)
    np.testing.assert_allclose(table.curves["fsc"], curves.corrected, atol=6e-7)
    text = path.read_text()
    assert 'xaxis="Resolution (A-1)" yaxis="Correlation Coefficient"' in text
    assert "&lt;" in text


@pytest.mark.parametrize("write", [write_fsc_star, write_fsc_xml])
def test_folder_that_is_missing_is_named(tmp_path, write):
    arguments = (4.0,) if write is write_fsc_star else ()
    with pytest.raises(InputError, match=r"none/a\.x: cannot be written"):
        write(tmp_path / "none" / "a.x", example_curves(), 1.5, *arguments)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.star", "data_particles\nloop_\n_rlnImageName\n1@a\n", "no FSC.*data_particles"),
        ("a.star", "data_fsc\n_rlnSpectralIndex 1\n", "no FSC"),
        ("a.xml", "<fsc></fsc>", "no coordinate"),
        ("a.xml", "<fsc>", "not an FSC"),
        ("a.xml", "<fsc><coordinate><x>1</x></coordinate></fsc>", "not an FSC"),
        ("a.csv", "1,2\n", "three numbers"),
        ("a.csv", "a,b,c\n", "three numbers"),
        ("a.csv", "", "three numbers"),
    ],
)
def test_file_without_a_correlation_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}.*{message}"):
        read_fsc_table(tmp_path / name)


@pytest.mark.parametrize("name", ["a.star", "a.xml", "a.csv"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        read_fsc_table(tmp_path / name)


@pytest.mark.parametrize(
    ("parts", "curve", "shells", "value"),
    [
        (("betagal10017-meta", "model.star"), "gold_standard", 51, 0.998571),
        (("betagal", "refine3d", "run_it016_half1_model.star"), "gold_standard", 129, 0.999763),
        (("fsc-tables", "relion_external_reconstruct.star"), "gold_standard", 49, 0.974118),
        (("fsc-tables", "nysbc_ResEMT40-3DFSCOutglobalFSC.csv"), "fsc", 73, None),
    ],
)
def test_tables_of_other_programs_are_read(shared_data, parts, curve, shells, value):
    table = read_fsc_table(shared_data(*parts))
    assert len(table.curves[curve]) == shells
    if value is not None:
        assert table.curves[curve][9] == value
    if parts[-1] == "relion_external_reconstruct.star":
        assert table.frequencies is None
    else:
        assert (np.diff(table.frequencies) > 0).all()


def test_table_of_directional_correlations_is_refused(shared_data):
    with pytest.raises(InputError, match="three numbers"):
        read_fsc_table(shared_data("fsc-tables", "nysbc_PlotsT40-3DFSC.csv"))
