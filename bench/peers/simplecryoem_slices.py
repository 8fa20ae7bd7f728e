"""The paper's own code (simplecryoem): JAX in double precision on full grids, Euler angles.

It imports two names of pyem, which it uses for files only; they are stood in for where pyem is not
installed. Volumes are indexed [y, x, z] in the order of fftn; sums over a minibatch are means.
"""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

from .shared import Prepared, SharedProblem

PIXEL_SIZE = 1.5


def _stand_in_for_pyem() -> None:
    try:
        import pyem
    except ImportError:
        pyem, star, vop = (types.ModuleType(name) for name in ("pyem", "pyem.star", "pyem.vop"))
        pyem.star, pyem.vop = star, vop
        vop.grid_correct = None
        sys.modules |= {"pyem": pyem, "pyem.star": star, "pyem.vop": vop}


_stand_in_for_pyem()
from simplecryoem.forwardmodel import Slice  # noqa: E402
from simplecryoem.optimization.loss import GradV, Loss  # noqa: E402


def euler_angles(rotations: np.ndarray) -> np.ndarray:
    """Return psi, tilt and rot in radians of RELION's matrices, shape (n, 3)."""
    tilt = np.arccos(np.clip(rotations[:, 2, 2], -1, 1))
    rot = np.arctan2(rotations[:, 2, 1], rotations[:, 2, 0])
    psi = np.arctan2(rotations[:, 1, 2], -rotations[:, 0, 2])
    return np.stack([psi, tilt, rot], axis=1)


def prepare(shared: SharedProblem) -> Prepared:
    """Return its operations as `precon_sgd` calls them."""
    count, box = shared.images, shared.box
    grid = np.array([1 / (PIXEL_SIZE * box), box])
    slicer = Slice(grid, jnp.ones((box,) * 3))
    slope = GradV(Loss(slicer, alpha=0))
    transform = np.fft.fftn(np.fft.ifftshift(shared.volume.astype(np.float64)))
    volume = jnp.asarray(transform.transpose(1, 2, 0))
    angles = jnp.asarray(euler_angles(shared.rotations))
    shifts = jnp.zeros((count, 2))
    none = jnp.full((count, 9), jnp.nan)
    defocus = np.random.default_rng(3).uniform(1e4, 2.5e4, count)
    rest = np.broadcast_to([0.0, 0.0, 300.0, 0.1, 2.7, 0.0, 2 * PIXEL_SIZE], (count, 7))
    ctfs = jnp.asarray(np.column_stack([defocus, defocus, rest]))
    images = np.random.default_rng(4).standard_normal((count, box, box))
    data = jnp.asarray(np.fft.fft2(images).reshape(count, -1))

    @jax.jit
    def project_back(samples):
        _, transpose = jax.vjp(lambda v: slicer.slice_array(v, angles, shifts, none), volume)
        return jnp.conj(transpose(jnp.conj(samples))[0])

    def forward():
        return jax.block_until_ready(slicer.slice_array(volume, angles, shifts, none))

    def gradient():
        return jax.block_until_ready(
            jnp.conj(slope.grad_loss_volume_sum(volume, angles, shifts, ctfs, data, 1.0))
        )

    def checked():
        image, h, k = shared.checks
        return np.asarray(forward()).reshape(count, box, box)[image, k, h]

    return Prepared(
        {
            "forward": forward,
            "adjoint": lambda: jax.block_until_ready(project_back(data)),
            "gradient": gradient,
        },
        checked,
        box * box,
        "trilinear, full plane, double precision",
    )
