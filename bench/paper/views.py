"""Poses and CTFs of the paper's data set, and images simulated with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fastcryo as fc
from fastcryo.density import Density
from fastcryo.experiment import Experiment
from fastcryo.packing import Source
from fastcryo.preparation import ImageSet, prepare_data

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "empiar10076" / "poses_ctf.npz"
# Side of the paper's images, angstrom: 320 pixels of 1.31. Cropped to N pixels they keep it.
LENGTH = 419.2
# The paper's lambda, for noise of variance 1.
REGULARIZATION = 1e-8
# The built-in phantom, as wide as a large ribosomal subunit.
DIAMETER = 250.0
SCALE_SAMPLE = 500
# What an experiment reports its progress to.
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Views:
    """Poses and CTFs of a data set, without images.

    Attributes
    ----------
    rotations : ndarray, shape (n, 3, 3)
    shifts : ndarray, shape (n, 2)
        angstrom.
    ctf : CTF
    source : str
        Where they are from.
    """

    rotations: NDArray[np.float64]
    shifts: NDArray[np.float64]
    ctf: fc.CTF
    source: str

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.rotations)


def load_views(count: int, seed: int = 0) -> Views:
    """Take views of EMPIAR-10076 at random where its metadata are at hand; else draw even ones.

    Parameters
    ----------
    count : int
    seed : int
    """
    rng = np.random.default_rng(seed)
    if not REAL.exists():
        drawn = Experiment(count=count)
        rotations, ctf = drawn.draw_rotations(rng), drawn.draw_ctf(rng)
        shifts = rng.normal(0.0, drawn.shift_std, (count, 2))
        return Views(rotations, shifts, ctf, f"{count} simulated views, evenly spread")
    with np.load(REAL) as stored:
        chosen = rng.permutation(stored["kept"])[:count]
        ctf = fc.CTF(
            *(stored[f"defocus_{name}"][chosen] for name in ("u", "v", "angle")),
            voltage=stored["voltage"],
            spherical_aberration=stored["spherical_aberration"],
            amplitude_contrast=stored["amplitude_contrast"],
        )
        shifts = stored["shifts_fraction_of_box"][chosen] * LENGTH
        rotations = stored["rotations"][chosen].astype(np.float64)
    return Views(rotations, shifts.astype(np.float64), ctf, f"{len(chosen)} views of EMPIAR-10076")


def metadata_problem(
    views: Views, box: int, interpolation: str = "trilinear"
) -> fc.KnownPoseProblem:
    """Return the paper's objective of some views without images, at a box of `box` pixels."""
    return fc.KnownPoseProblem.from_arrays(
        None,
        views.rotations,
        LENGTH / box,
        ctf=views.ctf,
        N=box,
        regularization=REGULARIZATION,
        interpolation=interpolation,
    )


def image_problem(views: Views, box: int, snr: float, seed: int = 0) -> fc.KnownPoseProblem:
    """Return the paper's objective with images of the built-in phantom, made block by block.

    Parameters
    ----------
    views : Views
    box : int
        N.
    snr : float
        Variance of the signal over that of the white noise, over whole images.
    seed : int
        Of the noise.
    """
    density, pixel_size = fc.phantom(DIAMETER), LENGTH / box
    sample = np.linspace(0, len(views) - 1, min(len(views), SCALE_SAMPLE)).astype(np.int64)
    signal = _projections(density, views, sample, box)
    scale = np.float32(np.sqrt(snr / signal.var(axis=(1, 2), dtype=np.float64).mean()))

    def read(members: NDArray[np.int64]) -> NDArray[np.float32]:
        images = scale * _projections(density, views, members, box)
        for image, member in zip(images, members.tolist(), strict=True):
            noise = np.random.default_rng((seed, member))
            image += noise.standard_normal(image.shape, dtype=np.float32)
        return images

    operator = fc.SliceOperator(fc.FourierGrid(box), "trilinear", "auto", "float32")
    setup = ImageSet(box, pixel_size, views.ctf, views.shifts, views.rotations)
    source = Source(box, np.arange(len(views)), read, refuse=read)
    return fc.KnownPoseProblem(**prepare_data(operator, setup, source, 1.0, REGULARIZATION))


def _projections(
    density: Density, views: Views, chosen: NDArray[np.int64], box: int
) -> NDArray[np.float32]:
    return density.projections(
        views.rotations[chosen],
        box,
        LENGTH / box,
        ctf=views.ctf.select(chosen),
        shifts=views.shifts[chosen],
    )
