"""Other programs' slices, adjoints and gradients, timed side by side with fastcryo's.

Every peer runs in a process of its own, so that their thread pools never meet, and all of them are
kept alive and given their turns one after another (`peers.rounds`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A program to compare with.

    Attributes
    ----------
    name : str
    module : str
        Adapter in this folder; its `prepare` takes a `peers.shared.SharedProblem` and returns a
        `peers.shared.Prepared`.
    package : str
        Distribution whose version is reported.
    remedy : str
        How to get it.
    """

    name: str
    module: str
    package: str
    remedy: str


PEERS = {
    peer.name: peer
    for peer in (
        Peer("fastcryo", "fastcryo_slices", "fastcryo", "pip install -e ."),
        Peer(
            "torch-projectors",
            "torch_projectors_slices",
            "torch-projectors",
            "pip install pybind11 torch, then pip install --no-build-isolation "
            "--no-binary torch-projectors torch-projectors",
        ),
        Peer(
            "torch-fourier-slice",
            "torch_fourier_slices",
            "torch-fourier-slice",
            "pip install torch-fourier-slice torch-ctf",
        ),
        Peer(
            "torch-fourier-slice, Mojo",
            "mojo_slices",
            "torch-fourier-slice",
            "pip install torch-fourier-slice torch-ctf mojo==1.0.0b2, "
            "then python bench/build_mojo.py",
        ),
        Peer("finufft, 1e-3", "finufft_slices", "finufft", "pip install finufft"),
        Peer("cryojax", "cryojax_slices", "cryojax", "pip install cryojax"),
        Peer(
            "simplecryoem",
            "simplecryoem_slices",
            "simplecryoem",
            "the paper's own code, not on PyPI: install its checkout",
        ),
    )
}
# What is timed. A gradient by hand is put together from a peer's slices and adjoint where that is
# faster than what it offers, or all that it offers; the better of the two counts.
OPERATIONS = ("forward", "adjoint", "gradient", "gradient by autodiff")
# Slices this far from the direct sum are not the same slices.
LARGEST_ERROR = 0.5
