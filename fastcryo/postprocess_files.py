"""What ``fastcryo postprocess`` does: half-maps on disk to FSC, sharpened map and picture."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fastcryo.compare import read_matching
from fastcryo.errors import InputError
from fastcryo.findings import map_findings
from fastcryo.io.fsc_files import write_fsc_star, write_fsc_xml
from fastcryo.io.mrc import write_map
from fastcryo.masks import AUTO, mask_for, mask_from_map
from fastcryo.plots_fsc import save_fsc_figure
from fastcryo.postprocess import Postprocessed, postprocess
from fastcryo.run_folder import make_folder, map_name

# Names of the files of a reconstruction, and of half-maps that were read.
NAMES = {
    "run": ("run_class001_sharp.mrc", "run_fsc", "run_mask.mrc"),
    "postprocess": ("postprocess.mrc", "postprocess", "mask.mrc"),
}
MASKED = "postprocess_masked.mrc"


def write_postprocessed(
    folder: Path,
    kind: str,
    after: Postprocessed,
    pixel_size: float,
    half_maps: Sequence[str],
    command: str = "",
) -> None:
    """Write the sharpened map, the curves as STAR, XML and PNG, and the mask if there is one.

    Parameters
    ----------
    folder : Path
    kind : {"run", "postprocess"}
        Chooses the names.
    after : Postprocessed
    pixel_size : float
        angstrom.
    half_maps : sequence of two str
        Their names, for the record.
    command : str
        Command line, for the record.
    """
    sharp, curves, mask = NAMES[kind]
    write_map(folder / sharp, after.sharpened, pixel_size)
    if after.mask is not None:
        write_map(folder / mask, after.mask, pixel_size)
    write_fsc_star(
        folder / f"{curves}.star",
        after.curves,
        pixel_size,
        after.resolution,
        half_maps,
        command,
        "" if after.mask is None else mask,
        after.guinier,
    )
    write_fsc_xml(folder / f"{curves}.xml", after.curves, pixel_size)
    save_fsc_figure(folder / f"{curves}.png", after, pixel_size)


def postprocess_files(
    half1: str | os.PathLike,
    half2: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    mask: str = AUTO,
    mask_threshold: float | None = None,
    pixel_size: float | None = None,
    b_factor: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
) -> tuple[Postprocessed, list[str]]:
    """Correlate and sharpen half-maps on disk.

    Files: ``postprocess.mrc``, ``postprocess.star``, ``postprocess.xml``, ``postprocess.png``, and
    with a mask ``mask.mrc`` and ``postprocess_masked.mrc``.

    Parameters
    ----------
    half1, half2 : path
        MRC, unfiltered.
    folder : path
    mask : str
        "auto", "sphere", "sphere:RADIUS" in angstrom, "none" or a file.
    mask_threshold : float, optional
        Density at which an automatic mask begins.
    pixel_size : float, optional
        angstrom; the headers' unless given.
    b_factor : float, optional
        See `fastcryo.guinier.sharpen`.
    seed : int
        Of the random phases.
    overwrite : bool
    command : str
        Command line, for the record.

    Returns
    -------
    after : Postprocessed
    notes : list of str
        What a user should know of the maps.

    Raises
    ------
    InputError
        Maps or masks that cannot be read or do not belong together; an output that exists.
    """
    folder = Path(folder)
    sharp, curves, _ = NAMES["postprocess"]
    for name in (sharp, MASKED, f"{curves}.star"):
        if (folder / name).exists() and not overwrite:
            raise InputError(f"{folder / name}: exists, choose another --out or add --overwrite")
    if mask_threshold is not None and mask != AUTO:
        raise InputError("mask threshold: it goes with --mask auto only")
    (first, second), pixel_size = read_matching((half1, half2), pixel_size)
    full = (first + second) / 2
    if mask == AUTO:
        chosen = mask_from_map(full, pixel_size, threshold=mask_threshold)
    else:
        chosen = mask_for(None if mask == "none" else mask, len(full), pixel_size)
    after = postprocess(
        first,
        second,
        full,
        pixel_size,
        chosen,
        kept=kept_by_prior(half1),
        b_factor=b_factor,
        seed=seed,
    )
    make_folder(folder)
    names = [str(half1), str(half2)]
    write_postprocessed(folder, "postprocess", after, pixel_size, names, command)
    if chosen is not None:
        write_map(folder / MASKED, after.sharpened * chosen, pixel_size)
    given = None if mask == AUTO else chosen
    radius = (len(full) - 1) // 2
    return after, map_findings(full, pixel_size, radius, after.curves, after.directional, given)


def kept_by_prior(half_map: str | os.PathLike) -> list[float] | None:
    """Return the share of the signal that the prior has left in a half-map of fastcryo, by shell.

    None for a map of another program, which has no ``run_history.json`` beside it.
    """
    path = Path(half_map)
    for name in ("half1", "half2"):
        if path.name == map_name(name):
            try:
                record = json.loads(path.with_name("run_history.json").read_text())
                kept = record["maps"][name]["signal_kept_by_prior"]
                return None if kept is None else [float(value) for value in kept]
            except (OSError, ValueError, KeyError, TypeError):
                return None
    return None
