"""What the images of an optics group need besides their CTFs: RELION's higher-order optics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastcryo.kernels.cpu.aberrations import AS_THEY_ARE, PHASE_FLIPPED, PREMULTIPLIED
from fastcryo.kernels.formulas import electron_wavelength
from fastcryo.resample import window_side

if TYPE_CHECKING:
    from fastcryo.io.records import OpticsGroup, Particles

IDENTITY = (1.0, 0.0, 0.0, 1.0)
CORRECTIONS = {"": AS_THEY_ARE, "phase-flipped": PHASE_FLIPPED, "premultiplied": PREMULTIPLIED}
IMAGES_AT_ONCE = 16
SMALLEST_GAIN = 1e-3
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Aberrations:
    """Aberrations of an optics group, with RELION's definitions and signs.

    Frequencies (x, y) are in 1/angstrom, after the magnification matrix.

    Parameters
    ----------
    beam_tilt : tuple of 2 floats
        rlnBeamTiltX and Y, mrad: the phase -2e4 pi Cs lambda^2 (x^2 + y^2) (tx x + ty y), Cs in mm.
    odd : tuple of floats
        rlnOddZernike: coefficients of antisymmetric Zernike polynomials, a phase in radians.
    even : tuple of floats
        rlnEvenZernike: those of symmetric ones, taken off the argument of the CTF's sine.
    """

    beam_tilt: tuple[float, float] = (0.0, 0.0)
    odd: tuple[float, ...] = ()
    even: tuple[float, ...] = ()

    def odd_phase(self, x: FloatArray, y: FloatArray, wavelength: float, cs: float) -> FloatArray:
        """Return the phase by which an image is ahead of C P V; lengths in angstrom, Cs in mm."""
        phase = zernike_sum(self.odd, odd_orders, x, y)
        if any(self.beam_tilt):
            scale = 2e4 * np.pi * cs * wavelength**2
            tilt_x, tilt_y = self.beam_tilt
            phase = phase - scale * (x * x + y * y) * (tilt_x * x + tilt_y * y)
        return phase

    def even_phase(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return what is taken off the argument of the CTF's sine."""
        return zernike_sum(self.even, even_orders, x, y)


NO_ABERRATIONS = Aberrations()


def distinct_rows(columns: Sequence[FloatArray]) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the distinct rows of a table, sorted, and which of them each row is.

    As ``np.unique(..., axis=0)`` does, without sorting the table: most columns are constant.
    """
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        found, places = np.unique(column, return_inverse=True)
        if len(found) > 1:
            codes = np.unique(codes * len(found) + places, return_inverse=True)[1]
    _, first = np.unique(codes, return_index=True)
    return np.stack([column[first] for column in columns], axis=1), codes


def even_orders(index: int) -> tuple[int, int]:
    """Return m and n of the even Zernike polynomials in RELION's order."""
    k = math.isqrt(index)
    return 2 * (index - k * k - k), 2 * k


def odd_orders(index: int) -> tuple[int, int]:
    """Return m and n of the odd ones."""
    k = (math.isqrt(1 + 4 * index) - 1) // 2
    n = 2 * k + 1
    return 2 * (index - k * k - k) - n, n


def zernike(m: int, n: int, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the Zernike polynomial of order (m, n); m < 0 stands for the sines.

    R(r) cos(m t) or R(r) sin(|m| t), with R(r) the sum over k <= (n - |m|) / 2 of
    (-1)^k (n - k)! / (k! ((n + |m|) / 2 - k)! ((n - |m|) / 2 - k)!) r^(n - 2k).
    """
    order = abs(m)
    r2 = x * x + y * y
    # r^|m| exp(i |m| t) is a polynomial, and needs no angle at the origin.
    angular = (x + 1j * y) ** order
    radial = np.zeros_like(r2)
    for k in range((n - order) // 2 + 1):
        numbers = [math.factorial(v) for v in (k, (n + order) // 2 - k, (n - order) // 2 - k)]
        factor = (-1) ** k * math.factorial(n - k) / math.prod(numbers)
        radial += factor * r2 ** ((n - order) // 2 - k)
    return radial * (angular.imag if m < 0 else angular.real)


def zernike_sum(coefficients: Sequence[float], orders, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return a sum of Zernike polynomials, those of `orders`."""
    total = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)))
    for index, coefficient in enumerate(coefficients):
        if coefficient:
            total = total + coefficient * zernike(*orders(index), x, y)
    return total


