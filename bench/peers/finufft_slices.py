"""FINUFFT at a tolerance of 1e-3: from the volume in real space to slices and back.

Plans are made once; points are set in every call, as every minibatch has other views. It is given
the points of the half disc only, and no symmetry of the volume, because it has no use for it.
"""

import finufft
import numpy as np

from .shared import Prepared, SharedProblem

TOLERANCE = 1e-3


def prepare(shared: SharedProblem) -> Prepared:
    """Return FINUFFT's operations."""
    disc = shared.disc()
    # Of the column h = 0, k < 0 is the mirror of k > 0.
    disc[shared.box // 2 :, 0] = False
    k, h = (index.astype(np.float64) for index in np.nonzero(disc))
    k[k > shared.radius] -= shared.box
    unit = 2 * np.pi / shared.box
    a = shared.rotations
    points = (unit * (a[:, 0, :, None] * h + a[:, 1, :, None] * k)).astype(np.float32)
    x, y, z = (np.ascontiguousarray(points[:, axis].reshape(-1)) for axis in range(3))
    ctfs = np.ascontiguousarray(shared.ctfs[:, disc].reshape(-1))
    data = np.ascontiguousarray(shared.data[:, disc].reshape(-1))
    volume = shared.volume.astype(np.complex64)
    options = {"eps": TOLERANCE, "dtype": "complex64", "nthreads": shared.threads}
    to_slices = finufft.Plan(2, volume.shape, isign=-1, **options)
    to_volume = finufft.Plan(1, volume.shape, isign=1, **options)

    sliced, summed = np.empty_like(data), np.empty_like(volume)

    def forward():
        to_slices.setpts(z, y, x)
        return to_slices.execute(volume, out=sliced)

    def adjoint(samples):
        to_volume.setpts(z, y, x)
        return to_volume.execute(samples, out=summed)

    def gradient():
        residual = forward()
        residual *= ctfs
        residual -= data
        loss = 0.5 * float(np.vdot(residual, residual).real)
        residual *= ctfs
        return loss, adjoint(residual).real

    def checked():
        image, at_h, at_k = shared.checks
        index = {pair: number for number, pair in enumerate(zip(h, k, strict=True))}
        column = [index[pair] for pair in zip(at_h, at_k, strict=True)]
        return forward().reshape(shared.images, -1)[image, column]

    return Prepared(
        {"forward": forward, "adjoint": lambda: adjoint(data), "gradient": gradient},
        checked,
        len(h),
        "non-uniform FFT, half disc",
    )
