"""Numbers that kernels leave on a graphics card, and that come back together.

Waiting for the card costs more than the few bytes: 10 microseconds and all that is still in its
queue. So sums stay there as terms of the formulas they belong to, and the first ``float(number)``
brings all of them back in one copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastcryo.backends import on_card
from fastcryo.kernels.cuda import vectors
from fastcryo.kernels.cuda._jit import cuda

# Sums that may wait at a time; an iteration leaves about ten.
PLACES = 256


@dataclass(eq=False)
class Sum:
    """One float64 number on the card; `value` when it has been read."""

    value: float | None = None


class Board:
    """Where kernels write sums: places on the card, read all at once."""

    def __init__(self):
        self.places = cuda.device_array(PLACES, np.float64)
        self.waiting: list[Sum] = []

    def take(self, count: int) -> tuple[Any, list[Sum]]:
        """Return places on the card for some sums, and the sums."""
        with on_card():
            if len(self.waiting) + count > PLACES:
                self.read()
            first = len(self.waiting)
            sums = [Sum() for _ in range(count)]
            self.waiting += sums
            return self.places[first : first + count], sums

    def read(self) -> None:
        """Bring every sum back that waits."""
        with on_card():
            found = self.places[: len(self.waiting)].copy_to_host()
            for number, value in zip(self.waiting, found.tolist(), strict=True):
                number.value = value
            self.waiting = []


_boards: list[Board] = []


def board() -> Board:
    """Return the board of this process."""
    if not _boards:
        _boards.append(Board())
    return _boards[0]


@dataclass(frozen=True, eq=False)
class CardNumber:
    """constant + sum of factor times sum, a number that is not known before it is asked for."""

    terms: tuple[tuple[float, Sum], ...]
    constant: float = 0.0

    # NumPy's numbers leave sums and products with these to the methods below.
    __array_ufunc__ = None

    def __float__(self) -> float:
        if any(term.value is None for _, term in self.terms):
            board().read()
        return self.constant + sum(factor * term.value for factor, term in self.terms)

    def __add__(self, other: float | CardNumber) -> CardNumber:
        if isinstance(other, CardNumber):
            return CardNumber(self.terms + other.terms, self.constant + other.constant)
        return CardNumber(self.terms, self.constant + other)

    def __mul__(self, factor: float) -> CardNumber:
        terms = tuple((factor * f, term) for f, term in self.terms)
        return CardNumber(terms, factor * self.constant)

    def __truediv__(self, divisor: float) -> CardNumber:
        return self * (1 / divisor)

    def __neg__(self) -> CardNumber:
        return self * -1.0

    def __sub__(self, other: float | CardNumber) -> CardNumber:
        return self + -other

    def __rsub__(self, other: float) -> CardNumber:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__


def numbers(count: int) -> tuple[Any, list[CardNumber]]:
    """Return places on the card for some sums, and the numbers that they will be."""
    places, sums = board().take(count)
    return places, [CardNumber(((1.0, term),)) for term in sums]


def total_of_planes(partials: Any, multiplicity: np.ndarray) -> CardNumber:
    """Add up what `fastcryo.kernels.cuda.vectors` left of the planes of a half grid."""
    places, (total,) = numbers(1)
    vectors.add_planes(partials, float(multiplicity[-1]), places)
    return total
