"""torch-fourier-slice's compiled (Mojo) kernels, on half volumes in rfftn order.

Its gradient is timed in two ways, as that of torch-projectors.
"""

import torch
from torch_fourier_slice.experimental import (
    extract_central_slices_rfft_3d,
    insert_central_slices_rfft_3d,
    mojo_kernels_available,
)

from .shared import Prepared, SharedProblem


def prepare(shared: SharedProblem) -> Prepared:
    """Return its operations; its rotations act on (0, ky, kx), so both axes of A^T are flipped."""
    if not mojo_kernels_available():
        raise ImportError("its Mojo kernels do not load (python bench/build_mojo.py builds them)")
    torch.set_num_threads(shared.threads)
    volume = torch.fft.rfftn(torch.fft.ifftshift(torch.from_numpy(shared.volume)))
    flipped = shared.rotations.transpose(0, 2, 1)[:, ::-1, ::-1].copy()
    rotations = torch.from_numpy(flipped).float()
    ctfs, data = torch.from_numpy(shared.ctfs), torch.from_numpy(shared.data)
    cutoff = float(shared.radius)

    def slices(of):
        return extract_central_slices_rfft_3d(of, rotations, fourier_radius_cutoff=cutoff)

    def forward():
        with torch.no_grad():
            return slices(volume)

    def adjoint(images):
        with torch.no_grad():
            return insert_central_slices_rfft_3d(images, rotations, fourier_radius_cutoff=cutoff)[0]

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
        return forward().numpy()[image, k, h]

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
