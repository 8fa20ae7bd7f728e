"""The background of images brought to mean 0 and standard deviation 1, as RELION does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastcryo.errors import InputError

# Of the side of the box: RELION's default, a circle of 75 % of the box across.
USUAL_RADIUS = 0.375
FEWEST_PIXELS = 16


@dataclass(frozen=True)
class Background:
    """The pixels of an image farther from its centre than a radius, and what is done with them.

    The mean of these pixels is taken off the image, which then is divided by their standard
    deviation (that of the whole of them, as RELION's ``normalise`` takes it). With `ramp` a plane
    fitted to them by least squares is taken off first.

    Parameters
    ----------
    box : int
        Side of the images, pixels; the centre is pixel box // 2.
    radius : float
        Pixels.
    ramp : bool
    """

    box: int
    radius: float
    ramp: bool = False

    @classmethod
    def of(cls, size: float, box: int, pixel_size: float, ramp: bool = False) -> Background:
        """Return the background outside a radius in angstrom, or in sides of the box below 1.

        Raises
        ------
        InputError
            A radius beyond the edge of the images, or that leaves no pixel inside.
        """
        radius = size * box if size < 1 else size / pixel_size
        made = cls(box, radius, ramp)
        if not 1 <= radius <= box / 2 or made.outside.sum() < FEWEST_PIXELS:
            raise InputError(
                f"normalisation: a radius of {radius * pixel_size:.4g} angstrom ({radius:.3g} "
                f"pixels) cannot be used for images of {box} pixels of {pixel_size:.4g} angstrom, "
                f"give {pixel_size:.3g} to {box * pixel_size / 2:.4g} angstrom, or a part of the "
                f"side below 0.5 ({USUAL_RADIUS} is usual)"
            )
        return made

    def describe(self, pixel_size: float) -> str:
        """Say what is done, with the radius in all units."""
        ramp = "planes (ramps) taken off, " if self.ramp else ""
        return (
            f"{ramp}background beyond {self.radius * pixel_size:.4g} Å ({self.radius:.4g} pixels, "
            f"{self.radius / self.box:.3g} of the side) brought to mean 0, standard deviation 1"
        )

    @cached_property
    def outside(self) -> NDArray[np.bool_]:
        """The pixels of the background, shape (box, box)."""
        x = np.arange(self.box) - self.box // 2
        return x[:, None] ** 2 + x**2 > self.radius**2

    @cached_property
    def _plane(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Functions 1, x, y of all pixels, (3, box box), and what fits them to the background."""
        x = (np.arange(self.box) - self.box // 2) / self.box
        ones = np.ones((self.box, self.box))
        functions = np.stack([ones, ones * x, ones * x[:, None]]).reshape(3, -1)
        return functions, np.linalg.pinv(functions[:, self.outside.ravel()].T)

    def normalize(self, images: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Normalise images (m, box, box) in place.

        Returns
        -------
        ndarray, shape (m,), bool
            Those whose background is constant: their standard deviation says nothing, they are left
            as they are.
        """
        flat = images.reshape(len(images), -1)
        outside = self.outside.ravel()
        constant = np.zeros(len(images), bool)
        # Image by image: sums in double precision, and what is at work stays in the cache.
        for image, empty in zip(flat, np.ndindex(constant.shape), strict=True):
            pixels = image[outside].astype(np.float64)
            level = np.abs(pixels).max(initial=0.0)
            plane = None
            if self.ramp:
                functions, fit = self._plane
                plane = np.einsum("ij,j->i", fit, pixels)
                pixels -= np.einsum("i,ij->j", plane, functions[:, outside])
            mean, spread = pixels.mean(), pixels.std()
            if spread <= 1e-6 * level:
                constant[empty] = True
                continue
            if plane is not None:
                image -= np.einsum("i,ij->j", plane, functions)
            image -= mean
            image /= spread
        return constant
