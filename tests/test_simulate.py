"""Simulated data sets: what is drawn, what is written, what is refused."""

import importlib
import json
import re

import numba
import numpy as np
import pytest

from fastcryo import density as density_module
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.experiment import Experiment
from fastcryo.io.mrc import read_map, write_map
from fastcryo.particles import read_particles
from fastcryo.phantom import Phantom
from fastcryo.sampled_map import SampledMap
from fastcryo.simulate import FILES, simulate, simulate_arrays
from fastcryo.threads import use_threads

# fastcryo.simulate is the function of that name.
simulate_module = importlib.import_module("fastcryo.simulate")
SMALL = {"box": 16, "pixel_size": 5.0, "count": 12}


def atoms(reach=15.0):
    rng = np.random.default_rng(0)
    return Phantom(rng.uniform(-1, 1, (6, 3)) * reach / 2, rng.uniform(1, 2, 6), 2.0)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_folder_is_read_back_as_it_was_simulated(tmp_path):
    made = simulate(tmp_path / "set", astigmatism=500.0, phase_shift=20.0, **SMALL)
    assert sorted(FILES) == sorted(p.name for p in (tmp_path / "set").iterdir())
    particles = read_particles(tmp_path / "set" / "particles.star")
    assert (len(particles), particles.box, particles.pixel_size) == (12, 16, 5.0)
    assert particles.notes == ()
    np.testing.assert_array_equal(particles.images(), made.images)
    # Angles and shifts have six decimals in the file: 1e-6 degrees are 2e-8.
    np.testing.assert_allclose(particles.rotations, made.rotations, rtol=0, atol=5e-8)
    np.testing.assert_allclose(particles.shifts, made.shifts, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(particles.half, made.half)
    assert (np.bincount(particles.half) == [0, 6, 6]).all()
    frequency = np.linspace(0, 0.1, 7)
    np.testing.assert_allclose(
        particles.ctf.evaluate(frequency, 0.0), made.ctf.evaluate(frequency, 0.0), atol=1e-6
    )
    truth, pixel_size = read_map(tmp_path / "set" / "truth.mrc")
    np.testing.assert_array_equal(truth, made.truth)
    assert pixel_size == pytest.approx(5.0)
    record = json.loads((tmp_path / "set" / "simulation.json").read_text())
    assert record["scale"] == made.scale
    assert record["experiment"]["phase_shift"] == 20.0


def test_images_are_projections_of_the_truth_plus_noise():
    made = simulate_arrays(source=atoms(), box=24, pixel_size=2.0, count=200, snr=0.5)
    expected = made.scale * atoms().projections(
        made.rotations, 24, 2.0, ctf=made.ctf, shifts=made.shifts
    )
    np.testing.assert_allclose(
        made.signal(np.arange(200)), expected, rtol=0, atol=1e-6 * np.abs(expected).max()
    )
    np.testing.assert_allclose(
        made.truth, made.scale * atoms().volume(24, 2.0), rtol=0, atol=1e-6 * made.truth.max()
    )
    noise = made.images - expected
    # 115200 values: standard errors of 0.003 (mean) and 0.002 (standard deviation).
    assert abs(noise.mean()) < 0.012
    assert noise.std() == pytest.approx(1, abs=0.009)
    neighbours = np.mean(noise[:, :, 1:] * noise[:, :, :-1])
    assert abs(neighbours) < 0.012


@pytest.mark.parametrize("snr", [0.02, 1.0])
def test_snr_is_the_ratio_of_the_variances_over_the_whole_image(snr):
    made = simulate_arrays(source=atoms(), snr=snr, box=16, pixel_size=3.0, count=50)
    signal = made.signal(np.arange(50))
    assert signal.var(axis=(1, 2)).mean() == pytest.approx(snr, rel=1e-5)


def test_snr_of_a_large_set_is_measured_on_a_sample(monkeypatch):
    monkeypatch.setattr(simulate_module, "SNR_SAMPLE", 40)
    made = simulate_arrays(source=atoms(), snr=0.1, box=16, pixel_size=3.0, count=201)
    variances = made.signal(np.arange(201)).var(axis=(1, 2))
    assert variances.mean() == pytest.approx(0.1, rel=3 * variances.std() / 0.1 / np.sqrt(40))
    assert variances.mean() != pytest.approx(0.1, rel=1e-5)


def test_without_noise_nothing_is_scaled():
    made = simulate_arrays(source=atoms(), snr=None, ctf=False, shift_std=0.0, **SMALL)
    assert made.scale == 1
    assert made.ctf is None
    np.testing.assert_array_equal(made.shifts, 0)
    expected = atoms().projections(made.rotations, 16, 5.0)
    np.testing.assert_array_equal(made.images, expected)
    # F(0) is the sum of the amplitudes, of every image as of the truth.
    np.testing.assert_allclose(made.images.sum(axis=(1, 2)), atoms().amplitudes.sum(), rtol=1e-5)
    assert made.truth.sum() == pytest.approx(atoms().amplitudes.sum(), rel=1e-5)


def test_particles_are_bright_unless_inverted():
    plain = simulate_arrays(source=atoms(), snr=None, **SMALL)
    inverted = simulate_arrays(source=atoms(), snr=None, invert=True, **SMALL)
    np.testing.assert_array_equal(inverted.images, -plain.images)
    np.testing.assert_array_equal(inverted.truth, plain.truth)
    bright = simulate_arrays(source=atoms(), snr=None, ctf=False, **SMALL)
    assert bright.images.max() > -2 * bright.images.min()


def test_same_seed_same_bytes_for_any_number_of_threads(tmp_path):
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        with use_threads(threads):
            simulate(tmp_path / str(threads), seed=7, **SMALL)
    first = contents(tmp_path / "1")
    assert first == contents(tmp_path / str(numba.config.NUMBA_NUM_THREADS))
    simulate(tmp_path / "other", seed=8, **SMALL)
    other = contents(tmp_path / "other")
    assert other["particles.mrcs"] != first["particles.mrcs"]
    assert other["particles.star"] != first["particles.star"]


def test_images_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch):
    whole = simulate_arrays(**SMALL).images
    monkeypatch.setattr(density_module, "BATCH_BYTES", 5 * 8 * 32**2)
    made = simulate_arrays(**SMALL)
    assert [len(batch) for batch in made.batches()] == [4, 4, 4]
    np.testing.assert_array_equal(made.images, whole)


