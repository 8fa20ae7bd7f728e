"""Phantoms: sums of Gaussian atoms, whose Fourier transform is a formula."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fastcryo import protein
from fastcryo.density import Density
from fastcryo.errors import InputError
from fastcryo.kernels.cpu import phantom as kernels
from fastcryo.rotations import orthonormal_rotations
from fastcryo.threads import thread_count

FloatArray = NDArray[np.float64]

OVERSAMPLING = 2
# Standard deviation, in pixels of the image, from which on twofold oversampling leaves less than
# exp(-4 pi^2 s^2) = 1e-7 of alias at Nyquist, and far less below; narrower atoms are blurred up to
# it, and the blur is divided out again.
LEAST_SIGMA = np.sqrt(0.4)
REACH = np.sqrt(2 * np.log(1e8))
SMALLEST_DIAMETER = 30.0
BFACTOR_OF_VARIANCE = 8 * np.pi**2
ATOM_SIGMA = 1.0


@dataclass(frozen=True, eq=False)
class Phantom(Density):
    """A density made of Gaussian atoms.

    F(q) = sum_j a_j exp(-2 pi^2 s_j^2 |q|^2) exp(-2 pi i q . c_j)

    Parameters
    ----------
    positions : array_like, shape (m, 3)
        c, (x, y, z) from the origin, angstrom.
    amplitudes : array_like, shape (m,)
        a, the integral of every atom.
    sigmas : array_like, shape (m,) or a number
        s, standard deviations, angstrom.

    Raises
    ------
    InputError
        No atoms, wrong shapes, or values that are not finite or not positive (sigmas).
    """

    positions: FloatArray
    amplitudes: FloatArray
    sigmas: FloatArray

    def __post_init__(self):
        positions = np.array(self.positions, dtype=np.float64)
        if positions.ndim != 2 or positions.shape[1] != 3 or len(positions) == 0:
            raise InputError(f"phantom: positions of shape (m, 3) needed, got {positions.shape}")
        columns = {"positions": positions}
        for name in ("amplitudes", "sigmas"):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.ndim > 1 or value.size not in (1, len(positions)):
                raise InputError(
                    f"phantom: {name} of {len(positions)} atoms needed, got shape {value.shape}"
                )
            columns[name] = np.array(np.broadcast_to(value, len(positions)))
        for name, value in columns.items():
            if not np.isfinite(value).all() or (name == "sigmas" and (value <= 0).any()):
                need = "finite and positive" if name == "sigmas" else "finite"
                raise InputError(f"phantom: {name} must be {need}")
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.positions)

    @property
    def radius(self) -> float:
        """Radius of the sphere about the origin that holds all atoms to 3 sigma, angstrom."""
        return float((np.linalg.norm(self.positions, axis=1) + 3 * self.sigmas).max())

    def fourier(self, kx: ArrayLike, ky: ArrayLike, kz: ArrayLike) -> NDArray[np.complex128]:
        """Evaluate F atom by atom, in double precision.

        Parameters
        ----------
        kx, ky, kz : array_like
            Spatial frequencies, 1/angstrom; broadcast against each other.
        """
        q = np.stack(np.broadcast_arrays(kx, ky, kz), axis=-1).astype(np.float64)
        squared = np.sum(q**2, axis=-1)
        total = np.zeros(squared.shape, dtype=np.complex128)
        for position, amplitude, sigma in zip(
            self.positions, self.amplitudes, self.sigmas, strict=True
        ):
            total += amplitude * np.exp(
                -2 * np.pi**2 * sigma**2 * squared - 2j * np.pi * (q @ position)
            )
        return total

    def slices(
        self,
        rotations: ArrayLike,
        box: int,
        pixel_size: float,
        heights: ArrayLike | None = None,
    ) -> NDArray[np.complex128]:
        """Evaluate planes of F to about 1e-7 at Nyquist, 1e-8 on average; see `Density.slices`.

        A projection of a Gaussian is a Gaussian: the atoms are added up in real space on finer
        pixels, wide enough to leave no alias, and the transform of that image is cropped.
        """
        rotations = orthonormal_rotations(rotations)
        count, side = len(rotations), OVERSAMPLING * box
        fine = pixel_size / OVERSAMPLING
        blur = max(0.0, (LEAST_SIGMA * pixel_size) ** 2 - self.sigmas.min() ** 2)
        widest = np.sqrt(self.sigmas.max() ** 2 + blur) / fine
        scratch = np.empty((count, 2, 2 * int(np.ceil(REACH * widest)) + 1))
        images = np.empty((count, side, side))
        levels = np.zeros(count) if heights is None else np.asarray(heights, dtype=np.float64)

        def transform(phase: float) -> NDArray[np.complex128]:
            kernels.project_atoms(
                *(self.positions / fine, self.amplitudes, self.sigmas / fine),
                *(blur / fine**2, REACH, rotations, levels / side, phase, scratch, images),
            )
            half = scipy.fft.rfft(images, axis=2, workers=thread_count())
            return scipy.fft.fft(half[:, :, : radius + 1], axis=1, workers=thread_count())[:, rows]

        radius = (box - 1) // 2
        rows = np.r_[: radius + 1, -radius:0]
        spectrum = transform(0.0)
        if levels.any():
            # exp(-2 pi i l z) = cos(2 pi l z) + i cos(2 pi l z + pi / 2)
            spectrum += 1j * transform(np.pi / 2)
        sharpen = np.exp(2 * np.pi**2 * blur * scipy.fft.fftfreq(side, fine)[rows] ** 2)
        spectrum *= sharpen[: radius + 1] * sharpen[:, None]
        out = np.zeros((count, box, box // 2 + 1), dtype=np.complex128)
        out[:, rows, : radius + 1] = spectrum
        return out


def phantom(diameter: float = 115.0) -> Phantom:
    """Return the built-in phantom: helices and a sheet of protein-like atoms, always the same.

    It has no symmetry, and its alpha helices and the twist of its sheet have the hand of proteins.
    Helices keep their thickness and pitch whatever the size: a larger phantom has longer ones.

    Parameters
    ----------
    diameter : float
        Of the sphere about the origin that holds it, angstrom; at least 30.

    Raises
    ------
    InputError
        A diameter too small.
    """
    if not diameter >= SMALLEST_DIAMETER:
        raise InputError(
            f"phantom: a diameter of {diameter:g} A is too small for a helix, "
            f"at least {SMALLEST_DIAMETER:g} A are needed (choose a larger box or pixel size)"
        )
    positions, amplitudes = protein.build(diameter / 2 - 3 * ATOM_SIGMA)
    return Phantom(positions, amplitudes, ATOM_SIGMA)


def phantom_from_pdb(path: str | os.PathLike, *, bfactor: float | None = None) -> Phantom:
    """Read the atoms of a structure, PDB or mmCIF, plain or gzipped.

    Hydrogens, waters and all models but the first are left out. Every atom becomes one Gaussian:
    the integral is the element's electron scattering factor at zero angle (International Tables C,
    4.3.2.2) times the occupancy, the variance is that of the factor plus the atom's B / (8 pi^2).
    The centre of the scattering is moved to the origin.

    Parameters
    ----------
    path : path
    bfactor : float, optional
        B of all atoms, square angstrom, in place of those in the file.

    Raises
    ------
    InputError
        No such file, not PDB or mmCIF, no atoms, or an atom of unknown element.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        structure = gemmi.read_structure(str(path), format=gemmi.CoorFormat.Detect)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as PDB or mmCIF ({error})") from error
    if len(structure) == 0:
        raise InputError(f"{path}: holds no atoms, a structure in PDB or mmCIF format is needed")
    structure.remove_hydrogens()
    structure.remove_waters()
    atoms = [(c.residue, c.atom) for c in structure[0].all()]
    if not atoms:
        raise InputError(f"{path}: holds no atoms, a structure in PDB or mmCIF format is needed")
    for residue, atom in atoms:
        if atom.element.atomic_number == 0 or atom.element.c4322 is None:
            raise InputError(
                f"{path}: atom {atom.name} of residue {residue.name} {residue.seqid} has an "
                "element whose scattering is not known, correct it or leave the atom out"
            )
    factors = {name: _scattering(name) for name in {a.element.name for _, a in atoms}}
    strength, width = np.array([factors[a.element.name] for _, a in atoms]).T
    amplitudes = strength * [a.occ for _, a in atoms]
    if not amplitudes.sum() > 0:
        raise InputError(f"{path}: the occupancies of all atoms are zero")
    own = [a.b_iso for _, a in atoms] if bfactor is None else bfactor
    positions = np.array([a.pos.tolist() for _, a in atoms])
    positions -= amplitudes @ positions / amplitudes.sum()
    return Phantom(
        positions, amplitudes, np.sqrt((width + np.maximum(own, 0)) / BFACTOR_OF_VARIANCE)
    )


def _scattering(element: str) -> tuple[float, float]:
    """Electron scattering factor at zero angle, and the B of the Gaussian of equal curvature."""
    factor = gemmi.Element(element).c4322
    return sum(factor.a), float(np.dot(factor.a, factor.b) / sum(factor.a))
