"""FFTs on a graphics card: the one module that knows who computes them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from fastcryo.backends import first_line
from fastcryo.kernels.cuda._jit import SIMULATED


@functools.cache
def card_fft() -> Callable[[Any, int, bool], None] | None:
    """Return ``fft(array, axis, inverse)``, in place and without normalisation; None if none.

    cupy computes it, where it is installed with the libraries of CUDA. The simulator's arrays lie
    on the host, and scipy's FFT stands for cupy's. Without either, FFTs are done on the host; why
    cupy has none is said once, on standard error.
    """
    if SIMULATED:
        return _simulated
    try:
        import cupy
        from cupyx.scipy import fft
    except ImportError:
        return None

    def transform(array: Any, axis: int, inverse: bool) -> None:
        view = cupy.asarray(array)
        if inverse:
            found = fft.ifft(view, axis=axis, norm="forward", overwrite_x=True)
        else:
            found = fft.fft(view, axis=axis, overwrite_x=True)
        if found.data.ptr != view.data.ptr:
            view[...] = found

    try:
        transform(cupy.zeros((2, 2, 2), np.complex64), 1, True)
    except (ImportError, OSError, RuntimeError) as error:
        # cupy looks for cuFFT and its compiler at their first use. Memory that is full is no such
        # failure: it is not caught.
        print(f"fastcryo: backend cuda: cupy has no FFT ({first_line(error)})", file=sys.stderr)
        return None
    return transform


def _simulated(array: Any, axis: int, inverse: bool) -> None:
    function, norm = (scipy.fft.ifft, "forward") if inverse else (scipy.fft.fft, "backward")
    array.copy_to_device(function(array.copy_to_host(), axis=axis, norm=norm))
