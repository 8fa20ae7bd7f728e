"""Optics groups with a noise of their own: objective, store and estimate."""

import dataclasses

import numpy as np
import pytest

import fastcryo as fc
from fastcryo.io.mrc import write_stack
from fastcryo.noise import estimate_noise_by_group, estimate_noise_std
from fastcryo.particles import read_particles

ROTATIONS = fc.rotation_matrices(*np.random.default_rng(5).uniform(0, 180, (3, 9)))
SIGMA = np.array([np.linspace(1, 2, 8), np.linspace(3, 1, 8)])


@pytest.mark.parametrize("with_ctf", [True, False])
def test_the_objective_is_the_sum_of_those_of_the_groups(with_ctf):
    ctf = fc.CTF(np.linspace(9e3, 2e4, 9), np.linspace(1e4, 2e4, 9)) if with_ctf else None
    images = np.random.default_rng(0).normal(size=(9, 16, 16))
    group = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0])
    common = {"pixel_size": 3.0, "regularization": 0.1, "dtype": "float64"}
    whole = fc.KnownPoseProblem.from_arrays(
        images, ROTATIONS, ctf=ctf, noise_std=SIGMA, noise_group=group, **common
    )
    V = whole.grid.from_real(np.random.default_rng(1).normal(size=(16, 16, 16)))
    loss, gradient, diagonal = 0.0, 0.0, 0.0
    for number in (0, 1):
        members = np.flatnonzero(group == number)
        part = fc.KnownPoseProblem.from_arrays(
            images, ROTATIONS, ctf=ctf, noise_std=SIGMA[number], **common
        ).select(members)
        share = len(members) / 9
        one, of_one = part.loss_and_gradient(V)
        loss += share * one
        gradient = gradient + share * of_one
        diagonal = diagonal + share * part.hessian_diagonal()
    found, of_all = whole.loss_and_gradient(V)
    assert found == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(of_all, gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())
    np.testing.assert_allclose(whole.hessian_diagonal(), diagonal, rtol=1e-12)
    metadata = fc.KnownPoseProblem.from_arrays(
        None, ROTATIONS, ctf=ctf, N=16, noise_std=SIGMA, noise_group=group, **common
    )
    np.testing.assert_array_equal(metadata.hessian_diagonal(), whole.hessian_diagonal())


@pytest.mark.parametrize(
    ("sigma", "group", "word"),
    [
        (1.0, np.zeros(9, int), "by group and shell"),
        (SIGMA, np.full(9, 2), "from 0 to 1"),
        (SIGMA, np.zeros(4, int), "9 numbers"),
        (SIGMA * 0, np.zeros(9, int), "positive"),
    ],
)
def test_groups_that_make_no_sense_are_refused(sigma, group, word):
    with pytest.raises(fc.InputError, match=word):
        fc.KnownPoseProblem.from_arrays(
            None, ROTATIONS, 3.0, N=16, noise_std=sigma, noise_group=group
        )


@pytest.fixture
def two_groups(tmp_path):
    """Return a simulated set whose second half is three times as noisy and a group of its own."""
    fc.simulate(tmp_path / "set", box=24, count=400, snr=0.01, pixel_size=4.0)
    particles = read_particles(tmp_path / "set" / "particles.star")
    group = np.repeat([0, 1], 200)
    stack = np.memmap(
        particles.stacks[0], np.float32, "r+", offset=1024, shape=(len(particles), 24, 24)
    )
    stack[200:] *= 3
    stack.flush()
    optics = (particles.optics[0], dataclasses.replace(particles.optics[0], name="other"))
    return dataclasses.replace(particles, optics_group=group, optics=optics)


def test_noise_is_estimated_by_group(two_groups, tmp_path):
    sigma, groups = estimate_noise_by_group(two_groups, 11)
    assert sigma.shape == (2, 12)
    np.testing.assert_array_equal(groups, two_groups.optics_group)
    np.testing.assert_allclose(sigma[1] / sigma[0], 3, rtol=0.1)
    options = {"noise_std": sigma, "noise_group": groups, "regularization": 1e-3}
    memory = fc.KnownPoseProblem.from_particles(two_groups, **options)
    for _ in range(2):  # written, then opened
        disk = fc.KnownPoseProblem.from_particles(two_groups, store=tmp_path / "kept", **options)
        np.testing.assert_array_equal(memory.right_hand_side(), disk.right_hand_side())
    other = {**options, "noise_std": 2 * sigma}
    with pytest.raises(fc.InputError, match="noise_std"):
        fc.KnownPoseProblem.from_particles(two_groups, store=tmp_path / "kept", **other)


def test_small_groups_share_what_is_estimated_from_all(two_groups):
    group = np.repeat([0, 1, 2], [390, 5, 5])
    particles = dataclasses.replace(
        two_groups, optics_group=group, optics=(*two_groups.optics, two_groups.optics[0])
    )
    sigma, groups = estimate_noise_by_group(particles, 11)
    assert sigma.shape == (2, 12)
    np.testing.assert_array_equal(groups, np.minimum(group, 1))
    np.testing.assert_allclose(sigma[1], estimate_noise_std(particles, 11), rtol=0.1)
    alone = dataclasses.replace(two_groups, optics_group=np.zeros(400, int))
    sigma, groups = estimate_noise_by_group(alone, 11)
    assert groups is None
    np.testing.assert_array_equal(sigma, estimate_noise_std(alone, 11))


def test_a_group_of_premultiplied_images_has_the_noise_of_the_others(tmp_path):
    made = fc.simulate(tmp_path, box=32, count=600, snr=0.01, pixel_size=4.0)
    particles = read_particles(tmp_path / "particles.star")
    images, group = particles.images(), np.arange(600) % 2
    h, k = np.fft.rfftfreq(32) / 4.0, np.fft.fftfreq(32) / 4.0
    ctf = made.ctf.select(np.flatnonzero(group)).evaluate(h[None, :], k[:, None])
    images[group == 1] = np.fft.irfft2(np.fft.rfft2(images[group == 1]) * ctf)
    write_stack(tmp_path / "mixed.mrcs", images, 4.0)
    first = particles.optics[0]
    mixed = dataclasses.replace(
        particles,
        stacks=(tmp_path / "mixed.mrcs",),
        optics=(first, dataclasses.replace(first, name="other", corrected="premultiplied")),
        optics_group=group,
    )
    sigma, groups = estimate_noise_by_group(mixed, 14)
    np.testing.assert_array_equal(groups, group)
    # The first zero of the CTFs lies beyond shell 2; the corners blur the oscillations beyond.
    np.testing.assert_allclose(sigma[0, 3:] / 32, 1, atol=0.03)
    np.testing.assert_allclose(sigma[1, 3:] / 32, 1, atol=0.1)
    assert abs(np.mean(sigma[1, 3:] / 32) - 1) < 0.03
