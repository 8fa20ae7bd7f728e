"""cryoSPARC's particles: .cs files, which are NumPy structured arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.io.patience import patiently
from fastcryo.io.records import (
    OpticsGroup,
    Particles,
    checked_magnification,
    decaying_bfactor,
    index_stacks,
    make_ctf,
    pixel_sizes_of,
)
from fastcryo.optics import IDENTITY, distinct_rows
from fastcryo.rotations import rotations_from_vectors

NUMPY_MAGIC = b"\x93NUMPY"
CSDAT_MAGIC = b"\x94CSDAT"
# The header of a .npy file with named fields, and one of these.
HEADER = re.compile(
    r"\s*\{\s*'descr':\s*\[(?P<fields>[^\[\]]*)\]\s*,\s*'fortran_order':\s*(?:True|False)\s*,"
    r"\s*'shape':\s*\((?P<rows>\d{1,18})L?,\)\s*,?\s*\}\s*"
)
FIELD = re.compile(
    r"\s*\(\s*'([^'\\\x00-\x1f]*)'\s*,\s*'([<>|=]?[A-Za-z]\d{0,9})'\s*"
    r"(?:,\s*\(([\d\s,]{0,100})\)\s*)?\)\s*(?:,\s*|$)"
)
POSE = ("alignments3D/pose", "alignments3D/shift")
DEFOCUS = ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")
LENS = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast")
# The matrix less the identity, row by row, on coordinates in Fourier space.
MAGNIFICATION = "ctf/anisomag"
# Public descriptions of their signs and units contradict each other, see docs/conventions.md.
NOT_MODELLED = {
    "ctf/tilt_A": "beam tilt",
    "ctf/shift_A": "beam shift",
    "ctf/trefoil_A": "trefoil",
    "ctf/tetra_A": "tetrafoil",
}

# Numbers per row of the fields in use, and kinds of those that are no plain numbers.
WIDTHS = dict.fromkeys(
    (
        "uid",
        "blob/path",
        "blob/idx",
        "blob/psize_A",
        "blob/sign",
        "ctf/exp_group_id",
        "ctf/phase_shift_rad",
        "ctf/bfactor",
        "ctf/scale",
        "alignments3D/psize_A",
        "alignments3D/split",
        "alignments3D/class",
        "alignments3D/alpha",
        *DEFOCUS,
        *LENS,
    ),
    (),
)
WIDTHS |= {"alignments3D/pose": (3,), "alignments3D/shift": (2,), "blob/shape": (2,)}
WIDTHS[MAGNIFICATION] = (4,)
KINDS = {"uid": "iu", "blob/path": "SU", "blob/idx": "iu", "blob/shape": "iu"}
LARGEST_BOX = 32768

Fields = Mapping[str, NDArray]


def is_cryosparc(path: Path) -> bool:
    """Tell a cryoSPARC file from a STAR file by its first bytes.

    Raises
    ------
    InputError
        The file cannot be read.
    """

    def start() -> bytes:
        with path.open("rb") as file:
            return file.read(6)

    try:
        return patiently(path, start) in (NUMPY_MAGIC, CSDAT_MAGIC)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_cryosparc(
    path: Path,
    passthrough: str | os.PathLike | None = None,
    pixel_size: float | None = None,
) -> Particles:
    """Read the particles of a .cs file; stacks are named as in the file, not yet looked for.

    Parameters
    ----------
    path : Path
    passthrough : path, optional
        The .cs file that holds the fields `path` lacks; rows are matched by uid.
    pixel_size : float, optional
        Angstrom, in place of what the file says.

    Raises
    ------
    InputError
        Anything missing, inconsistent or not supported; see `fastcryo.read_particles`.
    """
    fields = read_fields(path, passthrough)
    _require(path, fields, POSE, "particles with 3D poses are needed")
    count = len(fields[POSE[0]])
    if count == 0:
        raise InputError(f"{path}: holds no particles")
    notes = list(_notes(path, fields))
    optics_group, optics = _optics(path, fields, pixel_size)
    sizes = np.array([group.pixel_size for group in optics])[optics_group]
    shift_unit = sizes
    if "alignments3D/psize_A" in fields:
        shift_unit = _finite(path, fields, "alignments3D/psize_A")
    stack, index, stacks = _images(path, fields, count)
    pose, shift = (_finite(path, fields, name) for name in POSE)
    return Particles(
        rotations=rotations_from_vectors(pose),
        shifts=shift * shift_unit[:, None],
        ctf=_ctf(path, fields, notes),
        pixel_size=optics[0].pixel_size,
        box=optics[0].box,
        half=_half_sets(path, fields, count),
        optics_group=optics_group,
        optics=optics,
        stack=stack,
        slice=index,
        stacks=stacks,
        source=path,
        notes=tuple(notes),
    )


def read_fields(path: Path, passthrough: str | os.PathLike | None = None) -> Fields:
    """Return the columns of a .cs file, joined with those of its passthrough file."""
    fields = _load(path)
    return fields if passthrough is None else _join(path, fields, Path(passthrough))


def _load(path: Path) -> Fields:
    try:
        raw = patiently(path, path.read_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    array = _table(path, raw)
    fields = {name: array[name] for name in array.dtype.names}
    for name, values in fields.items():
        width = WIDTHS.get(name)
        if width is None:
            continue
        kinds = KINDS.get(name, "biuf")
        if values.dtype.kind not in kinds or values.shape[1:] != width:
            raise InputError(
                f"{path}: {name} holds {values.dtype.base} of shape {values.shape[1:]} per row, "
                f"{'names' if kinds == 'SU' else 'numbers'} of shape {width} are needed"
            )
    return fields


def _table(path: Path, raw: bytes) -> NDArray:
    """Interpret the bytes of a .cs file, once its header agrees with their number."""
    if raw.startswith(CSDAT_MAGIC):
        raise InputError(
            f"{path}: in cryoSPARC's compressed stream format, save it as a NumPy .cs file"
        )
    if not raw.startswith(NUMPY_MAGIC):
        raise InputError(f"{path}: not a .cs file")
    wide = raw[6:7] != b"\x01"
    start = 12 if wide else 10
    offset = start + int.from_bytes(raw[8:start], "little")
    # Python's own parser takes a hundred times the memory of what it parses.
    found = HEADER.fullmatch(raw[start:offset].decode("utf-8", errors="replace"))
    if offset > len(raw) or found is None:
        whole = b"'descr': [" in raw[start:offset] or offset > len(raw)
        what = "its header is damaged" if whole else "an array without named fields"
        raise InputError(f"{path}: not a readable .cs file ({what})")
    dtype, rows = _row_type(path, found["fields"]), int(found["rows"])
    if dtype.hasobject:
        raise InputError(f"{path}: holds Python objects, which are not read from files")
    if rows * dtype.itemsize > len(raw) - offset:
        raise InputError(
            f"{path}: truncated, {rows} rows of {dtype.itemsize} bytes are promised and "
            f"{len(raw) - offset} bytes are left"
        )
    if rows == 0 or dtype.itemsize == 0:
        return np.zeros(0, dtype)
    return np.frombuffer(raw, dtype, rows, offset)


def _row_type(path: Path, text: str) -> np.dtype:
    """Return the type of a row from the list of its fields."""
    fields, at = [], 0
    while at < len(text):
        found = FIELD.match(text, at)
        if found is None:
            raise InputError(
                f"{path}: not a readable .cs file (field {len(fields) + 1} is damaged)"
            )
        name, kind, widths = found.groups()
        shape = tuple(int(width) for width in (widths or "").split(",") if width.strip())
        fields.append((name, kind, shape))
        at = found.end()
    try:
        return np.dtype(fields)
    except (ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable .cs file ({reason})") from error


def _join(path: Path, fields: Fields, passthrough: Path) -> Fields:
    others = _load(passthrough)
    for name, some in ((path, fields), (passthrough, others)):
        _require(name, some, ["uid"], "rows are matched by it")
        if len(np.unique(some["uid"])) < len(some["uid"]):
            raise InputError(f"{name}: a uid occurs twice, rows cannot be matched")
    order = np.argsort(others["uid"])
    known = others["uid"][order]
    position = np.searchsorted(known, fields["uid"]).clip(max=max(len(known) - 1, 0))
    lost = np.count_nonzero(known[position] != fields["uid"]) if len(known) else len(fields["uid"])
    if lost:
        raise InputError(
            f"{passthrough}: lacks {lost} of the {len(fields['uid'])} particles (uid) of {path}, "
            "give the passthrough file of the same job"
        )
    rows = order[position]
    return {name: values[rows] for name, values in others.items()} | dict(fields)


def _require(path: Path, fields: Fields, names: Iterable[str], purpose: str) -> None:
    missing = [name for name in names if name not in fields]
    if missing:
        groups = sorted({name.partition("/")[0] for name in fields})
        raise InputError(
            f"{path}: lacks {', '.join(missing)}, {purpose} (found {', '.join(groups)}; "
            "if the job has a passthrough file, give it as well)"
        )


def _finite(path: Path, fields: Fields, name: str) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # NaNs that say so when they are copied
        values = fields[name].astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(bad):
        raise InputError(
            f"{path}: {name} of {len(bad)} particles is NaN or infinite, the first in row "
            f"{bad[0] + 1}"
        )
    return values


def _optics(
    path: Path, fields: Fields, given: float | None
) -> tuple[NDArray[np.int64], tuple[OpticsGroup, ...]]:
    count = len(fields[POSE[0]])
    size_field = next((n for n in ("blob/psize_A", "alignments3D/psize_A") if n in fields), None)
    if size_field is None and given is None:
        raise InputError(
            f"{path}: no pixel size (blob/psize_A), give the passthrough file or --angpix"
        )
    names = ("ctf/exp_group_id", *LENS, size_field)
    known = [_finite(path, fields, n) if n in fields else np.zeros(count) for n in names]
    known.append(_boxes(path, fields, count))
    known += [np.zeros(count)] * 4
    if MAGNIFICATION in fields:
        known[-4:] = _finite(path, fields, MAGNIFICATION).T
    values, group = distinct_rows(known)
    titles = [f"exposure group {int(row[0])}" for row in values]
    sizes = pixel_sizes_of(path, values[:, 4], titles, given)
    groups = []
    for title, row, size in zip(titles, values.tolist(), sizes, strict=True):
        lens = (v if n in fields else None for n, v in zip(LENS, row[1:4], strict=True))
        matrix = tuple(one + off for one, off in zip(IDENTITY, row[6:10], strict=True))
        matrix = checked_magnification(path, MAGNIFICATION, matrix)
        box = int(row[5]) or None
        groups.append(OpticsGroup(title, *lens, size, box, magnification=matrix))
    return group, tuple(groups)


def _boxes(path: Path, fields: Fields, count: int) -> NDArray[np.float64]:
    """Side of every image, 0 where the file does not say."""
    if "blob/shape" not in fields:
        return np.zeros(count)
    shapes = fields["blob/shape"].astype(np.int64)
    side = shapes[:, 0]
    odd = np.flatnonzero((side != shapes[:, 1]) | (side <= 0) | (side > LARGEST_BOX))
    if len(odd):
        found = " x ".join(map(str, shapes[odd[0]][::-1]))
        raise InputError(f"{path}: images of {found} pixels, square ones are needed")
    return side.astype(np.float64)


def _images(
    path: Path, fields: Fields, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[Path, ...]]:
    if "blob/path" not in fields:
        return np.zeros(count, np.int64), np.arange(count), ()
    _require(path, fields, ["blob/idx"], "it numbers the images of a stack")
    unique, inverse = np.unique(fields["blob/path"], return_inverse=True)
    # A leading '>' marks files that the job owns; it is no part of the name.
    names = [os.fsdecode(name).removeprefix(">") for name in unique]
    stack, stacks = index_stacks(names)
    index = fields["blob/idx"].astype(np.int64)
    if (index < 0).any():
        raise InputError(f"{path}: blob/idx of row {np.argmax(index < 0) + 1} is below zero")
    return stack[inverse.reshape(-1)], index, stacks


def _ctf(path: Path, fields: Fields, notes: list[str]) -> CTF | None:
    if not any(name in fields for name in DEFOCUS):
        notes.append("no ctf/df1_A: the CTF is taken as 1")
        return None
    _require(path, fields, (*DEFOCUS, *LENS), "the CTF needs them")

    def numbers(name: str, default: float) -> NDArray[np.float64]:
        if name not in fields:
            return np.full(len(fields[POSE[0]]), default)
        return _finite(path, fields, name)

    u, v, angle = (_finite(path, fields, name) for name in DEFOCUS)
    voltage, cs, contrast = (_finite(path, fields, name) for name in LENS)
    return make_ctf(
        path,
        defocus_u=u,
        defocus_v=v,
        defocus_angle=np.rad2deg(angle),
        voltage=voltage,
        spherical_aberration=cs,
        amplitude_contrast=contrast,
        phase_shift=np.rad2deg(numbers("ctf/phase_shift_rad", 0.0)),
        bfactor=decaying_bfactor(numbers("ctf/bfactor", 0.0), "ctf/bfactor", notes),
        scale=numbers("ctf/scale", 1.0),
    )


def _half_sets(path: Path, fields: Fields, count: int) -> NDArray[np.int8]:
    split = fields.get("alignments3D/split")
    if split is None:
        return np.zeros(count, np.int8)
    other = np.flatnonzero(~np.isin(split, (0, 1)))
    if len(other):
        raise InputError(f"{path}: alignments3D/split is {split[other[0]]}, 0 or 1 is needed")
    return (split + 1).astype(np.int8)


def _notes(path: Path, fields: Fields) -> Iterable[str]:
    for name, meaning in NOT_MODELLED.items():
        if name in fields and fields[name].any():
            yield f"{meaning} ({name}) is not modelled: its convention is not documented"
    signs = np.unique(fields["blob/sign"]) if "blob/sign" in fields else np.ones(1)
    if len(signs) > 1:
        raise InputError(f"{path}: blob/sign differs between particles, select those of one sign")
    if signs[0] < 0:
        yield (
            "blob/sign is -1: cryoSPARC takes these images as dark on light, here they are used "
            "as stored (--invert makes them light on dark)"
        )
    classes = fields.get("alignments3D/class")
    if classes is not None and len(np.unique(classes)) > 1:
        yield f"particles of {len(np.unique(classes))} classes are used together"
