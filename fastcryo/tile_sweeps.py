"""Sweeps of the kernels on processors over the images of a batch, block by block."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fastcryo.grid import FourierGrid
from fastcryo.kernels import layout
from fastcryo.kernels.cpu import slicing, windows
from fastcryo.threads import thread_count

KERNELS = {
    "nearest": slicing.make_kernels(windows.NEAREST),
    "trilinear": slicing.make_kernels(windows.TRILINEAR),
}
# Images of a batch that one thread takes at a time where nothing is added to a volume.
CHUNK = 16


class TileSweeps:
    """The kernels of one window with the tables that describe one grid to them.

    Parameters
    ----------
    interpolation : {"nearest", "trilinear"}
    grid : FourierGrid
    rows : ndarray, shape (2 R + 1, 3), int64
        The packed samples (`fastcryo.kernels.layout.disc_rows`).
    unit : float32 or float64
        2^-24 or 2^-52, the precision of the weights.
    """

    def __init__(self, interpolation: str, grid: FourierGrid, rows: NDArray, unit: np.floating):
        self.kernels = KERNELS[interpolation]
        self.grid, self.rows, self.unit = grid, rows, unit
        self.widths = layout.row_widths(grid.radius)
        shapes = layout.tile_shape(grid.radius), layout.reading_tile_shape(grid.radius)
        self.adding, self.reading = (layout.disc_tiles(grid.radius, *shape) for shape in shapes)

    @property
    def pairs(self) -> bool:
        """Whether one pass may serve two volumes."""
        return self.kernels.pairs

    def sweep(
        self,
        name: str,
        source: tuple[NDArray, ...],
        target: tuple[NDArray, ...],
        parts: Iterable[tuple[tuple[NDArray, ...], NDArray, NDArray]],
        scale: float,
        damping: NDArray | None,
    ) -> tuple[float, float, float, float]:
        """Run a kernel on all parts of a batch.

        Parameters
        ----------
        name : str
            Of `fastcryo.kernels.cpu.slicing.make_kernels`.
        source, target : tuples of one or two flat half grids
            Read, and written; one empty array for none.
        parts : iterable
            Tables, images and steps of one view (`SliceOperator.parts`).
        scale : float
        damping : ndarray or None
            lambda.

        Returns
        -------
        The four sums of the kernel.
        """
        real = type(self.unit)
        lam = np.empty(0, real) if damping is None else damping.reshape(-1)
        adding = target[0].size > 0
        tiles, neighbours = self.adding if adding else self.reading
        total = np.zeros(4)
        fresh = True
        for tables, members, steps in parts:
            chunk = max(1, len(members)) if adding else CHUNK
            units = len(tiles) * max(1, -(-len(members) // chunk))
            sums = np.zeros((units + self.grid.shape[0], 4))
            getattr(self.kernels, name)(
                source,
                target,
                tables,
                members,
                steps,
                self.rows,
                tiles,
                neighbours,
                self.widths,
                self.grid.box,
                self.unit,
                thread_count(),
                real(scale),
                lam,
                fresh,
                chunk,
                sums,
            )
            total += sums.sum(axis=0)
            fresh = False
        return tuple(total.tolist())
