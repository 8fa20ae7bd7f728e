"""Noise from residuals and scales of images, on images whose noise and scales are known."""

import dataclasses

import numpy as np
import pytest

import fastcryo as fc
from fastcryo.cli import main
from fastcryo.image_fit import first_maps, residual_noise
from fastcryo.io.mrc import read_map, write_stack
from fastcryo.noise import estimate_noise_std
from fastcryo.particles import read_particles
from fastcryo.reconstruct import prepare
from fastcryo.reporting import silent
from fastcryo.scales import shrunk_scales, with_recorded_scales
from fastcryo.settings import Settings

BOX, COUNT, PIXEL = 32, 1200, 6.0
SHELLS = np.arange(1, 15)


def coloured(count, box, knee, rng):
    """Return noise whose spectrum falls beyond a shell, and its sigma by shell."""
    k = np.hypot(np.fft.fftfreq(box, 1 / box)[:, None], np.arange(box // 2 + 1))
    sigma = 3 / np.sqrt(1 + (k / knee) ** 2)
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(count, box, box))) * sigma)
    shells = np.rint(k).astype(int).ravel()
    power = np.bincount(shells, sigma.ravel() ** 2) / np.bincount(shells)
    return noise, box * np.sqrt(power[: (box - 1) // 2 + 1])


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Simulate particles with known scales and coloured noise, which fill their box."""
    folder = tmp_path_factory.mktemp("known")
    made = fc.simulate(
        folder,
        source=fc.phantom(0.9 * BOX * PIXEL),
        box=BOX,
        count=COUNT,
        pixel_size=PIXEL,
        snr=0.2,
        defocus=(3e4, 4e4),
    )
    rng = np.random.default_rng(1)
    scales = np.exp(0.4 * rng.normal(size=COUNT))
    scales /= scales.mean()
    noise, sigma = coloured(COUNT, BOX, 5.0, rng)
    images = scales[:, None, None] * made.signal(np.arange(COUNT)) + noise
    write_stack(folder / "particles.mrcs", images.astype(np.float32), PIXEL)
    return read_particles(folder / "particles.star"), scales, sigma, made


def prepared(particles, folder, store=None, **settings):
    wanted = Settings(solver="wiener", backend="cpu", **settings)
    return prepare(particles, particles.half_sets(0), wanted, silent, store, True, folder / "first")


@pytest.fixture(scope="module")
def fitted(known, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    return prepared(known[0], folder, noise="residuals", scale="fitted")


def test_residuals_give_the_noise_where_corners_hold_signal(known, fitted):
    particles, _, sigma, _ = known
    corners = estimate_noise_std(particles, (BOX - 1) // 2)
    off = np.abs(fitted.noise / sigma - 1)[:, SHELLS]
    assert fitted.noise.shape == (2, len(sigma))
    assert off.max() < 0.03
    assert np.sqrt(np.mean(off**2)) < 0.4 * np.sqrt(np.mean((corners / sigma - 1)[SHELLS] ** 2))
    assert "degrees of freedom" in fitted.notes[-1]


def test_degrees_of_freedom_are_accounted_for(tmp_path):
    # With few images the maps take a part of the noise that they are fitted to.
    box = 24
    fc.simulate(tmp_path, box=box, count=300, snr=0.5, pixel_size=4.0)
    particles = read_particles(tmp_path / "particles.star")
    corners = estimate_noise_std(particles, 11)
    problem = fc.KnownPoseProblem.from_particles(
        particles, noise_std=corners, regularization=0.0, backend="cpu"
    )
    maps = first_maps(problem, particles.half_sets(0), Settings(), silent)
    found = residual_noise(particles, problem, maps, corners, None, silent)
    shells = np.arange(1, 11)
    variance = np.mean(found.sigma[:, shells] ** 2, axis=0) / box**2
    raw = np.mean((found.sigma**2)[:, shells] * (1 - found.freedom[:, shells]), axis=0) / box**2
    assert abs(variance.mean() - 1) < 0.015
    assert raw.mean() < 0.97
    assert found.images == (150, 150)


def test_nothing_goes_from_one_half_set_to_the_other(known, tmp_path):
    # The prior alone knows of both: without it, the noise of half-set 1 is that of its images.
    particles, _, _, _ = known
    louder = particles.images()
    louder[particles.half == 2] *= 3
    write_stack(tmp_path / "louder.mrcs", louder, PIXEL)
    other = dataclasses.replace(particles, stacks=(tmp_path / "louder.mrcs",))
    first, second = (prepared(p, tmp_path, noise="residuals").noise for p in (particles, other))
    np.testing.assert_allclose(second[0, SHELLS], first[0, SHELLS], rtol=5e-3)
    np.testing.assert_allclose(second[1, SHELLS], 3 * first[1, SHELLS], rtol=5e-3)


def test_optics_groups_keep_a_noise_of_their_own(known, tmp_path):
    particles, _, sigma, _ = known
    images = particles.images()
    group = np.arange(COUNT) % 3 % 2
    images[group == 1] *= 2
    write_stack(tmp_path / "two.mrcs", images, PIXEL)
    optics = (particles.optics[0], dataclasses.replace(particles.optics[0], name="other"))
    two = dataclasses.replace(
        particles, stacks=(tmp_path / "two.mrcs",), optics=optics, optics_group=group
    )
    found = prepared(two, tmp_path, noise="residuals")
    assert found.noise.shape == (4, len(sigma))
    np.testing.assert_allclose(found.noise[:2, SHELLS] / sigma[SHELLS], 1, atol=0.08)
    np.testing.assert_allclose(found.noise[2:, SHELLS] / sigma[SHELLS], 2, atol=0.16)


def test_known_scales_are_recovered_to_their_errors(known, fitted):
    _, scales, _, _ = known
    found = fitted.particles.scale
    assert np.corrcoef(found, scales)[0, 1] > 0.95
    off = found - scales
    assert np.sqrt(np.mean(off**2)) < 0.35 * scales.std()
    assert found.mean() == pytest.approx(1, abs=1e-3)
    assert "scales of images" in fitted.notes[0]


def test_the_map_is_nearer_the_truth_with_fitted_scales(known, fitted, tmp_path):
    particles, _, _, made = known
    truth = made.truth
    agreement = {}
    for name, found in (("without", prepared(particles, tmp_path)), ("with", fitted)):
        problem = found.problem
        diagonal = problem.hessian_diagonal()
        lam = 0.1 * problem.grid.shell_means(diagonal)
        solved = fc.conjugate_gradient(problem.with_regularization(lam), tolerance=1e-3)
        volume = problem.to_map(solved.volume)
        agreement[name] = 1 - fc.fsc(volume, truth)[2:12].mean()
    assert agreement["with"] < 0.9 * agreement["without"]


def test_images_of_one_scale_and_images_of_noise_keep_it():
    rng = np.random.default_rng(3)
    squares = rng.uniform(20, 60, 500)
    products = squares * 1.3 + rng.normal(size=500) * np.sqrt(squares)
    found = shrunk_scales(products, squares, 9)
    assert found.values.std() < 0.3 * (products / squares / 1.3).std()
    noise = shrunk_scales(np.zeros(5), np.ones(5), 9)
    np.testing.assert_array_equal(noise.values, 1)
    wild = shrunk_scales(np.r_[np.full(99, 50.0), 900], np.full(100, 50.0), 9)
    assert wild.clipped == 1


@pytest.mark.parametrize("corrected", ["", "phase-flipped", "premultiplied"])
def test_scales_enter_data_and_hessian_as_they_do_the_images(known, tmp_path, corrected):
    # The objective of s C is that of C with images over s and noise over s.
    particles, _, _, _ = known
    some = particles.select(np.arange(6))
    optics = (dataclasses.replace(particles.optics[0], corrected=corrected),)
    some = dataclasses.replace(some, optics=optics)
    scale = np.array([0.5, 1.0, 2.0, 1.5, 0.7, 1.2])
    scaled = fc.KnownPoseProblem.from_particles(
        dataclasses.replace(some, scale=scale), regularization=0.1, dtype="float64"
    )
    images = some.images().astype(np.float64) / scale[:, None, None]
    write_stack(tmp_path / "over.mrcs", images.astype(np.float32), PIXEL)
    radius = (BOX - 1) // 2
    plain = fc.KnownPoseProblem.from_particles(
        dataclasses.replace(some, stacks=(tmp_path / "over.mrcs",), slice=np.arange(6)),
        regularization=0.1,
        dtype="float64",
        noise_std=np.repeat(1 / scale[:, None], radius + 1, axis=1),
        noise_group=np.arange(6),
    )
    rng = np.random.default_rng(0)
    V = plain.grid.from_real(rng.normal(size=(BOX,) * 3))
    for one, other in zip(scaled.loss_and_gradient(V), plain.loss_and_gradient(V), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * np.abs(other).max())
    np.testing.assert_allclose(
        scaled.hessian_diagonal(), plain.hessian_diagonal(), rtol=1e-10, atol=0
    )
    metadata = fc.KnownPoseProblem.from_particles(
        dataclasses.replace(some, scale=scale),
        regularization=0.1,
        dtype="float64",
        metadata_only=True,
    )
    np.testing.assert_array_equal(metadata.hessian_diagonal(), scaled.hessian_diagonal())


def test_scales_without_ctf_give_every_image_weights_of_its_own(known):
    some = dataclasses.replace(known[0].select(np.arange(4)), ctf=None)
    scaled = dataclasses.replace(some, scale=np.array([1.0, 2.0, 3.0, 4.0]))
    found = fc.KnownPoseProblem.from_particles(scaled, dtype="float64")
    plain = fc.KnownPoseProblem.from_particles(some, dtype="float64")
    np.testing.assert_allclose(found.weights[2], 9 * plain.weights[0])
    np.testing.assert_allclose(found.data[2], 3 * plain.data[2])


def test_scales_of_the_file_are_used_and_what_is_wrong_is_said(known, tmp_path, capsys):
    star = known[0].source
    lines = star.read_text().splitlines()
    header = max(i for i, line in enumerate(lines) if line.startswith("_rln"))
    lines[header + 1 : header + 1] = ["_rlnNormCorrection", "_rlnGroupScaleCorrection"]
    rows = [i for i, line in enumerate(lines) if "@" in line]
    for place, row in enumerate(rows):
        lines[row] += f" {0.5 + place % 2} {2.0 - place % 2}"
    noted = tmp_path / "noted.star"
    noted.write_text("\n".join(lines) + "\n")
    root = str(star.parent)
    particles = read_particles(noted, image_root=root).select([5, 2])
    found, words = with_recorded_scales(particles)
    np.testing.assert_allclose(found.brightness, [1.5, 0.5])
    np.testing.assert_allclose(found.scale, [2 / 3, 4 / 3])
    assert words[0].startswith("rlnNormCorrection from the file, 0.5 to 1.5")
    np.testing.assert_allclose(
        found.images(), particles.images() / np.array([1.5, 0.5])[:, None, None], rtol=1e-6
    )
    out = str(tmp_path / "out")
    options = ["--image-root", root, "--solver", "wiener", "--limit", "200", "--out"]
    assert main(["reconstruct", str(noted), "--scale", "file", *options, out]) == 0
    assert "note: rlnGroupScaleCorrection from the file" in capsys.readouterr().out
    assert main(["reconstruct", str(star), "--scale", "file", *options, out + "2"]) == 2
    assert "leave out --scale file" in capsys.readouterr().err
    lines[rows[0]] = lines[rows[0]].rsplit(" ", 2)[0] + " 0 1"
    noted.write_text("\n".join(lines) + "\n")
    assert main(["reconstruct", str(noted), "--scale", "file", *options, out + "3"]) == 2
    assert "rlnNormCorrection of row 1 is 0" in capsys.readouterr().err


def test_images_on_disk_give_the_same_noise_and_scales(known, fitted, tmp_path):
    store = tmp_path / "kept"
    for _ in range(2):  # written, then opened
        found = prepared(known[0], tmp_path, store, noise="residuals", scale="fitted")
        np.testing.assert_array_equal(found.noise, fitted.noise)
        np.testing.assert_array_equal(found.particles.scale, fitted.particles.scale)
        np.testing.assert_array_equal(
            found.problem.right_hand_side(), fitted.problem.right_hand_side()
        )
        assert not (tmp_path / "first").exists()


def test_a_run_with_both_tells_of_them(known, tmp_path, capsys):
    star = str(known[0].source)
    options = "--noise residuals --scale fitted --solver cg --sym D2 --interpolation trilinear"
    command = ["reconstruct", star, *options.split(), "--out", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "note: scales of images" in said
    assert "note: noise from the residuals" in said
    page = (tmp_path / "run_report.html").read_text()
    assert "scales of images" in page
    assert read_map(tmp_path / "run_class001.mrc")[0].shape == (BOX,) * 3


def test_premultiplied_and_flipped_images_show_the_same_noise(known, fitted, tmp_path):
    particles, _, sigma, made = known
    h, k = np.fft.rfftfreq(BOX) / PIXEL, np.fft.fftfreq(BOX) / PIXEL
    ctf = made.ctf.evaluate(h[None, :], k[:, None])
    spectra = np.fft.rfft2(particles.images())
    for corrected, factor in (("phase-flipped", np.sign(ctf)), ("premultiplied", ctf)):
        stack = tmp_path / f"{corrected}.mrcs"
        write_stack(stack, np.fft.irfft2(spectra * factor).astype(np.float32), PIXEL)
        group = dataclasses.replace(particles.optics[0], corrected=corrected)
        other = dataclasses.replace(particles, stacks=(stack,), optics=(group,))
        found = prepared(other, tmp_path, noise="residuals", scale="fitted")
        np.testing.assert_allclose(
            found.noise[:, SHELLS] / sigma[SHELLS], np.ones((2, 14)), atol=0.05
        )
        np.testing.assert_allclose(found.particles.scale, fitted.particles.scale, atol=0.08)
