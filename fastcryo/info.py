"""What a particle file holds, and what is wrong with it, without a reconstruction."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastcryo.coverage import Coverage, pose_coverage
from fastcryo.errors import InputError
from fastcryo.image_statistics import ImageSample, sample_images
from fastcryo.io.mrc import open_stack
from fastcryo.optics import IDENTITY
from fastcryo.particles import OpticsGroup, Particles, image_problems, is_file

SHOWN_GROUPS = 10
HEADER_TOLERANCE = 0.01


@dataclass(frozen=True)
class OpticsSummary:
    """An optics group and the number of its particles; units as in `OpticsGroup`.

    `details` says what its images have besides a CTF.
    """

    name: str
    particles: int
    voltage: float | None
    spherical_aberration: float | None
    amplitude_contrast: float | None
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Info:
    """Summary of a particle file; lengths in angstrom unless said otherwise.

    Parameters
    ----------
    source : str
    particles : int
    box : int or None
        Pixels.
    pixel_size : float
    half_sets : tuple of 3 ints
        Particles in half-set 1, in 2 and in none.
    optics : tuple of OpticsSummary
    defocus : tuple of 3 floats or None
        Least, median and greatest mean defocus, positive for underfocus.
    largest_astigmatism : float or None
        Greatest |U - V|.
    phase_shift : tuple of 2 floats or None
        Degrees.
    largest_shift : float
    median_shift : float
    coverage : Coverage
    stacks, stacks_found : int
    images_in_stacks : int
        In those found.
    sample : ImageSample or None
        None where images cannot be read.
    notes : tuple of str
        Not modelled, assumed, or unusual.
    problems : tuple of str
        What keeps the images from being reconstructed.
    """

    source: str
    particles: int
    box: int | None
    pixel_size: float
    half_sets: tuple[int, int, int]
    optics: tuple[OpticsSummary, ...]
    defocus: tuple[float, float, float] | None
    largest_astigmatism: float | None
    phase_shift: tuple[float, float] | None
    largest_shift: float
    median_shift: float
    coverage: Coverage
    stacks: int
    stacks_found: int
    images_in_stacks: int
    sample: ImageSample | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    def as_json(self) -> str:
        """Return the same as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)


def describe(particles: Particles, symmetry: str = "C1") -> Info:
    """Summarise particles, whether or not their images can be read.

    Parameters
    ----------
    particles : Particles
        Best read with ``need_images=False``, so that problems of images are collected.
    symmetry : str
        Point group of the map, for the coverage of views.

    Returns
    -------
    Info
    """
    problems = image_problems(particles)
    counts, notes = _stacks(particles)
    readable = np.flatnonzero(particles.slice < counts[particles.stack]) if len(counts) else []
    sample = None
    if len(readable):
        try:
            sample = sample_images(particles.select(readable))
        except InputError as error:
            problems.append(str(error))
    if not particles.has_half_sets:
        notes.append("no half-sets in the file: they are drawn from the seed")
    shift = np.hypot(*particles.shifts.T)
    half_sets = tuple(int(np.count_nonzero(particles.half == h)) for h in (1, 2, 0))
    return Info(
        source=str(particles.source),
        particles=len(particles),
        box=particles.box,
        pixel_size=particles.pixel_size,
        half_sets=half_sets,
        optics=_optics(particles),
        **_ctf_ranges(particles),
        largest_shift=float(shift.max()),
        median_shift=float(np.median(shift)),
        coverage=pose_coverage(particles.rotations, particles.box, symmetry),
        stacks=len(particles.stacks),
        stacks_found=sum(map(is_file, particles.stacks)),
        images_in_stacks=int(counts.sum()),
        sample=sample,
        notes=(*particles.notes, *notes),
        problems=tuple(problems),
    )


