"""From images and their metadata to the arrays that the objective needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.kernels import layout
from fastcryo.kernels.cpu import prepare
from fastcryo.operators import SliceOperator
from fastcryo.rotations import orthonormal_rotations
from fastcryo.threads import thread_count

BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class ImageSet:
    """What a set of images says of itself, checked."""

    side: int
    pixel_size: float
    ctf: CTF | None
    shifts: ArrayLike | None
    rotations: NDArray

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

    def ctf_coefficients(self) -> NDArray:
        """One row per image; no rows without CTF."""
        if self.ctf is None:
            return np.empty((0, 7))
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


def by_shell(name: str, values: ArrayLike, radius: int) -> NDArray[np.float64]:
    """Return one number, or values for the shells 0..R at least, checked."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim > 1 or (values.ndim == 1 and len(values) < radius + 1):
        raise InputError(f"{name}: one number or {radius + 1} values (shells 0 to R) needed")
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{name}: values must be finite and not negative")
    return values


def damping_of(operator: SliceOperator, regularization: ArrayLike) -> NDArray:
    """Return lambda as the kernels take it: one value, or one per stored coefficient."""
    values = by_shell("regularization", regularization, operator.grid.radius)
    if values.ndim == 0:
        return np.full((1, 1, 1), values, operator.real_dtype)
    shells = np.minimum(operator.grid.shells(), len(values) - 1)
    return values.astype(operator.real_dtype)[shells]


def prepare_data(
    operator: SliceOperator,
    setup: ImageSet,
    read: Callable[[slice], NDArray] | None,
    noise_std: ArrayLike,
    regularization: ArrayLike,
    progress: Callable[[int, int], None] | None,
) -> dict:
    """Read, transform, crop and pack all images, in blocks of bounded memory.

    Parameters
    ----------
    operator : SliceOperator
    setup : ImageSet
    read : callable or None
        From a slice of the set to its images; None: metadata only.
    noise_std, regularization, progress
        See `fastcryo.problem.KnownPoseProblem`.

    Returns
    -------
    dict
        The fields of `fastcryo.problem.KnownPoseProblem`.
    """
    radius, count = operator.grid.radius, len(setup.rotations)
    sigma = by_shell("noise_std", noise_std, radius)
    if (sigma <= 0).any():
        raise InputError("noise_std: every value must be positive")
    h, k = layout.disc_frequencies(radius)
    shells = np.rint(np.hypot(h, k)).astype(np.int64)
    inverse_variance = 1 / (np.full(radius + 1, sigma) if sigma.ndim == 0 else sigma)[shells] ** 2
    inverse_variance[operator.origin] /= 2
    ctf = setup.ctf_coefficients()
    rows = operator.rows

    if len(ctf):
        weights = np.empty((count, operator.samples), operator.real_dtype)
        prepare.prepare_weights(rows, ctf, setup.length, inverse_variance, weights)
    else:
        weights = inverse_variance[None].astype(operator.real_dtype)

    data = np.empty((0 if read is None else count, operator.samples), operator.dtype)
    energies = np.zeros(count)
    shifts = setup.shifts / setup.pixel_size
    for block in blocks(0 if read is None else count, setup.side):
        images = read(block).astype(operator.real_dtype, copy=False)
        transforms = scipy.fft.rfft2(images, workers=thread_count())
        prepare.prepare_images(
            transforms,
            shifts[block],
            rows,
            ctf[block],
            setup.length,
            inverse_variance,
            data[block],
            energies[block],
        )
        if progress is not None:
            progress(block.stop, count)
    return dict(
        operator=operator,
        pixel_size=setup.pixel_size,
        image_box=setup.side,
        steps=layout.fixed_point_steps(setup.rotations),
        weights=weights,
        data=data,
        energies=energies,
        damping=damping_of(operator, regularization),
        members=np.arange(count),
        mean_inverse_variance=float(inverse_variance.sum() / (operator.samples - 0.5)),
    )


def blocks(count: int, side: int) -> Iterator[slice]:
    """Cut the images into blocks whose transforms take bounded memory."""
    length = max(1, BLOCK_BYTES // (8 * side * side))
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def finite(images: NDArray, first: int) -> NDArray:
    """Return images if all their pixels are finite numbers."""
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2)))
    if len(bad):
        raise InputError(
            f"images: {len(bad)} contain NaN or infinity, the first is image {first + bad[0]} "
            "(from 0); leave them out"
        )
    return images
