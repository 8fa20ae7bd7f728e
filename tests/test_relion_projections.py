"""Images that RELION projected itself: rotation, shift, CTF and scale as RELION means them."""

import gemmi
import mrcfile
import numpy as np
import pytest

from fastcryo.ctf import CTF
from fastcryo.grid import FourierGrid
from fastcryo.operators import SliceOperator
from fastcryo.problem import KnownPoseProblem
from fastcryo.rotations import rotation_matrices

from . import naive

POSE = ("AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst")
DEFOCUS = ("DefocusU", "DefocusV", "DefocusAngle")
EXTRAS = ("PhaseShift", "CtfBfactor", "CtfScalefactor")


def read_star(path, names):
    block = gemmi.cif.read(str(path)).find_block("particles")
    return {name: np.array(block.find_values(f"_rln{name}"), float) for name in names}


def poses(table):
    rotations = rotation_matrices(*(table[name] for name in POSE[:3]))
    return rotations, np.stack([table[name] for name in POSE[3:]], axis=1)


def positions_of_samples(operator, rotations, length):
    """Where every packed sample of every image lies in the volume, 1/angstrom; (n, samples, 3)."""
    f = np.rint(np.fft.fftfreq(operator.grid.box) * operator.grid.box) + 0j
    box = (1, operator.grid.box, operator.grid.box)
    h = operator.pack(np.broadcast_to(f, box))[0].real
    k = operator.pack(np.broadcast_to(f[:, None], box))[0].real
    return (h[:, None] * rotations[:, None, 0] + k[:, None] * rotations[:, None, 1]) / length


def relative_errors(ours, theirs, origin):
    """Error of every image without its mean, which RELION's gridding correction rescales."""
    keep = np.arange(ours.shape[1]) != origin
    difference = np.linalg.norm((ours - theirs)[:, keep], axis=1)
    return difference / np.linalg.norm(ours[:, keep], axis=1)


def correlations(ours, theirs, origin):
    keep = np.arange(ours.shape[1]) != origin
    a, b = ours[:, keep], theirs[:, keep]
    product = (np.conj(a) * b).real.sum(axis=1)
    return product / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def blobs(shared_data):
    x, y, z, sigma, peak = np.loadtxt(shared_data("relion-projections", "gaussians", "blobs.txt")).T
    # The integral of a Gaussian in voxels of 2 angstrom.
    return np.stack([x, y, z], axis=1), peak * (2 * np.pi * sigma**2) ** 1.5 / 2.0**3, sigma


@pytest.fixture(scope="module")
def projections(shared_data):
    """A problem of RELION's projections of the blobs, without CTF, and their rotations."""
    table = read_star(shared_data("relion-projections", "gaussians", "particles.star"), POSE)
    stack = shared_data("relion-projections", "gaussians", "proj_noctf_pad2.mrcs")
    rotations, shifts = poses(table)
    problem = KnownPoseProblem.from_arrays(
        mrcfile.read(stack), rotations, 2.0, shifts=shifts, dtype="float64"
    )
    return problem, rotations, shifts


def test_relions_projections_are_slices_of_the_exact_transform(blobs, projections):
    # RELION's own interpolation at padding 2 is 1 to 2 % off.
    problem, rotations, _ = projections
    assert len(problem) == 100
    q = positions_of_samples(problem.operator, rotations[::3], 64 * 2.0)
    exact = naive.gaussians(*blobs, q[..., 0], q[..., 1], q[..., 2])
    errors = relative_errors(exact, problem.data[::3], problem.operator.origin)
    assert np.median(errors) < 0.013
    assert errors.max() < 0.02


def test_slices_of_the_padded_map_are_relions_projections(shared_data, projections):
    # Both pad twofold and interpolate linearly; RELION also divides the map by a radial sinc^2.
    problem, rotations, _ = projections
    volume = mrcfile.read(shared_data("relion-projections", "gaussians", "vol.mrc"))
    grid = FourierGrid(128, radius=62)
    operator = SliceOperator(grid, "trilinear", dtype="float64")
    slices = operator.forward(grid.from_real(np.pad(volume.astype(float), 32)), rotations)
    cut = problem.operator.pack(even_samples(operator.unpack(slices)))
    errors = relative_errors(cut, problem.data, problem.operator.origin)
    assert errors.max() < 0.04
    assert correlations(cut, problem.data, problem.operator.origin).min() > 0.9995


