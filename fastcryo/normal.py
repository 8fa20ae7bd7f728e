"""The normal operator H of all images, assembled: its products cost the same for any number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.arrays import kernel_array
from fastcryo.errors import InputError
from fastcryo.free_memory import free_memory
from fastcryo.grid import FourierGrid
from fastcryo.kernels import layout
from fastcryo.kernels.cpu import prepare, stencil, vectors
from fastcryo.masks import mask_power
from fastcryo.operators import PRECISIONS
from fastcryo.rows import blocks, copies_of
from fastcryo.threads import thread_count
from fastcryo.toeplitz import Toeplitz, toeplitz

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from fastcryo.problem import KnownPoseProblem

# Rows of the stencil are 15 times as long as those of a volume, so its tiles are smaller.
PADDED = (
    "H of an oversampled trilinear window is no stencil and no convolution: "
    "every product goes through all images"
)
TILE_SHAPE = (4, 8)


@dataclass(frozen=True, eq=False)
class RealCoordinates:
    """Half grids as vectors of real numbers, so that lengths are those of the full grid.

    The plain dot product of two vectors is the inner product of the full grid, and an operator that
    is symmetric there is a symmetric matrix here. A coefficient that stands for itself and its
    mirror gives two numbers, sqrt(2) times its real and its imaginary part; one that is its own
    mirror gives its real part. Coefficients whose mirror is stored as well, on the planes kz = 0
    and, of even boxes, kz = N / 2, are kept once.

    Attributes
    ----------
    grid : FourierGrid
    pairs : ndarray of int64
        Flat indices of the coefficients that stand for two.
    selves : ndarray of int64
        Flat indices of those that are their own mirrors.
    doubled, mirrors : ndarray of int64
        Places in `pairs` whose mirror is stored, and the flat indices of these mirrors.
    """

    grid: FourierGrid
    pairs: NDArray[np.int64] = field(repr=False)
    selves: NDArray[np.int64] = field(repr=False)
    doubled: NDArray[np.int64] = field(repr=False)
    mirrors: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of real unknowns."""
        return 2 * len(self.pairs) + len(self.selves)

    def pack(self, half: NDArray) -> NDArray[np.float64]:
        """Return the vector of a half grid; coefficients outside the domain are left out."""
        self.grid.check(half)
        flat = half.reshape(-1)
        values = flat[self.pairs] * np.sqrt(2)
        return np.concatenate([values.real, values.imag, flat[self.selves].real], dtype=np.float64)

    def unpack(self, vector: NDArray) -> NDArray[np.complex128]:
        """Return the half grid of a vector; zero outside the domain."""
        half = self.grid.zeros(np.complex128)
        flat, count = half.reshape(-1), len(self.pairs)
        values = np.empty(count, np.complex128)
        values.real = vector[:count]
        values.imag = vector[count : 2 * count]
        values *= np.sqrt(0.5)
        flat[self.pairs] = values
        flat[self.mirrors] = np.conj(values[self.doubled])
        flat[self.selves] = vector[2 * count :]
        return half

    def pack_diagonal(self, half: NDArray) -> NDArray[np.float64]:
        """Return the entries of a real diagonal (real half grid) for every unknown."""
        self.grid.check(half)
        values = half.reshape(-1)[self.pairs].astype(np.float64)
        return np.concatenate([values, values, half.reshape(-1)[self.selves]], dtype=np.float64)


def real_coordinates(grid: FourierGrid, domain: NDArray | None = None) -> RealCoordinates:
    """Return the real coordinates of a grid.

    Parameters
    ----------
    grid : FourierGrid
    domain : ndarray of bool, half grid, optional
        Coefficients to keep, symmetric under k -> -k; all N^3 unless given.
    """
    n = grid.box
    index = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    mirror_of = (2 * grid.centre - np.arange(n)) % n
    pairs, selves, doubled, mirrors = [], [], [], []
    found = 0
    for z, plane in enumerate(index):
        kept = np.ones((n, n), bool) if domain is None else domain[z]
        if grid.plane_multiplicity[z] == 2:
            pairs.append(plane[kept])
        else:
            mirror = plane[mirror_of][:, mirror_of]
            chosen = kept & (plane < mirror)
            pairs.append(plane[chosen])
            mirrors.append(mirror[chosen])
            doubled.append(found + np.arange(chosen.sum()))
            selves.append(plane[kept & (plane == mirror)])
        found += len(pairs[-1])
    return RealCoordinates(grid, *map(np.concatenate, (pairs, selves, doubled, mirrors)))