def test_settings_change_only_what_they_name():
    plain = simulate_arrays(**SMALL)
    other = simulate_arrays(defocus=(5000.0, 6000.0), shift_std=1.0, snr=None, **SMALL)
    np.testing.assert_array_equal(other.rotations, plain.rotations)
    np.testing.assert_array_equal(other.half, plain.half)
    np.testing.assert_allclose(3 * other.shifts, plain.shifts, rtol=1e-12)


def test_defocus_lies_in_its_range_with_astigmatism():
    ctf = simulate_arrays(**SMALL | {"count": 400}).ctf
    mean = (ctf.defocus_u + ctf.defocus_v) / 2
    difference = ctf.defocus_u - ctf.defocus_v
    assert (mean >= 10000).all()
    assert (mean <= 25000).all()
    assert mean.mean() == pytest.approx(17500, abs=1000)  # standard error 217
    assert (difference >= 0).all()
    assert np.sqrt(np.mean(difference**2)) == pytest.approx(200, rel=0.15)  # error 3.5 %
    assert isinstance(ctf, CTF)


def test_uniform_views_cover_the_sphere_evenly():
    views = Experiment(count=4000).draw_rotations(np.random.default_rng(1))[:, 2]
    second_moment = views.T @ views / len(views)
    # Standard errors: 0.3 / sqrt(4000) = 0.005.
    np.testing.assert_allclose(second_moment, np.eye(3) / 3, atol=0.02)


@pytest.mark.parametrize("concentration", [2.0, 20.0])
def test_preferred_views_gather_about_both_poles(concentration):
    settings = Experiment(count=4000, orientations="preferred", concentration=concentration)
    rotations = settings.draw_rotations(np.random.default_rng(1))
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1),
        np.broadcast_to(np.eye(3), (4000, 3, 3)),
        atol=1e-12,
    )
    cosine = rotations[:, 2, 2]
    assert np.mean(cosine > 0) == pytest.approx(0.5, abs=0.04)
    # Mean |cos|: that of |v . z| for the mixture of two opposite von Mises-Fisher distributions.
    t = np.linspace(-1, 1, 20001)
    density = np.exp(concentration * (t - 1))
    expected = np.average(np.abs(t), weights=density)
    assert np.abs(cosine).mean() == pytest.approx(expected, abs=0.02)
    # No preference in the plane, nor of the views around the pole.
    in_plane = np.exp(1j * np.arctan2(rotations[:, 0, 2], rotations[:, 1, 2]))
    around = np.exp(1j * np.arctan2(rotations[:, 2, 1], rotations[:, 2, 0]))
    assert abs(in_plane.mean()) < 0.06
    assert abs(around.mean()) < 0.06


def test_progress_ends_at_the_number_of_images(tmp_path):
    calls = []
    simulate(tmp_path, progress=lambda *call: calls.append(call), **SMALL)
    assert calls[-1] == (12, 12)


def test_earlier_data_set_is_kept_unless_told_otherwise(tmp_path):
    simulate(tmp_path, seed=1, **SMALL)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds particles\.mrcs already.*--overwrite"):
        simulate(tmp_path, seed=2, **SMALL)
    assert contents(tmp_path) == before
    simulate(tmp_path, seed=2, overwrite=True, **SMALL)
    assert contents(tmp_path)["particles.mrcs"] != before["particles.mrcs"]
    assert set(contents(tmp_path)) == set(before)


