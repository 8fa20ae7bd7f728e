"""From images and their metadata to the arrays that the objective needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.communicator import ALONE, Communicator
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.free_memory import free_memory
from fastcryo.grid import FourierGrid
from fastcryo.interpolation import SlicingOptions
from fastcryo.kernels import layout
from fastcryo.operators import SliceOperator
from fastcryo.packing import ImagingTables, Packer, Source, stream
from fastcryo.rotations import orthonormal_rotations
from fastcryo.symmetry import replicated, symmetry_matrices
from fastcryo.threads import scratch

if TYPE_CHECKING:
    from fastcryo.optics import Imaging
    from fastcryo.particles import Particles
    from fastcryo.prepared import Store


# Coefficients of C = 1: sin(pi / 2).
UNIT_CTF = np.array([0.0, 0.0, 0.0, 0.0, np.pi / 2, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class ImageSet:
    """What a set of images says of itself, checked."""

    side: int
    pixel_size: float
    ctf: CTF | None
    shifts: ArrayLike | None
    rotations: NDArray
    symmetry: str = "C1"
    imaging: Imaging | None = None
    noise_group: NDArray | None = None
    scale: NDArray | None = None

    def __post_init__(self):
        if not (np.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise InputError(f"pixel_size: {self.pixel_size} must be a positive number of angstrom")
        rotations = orthonormal_rotations(self.rotations)
        count = len(rotations)
        if count == 0:
            raise InputError("images: there are none")
        shifts = np.zeros((count, 2)) if self.shifts is None else np.asarray(self.shifts, float)
        if shifts.shape != (count, 2) or not np.isfinite(shifts).all():
            raise InputError(f"shifts: finite values of shape ({count}, 2) needed")
        if self.ctf is not None and len(self.ctf) not in (1, count):
            raise InputError(f"ctf: {len(self.ctf)} functions given for {count} images")
        object.__setattr__(self, "rotations", rotations)
        object.__setattr__(self, "shifts", shifts)

    @property
    def length(self) -> float:
        """Side of the box, angstrom."""
        return self.side * self.pixel_size

    def steps(self, own: NDArray[np.int64] | slice = np.s_[:]) -> NDArray[np.int64]:
        """Fixed-point rows of some rotations, (n, 2, 3), or of all their views, (g, n, 2, 3)."""
        symmetry = symmetry_matrices(self.symmetry)
        rows = self.rotations[:, :2]
        if self.imaging is not None:
            rows = self.imaging.bend(self.rotations)
        rows = rows[own]
        if len(symmetry) == 1:
            return layout.fixed_point_steps(rows)
        views = replicated(rows, symmetry)
        return layout.fixed_point_steps(views.reshape(-1, 2, 3)).reshape(views.shape)

    def ctf_coefficients(self) -> NDArray:
        """One row per image; no rows without CTF, unless the images need weights of their own."""
        if self.ctf is None:
            if self.imaging is None and self.noise_group is None and self.scale is None:
                return np.empty((0, 7))
            return np.tile(UNIT_CTF, (len(self.rotations), 1))
        coefficients = self.ctf.coefficients()
        return np.ascontiguousarray(
            np.broadcast_to(coefficients, (len(self.rotations), coefficients.shape[1]))
        )


def radius_of(
    setup: ImageSet, box: int | None, radius: int | None, resolution: float | None
) -> int | None:
    """Return R, from a resolution in angstrom or as given; refuse a box larger than the images."""
    if box is not None and box > setup.side:
        raise InputError(f"box: {box} is larger than the images, {setup.side} pixels")
    if resolution is None:
        return radius
    if radius is not None:
        raise InputError("radius and resolution cannot both be given")
    side = setup.side if box is None else box
    shells = setup.length / resolution if resolution > 0 else np.inf
    if not shells <= side / 2 * (1 + 1e-6):
        raise InputError(
            f"resolution: {resolution:g} angstrom is beyond Nyquist, "
            f"{2 * setup.length / side:.4g} angstrom is the limit here"
        )
    if shells + 1e-6 < 1:
        raise InputError(
            f"resolution: {resolution:g} angstrom leaves no samples but the origin, give at most "
            f"{setup.length:.4g} angstrom, the side of the box"
        )
    return min(int(shells + 1e-6), (side - 1) // 2)


def reach_of(setup: ImageSet, grid: FourierGrid) -> float | None:
    """Return how far out samples may lie so that none reads the volume beyond R; None: R."""
    if setup.imaging is None or setup.imaging.stretch == 1:
        return None
    return grid.radius / setup.imaging.stretch * (1 - 1e-12)


def operator_for(
    setup: ImageSet,
    box: int | None,
    radius: int | None,
    resolution: float | None,
    **slicing: Unpack[SlicingOptions],
) -> SliceOperator:
    """Return the operator of a problem; arguments as in `KnownPoseProblem.from_arrays`."""
    slicing = {"backend": "auto"} | slicing
    grid = FourierGrid(
        setup.side if box is None else box, radius_of(setup, box, radius, resolution)
    )
    reach = reach_of(setup, grid)
    return SliceOperator(grid, reach=reach, **slicing)


def square_images(images: ArrayLike, count: int) -> NDArray:
    """Return images as an array (n, N, N), checked."""
    images = np.asarray(images)
    if images.ndim != 3 or images.shape[1] != images.shape[2] or np.iscomplexobj(images):
        raise InputError(f"images: real values of shape (n, N, N) needed, got {images.shape}")
    if len(images) != count:
        raise InputError(f"images: {len(images)} given, but {count} rotations")
    return images


def by_shell(name: str, values: ArrayLike, radius: int) -> NDArray[np.float64]:
    """Return one number, or values for the shells 0..R at least, checked."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim > 1 or (values.ndim == 1 and len(values) < radius + 1):
        raise InputError(f"{name}: one number or {radius + 1} values (shells 0 to R) needed")
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{name}: values must be finite and not negative")
    return values


