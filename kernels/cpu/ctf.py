"""The contrast transfer function of many images."""

from numba import prange

from fastcryo.kernels._jit import parallel
from fastcryo.kernels.formulas import ctf_value


@parallel
def evaluate(coefficients, fx, fy, out):
    """Evaluate n functions at m frequencies.

    Parameters
    ----------
    coefficients : (n, 7) float64
        See `fastcryo.ctf.CTF.coefficients`.
    fx, fy : (m,) float64
        Frequencies, 1/angstrom.
    out : (n, m) float64, modified in place
    """
    for i in prange(coefficients.shape[0]):
        for j in range(fx.size):
            out[i, j] = ctf_value(coefficients[i], fx[j], fy[j])
