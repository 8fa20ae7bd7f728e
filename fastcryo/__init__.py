"""fastcryo: cryo-EM reconstruction by preconditioned stochastic gradient descent."""

from fastcryo._version import __version__
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.operators import SliceOperator
from fastcryo.preconditioner import hutchinson_diagonal
from fastcryo.problem import KnownPoseProblem
from fastcryo.rotations import rotation_matrices
from fastcryo.sgd import sgd
from fastcryo.solvers import conjugate_gradient, wiener

__all__ = [
    "CTF",
    "FourierGrid",
    "InputError",
    "KnownPoseProblem",
    "SliceOperator",
    "__version__",
    "conjugate_gradient",
    "hutchinson_diagonal",
    "rotation_matrices",
    "sgd",
    "wiener",
]
