"""Parameters of the contrast transfer function and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcryo.backends import on_card
from fastcryo.errors import InputError
from fastcryo.kernels import formulas
from fastcryo.kernels.cpu import ctf as kernels

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CTF:
    """Contrast transfer functions of n images, in the units of the files.

    Every field is a number or an array of n; numbers serve all images. The formula is
    `fastcryo.kernels.formulas.ctf_value`: positive at the origin, positive defocus = underfocus.

    Parameters
    ----------
    defocus_u, defocus_v : array_like
        Defocus along the two principal axes, angstrom.
    defocus_angle : array_like
        Azimuth of the axis of `defocus_u`, degrees.
    voltage : array_like
        Acceleration voltage, kV.
    spherical_aberration : array_like
        Cs, mm.
    amplitude_contrast : array_like
        w, a fraction from 0 to 1.
    phase_shift : array_like
        Phase shift of a phase plate, degrees.
    bfactor : array_like
        B of the envelope exp(-B q^2 / 4), square angstrom.
    scale : array_like
        Factor of the whole function (rlnCtfScalefactor).

    Raises
    ------
    InputError
        A value that is not finite or out of range, or arrays of different lengths.
    """

    defocus_u: FloatArray
    defocus_v: FloatArray
    defocus_angle: FloatArray = 0.0
    voltage: FloatArray = 300.0
    spherical_aberration: FloatArray = 2.7
    amplitude_contrast: FloatArray = 0.1
    phase_shift: FloatArray = 0.0
    bfactor: FloatArray = 0.0
    scale: FloatArray = 1.0

    def __post_init__(self):
        names = [f.name for f in fields(self)]
        values = [np.atleast_1d(np.asarray(getattr(self, n), dtype=np.float64)) for n in names]
        lengths = {len(v) for v in values if v.size != 1}
        if len(lengths) > 1 or any(v.ndim != 1 for v in values):
            raise InputError(f"CTF: fields of different lengths, {sorted(lengths)}")
        length = lengths.pop() if lengths else 1
        for name, value in zip(names, values, strict=True):
            bad = np.flatnonzero(~np.isfinite(value))
            if len(bad):
                raise InputError(
                    f"CTF: {name} of {len(bad)} images is NaN or infinite, first image {bad[0]}"
                )
            object.__setattr__(self, name, np.broadcast_to(value, (length,)))
        if (self.voltage <= 0).any():
            raise InputError("CTF: voltage must be positive (kV)")
        if ((self.amplitude_contrast < 0) | (self.amplitude_contrast > 1)).any():
            raise InputError("CTF: amplitude_contrast must lie between 0 and 1")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.defocus_u)

    def select(self, indices: ArrayLike) -> CTF:
        """Return the functions of some images."""
        return CTF(**{f.name: getattr(self, f.name)[indices] for f in fields(self)})

    def coefficients(self) -> FloatArray:
        """Return the numbers that the kernels need.

        Returns
        -------
        ndarray, shape (n, 7), float64
            Mean defocus term pi lambda (U+V)/2, its astigmatism times cos 2a and sin 2a, the Cs
            term pi lambda^3 Cs / 2 (units of angstrom), the constant phase, B / 4, scale.
        """
        wavelength = formulas.electron_wavelength(self.voltage * 1e3)
        twice = np.deg2rad(2 * self.defocus_angle)
        half_difference = np.pi * wavelength * (self.defocus_u - self.defocus_v) / 2
        return np.stack(
            [
                np.pi * wavelength * (self.defocus_u + self.defocus_v) / 2,
                half_difference * np.cos(twice),
                half_difference * np.sin(twice),
                np.pi / 2 * wavelength**3 * self.spherical_aberration * 1e7,
                np.deg2rad(self.phase_shift) + np.arcsin(self.amplitude_contrast),
                self.bfactor / 4,
                self.scale,
            ],
            axis=1,
        )

    def evaluate(self, frequency_x: ArrayLike, frequency_y: ArrayLike) -> FloatArray:
        """Evaluate at given spatial frequencies.

        Parameters
        ----------
        frequency_x, frequency_y : array_like
            Frequencies along x and y, 1/angstrom; broadcast against each other. Or both on a
            graphics card (`fastcryo.SliceOperator.place`), float64 and of one shape.

        Returns
        -------
        ndarray, shape (n, ...)
            The functions, float64; they lie where the frequencies do.

        Raises
        ------
        InputError
            Frequencies on a card of different shapes, or not float64.
        """
        if hasattr(frequency_x, "copy_to_host"):
            return self._evaluate_on_card(frequency_x, frequency_y)
        fx, fy = np.broadcast_arrays(
            np.asarray(frequency_x, np.float64), np.asarray(frequency_y, np.float64)
        )
        out = np.empty((len(self), fx.size))
        kernels.evaluate(self.coefficients(), fx.ravel(), fy.ravel(), out)
        return out.reshape(len(self), *fx.shape)

    def _evaluate_on_card(self, fx: Any, fy: Any) -> Any:
        from fastcryo.kernels.cuda import ctf as card_kernels
        from fastcryo.kernels.cuda._jit import cuda

        if (fx.shape, fx.dtype, fy.dtype) != (fy.shape, np.float64, np.float64):
            raise InputError("CTF: frequencies on a card must be float64 and of one shape")
        with on_card():
            out = cuda.device_array((len(self), fx.size), np.float64)
            flat = (f.reshape(f.size) for f in (fx, fy))
            card_kernels.evaluate(cuda.to_device(self.coefficients()), *flat, out)
            return out.reshape(len(self), *fx.shape)
