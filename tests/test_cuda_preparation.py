"""Preparation of images, and CTFs, on a graphics card or in the simulator."""

import numpy as np
import pytest

import fastcryo as fc
from fastcryo import card_packing
from fastcryo.arrays import fetch, on_host

from .cuda_cases import BOXES, IMAGING, TOLERANCE, needs_cuda, packer_of

pytestmark = needs_cuda


@pytest.mark.parametrize("on_card", [True, False], ids=["ffts on the card", "ffts on the host"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"with_ctf": False}, {"imaging": IMAGING}],
    ids=["ctf", "no ctf", "aberrations"],
)
def test_images_are_prepared_on_the_card_as_on_the_cpu(arguments, on_card, monkeypatch):
    found = []
    if not on_card:
        monkeypatch.setattr(card_packing, "card_fft", lambda: None)
    side = BOXES[0] + 4
    images = np.random.default_rng(30).normal(size=(3, side, side)).astype(np.float32)
    for backend in ("cpu", "cuda"):
        packer = packer_of(backend, **arguments)
        shape, order = (3, packer.operator.samples), np.array([2, 0, 1])
        weights, data = np.zeros(shape, np.float32), np.zeros(shape, np.complex64)
        energies = packer.pack(images, order, order, weights, data)
        made = np.zeros(shape, np.float32)
        if len(packer.ctf):
            packer.fill_weights(order, made)
        found.append((weights, data, energies, made))
    for expected, ours in zip(*found, strict=True):
        assert ours.dtype == expected.dtype
        assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_ctfs_are_those_of_the_cpu():
    rng = np.random.default_rng(39)
    ctf = fc.CTF(
        rng.uniform(8000, 20000, 3), 9000.0, 30.0, phase_shift=20.0, bfactor=np.array([0, 20, 40])
    )
    place = fc.SliceOperator(fc.FourierGrid(8), backend="cuda").place
    fx, fy = rng.uniform(-0.3, 0.3, (2, 5, 6))
    ours = ctf.evaluate(place(fx), place(fy))
    assert not on_host(ours)
    assert ours.shape == (3, 5, 6)
    np.testing.assert_allclose(fetch(ours), ctf.evaluate(fx, fy), rtol=0, atol=1e-12)
    for wrong in (place(fy[:2]), place(fy.astype(np.float32))):
        with pytest.raises(fc.InputError, match="float64 and of one shape"):
            ctf.evaluate(place(fx), wrong)
