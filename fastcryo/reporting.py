"""How long computations tell of their progress."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, int, int, str], None]


def silent(stage: str, done: int, total: int, detail: str) -> None:
    """Report nothing."""
