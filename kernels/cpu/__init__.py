"""Kernels for the processor: ``numba.njit(parallel=True)``."""