@dataclass(frozen=True, eq=False)
class Imaging:
    """How the pixels of a set depart from C P V on one common grid.

    Attributes
    ----------
    group : ndarray, shape (n,), int64
        Index into the other arrays, of every image.
    warps : ndarray, shape (g, 2, 2)
        Sample (h, k) of an image stands for the frequency warp (h, k), cycles per box of the set.
    limits : ndarray, shape (g,)
        No sample beyond |(h, k)| counts: the pixels were too coarse.
    corrections : ndarray, shape (g,), int64
        See `fastcryo.kernels.cpu.aberrations`.
    scales : ndarray, shape (g,)
        Pixel size of the images as resampled over that of the set.
    aberrations : tuple of (Aberrations, wavelength in angstrom, Cs in mm)
    """

    group: NDArray[np.int64]
    warps: FloatArray
    limits: FloatArray
    corrections: NDArray[np.int64]
    scales: FloatArray
    aberrations: tuple[tuple[Aberrations, float, float], ...]

    @property
    def stretch(self) -> float:
        """How much farther out than (h, k) a sample can lie."""
        return max(1.0, float(np.linalg.norm(self.warps, 2, axis=(1, 2)).max()))

    def bend(self, rotations: FloatArray) -> FloatArray:
        """Return the rows (n, 2, 3) by which (h, k) of an image reads the volume.

        At frequency (x, y) = warp (h, k) it is x A[0] + y A[1] = h B[0] + k B[1].
        """
        return np.einsum("nji,njk->nik", self.warps[self.group], rotations[:, :2])

    def phases(self, h: NDArray, k: NDArray, length: float) -> tuple[FloatArray, FloatArray]:
        """Return even and odd phases (g, samples) of samples (h, k); side in angstrom."""
        even, odd = [], []
        for warp, (aberrations, wavelength, cs) in zip(self.warps, self.aberrations, strict=True):
            x, y = np.tensordot(warp, np.stack([h, k]) / length, 1)
            even.append(aberrations.even_phase(x, y))
            odd.append(aberrations.odd_phase(x, y, wavelength, cs))
        return np.stack(even), np.stack(odd)

    def arrays(self) -> tuple[NDArray, ...]:
        """Return all numbers, to tell one imaging from another."""
        numbers = [[*a.beam_tilt, *a.odd, 0, *a.even, w, cs] for a, w, cs in self.aberrations]
        flat = np.array([v for row in numbers for v in row], np.float64)
        return self.group, self.warps, self.limits, self.corrections, self.scales, flat


def imaging_of(particles: Particles) -> Imaging | None:
    """Return what the particles' images need besides their CTFs; None if that is nothing.

    Aberrations go with a CTF: particles without one are taken as free of them.
    """
    kinds: dict[tuple, int] = {}
    places = [kinds.setdefault(_kind(group, particles), len(kinds)) for group in particles.optics]
    plain = (NO_ABERRATIONS, IDENTITY, 1.0, math.inf, AS_THEY_ARE)
    if all((kind[0], *kind[3:]) == plain for kind in kinds):
        return None
    aberrations, wavelengths, cs, matrices, scales, limits, corrections = zip(*kinds, strict=True)
    scales = np.array(scales)
    return Imaging(
        group=np.array(places)[particles.optics_group],
        warps=np.array(matrices).reshape(-1, 2, 2) / scales[:, None, None],
        limits=np.array(limits, np.float64),
        corrections=np.array(corrections, np.int64),
        scales=scales,
        aberrations=tuple(zip(aberrations, wavelengths, cs, strict=True)),
    )


def noise_gain(particles: Particles, chosen: NDArray[np.int64], radius: int) -> FloatArray:
    """Return the factor by shell that corrected images have on the power of their noise.

    Images multiplied by their CTF have noise C^2 sigma^2 where the model says sigma^2.

    Parameters
    ----------
    particles : Particles
    chosen : ndarray of int64
        The images that the noise is measured on.
    radius : int
        Last shell, in Fourier pixels.

    Returns
    -------
    ndarray, shape (radius + 1,)
        1 where no image is multiplied by its CTF.
    """
    corrected = [group.corrected == "premultiplied" for group in particles.optics]
    multiplied = chosen[np.array(corrected)[particles.optics_group[chosen]]]
    if len(multiplied) == 0:
        return np.ones(radius + 1)
    k, h = np.mgrid[-radius : radius + 1, : radius + 1]
    shells = np.rint(np.hypot(h, k)).astype(np.int64)
    inside = shells <= radius
    h, k, shells = h[inside], k[inside], shells[inside]
    length, power = particles.box * particles.pixel_size, np.zeros(len(shells))
    for start in range(0, len(multiplied), IMAGES_AT_ONCE):
        some = particles.ctf.select(multiplied[start : start + IMAGES_AT_ONCE])
        power += np.square(some.evaluate(h / length, k / length)).sum(axis=0)
    by_shell = np.bincount(shells, power) / np.bincount(shells) / len(multiplied)
    share = len(multiplied) / len(chosen)
    return np.maximum(share * by_shell + (1 - share), SMALLEST_GAIN)


def _kind(group: OpticsGroup, particles: Particles) -> tuple:
    """Aberrations, wavelength, Cs, magnification matrix, scale, limit and correction of a group."""
    box, pixel_size = particles.box, particles.pixel_size
    side = window_side(group.box, group.pixel_size, box, pixel_size)
    aberrations = group.aberrations if particles.ctf is not None else NO_ABERRATIONS
    needed = any(aberrations.beam_tilt) or any(aberrations.odd) or any(aberrations.even)
    return (
        aberrations if needed else NO_ABERRATIONS,
        float(electron_wavelength(group.voltage * 1e3)) if needed else 0.0,
        group.spherical_aberration if needed else 0.0,
        group.magnification,
        1.0 if side is None else side * group.pixel_size / (box * pixel_size),
        math.inf if side is None or side >= box else (side - 1) // 2,
        CORRECTIONS[group.corrected],
    )
