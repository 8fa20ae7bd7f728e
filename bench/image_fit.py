"""Noise from residuals beside noise from corners, and fitted scales, on images with known ones.

    python bench/image_fit.py [FOLDER]

Prints the tables of docs/noise.md. Images are simulated (N = 64, 3 angstrom, CTF) with scales of
their own and with noise of a known spectrum; particles that fill their box, and far-off defoci,
leave signal in the corners.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np

import fastcryo as fc
from fastcryo.io.mrc import read_map, write_stack
from fastcryo.noise import estimate_noise_std
from fastcryo.particles import read_particles
from fastcryo.phantom import phantom
from fastcryo.reconstruct import prepare, reconstruct
from fastcryo.reporting import silent
from fastcryo.settings import Settings

BOX, PIXEL, KNEE = 64, 3.0, 8.0
SHELLS = (2, 4, 8, 12, 16, 20, 24, 28, 30)


def spectrum(box: int, knee: float | None) -> np.ndarray:
    """Return sigma of noise that falls with the shell, mean variance 1; on an rfft2's grid."""
    k = np.hypot(np.fft.fftfreq(box, 1 / box)[:, None], np.arange(box // 2 + 1))
    sigma = np.ones_like(k) if knee is None else (1 + (k / knee) ** 2) ** -0.5
    return sigma / np.sqrt(np.mean(sigma**2))


def simulated(folder: Path, count: int, snr: float, knee, spread: float, width: float, defocus):
    """Write a set; returns its particles, its truth, sigma by shell and the scales."""
    source = phantom(BOX * PIXEL * width)
    options = {"box": BOX, "pixel_size": PIXEL, "count": count, "snr": snr, "defocus": defocus}
    made = fc.simulate(folder, source=source, **options)
    rng = np.random.default_rng(7)
    scales = np.exp(spread * rng.normal(size=count))
    scales /= scales.mean()
    sigma = spectrum(BOX, knee)
    noise = np.fft.rfft2(rng.normal(size=(count, BOX, BOX))) * sigma
    images = scales[:, None, None] * made.signal(np.arange(count)) + np.fft.irfft2(noise)
    write_stack(folder / "particles.mrcs", images.astype(np.float32), PIXEL)
    known = BOX * spectrum_by_shell(sigma)
    return read_particles(folder / "particles.star"), made.truth, known, scales


def spectrum_by_shell(sigma: np.ndarray) -> np.ndarray:
    """Return the root mean square by shell."""
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shells = np.rint(np.hypot(k[:, None], np.arange(BOX // 2 + 1))).astype(int).ravel()
    power = np.bincount(shells, (sigma**2).ravel()) / np.bincount(shells)
    return np.sqrt(power[: (BOX - 1) // 2 + 1])


def noise_table(folder: Path) -> None:
    """Print the errors of both estimates by shell, per cent of sigma."""
    head = ("noise", "particle", "defocus, µm", "images", "from", *map(str, SHELLS))
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    cases = [
        ("white", None, 0.6, (1e4, 2.5e4), 0.05, 4000),
        ("coloured", KNEE, 0.6, (1e4, 2.5e4), 0.05, 4000),
        ("coloured", KNEE, 0.9, (1e4, 2.5e4), 0.05, 4000),
        ("coloured", KNEE, 0.9, (3e4, 4e4), 0.2, 4000),
        ("coloured", KNEE, 0.9, (3e4, 4e4), 0.2, 500),
    ]
    for number, (name, knee, width, defocus, snr, count) in enumerate(cases):
        set_folder = folder / f"noise{number}"
        particles, _, known, _ = simulated(set_folder, count, snr, knee, 0.0, width, defocus)
        corners = estimate_noise_std(particles, (BOX - 1) // 2)
        settings = Settings(noise="residuals", solver="wiener", backend="cpu")
        residuals = noise_of(particles, settings, set_folder)
        for what, found in (("corners", corners), ("residuals", residuals)):
            errors = " | ".join(f"{100 * (found[s] / known[s] - 1):+.1f}" for s in SHELLS)
            span = f"{defocus[0] / 1e4:g} to {defocus[1] / 1e4:g}"
            print(f"| {name} | {width:g} of the box | {span} | {count} | {what} | {errors} |")


def noise_of(particles, settings: Settings, folder: Path) -> np.ndarray:
    """Return sigma by shell as a run estimates it, root mean square over the half-sets."""
    halves = particles.half_sets(0)
    found = prepare(particles, halves, settings, silent, None, False, folder / "first")
    return np.sqrt(np.mean(found.noise**2, axis=0))


def scale_table(folder: Path) -> None:
    """Print what fitted scales are worth: their errors, and the FSC with the truth."""
    head = ("images", "SNR", "spread", "error", "correlation", "without", "fitted", "true ones")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    cases = [(4000, 0.05, s) for s in (0.0, 0.2, 0.5)] + [(4000, 0.01, 0.5), (800, 0.05, 0.5)]
    for number, (count, snr, spread) in enumerate(cases):
        set_folder = folder / f"scale{number}"
        particles, truth, _, scales = simulated(
            set_folder, count, snr, KNEE, spread, 0.6, (1e4, 2.5e4)
        )
        curves, fitted = [], None
        for name in ("none", "fitted"):
            settings = Settings(scale=name, solver="cg", backend="cpu")
            result = reconstruct(particles, set_folder / name, settings)
            curves.append(against(result, truth))
            if name == "fitted":
                fitted = result.image_scales
        known = dataclasses.replace(particles, scale=scales)
        settings = Settings(solver="cg", backend="cpu")
        curves.append(against(reconstruct(known, set_folder / "known", settings), truth))
        error = np.sqrt(np.mean((fitted - scales) ** 2))
        match = np.corrcoef(fitted, scales)[0, 1] if fitted.std() and scales.std() else np.nan
        print(
            f"| {count} | {snr:g} | {scales.std():.2f} | {error:.3f} | {match:.2f} | "
            + " | ".join(f"{c:.4f}" for c in curves)
            + " |"
        )


def against(result, truth) -> float:
    """Return the mean FSC of a run's map with the truth."""
    found = read_map(result.folder / "run_class001.mrc")[0]
    return float(fc.fsc(found, truth)[1 : BOX // 2].mean())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        noise_table(place)
        print()
        scale_table(place)
