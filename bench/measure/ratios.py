"""Ratios between kernels of one run, which stay much the same until a kernel changes.

All on one thread, trilinear unless said.
"""

from collections.abc import Mapping

from .timing import median_ratio

BOXES = {"small": 64, "medium": 128, "large": 256}
QUICK_BOXES = {"small": 24, "medium": 28, "large": 32}
IMAGES = 64

# Name: what is above and what below, each an operation, a kind of case and a box. Kinds: "random"
# views, "resident" ones (see `measure.cases.resident`), and random views with the "nearest" window.
RATIOS = {
    "adjoint / forward": (("adjoint", "random", "medium"), ("forward", "random", "medium")),
    "gradient / forward": (("gradient", "random", "medium"), ("forward", "random", "medium")),
    "gradient and product / gradient": (
        ("gradient and product", "random", "medium"),
        ("gradient", "random", "medium"),
    ),
    "Hessian product / gradient": (
        ("Hessian product", "random", "medium"),
        ("gradient", "random", "medium"),
    ),
    "loss / gradient": (("loss", "random", "medium"), ("gradient", "random", "medium")),
    "diagonal / gradient": (("diagonal", "random", "medium"), ("gradient", "random", "medium")),
    "nearest / trilinear gradient": (
        ("gradient", "nearest", "medium"),
        ("gradient", "random", "medium"),
    ),
    "gradient per sample, N = 256 / N = 64": (
        ("gradient", "random", "large"),
        ("gradient", "random", "small"),
    ),
    "forward per sample, N = 256 / N = 64": (
        ("forward", "random", "large"),
        ("forward", "random", "small"),
    ),
    "gradient, N = 128: memory / cache": (
        ("gradient", "random", "medium"),
        ("gradient", "resident", "medium"),
    ),
    "gradient, N = 256: memory / cache": (
        ("gradient", "random", "large"),
        ("gradient", "resident", "large"),
    ),
}

Name = tuple[str, str, int]


def wanted(boxes: Mapping[str, int]) -> list[Name]:
    """Return what has to be timed, each once."""
    sides = [side for pair in RATIOS.values() for side in pair]
    names = [(operation, kind, boxes[size]) for operation, kind, size in sides]
    return list(dict.fromkeys(names))


def from_times(
    times: Mapping[Name, list[float]], samples: Mapping[int, int], boxes: Mapping[str, int]
) -> dict[str, float]:
    """Return the ratios of times per sample, medians over the rounds.

    Parameters
    ----------
    times : dict of list of float
        Seconds by operation, kind and box, of interleaved rounds.
    samples : dict of int
        Samples of a batch by box.
    boxes : dict of int
        Boxes by size.
    """
    found = {}
    for name, sides in RATIOS.items():
        above, below = ((operation, kind, boxes[size]) for operation, kind, size in sides)
        per_sample = samples[below[2]] / samples[above[2]]
        found[name] = median_ratio(times[above], times[below]) * per_sample
    return found


def worsened(
    found: Mapping[str, float], baseline: Mapping[str, float], threshold: float
) -> dict[str, float]:
    """Return by how much ratios exceed the baseline's, of those beyond the threshold."""
    growth = {name: found[name] / value for name, value in baseline.items() if name in found}
    return {name: value for name, value in growth.items() if value > threshold}
