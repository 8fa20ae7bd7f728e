"""Aberrations, magnification, corrected images and mixed sizes, against images made from them.

The images are made here, sample by sample, from RELION's definitions: at frequency index (h, k) an
image holds exp(i odd) C(M f) V(M (h, k) A), f = (h, k) / side. A problem that models them has no
gradient at that V.
"""

import numpy as np
import pytest

from fastcryo import read_particles
from fastcryo.errors import InputError
from fastcryo.grid import FourierGrid
from fastcryo.io.mrc import write_stack
from fastcryo.io.relion import write_particles
from fastcryo.io.star import write_star
from fastcryo.noise import estimate_noise_std
from fastcryo.normal import real_coordinates
from fastcryo.optics import (
    Aberrations,
    distinct_rows,
    even_orders,
    imaging_of,
    odd_orders,
    zernike,
)
from fastcryo.problem import KnownPoseProblem
from fastcryo.resample import resample
from fastcryo.rotations import euler_angles

from . import naive

BOX, PIXEL, COUNT = 16, 3.0, 6
WAVELENGTH = 12.2643247 / np.sqrt(2e5 * (1 + 0.978466e-6 * 2e5))
LENS = {"voltage": 200.0, "spherical_aberration": 1.4, "amplitude_contrast": 0.1}
MATRIX = (1.03, 0.01, 0.012, 0.985)
ODD = (4.0, -3.0, 60.0, 0.0, 0.0, -45.0)
EVEN = (0.3, 25.0, -20.0, 30.0, 0.0, 0.0, 4.0)


def odd_by_hand(x, y, tilt, z):
    """The first six antisymmetric polynomials, written out, and RELION's beam tilt."""
    r2 = x * x + y * y
    polynomials = [
        y,
        x,
        3 * x**2 * y - y**3,
        (3 * r2 - 2) * y,
        (3 * r2 - 2) * x,
        x**3 - 3 * x * y**2,
    ]
    scale = 20000 * LENS["spherical_aberration"] * WAVELENGTH**2 * np.pi
    phase = -scale * r2 * (tilt[0] * x + tilt[1] * y)
    return phase + sum(c * p for c, p in zip(z, polynomials, strict=False))


def even_by_hand(x, y, z):
    r2 = x * x + y * y
    a, b = x * x - y * y, 2 * x * y
    polynomials = [1, b, 2 * r2 - 1, a, 2 * a * b, (4 * r2 - 3) * b, 6 * r2**2 - 6 * r2 + 1]
    return sum(c * p for c, p in zip(z, polynomials, strict=False))


def test_zernike_polynomials_are_those_of_the_textbook():
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    for index in range(6):
        one = np.eye(6)[index]
        ours = zernike(*odd_orders(index), x, y)
        np.testing.assert_allclose(ours, odd_by_hand(x, y, (0, 0), one), rtol=1e-12)
    for index in range(7):
        one = np.eye(7)[index]
        ours = zernike(*even_orders(index), x, y)
        np.testing.assert_allclose(ours, even_by_hand(x, y, one) + 0 * x, atol=1e-12)
    assert [even_orders(i) for i in (7, 8, 9)] == [(2, 4), (4, 4), (-6, 6)]
    assert [odd_orders(i) for i in (6, 7, 11)] == [(-5, 5), (-3, 5), (5, 5)]


def test_beam_tilt_equals_the_polynomials_that_relion_puts_in_its_place():
    x, y = np.random.default_rng(0).normal(size=(2, 50)) / 5
    scale = 20000 * 2.7 * 0.02**2 * np.pi
    z = (2 * -scale * -0.2 / 3, 2 * -scale * 0.4 / 3, 0, -scale * -0.2 / 3, -scale * 0.4 / 3, 0)
    tilted = Aberrations((0.4, -0.2)).odd_phase(x, y, 0.02, 2.7)
    np.testing.assert_allclose(tilted, Aberrations(odd=z).odd_phase(x, y, 0.02, 2.7), rtol=1e-12)


