"""Point groups by the names and with the axes of RELION."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.rotations import turns

GOLDEN = (1 + 5**0.5) / 2
LARGEST_FOLD = 100
SAME = 1e-9
# Two rotations that generate each group: order and axis (x, y, z).
GENERATORS = {
    "T": ((3, (0, 0, 1)), (2, (0, 2**0.5, 1))),
    "O": ((3, (1, 1, 1)), (4, (0, 0, 1))),
    "I1": ((2, (1, 0, 0)), (5, (GOLDEN, 0, -1))),
    "I2": ((2, (0, 0, 1)), (5, (1, 0, GOLDEN))),
    "I3": ((2, (-1, 0, GOLDEN)), (5, (0, 0, 1))),
    "I4": ((2, (1, 0, GOLDEN)), (5, (2, 0, 1))),
}
GENERATORS["I"] = GENERATORS["I2"]
WITH_MIRRORS = re.compile(r"C\d+[VH]|D\d+[VH]|S\d+|T[DH]|OH|I[1-5]?H|CI|CS")


def symmetry_matrices(name: str) -> NDArray[np.float64]:
    """Return the rotations of a point group.

    The axes are RELION's: Cn about z; Dn with twofold axes in x as well; T with a threefold axis
    in z; O with fourfold axes in x, y and z; I = I2 with twofold axes in x, y and z and fivefold
    ones next to z in the plane of x and z; I1 as I2 turned by 90 degrees about z's neighbour; I3
    and I4 with a fivefold axis in z and in the direction (2, 0, 1).

    Parameters
    ----------
    name : str
        C1, C2, ..., D1, D2, ..., T, O, I, I1, I2, I3 or I4; small letters do as well.

    Returns
    -------
    ndarray, shape (g, 3, 3)
        S, acting on (x, y, z), the identity first: a map of this symmetry has V(S k) = V(k), and a
        view A of it is the same as A S.

    Raises
    ------
    InputError
        An unknown name, or a group with mirrors, which no molecule of one hand has.
    """
    label = name.strip().upper()
    fold = re.fullmatch(r"([CD])0*([1-9]\d{0,3})", label)
    if fold and int(fold[2]) <= LARGEST_FOLD:
        generators = [(int(fold[2]), (0, 0, 1))]
        if fold[1] == "D":
            generators.append((2, (1, 0, 0)))
    elif label in GENERATORS:
        generators = GENERATORS[label]
    elif WITH_MIRRORS.fullmatch(label):
        raise InputError(
            f"symmetry: {name} has mirrors, which molecules of one hand do not have, "
            "choose the group of its rotations"
        )
    else:
        raise InputError(
            f"symmetry: {name!r} is unknown, choose C1, C2, ..., D2, D3, ..., T, O, I, I1, I2, I3 "
            f"or I4 (n up to {LARGEST_FOLD})"
        )
    return _closed(generators)


def replicated(rotations: NDArray, symmetry: NDArray) -> NDArray[np.float64]:
    """Return the views A S of every symmetry, shape (g, n, 3, 3)."""
    return rotations[None] @ symmetry[:, None]


def _closed(generators: list) -> NDArray[np.float64]:
    """Return all products of rotations, each made of the fewest factors."""
    vectors = [
        np.array(axis, float) / np.linalg.norm(axis) * (2 * np.pi / order)
        for order, axis in generators
    ]
    factors = [_exact(turn) for turn in turns(vectors)]
    found = [np.eye(3)]
    for element in found:  # grows while it is walked
        for turn in factors:
            product = _exact(element @ turn)
            if not any(np.abs(product - known).max() < 1e-6 for known in found):
                found.append(product)
    return np.stack(found)


def _exact(matrix: NDArray) -> NDArray[np.float64]:
    """Remove rounding: entries of 0 and 1 are met exactly, others stay orthonormal."""
    left, _, right = np.linalg.svd(matrix)
    matrix = left @ right
    whole = np.rint(2 * matrix) / 2
    # Adding 0 turns -0 into 0.
    return np.where(np.abs(matrix - whole) < SAME, whole, matrix) + 0.0
