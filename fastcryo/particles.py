"""Particles from the files of other programs: metadata checked, image stacks found."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastcryo.errors import InputError
from fastcryo.io.cs import is_cryosparc, read_cryosparc
from fastcryo.io.mrc import open_stack
from fastcryo.io.records import OpticsGroup, Particles
from fastcryo.io.relion import read_relion, write_particles

# Of pixel sizes that are brought to one another.
LARGEST_RATIO = 4.0
# Names that users give in place of that of the particles' metadata.
IMAGES = (".mrc", ".mrcs", ".map", ".ccp4", ".st")

__all__ = ["OpticsGroup", "Particles", "image_problems", "read_particles", "write_particles"]


def read_particles(
    path: str | os.PathLike,
    *,
    image_root: str | os.PathLike | None = None,
    passthrough: str | os.PathLike | None = None,
    pixel_size: float | None = None,
    need_images: bool = True,
    mixed_sizes: str = "resample",
) -> Particles:
    """Read particles from a RELION STAR file or a cryoSPARC .cs file.

    Image stacks are looked for in `image_root`, in the current folder, in the folder of the file
    and in its parents, in this order; the images themselves are read by `Particles.images`.

    Parameters
    ----------
    path : path
        STAR of RELION 1 to 5 and programs that write alike, or .cs.
    image_root : path, optional
        Folder that the names of stacks are relative to; stacks that lie in it directly are found
        as well.
    passthrough : path, optional
        cryoSPARC's second file, if the first lacks fields.
    pixel_size : float, optional
        Angstrom, in place of what the file says.
    need_images : bool
        Check that every image exists. If false, the metadata will do, stacks that are not found
        keep their names, and `box` may be None.
    mixed_sizes : {"resample", "refuse"}
        What to do with optics groups whose images have another pixel size or box than those of the
        first: resample them in Fourier space, or raise an error.

    Returns
    -------
    Particles
        One for every row of the file, in its order.

    Raises
    ------
    InputError
        A file that is missing or no particles file; missing columns; values that are no finite
        numbers; sizes that differ between optics groups, if they are refused; subtomograms;
        contradictions about the correction of the CTF; and, with `need_images`, missing or defect
        stacks and images beyond their end.
    """
    path = Path(path)
    if pixel_size is not None and not 0 < pixel_size < np.inf:
        raise InputError(f"pixel size: {pixel_size} cannot be used, angstrom above 0 are needed")
    if mixed_sizes not in ("resample", "refuse"):
        raise InputError(f"mixed sizes: {mixed_sizes!r} is unknown, choose resample or refuse")
    if path.suffix == ".csg":
        raise InputError(f"{path}: a list of results, give the .cs files that it names")
    if path.suffix in IMAGES and is_file(path):
        raise InputError(f"{path}: images or a map, give the .star or .cs file of the particles")
    if is_cryosparc(path):
        particles = read_cryosparc(path, passthrough, pixel_size)
    elif passthrough is not None:
        raise InputError(f"{path}: a passthrough file goes with a .cs file only")
    else:
        particles = read_relion(path, pixel_size)
    roots = _roots(path, image_root)
    stacks = _locate(particles, roots, image_root is not None)
    particles = _whole_files(dataclasses.replace(particles, stacks=stacks))
    particles = dataclasses.replace(
        particles,
        box=_box_of_stacks(stacks) if particles.box is None else particles.box,
        notes=(
            *particles.notes,
            *_other_sizes(particles, mixed_sizes == "refuse"),
            *_shared_images(particles),
        ),
    )
    if need_images:
        problems = image_problems(particles)
        if problems:
            tried = ", ".join(str(r) for r in roots[:4]) + (", ..." if len(roots) > 4 else "")
            looked = f" (looked in {tried})" if "not found" in problems[0] else ""
            others = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
            raise InputError(problems[0] + looked + others)
    return particles


def image_problems(particles: Particles) -> list[str]:
    """Check that the images of all particles exist, without reading them.

    Parameters
    ----------
    particles : Particles

    Returns
    -------
    list of str
        One sentence for each thing that is wrong; empty if all can be read.
    """
    if not particles.stacks:
        return [f"{particles.source}: names no images (rlnImageName or blob/path)"]
    used = np.unique(particles.stack)
    missing = [i for i in used if not is_file(particles.stacks[i])]
    problems = []
    if missing:
        count = np.isin(particles.stack, missing).sum()
        problems.append(
            f"{particles.source}: {len(missing)} of {len(used)} stacks ({count} of "
            f"{len(particles)} images) not found, the first is {particles.stacks[missing[0]]}, "
            "give the folder that the names are relative to by --image-root"
        )
    order = np.lexsort((particles.slice, particles.stack))
    last_of_stack = order[np.flatnonzero(np.diff(particles.stack[order], append=-1))]
    for particle in last_of_stack[~np.isin(particles.stack[last_of_stack], missing)]:
        path = particles.stacks[particles.stack[particle]]
        try:
            stack = open_stack(path)
        except InputError as error:
            problems.append(str(error))
            continue
        if particles.slice[particle] >= stack.count:
            problems.append(
                f"{particles.source}: {particles.describe_image(particle)}: "
                f"the stack holds {stack.count} images"
            )
        expected = particles.own_box(particle)
        if stack.box != expected:
            problems.append(
                f"{path}: images are {stack.box} pixels wide, "
                f"{expected} are expected from {particles.source}"
            )
    return problems


def is_file(path: Path) -> bool:
    """Tell whether there is such a file, also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a NUL in it
        return False


