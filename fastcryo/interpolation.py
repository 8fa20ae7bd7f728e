"""The windows that slices may be read with and where, and which of their options go together."""

from __future__ import annotations

from fastcryo.errors import InputError

INTERPOLATIONS = ("nearest", "trilinear", "kaiser_bessel")
BACKENDS = ("auto", "cpu", "cuda", "cuda-deterministic")
WINDOW_ORDER = {"nearest": 1, "trilinear": 2}
WIDTHS = (4, 5, 6)


def check_window(
    interpolation: str, oversampling: float | None, width: int | None, compat: str | None
) -> tuple[float | None, int | None]:
    """Return oversampling and width with their defaults; None where the N^3 grid itself is read.

    Raises
    ------
    InputError
        Values out of range, or options that do not go together.
    """
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
    if kaiser_bessel:
        return oversampling, 5 if width is None else int(width)
    return oversampling, None if oversampling is None else 2
