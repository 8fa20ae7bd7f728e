"""RELION's particles: STAR files of versions 1 to 5, with and without an optics table."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.io.cs import is_cryosparc
from fastcryo.io.records import (
    Particles,
    decaying_bfactor,
    index_stacks,
    make_ctf,
)
from fastcryo.io.relion_optics import (
    BEAM_TILT,
    CORRECTED,
    MAGNIFICATION,
    ZERNIKE,
    Rows,
    join_optics,
    optics_groups,
    refuse_contradictions,
)
from fastcryo.io.star import Table, listing, read_star, write_star
from fastcryo.optics import IDENTITY, NO_ABERRATIONS
from fastcryo.rotations import euler_angles, rotation_matrices

PARTICLE_BLOCKS = ("particles", "images", "")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
SHIFTS = (("rlnOriginXAngst", "rlnOriginYAngst"), ("rlnOriginX", "rlnOriginY"))
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
LENS = ("rlnVoltage", "rlnSphericalAberration")
TOMOGRAPHY = ("rlnTomoName", "rlnTomoParticleName", "rlnOriginZAngst", "rlnOriginZ")
# Columns of older files that the optics table has instead.
OF_OPTICS = (
    *LENS,
    "rlnAmplitudeContrast",
    "rlnImagePixelSize",
    "rlnPixelSize",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnImageSize",
    *BEAM_TILT,
    *ZERNIKE,
    *MAGNIFICATION,
    *CORRECTED,
)
# The number of an image whose name has none: it has to be the only one of its file.
WHOLE_FILE = "0"
NUMBER = re.compile(r"[0-9]{1,99}")
LARGEST_STACK = 2**31
ASSUMED_AMPLITUDE_CONTRAST = 0.1


def read_relion(path: Path, pixel_size: float | None = None) -> Particles:
    """Read the particles of a STAR file; stacks are named as in the file, not yet looked for.

    Parameters
    ----------
    path : Path
    pixel_size : float, optional
        Angstrom, in place of what the file says.

    Raises
    ------
    InputError
        Anything missing, inconsistent or not supported; see `fastcryo.read_particles`.
    """
    tables = read_star(path)
    table, optics_table = particles_table(path, tables), tables.get("optics")
    _refuse_tomography(table, optics_table)
    table.require(ANGLES, "particles with 3D poses are needed")
    if len(table) == 0:
        raise InputError(f"{path}: the particles table has no rows")
    rows = join_optics(table, optics_table)
    notes: list[str] = []
    optics_group, optics = optics_groups(rows, pixel_size)
    sizes = np.array([group.pixel_size for group in optics])[optics_group]
    stack, index, stacks = _images(table)
    shifts = _shifts(table, sizes, notes)
    ctf = _ctf(rows, notes)
    refuse_contradictions(rows, ctf is not None)
    return Particles(
        rotations=rotation_matrices(*(table.numbers(c) for c in ANGLES)),
        shifts=shifts,
        ctf=ctf,
        pixel_size=optics[0].pixel_size,
        box=optics[0].box,
        half=_half_sets(table),
        optics_group=optics_group,
        optics=optics,
        stack=stack,
        slice=index,
        stacks=stacks,
        source=path,
        notes=(*notes, *_doubts(table)),
    )


def particles_table(path: Path, tables: Mapping[str, Table]) -> Table:
    """Return the table of the particles among those of a file."""
    name = next((n for n in PARTICLE_BLOCKS if n in tables), None)
    if name is None:
        found = listing(f"data_{t.name}" for t in tables.values())
        raise InputError(
            f"{path}: no particles table (data_particles, data_images or a nameless data_), "
            f"found {found}"
        )
    return tables[name]


def read_rows(path: Path) -> Rows:
    """Return the particles table of a file joined with its optics table."""
    tables = read_star(path)
    return join_optics(particles_table(path, tables), tables.get("optics"))


def write_subset(path: str | os.PathLike, particles: Particles) -> None:
    """Write some particles of a file as STAR of version 3.1, with all columns of that file.

    Columns that RELION 3.1 keeps in the optics table move there, and origins in pixels become
    origins in angstrom; all else stands as it stood. Particles of a .cs file are written with what
    was read.

    Parameters
    ----------
    path : path
    particles : Particles
        Of one file, any of its rows in any order.

    Raises
    ------
    InputError
        The file cannot be written, or its source no longer read.
    """
    if is_cryosparc(particles.source):
        names = [
            f"{number + 1:06d}@{particles.stacks[stack]}" if particles.stacks else ""
            for number, stack in zip(particles.slice, particles.stack, strict=True)
        ]
        write_particles(path, particles, names)
        return
    tables = read_star(particles.source)
    table = particles_table(particles.source, tables)
    columns = {
        name: [values[row] for row in particles.row]
        for name, values in ((name, table.strings(name)) for name in table.columns)
    }
    if "optics" in tables:
        written = {
            t.name: {name: t.strings(name) for name in t.columns}
            for t in tables.values()
            if t is not table
        }
        write_star(path, {**written, table.name: columns})
        return
    columns = {c: v for c, v in columns.items() if c not in OF_OPTICS and c not in SHIFTS[1]}
    columns |= {c: _texts({c: v})[c] for c, v in zip(SHIFTS[0], particles.shifts.T, strict=True)}
    columns["rlnOpticsGroup"] = [str(group + 1) for group in particles.optics_group]
    write_star(path, {"optics": _texts(_optics_columns(particles)), "particles": columns})


def write_particles(
    path: str | os.PathLike, particles: Particles, image_names: Sequence[str]
) -> None:
    """Write particles as STAR of version 3.1, which RELION and others read.

    Parameters
    ----------
    path : path
    particles : Particles
    image_names : sequence of str
        rlnImageName of every particle, such as ``000001@particles.mrcs``.

    Raises
    ------
    InputError
        Not one name per particle, or the file cannot be written.
    """
    if len(image_names) != len(particles):
        raise InputError(f"{path}: {len(image_names)} image names for {len(particles)} particles")
    columns = {"rlnImageName": image_names}
    columns |= dict(zip(ANGLES, euler_angles(particles.rotations).T, strict=True))
    columns |= dict(zip(SHIFTS[0], particles.shifts.T, strict=True))
    if particles.ctf is not None:
        columns |= {
            "rlnDefocusU": particles.ctf.defocus_u,
            "rlnDefocusV": particles.ctf.defocus_v,
            "rlnDefocusAngle": particles.ctf.defocus_angle,
            "rlnPhaseShift": particles.ctf.phase_shift,
            "rlnCtfBfactor": particles.ctf.bfactor,
            "rlnCtfScalefactor": particles.ctf.scale,
        }
    columns["rlnOpticsGroup"] = particles.optics_group + 1
    columns["rlnRandomSubset"] = particles.half
    optics = _texts(_optics_columns(particles))
    write_star(path, {"optics": optics, "particles": _texts(columns)})


def _optics_columns(particles: Particles) -> dict[str, Sequence]:
    """Return the columns of the optics table, without those that nothing is known of."""
    groups = particles.optics
    optics = {
        "rlnOpticsGroupName": [g.name for g in groups],
        "rlnOpticsGroup": range(1, len(groups) + 1),
        "rlnVoltage": [g.voltage for g in groups],
        "rlnSphericalAberration": [g.spherical_aberration for g in groups],
        "rlnAmplitudeContrast": [g.amplitude_contrast for g in groups],
        "rlnImagePixelSize": [g.pixel_size for g in groups],
        "rlnImageSize": [g.box for g in groups],
        "rlnImageDimensionality": [2] * len(groups),
    }
    if any(g.aberrations != NO_ABERRATIONS for g in groups):
        optics |= {
            column: [g.aberrations.beam_tilt[i] for g in groups]
            for i, column in enumerate(BEAM_TILT)
        }
        lists = zip(ZERNIKE, ("odd", "even"), strict=True)
        optics |= {c: [_listed(getattr(g.aberrations, n)) for g in groups] for c, n in lists}
    if any(g.magnification != IDENTITY for g in groups):
        optics |= {c: [g.magnification[i] for g in groups] for i, c in enumerate(MAGNIFICATION)}
    for column, meaning in CORRECTED.items():
        if any(g.corrected == meaning for g in groups):
            optics[column] = [int(g.corrected == meaning) for g in groups]
    return {column: values for column, values in optics.items() if None not in values}


def _refuse_tomography(table: Table, optics: Table | None) -> None:
    found = next((c for c in TOMOGRAPHY if c in table), None)
    if optics is not None and "rlnImageDimensionality" in optics:
        found = found or ("rlnImageDimensionality" if 3 in _dimensions(optics) else None)
    if "rlnCtfImage" in table and "rlnImageName" in table and not found:
        found = next((f"volume {n}" for n in table.strings("rlnImageName") if "@" not in n), None)
    if found:
        raise InputError(
            f"{table.path}: subtomograms or tilt series (found {found}), "
            "2D images of particles with poses are needed"
        )


def _dimensions(optics: Table) -> set[float]:
    return set(optics.numbers("rlnImageDimensionality"))


def _images(table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[Path, ...]]:
    if "rlnImageName" not in table:
        return np.zeros(len(table), np.int64), np.arange(len(table)), ()
    numbers = np.empty(len(table), np.int64)
    files: list[str] = []
    known: dict[str, str] = {}  # each name of a file once, not once per image
    for row, name in enumerate(table.strings("rlnImageName")):
        number, at, file = name.partition("@")
        if name and not at:
            number, file = WHOLE_FILE, name
        elif not (file and NUMBER.fullmatch(number) and 0 < int(number) <= LARGEST_STACK):
            raise InputError(
                f"{table.path}: rlnImageName of row {row + 1} is {name!r}, a number from 1 "
                "and a stack are needed (000001@stack.mrcs)"
            )
        numbers[row] = int(number) - 1
        files.append(known.setdefault(file, file))
    stack, stacks = index_stacks(files)
    return stack, numbers, stacks


def _shifts(
    table: Table, pixel_sizes: NDArray[np.float64], notes: list[str]
) -> NDArray[np.float64]:
    for columns, unit in zip(SHIFTS, (1.0, pixel_sizes[:, None]), strict=True):
        if any(c in table for c in columns):
            table.require(columns, "both shifts are needed")
            return np.stack([table.numbers(c) for c in columns], axis=1) * unit
    notes.append(f"no {SHIFTS[0][0]} or {SHIFTS[1][0]}: particles are taken as centred")
    return np.zeros((len(table), 2))


def _ctf(rows: Rows, notes: list[str]) -> CTF | None:
    path = rows.particles.path
    found = [c for c in DEFOCUS if rows.table_of(c)]
    if not found:
        notes.append("no rlnDefocusU: the CTF is taken as 1")
        return None
    missing = [c for c in (*DEFOCUS, *LENS) if not rows.table_of(c)]
    if missing:
        raise InputError(
            f"{path}: no {', '.join(missing)} in any table beside {found[0]}, the CTF needs them"
        )
    if not rows.table_of("rlnAmplitudeContrast"):
        notes.append(f"no rlnAmplitudeContrast: {ASSUMED_AMPLITUDE_CONTRAST} is assumed")
    u, v, angle = (rows.numbers(c) for c in DEFOCUS)
    voltage, cs = (rows.numbers(c) for c in LENS)
    return make_ctf(
        path,
        defocus_u=u,
        defocus_v=v,
        defocus_angle=angle,
        voltage=voltage,
        spherical_aberration=cs,
        amplitude_contrast=rows.numbers("rlnAmplitudeContrast", ASSUMED_AMPLITUDE_CONTRAST),
        phase_shift=rows.numbers("rlnPhaseShift", 0.0),
        bfactor=decaying_bfactor(rows.numbers("rlnCtfBfactor", 0.0), "rlnCtfBfactor", notes),
        scale=rows.numbers("rlnCtfScalefactor", 1.0),
    )


def _half_sets(table: Table) -> NDArray[np.int8]:
    if "rlnRandomSubset" not in table:
        return np.zeros(len(table), np.int8)
    half = table.integers("rlnRandomSubset")
    bad = np.flatnonzero((half < 0) | (half > 2))
    if len(bad):
        raise InputError(
            f"{table.path}: rlnRandomSubset of row {bad[0] + 1} is {half[bad[0]]}, "
            "1 or 2 is needed (0: none)"
        )
    return half.astype(np.int8)


def _doubts(table: Table) -> Iterable[str]:
    if not (table.numbers("rlnAngleRot").any() or table.numbers("rlnAngleTilt").any()):
        yield "rlnAngleRot and rlnAngleTilt are 0 in all rows: angles of a 2D classification?"
    if "rlnClassNumber" in table:
        classes = len(np.unique(table.integers("rlnClassNumber")))
        if classes > 1:
            yield f"particles of {classes} classes (rlnClassNumber) are used together"


def _listed(values: Sequence[float]) -> str:
    return "[" + ",".join(f"{v:.12g}" for v in values) + "]"


def _texts(columns: dict) -> dict[str, list[str]]:
    return {
        name: [f"{v:.6f}" if isinstance(v, float | np.floating) else str(v) for v in values]
        for name, values in columns.items()
    }
