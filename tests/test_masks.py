"""Masks from maps and files, and what is said of one that does not fit."""

import numpy as np
import pytest

from fastcryo.errors import InputError
from fastcryo.io.mrc import write_map
from fastcryo.masks import (
    has_edge,
    mask_for,
    mask_from_map,
    otsu_threshold,
    soft_spherical_mask,
    solvent_mask_for,
)


def distances(box, centre=(0, 0, 0)):
    z, y, x = np.indices((box,) * 3) - box // 2
    return np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)


def ball_in_noise(box=48, radius=9, seed=0):
    noise = np.random.default_rng(seed).normal(size=(box,) * 3)
    return (distances(box) <= radius) + 0.5 * noise


def test_mask_holds_the_particle_with_margin_and_edge():
    mask = mask_from_map(ball_in_noise(), 2.0, extend_pixels=3, edge_pixels=4)
    r = distances(48)
    assert (mask[r <= 9] == 1).all()
    assert (mask[r > 9 + 3 + 4 + 2] == 0).all()
    edge = mask[(mask > 0) & (mask < 1)]
    assert edge.size > 100
    assert mask.dtype == np.float32


def test_mask_falls_by_the_cosine_of_the_distance_to_what_is_dense():
    volume = np.zeros((32, 32, 32))
    volume[14:19, 14:19, 14:19] = 1
    mask = mask_from_map(volume, 1.0, threshold=0.5, low_pass=0.1, extend_pixels=2, edge_pixels=4)
    along = mask[16, 16, 16:]
    first = np.flatnonzero(along < 1)[0]
    dense = first - 1 - 2  # last dense voxel: the filter is at least four voxels wide
    expected = 0.5 + 0.5 * np.cos(np.pi * np.clip((np.arange(16) - dense - 2) / 4, 0, 1))
    np.testing.assert_allclose(along, np.where(np.arange(16) <= dense, 1, expected), atol=1e-6)


def test_specks_far_from_the_particle_are_left_out():
    volume = (distances(48) <= 9) + 1.0 * (distances(48, (16, 0, 0)) <= 2.5)
    mask = mask_from_map(volume, 4.0, threshold=0.3, low_pass=1, extend_pixels=0, edge_pixels=0)
    assert mask[24, 24, 24] == 1
    assert mask[24, 24, 24 + 16] == 0


def test_otsu_finds_the_gap_between_two_classes():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 9000), rng.normal(10, 1, 1000)])
    assert 3 < otsu_threshold(values) < 7


def test_a_threshold_above_everything_is_refused():
    with pytest.raises(InputError, match="lower the threshold"):
        mask_from_map(ball_in_noise(), 2.0, threshold=100)


def test_words_for_masks(tmp_path):
    assert mask_for(None, 32, 2.0) is None
    ball = mask_for("sphere:20", 32, 2.0)
    np.testing.assert_array_equal(ball, soft_spherical_mask(32, 10, 4))
    whole = mask_for("sphere", 32, 2.0)
    assert whole[16, 16, 16 + 12] == 1
    assert whole[16, 16, 31] < 0.2
    write_map(tmp_path / "m.mrc", ball, 2.0)
    np.testing.assert_array_equal(mask_for(tmp_path / "m.mrc", 32, 2.0), ball)


def test_masks_that_do_not_fit_name_the_file_and_the_remedy(tmp_path):
    path = tmp_path / "m.mrc"
    write_map(path, soft_spherical_mask(32, 10, 4), 2.0)
    with pytest.raises(InputError, match=r"m\.mrc: its box is 32, the maps' is 48, resample"):
        mask_for(path, 48, 2.0)
    with pytest.raises(InputError, match=r"m\.mrc: its voxel size is 2 angstrom, .* 2\.5, resam"):
        mask_for(path, 32, 2.5)
    write_map(path, np.full((32, 32, 32), 3.0), 2.0)
    with pytest.raises(InputError, match=r"m\.mrc: mask: values from 0 to 1"):
        mask_for(path, 32, 2.0)
    with pytest.raises(InputError, match="radius in angstrom"):
        mask_for("sphere:big", 32, 2.0)
    with pytest.raises(InputError, match=r"edge of 8 angstrom the radius may be up to 24"):
        mask_for("sphere:1000", 32, 2.0)


def test_masks_of_a_solution_fall_off_towards_the_faces():
    assert solvent_mask_for(None, 16, 2.0) is None
    assert solvent_mask_for("none", 16, 2.0) is None
    alone = solvent_mask_for("taper", 16, 2.0)
    assert alone[8, 8, 8] == 1
    assert alone[8, 8, 0] == pytest.approx(np.sinc(0.5) ** 2)
    ball = solvent_mask_for("sphere:8", 16, 2.0)
    np.testing.assert_array_equal(ball, mask_for("sphere:8", 16, 2.0) * alone)
    assert [has_edge(mask) for mask in (None, alone, ball)] == [False, False, True]
    with pytest.raises(InputError, match=r"solvent mask: auto needs a map.*run_mask\.mrc"):
        solvent_mask_for("auto", 16, 2.0)
    with pytest.raises(InputError, match=r"solvent mask: sphere:big"):
        solvent_mask_for("sphere:big", 16, 2.0)
