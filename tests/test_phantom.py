"""Phantoms: images and volumes against the formula, structures read from files."""

import gzip

import numpy as np
import pytest

from fastcryo import protein
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.fsc import fsc
from fastcryo.io.mrc import open_stack, read_map
from fastcryo.particles import read_particles
from fastcryo.phantom import Phantom, phantom, phantom_from_pdb

from . import naive

BOXES = [(16, 3.0), (17, 2.5), (24, 1.0)]


def few_atoms(sigmas=(0.4, 1.0, 3.0)):
    rng = np.random.default_rng(3)
    return Phantom(rng.uniform(-15, 15, (9, 3)), rng.uniform(0.5, 2, 9), np.resize(sigmas, 9))


def frequencies(box):
    """k and h of the rfft2 layout, and which are not Nyquist's."""
    k, h = np.fft.fftfreq(box, 1 / box)[:, None], np.arange(box // 2 + 1)
    return k, h, (np.abs(k) <= (box - 1) // 2) & (h <= (box - 1) // 2)


def formula(density, rotations, box, pixel_size, height=0):
    k, h, inside = frequencies(box)
    q = h[:, None] * rotations[:, None, None, 0] + k[:, :, None] * rotations[:, None, None, 1]
    q = (q + height * rotations[:, None, None, 2]) / (box * pixel_size)
    return density.fourier(q[..., 0], q[..., 1], q[..., 2]) * inside


@pytest.mark.parametrize(("box", "pixel_size"), BOXES)
@pytest.mark.parametrize("sigmas", [(0.1,), (0.4, 1.0, 3.0), (12.0,)])
def test_slices_are_the_formula(box, pixel_size, sigmas):
    # Two alias terms of 1.4e-7 each, of the coefficients at Nyquist, and far less elsewhere.
    density = few_atoms(sigmas)
    rotations = naive.random_rotations(3, np.random.default_rng(box))
    expected = formula(density, rotations, box, pixel_size)
    ours = density.slices(rotations, box, pixel_size)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_planes_off_the_centre_are_the_formula():
    density, rotations = few_atoms(), naive.random_rotations(3, np.random.default_rng(1))
    ours = density.slices(rotations, 16, 3.0, heights=[2, 2, 2])
    expected = formula(density, rotations, 16, 3.0, height=2)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize(("box", "pixel_size"), BOXES)
def test_transform_of_the_volume_is_the_formula_at_the_grid_points(box, pixel_size):
    density = few_atoms()
    volume = density.volume(box, pixel_size)
    assert volume.dtype == np.float32
    full = np.fft.fftn(np.fft.ifftshift(volume.astype(np.float64)))
    k = np.fft.fftfreq(box, 1 / box)
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
    expected = density.fourier(*(c / (box * pixel_size) for c in (kx, ky, kz)))
    nyquist = np.any(np.abs([kx, ky, kz]) > (box - 1) // 2, axis=0)
    expected[nyquist] = 0
    # float32 rounds every voxel by 6e-8 of its value; the sum of the roundings stays below 1e-6.
    np.testing.assert_allclose(full, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("box", "pixel_size"), BOXES)
def test_images_are_the_formula_times_ctf_and_phase(box, pixel_size):
    rng = np.random.default_rng(box)
    density, rotations = few_atoms(), naive.random_rotations(4, rng)
    shifts = rng.normal(0, 5, (4, 2))
    parameters = {
        "defocus_u": rng.uniform(8000, 20000, 4),
        "defocus_v": rng.uniform(8000, 20000, 4),
        "defocus_angle": rng.uniform(0, 180, 4),
        "phase_shift": 30.0,
        "bfactor": 40.0,
    }
    images = density.projections(rotations, box, pixel_size, ctf=CTF(**parameters), shifts=shifts)
    assert images.dtype == np.float32
    ours = np.fft.rfft2(np.fft.ifftshift(images.astype(np.float64), axes=(1, 2)))
    k, h, _ = frequencies(box)
    expected = formula(density, rotations, box, pixel_size)
    whole = {"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1, "scale": 1}
    for i, (sx, sy) in enumerate(shifts):
        one = {name: np.broadcast_to(value, 4)[i] for name, value in parameters.items()}
        fx, fy = np.broadcast_arrays(h / (box * pixel_size), k / (box * pixel_size))
        expected[i] *= naive.ctf(fx, fy, **one, **whole)
        expected[i] *= np.exp(2j * np.pi * (h * sx + k * sy) / (box * pixel_size))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_projection_without_rotation_is_the_volume_summed_along_z():
    density = few_atoms()
    image = density.projections(np.eye(3)[None], 16, 3.0)[0]
    total = density.volume(16, 3.0).sum(axis=0)
    np.testing.assert_allclose(image, total, rtol=0, atol=2e-6 * np.abs(total).max())


def test_an_atom_appears_where_its_rotated_position_says():
    rotation = naive.euler_matrix(50, 70, 110)
    position = np.array([12.0, -7.0, 20.0])
    x, y = (rotation @ position)[:2]
    image = Phantom(position[None], 1.0, 2.0).projections(rotation[None], 64, 1.0)[0]
    rows, columns = np.indices(image.shape) - 32
    total = image.sum()
    assert (image * columns).sum() / total == pytest.approx(x, abs=1e-4)
    assert (image * rows).sum() / total == pytest.approx(y, abs=1e-4)


def test_a_shift_brings_the_particle_back_to_the_centre():
    # RELION translates the image by +origin to centre it, so the particle lies at -origin.
    atom = Phantom(np.zeros((1, 3)), 1.0, 3.0)
    image = atom.projections(np.eye(3)[None], 32, 2.0, shifts=[[6.0, -8.0]])[0]
    assert np.unravel_index(image.argmax(), image.shape) == (16 + 4, 16 - 3)


def test_built_in_phantom_is_the_same_every_time_and_fits():
    first, second = phantom(90.0), phantom(90.0)
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.amplitudes, second.amplitudes)
    assert all(phantom(d).radius <= d / 2 + 1e-9 for d in (30.0, 45.0, 90.0, 300.0))
    assert phantom(300.0).radius > 100


def test_built_in_phantom_has_no_symmetry_and_a_hand():
    volume = phantom(100.0).volume(33, 5.0)
    assert fsc(volume, volume)[1:].min() == pytest.approx(1, abs=1e-6)
    turned = {
        "mirror": volume[:, :, ::-1],
        "about x": volume[::-1, ::-1],
        "about y": volume[::-1, :, ::-1],
        "about z": volume[:, ::-1, ::-1],
        "inversion": volume[::-1, ::-1, ::-1],
    }
    for name, other in turned.items():
        assert np.abs(fsc(volume, other)[6:]).mean() < 0.3, name


def test_helices_of_the_built_in_phantom_are_right_handed_alpha_helices():
    positions, _ = protein.build(60.0)
    alpha_carbons = positions.reshape(-1, len(protein.RESIDUE), 3)[:10, 1]
    steps = np.diff(alpha_carbons, axis=0)
    assert (np.einsum("ij,ij->i", np.cross(steps[:-2], steps[1:-1]), steps[2:]) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 3.8, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 3)), 1.0, 1.0), "positions"),
        ((np.zeros((2, 2)), 1.0, 1.0), "positions"),
        ((np.zeros((2, 3)), [1.0, 2.0, 3.0], 1.0), "amplitudes of 2 atoms"),
        ((np.full((2, 3), np.nan), 1.0, 1.0), "positions must be finite"),
        ((np.zeros((2, 3)), 1.0, 0.0), "sigmas must be finite and positive"),
    ],
)
def test_phantom_refuses_what_is_no_phantom(arguments, message):
    with pytest.raises(InputError, match=message):
        Phantom(*arguments)


