"""Pictures of the data behind a map: projections, views on the sphere, noise, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastcryo.coverage import spread_directions
from fastcryo.plots import logarithmic, new_figure, resolution_axis, say
from fastcryo.symmetry import symmetry_matrices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastcryo.results import Solution

# Views are counted about this many directions of the half-sphere, a few degrees apart.
DIRECTIONS = 1200
VIEWS_AT_ONCE = 128  # few enough for the cache: 3 to 25 times as fast as 4096


def data_figure(
    shown: NDArray,
    pixel_size: float,
    rotations: NDArray[np.float64],
    symmetry: str,
    noise: NDArray | None,
    image_length: float,
    solution: Solution,
    scales: NDArray | None = None,
    noise_by_half: bool = False,
) -> Figure:
    """Return a figure of projections, views, noise by shell, weights by shell and scales.

    Parameters
    ----------
    shown : ndarray, shape (N, N, N)
        The map.
    pixel_size : float
        Of the map, angstrom.
    rotations : ndarray, shape (n, 3, 3)
        A of all images.
    symmetry : str
        Point group whose copies of the views are shown as well.
    noise : ndarray or None
        sigma by shell, or by group and shell; None for 1.
    image_length : float
        Side of the images, angstrom.
    solution : Solution
        Of the map, with its weights.
    scales : ndarray, shape (n,), or None
        Of the images; None: 1, and no picture of them.
    noise_by_half : bool
        Whether rows of `noise` are those of half-set 1 and 2 in turn.
    """
    beside = "projections" if scales is None else "scales"
    above = ["projections", "projections", beside]
    figure = new_figure(
        14, 8, left=0.05, right=0.98, bottom=0.075, top=0.95, wspace=0.25, hspace=0.25
    )
    axes = figure.subplot_mosaic([above, ["views", "noise", "weights"]])
    _projections(axes["projections"], shown, pixel_size)
    _views(axes["views"], rotations, symmetry)
    _noise(axes["noise"], noise, image_length, noise_by_half)
    _weights(axes["weights"], solution, len(shown) * pixel_size)
    if scales is not None:
        _scales(axes["scales"], scales)
    return figure


def _projections(axes: Axes, volume: NDArray, pixel_size: float) -> None:
    sums = [volume.sum(axis=axis) for axis in range(3)]
    low, high = np.percentile(sums, [0.5, 99.8])
    axes.imshow(np.concatenate(sums, axis=1), cmap="gray", vmin=low, vmax=high, origin="lower")
    box = len(volume)
    axes.set_xticks([box * (i + 0.5) for i in range(3)], ["along z", "along y", "along x"])
    axes.set_yticks([])
    axes.set_title(f"projections of the map, {box * pixel_size:.0f} Å across")


def view_density(rotations: NDArray[np.float64], symmetry: str = "C1") -> tuple[NDArray, NDArray]:
    """Count views about directions of the half-sphere; a view and its opposite are one.

    Symmetric copies of every view count as well.

    Returns
    -------
    directions : ndarray, shape (d, 3)
    density : ndarray, shape (d,)
        Views whose nearest direction it is, over what even views would give.
    """
    directions = spread_directions(DIRECTIONS)
    counts = np.zeros(DIRECTIONS)
    views = rotations[:, 2]
    for matrix in symmetry_matrices(symmetry):
        for start in range(0, len(views), VIEWS_AT_ONCE):
            some = views[start : start + VIEWS_AT_ONCE] @ matrix
            nearest = np.abs(some @ directions.T).argmax(axis=1)
            counts += np.bincount(nearest, minlength=DIRECTIONS)
    return directions, counts * DIRECTIONS / counts.sum()


def _views(axes: Axes, rotations: NDArray[np.float64], symmetry: str) -> None:
    directions, density = view_density(rotations, symmetry)
    x, y, z = directions.T
    stretch = np.sqrt(2 / (1 + z))
    seen = density > 0
    axes.scatter(x[~seen] * stretch[~seen], y[~seen] * stretch[~seen], s=26, color="0.93")
    points = axes.scatter(
        x[seen] * stretch[seen],
        y[seen] * stretch[seen],
        c=density[seen],
        vmin=0,
        vmax=max(float(np.quantile(density[seen], 0.99)), 2.0),
        cmap="viridis",
        s=26,
        edgecolors="none",
    )
    axes.figure.colorbar(points, ax=axes, shrink=0.8)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("views on the half-sphere (1: as if even)")
    axes.set_xlabel("x (z towards the eye, rim: equator; equal areas)")
    axes.set_ylabel("y")


def _noise(axes: Axes, noise: NDArray | None, image_length: float, by_half: bool) -> None:
    axes.set_title("noise σ of an image's DFT")
    if noise is None:
        say(axes, "σ = 1 (--noise unit)")
        return
    curves = np.atleast_2d(noise)
    groups = len(curves) // 2 if by_half else len(curves)
    for number, curve in enumerate(curves):
        group, half = divmod(number, 2) if by_half else (number, None)
        names = [f"group {group + 1}"] if groups > 1 else []
        names += [] if half is None else [f"half-set {half + 1}"]
        axes.plot(curve, lw=1.2, label=", ".join(names) or None)
    logarithmic(axes)
    resolution_axis(axes, image_length, curves.shape[1])
    if 1 < len(curves) <= 8:
        axes.legend(frameon=False)


def _weights(axes: Axes, solution: Solution, length: float) -> None:
    axes.set_title("data J = diag H, and prior λ")
    if solution.weights is None:
        say(axes, "not measured")
        return
    least, mean, greatest = solution.weights
    shells = np.arange(len(mean))
    seen = np.where(least > 0, least, np.nan)
    floor = np.where(np.isfinite(seen), seen, mean / 1e3)
    axes.fill_between(shells, floor, greatest, alpha=0.25, label="least to greatest J")
    axes.plot(shells, mean, label="mean J")
    prior = np.broadcast_to(np.asarray(solution.regularization, dtype=float), shells.shape)
    if (prior > 0).any():
        axes.plot(shells, np.where(prior > 0, prior, np.nan), "k--", lw=1, label="λ")
    logarithmic(axes)
    resolution_axis(axes, length, len(shells))
    axes.legend(frameon=False)


def _scales(axes: Axes, scales: NDArray) -> None:
    axes.set_title("scales of the images' signal")
    axes.hist(scales, bins=30)
    axes.axvline(1, color="k", lw=1, ls="--")
    axes.set_xlabel("scale (mean 1)")
    axes.set_ylabel("images")
