"""Images normalised as they are read: the same as images that were normalised beforehand."""

import dataclasses

import numpy as np
import pytest

import fastcryo as fc
from fastcryo.background import Background
from fastcryo.cli import main
from fastcryo.errors import InputError
from fastcryo.io.mrc import open_stack, read_map, write_stack
from fastcryo.particles import read_particles


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "set"
    assert main(f"simulate {folder} --box 24 --count 120 --snr 0.3 --angpix 4".split()) == 0
    return folder / "particles.star"


def normalised(image, radius, ramp):
    """RELION's normalisation of one image, slowly."""
    box = len(image)
    y, x = np.mgrid[:box, :box] - box // 2
    outside = x**2 + y**2 > radius**2
    image = image.astype(np.float64)
    if ramp:
        columns = np.stack([np.ones_like(x), x, y], axis=-1).astype(np.float64)
        plane = np.linalg.lstsq(columns[outside], image[outside], rcond=None)[0]
        image = image - columns @ plane
    return (image - image[outside].mean()) / np.sqrt(np.var(image[outside]))


@pytest.mark.parametrize("ramp", [False, True])
@pytest.mark.parametrize("box", [20, 21])
def test_the_background_gets_mean_0_and_standard_deviation_1(box, ramp):
    rng = np.random.default_rng(1)
    images = rng.normal(50, 3, (4, box, box)).astype(np.float32)
    images += np.linspace(0, 20, box, dtype=np.float32)
    expected = np.stack([normalised(image, 7.5, ramp) for image in images])
    constant = Background(box, 7.5, ramp).normalize(images)
    assert not constant.any()
    np.testing.assert_allclose(images, expected, rtol=0, atol=2e-5)


def test_a_ramp_changes_nothing_once_it_is_taken_off():
    rng = np.random.default_rng(2)
    flat = rng.normal(size=(3, 24, 24)).astype(np.float32)
    y, x = np.mgrid[:24, :24].astype(np.float32)
    tilted = 5 * flat + 0.7 * x - 0.3 * y + 40
    background = Background(24, 9, ramp=True)
    background.normalize(flat)
    background.normalize(tilted)
    np.testing.assert_allclose(flat, tilted, rtol=0, atol=5e-5)


def test_radius_is_in_angstrom_or_a_part_of_the_side():
    assert Background.of(0.375, 64, 3.0) == Background.of(72.0, 64, 3.0) == Background(64, 24.0)
    words = Background.of(0.375, 64, 3.0, ramp=True).describe(3.0)
    assert "72 Å (24 pixels, 0.375 of the side)" in words
    assert "ramps" in words
    for size in (0.51, 0.001, 97.0, 2.0):
        with pytest.raises(InputError, match=r"a radius of .* give 3 to 96 angstrom"):
            Background.of(size, 64, 3.0)


def test_a_masked_image_is_refused_by_name(star, tmp_path):
    particles = read_particles(star)
    images = particles.images()
    images[7, :, 20:] = images[7, :, :4] = images[7, :4] = images[7, 20:] = 0
    write_stack(tmp_path / "masked.mrcs", images, 4.0)
    masked = dataclasses.replace(
        particles, stacks=(tmp_path / "masked.mrcs",), background=Background(24, 11.5)
    )
    with pytest.raises(InputError, match=r"row 8, 000008@.*masked\.mrcs is constant"):
        fc.KnownPoseProblem.from_particles(masked)


def test_normalised_while_reading_or_beforehand_the_map_is_the_same(star, tmp_path, capsys):
    particles = read_particles(star)
    images = particles.images()
    rng = np.random.default_rng(3)
    raw = images * rng.uniform(0.3, 3, (120, 1, 1)) + rng.uniform(-9, 9, (120, 1, 1))
    text = star.read_text()
    for name, stack in (
        ("raw", raw),
        ("done", np.stack([normalised(image, 9, False) for image in raw])),
    ):
        (tmp_path / name).mkdir()
        write_stack(tmp_path / name / "particles.mrcs", stack.astype(np.float32), 4.0)
        (tmp_path / name / "particles.star").write_text(text)
    command = ["reconstruct", "--solver", "wiener", "--backend", "cpu", "--image-root"]

    def run(folder, *options):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        path = str(tmp_path / folder / "particles.star")
        words = [*command, str(tmp_path / folder), path, "--out", str(out), *options]
        assert main(words) == 0
        assert open_stack(tmp_path / folder / "particles.mrcs").count == 120
        return read_map(out / "run_class001.mrc")[0]

    expected = run("done")
    capsys.readouterr()
    found = run("raw", "--normalize", "36")
    said = capsys.readouterr().out
    assert "images: background beyond 36 Å (9 pixels, 0.375 of the side)" in said
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)
    np.testing.assert_allclose(run("done", "--normalize"), expected, rtol=0, atol=1e-4 * scale)
    assert np.abs(run("raw") - expected).max() > 0.1 * scale


def test_a_prepared_set_tells_how_its_images_were_normalised(star, tmp_path, capsys):
    command = ["reconstruct", str(star), "--solver", "wiener", "--prepared", str(tmp_path / "kept")]
    for number, options in enumerate((["--normalize"], ["--normalize"])):
        assert main([*command, *options, "--out", str(tmp_path / str(number))]) == 0
    assert main([*command, "--out", str(tmp_path / "plain")]) == 2
    said = capsys.readouterr().err
    assert "its normalisation of the images (--normalize) is background beyond" in said
    assert "none is asked for" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ramp"], "add --normalize"),
        (["--normalize", "60"], "give 4 to 48 angstrom"),
        (["--normalize", "none"], "'none' is no radius, give angstrom or a part of the side"),
        (["--normalize", "-5"], "argument --normalize"),
    ],
)
def test_options_that_cannot_be_used_are_one_sentence(star, tmp_path, capsys, options, message):
    try:
        status = main(["reconstruct", str(star), "--out", str(tmp_path), *options])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
