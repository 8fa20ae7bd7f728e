"""What is known of the particles of a file, and their images on demand."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.background import Background
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.io.mrc import open_stack
from fastcryo.optics import IDENTITY, NO_ABERRATIONS, Aberrations
from fastcryo.resample import resample, window_side

# Pixel sizes that differ by less are those of one microscope, written with fewer digits.
SAME_SIZE = 1e-4
# Magnifications beyond are a mistake in the file, not a property of a microscope.
LARGEST_DISTORTION = 0.25
# Angstrom; anything else is a mistake in the file.
POSSIBLE_SIZES = 1e-2, 1e3


@dataclass(frozen=True)
class OpticsGroup:
    """Particles recorded under the same conditions; None stands for what the file does not say.

    Parameters
    ----------
    name : str
    voltage : float or None
        kV.
    spherical_aberration : float or None
        mm.
    amplitude_contrast : float or None
        A fraction.
    pixel_size : float
        Of the images in the stacks, angstrom.
    box : int or None
        Side of the images in the stacks, pixels.
    aberrations : Aberrations
    magnification : tuple of 4 floats
        rlnMagMat00, 01, 10 and 11.
    corrected : {"", "phase-flipped", "premultiplied"}
        Whether the images were multiplied by the sign of their CTF, or by their CTF.
    """

    name: str
    voltage: float | None
    spherical_aberration: float | None
    amplitude_contrast: float | None
    pixel_size: float
    box: int | None
    aberrations: Aberrations = NO_ABERRATIONS
    magnification: tuple[float, float, float, float] = IDENTITY
    corrected: str = ""


@dataclass(frozen=True)
class Particles:
    """Poses, CTF and images of n particles.

    Parameters
    ----------
    rotations : ndarray, shape (n, 3, 3), float64
        A, as `fastcryo.rotation_matrices` returns it.
    shifts : ndarray, shape (n, 2), float64
        rlnOriginXAngst and rlnOriginYAngst, angstrom.
    ctf : CTF or None
        Of n images; None when the file has no defocus.
    pixel_size : float
        Of the images as `images` returns them, angstrom: that of the first optics group.
    box : int or None
        Side of these images, pixels; None when neither the file nor a stack tells.
    half : ndarray, shape (n,), int8
        Half-set 1 or 2, 0 if unknown.
    optics_group : ndarray, shape (n,), int64
        Index into `optics`.
    optics : tuple of OpticsGroup
    stack : ndarray, shape (n,), int64
        Index into `stacks`.
    slice : ndarray, shape (n,), int64
        Index of the image in its stack, from 0.
    stacks : tuple of Path
        Empty when the file names no images.
    source : Path
        The file that all this was read from.
    row : ndarray, shape (n,), int64
        Row of `source`, from 0; counted through unless given.
    notes : tuple of str
        What a user should know: things found in the file that are not modelled, or assumed.
    background : Background or None
        What images are normalised by as they are read; None: they are used as they are.
    brightness : ndarray, shape (n,), float64, or None
        What images are divided by as they are read, after that; None: 1.
    scale : ndarray, shape (n,), float64, or None
        Factor of every image's signal, beside its CTF: the images are scale C P V. None: 1.
    """

    rotations: NDArray[np.float64]
    shifts: NDArray[np.float64]
    ctf: CTF | None
    pixel_size: float
    box: int | None
    half: NDArray[np.int8]
    optics_group: NDArray[np.int64]
    optics: tuple[OpticsGroup, ...]
    stack: NDArray[np.int64]
    slice: NDArray[np.int64]
    stacks: tuple[Path, ...]
    source: Path
    row: NDArray[np.int64] = None
    notes: tuple[str, ...] = ()
    background: Background | None = None
    brightness: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None

    def __post_init__(self):
        if self.row is None:
            object.__setattr__(self, "row", np.arange(len(self)))

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.rotations)

    def select(self, indices: ArrayLike) -> Particles:
        """Return some particles, in the order of `indices` (or those of a boolean mask)."""
        indices = np.arange(len(self))[indices]
        per_particle = ["rotations", "shifts", "half", "optics_group", "stack", "slice", "row"]
        per_particle += [n for n in ("brightness", "scale") if getattr(self, n) is not None]
        return dataclasses.replace(
            self,
            ctf=None if self.ctf is None else self.ctf.select(indices),
            **{name: getattr(self, name)[indices] for name in per_particle},
        )

    def images(
        self,
        indices: ArrayLike | None = None,
        *,
        check_finite: bool = True,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Read images; stack by stack and in the order they lie on disk.

        Those of an optics group with another pixel size or box are resampled to those of the
        first, see `fastcryo.resample`; then `background` and `brightness` are applied.

        Parameters
        ----------
        indices : array_like, optional
            Which particles, in any order; all unless given.
        check_finite : bool
            Refuse NaN and infinite pixels.
        out : ndarray, shape (m, box, box), float32, optional
            Where to put them; new memory unless given.

        Returns
        -------
        ndarray, shape (m, box, box), float32
            In the order of `indices`; `out` if it is given.

        Raises
        ------
        InputError
            No images in the file, a stack that is missing or defect, NaN or infinite pixels, a
            constant background that is to be normalised.
        """
        if not self.stacks:
            raise InputError(f"{self.source}: names no images, only its metadata can be used")
        indices = np.arange(len(self)) if indices is None else np.arange(len(self))[indices]
        box = open_stack(self.stacks[0]).box if self.box is None else self.box
        images = np.empty((len(indices), box, box), dtype=np.float32) if out is None else out
        order = self.reading_order(indices)
        stacks, slices = self.stack[indices[order]], self.slice[indices[order]]
        # Neighbours in a stack that are neighbours in the result are read in one go.
        goes_on = (np.diff(stacks) == 0) & (np.diff(slices) == 1) & (np.diff(order) == 1)
        goes_on &= np.diff(self.optics_group[indices[order]]) == 0
        ends = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), len(order)]
        for start, stop in itertools.pairwise(ends if len(order) else ()):
            stack = open_stack(self.stacks[stacks[start]])
            first = order[start]
            own, side = self.own_box(indices[first]), self._window(indices[first])
            own = box if own is None else own
            if stack.box != own:
                raise InputError(
                    f"{stack.path}: images are {stack.box} pixels wide, {own} expected"
                )
            if side is None:
                stack.read(int(slices[start]), images[first : first + stop - start])
                continue
            raw = np.empty((stop - start, own, own), np.float32)
            stack.read(int(slices[start]), raw)
            images[first : first + stop - start] = resample(raw, side, box)
        self._treat(images, indices)
        bad = indices[~np.isfinite(images).all(axis=(1, 2))] if check_finite else ()
        if len(bad):
            raise InputError(
                f"{self.source}: {len(bad)} of {len(indices)} images contain NaN or infinite "
                f"pixels, the first is {self.describe_image(bad[0])}, remove these particles"
            )
        return images

    def _treat(self, images: NDArray[np.float32], indices: NDArray[np.int64]) -> None:
        """Apply `background` and `brightness` to the images of some particles, in place."""
        if self.background is not None:
            constant = indices[self.background.normalize(images)]
            if len(constant):
                raise InputError(
                    f"{self.source}: the background of {self.describe_image(constant[0])} is "
                    "constant (a masked image?) and cannot be normalised, leave out --normalize "
                    "or remove this particle"
                )
        if self.brightness is not None:
            images /= self.brightness[indices].astype(np.float32)[:, None, None]

    def own_box(self, particle: int) -> int | None:
        """Return the side of a particle's image in its stack, pixels."""
        own = self.optics[self.optics_group[particle]].box
        return self.box if own is None else own

    def _window(self, particle: int) -> int | None:
        group = self.optics[self.optics_group[particle]]
        return window_side(group.box, group.pixel_size, self.box, self.pixel_size)

    def reading_order(self, indices: NDArray | None = None) -> NDArray[np.int64]:
        """Return the order in which images lie on disk: stack by stack, front to back.

        Parameters
        ----------
        indices : ndarray of int64, optional
            Particles; all unless given.

        Returns
        -------
        ndarray of int64
            Positions in `indices`.
        """
        indices = slice(None) if indices is None else indices
        return np.lexsort((self.slice[indices], self.stack[indices]))

    def describe_image(self, particle: int) -> str:
        """Name the image of a particle as the file does: row from 1 and 000001@stack."""
        stack = self.stacks[self.stack[particle]]
        return f"row {self.row[particle] + 1}, {self.slice[particle] + 1:06d}@{stack}"

    def image_numbers(self) -> NDArray[np.int64]:
        """Return a number per row, the same for rows that share an image."""
        key = self.stack * (self.slice.max(initial=0) + 1) + self.slice
        return np.unique(key, return_inverse=True)[1]

    @property
    def has_half_sets(self) -> bool:
        """Whether the file assigns particles to both half-sets."""
        return bool((self.half == 1).any() and (self.half == 2).any())

    def half_sets(
        self, rng: np.random.Generator | int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split into two half-sets: as the file says, else at random.

        Particles without a half-set are drawn into equal halves; rows that share an image stay
        together.

        Parameters
        ----------
        rng : numpy.random.Generator or int, optional
            Source of the draw, or its seed.

        Returns
        -------
        first, second : ndarray of int64
            Indices, ascending.

        Raises
        ------
        InputError
            Fewer than two different images.
        """
        half = self.half if self.has_half_sets else np.zeros(len(self), np.int8)
        image = self.image_numbers()
        half_of_image = np.zeros(image.max(initial=-1) + 1, np.int8)
        half_of_image[image[half > 0]] = half[half > 0]
        unknown = np.random.default_rng(rng).permutation(np.flatnonzero(half_of_image == 0))
        half_of_image[unknown] = 1 + np.arange(len(unknown)) % 2
        half = np.where(half > 0, half, half_of_image[image])
        halves = np.flatnonzero(half == 1), np.flatnonzero(half == 2)
        if not all(map(len, halves)):
            raise InputError(f"{self.source}: two half-sets need two different images at least")
        return halves


def index_stacks(names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[Path, ...]]:
    """Return the stack of every row and the stacks; ./a.mrcs and a.mrcs are one."""
    numbers: dict[Path, int] = {}
    by_name = {name: numbers.setdefault(Path(name), len(numbers)) for name in dict.fromkeys(names)}
    return np.array([by_name[name] for name in names], dtype=np.int64), tuple(numbers)


def pixel_sizes_of(
    source: Path, sizes: ArrayLike, names: Iterable[str], given: float | None
) -> list[float]:
    """Return the pixel size of each optics group; sizes that hardly differ become the same.

    Parameters
    ----------
    source : Path
    sizes : array_like
        Of each optics group in use, angstrom; zeros if the file has none.
    names : iterable of str
        Of these groups.
    given : float or None
        The user's, which replaces that of the file.

    Raises
    ------
    InputError
        Sizes that are not positive, or one given for groups whose sizes differ.
    """
    sizes = np.array(sizes, np.float64)
    sizes[np.abs(sizes - sizes[0]) <= SAME_SIZE * np.abs(sizes[0])] = sizes[0]
    names = list(names)
    if given is not None:
        other = np.flatnonzero(sizes != sizes[0])
        if len(other):
            raise InputError(
                f"{source}: pixel sizes differ between optics groups, {sizes[0]:g} A in {names[0]} "
                f"and {sizes[other[0]]:g} A in {names[other[0]]}, one --angpix cannot replace them"
            )
        sizes[:] = given
    smallest, largest = POSSIBLE_SIZES
    bad = sizes[~((sizes >= smallest) & (sizes <= largest))]
    if len(bad):
        raise InputError(
            f"{source}: the pixel size is {bad[0]:g} A, give the right one by --angpix"
        )
    return sizes.tolist()


def checked_magnification(path: Path, column: str, matrix: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse a magnification matrix that no microscope has."""
    off = np.linalg.norm(np.reshape(matrix, (2, 2)) - np.eye(2), 2)
    if off > LARGEST_DISTORTION:
        raise InputError(
            f"{path}: {column} gives the magnification {', '.join(f'{v:g}' for v in matrix)}, "
            "a matrix close to 1, 0, 0, 1 is needed"
        )
    return matrix


def make_ctf(source: Path, **fields: NDArray[np.float64]) -> CTF:
    """Return `CTF(**fields)`; errors name the file, and a voltage must be in kV."""
    if np.any((fields["voltage"] < 10) | (fields["voltage"] > 1500)):
        raise InputError(
            f"{source}: the voltage is {fields['voltage'].max():g}, kV are needed (as in 300)"
        )
    try:
        return CTF(**fields)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def decaying_bfactor(
    bfactor: NDArray[np.float64], column: str, notes: list[str]
) -> NDArray[np.float64]:
    """Return B-factors of exp(-B q^2 / 4): Warp and M write those of exp(B q^2 / 4)."""
    if (bfactor >= 0).all():
        return bfactor
    notes.append(
        f"{column} is negative (down to {bfactor.min():g} A^2): taken as a decay, as Warp and M "
        "mean it"
    )
    return np.abs(bfactor)
