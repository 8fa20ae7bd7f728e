"""The objective: loss, gradient, Hessian products and diagonals with known poses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.arrays import fetch, total_of_planes, vectors_of
from fastcryo.communicator import ALONE, Communicator
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.interpolation import SlicingOptions
from fastcryo.normal import NormalOperator, assemble
from fastcryo.operators import SliceOperator
from fastcryo.optics import imaging_of
from fastcryo.preparation import (
    ImageSet,
    damping_of,
    operator_for,
    prepare_data,
    source_of_array,
    source_of_particles,
    square_images,
)
from fastcryo.prepared import Store
from fastcryo.rows import StoredRows, checked_batch

if TYPE_CHECKING:
    from fastcryo.particles import Particles


@dataclass(frozen=True, eq=False)
class KnownPoseProblem:
    """The regularised least-squares problem of a set of images with known poses.

    With n images, noise variance sigma^2 by shell and a prior lambda:

        f(V) = 1/n sum_i 1/2 sum_{|k|<=R} |C_i P_i V - y_i|^2 / sigma^2 + 1/2 sum_k lambda |V|^2
        grad f(V) = 1/n sum_i P_i^H C_i (C_i P_i V - y_i) / sigma^2 + lambda V
        H = 1/n sum_i P_i^H C_i^2 P_i / sigma^2 + lambda

    A batch replaces the n images by some of them. With a symmetry of g rotations S, every image
    is seen in g views A S: the sums go over these n g terms, and n stands for n g. Make one with
    `from_arrays` or `from_particles`.

    The ranks of an MPI job share a problem: each keeps the rows of some images, sums over images go
    over all ranks, and results are the same on all of them. All methods that need such a sum must
    be called by every rank, with the same arguments.

    Attributes
    ----------
    operator : SliceOperator
    pixel_size : float
        Of the images as given, angstrom.
    image_box : int
        Side of the images as given; `grid.box` may be smaller (Fourier cropping).
    steps : ndarray, shape (n, 2, 3) or (g, n, 2, 3), int64
        Fixed-point rows of the rotations; with symmetry, of all views. Here and
        below n counts the images of this rank.
    weights : ndarray or StoredRows, shape (n, samples) or (1, samples)
        C^2 / sigma^2, halved at the origin.
    data : ndarray or StoredRows, shape (n, samples) or (0, samples)
        C y / sigma^2, halved at the origin; no rows: metadata only.
    energies : ndarray, shape (n,)
        1/2 sum |y|^2 / sigma^2 of every image over its full disc.
    damping : ndarray, shape (1, 1, 1) or that of the half grid
        lambda.
    members : ndarray, shape (m,), int64
        The images of this problem, of those of the whole set: subsets share the arrays above.
    mean_inverse_variance : float
        Mean of 1 / sigma^2 over the disc.
    rows : ndarray of int64, or None
        Where the arrays above keep each image of the whole set, -1: on another rank. None: every
        image in its place.
    communicator : Communicator
        The ranks that share this problem.
    """

    operator: SliceOperator
    pixel_size: float
    image_box: int
    steps: NDArray[np.int64]
    weights: NDArray | StoredRows
    data: NDArray | StoredRows
    energies: NDArray[np.float64]
    damping: NDArray
    members: NDArray[np.int64]
    mean_inverse_variance: float
    rows: NDArray[np.int64] | None = None
    communicator: Communicator = ALONE

    @property
    def grid(self) -> FourierGrid:
        """The Fourier grid of the volume."""
        return self.operator.grid

    @property
    def grid_pixel_size(self) -> float:
        """Voxel size of the volume, angstrom: larger than `pixel_size` after Fourier cropping."""
        return self.pixel_size * self.image_box / self.grid.box

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.members)

    def views(self, images: int) -> int:
        """Return the number of views of so many images: g times as many with symmetry."""
        return images if self.steps.ndim == 3 else images * len(self.steps)

    @classmethod
    def from_arrays(
        cls,
        images: ArrayLike | None,
        rotations: ArrayLike,
        pixel_size: float,
        ctf: CTF | None = None,
        shifts: ArrayLike | None = None,
        *,
        N: int | None = None,
        box: int | None = None,
        radius: int | None = None,
        resolution: float | None = None,
        noise_std: ArrayLike = 1.0,
        noise_group: ArrayLike | None = None,
        regularization: ArrayLike = 1e-8,
        symmetry: str = "C1",
        communicator: Communicator = ALONE,
        **slicing: Unpack[SlicingOptions],
    ) -> KnownPoseProblem:
        """Build the problem from arrays.

        Parameters
        ----------
        images : array_like, shape (n, M, M), real, or None
            Images [i, y, x]; None where metadata suffice (Hessian, conditioning), with `N`.
        rotations : array_like, shape (n, 3, 3)
        pixel_size : float
            angstrom.
        ctf : CTF, optional
            Of one image or of n.
        shifts : array_like, shape (n, 2), optional
            (x, y) in angstrom, sign of rlnOriginXAngst.
        N : int, optional
            Image side M, only without images.
        box : int, optional
            Fourier-crop the images to this side; the DFT values are kept as they are.
        radius : int, optional
            R in Fourier pixels.
        resolution : float, optional
            R by resolution in angstrom instead.
        noise_std : float or array_like
            sigma of a DFT coefficient, one number or one per shell 0..R; with noise groups one row
            of such values for each of them.
        noise_group : array_like, shape (n,), optional
            Group of every image, from 0, where groups have a noise of their own.
        regularization : float or array_like
            lambda, one number or one per shell 0..R (the last serves beyond).
        symmetry : str
            Point group of the map, see `fastcryo.symmetry.symmetry_matrices`.
        communicator : Communicator
            The ranks that share the images; all give the same arguments.
        interpolation, oversampling, width, compat, mask, dtype, backend
            See `SliceOperator`; backend "auto" unless given.

        Raises
        ------
        InputError
            Input that cannot be used; the message names the argument.
        """
        if images is not None:
            images = square_images(images, len(rotations))
        elif N is None:
            raise InputError("images: without images the box is needed, give N=")
        side = int(N) if images is None else images.shape[1]
        setup = ImageSet(
            side, pixel_size, ctf, shifts, rotations, symmetry, noise_group=noise_group
        )
        operator = operator_for(setup, box, radius, resolution, **slicing)
        source = None if images is None else source_of_array(images, operator.real_dtype)
        return cls(
            **prepare_data(
                operator, setup, source, noise_std, regularization, communicator=communicator
            )
        )

    @classmethod
    def from_particles(
        cls,
        particles: Particles,
        *,
        box: int | None = None,
        radius: int | None = None,
        resolution: float | None = None,
        noise_std: ArrayLike = 1.0,
        noise_group: ArrayLike | None = None,
        regularization: ArrayLike = 1e-8,
        symmetry: str = "C1",
        invert: bool = False,
        metadata_only: bool = False,
        progress: Callable[[int, int], None] | None = None,
        store: str | os.PathLike | None = None,
        storage: str = "float32",
        overwrite: bool = False,
        communicator: Communicator = ALONE,
        **slicing: Unpack[SlicingOptions],
    ) -> KnownPoseProblem:
        """Build the problem from particles, reading their images block by block.

        Parameters that are not listed are those of `from_arrays`.

        Parameters
        ----------
        particles : Particles
            As `fastcryo.read_particles` returns them.
        invert : bool
            Multiply the images by -1 (protein black on white).
        metadata_only : bool
            Read no image: Hessian and conditioning only.
        progress : callable, optional
            Called with (images done, images in all).
        store : path, optional
            Folder that keeps the prepared images on disk: written the first time, opened at once
            by later runs with the same particles and settings. For sets larger than memory.
        storage : {"float32", "float16", "int16"}
            Numbers in the store: in single precision, or codes of half the size, with an error
            that is measured and stands in its header (`fastcryo.prepared.read_header`).
        overwrite : bool
            Replace a store of other particles or settings.

        Raises
        ------
        InputError
            Input that cannot be used; more images than memory; a store of something else.
        """
        if particles.box is None:
            raise InputError(
                f"{particles.source}: does not say how large the images are, "
                "rlnImageSize or the image stacks are needed"
            )
        setup = ImageSet(
            particles.box,
            particles.pixel_size,
            particles.ctf,
            particles.shifts,
            particles.rotations,
            symmetry,
            imaging_of(particles),
            noise_group,
            particles.scale,
        )
        operator = operator_for(setup, box, radius, resolution, **slicing)
        source = None
        if not metadata_only:
            source = source_of_particles(particles, operator.real_dtype, invert, progress)
        kept = None
        if store is not None:
            kept = Store.of(store, storage, overwrite, particles, invert)
        return cls(
            **prepare_data(operator, setup, source, noise_std, regularization, kept, communicator)
        )

    def loss(self, volume: NDArray, batch: ArrayLike | None = None) -> float:
        """Return f of a half grid for a batch (indices), or for all images.

        Raises
        ------
        InputError
            A problem of metadata only, or a batch that cannot be used.
        """
        images, count = self._batch(batch)
        self._need_data()
        sums = self.operator.energy(volume, self.steps, images, self.weights, self.data)
        return self._loss((*sums, 0.0), images, count) + 0.5 * self._damped_norm(volume)

    def loss_and_gradient(
        self, volume: NDArray, batch: ArrayLike | None = None, out: NDArray | None = None
    ) -> tuple[float, NDArray]:
        """Return f and its gradient, the direction of steepest ascent, from one pass.

        `out`, a half grid, takes the gradient: memory that is used again costs no time to get.
        """
        images, count = self._batch(batch)
        self._need_data()
        gradient, *sums = self.operator.normal(
            volume, *self._tables(images), 1 / count, self._prior, out
        )
        return self._loss(sums, images, count), self._sum(gradient)

    def loss_gradient_and_product(
        self,
        volume: NDArray,
        direction: NDArray,
        batch: ArrayLike | None = None,
        out: tuple[NDArray, NDArray] | None = None,
    ) -> tuple[float, NDArray, NDArray]:
        """Return f, its gradient and the Hessian times a real `direction` from one pass.

        What a step of Algorithm 1 needs, with a probe as direction: coordinates, weights, CTF and
        data are read once for both. The direction is a real half grid, z(k) = z(-k), and so is the
        product, Re H z. `out` takes gradient and product.
        """
        images, count = self._batch(batch)
        self._need_data()
        gradient, product, *sums = self.operator.normal_with_product(
            volume, direction, *self._tables(images), 1 / count, self._prior, out
        )
        return self._loss(sums, images, count), self._sum(gradient), self._sum(product)

    def loss_and_curvature(
        self, volume: NDArray, direction: NDArray, batch: ArrayLike | None = None
    ) -> tuple[float, float]:
        """Return f of `volume` and <d, H d> of `direction` from one forward-only pass."""
        images, count = self._batch(batch)
        self._need_data()
        square, mixed, product_square = self.operator.energies(
            volume, direction, *self._tables(images)
        )
        loss = self._loss((square, mixed, 0.0), images, count) + 0.5 * self._damped_norm(volume)
        return loss, self._curvature(product_square, direction, count)

    def hvp(
        self, direction: NDArray, batch: ArrayLike | None = None, out: NDArray | None = None
    ) -> NDArray:
        """Return the Hessian times a half grid; `out`, a half grid, takes it."""
        images, count = self._batch(batch)
        last = 1 / count, self._prior, out
        return self._sum(self.operator.normal(direction, *self._tables(images, False), *last)[0])

    def products(
        self,
        volume: NDArray,
        direction: NDArray,
        batch: ArrayLike | None = None,
        out: tuple[NDArray, NDArray] | None = None,
    ) -> tuple[NDArray, NDArray]:
        """Return the Hessian times a half grid and times a real one, as above, from one pass."""
        images, count = self._batch(batch)
        last = 1 / count, self._prior, out
        one, other, *_ = self.operator.normal_with_product(
            volume, direction, *self._tables(images, False), *last
        )
        return self._sum(one), self._sum(other)

    def curvature(self, direction: NDArray, batch: ArrayLike | None = None) -> float:
        """Return <d, H d> from one forward-only pass."""
        images, count = self._batch(batch)
        square = self.operator.energy(direction, *self._tables(images, False))[0]
        return self._curvature(square, direction, count)

    def right_hand_side(self) -> NDArray:
        """Return b = 1/n sum_i P_i^H C_i y_i / sigma^2, so that H V = b at the minimiser."""
        _, gradient = self.loss_and_gradient(self.grid.zeros(self.operator.dtype))
        return np.negative(gradient, out=gradient)

    def to_map(self, volume: NDArray) -> NDArray:
        """Return the map ``[z, y, x]`` of a solution, in the grey scale of the uncropped box.

        The window of the interpolation is corrected for (`SliceOperator.to_map`).
        """
        return self.operator.to_map(volume) * (self.grid.box / self.image_box) ** 3

    def hessian_diagonal(self, batch: ArrayLike | None = None) -> NDArray:
        """Return J = diag H = 1/n sum C^2/sigma^2 w^2 + lambda exactly; a real half grid."""
        return self._diagonal(batch, squared=True)

    def gridding_weight(self, batch: ArrayLike | None = None) -> NDArray:
        """Return rho = 1/n sum C^2/sigma^2 w + lambda = H 1, with H <= diag rho."""
        return self._diagonal(batch, squared=False)

    def normal_operator(self, limit: int | None = None) -> NormalOperator:
        """Return H of all images, assembled unless it would take more than `limit` bytes.

        See `fastcryo.normal.assemble`.
        """
        return assemble(self, limit)

    def with_regularization(self, regularization: ArrayLike) -> KnownPoseProblem:
        """Return the same problem, sharing its data, with another lambda (number or per shell)."""
        return replace(self, damping=damping_of(self.operator, regularization))

    def select(self, indices: ArrayLike) -> KnownPoseProblem:
        """Return the problem of some of the images; it shares the prepared data."""
        return replace(self, members=self._images(indices))

    def local_images(self, members: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return the rows of this rank's images among some of the whole set; all unless given."""
        members = self.members if members is None else members
        if self.rows is None:
            return members
        rows = self.rows[members]
        return rows[rows >= 0]

    def _tables(self, images: NDArray[np.int64], with_data: bool = True) -> tuple:
        """Return what the operator takes of some images: steps, images, weights and data."""
        none = np.empty((0, self.operator.samples), self.operator.dtype)
        return self.steps, images, self.weights, self.data if with_data else none

    @property
    def _prior(self) -> NDArray | None:
        """What this rank adds to its sums: lambda on the first, nothing on others."""
        return self.damping if self.communicator.rank == 0 else None

    def _sum(self, total: Any) -> Any:
        """Sum a half grid over ranks, in place."""
        if self.communicator.size > 1:
            host = self.communicator.sum(fetch(total))
            if host is not total:
                total.copy_to_device(host)
        return total

    def _diagonal(self, batch: ArrayLike | None, squared: bool) -> NDArray:
        images, count = self._batch(batch)
        total = self._sum(self.operator.diagonal(self.steps, images, self.weights, squared))
        total /= count
        total += self.damping
        return total

    def _damped_norm(self, volume: NDArray) -> float:
        damping = self.operator.beside(self.damping, volume)
        by_plane = vectors_of(volume).damped_norm_by_plane(volume, damping)
        return total_of_planes(by_plane, self.grid.plane_multiplicity)

    def _curvature(self, square: float, direction: NDArray, count: int) -> float:
        (square,) = self.communicator.sums(square)
        return 2 * square / count + self._damped_norm(direction)

    def _loss(self, sums: tuple[float, ...], images: NDArray[np.int64], count: int) -> float:
        """Return f from this rank's sums; an image counts once for each of its views."""
        energy = float(self.energies[images].sum())
        square, mixed, damped_norm, energy = self.communicator.sums(*sums, energy)
        return (square - 2 * mixed) / count + self.views(1) * energy / count + 0.5 * damped_norm

    def _batch(self, batch: ArrayLike | None) -> tuple[NDArray[np.int64], int]:
        """Return the rows of this rank's images of a batch, and the views of all of them."""
        members = self._images(batch)
        return self.local_images(members), self.views(len(members))

    def _images(self, batch: ArrayLike | None) -> NDArray[np.int64]:
        return self.members if batch is None else self.members[checked_batch(batch, len(self))]

    def _need_data(self) -> None:
        if len(self.data) == 0:
            raise InputError("images: this problem was built from metadata only, it has no loss")
