"""The contrast transfer function of many images, on a graphics card."""

from fastcryo.kernels.cuda._jit import THREADS, cuda, kernel, launch_shape
from fastcryo.kernels.formulas import ctf_value


@kernel
def _evaluate(coefficients, fx, fy, out):
    for i in range(cuda.blockIdx.y, coefficients.shape[0], cuda.gridDim.y):
        for j in range(cuda.grid(2)[0], fx.size, cuda.gridsize(2)[0]):
            out[i, j] = ctf_value(coefficients[i], fx[j], fy[j])


def evaluate(coefficients, fx, fy, out):
    """Evaluate n functions at m frequencies; arguments as on the processor, on the card."""
    _evaluate[launch_shape(fx.size, coefficients.shape[0]), THREADS](coefficients, fx, fy, out)
