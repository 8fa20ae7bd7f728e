"""The problem that every peer solves, in NumPy only: workers of peers import nothing else of ours.

**Conventions.** Those of docs/conventions.md: volume [z, y, x] in real space with its origin at
pixel N // 2, V = fftn(ifftshift(v)), slice value (P V)(h, k) = V(h A[0] + k A[1]) at integer
frequencies (h, k) along (x, y), sqrt(h^2 + k^2) <= R = (N - 1) // 2. Arrays of images hold half
planes in the order of numpy.fft.rfft2, ``[image, k, h]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Frequencies at which slices are compared with the direct sum.
CHECKS = 64


@dataclass(frozen=True, eq=False)
class SharedProblem:
    """Volume, poses, CTFs and images of 1/2 sum |C P V - y|^2.

    The volume is white noise within half of the box's radius: every frequency weighs alike, and
    the density fills as much of the box as a particle does.
    """

    box: int
    images: int
    threads: int

    @property
    def radius(self) -> int:
        """R, the last shell below Nyquist."""
        return (self.box - 1) // 2

    @cached_property
    def rotations(self) -> NDArray[np.float64]:
        """Uniformly random A, shape (n, 3, 3): images are v rotated by A."""
        rng = np.random.default_rng(1)
        q, r = np.linalg.qr(rng.standard_normal((self.images, 3, 3)))
        q *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
        q[:, 0] *= np.sign(np.linalg.det(q))[:, None]
        return q

    @cached_property
    def volume(self) -> NDArray[np.float32]:
        """The density, shape (N, N, N)."""
        axis = np.arange(self.box) - self.box // 2
        z, y, x = np.ix_(axis, axis, axis)
        inside = z**2 + y**2 + x**2 <= (self.box / 4) ** 2
        density = np.random.default_rng(2).standard_normal((self.box,) * 3, dtype=np.float32)
        return np.where(inside, density, np.float32(0))

    @cached_property
    def ctfs(self) -> NDArray[np.float32]:
        """C of every image on half planes, shape (n, N, N // 2 + 1)."""
        k = np.fft.fftfreq(self.box)[:, None]
        h = np.fft.rfftfreq(self.box)[None, :]
        square = (k**2 + h**2).astype(np.float32)
        defocus = np.random.default_rng(3).uniform(150, 400, self.images).astype(np.float32)
        return np.sin(defocus[:, None, None] * square + np.float32(0.1))

    @cached_property
    def data(self) -> NDArray[np.complex64]:
        """Transforms of images of white noise, shape (n, N, N // 2 + 1)."""
        rng = np.random.default_rng(4)
        shape = (self.images, self.box, self.box // 2 + 1)
        parts = rng.standard_normal((*shape, 2), dtype=np.float32)
        return parts.view(np.complex64)[..., 0] * np.float32(self.box / np.sqrt(2))

    @cached_property
    def checks(self) -> tuple[NDArray, NDArray, NDArray]:
        """Image, h and k of the samples that are compared: within the disc, h > 0."""
        rng = np.random.default_rng(5)
        image = rng.integers(0, self.images, 4 * CHECKS)
        h = rng.integers(1, self.radius + 1, 4 * CHECKS)
        k = rng.integers(-self.radius, self.radius + 1, 4 * CHECKS)
        inside = np.flatnonzero(h**2 + k**2 <= self.radius**2)[:CHECKS]
        return image[inside], h[inside], k[inside]

    def exact(self) -> NDArray[np.complex128]:
        """Return the slices at `checks` by the direct sum over all voxels, in double precision."""
        image, h, k = self.checks
        a = self.rotations[image]
        frequency = h[:, None] * a[:, 0] + k[:, None] * a[:, 1]
        axis = np.arange(self.box) - self.box // 2
        waves = np.exp(-2j * np.pi / self.box * frequency[:, :, None] * axis)
        x, y, z = waves[:, 0], waves[:, 1], waves[:, 2]
        along_x = self.volume.astype(np.float64) @ x.T
        along_y = np.einsum("zyc,cy->zc", along_x, y)
        return np.einsum("zc,cz->c", along_y, z)

    def error(self, values: NDArray) -> float:
        """Return the relative error of slices at `checks`, root of the sums of squares."""
        exact = self.exact()
        return float(np.linalg.norm(values - exact) / np.linalg.norm(exact))

    def disc(self) -> NDArray[np.bool_]:
        """Return which points of a half plane lie within the disc, shape (N, N // 2 + 1)."""
        k = np.fft.fftfreq(self.box, 1 / self.box)[:, None]
        h = np.arange(self.box // 2 + 1)[None, :]
        return k**2 + h**2 <= self.radius**2


@dataclass(frozen=True, eq=False)
class Prepared:
    """What an adapter offers for one problem.

    Attributes
    ----------
    operations : dict of callable
        By the names of `peers.OPERATIONS`; those that are missing are not timed.
    checked : callable
        Returns the slices at `SharedProblem.checks`.
    points : int
        Points of a slice that are computed.
    what : str
        What is computed, in a few words.
    """

    operations: dict[str, Callable[[], object]]
    checked: Callable[[], NDArray]
    points: int
    what: str
