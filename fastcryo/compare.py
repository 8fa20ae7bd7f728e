"""What ``fastcryo fsc`` does: the correlation of two maps on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.fsc import FSCCurves, half_map_curves, resolution_at
from fastcryo.io.fsc_files import write_fsc_star, write_fsc_xml
from fastcryo.io.mrc import read_map

PIXEL_TOLERANCE = 1e-3
ROWS = 24


@dataclass(frozen=True, eq=False)
class Comparison:
    """The correlation of two maps.

    Attributes
    ----------
    paths : tuple of str
        The maps, and the mask or "".
    curves : FSCCurves
    pixel_size : float
        angstrom.
    threshold : float
    resolution : float
        angstrom; infinity if the curve is below the threshold from the start.
    """

    paths: tuple[str, str, str]
    curves: FSCCurves
    pixel_size: float
    threshold: float
    resolution: float

    def lines(self) -> list[str]:
        """Return the table to print, at most 24 rows, and the resolution."""
        curves = self.curves
        columns = ["unmasked", "masked", "corrected"]
        columns = [c for c in columns if getattr(curves, c) is not None]
        lines = ["   angstrom  " + "".join(f"{c:>11}" for c in columns)]
        shells = len(curves.unmasked)
        for shell in range(1, shells, -(-shells // ROWS)):
            resolution = self.pixel_size / curves.frequencies[shell]
            values = "".join(f"{getattr(curves, c)[shell]:11.4f}" for c in columns)
            lines.append(f"{resolution:11.3f}  {values}")
        never = (curves.best[1:] >= self.threshold).all()
        beyond = " or better, the curve stays above up to the last shell" if never else ""
        lines.append(f"resolution: {self.resolution:.2f} Å (FSC {self.threshold:g}){beyond}")
        return lines

    def save(self, path: str | os.PathLike, command: str = "", overwrite: bool = False) -> None:
        """Write the curves as STAR, and as EMDB's XML beside it."""
        star = Path(path)
        for target in (star, star.with_suffix(".xml")):
            if target.exists() and not overwrite:
                raise InputError(f"{target}: exists, choose another --out or add --overwrite")
        write_fsc_star(
            star,
            self.curves,
            self.pixel_size,
            self.resolution,
            self.paths[:2],
            command,
            self.paths[2],
        )
        write_fsc_xml(star.with_suffix(".xml"), self.curves, self.pixel_size)


def compare_files(
    map1: str | os.PathLike,
    map2: str | os.PathLike,
    *,
    mask: str | os.PathLike | None = None,
    pixel_size: float | None = None,
    threshold: float = 0.143,
) -> Comparison:
    """Correlate two maps on disk.

    Parameters
    ----------
    map1, map2, mask : path
        MRC; same box.
    pixel_size : float, optional
        angstrom; the headers' unless given.
    threshold : float

    Raises
    ------
    InputError
        A file that cannot be read, or maps and mask that do not belong together.
    """
    if not 0 < threshold < 1:
        raise InputError(f"threshold: {threshold:g} must lie between 0 and 1")
    paths = (map1, map2, *([mask] if mask else []))
    volumes, pixel_size = read_matching(paths, pixel_size)
    curves = half_map_curves(volumes[0], volumes[1], volumes[2] if mask else None)
    resolution = resolution_at(curves.best, threshold, pixel_size, curves.box)
    named = (str(map1), str(map2), str(mask or ""))
    return Comparison(named, curves, pixel_size, threshold, resolution)


def read_matching(
    paths: Sequence[str | os.PathLike], pixel_size: float | None = None
) -> tuple[list[NDArray], float]:
    """Read maps of one box, the first two of one pixel size, angstrom: the headers' unless given.

    Raises
    ------
    InputError
        A file that cannot be read, or maps that do not belong together.
    """
    volumes, sizes = [], []
    for path in paths:
        volume, size = read_map(path, cubic=True)
        if volumes and volume.shape != volumes[0].shape:
            raise InputError(
                f"{path}: its box is {len(volume)}, that of {paths[0]} is {len(volumes[0])}"
            )
        volumes.append(volume)
        sizes.append(size)
    if pixel_size is None:
        pixel_size = sizes[0]
        if not pixel_size > 0:
            raise InputError(f"{paths[0]}: the voxel size in its header is 0, give --angpix")
        if sizes[1] > 0 and abs(sizes[1] / pixel_size - 1) > PIXEL_TOLERANCE:
            raise InputError(
                f"{paths[1]}: its voxel size is {sizes[1]:.4g} angstrom, that of {paths[0]} is "
                f"{pixel_size:.4g}, give --angpix if they are the same"
            )
    return volumes, pixel_size