def even_samples(transforms):
    """Keep every second frequency of transforms of twice the box."""
    return transforms[:, ::2, ::2]


def test_shifts_have_relions_sign(shared_data, projections):
    problem, rotations, shifts = projections
    stack = shared_data("relion-projections", "gaussians", "proj_noctf_pad2.mrcs")
    flipped = KnownPoseProblem.from_arrays(
        mrcfile.read(stack), rotations, 2.0, shifts=-shifts, dtype="float64"
    )
    origin = problem.operator.origin
    far = np.hypot(*shifts.T) > 4
    assert far.sum() > 20
    assert relative_errors(problem.data, flipped.data, origin)[far].min() > 0.3


def test_integer_shifts_of_relion_are_undone(shared_data):
    # The same views with and without origin offsets of whole pixels, from an unknown volume.
    images = {
        name: mrcfile.read(shared_data("relion-projections", f"rln_proj_64_{name}.mrcs"))
        for name in ("centered", "shifted")
    }
    star = shared_data("relion-projections", "rln_proj_64_shifted.star")
    table = read_star(star, (*POSE[:3], "OriginX", "OriginY"))
    rotations = rotation_matrices(*(table[name] for name in POSE[:3]))
    pixels = np.stack([table["OriginX"], table["OriginY"]], axis=1)
    prepared = {
        name: KnownPoseProblem.from_arrays(
            stack, rotations, 1.0, shifts=pixels * (name == "shifted"), dtype="float64"
        )
        for name, stack in images.items()
    }
    ours, theirs = prepared["shifted"].data, prepared["centered"].data
    assert correlations(ours, theirs, prepared["centered"].operator.origin).min() > 1 - 1e-9


@pytest.fixture(scope="module")
def point_mass(shared_data):
    """RELION's projections with CTF of one voxel at (z, y, x) = (32, 32, 49), padding 2."""
    star = shared_data("relion-projections", "simplecryoem_pyem.star")
    stack = shared_data("relion-projections", "simplecryoem_relion_proj_batch_pfac2.mrcs")
    table = read_star(star, (*POSE, *DEFOCUS))
    images = mrcfile.read(stack)
    table = {name: values[: len(images)] for name, values in table.items()}
    rotations, shifts = poses(table)
    ctf = CTF(*(table[name] for name in DEFOCUS), voltage=200, spherical_aberration=1.4)
    return images, rotations, shifts, ctf


def point_mass_correlations(images, rotations, shifts, ctf):
    # With the shift undone, data are C y; the model predicts C^2 exp(-2 pi i q.r).
    problem = KnownPoseProblem.from_arrays(images, rotations, 3.54, ctf, shifts, dtype="float64")
    q = positions_of_samples(problem.operator, rotations, 64 * 3.54)
    exact = np.exp(-2j * np.pi * (q @ [17 * 3.54, 0, 0]))
    return correlations(problem.weights * exact, problem.data, problem.operator.origin)


def test_point_mass_has_relions_rotation_shift_and_ctf(point_mass):
    images, rotations, shifts, ctf = point_mass
    assert len(images) == 24
    found = point_mass_correlations(images, rotations, shifts, ctf)
    assert found.min() > 0.999


def test_point_mass_tells_every_wrong_sign(point_mass):
    images, rotations, shifts, ctf = point_mass
    transposed = rotations.transpose(0, 2, 1)
    overfocus = CTF(-ctf.defocus_u, -ctf.defocus_v, ctf.defocus_angle, 200.0, 1.4)
    for wrong in (
        (images, transposed, shifts, ctf),
        (images, rotations, -shifts, ctf),
        (images, rotations, shifts, overfocus),
        (-images, rotations, shifts, ctf),
    ):
        assert point_mass_correlations(*wrong).mean() < 0.5