def _roots(source: Path, image_root: str | os.PathLike | None) -> list[Path]:
    folder = source.absolute().parent
    roots = [Path.cwd(), folder, *folder.parents]
    if image_root is not None:
        roots.insert(0, Path(image_root).absolute())
    return list(dict.fromkeys(roots))


def _locate(particles: Particles, roots: Sequence[Path], root_given: bool) -> tuple[Path, ...]:
    """Find the file of every stack; a name that leads to none stays as it is."""
    found: dict[Path, Path] = {}
    folder = particles.source.absolute().parent
    for name in particles.stacks:
        candidates = [root / name for root in roots]  # an absolute name stays itself
        if root_given:
            # Names from another computer: the folder that the user gave goes before all others.
            candidates.insert(1, roots[0] / name.name)
        stack = next((c for c in candidates if is_file(c)), name)
        beside = folder / name
        # A stack of that name in the current folder may belong to another data set.
        unsure = not root_given and stack != beside and is_file(stack) and is_file(beside)
        if unsure and not stack.samefile(beside):
            raise InputError(
                f"{particles.source}: stack {name} is found as {stack} and as {beside}, "
                "say which by --image-root"
            )
        if stack in found:
            raise InputError(
                f"{particles.source}: stacks {found[stack]} and {name} both lead to {stack}, "
                "give an --image-root that tells them apart"
            )
        found[stack] = name
    return tuple(found)


def _whole_files(particles: Particles) -> Particles:
    """Give numbers to images named without one: their files must hold one image each."""
    unnumbered = particles.slice < 0
    for stack in np.unique(particles.stack[unnumbered]):
        path = particles.stacks[stack]
        rows = np.flatnonzero(particles.stack == stack)
        if is_file(path) and open_stack(path).count == 1:
            continue
        if is_file(path) or len(rows) > 1:
            raise InputError(
                f"{particles.source}: row {particles.row[rows[0]] + 1} names {path} without the "
                "number of an image, and it holds several (000001@stack.mrcs is needed)"
            )
    return dataclasses.replace(particles, slice=np.where(unnumbered, 0, particles.slice))


def _box_of_stacks(stacks: Sequence[Path]) -> int | None:
    for path in stacks:
        try:
            return open_stack(path).box
        except InputError:
            continue  # reported by image_problems
    return None


def _other_sizes(particles: Particles, refuse: bool) -> list[str]:
    """Name the optics groups whose images are not of the size of the first's."""
    first, notes = particles.optics[0], []
    for number, group in enumerate(particles.optics):
        if (group.box, group.pixel_size) == (first.box, first.pixel_size):
            continue
        sizes = [
            f"{'?' if g.box is None else g.box} pixels of {g.pixel_size:g} A in {g.name}"
            for g in (first, group)
        ]
        if refuse or (group.box is None) != (first.box is None):
            raise InputError(
                f"{particles.source}: images of {sizes[0]} and {sizes[1]}, select one optics group"
                + (" or let them be resampled by --mixed-sizes resample" if refuse else "")
            )
        ratio = group.pixel_size / first.pixel_size
        if not 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO:
            raise InputError(
                f"{particles.source}: images of {sizes[0]} and {sizes[1]} are too different to be "
                "used together, select one optics group"
            )
        count = np.count_nonzero(particles.optics_group == number)
        notes.append(
            f"images of {sizes[1]} ({count}) are resampled to those of {first.name}, "
            f"{'?' if first.box is None else first.box} pixels of {first.pixel_size:g} A"
        )
    return notes


def _shared_images(particles: Particles) -> list[str]:
    images = particles.image_numbers()
    repeated = len(images) - len(np.unique(images))
    if not repeated:
        return []
    notes = [f"rows that repeat the image of another row: {repeated}"]
    known = particles.half > 0
    pairs = np.unique(2 * images[known] + particles.half[known] - 1)
    both = len(pairs) - len(np.unique(images[known]))
    if both:
        notes.append(f"images in both half-sets, which makes the FSC too high: {both}")
    return notes
