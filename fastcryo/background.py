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
# Of the mean square: less than this is rounding.
CONSTANT = 1e-12


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
    def _tables(self) -> tuple[NDArray[np.float64], ...]:
        """Return 1 outside and 0 inside, x by column, and what fits 1, x, y to their sums."""
        outside = self.outside.astype(np.float64)
        x = (np.arange(self.box) - self.box // 2) / self.box
        ones = np.ones((self.box, self.box))
        functions = np.stack([ones, ones * x, ones * x[:, None]])[:, self.outside]
        count = 3 if self.ramp else 1
        fit = np.zeros((3, 3))
        fit[:count, :count] = np.linalg.inv(functions[:count] @ functions[:count].T)
        return outside, x, fit

    def normalize(self, images: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Normalise images (m, box, box) in place.

        Returns
        -------
        ndarray, shape (m,), bool
            Those whose background is constant: their standard deviation says nothing, they are left
            as they are.
        """
        outside, x, fit = self._tables
        count = outside.sum()
        constant = np.zeros(len(images), bool)
        # Image by image, so that what is at work stays in the cache; all sums in double precision.
        for number, image in enumerate(images):
            pixels = np.multiply(image, outside, dtype=np.float64)
            rows, columns = pixels.sum(axis=1), pixels.sum(axis=0)
            sums = np.array([rows.sum(), (columns * x).sum(), (rows * x).sum()])
            square = np.einsum("ij,ij->", pixels, pixels)
            plane = (fit * sums).sum(axis=1)
            # Of the plane's residual, which is at right angles to the plane.
            variance = (square - (plane * sums).sum()) / count
            if variance <= CONSTANT * square / count:
                constant[number] = True
                continue
            image -= (plane[0] + plane[1] * x).astype(image.dtype)
            if self.ramp:
                image -= (plane[2] * x[:, None]).astype(image.dtype)
            image *= image.dtype.type(1 / np.sqrt(variance))
        return constant
