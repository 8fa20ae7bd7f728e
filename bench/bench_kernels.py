"""Kernels by operation, window and box, beside the ceilings of the machine."""

import numpy as np
import pytest
from measure import cases

import fastcryo as fc

OPERATIONS = (
    "forward",
    "adjoint",
    "gradient",
    "gradient and product",
    "Hessian product",
    "loss",
    "loss and curvature",
    "curvature",
    "diagonal",
)


@pytest.mark.parametrize("window", ["trilinear", "nearest"])
@pytest.mark.parametrize("operation", OPERATIONS)
def bench_operation(measured_case, case, operation, window):
    measured_case(operation, case, window)


def bench_gradient_on_one_thread(measured_case, case):
    measured_case("gradient", case, "trilinear", threads=1)


def bench_preparation(measured, box, quick):
    images = 16 if quick else 128
    pixels = np.random.default_rng(0).standard_normal((images, box, box), dtype=np.float32)
    ctf = fc.CTF(np.linspace(1e4, 2e4, images), 1.5e4, 30.0)
    rotations = cases.make_case(box, images).rotations

    def prepare():
        return fc.KnownPoseProblem.from_arrays(pixels, rotations, cases.PIXEL_SIZE, ctf=ctf)

    samples = images * prepare().operator.samples
    measured("preparation", prepare, box=box, images=images, samples=samples)