@dataclass(frozen=True, eq=False)
class NormalOperator:
    """H = 1/n sum P^H C^2/sigma^2 P + lambda of all images of a problem.

    Make one with `KnownPoseProblem.normal_operator`. ``trilinear``: 14 distinct arrays of the size
    of the half ball (`fastcryo.kernels.cpu.stencil`); ``nearest``: the diagonal;
    ``kaiser_bessel``: a convolution of the map (`fastcryo.toeplitz`); none of them: products go
    through all images.

    Attributes
    ----------
    problem : KnownPoseProblem
    stencil : ndarray, shape (R + 1, 2 R + 1, 5, 3 (2 R + 3)), or None
    weight : ndarray, real half grid, or None
        H without lambda, if it is diagonal.
    notes : tuple of str
        Why H is not assembled, if it is not.
    convolution : Toeplitz or None
        H without lambda, if it is one, to the accuracy of the window.
    """

    problem: KnownPoseProblem
    stencil: NDArray | None = field(repr=False)
    weight: NDArray | None = field(repr=False)
    notes: tuple[str, ...] = ()
    convolution: Toeplitz | None = field(default=None, repr=False)

    @property
    def grid(self) -> FourierGrid:
        """The Fourier grid."""
        return self.problem.grid

    @property
    def assembled(self) -> bool:
        """Whether products leave the images alone."""
        return any(part is not None for part in (self.stencil, self.weight, self.convolution))

    def with_regularization(self, regularization: ArrayLike) -> NormalOperator:
        """Return the operator of the same images with another lambda (number or per shell).

        It shares what is assembled; its `problem` is the one with that lambda.
        """
        return replace(self, problem=self.problem.with_regularization(regularization))

    def check(self, problem: KnownPoseProblem) -> None:
        """Make sure that this is H of a problem.

        Raises
        ------
        InputError
            It was made for other images or another lambda.
        """
        mine = self.problem
        if mine is problem:
            return
        same = mine.steps is problem.steps and mine.weights is problem.weights
        if not (same and np.array_equal(mine.members, problem.members)):
            raise InputError(
                "operator: it was made for other images, use normal_operator() of this problem"
            )
        if not np.array_equal(mine.damping, problem.damping):
            raise InputError(
                "operator: it was made for another regularization, "
                "use operator.with_regularization(...) and its problem"
            )

    @cached_property
    def _widths(self) -> NDArray[np.int64]:
        return layout.row_widths(self.grid.radius)

    def matvec(self, Z: NDArray) -> NDArray:
        """Return H Z.

        Parameters
        ----------
        Z : ndarray, half grid, complex
            An assembled product sums in its precision, complex64 or complex128, whatever that of
            the problem, with the entries of H as they are stored.

        Returns
        -------
        ndarray, half grid
        """
        self.grid.check(Z)
        if self.weight is not None:
            return Z * (self.weight + self.problem.damping)
        if self.convolution is not None:
            return self.convolution.product(Z) + self.problem.damping * Z
        if self.stencil is None:
            return self.problem.hvp(Z)
        dtype = np.result_type(Z.dtype, np.complex64)
        radius, side = self.grid.radius, 2 * self.grid.radius + 3
        parts = np.zeros((2, radius + 2, side, side), np.finfo(dtype).dtype)
        out = self.grid.zeros(dtype)
        stencil.split_parts(Z, radius, *parts)
        stencil.multiply(
            self.stencil.reshape(-1),
            *parts.reshape(2, -1),
            self._widths,
            self.grid.box,
            thread_count(),
            out.reshape(-1),
        )
        prepare.add_mirror(out[0].copy(), out[0])
        vectors.finish_sum(out, kernel_array(Z, dtype), parts.dtype.type(1), self.problem.damping)
        return out

    def diagonal(self) -> NDArray:
        """Return J = diag H, a real half grid."""
        if self.weight is not None:
            return self.weight + self.problem.damping
        if self.convolution is not None:
            return self.convolution.diagonal + self.problem.damping
        if self.stencil is None:
            return self.problem.hessian_diagonal()
        r, c = self.grid.radius, self.grid.centre
        side = 2 * r + 3
        out = np.zeros(self.grid.shape, self.stencil.dtype)
        # Pair 0 is the row itself, and its middle third the voxel itself.
        middle = self.stencil[:, :, 0, side + 1 : 2 * side - 1]
        out[: r + 1, c - r : c + r + 1, c - r : c + r + 1] = middle
        prepare.add_mirror(out[0].copy(), out[0])
        return out + self.problem.damping

    def gridding_weight(self) -> NDArray:
        """Return rho = H 1, the sums of the rows of H, a real half grid; H <= diag rho.

        Oversampled windows: see `SliceOperator.diagonal`.
        """
        if not self.assembled:
            return self.problem.gridding_weight()
        if self.convolution is not None:
            found = self.convolution.diagonal
            power = found.dtype.type(mask_power(self.convolution.mask))
            return found / power + self.problem.damping
        return self.matvec(np.ones(self.grid.shape, self.problem.operator.dtype)).real.copy()

    def as_linear_operator(self, coordinates: RealCoordinates | None = None) -> LinearOperator:
        """Return H as a symmetric operator on vectors of float64.

        Parameters
        ----------
        coordinates : RealCoordinates, optional
            What the vectors stand for: all N^3 unknowns unless given. A smaller domain gives that
            block of H.
        """
        from scipy.sparse.linalg import LinearOperator

        chosen = real_coordinates(self.grid) if coordinates is None else coordinates

        def product(vector: NDArray) -> NDArray:
            return chosen.pack(self.matvec(chosen.unpack(vector.reshape(-1))))

        return LinearOperator(
            (len(chosen), len(chosen)), matvec=product, rmatvec=product, dtype=np.float64
        )


