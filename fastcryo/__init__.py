"""fastcryo: cryo-EM reconstruction by preconditioned stochastic gradient descent."""

from fastcryo._version import __version__
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.rotations import rotation_matrices

__all__ = ["CTF", "FourierGrid", "InputError", "__version__", "rotation_matrices"]