def simulate(folder, groups, rows=None, with_ctf=True):
    """Write one stack per optics group and the STAR file; return the volume they show.

    A group is a dictionary: columns of the optics table, and box, pixel_size, flipped and
    premultiplied, which say how its images are made.
    """
    rng = np.random.default_rng(3)
    grid = FourierGrid(BOX)
    volume = grid.from_real(rng.normal(size=(BOX,) * 3))
    full = grid.unfold(volume)
    optics, particles = {}, {}

    def add(table, **values):
        for name, value in values.items():
            table.setdefault(name, []).append(str(value))

    for number, group in enumerate(groups, 1):
        box, pixel = group.get("box", BOX), group.get("pixel_size", PIXEL)
        tilt, odd = group.get("tilt", (0, 0)), group.get("odd", ())
        even, matrix = group.get("even", ()), np.reshape(group.get("matrix", (1, 0, 0, 1)), (2, 2))
        rotations = naive.random_rotations(COUNT, rng)
        shifts = rng.normal(scale=4, size=(COUNT, 2))
        # Frequencies that both grids hold, and whose place in the volume lies in its ball.
        ratio = BOX * PIXEL / (box * pixel)
        limit = min((min(box, BOX) - 1) // 2, 7 / max(1, ratio * np.linalg.norm(matrix, 2)))
        k, h = np.mgrid[-7:8, -7:8]
        inside = h**2 + k**2 <= limit**2
        h, k = h[inside], k[inside]
        x, y = matrix @ np.stack([h, k]) / (box * pixel)
        images = np.empty((COUNT, box, box))
        for i in range(COUNT):
            defocus = rng.uniform(8000, 14000, 2)
            index, weights = naive.taps(
                BOX, rotations[i], x * BOX * PIXEL, y * BOX * PIXEL, "trilinear"
            )
            values = (weights * full.ravel()[index]).sum(axis=1)
            ctf = 1.0
            if with_ctf:
                # -sin(gamma), with RELION's gamma plus the even phase.
                wave, cs = WAVELENGTH, LENS["spherical_aberration"] * 1e7
                q2, angle = x * x + y * y, np.arctan2(y, x)
                mean, half = defocus.mean(), (defocus[0] - defocus[1]) / 2
                gamma = -np.pi * wave * (mean + half * np.cos(2 * (angle - 0.5))) * q2
                gamma += np.pi / 2 * cs * wave**3 * q2**2 - np.arcsin(0.1)
                ctf = -np.sin(gamma + even_by_hand(x, y, even)) * np.exp(-40 * q2 / 4)
            values = values * np.exp(1j * odd_by_hand(x, y, tilt, odd)) * ctf
            values *= np.exp(2j * np.pi * (h * shifts[i, 0] + k * shifts[i, 1]) / (box * pixel))
            values *= {"flip": np.sign(ctf), "multiply": ctf}.get(group.get("made"), 1)
            transform = np.zeros((box, box), complex)
            # Grey values of a coarser image are those of the fine one.
            transform[k, h] = values * (box / BOX) ** 2
            pixels = np.fft.ifft2(transform)
            assert np.abs(pixels.imag).max() < 1e-9 * np.abs(pixels.real).max()
            images[i] = np.fft.fftshift(pixels.real)
            rot, tilt_angle, psi = euler_angles(rotations[i : i + 1])[0]
            add(
                particles,
                rlnImageName=f"{i + 1}@{number}.mrcs",
                rlnAngleRot=rot,
                rlnAngleTilt=tilt_angle,
                rlnAnglePsi=psi,
                rlnOriginXAngst=shifts[i, 0],
                rlnOriginYAngst=shifts[i, 1],
                rlnOpticsGroup=number,
                rlnRandomSubset=1 + i % 2,
            )
            if with_ctf:
                add(
                    particles,
                    rlnDefocusU=defocus[0],
                    rlnDefocusV=defocus[1],
                    rlnDefocusAngle=np.rad2deg(0.5),
                    rlnCtfBfactor=40,
                )
        write_stack(folder / f"{number}.mrcs", images, pixel)
        add(
            optics,
            rlnOpticsGroup=number,
            rlnOpticsGroupName=f"group{number}",
            rlnVoltage=200,
            rlnSphericalAberration=LENS["spherical_aberration"],
            rlnAmplitudeContrast=0.1,
            rlnImagePixelSize=pixel,
            rlnImageSize=box,
            rlnBeamTiltX=tilt[0],
            rlnBeamTiltY=tilt[1],
            rlnOddZernike=list(odd),
            rlnEvenZernike=list(even),
            rlnMagMat00=matrix[0, 0],
            rlnMagMat01=matrix[0, 1],
            rlnMagMat10=matrix[1, 0],
            rlnMagMat11=matrix[1, 1],
            rlnCtfDataArePhaseFlipped=int(group.get("made") == "flip"),
            rlnCtfDataAreCtfPremultiplied=int(group.get("made") == "multiply"),
        )
    if rows:
        optics |= rows
    write_star(folder / "particles.star", {"optics": optics, "particles": particles})
    return volume


def residual(folder, volume):
    """Gradient at the volume, in units of the gradient at zero."""
    particles = read_particles(folder / "particles.star")
    problem = KnownPoseProblem.from_particles(particles, regularization=0.0, dtype="float64")
    gradient = problem.loss_and_gradient(volume)[1]
    return np.linalg.norm(gradient) / np.linalg.norm(problem.right_hand_side())


CASES = {
    "beam tilt": {"tilt": (0.7, -1.1)},
    "odd": {"odd": ODD},
    "even": {"even": EVEN},
    "matrix": {"matrix": MATRIX},
    "flipped": {"made": "flip"},
    "premultiplied": {"made": "multiply"},
    "finer": {"pixel_size": 2.0, "box": 24},
    "coarser": {"pixel_size": 3.5, "box": 14},
    "all": {
        "tilt": (0.7, -1.1), "odd": ODD, "even": EVEN, "matrix": MATRIX, "made": "flip",
        "pixel_size": 1.6, "box": 30,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_images_made_from_the_definitions_are_explained(tmp_path, name):
    volume = simulate(tmp_path, [{}, CASES[name]])
    assert residual(tmp_path, volume) < 1e-6


# What the columns would say if they were left out.
LEFT_OUT = {
    "beam tilt": {"rlnBeamTiltX": ["0", "0"], "rlnBeamTiltY": ["0", "0"]},
    "odd": {"rlnOddZernike": ["[0]", "[0]"]},
    "even": {"rlnEvenZernike": ["[0]", "[0]"]},
    "matrix": {
        f"rlnMagMat{i}": [v, v] for i, v in zip(("00", "01", "10", "11"), "1001", strict=True)
    },
    "flipped": {"rlnCtfDataArePhaseFlipped": ["0", "0"]},
    "premultiplied": {"rlnCtfDataAreCtfPremultiplied": ["0", "0"]},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_each_of_them_matters(tmp_path, name):
    volume = simulate(tmp_path, [{}, CASES[name]], LEFT_OUT[name])
    assert residual(tmp_path, volume) > 0.02


def test_images_of_mixed_sizes_without_ctf_are_explained(tmp_path):
    volume = simulate(tmp_path, [{}, CASES["coarser"], CASES["finer"]], with_ctf=False)
    assert residual(tmp_path, volume) < 1e-6


def test_the_hessian_is_symmetric_and_agrees_with_its_assembled_form_and_metadata(tmp_path):
    simulate(tmp_path, [{}, CASES["all"]])
    particles = read_particles(tmp_path / "particles.star")
    problem = KnownPoseProblem.from_particles(particles, dtype="float64", symmetry="C2")
    metadata = KnownPoseProblem.from_particles(
        particles, dtype="float64", symmetry="C2", metadata_only=True
    )
    np.testing.assert_allclose(metadata.weights, problem.weights, rtol=1e-12, atol=1e-15)
    half = problem.grid.from_real(np.random.default_rng(0).normal(size=(BOX,) * 3))
    operator = problem.normal_operator()
    ours, expected = operator.matvec(half), problem.hvp(half)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    linear = operator.as_linear_operator(real_coordinates(problem.grid))
    a, b = np.random.default_rng(1).normal(size=(2, linear.shape[0]))
    assert a @ linear.matvec(b) == pytest.approx(b @ linear.matvec(a))


def test_particles_that_need_nothing_keep_the_plain_path(tmp_path):
    simulate(tmp_path, [{}, {}])
    assert imaging_of(read_particles(tmp_path / "particles.star")) is None


def test_mixed_sizes_are_noted_and_refused_on_request(tmp_path):
    simulate(tmp_path, [{}, CASES["finer"]])
    path = tmp_path / "particles.star"
    particles = read_particles(path)
    assert particles.notes == (
        "images of 24 pixels of 2 A in group2 (6) are resampled to those of group1, "
        "16 pixels of 3 A",
    )
    assert particles.images().shape == (2 * COUNT, BOX, BOX)
    with pytest.raises(InputError, match="16 pixels of 3 A in group1 and 24 pixels of 2 A in gro"):
        read_particles(path, mixed_sizes="refuse")
    with pytest.raises(InputError, match="one --angpix cannot replace them"):
        read_particles(path, pixel_size=2.5)


@pytest.mark.parametrize("own", [30, 41, 64])
@pytest.mark.parametrize("side", [36, 37])
@pytest.mark.parametrize("box", [24, 25, 45])
def test_resampled_images_show_the_same_density(own, side, box):
    """A Gaussian on a background, off centre, sampled at other points."""

    def sampled(count, step):
        x = (np.arange(count) - count // 2) * step
        square = (x[:, None] - 1.3) ** 2 + (x[None, :] + 2.1) ** 2
        return (2 + np.exp(-square / (2 * 2.5**2)))[None].astype(np.float32)

    found = resample(sampled(own, 1.0), side, box)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sampled(box, side / box), atol=2e-4)


def test_settings_of_prepared_images_include_the_optics(tmp_path):
    simulate(tmp_path, [{}, CASES["even"]])
    path = tmp_path / "particles.star"
    KnownPoseProblem.from_particles(read_particles(path), store=tmp_path / "set")
    KnownPoseProblem.from_particles(read_particles(path), store=tmp_path / "set")
    text = path.read_text()
    path.write_text(text.replace("25.0", "26.0"))
    assert path.read_text() != text
    with pytest.raises(InputError, match="its optics are others"):
        KnownPoseProblem.from_particles(read_particles(path), store=tmp_path / "set")


def test_particles_are_written_with_their_optics(tmp_path):
    groups = [CASES["all"], CASES["premultiplied"]]
    simulate(tmp_path, groups)
    particles = read_particles(tmp_path / "particles.star")
    names = [
        f"{number + 1:06d}@{particles.stacks[stack].name}"
        for number, stack in zip(particles.slice, particles.stack, strict=True)
    ]
    write_particles(tmp_path / "again.star", particles, names)
    again = read_particles(tmp_path / "again.star")
    assert again.optics == particles.optics
    np.testing.assert_allclose(again.rotations, particles.rotations, atol=1e-7)


def test_noise_of_premultiplied_images_is_that_before_the_multiplication(tmp_path):
    box, count, pixel = 48, 200, 3.0
    rng = np.random.default_rng(0)
    defocus = rng.uniform(9000, 15000, count)
    h, k = naive.frequencies(box)
    images = rng.normal(scale=1.7, size=(count, box, box))
    for i, image in enumerate(images):
        if i % 2:
            ctf = naive.ctf(h / (box * pixel), k / (box * pixel), defocus[i], defocus[i], **LENS)
            image[:] = np.fft.ifft2(np.fft.fft2(image) * ctf).real
    write_stack(tmp_path / "p.mrcs", images, pixel)
    optics = {
        "rlnOpticsGroup": ["1", "2"],
        "rlnVoltage": ["200"] * 2,
        "rlnSphericalAberration": ["1.4"] * 2,
        "rlnAmplitudeContrast": ["0.1"] * 2,
        "rlnImagePixelSize": [str(pixel)] * 2,
        "rlnCtfDataAreCtfPremultiplied": ["0", "1"],
    }
    rows = {
        "rlnImageName": [f"{i + 1}@p.mrcs" for i in range(count)],
        "rlnOpticsGroup": [str(1 + i % 2) for i in range(count)],
        "rlnDefocusAngle": ["0"] * count,
    }
    rows |= {name: [str(v) for v in defocus] for name in ("rlnDefocusU", "rlnDefocusV")}
    rows |= {f"rlnAngle{name}": ["0"] * count for name in ("Rot", "Tilt", "Psi")}
    write_star(tmp_path / "p.star", {"optics": optics, "particles": rows})
    found = estimate_noise_std(read_particles(tmp_path / "p.star"), 20)
    # The mask of the corners spreads the rings of the CTF over neighbouring shells.
    np.testing.assert_allclose(found[2:], 1.7 * box, rtol=0.1)
    assert found[2:].mean() == pytest.approx(1.7 * box, rel=0.015)


def test_distinct_rows_are_those_of_numpy():
    rng = np.random.default_rng(4)
    varied = rng.integers(0, 3, 200) / 3, rng.normal(size=200).round(1)
    columns = [np.ones(200), *varied, -np.ones(200)]
    expected, places = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)
    rows, group = distinct_rows(columns)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(group, places.reshape(-1))
    rows, group = distinct_rows([np.full(3, 2.0), np.full(3, 5.0)])
    np.testing.assert_array_equal(rows, [[2, 5]])
    np.testing.assert_array_equal(group, [0, 0, 0])