def noise_by_group(
    noise_std: ArrayLike, groups: NDArray | None, radius: int, count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return sigma by group and shell, (g, R + 1), and the group of every image, (n,)."""
    values = np.asarray(noise_std, dtype=np.float64)
    if groups is None:
        values = by_shell("noise_std", values, radius)
        sigma = np.broadcast_to(values[: radius + 1] if values.ndim else values, (1, radius + 1))
        groups = np.zeros(count, np.int64)
    else:
        groups = np.ascontiguousarray(groups, np.int64)
        if values.ndim != 2:
            raise InputError("noise_std: values by group and shell needed with noise groups")
        if groups.shape != (count,) or not 0 <= groups.min() <= groups.max() < len(values):
            raise InputError(f"noise groups: {count} numbers from 0 to {len(values) - 1} needed")
        sigma = np.stack([by_shell("noise_std", row, radius)[: radius + 1] for row in values])
    if (sigma <= 0).any():
        raise InputError("noise_std: every value must be positive")
    return sigma, groups


def damping_of(operator: SliceOperator, regularization: ArrayLike) -> NDArray:
    """Return lambda as the kernels take it: one value, or one per stored coefficient."""
    values = by_shell("regularization", regularization, operator.grid.radius)
    if values.ndim == 0:
        return np.full((1, 1, 1), values, operator.real_dtype)
    shells = np.minimum(operator.grid.shells(), len(values) - 1)
    return values.astype(operator.real_dtype)[shells]


def shells_of_damping(grid: FourierGrid, damping: NDArray) -> float | list[float]:
    """Return lambda as `damping_of` took it: a number, or one per shell 0..R."""
    if damping.size == 1:
        return float(damping[0, 0, 0])
    return damping[: grid.radius + 1, grid.centre, grid.centre].tolist()


def prepare_data(
    operator: SliceOperator,
    setup: ImageSet,
    source: Source | None,
    noise_std: ArrayLike,
    regularization: ArrayLike,
    store: Store | None = None,
    communicator: Communicator = ALONE,
) -> dict:
    """Read, transform, crop and pack all images in one pass, see `fastcryo.packing`.

    Each rank takes a range of the images, in the order in which they are read.

    Parameters
    ----------
    operator : SliceOperator
    setup : ImageSet
    source : Source or None
        None: metadata only.
    noise_std, regularization
        See `fastcryo.problem.KnownPoseProblem`.
    store : Store, optional
        Where on disk the prepared images are kept, or already are; in memory unless given.
    communicator : Communicator
        The ranks that share the images.

    Returns
    -------
    dict
        The fields of `fastcryo.problem.KnownPoseProblem`.

    Raises
    ------
    InputError
        Arguments that cannot be used, or more data than memory.
    """
    radius, count = operator.grid.radius, len(setup.rotations)
    communicator.check(count)
    sigma, groups = noise_by_group(noise_std, setup.noise_group, radius, count)
    h, k = operator.frequencies()
    shells = np.rint(np.hypot(h, k)).astype(np.int64)
    inverse_variance = 1 / sigma[:, shells] ** 2
    inverse_variance[:, operator.origin] /= 2
    shifts, ctf = setup.shifts / setup.pixel_size, setup.ctf_coefficients()
    tables = None
    if setup.imaging is not None:
        shifts /= setup.imaging.scales[setup.imaging.group, None]
        tables = ImagingTables.of(setup.imaging, operator, setup.length)
    packer = Packer(
        operator, setup.length, shifts, ctf, inverse_variance, groups, tables, setup.scale
    )
    own, rows = np.arange(count), None
    if communicator.size > 1:
        part, rows = communicator.part(count), np.full(count, -1)
        own = np.sort(own[part] if source is None else source.order[part])
        source = source and source.part(part)
        rows[own] = np.arange(len(own)) if store is None else own
    if store is None:
        weights, data, energies = in_memory(packer, own, source, communicator)
    else:
        weights, data, energies = store.prepared(packer, sigma, source, communicator)
    share = np.bincount(groups, minlength=len(sigma)) / count
    return dict(
        operator=operator,
        pixel_size=setup.pixel_size,
        image_box=setup.side,
        steps=setup.steps(own if store is None else np.s_[:]),
        weights=weights,
        data=data,
        energies=energies,
        damping=damping_of(operator, regularization),
        members=np.arange(count),
        mean_inverse_variance=float(
            share @ inverse_variance.sum(axis=1) / (operator.samples - 0.5)
        ),
        rows=rows,
        communicator=communicator,
    )


def in_memory(
    packer: Packer, own: NDArray[np.int64], source: Source | None, communicator: Communicator
) -> tuple[NDArray, NDArray, NDArray[np.float64]]:
    """Return weights, data and energies of this rank's images, `own` in ascending order."""
    operator, with_ctf, count = packer.operator, len(packer.ctf) > 0, len(own)
    check_memory(operator, count, with_ctf, source is not None, communicator)
    data = np.empty((0 if source is None else count, operator.samples), operator.dtype)
    if with_ctf:
        weights = np.empty((count, operator.samples), operator.real_dtype)
    else:
        weights = packer.common_weights()
    if source is None:
        if with_ctf:
            packer.fill_weights(own, weights)
        return weights, data, np.zeros(count)

    def keep(members: NDArray[np.int64], images: NDArray) -> NDArray[np.float64]:
        places = np.searchsorted(own, members)
        energies[places] = packer.pack(images, members, places, weights, data)
        return energies[places]

    energies = np.empty(count)
    stream(source, keep, packer.bytes_at_once)
    return weights, data, energies


def packed_bytes(operator: SliceOperator, with_ctf: bool, with_data: bool = True) -> int:
    """Return the bytes of the weights and data of one image in memory."""
    per_sample = operator.real_dtype.itemsize * (with_ctf + 2 * with_data)
    return operator.samples * per_sample


def check_memory(
    operator: SliceOperator,
    count: int,
    with_ctf: bool,
    with_data: bool,
    communicator: Communicator = ALONE,
) -> None:
    """Refuse more prepared images, on this rank, than there is memory for."""
    needed = count * packed_bytes(operator, with_ctf, with_data)
    free = free_memory(communicator)
    if free is not None and needed > free:
        raise InputError(
            f"memory: {needed / 2**30:.3g} GiB are needed for {count} prepared images of box "
            f"{operator.grid.box}, {free / 2**30:.3g} GiB are free, crop the images (--box) or "
            "keep them on disk (--prepared DIR)"
        )


def source_of_array(images: NDArray, dtype: np.dtype) -> Source:
    """Return the source of the images of an array (n, M, M), real, in a precision."""

    def read(members: NDArray[np.int64]) -> NDArray:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(images[members[0] : members[-1] + 1], dtype)

    def refuse(members: NDArray[np.int64]) -> None:
        bad = members[~np.isfinite(read(members)).all(axis=(1, 2))]
        if len(bad):
            raise InputError(
                f"images: {len(bad)} contain NaN or infinity, the first is image {bad[0]} "
                "(from 0); leave them out"
            )

    return Source(images.shape[1], np.arange(len(images)), read, refuse)


def source_of_particles(
    particles: Particles,
    dtype: np.dtype,
    invert: bool,
    progress: Callable[[int, int], None] | None,
) -> Source:
    """Return the source of the images of particles, in the order in which they lie on disk."""

    def read(members: NDArray[np.int64]) -> NDArray:
        shape = len(members), particles.box, particles.box
        images = scratch("pixels", shape, np.float32)
        images = particles.images(members, check_finite=False, out=images).astype(dtype, copy=False)
        return np.negative(images, out=images) if invert else images

    return Source(particles.box, particles.reading_order(), read, particles.images, progress)
