"""Tables of Fourier shell correlations: RELION's STAR, EMDB's XML, 3DFSC's CSV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from gemmi import cif
from numpy.typing import NDArray

from fastcryo._version import __version__
from fastcryo.errors import InputError
from fastcryo.fsc import FSCCurves
from fastcryo.guinier import GuinierPlot
from fastcryo.io.atomic import replacing
from fastcryo.io.star import Table, read_star

# Columns of RELION's files, and the field of `FSCCurves` that each one holds.
COLUMNS = {
    "rlnFourierShellCorrelationCorrected": "corrected",
    "rlnFourierShellCorrelationUnmaskedMaps": "unmasked",
    "rlnFourierShellCorrelationMaskedMaps": "masked",
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": "randomised",
    "rlnGoldStandardFsc": "gold_standard",
}
TABLES = ("fsc", "model_class_1", "external_reconstruct_tau2")
NO_RESOLUTION = 999.0
NO_LOGARITHM = -99.0


@dataclass(frozen=True, eq=False)
class FSCTable:
    """What a file says of a correlation.

    Attributes
    ----------
    frequencies : ndarray, shape (shells,), or None
        1/angstrom; None if the file has shells only.
    curves : dict of str to ndarray
        By name: corrected, unmasked, masked, randomised as in `FSCCurves`; gold_standard of a
        RELION refinement; fsc of a file with one curve.
    resolution : float or None
        As stated in the file, angstrom.
    """

    frequencies: NDArray[np.float64] | None
    curves: dict[str, NDArray[np.float64]]
    resolution: float | None = None


def write_fsc_star(
    path: str | os.PathLike,
    curves: FSCCurves,
    pixel_size: float,
    resolution: float,
    half_maps: Sequence[str] = (),
    command: str = "",
    mask: str = "",
    guinier: GuinierPlot | None = None,
) -> None:
    """Write the tables that RELION's postprocess writes.

    ``data_general``, ``data_fsc`` and, with a Guinier plot, ``data_guinier``.

    Parameters
    ----------
    path : path
    curves : FSCCurves
    pixel_size : float
        Angstrom.
    resolution : float
        Of `curves.best`, angstrom; infinity is written as 999.
    half_maps : sequence of two str
        Names of the maps.
    command : str
        Command line, for the first lines of the file.
    mask : str
        Name of the mask.
    guinier : GuinierPlot, optional

    Raises
    ------
    InputError
        The file cannot be written.
    """
    frequencies = curves.frequencies / pixel_size
    document = cif.Document()
    general = document.add_new_block("general")
    final = resolution if np.isfinite(resolution) else NO_RESOLUTION
    general.set_pair("_rlnFinalResolution", f"{final:.6f}")
    for number, name in enumerate(half_maps, 1):
        general.set_pair(f"_rlnUnfilteredMapHalf{number}", cif.quote(name))
    if mask:
        general.set_pair("_rlnMaskName", cif.quote(mask))
    if curves.randomised is not None:
        general.set_pair("_rlnRandomiseFrom", f"{1 / frequencies[curves.randomised_from]:.6f}")
    if guinier is not None:
        _general_guinier(general, guinier)
    shown = {
        "rlnSpectralIndex": [f"{shell:d}" for shell in range(len(frequencies))],
        "rlnResolution": [f"{f:.6f}" for f in frequencies],
        "rlnAngstromResolution": [f"{NO_RESOLUTION if f == 0 else 1 / f:.6f}" for f in frequencies],
    }
    for column, name in COLUMNS.items():
        values = getattr(curves, "best" if name == "corrected" else name, None)
        if values is not None:
            shown[column] = [f"{v:.6f}" for v in values]
    _add_loop(document, "fsc", shown)
    if guinier is not None:
        _add_loop(document, "guinier", _guinier_columns(guinier, frequencies))
    options = cif.WriteOptions()
    options.align_pairs, options.align_loops = 40, 30
    heading = f"# fastcryo {__version__}\n" + "".join(f"# {c}\n" for c in command.splitlines())
    with replacing(path) as temporary:
        temporary.write_text(f"{heading}\n{document.as_string(options)}", encoding="utf-8")


def _add_loop(document: cif.Document, name: str, columns: dict[str, list[str]]) -> None:
    loop = document.add_new_block(name).init_loop("_", list(columns))
    loop.set_all_values(list(columns.values()))


def _general_guinier(general: cif.Block, guinier: GuinierPlot) -> None:
    # RELION's B multiplies by exp(-B s^2 / 4): it sharpens where it is negative.
    general.set_pair("_rlnBfactorUsedForSharpening", f"{-guinier.b_factor:.6f}")
    if guinier.fitted:
        general.set_pair("_rlnFittedSlopeGuinierPlot", f"{-guinier.b_factor / 4:.6f}")
        general.set_pair("_rlnFittedInterceptGuinierPlot", f"{guinier.intercept:.6f}")
        general.set_pair("_rlnCorrelationFitGuinierPlot", f"{guinier.correlation:.6f}")


def _guinier_columns(guinier: GuinierPlot, frequencies: NDArray) -> dict[str, list[str]]:
    def logs(values: NDArray) -> list[str]:
        return [f"{v:.6f}" if np.isfinite(v) else f"{NO_LOGARITHM:.6f}" for v in values]

    return {
        "rlnResolutionSquared": [f"{f * f:.6f}" for f in frequencies],
        "rlnLogAmplitudesOriginal": logs(guinier.original),
        "rlnLogAmplitudesWeighted": logs(guinier.weighted),
        "rlnLogAmplitudesSharpened": logs(
            guinier.weighted + guinier.b_factor / 4 * guinier.squared
        ),
    }


def write_fsc_xml(
    path: str | os.PathLike, curves: FSCCurves, pixel_size: float, title: str = ""
) -> None:
    """Write `curves.best` as the XML that EMDB takes at deposition.

    Parameters
    ----------
    path : path
    curves : FSCCurves
    pixel_size : float
        Angstrom.
    title : str

    Raises
    ------
    InputError
        The file cannot be written.
    """
    root = ElementTree.Element(
        "fsc", title=title, xaxis="Resolution (A-1)", yaxis="Correlation Coefficient"
    )
    for x, y in zip(curves.frequencies / pixel_size, curves.best, strict=True):
        coordinate = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(coordinate, "x").text = f"{x:.6f}"
        ElementTree.SubElement(coordinate, "y").text = f"{y:.6f}"
    ElementTree.indent(root)
    with replacing(path) as temporary:
        temporary.write_text(ElementTree.tostring(root, encoding="unicode") + "\n", "utf-8")


def read_fsc_table(path: str | os.PathLike) -> FSCTable:
    """Read a table of correlations.

    Parameters
    ----------
    path : path
        ``.xml``: EMDB's; ``.csv``: the global FSC of 3DFSC (cycles per pixel, 1/angstrom, FSC);
        else STAR: RELION's postprocess, model of a refinement, or external reconstruction.

    Returns
    -------
    FSCTable

    Raises
    ------
    InputError
        No such file, or one without a correlation.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".xml":
            return _read_xml(path)
        if path.suffix.lower() == ".csv":
            return _read_csv(path)
        return _read_star(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_xml(path: Path) -> FSCTable:
    try:
        points = [
            (float(point.findtext("x", "")), float(point.findtext("y", "")))
            for point in ElementTree.parse(path).getroot().iter("coordinate")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: not an FSC in EMDB's XML ({error})") from error
    if not points:
        raise InputError(f"{path}: not an FSC in EMDB's XML (it has no coordinate)")
    x, y = np.array(points).T
    return FSCTable(x, {"fsc": y})


def _read_csv(path: Path) -> FSCTable:
    try:
        rows = np.array([line.split(",") for line in path.read_text().split()], dtype=np.float64)
    except ValueError:
        rows = np.empty(0)
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise InputError(
            f"{path}: three numbers a line are needed, cycles per pixel, 1/angstrom and FSC"
        )
    return FSCTable(rows[:, 1], {"fsc": rows[:, 2]})


def _read_star(path: Path) -> FSCTable:
    tables = read_star(path)
    table = next((tables[name] for name in TABLES if name in tables), None)
    curves = {} if table is None else _curves(table)
    if not curves:
        raise InputError(
            f"{path}: holds no FSC, a table data_fsc or data_model_class_1 is needed "
            f"(found {', '.join('data_' + name for name in tables)})"
        )
    frequencies = table.numbers("rlnResolution") if "rlnResolution" in table else None
    general = tables.get("general")
    resolution = None
    if general is not None and "rlnFinalResolution" in general:
        resolution = float(general.numbers("rlnFinalResolution")[0])
    return FSCTable(frequencies, curves, resolution)


def _curves(table: Table) -> dict[str, NDArray[np.float64]]:
    return {name: table.numbers(column) for column, name in COLUMNS.items() if column in table}
