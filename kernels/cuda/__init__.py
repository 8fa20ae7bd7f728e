"""Kernels for graphics cards: ``numba.cuda.jit``. Import them only where CUDA is asked for."""
