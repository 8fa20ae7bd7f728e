"""Geometry of the built-in phantom: where its helices and strands lie, and the atoms on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Electron scattering at zero angle of the atoms of a residue: N, CA, C, O, CB and one side chain.
RESIDUE = np.array([2.21, 2.51, 2.51, 1.98, 2.51, 2.51])
# Cylindrical coordinates of those atoms about the axis of a right-handed alpha helix:
# radius (angstrom), azimuth (degrees) and height (angstrom) relative to CA.
HELIX = np.array(
    [
        [1.55, -28, -0.9],
        [2.28, 0, 0.0],
        [1.64, 27, 1.1],
        [2.03, 21, 2.3],
        [3.30, -19, -0.7],
        [4.40, -12, -1.0],
    ]
)
HELIX_RISE, HELIX_TURN, HELIX_RADIUS = 1.5, 100.0, 5.0
# (along the strand, across the sheet, out of the sheet), angstrom; the last one changes its sign
# from residue to residue.
STRAND = np.array(
    [
        [-1.2, 0.3, 0.4],
        [0.0, 0.0, 0.9],
        [1.2, -0.3, 0.4],
        [1.4, -1.5, 0.4],
        [0.2, 0.3, 2.4],
        [0.3, 0.8, 3.6],
    ]
)
STRAND_RISE, STRAND_DISTANCE, STRAND_TWIST = 3.3, 4.8, 20.0

# Axes from start to end (x, y, z), in units of the phantom's radius.
HELICES = np.array(
    [
        [[-0.62, -0.30, -0.55], [-0.48, -0.10, 0.60]],
        [[-0.34, -0.52, 0.62], [-0.44, -0.34, -0.58]],
        [[-0.72, 0.12, -0.46], [-0.52, 0.32, 0.50]],
        [[-0.28, 0.02, -0.68], [-0.18, -0.22, 0.30]],
        [[0.10, -0.72, -0.30], [0.66, -0.44, 0.04]],
        [[0.02, -0.58, 0.48], [0.62, -0.30, 0.36]],
        [[-0.20, 0.58, -0.52], [0.56, 0.48, -0.44]],
        [[-0.10, 0.30, 0.86], [0.58, 0.08, 0.66]],
        [[0.80, 0.10, -0.46], [0.84, 0.30, 0.34]],
        [[-0.16, 0.84, -0.06], [0.34, 0.80, 0.38]],
        [[0.24, -0.28, -0.84], [0.52, 0.10, -0.78]],
    ]
)
SHEET_CENTRE = np.array([0.28, 0.18, -0.02])
SHEET_AXIS = np.array([0.45, 0.10, 0.89])
SHEET_ACROSS = np.array([-0.55, 0.82, 0.19])
SHEET_LENGTHS = np.array([0.42, 0.56, 0.64, 0.60, 0.50])


def build(radius: float) -> tuple[FloatArray, FloatArray]:
    """Build the phantom.

    Parameters
    ----------
    radius : float
        All atoms lie within it, angstrom.

    Returns
    -------
    positions : ndarray, shape (m, 3)
        (x, y, z), angstrom.
    amplitudes : ndarray, shape (m,)
        Electron scattering at zero angle, angstrom.
    """
    inner = radius - HELIX_RADIUS
    pieces = [_helix(start * inner, end * inner) for start, end in HELICES] + _sheet(inner)
    positions = np.concatenate(pieces)
    # Side chains differ: a few atoms more or less, in a fixed order of no meaning.
    occupancy = np.ones((len(positions) // len(RESIDUE), len(RESIDUE)))
    occupancy[:, -1] = np.random.default_rng(20251116).uniform(0.0, 3.0, len(occupancy))
    # Where the radius leaves no room for helices of full thickness, all of it shrinks.
    positions *= min(1.0, radius / np.linalg.norm(positions, axis=1).max())
    return positions, (occupancy * RESIDUE).ravel()


def _helix(start: FloatArray, end: FloatArray) -> FloatArray:
    length = np.linalg.norm(end - start)
    residues = np.arange(max(2, int(length / HELIX_RISE)))
    radius, azimuth, height = HELIX.T
    angle = np.deg2rad(azimuth + HELIX_TURN * residues[:, None])
    local = np.stack(
        [
            radius * np.cos(angle),
            radius * np.sin(angle),
            height + HELIX_RISE * residues[:, None] + 0 * angle,
        ],
        axis=-1,
    )
    return start + local.reshape(-1, 3) @ _frame(end - start, np.array([0.3, 0.5, 0.8]))


def _sheet(scale: float) -> list[FloatArray]:
    strands = []
    for i, length in enumerate(SHEET_LENGTHS * scale):
        place = i - (len(SHEET_LENGTHS) - 1) / 2
        residues = np.arange(max(2, int(length / STRAND_RISE)))
        side = np.where(residues % 2, -1.0, 1.0)[:, None]
        along, across, out = STRAND.T
        centred = (residues - residues.mean())[:, None] * STRAND_RISE
        # Neighbours run in opposite directions.
        along = (1.0 if i % 2 else -1.0) * (along + centred)
        turn = np.deg2rad(STRAND_TWIST * place)
        out = side * out
        # Strands twist about the axis across them, as in proteins: left-handed across the sheet.
        local = np.stack(
            [
                np.cos(turn) * out - np.sin(turn) * along,
                across + STRAND_DISTANCE * place + 0 * along,
                np.sin(turn) * out + np.cos(turn) * along,
            ],
            axis=-1,
        )
        centre = SHEET_CENTRE * scale
        strands.append(centre + local.reshape(-1, 3) @ _frame(SHEET_AXIS, SHEET_ACROSS))
    return strands


def _frame(axis: FloatArray, second: FloatArray) -> FloatArray:
    """Right-handed unit vectors x, y, z as rows, z along `axis`, y nearest to `second`."""
    z = axis / np.linalg.norm(axis)
    y = second - (second @ z) * z
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z])
