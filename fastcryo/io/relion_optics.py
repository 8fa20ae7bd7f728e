"""Optics groups of RELION's particles: what the two tables of a STAR file say together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.io.records import OpticsGroup, common_pixel_size
from fastcryo.io.star import Table

MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
ZERNIKE = ("rlnOddZernike", "rlnEvenZernike")
OF_MICROGRAPHS = ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize")
CORRECTED = {
    "rlnCtfDataAreCtfPremultiplied": "multiplied by their CTF",
    "rlnCtfDataArePhaseFlipped": "phase-flipped",
}


@dataclass(frozen=True)
class Rows:
    """The particles table joined with the optics table.

    Parameters
    ----------
    particles : Table
    optics : Table or None
    group : ndarray of int64
        Row of the optics table for every particle; zeros without one.
    """

    particles: Table
    optics: Table | None
    group: NDArray[np.int64]

    def table_of(self, column: str) -> Table | None:
        """Return the table that has a column; the particles' goes first, as in RELION."""
        tables = (self.particles, self.optics)
        return next((t for t in tables if t is not None and column in t), None)

    def numbers(self, column: str, default: float | None = None) -> NDArray[np.float64] | None:
        """Return one value per particle; `default`, or None, if no table has the column."""
        table = self.table_of(column)
        if table is None:
            return None if default is None else np.full(len(self.particles), default)
        values = table.numbers(column)
        return values if table is self.particles else values[self.group]

    def texts(self, column: str) -> set[str]:
        """Return the different texts of a column among the particles."""
        table = self.table_of(column)
        if table is None:
            return set()
        values = table.strings(column)
        return set(values if table is self.particles else (values[g] for g in set(self.group)))


def join_optics(table: Table, optics: Table | None) -> Rows:
    """Find the optics group of every particle; `InputError` if one is unknown or ambiguous."""
    if optics is None:
        return Rows(table, None, np.zeros(len(table), np.int64))
    optics.require(["rlnOpticsGroup"], "it tells which rows belong to which particles")
    table.require(["rlnOpticsGroup"], "it tells which optics group a particle belongs to")
    numbers, wanted = optics.integers("rlnOpticsGroup"), table.integers("rlnOpticsGroup")
    known, first = np.unique(numbers, return_index=True)
    if len(known) < len(numbers):
        raise InputError(f"{table.path}: an rlnOpticsGroup occurs twice in data_{optics.name}")
    position = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    unknown = np.flatnonzero(known[position] != wanted) if len(known) else range(len(wanted))
    if len(unknown):
        raise InputError(
            f"{table.path}: rlnOpticsGroup {wanted[unknown[0]]} of row {unknown[0] + 1} "
            f"({len(unknown)} rows in all) is not in data_{optics.name}"
        )
    return Rows(table, optics, first[position])


def optics_groups(
    rows: Rows, given: float | None
) -> tuple[NDArray[np.int64], tuple[OpticsGroup, ...]]:
    """Group the particles by their microscope settings, also in files without an optics table.

    Parameters
    ----------
    rows : Rows
    given : float or None
        The user's pixel size, angstrom.

    Returns
    -------
    group : ndarray, shape (n,)
        Index into `groups`.
    groups : tuple of OpticsGroup
        Those in use.

    Raises
    ------
    InputError
        No pixel size, or several.
    """
    path = rows.particles.path
    sizes = _pixel_sizes(rows)
    if sizes is None and given is None:
        other = next((c for c in OF_MICROGRAPHS if rows.table_of(c)), None)
        hint = f" ({other} is not used: the images may be downsampled)" if other else ""
        raise InputError(
            f"{path}: no pixel size of the images, neither rlnImagePixelSize nor "
            f"rlnDetectorPixelSize with rlnMagnification{hint}, give it by --angpix"
        )
    columns = (
        rows.numbers("rlnVoltage"),
        rows.numbers("rlnSphericalAberration"),
        rows.numbers("rlnAmplitudeContrast"),
        rows.numbers("rlnImageSize"),
        sizes,
    )
    known = [np.zeros(len(rows.group)) if c is None else c for c in columns]
    values, group = np.unique(np.stack([rows.group, *known], 1), axis=0, return_inverse=True)
    names = [f"opticsGroup{i + 1}" for i in range(len(values))]
    if rows.optics is not None and "rlnOpticsGroupName" in rows.optics:
        texts = rows.optics.strings("rlnOpticsGroupName")
        names = [texts[int(row)] for row in values[:, 0]]
    size = common_pixel_size(path, [] if sizes is None else values[:, 5], names, given)
    groups = []
    for name, row in zip(names, values, strict=True):
        voltage, cs, contrast, box = (
            None if column is None else value
            for column, value in zip(columns[:4], row[1:5].tolist(), strict=True)
        )
        groups.append(
            OpticsGroup(name, voltage, cs, contrast, size, None if box is None else int(box))
        )
    return group.reshape(-1), tuple(groups)


def _pixel_sizes(rows: Rows) -> NDArray[np.float64] | None:
    sizes = rows.numbers("rlnImagePixelSize")
    if sizes is not None:
        return sizes
    detector, magnification = (
        rows.numbers(c) for c in ("rlnDetectorPixelSize", "rlnMagnification")
    )
    if detector is None or magnification is None:
        return rows.numbers("rlnPixelSize")
    if (magnification <= 0).any():
        raise InputError(f"{rows.particles.path}: rlnMagnification must be positive")
    return 1e4 * detector / magnification  # from micrometres


def refuse_corrected(rows: Rows) -> None:
    """Refuse images whose CTF was corrected already: the model would apply it a second time."""
    for column, meaning in CORRECTED.items():
        if rows.numbers(column, 0).any():
            raise InputError(
                f"{rows.particles.path}: {column} says that the images are {meaning}, "
                "extract them without that"
            )


def not_modelled(rows: Rows) -> Iterable[str]:
    """Say which recorded properties of the microscope the model ignores."""
    tilts = [rows.numbers(c, 0.0) for c in ("rlnBeamTiltX", "rlnBeamTiltY")]
    if np.any(tilts):
        yield f"beam tilt (up to {np.abs(tilts).max():.3g} mrad) is not modelled"
    for column in ZERNIKE:
        if any(re.search("[1-9]", text) for text in rows.texts(column)):
            yield f"higher-order aberrations ({column}) are not modelled"
    if all(rows.table_of(c) for c in MAGNIFICATION):
        matrix = np.stack([rows.numbers(c) for c in MAGNIFICATION], axis=1)
        off = np.abs(matrix - [1, 0, 0, 1]).max()
        if off > 1e-6:
            yield f"anisotropic magnification (up to {100 * off:.2g} %) is not modelled"
