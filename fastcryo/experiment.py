"""What a simulated experiment is: its settings, and the poses and CTFs drawn from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.rotations import random_rotations, rotation_matrices

ORIENTATIONS = ("uniform", "preferred")
# Less than this is a defocus given in micrometres.
LEAST_DEFOCUS = 100.0


@dataclass(frozen=True)
class Experiment:
    """Settings of a simulation.

    Attributes
    ----------
    box : int or None
        Side of the images, pixels; None: 64, or that of the map that is projected.
    pixel_size : float or None
        Angstrom; None: 3, or that of the map that is projected.
    count : int
        Number of images.
    snr : float or None
        Variance of the signal (CTF included) over that of the noise, both over the whole image,
        averaged over images. The noise is white with standard deviation 1, signal and truth are
        scaled to it. None: no noise, and nothing is scaled.
    ctf : bool
        Apply a CTF.
    defocus : (float, float)
        Range of the mean defocus, angstrom; uniform.
    astigmatism : float
        Standard deviation of the difference of the two defoci, angstrom; its axis is uniform.
    voltage : float
        kV.
    spherical_aberration : float
        mm.
    amplitude_contrast : float
        A fraction.
    phase_shift : float
        Of a phase plate, degrees.
    bfactor : float
        Of an envelope exp(-B q^2 / 4), square angstrom.
    shift_std : float
        Standard deviation of the shifts along x and y, angstrom.
    orientations : {"uniform", "preferred"}
        Preferred: views gather about +z and -z of the density.
    concentration : float
        Of preferred views, that of a von Mises-Fisher distribution: their mean angle from z is
        about 72 / sqrt(concentration) degrees.
    invert : bool
        Dark particles on bright ground, as in micrographs; the truth stays bright.
    seed : int
        The same seed gives the same data set.

    Raises
    ------
    InputError
        A value that cannot be used.
    """

    box: int | None = None
    pixel_size: float | None = None
    count: int = 1000
    snr: float | None = 0.1
    ctf: bool = True
    defocus: tuple[float, float] = (10000.0, 25000.0)
    astigmatism: float = 200.0
    voltage: float = 300.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift: float = 0.0
    bfactor: float = 0.0
    shift_std: float = 3.0
    orientations: str = "uniform"
    concentration: float = 5.0
    invert: bool = False
    seed: int = 0

    def __post_init__(self):
        low, high = self.defocus
        checks = {
            "count": (self.count >= 1, "at least 1"),
            "pixel_size": (
                self.pixel_size is None or 0 < self.pixel_size < np.inf,
                "angstrom above 0",
            ),
            "snr": (self.snr is None or 0 < self.snr < np.inf, "a number above 0, or none"),
            "defocus": (0 <= low <= high < np.inf, "two numbers in ascending order, angstrom"),
            "astigmatism": (0 <= self.astigmatism < np.inf, "angstrom, 0 or more"),
            "voltage": (10 <= self.voltage <= 1500, "kV (as in 300)"),
            "shift_std": (0 <= self.shift_std < np.inf, "angstrom, 0 or more"),
            "orientations": (self.orientations in ORIENTATIONS, " or ".join(ORIENTATIONS)),
            "concentration": (0 < self.concentration < np.inf, "a number above 0"),
            "seed": (self.seed >= 0, "a whole number, 0 or more"),
        }
        for name, (good, need) in checks.items():
            if not good:
                raise InputError(f"{name}: {getattr(self, name)} cannot be used, {need} needed")
        if 0 < high < LEAST_DEFOCUS:
            raise InputError(
                f"defocus: {low:g} to {high:g} A is hardly any, angstrom are needed "
                "(1.5 micrometres are 15000)"
            )

    def draw_rotations(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the poses A, shape (count, 3, 3)."""
        if self.orientations == "uniform":
            return random_rotations(self.count, rng)
        # Inverse of the distribution function of cos(tilt) about one pole.
        uniform, kappa = rng.uniform(size=self.count), self.concentration
        cosine = 1 + np.log(uniform + (1 - uniform) * np.exp(-2 * kappa)) / kappa
        cosine *= rng.choice([-1.0, 1.0], self.count)
        rot, psi = rng.uniform(-180, 180, (2, self.count))
        return rotation_matrices(rot, np.rad2deg(np.arccos(np.clip(cosine, -1, 1))), psi)

    def draw_ctf(self, rng: np.random.Generator) -> CTF | None:
        """Draw the CTFs of `count` images; None without CTF."""
        if not self.ctf:
            return None
        mean = rng.uniform(*self.defocus, self.count)
        half_difference = np.abs(rng.normal(0.0, self.astigmatism, self.count)) / 2
        return CTF(
            defocus_u=mean + half_difference,
            defocus_v=mean - half_difference,
            defocus_angle=rng.uniform(0.0, 180.0, self.count),
            voltage=self.voltage,
            spherical_aberration=self.spherical_aberration,
            amplitude_contrast=self.amplitude_contrast,
            phase_shift=self.phase_shift,
            bfactor=self.bfactor,
        )