@pytest.mark.parametrize("error", [InputError("disk full"), KeyboardInterrupt()])
def test_interrupted_simulation_leaves_the_earlier_set_whole(tmp_path, monkeypatch, error):
    simulate(tmp_path, seed=1, **SMALL)
    before = contents(tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(simulate_module, "write_map", fail)
    with pytest.raises(type(error)):
        simulate(tmp_path, seed=2, overwrite=True, **SMALL)
    assert contents(tmp_path) == before


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/set: cannot be written"):
        simulate(tmp_path / "file" / "set", **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": 4}, "box: 4"),
        ({"box": 600}, "box: 600"),
        ({"pixel_size": 0.0}, "pixel_size: 0.0"),
        ({"pixel_size": np.inf}, "pixel_size"),
        ({"count": 0}, "count: 0"),
        ({"snr": 0.0}, "snr: 0.0"),
        ({"snr": np.nan}, "snr: nan"),
        ({"defocus": (2e4, 1e4)}, "defocus"),
        ({"defocus": (1.0, 2.5)}, "1.5 micrometres are 15000"),
        ({"astigmatism": -1.0}, "astigmatism"),
        ({"voltage": 300e3}, "voltage.*kV"),
        ({"amplitude_contrast": 7.0}, "amplitude_contrast"),
        ({"bfactor": np.nan}, "bfactor"),
        ({"shift_std": -1.0}, "shift_std"),
        ({"orientations": "side"}, "orientations: side.*uniform or preferred"),
        ({"concentration": 0.0}, "concentration"),
        ({"seed": -1}, "seed: -1"),
        ({"source": "density.xyz"}, r"density\.xyz: neither a map .*nor a structure"),
        ({"source": "none.mrc"}, r"none\.mrc: cannot be read"),
        ({"source": "none.pdb.gz"}, r"none\.pdb\.gz: no such file"),
        ({"source": Phantom([[0, 0, 0]], 0.0, 1.0)}, "projections are empty"),
        ({"source": Phantom([[0, 0, 50.0]], 1.0, 1.0)}, "at least 22 pixels"),
        ({"box": 8, "pixel_size": 1.0}, "phantom: a diameter"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        simulate(tmp_path / "set", **SMALL | change)
    assert not (tmp_path / "set").exists()


def ball(box, radius):
    z, y, x = np.indices((box,) * 3) - box // 2
    return (x**2 + y**2 + z**2 <= radius**2).astype(np.float32)


def test_map_gives_box_and_pixel_size_unless_given(tmp_path):
    write_map(tmp_path / "a.mrc", ball(20, 5), 2.5)
    own = simulate_arrays(source=tmp_path / "a.mrc", count=2, snr=None)
    assert (own.box, own.pixel_size) == (20, pytest.approx(2.5))
    finer = simulate_arrays(source=str(tmp_path / "a.mrc"), count=2, box=40, pixel_size=1.25)
    assert (finer.box, finer.pixel_size) == (40, 1.25)
    # The integral of the density stays.
    np.testing.assert_allclose(own.truth.sum(), ball(20, 5).sum(), rtol=1e-5)
    np.testing.assert_allclose(finer.truth.sum() / finer.scale, own.truth.sum(), rtol=1e-4)


def test_map_without_pixel_size_takes_that_of_the_images(tmp_path):
    write_map(tmp_path / "a.mrc", ball(20, 5), 0.0)
    with pytest.raises(InputError, match=r"a\.mrc: the header has no pixel size.*--angpix"):
        simulate_arrays(source=tmp_path / "a.mrc", count=2)
    made = simulate_arrays(source=tmp_path / "a.mrc", count=2, pixel_size=4.0, snr=None)
    assert made.density.pixel_size == made.pixel_size == 4.0


def test_smaller_box_cuts_off_empty_space_only():
    inside = SampledMap(ball(30, 5), 2.0)
    cut = simulate_arrays(source=inside, box=16, pixel_size=2.0, count=2, snr=None, ctf=False)
    whole = simulate_arrays(source=inside, box=30, pixel_size=2.0, count=2, snr=None, ctf=False)
    assert cut.density.box == 16
    np.testing.assert_allclose(
        cut.images, whole.images[:, 7:23, 7:23], rtol=0, atol=0.05 * whole.images.max()
    )
    outside = SampledMap(ball(30, 12), 2.0)
    with pytest.raises(InputError, match=r"% of the map lie outside 16 pixels of 2 A"):
        simulate_arrays(source=outside, box=16, pixel_size=2.0, count=2)


@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("emd_1832.map", None),
        ("waving_spike_state22_91p.mrc", None),
        ("apoferritin_ca_apo_sym.pdb", 40),
    ],
)
def test_real_maps_and_structures_are_projected(shared_data, name, box):
    source = shared_data("maps-atoms", name)
    pixel_size = None if box is None else 4.0
    made = simulate_arrays(source=source, box=box, pixel_size=pixel_size, count=3, snr=1.0)
    assert made.images.shape == (3, made.box, made.box)
    assert np.isfinite(made.images).all()
    assert re.search(name, made.source)
    signal = made.signal(np.arange(3))
    assert signal.var(axis=(1, 2)).mean() == pytest.approx(1, rel=1e-4)
