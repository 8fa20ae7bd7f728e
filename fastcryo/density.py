"""Densities whose projections are known: what Gaussian atoms and maps have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fastcryo.ctf import CTF
from fastcryo.threads import thread_count

BATCH_BYTES = 64 * 2**20


class Density(ABC):
    """A density with an exact Fourier transform F, from which volumes and images are made.

    Voxels and pixels hold integrals of the density, so that the unnormalised DFT of a volume or
    an image *is* F at k / (N a), at every frequency of the grid but the Nyquist ones of an even
    box, which are zero. Images and volumes are therefore periodic: what a projection or the CTF
    carries over an edge comes in at the opposite one.
    """

    @abstractmethod
    def slices(
        self,
        rotations: ArrayLike,
        box: int,
        pixel_size: float,
        heights: ArrayLike | None = None,
    ) -> NDArray[np.complex128]:
        """Evaluate planes of F.

        Parameters
        ----------
        rotations : array_like, shape (n, 3, 3)
            A of every plane.
        box : int
            N.
        pixel_size : float
            a, angstrom.
        heights : array_like, shape (n,), optional
            l; 0 (central slices) unless given.

        Returns
        -------
        ndarray, shape (n, N, N // 2 + 1)
            F((h A[0] + k A[1] + l A[2]) / (N a)) as ``[i, k, h]`` in the order of rfft2.
        """

    def volume(self, box: int, pixel_size: float) -> NDArray[np.float32]:
        """Return the volume ``[z, y, x]``, shape (N, N, N), origin at voxel N // 2."""
        spectrum = np.zeros((box, box, box // 2 + 1), dtype=np.complex128)
        heights = scipy.fft.fftfreq(box, 1 / box)
        planes = np.flatnonzero(np.abs(heights) <= (box - 1) // 2)
        for batch in np.array_split(planes, -(-len(planes) // batch_size(box))):
            same = np.broadcast_to(np.eye(3), (len(batch), 3, 3))
            spectrum[batch] = self.slices(same, box, pixel_size, heights[batch])
        volume = scipy.fft.irfftn(spectrum, s=(box,) * 3, workers=thread_count())
        return np.fft.fftshift(volume).astype(np.float32)

    def projections(
        self,
        rotations: ArrayLike,
        box: int,
        pixel_size: float,
        *,
        ctf: CTF | None = None,
        shifts: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """Project, then apply the CTF and the shifts.

        Parameters
        ----------
        rotations : array_like, shape (n, 3, 3)
        box : int
            N.
        pixel_size : float
            a, angstrom.
        ctf : CTF, optional
            Of n images; none unless given.
        shifts : array_like, shape (n, 2), optional
            (rlnOriginXAngst, rlnOriginYAngst), angstrom: what brings the particle to the centre.

        Returns
        -------
        ndarray, shape (n, N, N)
            Images ``[i, y, x]``, origin at pixel N // 2, whose DFT is
            C(h, k) F((h A[0] + k A[1]) / (N a)) exp(2 pi i (h sx + k sy) / (N a)).
        """
        spectrum = self.slices(rotations, box, pixel_size)
        fx = scipy.fft.rfftfreq(box, pixel_size)
        fy = scipy.fft.fftfreq(box, pixel_size)
        if ctf is not None:
            spectrum *= ctf.evaluate(fx, fy[:, None])
        if shifts is not None:
            turns = 2j * np.pi * np.asarray(shifts, dtype=np.float64)
            spectrum *= np.exp(turns[:, 0, None] * fx)[:, None, :]
            spectrum *= np.exp(turns[:, 1, None] * fy)[:, :, None]
        images = scipy.fft.irfft2(spectrum, s=(box, box), workers=thread_count())
        return np.fft.fftshift(images, axes=(1, 2)).astype(np.float32)


def batch_size(box: int) -> int:
    """Return the number of images whose making takes about `BATCH_BYTES`."""
    return max(1, BATCH_BYTES // (8 * (2 * box) ** 2))
