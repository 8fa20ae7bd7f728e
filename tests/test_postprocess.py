"""B-factor, sharpened map, conical FSC and the command that writes them."""

import json

import numpy as np
import pytest

from fastcryo.cli import main
from fastcryo.directional import directional_fsc
from fastcryo.fsc import shell_correlation
from fastcryo.grid import FourierGrid
from fastcryo.guinier import sharpen
from fastcryo.io.fsc_files import read_fsc_table
from fastcryo.io.mrc import read_map, write_map
from fastcryo.io.star import read_star

BOX, PIXEL = 48, 1.5


def white(seed, box=BOX):
    """Return a real map whose coefficients all have modulus 1."""
    grid = FourierGrid(box)
    half = grid.from_real(np.random.default_rng(seed).normal(size=(box,) * 3))
    return grid, half / np.abs(half)


def frequencies(grid):
    return grid.shells() / (grid.box * PIXEL)


def test_guinier_line_gives_the_b_factor_that_the_map_has():
    grid, half = white(0)
    volume = grid.to_real(7 * half * np.exp(-120 / 4 * frequencies(grid) ** 2))
    fsc = np.ones(BOX // 2 + 1)
    sharp, plot = sharpen(volume, PIXEL, fsc, 3.6)
    assert plot.fitted
    assert plot.b_factor == pytest.approx(120, rel=1e-3)
    assert plot.intercept == pytest.approx(np.log(7), abs=1e-3)
    assert plot.correlation == pytest.approx(-1, abs=1e-3)
    last = round(BOX * PIXEL / 3.6)
    found = grid.shell_means(np.abs(grid.from_real(sharp)), BOX // 2 + 1)
    np.testing.assert_allclose(found[1 : last + 1], 7, rtol=1e-4)
    np.testing.assert_allclose(found[last + 1], 3.5, rtol=1e-4)  # half-way down the edge
    np.testing.assert_allclose(found[last + 2 :], 0, atol=1e-4)


def test_weights_are_those_of_the_fsc_and_what_a_prior_took_is_given_back():
    grid, half = white(1)
    shells = BOX // 2 + 1
    fsc = np.linspace(1, 0.2, shells)
    kept = np.linspace(1, 0.5, shells)
    volume = grid.to_real(half * np.append(kept, np.zeros(99))[grid.shells()])
    sharp, plot = sharpen(volume, PIXEL, fsc, 3.6, kept=kept, b_factor=0.0)
    found = grid.shell_means(np.abs(grid.from_real(sharp)), shells)
    last = round(BOX * PIXEL / 3.6)
    expected = np.sqrt(2 * fsc / (1 + fsc))
    np.testing.assert_allclose(found[1 : last + 1], expected[1 : last + 1], rtol=1e-4)
    np.testing.assert_allclose(plot.original[1:last], 0, atol=1e-4)
    assert not plot.fitted


def test_too_few_shells_leave_the_slope_alone():
    grid, half = white(2)
    volume = grid.to_real(half * np.exp(-50 * frequencies(grid) ** 2))
    _, plot = sharpen(volume, PIXEL, np.ones(BOX // 2 + 1), 9.0)
    assert (plot.b_factor, plot.fitted) == (0.0, False)
    same, plot = sharpen(volume, PIXEL, np.zeros(BOX // 2 + 1), np.inf)
    np.testing.assert_array_equal(same, volume.astype(np.float32))


@pytest.mark.parametrize("box", [32, 33])
def test_cones_are_those_of_the_definition_on_the_full_grid(box):
    first, noise = (np.random.default_rng(s).normal(size=(box,) * 3) for s in (0, 1))
    cones = directional_fsc(first, first + noise, 2.0, cones=12, half_angle=35)
    f = [np.fft.fftn(v) for v in (first, first + noise)]
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(box, 1 / box)] * 3, indexing="ij")[::-1], -1)
    radius = np.linalg.norm(k, axis=-1)
    # Nyquist coefficients of even boxes stand for both signs: the shells before it are compared.
    for direction, curve in zip(cones.directions, cones.curves, strict=True):
        cosine = np.abs(k @ direction) / np.maximum(radius, 1e-9)
        for shell in range(8, box // 2):
            inside = (np.rint(radius) == shell) & (cosine >= np.cos(np.radians(35)))
            a, b = (v[inside] for v in f)
            exact = np.vdot(a, b).real / (np.linalg.norm(a) * np.linalg.norm(b))
            # Cells that the rim of the cone cuts count as a whole: a few points differ.
            assert curve[shell] == pytest.approx(exact, abs=0.12)


def test_cones_tell_a_direction_without_signal():
    box = 40
    grid, half = white(3, box)
    _, noise = white(4, box)
    kz = np.arange(grid.shape[0])[:, None, None]
    lost = kz > 0.9 * grid.shells()  # a cone about z
    other = np.where(lost, noise, half)
    one, two = grid.to_real(half), grid.to_real(other)
    cones = directional_fsc(one, two, 2.0)
    along = np.abs(cones.directions[:, 2])
    assert (cones.resolution[along < 0.5] < 4.3).all()
    assert (cones.resolution[along > 0.99] > 8).all()
    assert cones.area_ratio < 0.3
    even = directional_fsc(one, one, 2.0)
    assert even.area_ratio == pytest.approx(1)
    assert (even.resolution == 4.0).all()
    assert shell_correlation(grid, half, other)[15] > 0.8  # which the FSC of all does not tell


def half_maps(folder):
    """Write two half-maps of a ball of noise that ends at about 6 angstrom."""
    box = 48
    grid, half = white(5, box)
    s = grid.shells() / (box * PIXEL)
    z, y, x = np.indices((box,) * 3) - box // 2
    ball = np.sqrt(x**2 + y**2 + z**2) < 12
    signal = grid.from_real(grid.to_real(half) * ball) * np.exp(-150 / 4 * s**2)
    for number in (1, 2):
        noise = np.random.default_rng(number).normal(size=(box,) * 3)
        noise *= 0.25 * grid.to_real(signal).std()
        write_map(folder / f"half{number}.mrc", grid.to_real(signal) + noise, PIXEL)
    return [str(folder / f"half{number}.mrc") for number in (1, 2)]


def test_the_command_writes_maps_curves_and_picture(tmp_path, capsys):
    halves = half_maps(tmp_path)
    out = tmp_path / "out"
    command = ["postprocess", *halves, "--out", str(out)]
    assert main([*command, "--mask", "sphere:24"]) == 0
    said = capsys.readouterr().out
    assert "resolution: " in said
    assert "B-factor" in said
    names = {"postprocess.mrc", "postprocess_masked.mrc", "postprocess.star", "mask.mrc"}
    assert {p.name for p in out.iterdir()} == names | {"postprocess.xml", "postprocess.png"}
    tables = read_star(out / "postprocess.star")
    general = tables["general"]
    assert general.numbers("rlnBfactorUsedForSharpening")[0] == pytest.approx(-150, abs=30)
    slope = general.numbers("rlnFittedSlopeGuinierPlot")[0]
    assert general.numbers("rlnBfactorUsedForSharpening")[0] == pytest.approx(4 * slope, rel=1e-4)
    assert len(tables["guinier"].numbers("rlnLogAmplitudesSharpened")) == 25
    curves = read_fsc_table(out / "postprocess.star").curves
    assert set(curves) == {"unmasked", "masked", "randomised", "corrected"}
    assert (out / "postprocess.png").read_bytes()[:4] == b"\x89PNG"
    sharp, mask, masked = (
        read_map(out / n)[0] for n in ("postprocess.mrc", "mask.mrc", "postprocess_masked.mrc")
    )
    np.testing.assert_allclose(masked, sharp * mask, rtol=1e-6)
    before = (out / "postprocess.mrc").read_bytes()
    assert main(command) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert (out / "postprocess.mrc").read_bytes() == before
    assert main([*command, "--overwrite", "--mask", "sphere:24"]) == 0
    assert (out / "postprocess.mrc").read_bytes()[1024:] == before[1024:]  # the seed is fixed


def test_half_maps_of_a_reconstruction_remember_their_prior(tmp_path, capsys):
    halves = half_maps(tmp_path)
    shells = 24
    kept = np.linspace(1, 0.4, shells)
    named = []
    for number, path in enumerate(halves, 1):
        grid = FourierGrid(48)
        damped = (
            grid.from_real(read_map(path)[0]) * np.append(kept, np.full(99, 1.0))[grid.shells()]
        )
        named.append(tmp_path / f"run_half{number}_class001_unfil.mrc")
        write_map(named[-1], grid.to_real(damped), PIXEL)
    record = {"maps": {"half1": {"signal_kept_by_prior": kept.tolist()}}}
    (tmp_path / "run_history.json").write_text(json.dumps(record))
    factors = []
    for pair in (halves, named):
        out = tmp_path / f"out{len(factors)}"
        options = ["--out", str(out), "--mask", "none"]
        assert main(["postprocess", *map(str, pair), *options]) == 0
        assert not (out / "mask.mrc").exists()
        general = read_star(out / "postprocess.star")["general"]
        factors.append(general.numbers("rlnBfactorUsedForSharpening")[0])
    assert factors[1] == pytest.approx(factors[0], rel=1e-3)
