"""Timing of functions, alone and in turns."""

import time
from collections.abc import Callable, Mapping
from statistics import median


def seconds_of(function: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def shortest(function: Callable[[], object], rounds: int) -> float:
    """Return the shortest of several calls, seconds, after one that does not count."""
    function()
    return min(seconds_of(function) for _ in range(rounds))


def alternate(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time functions in turns, so that whatever disturbs the machine disturbs all of them.

    Each is called once before, uncounted.

    Returns
    -------
    dict of list of float
        Seconds by name, `rounds` of each.
    """
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds_of(function))
    return times


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios round by round: both sides of each saw the same machine."""
    return median(a / b for a, b in zip(above, below, strict=True))
