"""Half grids on the host or on a graphics card: what is done to them wherever they lie."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastcryo.backends import on_card
from fastcryo.kernels.cpu import vectors as cpu_vectors


def on_host(array: Any) -> bool:
    """Whether an array lies in the memory of the processor."""
    return isinstance(array, np.ndarray)


def vectors_of(array: Any) -> ModuleType:
    """Return the kernels of whole half grids for where an array lies."""
    if on_host(array):
        return cpu_vectors
    from fastcryo.kernels.cuda import vectors

    return vectors


def total_of_planes(by_plane: Any, multiplicity: NDArray[np.float64]) -> Any:
    """Add up sums of the planes of a half grid, each as often as it counts in the full grid.

    Of half grids on a card, a number that stays there until it is needed
    (`fastcryo.card_numbers`).
    """
    if on_host(by_plane):
        return float(by_plane @ multiplicity)
    from fastcryo import card_numbers

    return card_numbers.total_of_planes(by_plane, multiplicity)


def fetch(array: Any) -> NDArray:
    """Return an array on the host."""
    return array if on_host(array) else array.copy_to_host()


def kernel_array(array: ArrayLike, dtype: DTypeLike | None = None) -> NDArray:
    """Return a host array as kernels take it: contiguous and writable, a copy only where needed.

    A read-only array is another type to Numba: kernels would be compiled anew for it, some in vain.
    """
    return np.require(array, dtype, "CWE")


def empty_like(array: Any, dtype: DTypeLike | None = None) -> Any:
    """Return an array of the same size beside another, with any values."""
    if on_host(array):
        return np.empty_like(array, dtype)
    with on_card(array.shape[1]):
        return vectors_of(array).empty_like(array, dtype)


def beside(constant: NDArray, array: Any) -> Any:
    """Return a host array where another lies."""
    return constant if on_host(array) else vectors_of(array).place(constant)


def copy_of(array: Any) -> Any:
    """Return a copy beside an array."""
    if on_host(array):
        return array.copy()
    out = empty_like(array)
    out.copy_to_device(array)
    return out


def difference(left: Any, right: Any) -> Any:
    """Return left - right of complex half grids."""
    if on_host(left):
        return left - right
    out = copy_of(left)
    vectors_of(left).step_along(out, right, _real(left)(1))
    return out


def add_to(total: Any, other: Any) -> None:
    """Add one complex half grid to another in place."""
    if on_host(total):
        total += other
    else:
        vectors_of(total).step_along(total, other, _real(total)(-1))


def approach(mean: Any, volume: Any, share: float) -> None:
    """Move mean <- mean + share (volume - mean) in place."""
    weight = _real(mean)(share)
    if on_host(mean):
        mean += weight * (volume - mean)
    else:
        vectors_of(mean).approach(mean, volume, weight)


def _real(array: Any) -> type:
    """Return the real type of an array's numbers."""
    return np.zeros(0, array.dtype).real.dtype.type
