"""cryoSPARC's particles: .cs files, which are NumPy structured arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.io.records import (
    OpticsGroup,
    Particles,
    decaying_bfactor,
    index_stacks,
    make_ctf,
    pixel_sizes_of,
)
from fastcryo.rotations import rotations_from_vectors

NUMPY_MAGIC = b"\x93NUMPY"
CSDAT_MAGIC = b"\x94CSDAT"
LARGEST_HEADER = 10_000_000  # bytes; job outputs with hundreds of fields exceed NumPy's limit
POSE = ("alignments3D/pose", "alignments3D/shift")
DEFOCUS = ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")
LENS = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast")
NOT_MODELLED = {
    "ctf/tilt_A": "beam tilt",
    "ctf/shift_A": "beam shift",
    "ctf/trefoil_A": "trefoil",
    "ctf/tetra_A": "tetrafoil",
    "ctf/anisomag": "anisotropic magnification",
}

Fields = Mapping[str, NDArray]


def is_cryosparc(path: Path) -> bool:
    """Tell a cryoSPARC file from a STAR file by its first bytes.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(6) in (NUMPY_MAGIC, CSDAT_MAGIC)
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
    fields = _load(path)
    if passthrough is not None:
        fields = _join(path, fields, Path(passthrough))
    _require(path, fields, POSE, "particles with 3D poses are needed")
    count = len(fields[POSE[0]])
    if count == 0:
        raise InputError(f"{path}: holds no particles")
    notes = list(_notes(path, fields))
    optics_group, optics = _optics(path, fields, pixel_size)
    sizes = np.array([group.pixel_size for group in optics])[optics_group]
    shift_unit = fields.get("alignments3D/psize_A", sizes).astype(np.float64)
    stack, index, stacks = _images(path, fields, count)
    pose, shift = (_finite(path, fields, name) for name in POSE)
    if pose.shape != (count, 3) or shift.shape != (count, 2):
        raise InputError(
            f"{path}: alignments3D/pose and /shift have {pose.shape[1:]} and {shift.shape[1:]} "
            "numbers per particle, 3 and 2 are needed"
        )
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


def _load(path: Path) -> Fields:
    try:
        with path.open("rb") as file:
            magic = file.read(6)
            if magic == CSDAT_MAGIC:
                raise InputError(
                    f"{path}: in cryoSPARC's compressed stream format, save it as a NumPy .cs file"
                )
            if magic != NUMPY_MAGIC:
                raise InputError(f"{path}: not a .cs file")
            file.seek(0)
            array = np.load(file, allow_pickle=False, max_header_size=LARGEST_HEADER)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except InputError:
        raise
    except ValueError as error:  # truncated, or objects in it
        raise InputError(f"{path}: not a readable .cs file ({error})") from error
    if array.dtype.names is None or array.ndim != 1:
        raise InputError(f"{path}: not a .cs file (an array without named fields)")
    return {name: array[name] for name in array.dtype.names}


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
    values, group = np.unique(np.stack(known, axis=1), axis=0, return_inverse=True)
    titles = [f"exposure group {int(row[0])}" for row in values]
    sizes = pixel_sizes_of(path, values[:, 4], titles, given)
    groups = []
    for title, row, size in zip(titles, values.tolist(), sizes, strict=True):
        lens = (v if n in fields else None for n, v in zip(LENS, row[1:4], strict=True))
        groups.append(OpticsGroup(title, *lens, size, int(row[5]) or None))
    return group.reshape(-1), tuple(groups)


def _boxes(path: Path, fields: Fields, count: int) -> NDArray[np.float64]:
    """Side of every image, 0 where the file does not say."""
    if "blob/shape" not in fields:
        return np.zeros(count)
    shapes = fields["blob/shape"].reshape(count, -1)
    odd = np.flatnonzero((shapes[:, 0] != shapes[:, -1]) | (shapes[:, 0] <= 0))
    if shapes.shape[1] != 2 or len(odd):
        found = " x ".join(map(str, shapes[odd[0] if len(odd) else 0][::-1]))
        raise InputError(f"{path}: images of {found} pixels, square ones are needed")
    return shapes[:, 0].astype(np.float64)


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
    return stack[inverse.reshape(-1)], fields["blob/idx"].astype(np.int64), stacks


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
    if split.max() > 1:
        raise InputError(f"{path}: alignments3D/split is {split.max()}, 0 or 1 is needed")
    return (split + 1).astype(np.int8)


def _notes(path: Path, fields: Fields) -> Iterable[str]:
    for name, meaning in NOT_MODELLED.items():
        if name in fields and fields[name].any():
            yield f"{meaning} ({name}) is not modelled"
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
