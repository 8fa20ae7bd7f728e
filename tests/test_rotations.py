"""RELION's angles and rotation matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fastcryo.errors import InputError
from fastcryo.rotations import (
    euler_angles,
    orthonormal_rotations,
    random_rotations,
    rotation_matrices,
    turns,
)

from . import naive

ANGLE = st.one_of(st.floats(-720, 720), st.integers(-8, 8).map(lambda i: 45.0 * i))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rot=ANGLE, tilt=ANGLE, psi=ANGLE)
def test_matrix_is_relions_formula(rot, tilt, psi):
    # Angles of 720 degrees reduce with an error of a few units in their last place.
    expected = naive.euler_matrix(rot, tilt, psi)
    np.testing.assert_allclose(rotation_matrices(rot, tilt, psi)[0], expected, rtol=0, atol=1e-14)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rot=ANGLE, tilt=ANGLE, psi=ANGLE)
def test_angles_of_a_matrix_give_it_back(rot, tilt, psi):
    # At tilt 0 and 180 only rot + psi or rot - psi is defined: matrices are compared.
    # acos loses half the digits there.
    matrix = rotation_matrices(rot, tilt, psi)
    again = rotation_matrices(*euler_angles(matrix).T)
    np.testing.assert_allclose(again, matrix, rtol=0, atol=1e-7)


def test_angles_broadcast():
    matrices = rotation_matrices([10.0, 20.0], 30.0, [40.0, 50.0])
    assert matrices.shape == (2, 3, 3)
    assert matrices.flags.c_contiguous
    np.testing.assert_allclose(matrices[1], naive.euler_matrix(20, 30, 50), rtol=0, atol=1e-15)


def test_psi_turns_the_image_and_rot_turns_the_object():
    # rot by 90 degrees brings what lies along y to the x axis of the image, as does psi.
    for angles in [(90, 0, 0), (0, 0, 90)]:
        np.testing.assert_allclose(
            rotation_matrices(*angles)[0] @ [0, 1, 0], [1, 0, 0], rtol=0, atol=1e-15
        )
    # tilt by 90 degrees brings what lies along -z to x: A acts on (x, y, z).
    np.testing.assert_allclose(
        rotation_matrices(0, 90, 0)[0] @ [0, 0, -1], [1, 0, 0], rtol=0, atol=1e-15
    )


def test_random_rotations_are_uniform_and_repeat():
    draws = random_rotations(20000, np.random.default_rng(5))
    np.testing.assert_array_equal(draws, random_rotations(20000, np.random.default_rng(5)))
    identity = np.broadcast_to(np.eye(3), draws.shape)
    np.testing.assert_allclose(draws @ draws.transpose(0, 2, 1), identity, rtol=0, atol=1e-14)
    assert np.linalg.det(draws).min() > 0
    # Every element has mean 0 and variance 1/3; of 20000 draws the mean strays by 0.0041 (1 sigma).
    assert np.abs(draws.mean(axis=0)).max() < 0.017
    assert np.abs((draws**2).mean(axis=0) - 1 / 3).max() < 0.009


def test_rounding_of_single_precision_is_removed():
    exact = naive.random_rotations(50, np.random.default_rng(2))
    cleaned = orthonormal_rotations(exact.astype(np.float32))
    assert cleaned.dtype == np.float64
    identity = np.broadcast_to(np.eye(3), cleaned.shape)
    np.testing.assert_allclose(cleaned @ cleaned.transpose(0, 2, 1), identity, rtol=0, atol=1e-14)
    np.testing.assert_allclose(cleaned, exact, rtol=0, atol=2e-7)


def test_no_rotations_are_none():
    assert orthonormal_rotations(np.empty((0, 3, 3))).shape == (0, 3, 3)


def test_arrays_that_are_no_rotations_are_refused():
    good = naive.random_rotations(4, np.random.default_rng(3))
    with pytest.raises(InputError, match=r"^rotations: shape \(n, 3, 3\) needed, got \(3, 3\)"):
        orthonormal_rotations(good[0])
    holes = good.copy()
    holes[2, 1, 1] = np.nan
    with pytest.raises(InputError, match=r"^rotations: 1 contain NaN or infinity, the first is 2"):
        orthonormal_rotations(holes)
    for spoiled in (good * 1.01, good * [[-1], [1], [1]], good[:, [1, 0, 2]]):
        with pytest.raises(InputError, match=r"^rotations: 4 of 4 matrices are not rotations"):
            orthonormal_rotations(spoiled)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(-7, 7), min_size=3, max_size=3), st.sampled_from([0.0, 1e-9, 1e-3, 1.0]))
def test_a_rotation_vector_is_axis_times_angle(direction, scale):
    vector = scale * np.array(direction)
    expected = Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(turns([vector])[0], expected, rtol=0, atol=1e-14)
