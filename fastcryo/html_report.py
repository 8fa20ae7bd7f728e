"""The report of a run as one HTML file that holds its pictures and opens from disk."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastcryo._version import __version__
from fastcryo.findings import HAND
from fastcryo.io.atomic import replacing
from fastcryo.plots_data import data_figure
from fastcryo.results import Reconstruction, Solution

if TYPE_CHECKING:
    from fastcryo.finish import Run

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.lead { color: #555; margin-top: .2rem; }
ul.numbers { display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; list-style: none; }
ul.numbers li { border: 1px solid #ddd; border-radius: .5rem; padding: .5rem .9rem; }
ul.numbers b { display: block; font-size: 1.3rem; }
ul.warnings li { background: #fff6e0; border-left: 4px solid #e0a000; margin: .4rem 0;
                 padding: .4rem .8rem; list-style: none; }
ul.warnings { padding: 0; }
img { width: 100%; height: auto; border: 1px solid #eee; }
table { border-collapse: collapse; } td, th { padding: .15rem .9rem .15rem 0; text-align: left;
       vertical-align: top; font-variant-numeric: tabular-nums; }
td.n, th.n { text-align: right; } pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; }
"""
SHELLS_SHOWN = 10


def save_html_report(
    path: str | os.PathLike, run: Run, result: Reconstruction, shown: NDArray
) -> None:
    """Write the report.

    Parameters
    ----------
    path : path
        HTML; ``run_report.png`` and, for two half-sets, ``run_fsc.png`` lie beside it already and
        are copied into it.
    run : Run
    result : Reconstruction
    shown : ndarray, shape (N, N, N)
        The map.
    """
    page = html_report(run, result, shown)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def html_report(run: Run, result: Reconstruction, shown: NDArray) -> str:
    """Return the page of `save_html_report`."""
    particles, solution = run.particles, result.solutions["full"]
    data = data_figure(
        shown,
        result.pixel_size,
        particles.rotations,
        run.settings.symmetry,
        run.noise,
        particles.box * particles.pixel_size,
        solution,
        result.image_scales,
        run.settings.noise == "residuals",
    )
    pictures = [_picture("Map and run", (run.folder / "run_report.png").read_bytes())]
    if result.after is not None:
        fsc = (run.folder / "run_fsc.png").read_bytes()
        pictures.append(_picture("Resolution", fsc))
    pictures.append(_picture("Data", _png(data)))
    doubts = "".join(f"<li>{escape(w)}</li>" for w in result.warnings)
    notes = "".join(f"<li>{escape(n)}</li>" for n in (*particles.notes, *result.notes, HAND))
    title = f"fastcryo: {result.folder.resolve().name}"
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="lead">{escape(str(particles.source))}</p>\n'
        f"{_numbers(run, result)}\n"
        + (f'<h2>Warnings</h2><ul class="warnings">{doubts}</ul>\n' if doubts else "")
        + "\n".join(pictures)
        + f"\n<h2>Conditioning</h2>\n{_conditioning(solution, len(shown) * result.pixel_size)}\n"
        f"<h2>Notes</h2><ul>{notes}</ul>\n"
        f"<h2>Files</h2>{_files(result.folder)}\n"
        f"<h2>Command and settings</h2><pre>{escape(run.command or '(called from Python)')}</pre>\n"
        f"{_settings(run)}\n"
        f"<p>fastcryo {__version__}</p>\n</body></html>\n"
    )


def _numbers(run: Run, result: Reconstruction) -> str:
    shown = []
    if result.after is not None:
        after = result.after
        kind = "unmasked" if after.mask is None else "corrected"
        shown += [
            (_angstrom(after.resolution), f"{kind} FSC 0.143"),
            (_angstrom(after.resolution_half), f"{kind} FSC 0.5"),
            (f"{after.directional.area_ratio:.2f}", "conical FSC area ratio"),
        ]
        if after.guinier.fitted:
            shown.append((f"{after.guinier.b_factor:.0f} Å²", "B-factor"))
    box = round(run.particles.box * run.particles.pixel_size / result.pixel_size)
    shown += [
        (f"{len(run.particles)}", "particles"),
        (f"{box}", f"box, {result.pixel_size:.4g} Å per voxel"),
        (run.settings.symmetry, "symmetry"),
        (f"{result.seconds:.0f} s", "time"),
    ]
    items = "".join(f"<li><b>{escape(value)}</b>{escape(name)}</li>" for value, name in shown)
    return f'<ul class="numbers">{items}</ul>'


def _angstrom(value: float) -> str:
    return f"{value:.2f} Å" if np.isfinite(value) else "none"


def _picture(title: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    return f'<h2>{escape(title)}</h2><img alt="{escape(title)}" src="data:image/png;base64,{data}">'


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _conditioning(solution: Solution, length: float) -> str:
    """Say what the spread of the weights means for the solver, with a table by shell."""
    if solution.weights is None:
        return "<p>not measured</p>"
    least, mean, greatest = solution.weights
    prior = np.broadcast_to(np.asarray(solution.regularization, dtype=float), mean.shape)
    low, high = (least + prior).min(), (greatest + prior).max()
    spread = f"{high / low:.3g}" if low > 0 else "infinite: some voxels are seen by no image"
    unseen = np.flatnonzero(least <= 0)
    text = f"Greatest over least diagonal of H, prior included: {spread}. "
    if len(unseen):
        where = f"{length / unseen[unseen > 0][0]:.1f} Å" if unseen[-1] > 0 else "the origin"
        text += f"From {where} on there are voxels that no image sees: there the prior decides. "
    text += (
        "After scaling by the diagonal, evenly spread views leave a condition number of about 27; "
        "fastcryo condition measures it for these views."
    )
    rows = []
    for shell in np.unique(np.linspace(1, len(mean) - 1, SHELLS_SHOWN).astype(int)):
        kept = mean[shell] / (mean[shell] + prior[shell]) if mean[shell] + prior[shell] > 0 else 0
        values = (least[shell], mean[shell], greatest[shell], prior[shell])
        cells = "".join(f'<td class="n">{v:.3g}</td>' for v in values)
        rows.append(
            f'<tr><td class="n">{length / shell:.1f}</td>{cells}<td class="n">{kept:.2f}</td></tr>'
        )
    names = ("Å", "least J", "mean J", "greatest J", "λ", "signal kept")
    head = "".join(f'<th class="n">{n}</th>' for n in names)
    return f"<p>{escape(text)}</p><table><tr>{head}</tr>{''.join(rows)}</table>"


def _files(folder: Path) -> str:
    names = sorted(p.name for p in folder.glob("run*") if p.is_file())
    return "<ul>" + "".join(f'<li><a href="{n}">{n}</a></li>' for n in names) + "</ul>"


def _settings(run: Run) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_short(value))}</td></tr>"
        for name, value in asdict(run.settings).items()
    )
    return f"<table>{rows}</table>"


def _short(value: object) -> str:
    """Write a setting; of many numbers the first and the last."""
    if isinstance(value, tuple):
        return f"{value[0]:g} (shell 0) ... {value[-1]:g} (shell {len(value) - 1})"
    return str(value)
