"""From half grids to the oversampled grid and back, on a graphics card, one axis after the other.

What `fastcryo.oversampling` does on the host. Every factor of P but the slices acts on the axes one
by one, and is the same few steps for each of them: copy to the places of a longer axis, FFT, copy
what is wanted. The transpose swaps the two copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcryo.grid import FourierGrid
from fastcryo.kernels.cuda import axes
from fastcryo.oversampling import Oversampling


@dataclass(frozen=True, eq=False)
class AxisTransform:
    """y[o] = g[o] sum_i f[i] x[i] exp(-2 pi i s[i] t[o] / M), or with + where `inverse`.

    Attributes
    ----------
    length : int
        M.
    inverse : bool
    spread : tuple
        Table (M, 2) of the inputs at s mod M, and their factors; on the card.
    pick : tuple
        Table (n, 2) of t mod M, and factors.
    """

    length: int
    inverse: bool
    spread: tuple[Any, Any]
    pick: tuple[Any, Any]

    @classmethod
    def of(
        cls,
        place: Callable[[NDArray], Any],
        length: int,
        source: tuple[NDArray[np.int64], NDArray],
        target: tuple[NDArray[np.int64], NDArray],
        inverse: bool = False,
    ) -> AxisTransform:
        """Make one from s and f, t and g; `place` brings arrays to the card."""
        at, factors = source
        table, spread = np.full((length, 2), -1, np.int32), np.zeros((length, 2), factors.dtype)
        for i, (m, factor) in enumerate(zip(at % length, factors, strict=True)):
            # Periodic copies: two of the inputs, at most, stand for one place.
            column = int(table[m, 0] >= 0)
            table[m, column], spread[m, column] = i, factor
        wanted, factors = target
        picked = np.stack([wanted % length, np.full(len(wanted), -1)], axis=1).astype(np.int32)
        pick = np.stack([factors, factors], axis=1)
        return cls(length, inverse, (place(table), place(spread)), (place(picked), place(pick)))

    def apply(self, array: Any, axis: int, fft: Callable, memory: tuple[Callable, Callable]) -> Any:
        """Transform one axis of a 3-D array on the card.

        `memory` makes, from shape and dtype, the array of the transform and that of what is wanted
        of it, which is returned and may take the place of the given one.
        """
        for (table, factors), empty in zip((self.spread, self.pick), memory, strict=True):
            shape = list(array.shape)
            shape[axis] = table.shape[0]
            out = empty(tuple(shape), array.dtype)
            axes.select(array, axis, table, factors, out)
            if table is self.spread[0]:
                fft(out, axis, self.inverse)
            array = out
        return array


@dataclass(frozen=True, eq=False)
class CardTransforms:
    """The transforms of one oversampled grid on the card.

    Attributes
    ----------
    plan : Oversampling
        Of the side of the grid.
    grid : FourierGrid
    fft : callable
        From `fastcryo.card_fft.card_fft`.
    empty : callable
        Makes an array on the card, from shape and dtype.
    to_real, expand, contract, from_real : tuples of AxisTransform
        Along z, y and x: half grid to map, map to extended half volume, and their transposes (the
        last is the transform itself, the transpose of the first times N^3).
    divisor : array on the card
        What the map is multiplied by where that is no product of factors of one axis; else 1.
    """

    plan: Oversampling
    grid: FourierGrid
    fft: Callable
    empty: Callable
    to_real: tuple[AxisTransform, ...] = field(repr=False)
    expand_axes: tuple[AxisTransform, ...] = field(repr=False)
    contract_axes: tuple[AxisTransform, ...] = field(repr=False)
    from_real: tuple[AxisTransform, ...] = field(repr=False)
    divisor: Any = field(repr=False)
    _held: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, plan: Oversampling, grid: FourierGrid, fft: Callable, place: Callable, empty: Callable
    ) -> CardTransforms:
        """Make the tables of a plan."""
        box, real = grid.box, plan.real_dtype
        centred = np.arange(box) - grid.centre
        ones = np.ones(box, real)
        kz = np.arange(grid.shape[0])
        once = np.ones(len(kz), real)
        halves = grid.plane_multiplicity.astype(real)
        maps, cells = (centred, ones), (centred, ones)
        back, forth = [], []
        for frequency, wanted in (((kz, halves), (kz, once)), (cells, cells), (cells, cells)):
            divided = frequency[0], frequency[1] / real.type(box)
            back.append(AxisTransform.of(place, box, divided, maps, inverse=True))
            forth.append(AxisTransform.of(place, box, maps, wanted))
        factors = [f.ravel() for f in plan.correction if f.size == box] or 3 * [ones]
        whole = [f for f in plan.correction if f.size > box]
        expand, contract = [], []
        for axis, factor in enumerate(factors):
            first = plan.low if axis == 0 else plan.bound + plan.low
            elements = np.arange(plan.shape[axis]) - first, np.ones(plan.shape[axis], real)
            map_ = centred, factor
            expand.append(AxisTransform.of(place, plan.fine, map_, elements))
            contract.append(AxisTransform.of(place, plan.fine, elements, map_, inverse=True))
        divisor = place(math.prod(whole) if whole else np.ones(1, real))
        made = (tuple(found) for found in (back, expand, contract, forth))
        return cls(plan, grid, fft, empty, *made, divisor)

    def _again(self, use: str) -> Callable:
        """Return what makes arrays in memory that is used again: a card takes and frees it slowly.

        Freeing waits for all that the card has still to do.
        """

        def empty(shape: tuple[int, ...], dtype: Any) -> Any:
            size = math.prod(shape)
            if use not in self._held or self._held[use].size < size:
                self._held.pop(use, None)
                self._held[use] = self.empty((size,), dtype)
            return self._held[use][:size].reshape(*shape)

        return empty

    def _along(
        self, transforms: tuple[AxisTransform, ...], array: Any, order: tuple, fresh: bool = False
    ) -> Any:
        """Transform all axes; `fresh`: to an array of its own."""
        line, wanted = self._again("line"), self._again("wanted")
        for number, axis in enumerate(order):
            last = self.empty if fresh and number == len(order) - 1 else wanted
            array = transforms[axis].apply(array, axis, self.fft, (line, last))
        return array

    def expand(self, volume: Any) -> Any:
        """Return the extended half volume of a half grid, both on the card."""
        real = self._along(self.to_real, volume, (0, 1, 2))
        axes.keep_real(real, self.divisor, self.plan.real_dtype.type(1))
        return self._along(self.expand_axes, real, (0, 1, 2), fresh=True)

    def contract(self, extended: Any, scale: float, out: Any) -> None:
        """Fill a half grid with scale times what the CPU's `contract` and transform give."""
        real = self._along(self.contract_axes, extended, (2, 1, 0))
        axes.keep_real(real, self.divisor, self.plan.real_dtype.type(2 * scale))
        out.copy_to_device(self._along(self.from_real, real, (2, 1, 0)))
