"""torch-projectors: C++ kernels on half volumes in rfftn order, one image per thread.

The gradient is put together by hand from its projection and back-projection; its backward pass,
which computes gradients of rotations and shifts as well, is timed too.
"""

import torch
from torch_projectors import backproject_2d_to_3d_forw, project_3d_to_2d_forw

from .shared import Prepared, SharedProblem


def prepare(shared: SharedProblem) -> Prepared:
    """Return torch-projectors' operations; its rotations act on (kx, ky, 0), so they are A^T."""
    torch.set_num_threads(shared.threads)
    real = torch.fft.ifftshift(torch.from_numpy(shared.volume))
    volume = torch.fft.rfftn(real)[None]
    rotations = torch.from_numpy(shared.rotations.transpose(0, 2, 1).copy()).float()[None]
    ctfs = torch.from_numpy(shared.ctfs)[None]
    data = torch.from_numpy(shared.data)[None]
    cutoff = float(shared.radius)

    def slices(of):
        return project_3d_to_2d_forw(of, rotations, fourier_radius_cutoff=cutoff)

    def forward():
        with torch.no_grad():
            return slices(volume)

    def adjoint(images):
        with torch.no_grad():
            return backproject_2d_to_3d_forw(images, rotations, fourier_radius_cutoff=cutoff)[0]

    def gradient():
        residual = forward().mul_(ctfs).sub_(data)
        loss = 0.5 * float(torch.view_as_real(residual).square().sum())
        return loss, adjoint(residual.mul_(ctfs))

    def autodiff():
        variable = volume.clone().requires_grad_()
        loss = 0.5 * torch.view_as_real(ctfs * slices(variable) - data).square().sum()
        return float(loss.detach()), torch.autograd.grad(loss, variable)[0]

    def checked():
        image, h, k = shared.checks
        return forward()[0].numpy()[image, k, h]

    return Prepared(
        {
            "forward": forward,
            "adjoint": lambda: adjoint(data),
            "gradient": gradient,
            "gradient by autodiff": autodiff,
        },
        checked,
        int(shared.disc().sum()),
        "trilinear, disc of the half plane",
    )