def test_slices_of_the_point_mass_map_are_relions(shared_data, point_mass):
    # Both pad twofold and interpolate linearly, and the gridding correction of one voxel is a
    # number: nothing is left but the rounding of RELION's single precision.
    images, rotations, shifts, ctf = point_mass
    volume = mrcfile.read(shared_data("relion-projections", "simplecryoem_pointmass.mrc"))
    problem = KnownPoseProblem.from_arrays(images, rotations, 3.54, ctf, shifts, dtype="float64")
    grid = FourierGrid(128, radius=62)
    operator = SliceOperator(grid, "trilinear", dtype="float64")
    slices = operator.forward(grid.from_real(np.pad(volume.astype(float), 32)), rotations)
    cut = problem.operator.pack(even_samples(operator.unpack(slices)))
    found = correlations(problem.weights * cut, problem.data, problem.operator.origin)
    assert found.min() > 1 - 1e-10


def test_extras_of_the_ctf_are_read_as_relion_means_them(shared_data, blobs):
    # The volume behind these images is not known. Blobs at the known places, with amplitudes free,
    # come near it; the metadata as they stand must fit better than any other reading. Shells are
    # weighted equally, or those where B and astigmatism act would not count. 10 images suffice.
    table = read_star(
        shared_data("relion-projections", "ctf-extras", "particles.star"),
        (*POSE, *DEFOCUS, *EXTRAS),
    )
    table = {name: values[::2] for name, values in table.items()}
    stack = shared_data("relion-projections", "ctf-extras", "proj_ctf_pad2.mrcs")
    rotations, shifts = poses(table)
    # Without a CTF the data are the transforms, centred.
    problem = KnownPoseProblem.from_arrays(
        mrcfile.read(stack)[::2], rotations, 2.0, shifts=shifts, radius=16, dtype="float64"
    )
    assert len(problem) == 10
    operator = problem.operator
    q = positions_of_samples(operator, rotations, 64 * 2.0)
    view = positions_of_samples(operator, np.eye(3)[None], 64 * 2.0)[0]
    shell = np.rint(64 * 2.0 * np.linalg.norm(view, axis=1)).astype(int)
    power = np.bincount(shell, (np.abs(problem.data) ** 2).sum(axis=0))
    emphasis = 1 / np.sqrt(np.where(shell > 0, power[shell], np.inf))
    places, _, sigmas = blobs
    basis = np.exp(
        -2 * np.pi**2 * (0.7 * sigmas) ** 2 * (q**2).sum(axis=-1)[..., None]
        - 2j * np.pi * (q @ places.T)
    )
    fields = dict(
        zip(
            ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "bfactor", "scale"),
            (table[name] for name in DEFOCUS + EXTRAS),
            strict=True,
        )
    )
    target = (emphasis * problem.data).ravel()
    target = np.concatenate([target.real, target.imag])

    def misfit(**changed):
        ctf = CTF(**fields | changed).evaluate(view[:, 0], view[:, 1])
        matrix = ((emphasis * ctf)[..., None] * basis).reshape(-1, len(places))
        matrix = np.concatenate([matrix.real, matrix.imag])
        normal = matrix.T @ matrix
        normal[np.diag_indices(len(places))] += 1e-9 * np.trace(normal) / len(places)
        left = target - matrix @ np.linalg.solve(normal, matrix.T @ target)
        return np.linalg.norm(left) / np.linalg.norm(target)

    right = misfit()
    assert right < 0.25
    assert misfit(bfactor=0.0) > 1.05 * right
    assert misfit(bfactor=4 * fields["bfactor"]) > 1.3 * right
    assert misfit(scale=1.0) > 1.3 * right
    assert misfit(phase_shift=0.0) > 3 * right
    assert misfit(phase_shift=-fields["phase_shift"]) > 3 * right
    assert misfit(defocus_angle=fields["defocus_angle"] + 90) > 1.3 * right
    assert misfit(defocus_angle=-fields["defocus_angle"]) > 1.1 * right