def print_info(info: Info, console: Console) -> None:
    """Print a summary as tables and sentences.

    Parameters
    ----------
    info : Info
    console : rich.console.Console
    """
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    for name, text in _facts(info):
        facts.add_row(Text(name), Text(text))
    console.print(facts)
    for title, lines, style in (
        ("Notes", info.notes, "yellow"),
        ("Problems", info.problems, "red"),
    ):
        if lines:
            console.print(f"[bold {style}]{title}[/]")
        for line in lines:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _facts(info: Info) -> list[tuple[str, str]]:
    box = "box unknown" if info.box is None else f"{info.box} x {info.box} pixels"
    first, second, none = info.half_sets
    facts = [
        ("File", info.source),
        ("Particles", f"{info.particles}"),
        ("Images", f"{box} of {info.pixel_size:.4g} A"),
        ("Half-sets", f"{first} and {second}" + (f", {none} in none" if none else "")),
    ]
    for group in info.optics[:SHOWN_GROUPS]:
        facts.append((f"Optics {group.name}", _group_text(group)))
    if len(info.optics) > SHOWN_GROUPS:
        facts.append(("", f"and {len(info.optics) - SHOWN_GROUPS} more optics groups"))
    if info.defocus is None:
        facts.append(("Defocus", "none: the CTF is taken as 1"))
    else:
        low, middle, high = (d / 1e4 for d in info.defocus)
        text = f"{low:.2f} to {high:.2f} um, median {middle:.2f}"
        facts.append(("Defocus", f"{text}, astigmatism up to {info.largest_astigmatism:.0f} A"))
        if any(info.phase_shift):
            least, most = info.phase_shift
            facts.append(("Phase shift", f"{least:.1f} to {most:.1f} degrees"))
    facts.append(
        ("Shifts", f"median {info.median_shift:.1f} A, greatest {info.largest_shift:.1f} A")
    )
    moments = ", ".join(f"{m:.2f}" for m in info.coverage.moments)
    facts += [
        ("Views", f"{info.coverage.verdict} ({_counted(info.coverage)})"),
        ("", f"moments {moments}; {100 * info.coverage.uncovered:.1f} % of directions uncovered"),
        (
            "Stacks",
            f"{info.stacks_found} of {info.stacks} found, {info.images_in_stacks} images in them",
        ),
    ]
    if info.sample:
        s = info.sample
        facts += [
            (f"Sample of {s.count}", f"mean {s.mean:.3g}, standard deviation {s.std:.3g}"),
            ("", f"standard deviations from {s.lowest_std:.3g} to {s.highest_std:.3g}"),
            ("Contrast", f"{s.contrast_verdict} ({s.contrast:+.3f} +- {s.contrast_error:.3f})"),
        ]
    return facts


def _counted(coverage: Coverage) -> str:
    if coverage.symmetry == "C1":
        return "symmetry not counted, give --sym"
    return f"with the copies of {coverage.symmetry}"


def _group_text(group: OpticsSummary) -> str:
    parts = [f"{group.particles} particles"]
    if group.voltage is not None:
        parts.append(f"{group.voltage:g} kV")
    if group.spherical_aberration is not None:
        parts.append(f"Cs {group.spherical_aberration:g} mm")
    if group.amplitude_contrast is not None:
        parts.append(f"amplitude contrast {group.amplitude_contrast:g}")
    parts += group.details
    return ", ".join(parts)


def _stacks(particles: Particles) -> tuple[NDArray[np.int64], list[str]]:
    """Count the images of every stack, 0 where they cannot be used; notes on the headers."""
    counts, sizes = np.zeros(len(particles.stacks), np.int64), []
    named, first_row = np.unique(particles.stack, return_index=True)
    first_of = dict(zip(named.tolist(), first_row.tolist(), strict=True))
    for i, path in enumerate(particles.stacks):
        try:
            stack = open_stack(path)
        except InputError:
            continue  # image_problems says so
        first = first_of.get(i, 0)
        if stack.box == particles.own_box(first):
            counts[i] = stack.count
        # 0 and 1 stand for "not set".
        if stack.pixel_size not in (0, 1):
            group = particles.optics[particles.optics_group[first]]
            sizes.append((stack.pixel_size, group.pixel_size))
    notes = []
    unused = counts.sum() - len(np.unique(particles.image_numbers()))
    if counts.all() and unused > 0:
        notes.append(f"images in the stacks that no row uses: {unused}")
    off = [pair for pair in sizes if abs(pair[0] / pair[1] - 1) > HEADER_TOLERANCE]
    if off:
        notes.append(
            f"pixel size {off[0][1]:.4g} A is taken from the table, headers of "
            f"{len(off)} stacks say otherwise ({off[0][0]:.4g} A)"
        )
    return counts, notes


def _optics(particles: Particles) -> tuple[OpticsSummary, ...]:
    counts = np.bincount(particles.optics_group, minlength=len(particles.optics))
    return tuple(
        OpticsSummary(
            g.name,
            int(count),
            g.voltage,
            g.spherical_aberration,
            g.amplitude_contrast,
            tuple(_details(g)),
        )
        for g, count in zip(particles.optics, counts, strict=True)
    )


def _details(group: OpticsGroup) -> Iterator[str]:
    """Name what the model takes from a group besides the numbers of its lens."""
    tilt = group.aberrations.beam_tilt
    if any(tilt):
        yield f"beam tilt {tilt[0]:.3g} and {tilt[1]:.3g} mrad"
    for name in ("odd", "even"):
        if any(getattr(group.aberrations, name)):
            yield f"{name} aberrations"
    off = np.abs(np.subtract(group.magnification, IDENTITY)).max()
    if off > 0:
        yield f"magnification matrix (up to {100 * off:.2g} %)"
    if group.corrected:
        yield group.corrected


def _ctf_ranges(particles: Particles) -> dict:
    if particles.ctf is None:
        return {"defocus": None, "largest_astigmatism": None, "phase_shift": None}
    u, v, shift = particles.ctf.defocus_u, particles.ctf.defocus_v, particles.ctf.phase_shift
    return {
        "defocus": tuple(np.quantile((u + v) / 2, [0, 0.5, 1]).tolist()),
        "largest_astigmatism": float(np.abs(u - v).max()),
        "phase_shift": (float(shift.min()), float(shift.max())),
    }
