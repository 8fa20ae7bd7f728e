"""Images of another pixel size or box, brought to those of the set in Fourier space."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray


def window_side(
    own_box: int | None, own_pixel_size: float, box: int | None, pixel_size: float
) -> int | None:
    """Return the pixels of an image that make up the side of the set's box, as nearly as can be.

    Parameters
    ----------
    own_box, own_pixel_size : int or None, float
        Of the image.
    box, pixel_size : int or None, float
        Of the set.

    Returns
    -------
    int or None
        None: the image is what the set needs.
    """
    if box is None or own_box is None or (own_box == box and own_pixel_size == pixel_size):
        return None
    return max(2, round(box * pixel_size / own_pixel_size))


def resample(images: NDArray[np.float32], side: int, box: int) -> NDArray[np.float32]:
    """Window images to a side, and bring that to a number of pixels in Fourier space.

    Grey values stay what they are. What the window adds gets the mean of the image's border.

    Parameters
    ----------
    images : ndarray, shape (n, M, M)
    side : int
        Pixels of the window, about the origin M // 2.
    box : int
        Pixels to bring them to.

    Returns
    -------
    ndarray, shape (n, box, box), float32
    """
    windowed = _windowed(images, side)
    if side == box:
        return windowed
    transforms = scipy.fft.rfft2(np.fft.ifftshift(windowed, axes=(1, 2)), workers=1)
    kept = (min(side, box) - 1) // 2  # the Nyquist frequency of an even side has no mirror
    out = np.zeros((len(images), box, box // 2 + 1), transforms.dtype)
    out[:, : kept + 1, : kept + 1] = transforms[:, : kept + 1, : kept + 1]
    if kept:
        out[:, -kept:, : kept + 1] = transforms[:, -kept:, : kept + 1]
    out *= np.float32((box / side) ** 2)
    pixels = scipy.fft.irfft2(out, (box, box), workers=1)
    return np.ascontiguousarray(np.fft.fftshift(pixels, axes=(1, 2)), np.float32)


def _windowed(images: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Crop or pad about the origin."""
    own = images.shape[1]
    if side == own:
        return images
    low = own // 2 - side // 2
    if side < own:
        return np.ascontiguousarray(images[:, low : low + side, low : low + side])
    border = np.concatenate(
        [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1
    )
    out = np.empty((len(images), side, side), np.float32)
    out[:] = border.mean(axis=1, dtype=np.float64)[:, None, None]
    out[:, -low : own - low, -low : own - low] = images
    return out
