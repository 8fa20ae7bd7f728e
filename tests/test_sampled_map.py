"""Maps as densities: slices against direct sums, finufft and RELION."""

import numpy as np
import pytest

from fastcryo.errors import InputError
from fastcryo.io.mrc import open_stack, read_map
from fastcryo.particles import read_particles
from fastcryo.sampled_map import SampledMap

from . import naive

# Box and pixel size of the map, then of the images.
CASES = [(16, 2.0, 16, 2.0), (15, 2.0, 15, 2.0), (12, 3.0, 17, 2.2), (20, 1.5, 12, 2.0)]


def noise(box, seed=0):
    return np.random.default_rng(seed).normal(size=(box,) * 3).astype(np.float32)


def frequencies(rotations, box, pixel_size, height):
    """Frequencies (n, N, N // 2 + 1, 3) in 1/angstrom, and which are not Nyquist's."""
    k, h = np.fft.fftfreq(box, 1 / box)[:, None, None], np.arange(box // 2 + 1)[:, None]
    axes = rotations[:, None, None]
    q = (h * axes[..., 0, :] + k * axes[..., 1, :] + height * axes[..., 2, :]) / (box * pixel_size)
    last = (box - 1) // 2
    return q, ((np.abs(k) <= last) & (h <= last))[..., 0]


@pytest.mark.parametrize(("map_box", "map_pixel", "box", "pixel"), CASES)
@pytest.mark.parametrize("height", [0, 2])
def test_slices_are_the_direct_sum(map_box, map_pixel, box, pixel, height):
    values = noise(map_box)
    rotations = naive.random_rotations(3, np.random.default_rng(1))
    ours = SampledMap(values, map_pixel).slices(rotations, box, pixel, [height] * 3)
    q, inside = frequencies(rotations, box, pixel, height)
    n = (np.arange(map_box) - map_box // 2) * map_pixel
    waves = [np.exp(-2j * np.pi * q[..., axis, None] * n) for axis in range(3)]
    expected = np.einsum("zyx,...x,...y,...z->...", values, *waves, optimize=True)
    expected *= inside & (np.linalg.norm(q, axis=-1) < (0.5 - 1e-9) / map_pixel)
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    assert error < 1e-6


def test_slices_agree_with_finufft():
    finufft = pytest.importorskip("finufft")
    values = noise(40)
    rotations = naive.random_rotations(5, np.random.default_rng(2))
    ours = SampledMap(values, 1.0).slices(rotations, 40, 1.0)
    q, inside = frequencies(rotations, 40, 1.0, 0)
    points = [np.ascontiguousarray(2 * np.pi * q[..., axis].ravel()) for axis in range(3)]
    modes = np.ascontiguousarray(values.transpose(2, 1, 0), dtype=np.complex128)
    expected = finufft.nufft3d2(*points, modes, isign=-1, eps=1e-12).reshape(ours.shape)
    expected *= inside & (np.linalg.norm(q, axis=-1) < 0.5 - 1e-9)
    assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < 1e-6


@pytest.mark.parametrize("box", [16, 17])
def test_volume_in_the_box_of_the_map_is_the_map_below_nyquist(box):
    values = noise(box)
    k = np.fft.fftfreq(box)
    below = k**2 + k[:, None] ** 2 + k[:, None, None] ** 2 < 0.25
    expected = np.fft.fftshift(np.fft.ifftn(np.fft.fftn(np.fft.ifftshift(values)) * below).real)
    ours = SampledMap(values, 2.0).volume(box, 2.0)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-6)


def test_projection_without_rotation_is_the_volume_summed_along_z():
    density = SampledMap(noise(16), 2.0)
    image = density.projections(np.eye(3)[None], 16, 2.0)[0]
    np.testing.assert_allclose(image, density.volume(16, 2.0).sum(axis=0), rtol=0, atol=2e-5)


def test_cropping_keeps_the_origin():
    for box in (16, 17):
        for side in (9, 10):
            values = np.zeros((box,) * 3, np.float32)
            values[box // 2, box // 2, box // 2] = 1
            cropped = SampledMap(values, 1.0).cropped(side).values
            assert cropped.shape == (side,) * 3
            assert cropped[side // 2, side // 2, side // 2] == 1


@pytest.mark.parametrize(
    ("values", "pixel_size", "message"),
    [
        (np.zeros((4, 4, 5)), 1.0, "a cube"),
        (np.full((4, 4, 4), np.inf), 1.0, "NaN or infinite"),
        (np.zeros((4, 4, 4)), 0.0, "--angpix"),
    ],
)
def test_what_is_no_map_is_refused(values, pixel_size, message):
    with pytest.raises(InputError, match=message):
        SampledMap(values, pixel_size)


@pytest.mark.parametrize(
    ("name", "bound"), [("batch", 0.15), ("batch_pfac2", 0.03), ("batch_pfac3", 0.013)]
)
def test_projections_of_a_point_with_ctf_agree_with_those_of_relion(shared_data, name, bound):
    # One voxel far from the centre is the hardest case for RELION's linear interpolation: its
    # error falls with the padding (1, 2, 3) towards our slices.
    values, _ = read_map(shared_data("relion-projections", "simplecryoem_pointmass.mrc"))
    stem = f"simplecryoem_relion_proj_{name}"
    particles = read_particles(shared_data("relion-projections", f"{stem}.star"), need_images=False)
    stack = open_stack(shared_data("relion-projections", f"{stem}.mrcs"))
    images = np.empty((stack.count, stack.box, stack.box), np.float32)
    for i in range(stack.count):
        stack.read(i, images[i])
    size = particles.pixel_size
    ours = SampledMap(values, size).projections(
        particles.rotations, 64, size, ctf=particles.ctf, shifts=particles.shifts
    )
    k, h = np.fft.fftfreq(64, 1 / 64)[:, None], np.arange(33)
    disc = (h**2 + k**2 <= 31**2) & (h**2 + k**2 > 0)
    difference, theirs = (np.fft.rfft2(x)[:, disc] for x in (ours - images, images))
    error = np.linalg.norm(difference, axis=1) / np.linalg.norm(theirs, axis=1)
    assert error.max() < bound


def test_images_of_relion_vanish_where_the_ctf_does(shared_data):
    # With phase shift, B-factor and scale; the volume behind these images is not known.
    folder = shared_data("relion-projections", "ctf-extras")
    particles = read_particles(folder / "particles.star", need_images=False)
    stack = open_stack(folder / "proj_ctf_pad2.mrcs")
    images = np.empty((stack.count, stack.box, stack.box), np.float32)
    for i in range(stack.count):
        stack.read(i, images[i])
    power = np.abs(np.fft.rfft2(images)) ** 2
    fx, fy = np.fft.rfftfreq(64, 2.0), np.fft.fftfreq(64, 2.0)[:, None]
    values = np.abs(particles.ctf.evaluate(fx, fy))
    shells = np.rint(64 * 2.0 * np.hypot(fx, fy))
    ratios = []
    for one, ctf in zip(power, values, strict=True):
        for shell in range(4, 30):
            ring = shells == shell
            zero = ring & (ctf < 0.05 * ctf[ring].max())
            high = ring & (ctf > 0.5 * ctf[ring].max())
            if zero.any() and high.any():
                ratios.append(one[zero].mean() / one[high].mean())
    # At most (0.05 / 0.5)^2 = 0.01 where the spectrum is flat, 1 for a wrong CTF.
    assert len(ratios) > 200
    assert max(ratios) < 0.01
