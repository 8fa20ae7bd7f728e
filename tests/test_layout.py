"""Packed samples, tiles and segments: every sample has one place and one owner."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcryo.kernels import layout
from fastcryo.kernels.cpu.segments import find_segments
from fastcryo.rotations import rotation_matrices

from . import naive

RADII = (1, 3, 7, 8, 15, 16, 31, 47, 95)
CUTS = ((8, 16), (16, 24), (1, 1), (3, 2))


@pytest.mark.parametrize("radius", RADII)
def test_packed_samples_and_their_mirrors_fill_the_disc_once(radius):
    h, k = layout.disc_frequencies(radius)
    rows = layout.disc_rows(radius)
    origin = layout.origin_sample(radius)
    assert (h[origin], k[origin]) == (0, 0)
    assert len(h) == rows[-1, 0] + rows[-1, 2]
    packed = set(zip(h.tolist(), k.tolist(), strict=True))
    mirrors = {(-a, -b) for a, b in packed}
    assert packed & mirrors == {(0, 0)}
    assert packed | mirrors == set(zip(*(a.tolist() for a in naive.disc(radius)), strict=True))
    for j in (0, len(h) // 2, len(h) - 1):
        assert rows[k[j] + radius, 0] + h[j] == j


def test_steps_are_the_first_two_rows_and_never_reach_the_radius():
    rotations = np.concatenate(
        [naive.special_rotations(), naive.random_rotations(300, np.random.default_rng(0))]
    )
    steps = layout.fixed_point_steps(rotations)
    assert steps.shape == (len(rotations), 2, 3)
    assert steps.dtype == np.int64
    np.testing.assert_allclose(steps / layout.ONE, rotations[:, :2], rtol=0, atol=3e-15)
    radius = 255
    h, k = naive.disc(radius)
    rim = h**2 + k**2 > (radius - 1) ** 2
    positions = h[rim, None] * steps[:, None, 0] + k[rim, None] * steps[:, None, 1]
    assert np.abs(positions).max() < radius * layout.ONE


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("radius", RADII)
def test_tiles_cover_every_cell_of_the_half_ball_once(radius, cut):
    tiles, _ = layout.disc_tiles(radius, *cut)
    owners = np.zeros((radius + 1, 2 * radius + 1), int)
    for z0, z1, y0, y1 in tiles:
        assert 0 <= z0 < z1 <= radius + 1
        assert -radius <= y0 < y1 <= radius + 1
        owners[z0:z1, y0 + radius : y1 + radius] += 1
    assert owners.max() == 1
    # Cells that hold a point (y, z) of the disc, for either window: corner or centre nearest to 0.
    z, y = np.mgrid[: radius + 1, -radius : radius + 1]
    near_y = np.maximum(np.maximum(y, -(y + 1)), 0)
    trilinear = z**2 + near_y**2 < radius**2
    nearest = np.maximum(z - 0.5, 0) ** 2 + np.maximum(np.abs(y) - 0.5, 0) ** 2 < radius**2
    assert (owners[trilinear] == 1).all()
    assert (owners[nearest] == 1).all()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("radius", RADII)
def test_tiles_of_one_colour_never_write_the_same_voxel(radius, cut):
    # The trilinear window of a cell writes the next voxel along y and z too.
    tiles, _ = layout.disc_tiles(radius, *cut)
    colours = layout.tile_colours(tiles, radius, *cut)
    for colour in range(4):
        writers = np.zeros((radius + 3, 2 * radius + 3), int)
        for z0, z1, y0, y1 in tiles[colours == colour]:
            writers[z0 : z1 + 1, y0 + radius : y1 + radius + 1] += 1
        assert writers.max(initial=0) <= 1


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("radius", RADII)
def test_what_a_tile_writes_beyond_its_cells_belongs_to_tiles_that_know_it(radius, cut):
    tiles, neighbours = layout.disc_tiles(radius, *cut)
    widths = layout.row_widths(radius)
    owner = np.full((radius + 1, 2 * radius + 1), -1)
    for t, (z0, z1, y0, y1) in enumerate(tiles):
        assert (owner[z0:z1, y0 + radius : y1 + radius] == -1).all()
        owner[z0:z1, y0 + radius : y1 + radius] = t
    for t, (z0, z1, y0, y1) in enumerate(tiles):
        halo = [(z1, y) for y in range(y0, y1 + 1)] + [(z, y1) for z in range(z0, z1)]
        for z, y in halo:
            if z > radius or y > radius or widths[z, y + radius] < 0:
                continue
            expected = 0 if y < y1 else 1 if z < z1 else 2
            assert owner[z, y + radius] >= 0
            assert neighbours[owner[z, y + radius], expected] == t


def samples_by_tile(rotation, radius, cut, offset):
    """How often every packed sample is listed, and whether it lies in the tile that lists it."""
    steps = layout.fixed_point_steps(rotation[None])[0]
    rows = layout.disc_rows(radius)
    tiles, _ = layout.disc_tiles(radius, *cut)
    listed = np.zeros(len(layout.disc_frequencies(radius)[0]), int)
    segments = np.empty((4 * radius + 2, 5), np.int64)
    inside = True
    for tile in tiles:
        count = find_segments(steps, tile, offset, rows, 7, segments)
        assert count <= len(segments)
        for k, start, stop, sign, image in segments[:count].tolist():
            assert image == 7
            assert start < stop
            h = np.arange(start, stop)
            listed[rows[k + radius, 0] + h] += 1
            position = sign * (h[:, None] * steps[0] + k * steps[1])
            z, y = (position[:, axis] + offset >> layout.FRACTION_BITS for axis in (2, 1))
            inside &= bool((position[:, 2] >= 0).all())
            inside &= bool(((z >= tile[0]) & (z < tile[1])).all())
            inside &= bool(((y >= tile[2]) & (y < tile[3])).all())
    return listed, inside


@pytest.mark.parametrize("offset", [0, layout.HALF], ids=["trilinear", "nearest"])
@pytest.mark.parametrize("radius", [1, 7, 16, 31])
def test_segments_partition_the_disc_for_special_views(radius, offset):
    for cut in CUTS:
        for rotation in naive.special_rotations()[:: 1 if radius < 31 else 5]:
            listed, inside = samples_by_tile(rotation, radius, cut, offset)
            assert inside
            assert (listed == 1).all()


ANGLE = st.one_of(
    st.floats(-180, 180),
    st.integers(-12, 12).map(lambda i: 15.0 * i),
    st.integers(-4, 4).map(lambda i: 90.0 * i + 1e-9),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rot=ANGLE,
    tilt=ANGLE,
    psi=ANGLE,
    radius=st.integers(1, 24),
    cut=st.sampled_from(CUTS),
    offset=st.sampled_from([0, layout.HALF]),
)
def test_segments_partition_the_disc_for_any_view(rot, tilt, psi, radius, cut, offset):
    rotation = rotation_matrices(rot, tilt, psi)[0]
    listed, inside = samples_by_tile(rotation, radius, cut, offset)
    assert inside
    assert (listed == 1).all()
