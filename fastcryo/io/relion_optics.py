"""Optics groups of RELION's particles: what the two tables of a STAR file say together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.io.records import OpticsGroup, checked_magnification, pixel_sizes_of
from fastcryo.io.star import Table
from fastcryo.optics import IDENTITY, Aberrations, distinct_rows

MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
ZERNIKE = ("rlnOddZernike", "rlnEvenZernike")
BEAM_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
TILT_IN_ODD = (3, 4)
LARGEST_BOX = 32768
OF_MICROGRAPHS = ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize")
CORRECTED = {
    "rlnCtfDataArePhaseFlipped": "phase-flipped",
    "rlnCtfDataAreCtfPremultiplied": "premultiplied",
}
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


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

    def texts(self, column: str) -> list[str]:
        """Return one text per particle; empty ones if no table has the column."""
        table = self.table_of(column)
        if table is None:
            return [""] * len(self.particles)
        values = table.strings(column)
        return values if table is self.particles else [values[g] for g in self.group]

    def distinct(self, column: str) -> tuple[list[str], NDArray[np.int64]]:
        """Return the different texts of a column, and which of them each particle has."""
        table = self.table_of(column)
        if table is None:
            return [""], np.zeros(len(self.particles), np.int64)
        values = table.strings(column)
        texts = sorted(set(values))
        number = {text: i for i, text in enumerate(texts)}
        codes = np.array([number[value] for value in values], np.int64)
        return texts, codes if table is self.particles else codes[self.group]


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
        No pixel size, one that is not positive, or aberrations that are no lists of numbers.
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
        *(rows.numbers(c, 0.0) for c in BEAM_TILT),
        *(rows.numbers(c, one) for c, one in zip(MAGNIFICATION, IDENTITY, strict=True)),
        _correction(rows),
    )
    zernike = [rows.distinct(c) for c in ZERNIKE]
    columns += tuple(codes.astype(np.float64) for _, codes in zernike)
    known = [np.zeros(len(rows.group)) if c is None else c for c in columns]
    values, group = distinct_rows([rows.group, *known])
    names = [f"opticsGroup{i + 1}" for i in range(len(values))]
    if rows.optics is not None and "rlnOpticsGroupName" in rows.optics:
        texts = rows.optics.strings("rlnOpticsGroupName")
        names = [texts[int(row)] for row in values[:, 0]]
    own = pixel_sizes_of(path, values[:, 5], names, given)
    groups = []
    for name, row, size in zip(names, values.tolist(), own, strict=True):
        voltage, cs, contrast, box = (
            None if column is None else value
            for column, value in zip(columns[:4], row[1:5], strict=True)
        )
        odd, even = (
            _coefficients(path, c, texts[int(code)])
            for c, (texts, _), code in zip(ZERNIKE, zernike, row[13:15], strict=True)
        )
        tilt = tuple(row[6:8])
        if any(tilt):
            # RELION writes these two as tilt and ignores what stands in the list.
            odd = tuple(0.0 if i in TILT_IN_ODD else value for i, value in enumerate(odd))
        groups.append(
            OpticsGroup(
                name,
                voltage,
                cs,
                contrast,
                size,
                None if box is None else _box(path, box),
                Aberrations(tilt, odd, even),
                checked_magnification(path, f"{MAGNIFICATION[0]} to 11", tuple(row[8:12])),
                ("", *CORRECTED.values())[int(row[12])],
            )
        )
    return group, tuple(groups)


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
    with np.errstate(over="ignore"):  # what is infinite is refused as a pixel size
        return 1e4 * detector / magnification  # from micrometres


def _correction(rows: Rows) -> NDArray[np.float64]:
    """0, 1 or 2 for every particle: as they are, phase-flipped, premultiplied."""
    flags = [rows.numbers(column, 0.0) != 0 for column in CORRECTED]
    both = np.flatnonzero(flags[0] & flags[1])
    if len(both):
        raise InputError(
            f"{rows.particles.path}: {' and '.join(CORRECTED)} are both set (row {both[0] + 1}), "
            "images are either phase-flipped or multiplied by their CTF"
        )
    return flags[0] + 2.0 * flags[1]


def refuse_contradictions(rows: Rows, with_ctf: bool) -> None:
    """Refuse images that were corrected for a CTF that the file does not tell."""
    for column, meaning in CORRECTED.items():
        if not with_ctf and rows.numbers(column, 0.0).any():
            raise InputError(
                f"{rows.particles.path}: {column} says that the images are {meaning}, but there "
                "is no CTF (rlnDefocusU), add its columns"
            )


def _coefficients(path: Path, column: str, text: str) -> tuple[float, ...]:
    """Parse a list such as [0.1,0,-2e-3]."""
    body = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    if not all(NUMBER.fullmatch(word) for word in body):
        raise InputError(
            f"{path}: {column} is {text!r}, a list of numbers such as [0.1,0,-0.2] is needed"
        )
    return tuple(float(word) for word in body)


def _box(path: Path, value: float) -> int:
    if not (value == int(value) and 0 < value <= LARGEST_BOX):
        raise InputError(f"{path}: rlnImageSize is {value:g}, a number of pixels is needed")
    return int(value)
