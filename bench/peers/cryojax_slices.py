"""cryojax: JAX on half volumes whose interpolation kernel has been deconvolved.

JAX differentiates without conjugation: the adjoint is conj(vjp(conj(y))).
"""

import jax
import jax.numpy as jnp
import numpy as np
from cryojax.ndimage import make_frequency_slice, prepare_sampling_fft, sample_fft_slice

from .shared import Prepared, SharedProblem


def prepare(shared: SharedProblem) -> Prepared:
    """Return cryojax's operations, compiled; views are rotated by A^T as the caller's part."""
    box = shared.box
    volume = prepare_sampling_fft(shared.volume)
    frequencies = make_frequency_slice((box, box), fftshifted=True)
    rotations = jnp.asarray(shared.rotations, jnp.float32)
    ctfs, data = jnp.asarray(shared.ctfs), jnp.asarray(shared.data)

    def slices(of, rotations):
        return jax.vmap(lambda a: sample_fft_slice(of, frequencies @ a))(rotations)

    def project_back(samples, rotations):
        _, transpose = jax.vjp(lambda of: slices(of, rotations), volume)
        return jnp.conj(transpose(jnp.conj(samples))[0])

    def loss(of, rotations, ctfs, data):
        residual = ctfs * slices(of, rotations) - data
        return 0.5 * jnp.sum(residual.real**2 + residual.imag**2)

    def conjugate_gradient(of, rotations, ctfs, data):
        value, slope = jax.value_and_grad(loss)(of, rotations, ctfs, data)
        return value, jnp.conj(slope)

    forward = jax.jit(slices)
    adjoint = jax.jit(project_back)
    gradient = jax.jit(conjugate_gradient)

    def checked():
        image, h, k = shared.checks
        # Its slices belong to a volume whose origin is the box's centre.
        phase = 1 - 2 * ((h + k) % 2)
        return np.asarray(forward(volume, rotations))[image, k, h] * phase

    return Prepared(
        {
            "forward": lambda: jax.block_until_ready(forward(volume, rotations)),
            "adjoint": lambda: jax.block_until_ready(adjoint(data, rotations)),
            "gradient": lambda: jax.block_until_ready(gradient(volume, rotations, ctfs, data)),
        },
        checked,
        box * (box // 2 + 1),
        "trilinear, deconvolved, half plane",
    )
