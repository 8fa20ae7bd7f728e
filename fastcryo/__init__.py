"""fastcryo: cryo-EM reconstruction by preconditioned stochastic gradient descent."""

from fastcryo import conditioning
from fastcryo._version import __version__
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.fsc import fsc, resolution_at
from fastcryo.grid import FourierGrid
from fastcryo.operators import SliceOperator
from fastcryo.particles import Particles, read_particles
from fastcryo.phantom import phantom
from fastcryo.preconditioner import hutchinson_diagonal
from fastcryo.problem import KnownPoseProblem
from fastcryo.rotations import rotation_matrices
from fastcryo.sgd import sgd
from fastcryo.simulate import simulate, simulate_arrays
from fastcryo.solvers import conjugate_gradient, lbfgs, wiener

__all__ = [
    "CTF",
    "FourierGrid",
    "InputError",
    "KnownPoseProblem",
    "Particles",
    "SliceOperator",
    "__version__",
    "conditioning",
    "conjugate_gradient",
    "fsc",
    "hutchinson_diagonal",
    "lbfgs",
    "phantom",
    "read_particles",
    "resolution_at",
    "rotation_matrices",
    "sgd",
    "simulate",
    "simulate_arrays",
    "wiener",
]
