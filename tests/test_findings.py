"""Warnings in plain words: each one when it is due, and none when it is not."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fastcryo.directional import DirectionalFSC
from fastcryo.findings import contrast, map_findings, particle_findings
from fastcryo.fsc import FSCCurves
from fastcryo.masks import soft_spherical_mask


class Views(SimpleNamespace):
    """What the findings look at of particles."""

    def __len__(self):
        return len(self.rotations)

    def image_numbers(self):
        return self.numbers


def said(count=500, tilt=1.0, numbers=None):
    angles = Rotation.random(count, rng=0).as_euler("ZYZ") * [1, tilt, 1]
    views = Views(
        rotations=Rotation.from_euler("ZYZ", angles).as_matrix().transpose(0, 2, 1),
        box=32,
        half=1 + np.arange(count) % 2,
        numbers=np.arange(count) if numbers is None else numbers,
    )
    return " ".join(particle_findings(views, 15))


def test_good_particles_are_not_warned_of():
    assert said() == ""


def test_preferred_orientations():
    assert "preferred orientations: the views are crowded" in said(tilt=0.1)


def test_too_few_particles_for_the_box():
    text = said(count=60)
    assert "too few particles for the box" in text
    assert "--box" in text


def test_images_in_both_half_sets_are_counted():
    numbers = np.arange(500)
    numbers[1] = numbers[0]  # one in each half
    numbers[4] = numbers[2]  # both in the first
    assert said(numbers=numbers).startswith("1 images are in both half-sets")


def blob(seed=0):
    z, y, x = np.indices((32,) * 3) - 16
    density = np.exp(-((x - 3) ** 2 + y**2 + z**2) / 20) + np.exp(-((x + 4) ** 2 + y**2) / 20)
    return density + 0.05 * np.random.default_rng(seed).normal(size=(32,) * 3)


def curves(values):
    return FSCCurves(np.arange(17) / 32, np.asarray(values, dtype=float))


FALLING = [1, 1, 1, 0.9, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1, *[0.0] * 7]


@pytest.mark.parametrize("mask", [None, soft_spherical_mask(32, 8, 4)])
def test_dark_protein_is_suspected(mask):
    assert contrast(blob(), 4.0, mask) == 1
    assert contrast(-blob(), 4.0, mask) == -1
    dark = map_findings(-blob(), 4.0, 15, curves(FALLING), None, mask)
    assert [d for d in dark if "--invert" in d] == dark
    assert map_findings(blob(), 4.0, 15, curves(FALLING), None, mask) == []


def test_a_map_of_noise_has_no_contrast():
    noise = np.random.default_rng(0).normal(size=(32,) * 3)
    assert contrast(noise, 4.0) == 0
    assert contrast(np.zeros((32,) * 3), 4.0) == 0


def test_an_fsc_that_does_not_fall_is_said_to():
    high = curves(np.linspace(1, 0.4, 17))
    (text,) = map_findings(blob(), 4.0, 15, high, None, None)
    assert "does not fall to zero: it is 0.4" in text
    assert "last shell before Nyquist" in text
    (text,) = map_findings(blob(), 4.0, 10, high, None, None)
    assert "--maxres" in text


def test_a_resolution_that_depends_on_direction_is_said_to():
    cones = DirectionalFSC(
        directions=np.eye(3),
        curves=np.ones((3, 17)),
        resolution=np.array([8.0, 9.0, np.inf]),
        first_shell=5,
        threshold=0.143,
        area_ratio=0.3,
    )
    (text,) = map_findings(blob(), 4.0, 15, curves(FALLING), cones, None)
    assert "8.0 to 9.0 Å" in text
    assert "0.30" in text
