"""Values of options, from the words of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive_integer(text: str) -> int:
    """Parse a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def positive_number(text: str) -> float:
    """Parse a number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a positive number")
    return value


def number(text: str) -> float:
    """Parse a number, which must be finite."""
    value = float(text)
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a finite number")
    return value


def number_from_zero(text: str) -> float:
    """Parse a number of zero or more."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def seed(text: str) -> int:
    """Parse the seed of a generator of random numbers."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def background_radius(text: str) -> float:
    """Parse a radius, which may stand where the particles were meant to."""
    try:
        return positive_number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no radius, give angstrom or a part of the side below 1 "
            "(or nothing, with --normalize after the particles)"
        ) from None


def step_rule(text: str) -> str | float:
    """Parse a step rule or a constant step."""
    if text in ("armijo", "exact", "decay"):
        return text
    try:
        return positive_number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: choose decay, armijo, exact or a positive number"
        ) from None


def prior(text: str) -> float | tuple[float, ...] | None:
    """Parse lambda: ``wiener`` (None), a number of at least zero, or a file of such numbers."""
    if text == "wiener":
        return None
    try:
        value = float(text)
    except ValueError:
        return _numbers_by_shell(Path(text))
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text} must be 'wiener', a file or a number of 0 or more"
        )
    return value


def _numbers_by_shell(path: Path) -> tuple[float, ...]:
    """Read one number a line; what follows a # is a comment."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{str(path)!r} is neither 'wiener' nor a number, nor a file that can be read "
            f"({error.strerror})"
        ) from None
    values = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            (value,) = map(float, words)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise argparse.ArgumentTypeError(
                f"{path}: line {number} is {line.strip()[:40]!r}, one number of 0 or more is "
                "needed, lambda of the next shell"
            )
        values.append(value)
    if not values:
        raise argparse.ArgumentTypeError(f"{path}: holds no numbers, one a line is needed")
    return tuple(values)


def preconditioner_name(text: str) -> str | None:
    """Parse a preconditioner's name; ``none`` is None."""
    if text not in ("gridding", "exact", "hutchinson", "none"):
        raise argparse.ArgumentTypeError(f"{text!r}: choose gridding, exact, hutchinson or none")
    return None if text == "none" else text


def variance_reduction_name(text: str) -> str | None:
    """Parse a variance reduction's name; ``none`` is None."""
    if text not in ("svrg", "none"):
        raise argparse.ArgumentTypeError(f"{text!r}: choose svrg or none")
    return None if text == "none" else text


def threshold_rule(text: str) -> str | float | None:
    """Parse a threshold: ``auto``, ``none`` or a number."""
    return {"auto": "auto", "none": None}.get(text) if text in ("auto", "none") else float(text)
