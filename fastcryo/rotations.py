"""RELION's Euler angles and rotation matrices.

scipy.spatial takes 0.15 to 0.3 s and 11 MB to import, so it is imported where it is used. What
every run begins with does without.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.errors import InputError

ORTHONORMALITY_TOLERANCE = 1e-3
# Largest |A A^T - 1| of a matrix that needs no singular values: they come with as much themselves.
ROUNDING = 1.5e-15


def rotation_matrices(rot: ArrayLike, tilt: ArrayLike, psi: ArrayLike) -> NDArray[np.float64]:
    """Turn RELION's angles into rotation matrices.

    Parameters
    ----------
    rot, tilt, psi : array_like, shape (n,) or scalars
        rlnAngleRot, rlnAngleTilt and rlnAnglePsi, degrees (intrinsic ZYZ).

    Returns
    -------
    ndarray, shape (n, 3, 3)
        A, acting on (x, y, z): reference to image coordinates. The first two rows span the slice:
        image frequency (h, k) reads the volume at ``h * A[0] + k * A[1]``.
    """
    angles = np.stack(np.broadcast_arrays(*np.atleast_1d(rot, tilt, psi)))
    radians = np.deg2rad(angles, dtype=np.float64)
    (ca, cb, cg), (sa, sb, sg) = np.cos(radians), np.sin(radians)
    rows = (
        (ca * cb * cg - sa * sg, sa * cb * cg + ca * sg, -sb * cg),
        (-ca * cb * sg - sa * cg, -sa * cb * sg + ca * cg, sb * sg),
        (ca * sb, sa * sb, cb),
    )
    return np.ascontiguousarray(np.moveaxis(np.array(rows), -1, 0))


def euler_angles(rotations: ArrayLike) -> NDArray[np.float64]:
    """Turn rotation matrices A into RELION's angles.

    Parameters
    ----------
    rotations : array_like, shape (n, 3, 3)
        As returned by `rotation_matrices`.

    Returns
    -------
    ndarray, shape (n, 3)
        rlnAngleRot, rlnAngleTilt, rlnAnglePsi in degrees.
    """
    from scipy.spatial.transform import Rotation

    matrices = np.asarray(rotations, dtype=np.float64).transpose(0, 2, 1)
    return Rotation.from_matrix(matrices).as_euler("ZYZ", degrees=True, suppress_warnings=True)


def random_rotations(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw rotations uniformly; shape (count, 3, 3)."""
    from scipy.spatial.transform import Rotation

    return np.ascontiguousarray(Rotation.random(count, rng).as_matrix().transpose(0, 2, 1))


def turns(vectors: ArrayLike) -> NDArray[np.float64]:
    """Turn rotation vectors (axis times angle in radians) into matrices, by Rodrigues' formula.

    Parameters
    ----------
    vectors : array_like, shape (n, 3)

    Returns
    -------
    ndarray, shape (n, 3, 3)
        1 + sin(t) / t K + (1 - cos t) / t^2 K^2, with K x = vector x x.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    cross = np.cross(vectors[:, None], -np.eye(3))
    first, second = np.sinc(angle / np.pi), np.sinc(angle / (2 * np.pi)) ** 2 / 2
    return np.eye(3) + first * cross + second * (cross @ cross)


def rotations_from_vectors(vectors: ArrayLike) -> NDArray[np.float64]:
    """Turn rotation vectors (axis times angle in radians) into matrices A.

    cryoSPARC's vector is that of the ZYZ rotation which RELION's angles describe, from image to
    reference coordinates; A goes the other way (cryoDRGN and pyem transpose it as well).

    Parameters
    ----------
    vectors : array_like, shape (n, 3)

    Returns
    -------
    ndarray, shape (n, 3, 3)
    """
    return np.ascontiguousarray(turns(vectors).transpose(0, 2, 1))


def orthonormal_rotations(rotations: ArrayLike) -> NDArray[np.float64]:
    """Check rotation matrices and remove the rounding of single-precision ones.

    Parameters
    ----------
    rotations : array_like, shape (n, 3, 3)

    Returns
    -------
    ndarray, shape (n, 3, 3), float64
        The nearest orthonormal matrices; those that are so up to rounding as they are.

    Raises
    ------
    InputError
        Wrong shape, a value that is not finite, or a matrix that is no rotation.
    """
    matrices = np.asarray(rotations, dtype=np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3):
        raise InputError(f"rotations: shape (n, 3, 3) needed, got {matrices.shape}")
    if len(matrices) == 0:
        return matrices.copy()
    if not np.isfinite(matrices).all():
        bad = np.flatnonzero(~np.isfinite(matrices).all(axis=(1, 2)))
        raise InputError(f"rotations: {len(bad)} contain NaN or infinity, the first is {bad[0]}")
    gram = matrices @ matrices.transpose(0, 2, 1)
    off = np.abs(gram - np.eye(3)).max(axis=(1, 2))
    rough = off > ROUNDING
    left, values, right = np.linalg.svd(matrices[rough])
    off[rough] = np.abs(values - 1).max(axis=1)
    bad = np.flatnonzero((off > ORTHONORMALITY_TOLERANCE) | (np.linalg.det(matrices) < 0))
    if len(bad):
        raise InputError(
            f"rotations: {len(bad)} of {len(matrices)} matrices are not rotations "
            f"(rows orthonormal, determinant +1), the first is {bad[0]}"
        )
    nearest = matrices.copy()
    nearest[rough] = left @ right
    return nearest
