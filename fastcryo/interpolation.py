"""The windows that slices may be read with and where, and which of their options go together."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastcryo.errors import InputError

INTERPOLATIONS = ("nearest", "trilinear", "kaiser_bessel")
BACKENDS = ("auto", "cpu", "cuda", "cuda-deterministic")
WINDOW_ORDER = {"nearest": 1, "trilinear": 2}
WIDTHS = (4, 5, 6)


def window_transform(interpolation: str, box: int) -> NDArray[np.float64]:
    """Return the transform of a window of the N^3 grid along an axis of the map, shape (N,)."""
    x = (np.arange(box) - box // 2) / box
    return np.sinc(x) ** WINDOW_ORDER[interpolation]


class SlicingOptions(TypedDict, total=False):
    """How slices are made: arguments of `fastcryo.operators.SliceOperator`."""

    interpolation: str
    backend: str
    dtype: DTypeLike
    oversampling: float | None
    width: int | None
    compat: str | None
    mask: ArrayLike | None


def check_window(
    interpolation: str,
    oversampling: float | None,
    width: int | None,
    compat: str | None,
    masked: bool = False,
) -> tuple[float | None, int | None]:
    """Return oversampling and width with their defaults; None where the N^3 grid itself is read.

    Raises
    ------
    InputError
        An unknown name, values out of range, or options that do not go together.
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError(
            f"interpolation: {interpolation!r} is unknown, choose from {', '.join(INTERPOLATIONS)}"
        )
    kaiser_bessel = interpolation == "kaiser_bessel"
    if oversampling is None and kaiser_bessel:
        oversampling = 1.5
    if oversampling is not None and interpolation == "nearest":
        raise InputError("oversampling: nearest reads the grid itself, leave the option out")
    if oversampling is not None and not 1.25 <= oversampling <= 2:
        raise InputError(f"oversampling: {oversampling:g} cannot be used, choose 1.25 to 2")
    if width is not None and not kaiser_bessel:
        raise InputError(f"width: goes with kaiser_bessel, leave it out for {interpolation}")
    if width is not None and width not in WIDTHS:
        raise InputError(f"width: {width} cannot be used, choose 4, 5 or 6")
    if compat not in (None, "relion"):
        raise InputError(f"compat: {compat!r} is unknown, choose relion or leave it out")
    if compat is not None and (kaiser_bessel or oversampling is None):
        raise InputError("compat: relion goes with trilinear and oversampling, say oversampling=2")
    if masked and oversampling is None:
        raise InputError(
            f"mask: {interpolation} slices the Fourier grid itself, without a mask; "
            "choose interpolation kaiser_bessel for a mask during the solution"
        )
    if kaiser_bessel:
        return oversampling, 5 if width is None else int(width)
    return oversampling, None if oversampling is None else 2
