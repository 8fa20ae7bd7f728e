"""What atomic sums ask of a card's memory, counted from the places of samples.

The second-level cache works in sectors of 32 bytes. An instruction of a warp costs as many
operations there as it touches sectors, however many of their bytes.
"""

import numpy as np

from fastcryo.kernels import layout
from fastcryo.kernels.cuda.windows import NEAREST, TRILINEAR
from fastcryo.operators import SliceOperator
from fastcryo.rotations import random_rotations

WARP, SECTOR, TILE = 32, 8, 128


def cells_of(operator: SliceOperator, rotation: np.ndarray) -> tuple[np.ndarray, int, int, int]:
    """Return the first cell of every sample's window, and W, row and plane of its volume."""
    grid = operator.grid
    plan = operator.oversampled(grid.box) if operator.oversampling else None
    if plan is None:
        window = {"nearest": NEAREST, "trilinear": TRILINEAR}[operator.interpolation]
        taps, ratio, centre = window.taps, 1.0, grid.centre
        row, plane, offset = grid.box, grid.box**2, window.offset / layout.ONE
    else:
        taps, ratio, centre = plan.width, plan.fine / grid.box, plan.bound
        row, plane, offset = plan.shape[2], plan.shape[1] * plan.shape[2], plan.width % 2 / 2
    h, k = operator.frequencies()
    q = ratio * (np.outer(h, rotation[0]) + np.outer(k, rotation[1]))
    q[q[:, 2] < 0] *= -1
    x, y, z = np.floor(q + offset).astype(np.int64).T
    return z * plane + (y + centre) * row + x + centre, taps, row, plane


def sectors_touched(numbers: np.ndarray) -> int:
    """Count the sectors of every instruction: numbers (instructions, lanes), -1 for none."""
    sectors = np.sort(np.where(numbers < 0, -1, numbers // SECTOR), axis=1)
    fresh = np.diff(sectors, axis=1, prepend=-1) != 0
    return int(fresh.sum())


def in_warps(values: np.ndarray) -> np.ndarray:
    """Cut a row of values into warps, with -1 for lanes that have nothing to do."""
    return np.pad(values, (0, -len(values) % WARP), constant_values=-1).reshape(-1, WARP)


def count_sums(operator: SliceOperator, views: int = 8) -> dict[str, float]:
    """Return counts per sample of a back-projection, means over random views.

    Returns
    -------
    dict
        Atomic sums of one number; operations of the second-level cache with a thread per sample
        and with a lane per number of a row; distinct voxels of `TILE` neighbours along rows of the
        image, which is what adding up taps before they are sent would leave.
    """
    totals = np.zeros(3)
    for rotation in random_rotations(views, np.random.default_rng(0)):
        cells, taps, row, plane = cells_of(operator, rotation)
        lanes = 2 * taps
        lines = [i * plane + j * row for i in range(taps) for j in range(taps)]
        alone = in_warps(2 * cells)
        for line in lines:
            for number in range(lanes):
                found = np.where(alone < 0, -1, alone + 2 * line + number)
                totals[0] += sectors_touched(found)
        for start in range(0, len(cells), TILE):
            tile = cells[start : start + TILE]
            items = in_warps((2 * tile[:, None] + np.arange(lanes)).ravel())
            for line in lines:
                totals[1] += sectors_touched(np.where(items < 0, -1, items + 2 * line))
            voxels = tile[:, None, None] + np.array(lines)[:, None] + np.arange(taps)
            totals[2] += len(np.unique(voxels))
    alone, shared, distinct = totals / (views * operator.samples)
    return {
        "atomic_sums": 2 * taps**3,
        "sectors_thread_per_sample": alone,
        "sectors_lane_per_number": shared,
        "voxels": taps**3,
        "distinct_voxels_of_a_tile": distinct,
    }
