"""Values of options, from the words of the command line."""

from __future__ import annotations

import argparse


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


def number_or_wiener(text: str) -> float | None:
    """Parse lambda: ``wiener`` (None) or a number of at least zero."""
    if text == "wiener":
        return None
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 'wiener' or a number of at least 0")
    return value


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