@pytest.mark.parametrize("diameter", [5.0, np.nan])
def test_phantom_refuses_a_diameter_too_small(diameter):
    with pytest.raises(InputError, match="at least 30 A"):
        phantom(diameter)


PDB = """\
ATOM      1  CA  ALA A   1      10.000   0.000   0.000  1.00 20.00           C
ATOM      2  O   ALA A   1       0.000   6.000   0.000  0.50-10.00           O
ATOM      3  HA  ALA A   1       1.000   1.000   1.000  1.00 20.00           H
HETATM    4  O   HOH A   2      50.000  50.000  50.000  1.00 20.00           O
END
"""


@pytest.mark.parametrize("zipped", [False, True])
def test_structure_becomes_one_gaussian_per_heavy_atom(tmp_path, zipped):
    path = tmp_path / ("a.pdb.gz" if zipped else "a.pdb")
    path.write_bytes(gzip.compress(PDB.encode()) if zipped else PDB.encode())
    read = phantom_from_pdb(path)
    # International Tables C 4.3.2.2: the five coefficients a of C and O add up to these.
    np.testing.assert_allclose(read.amplitudes, [2.5088, 0.5 * 1.9834], atol=1e-4)
    centre = read.amplitudes @ np.array([[10, 0, 0], [0, 6, 0]]) / read.amplitudes.sum()
    np.testing.assert_allclose(read.positions, [[10, 0, 0], [0, 6, 0]] - centre, atol=1e-9)
    own = 8 * np.pi**2 * read.sigmas**2 - [20.0, 0.0]  # a negative B counts as 0
    np.testing.assert_allclose(own, [17.06, 9.67], atol=0.01)  # sum(a b) / sum(a) by hand
    flat = phantom_from_pdb(path, bfactor=100.0)
    np.testing.assert_allclose(8 * np.pi**2 * flat.sigmas**2 - own, 100.0, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing of a structure\n", "holds no atoms"),
        (PDB.splitlines()[3], "holds no atoms"),
        (PDB.splitlines()[0][:-1] + "X\n", "scattering is not known"),
        (PDB.splitlines()[0].replace("  1.00", "  0.00"), "occupancies"),
    ],
)
def test_structure_without_usable_atoms_is_refused(tmp_path, text, message):
    path = tmp_path / "a.pdb"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"a\.pdb.*{message}"):
        phantom_from_pdb(path)


