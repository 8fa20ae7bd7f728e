"""torch-fourier-slice: PyTorch's own operations on half volumes, fftshifted but for the last axis.

The adjoint is the backward pass of its slices: its insertion adds weights as well and takes several
times as long and as much memory.
"""

import torch
from torch_fourier_slice import extract_central_slices_rfft_3d

from .shared import Prepared, SharedProblem


def prepare(shared: SharedProblem) -> Prepared:
    """Return its operations; its rotations act on (kx, ky, 0), so they are A^T."""
    torch.set_num_threads(shared.threads)
    real = torch.fft.ifftshift(torch.from_numpy(shared.volume))
    volume = torch.fft.fftshift(torch.fft.rfftn(real), dim=(0, 1)).contiguous()
    rotations = torch.from_numpy(shared.rotations.transpose(0, 2, 1).copy()).float()
    ctfs = torch.fft.fftshift(torch.from_numpy(shared.ctfs), dim=1).contiguous()
    data = torch.fft.fftshift(torch.from_numpy(shared.data), dim=1).contiguous()
    longest = shared.radius / shared.box

    def slices(of):
        return extract_central_slices_rfft_3d(of, rotations, fftfreq_max=longest)

    def forward():
        with torch.no_grad():
            return slices(volume)

    def adjoint():
        variable = volume.clone().requires_grad_()
        return torch.autograd.grad(slices(variable), variable, data)[0]

    def gradient():
        variable = volume.clone().requires_grad_()
        residual = ctfs * slices(variable) - data
        loss = 0.5 * torch.view_as_real(residual).square().sum()
        return float(loss.detach()), torch.autograd.grad(loss, variable)[0]

    def checked():
        image, h, k = shared.checks
        return forward().numpy()[image, k + shared.box // 2, h]

    return Prepared(
        {"forward": forward, "adjoint": adjoint, "gradient": gradient},
        checked,
        int(shared.disc().sum()),
        "trilinear, disc of the half plane",
    )
