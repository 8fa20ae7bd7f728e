"""How to reconstruct: the settings of ``fastcryo reconstruct``, and the published ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastcryo.background import Background
from fastcryo.errors import InputError
from fastcryo.interpolation import check_window
from fastcryo.storage import STORAGES
from fastcryo.symmetry import symmetry_matrices

if TYPE_CHECKING:
    from fastcryo.particles import Particles

SOLVERS = ("sgd", "cg", "lbfgs", "wiener")
NOISES, SCALES = ("estimated", "residuals", "unit"), ("none", "fitted", "file")
SMALLEST_BATCH, LARGEST_BATCH, BATCHES_PER_EPOCH = 50, 1000, 10


@dataclass(frozen=True)
class Settings:
    """How to reconstruct; the defaults are what measurements recommend (docs/defaults.md).

    Attributes
    ----------
    solver : {"sgd", "cg", "lbfgs", "wiener"}
    interpolation : {"trilinear", "nearest", "kaiser_bessel"}
    oversampling, width, compat
        Of the window, see `fastcryo.operators.SliceOperator`.
    backend : {"auto", "cpu", "cuda", "cuda-deterministic"}
        See `fastcryo.operators.SliceOperator`.
    preconditioner : {"auto", "gridding", "exact", "hutchinson"} or None
        "auto": "exact" for cg and lbfgs, else "gridding".
    step : {"armijo", "exact", "decay"}, float or None
        None: 1 with variance reduction, else "decay".
    initial_step : float or None
        None: 1.5 for "decay" with "gridding" and without variance reduction (any step below 2 is
        safe with all images), else what `fastcryo.sgd.sgd` chooses.
    variance_reduction : {"svrg"} or None
    threshold, beta, armijo, epochs
        See `fastcryo.sgd.sgd`.
    batch_size : int or None
        None: a tenth of the set, from 50 to 1000.
    average : bool or None
        Average the iterates of the second half; None: where there is no variance reduction.
    regularization : float, tuple of float or None
        None: the Wiener prior by shell, from the half-maps; else lambda, or lambda of every shell
        0..R, in units of J = diag H, that is of mean C^2 / sigma^2.
    noise : {"estimated", "residuals", "unit"}
        sigma by shell from the corners of the images; from what first half-maps leave of them; or 1
        as in the paper.
    scale : {"none", "fitted", "file"}
        Scale of every image's signal: 1; fitted to the projection of a first map of its half-set
        (`fastcryo.scales.shrunk_scales`); or what the file records
        (`fastcryo.scales.with_recorded_scales`).
    symmetry : str
        Point group of the map, see `fastcryo.symmetry.symmetry_matrices`.
    maxres : float or None
        Highest resolution used, angstrom.
    box : int or None
        Fourier-crop the images to this side.
    prepared_type : {"float32", "float16", "int16"}
        Numbers of prepared images that are kept on disk.
    subset : int
        0: half-maps and the map of all; 1 or 2: only that half.
    invert : bool
    normalize : float or None
        Bring the background of every image, beyond this radius, to mean 0 and standard deviation 1:
        angstrom, or a part of the side of the box if it is below 1; see
        `fastcryo.background.Background`.
    ramp : bool
        Take a plane off the background first.
    seed : int
    """

    solver: str = "sgd"
    interpolation: str = "trilinear"
    backend: str = "auto"
    oversampling: float | None = None
    width: int | None = None
    compat: str | None = None
    preconditioner: str | None = "auto"
    step: str | float | None = None
    initial_step: float | None = None
    variance_reduction: str | None = "svrg"
    threshold: str | float | None = "auto"
    beta: float = 0.9
    armijo: float = 0.99
    epochs: int = 10
    batch_size: int | None = None
    average: bool | None = None
    regularization: float | tuple[float, ...] | None = None
    noise: str = "estimated"
    scale: str = "none"
    symmetry: str = "C1"
    maxres: float | None = None
    box: int | None = None
    prepared_type: str = "float32"
    subset: int = 0
    invert: bool = False
    normalize: float | None = None
    ramp: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.solver not in SOLVERS:
            raise InputError(
                f"solver: {self.solver!r} is unknown, choose from {', '.join(SOLVERS)}"
            )
        for name, choices in (("noise", NOISES), ("scale", SCALES)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name}: {getattr(self, name)!r} is unknown, choose from {', '.join(choices)}"
                )
        if self.prepared_type not in STORAGES:
            raise InputError(
                f"prepared type: {self.prepared_type!r} is unknown, "
                f"choose from {', '.join(STORAGES)}"
            )
        check_window(self.interpolation, self.oversampling, self.width, self.compat)
        symmetry_matrices(self.symmetry)  # refuses an unknown name
        if self.subset not in (0, 1, 2):
            raise InputError(f"subset: {self.subset} is unknown, choose 1 or 2 (0: all)")
        if self.normalize is not None and not self.normalize > 0:
            raise InputError(f"normalize: a radius of {self.normalize:g} cannot be used")
        if self.ramp and self.normalize is None:
            raise InputError("ramp: goes with normalisation, add --normalize")

    @property
    def diagonal(self) -> str | None:
        """The preconditioner that "auto" stands for, or the one asked for."""
        if self.preconditioner != "auto":
            return self.preconditioner
        return "exact" if self.solver in ("cg", "lbfgs") else "gridding"

    def background(self, particles: Particles) -> Background | None:
        """Return what the images of particles are to be normalised by."""
        if self.normalize is None:
            return None
        return Background.of(self.normalize, particles.box, particles.pixel_size, self.ramp)

    @property
    def fits_images(self) -> bool:
        """Whether first half-maps are made, to compare the images with."""
        return self.noise == "residuals" or self.scale == "fitted"

    @property
    def assembles(self) -> bool:
        """Whether there are enough full products with H to assemble it."""
        reduced = self.solver == "sgd" and self.variance_reduction is not None
        return self.regularization is None or reduced or self.solver in ("cg", "lbfgs")

    def sgd_options(self, images: int) -> dict:
        """Return the arguments of `fastcryo.sgd.sgd` for a set of so many images."""
        batch = self.batch_size
        if batch is None:
            batch = min(max(images // BATCHES_PER_EPOCH, SMALLEST_BATCH), LARGEST_BATCH)
        plain = self.variance_reduction is None
        step = self.step if self.step is not None else "decay" if plain else 1.0
        first = self.initial_step
        if first is None and plain and step == "decay" and self.diagonal == "gridding":
            first = 1.5
        return {
            "epochs": self.epochs,
            "batch_size": batch,
            "preconditioner": self.diagonal,
            "step": step,
            "initial_step": first,
            "variance_reduction": self.variance_reduction,
            "threshold": self.threshold,
            "beta": self.beta,
            "armijo": self.armijo,
            "average": plain if self.average is None else self.average,
        }


# Algorithm 1 of the paper with its published settings: its D_0 = 1, steps and threshold presume
# noise of variance 1.
PUBLISHED = Settings(
    preconditioner="hutchinson",
    step="armijo",
    variance_reduction=None,
    batch_size=1000,
    average=False,
    regularization=1e-8,
    noise="unit",
)
