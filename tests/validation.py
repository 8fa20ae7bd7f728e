"""Reconstructions of data sets made by others, beside their references: docs/validation.md's table.

    python -m tests.validation FOLDER

FOLDER holds the data (see the tests, which take it from ``../shared/data`` where it is there).
Every row is a run of ``fastcryo reconstruct`` as a user would type it.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import fastcryo as fc
from fastcryo.cli import main
from fastcryo.io.fsc_files import read_fsc_table
from fastcryo.io.mrc import read_map
from fastcryo.io.star import read_star, write_star

ANGSTROMS = (28.0, 14.0, 10.0, 8.0)
CTF_COLUMNS = (
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfBfactor",
    "rlnCtfScalefactor",
)
COMMON = ["--backend", "cpu", "--solver", "cg"]


def run(star: Path, out: Path, *options: str) -> Path:
    """Reconstruct; returns the output folder."""
    with contextlib.redirect_stdout(io.StringIO()):
        status = main(["reconstruct", str(star), "--out", str(out), *COMMON, *options])
    if status:
        raise RuntimeError(f"{star}: exit status {status}")
    return out


def beside(star: Path, stack: Path, name: str, folder: Path) -> Path:
    """Put a STAR file and its stack, under the name that the file gives, into a folder."""
    folder.mkdir(parents=True)
    shutil.copy(stack, folder / name)
    return Path(shutil.copy(star, folder))


def without_ctf(star: Path) -> Path:
    """Leave the CTF's columns out of a STAR file: its images were projected without."""
    tables = read_star(star)
    written = {
        t.name: {name: t.strings(name) for name in t.columns if name not in CTF_COLUMNS}
        for t in tables.values()
    }
    write_star(star, written)
    return star


def map_of(out: Path) -> tuple[np.ndarray, float]:
    """Return the map of all particles of a run, and its voxel size."""
    return read_map(out / "run_class001.mrc")


def half_map_fsc(out: Path) -> np.ndarray:
    """Return the unmasked FSC of a run's half-maps at `ANGSTROMS`."""
    table = read_fsc_table(out / "run_fsc.star")
    volume, pixel_size = map_of(out)
    shells = [round(len(volume) * pixel_size / a) for a in ANGSTROMS]
    return np.asarray(table.curves["unmasked"])[shells]


def betagal(data: Path, out: Path, *options: str) -> np.ndarray:
    """506 images of beta-galactosidase: FSC of the half-maps."""
    return half_map_fsc(run(data / "betagal" / "particles.star", out, "--sym", "D2", *options))


def gaussians(data: Path, out: Path, *options: str) -> np.ndarray:
    """100 projections that RELION made without CTF or noise: FSC by shell with their volume."""
    folder = data / "relion-projections" / "gaussians"
    star = beside(
        folder / "particles.star", folder / "proj_noctf_pad2.mrcs", "images.mrcs", out / "set"
    )
    volume, _ = map_of(run(without_ctf(star), out / "run", *options))
    return fc.fsc(volume, read_map(folder / "vol.mrc")[0])


def point_mass(data: Path, padding: int, out: Path, *options: str) -> tuple[tuple, np.ndarray]:
    """24 projections of one voxel with CTF: where the map is greatest, and FSC with the voxel."""
    folder = data / "relion-projections"
    suffix = "" if padding == 1 else f"_pfac{padding}"
    name = f"simplecryoem_relion_proj_batch{suffix}"
    star = beside(
        folder / f"{name}.star",
        folder / f"{name}.mrcs",
        f"relion_proj_batch{suffix}.mrcs",
        out / "set",
    )
    volume, _ = map_of(run(star, out / "run", *options))
    place = np.unravel_index(volume.argmax(), volume.shape)
    truth = read_map(folder / "simplecryoem_pointmass.mrc")[0]
    return tuple(map(int, place)), fc.fsc(volume, truth)


def shifted_and_centred(data: Path, out: Path, *options: str) -> np.ndarray:
    """4 views with and without origin offsets, from one volume: FSC of the two maps."""
    maps = []
    for name in ("shifted", "centered"):
        stem = f"rln_proj_64_{name}"
        folder = data / "relion-projections"
        star = beside(
            folder / f"{stem}.star", folder / f"{stem}.mrcs", f"{stem}.mrcs", out / name / "set"
        )
        maps.append(map_of(run(star, out / name / "run", "--limit", "4", *options))[0])
    return fc.fsc(*maps)


def table(data: Path, folder: Path) -> list[str]:
    """Return the rows of docs/validation.md."""
    shells = (2, 4, 8, 12, 16, 20, 24, 28)

    def listed(values: np.ndarray) -> str:
        return " / ".join(f"{value:.2f}" for value in values)

    at = " / ".join(f"{a:g}" for a in ANGSTROMS)
    by = " / ".join(map(str, shells))
    rows = ["| set | images | options | compared with | FSC |", "|---|---|---|---|---|"]
    for options in ("", "--noise residuals", "--noise residuals --scale fitted"):
        found = betagal(data, folder / f"betagal{len(rows)}", *options.split())
        rows.append(
            f"| β-galactosidase, real | 506 | `--sym D2 {options}`".rstrip(" `")
            + f"` | the other half-map, {at} Å | {listed(found)} |"
        )
    for options in ("", "--oversampling 2 --compat relion", "--interpolation kaiser_bessel"):
        found = gaussians(data, folder / f"gaussians{len(rows)}", *options.split())
        shown = f"`{options}`" if options else ""
        rows.append(
            f"| RELION's projections of Gaussians, no noise | 100 | {shown} | their volume, "
            f"shells {by} | {listed(found[list(shells)])} |"
        )
    for padding in (1, 2, 3):
        place, found = point_mass(data, padding, folder / f"point{padding}")
        rows.append(
            f"| RELION's projections of one voxel with CTF, padding {padding} | 24 | | the voxel "
            f"(greatest at {place}), shells {by} | {listed(found[list(shells)])} |"
        )
    found = shifted_and_centred(data, folder / "shifted")
    rows.append(
        "| RELION's projections of a ribosome, origin offsets | 4 | | the map of those without, "
        f"shells {by} | {listed(found[list(shells)])} |"
    )
    return rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print("\n".join(table(Path(sys.argv[1]), Path(temporary))))