def test_missing_structure_and_broken_mmcif_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.pdb: no such file"):
        phantom_from_pdb(tmp_path / "none.pdb")
    path = tmp_path / "b.cif"
    path.write_text("data_x\nloop_\n_atom_site.id\n_atom_site.type_symbol\n1\n")
    with pytest.raises(InputError, match=r"b\.cif: cannot be read as PDB or mmCIF"):
        phantom_from_pdb(path)


@pytest.mark.parametrize(
    ("name", "atoms"),
    [("1MNF_groel.pdb.gz", 55552), ("apoferritin_ca_apo_sym.pdb", 4080)],
)
def test_real_structures_are_read(shared_data, name, atoms):
    read = phantom_from_pdb(shared_data("maps-atoms", name))
    assert len(read) == atoms
    np.testing.assert_allclose(read.amplitudes @ read.positions, 0, atol=1e-6 * atoms)


@pytest.fixture(scope="module")
def relion_gaussians(shared_data):
    """The sum of Gaussians that RELION projected, its map, the images and their metadata."""
    blobs = np.loadtxt(shared_data("relion-projections", "gaussians", "blobs.txt"))
    sigma, peak = blobs[:, 3], blobs[:, 4]
    amplitude = peak * (2 * np.pi * sigma**2) ** 1.5 / 2.0**3  # voxels hold densities there
    folder = shared_data("relion-projections", "gaussians")
    stack = open_stack(folder / "proj_noctf_pad2.mrcs")
    images = np.empty((stack.count, stack.box, stack.box), np.float32)
    for i in range(stack.count):
        stack.read(i, images[i])
    particles = read_particles(folder / "particles.star", need_images=False)
    return Phantom(blobs[:, :3], amplitude, sigma), read_map(folder / "vol.mrc"), images, particles


def test_volume_agrees_with_a_map_sampled_by_another_program(relion_gaussians):
    density, (volume, pixel_size), _, _ = relion_gaussians
    ours = density.volume(64, pixel_size)
    np.testing.assert_allclose(ours, volume, rtol=0, atol=3e-6 * volume.max())


def test_projections_agree_with_those_of_relion(relion_gaussians):
    density, _, images, particles = relion_gaussians
    disc = naive_disc(64)

    def error(**change):
        values = {"rotations": particles.rotations, "shifts": particles.shifts} | change
        ours = density.projections(values["rotations"], 64, 2.0, shifts=values["shifts"])
        difference = np.fft.rfft2(ours - images)[:, disc]
        return np.linalg.norm(difference, axis=1) / np.linalg.norm(
            np.fft.rfft2(images)[:, disc], axis=1
        )

    # RELION interpolates linearly on a grid padded by 2, which is good to 1-2 %.
    assert error().max() < 0.02
    assert error(shifts=-particles.shifts).min() > 0.02
    assert error(shifts=-particles.shifts).mean() > 0.2
    assert error(rotations=particles.rotations.transpose(0, 2, 1)).mean() > 0.5


def naive_disc(box):
    """Samples within |(h, k)| <= R but the origin, where RELION's gridding correction errs."""
    k, h, _ = frequencies(box)
    return (h**2 + k**2 <= ((box - 1) // 2) ** 2) & (h**2 + k**2 > 0)
