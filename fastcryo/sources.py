"""What a simulation projects: the built-in phantom, a structure or a map, fitted to a box."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastcryo.density import Density
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.io.mrc import read_map
from fastcryo.phantom import Phantom, phantom, phantom_from_pdb
from fastcryo.sampled_map import SampledMap

STRUCTURES = (".pdb", ".ent", ".cif", ".mmcif")
MAPS = (".mrc", ".map", ".ccp4")
COMPRESSED = (".gz", ".bz2")
BOX, PIXEL_SIZE = 64, 3.0
PHANTOM_OF_BOX = 0.6
# Part of a map's sum of squares that a smaller box may cut off.
NEGLIGIBLE = 0.01


def open_density(
    source: str | os.PathLike | Density | None, box: int | None, pixel_size: float | None
) -> tuple[Density, str, int, float]:
    """Return the density to project, and the box and pixel size of its images.

    Parameters
    ----------
    source : path or Density, optional
        See `fastcryo.simulate.simulate_arrays`.
    box : int or None
        None: 64, or that of a map.
    pixel_size : float or None
        Angstrom; None: 3, or that of a map. It serves as the map's own if its header has none.

    Returns
    -------
    density : Density
    name : str
        What it is, for messages.
    box : int
    pixel_size : float

    Raises
    ------
    InputError
        A file that cannot be read or is of an unknown kind; a box out of range, or one too small
        for the density.
    """
    name = "built-in phantom" if source is None else str(source)
    if isinstance(source, Density):
        name = type(source).__name__
    density = source if isinstance(source, Density) or source is None else _read(source, pixel_size)
    if isinstance(density, SampledMap):
        box = density.box if box is None else box
        pixel_size = density.pixel_size if pixel_size is None else pixel_size
    box = BOX if box is None else box
    pixel_size = PIXEL_SIZE if pixel_size is None else pixel_size
    FourierGrid(box)  # refuses a box out of range
    if density is None:
        density = phantom(PHANTOM_OF_BOX * box * pixel_size)
    elif isinstance(density, SampledMap):
        density = _fitted(density, name, box, pixel_size)
    elif isinstance(density, Phantom) and density.radius > box * pixel_size / 2:
        raise InputError(
            f"{name}: reaches {density.radius:.0f} A from its centre, too far for "
            f"{box} pixels of {pixel_size:g} A, choose a box of at least "
            f"{int(np.ceil(2 * density.radius / pixel_size))} pixels"
        )
    return density, name, box, pixel_size


def _read(source: str | os.PathLike, pixel_size: float | None) -> Density:
    path = Path(source)
    stem = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    suffix = stem.suffix.lower()
    if suffix in STRUCTURES:
        return phantom_from_pdb(path)
    if suffix not in MAPS:
        raise InputError(
            f"{path}: neither a map ({', '.join(MAPS)}) nor a structure ({', '.join(STRUCTURES)})"
        )
    values, own = read_map(path, cubic=True)
    if own == 0 and pixel_size is None:
        raise InputError(f"{path}: the header has no pixel size, give it by --angpix")
    return SampledMap(values, own or pixel_size)


def _fitted(density: SampledMap, name: str, box: int, pixel_size: float) -> SampledMap:
    """Cut off what lies beyond the box, if that is empty space."""
    side = int(np.floor(box * pixel_size / density.pixel_size + 1e-3))
    if side >= density.box:
        return density
    kept = density.cropped(side)
    energy, whole = (np.square(d.values, dtype=np.float64).sum() for d in (kept, density))
    if whole - energy > NEGLIGIBLE * whole:
        raise InputError(
            f"{name}: {100 * (1 - energy / whole):.0f} % of the map lie outside "
            f"{box} pixels of {pixel_size:g} A, choose a larger box or pixel size "
            f"(the map is {density.box} pixels of {density.pixel_size:.4g} A)"
        )
    return kept
