"""Markdown tables and numbers as people read them."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def rate(value: float) -> str:
    """Return a rate with three figures, and thousands set apart."""
    digits = 0 if value >= 100 else (1 if value >= 10 else 2)
    return f"{value:,.{digits}f}"


def figures(value: float, count: int = 2) -> str:
    """Return a number with a few figures and no exponent unless it is tiny."""
    if value == 0 or 1e-3 <= abs(value) < 10**count:
        return f"{value:.{count}g}"
    return f"{value:.0f}" if abs(value) >= 1 else f"{value:.1e}"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:.1f}×" if value < 10 else f"{value:.0f}×"
