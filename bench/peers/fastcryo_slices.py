"""fastcryo: half discs, all through the public interface."""

import numpy as np

import fastcryo as fc
from fastcryo.threads import use_threads

from .shared import Prepared, SharedProblem


def prepare(shared: SharedProblem) -> Prepared:
    """Return fastcryo's operations."""
    pixels = np.fft.fftshift(np.fft.irfft2(shared.data, s=(shared.box,) * 2), axes=(1, 2))
    defocus = np.random.default_rng(3).uniform(1e4, 2.5e4, shared.images)
    problem = fc.KnownPoseProblem.from_arrays(
        pixels.astype(np.float32), shared.rotations, 1.5, ctf=fc.CTF(defocus, defocus)
    )
    operator = problem.operator
    volume = problem.grid.from_real(shared.volume)
    # Memory for results is got once and used again, as FINUFFT's is and a loop of steps would.
    samples = operator.forward(volume, shared.rotations)
    sliced, out = np.empty_like(samples), np.empty_like(volume)

    def on_threads(function):
        def call():
            with use_threads(shared.threads):
                return function()

        return call

    def checked():
        image, h, k = shared.checks
        return operator.unpack(operator.forward(volume, shared.rotations))[image, k, h]

    return Prepared(
        {
            "forward": on_threads(lambda: operator.forward(volume, shared.rotations, sliced)),
            "adjoint": on_threads(lambda: operator.adjoint(samples, shared.rotations, out)),
            "gradient": on_threads(lambda: problem.loss_and_gradient(volume, out=out)),
        },
        checked,
        operator.samples,
        "trilinear, half disc",
    )
