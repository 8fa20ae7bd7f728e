"""What the tests of graphics cards share: sizes, problems, packers.

With a card, tests run on it at N = 64 and 128. In Numba's simulator, where every thread is one of
Python's, and under compute-sanitizer (FASTCRYO_SMALL_TESTS) they are small.
"""

import os

import numba
import numpy as np
import pytest

import fastcryo as fc
from fastcryo import backends
from fastcryo.kernels.cpu.aberrations import AS_THEY_ARE, PHASE_FLIPPED, PREMULTIPLIED
from fastcryo.optics import Aberrations, Imaging
from fastcryo.packing import ImagingTables, Packer

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
SMALL = SIMULATED or "FASTCRYO_SMALL_TESTS" in os.environ
REASON = "no CUDA here: set NUMBA_ENABLE_CUDASIM=1 to run the kernels in the simulator"
needs_cuda = pytest.mark.skipif(backends.why_not_cuda() is not None, reason=REASON)

BOXES = (16,) if SMALL else (64, 128)
CHEAP_BOXES = (15, 24) if SMALL else (63, 128)
CUDA = ("cuda", "cuda-deterministic")
IMAGES = 4 if SMALL else 300
TOLERANCE = 1e-5


def close(ours, expected):
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert ours.dtype == expected.dtype
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def half(box, seed):
    volume = np.random.default_rng(seed).normal(size=(box,) * 3)
    return fc.FourierGrid(box).from_real(volume.astype(np.float32))


def problem_of(backend, box=BOXES[0], with_ctf=True, symmetry="C1", **arguments):
    rng = np.random.default_rng(4)
    angles = rng.uniform(0, 360, (3, IMAGES))
    ctf = fc.CTF(
        defocus_u=rng.uniform(8000, 20000, IMAGES),
        defocus_v=rng.uniform(8000, 20000, IMAGES),
        defocus_angle=rng.uniform(0, 180, IMAGES),
        voltage=300.0,
        spherical_aberration=2.7,
        amplitude_contrast=0.1,
    )
    return fc.KnownPoseProblem.from_arrays(
        rng.normal(size=(IMAGES, box, box)).astype(np.float32),
        fc.rotation_matrices(*angles),
        pixel_size=3.0,
        ctf=ctf if with_ctf else None,
        regularization=0.1,
        symmetry=symmetry,
        backend=backend,
        **arguments,
    )


def packer_of(backend, with_ctf=True, imaging=None, box=BOXES[0]):
    """What prepares images of two noise groups, shifted, on a grid smaller than they are."""
    rng, count = np.random.default_rng(29), 3
    operator = fc.SliceOperator(fc.FourierGrid(box), backend=backend)
    ctf = fc.CTF(rng.uniform(8000, 20000, count), 9000.0, 30.0, bfactor=20.0).coefficients()
    tables = None if imaging is None else ImagingTables.of(imaging, operator, 3.0 * (box + 4))
    return Packer(
        operator,
        3.0 * (box + 4),
        rng.normal(size=(count, 2)),
        ctf if with_ctf else np.empty((0, 7)),
        rng.uniform(0.5, 2, (2, operator.samples)),
        np.array([0, 1, 0]),
        tables,
        np.array([0.8, 1.0, 1.3]) if with_ctf else None,
    )


IMAGING = Imaging(
    group=np.array([2, 0, 1]),
    warps=np.stack([np.eye(2), np.array([[0.98, 0.01], [0.0, 0.97]]), np.eye(2)]),
    limits=np.array([np.inf, 5.0, np.inf]),
    corrections=np.array([AS_THEY_ARE, PHASE_FLIPPED, PREMULTIPLIED]),
    scales=np.ones(3),
    aberrations=(
        (Aberrations(beam_tilt=(0.4, -0.3), even=(0.0, 0.2)), 0.0197, 2.7),
        (Aberrations(odd=(0.1, 0.2)), 0.0197, 2.7),
        (Aberrations(), 0.0197, 2.7),
    ),
)