def memory(grid: FourierGrid, interpolation: str = "trilinear", itemsize: int = 4) -> int:
    """Return the bytes that the assembled operator takes.

    Parameters
    ----------
    grid : FourierGrid
    interpolation : {"trilinear", "nearest", "kaiser_bessel"}
    itemsize : int
        Bytes of a real number of the problem's precision.
    """
    if interpolation == "kaiser_bessel":
        return 4 * grid.box**2 * (grid.box + 1) * itemsize
    shape = grid.shape if interpolation == "nearest" else stencil.stencil_shape(grid.radius)
    return int(np.prod(shape, dtype=np.int64)) * itemsize


def assemble(problem: KnownPoseProblem, limit: int | None = None) -> NormalOperator:
    """Assemble H in one pass over poses and CTFs; no image is read.

    Parameters
    ----------
    problem : KnownPoseProblem
    limit : int, optional
        Bytes that H may take: half of the free memory unless given. Beyond it the result is not
        assembled and `NormalOperator.notes` says so.

    Returns
    -------
    NormalOperator
    """
    operator, grid = problem.operator, problem.grid
    if operator.interpolation == "trilinear" and operator.oversampling is not None:
        return NormalOperator(problem, None, None, (PADDED,))
    needed = memory(grid, operator.interpolation, operator.real_dtype.itemsize)
    if limit is None:
        free = free_memory(problem.communicator)
        limit = needed if free is None else free // 2
    if needed > limit:
        note = (
            f"the assembled operator would take {needed / 2**30:.3g} GiB, more than the "
            f"{limit / 2**30:.3g} GiB that it may: every product goes through all images instead"
        )
        return NormalOperator(problem, None, None, (note,))
    if operator.interpolation == "kaiser_bessel":
        return NormalOperator(problem, None, None, (), toeplitz(problem))
    if operator.interpolation == "nearest":
        return NormalOperator(problem, None, problem.with_regularization(0.0).hessian_diagonal())
    entries = np.zeros(stencil.stencil_shape(grid.radius), operator.real_dtype)
    radius = grid.radius
    tiles, _ = layout.disc_tiles(radius, *TILE_SHAPE)
    colours = layout.tile_colours(tiles, radius, *TILE_SHAPE)
    none = (np.empty(0, operator.dtype),)
    tables = (problem.weights, entries.reshape(-1), radius)
    members = problem.local_images()
    copies = (
        (part, images, view)
        for part, images, steps in blocks(tables, members, problem.steps, operator.samples)
        for view in copies_of(steps)
    )
    for part, images, steps in copies:
        # Entries are added where they belong, with no buffer between: only tiles that are not
        # neighbours may do so side by side.
        for colour in range(4):
            chosen = tiles[colours == colour]
            stencil.assemble(
                none,
                none,
                part,
                images,
                steps,
                operator.rows,
                chosen,
                np.full((len(chosen), 3), -1),
                layout.row_widths(radius),
                grid.box,
                PRECISIONS[operator.real_dtype.name][1],
                thread_count(),
                operator.real_dtype.type(1),
                np.empty(0, operator.real_dtype),
                True,
                max(1, len(images)),
                np.empty((len(chosen), 4)),
            )
    problem.communicator.sum(entries)
    stencil.separate(entries, entries.dtype.type(1 / problem.views(len(problem))))
    return NormalOperator(problem, entries, None)
