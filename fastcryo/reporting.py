"""How computations tell of their progress: to the caller, to a log and to other programs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

# Called with (stage, done, total, detail); within `logged` also with numbers by name.
Report = Callable[..., None]

LOG, PROGRESS = "run.log", "progress.jsonl"
SECONDS_BETWEEN_LINES = 1.0
# Stages that do the same work, so that the first tells how long the others take.
KINDS = dict.fromkeys(("half1", "half2", "full"), "map") | dict.fromkeys(
    ("prior, half 1", "prior, half 2"), "prior"
)


def silent(stage: str, done: int, total: int, detail: str, **numbers: float | None) -> None:
    """Report nothing."""


@contextlib.contextmanager
def logged(
    folder: Path, report: Report, heading: Sequence[str] = (), resume: bool = False
) -> Iterator[Report]:
    """Tell of a run's progress in ``run.log`` and ``progress.jsonl`` as well.

    The log has a line for the begin and the end of every stage. ``progress.jsonl`` has one JSON
    object a line, at every stage's begin and end and at most every second between, with ``time``
    (UTC), ``seconds`` since the start, ``stage``, ``done``, ``total``, ``detail`` and the numbers
    known at that time, such as ``loss``, ``resolution`` (angstrom) and ``seconds_left`` (of all
    stages, see `with_time_left`); the last one's stage is "finished" or "failed". A disk that is
    full ends the logs, not the run.

    Parameters
    ----------
    folder : Path
    report : callable
        Called with (stage, done, total, detail).
    heading : sequence of str
        First lines of the log: command and plan.
    resume : bool
        Append to the logs of the run that is resumed.

    Yields
    ------
    callable
        The report to use; numbers by name go to ``progress.jsonl`` only.
    """
    began = time.perf_counter()
    with contextlib.ExitStack() as files:
        log, progress = (_opened(files, folder / n, resume) for n in (LOG, PROGRESS))
        starts: dict[str, float] = {}
        last = -SECONDS_BETWEEN_LINES

        def line(stage: str, **values) -> None:
            seconds = time.perf_counter() - began
            known = {name: value for name, value in values.items() if value is not None}
            record = {"time": _now(), "seconds": round(seconds, 3), "stage": stage, **known}
            _write(progress, json.dumps(record))

        def tell(stage: str, done: int, total: int, detail: str, **numbers: float | None) -> None:
            nonlocal last
            report(stage, done, total, detail)
            now = time.perf_counter() - began
            first, ends = stage not in starts, done >= total
            starts.setdefault(stage, now)
            if first:
                _write(log, f"{_now()} {stage}: begins")
            if ends:
                _write(log, f"{_now()} {stage}: ends after {now - starts[stage]:.1f} s  {detail}")
            if first or ends or now - last >= SECONDS_BETWEEN_LINES:
                last = now
                line(stage, done=int(done), total=int(total), detail=detail, **numbers)

        for words in heading:
            _write(log, f"{_now()} {words}")
        try:
            yield tell
        except BaseException as error:
            said = str(error) or type(error).__name__
            _write(log, f"{_now()} failed: {said}")
            line("failed", error=said)
            raise
        _write(log, f"{_now()} finished")
        line("finished")


def with_time_left(report: Report, forecast: Mapping[str, float]) -> Report:
    """Return a report that adds the seconds left for all stages together.

    The stage at work goes on at the pace that it shows: what a resumed run finds done has taken no
    time. Stages to come take what was forecast, times what stages of their kind took beyond their
    forecast so far, or else all stages.

    Parameters
    ----------
    report : callable
        As `logged` yields it.
    forecast : mapping
        Seconds of every stage by its name, in their order; stages that are skipped count as done
        when a later one begins.
    """
    order = list(forecast)
    latest = time.perf_counter()
    # By stage: when the one before it ended, when it first told of itself, and how far it was then.
    starts: dict[str, tuple[float, float, float]] = {}
    # What a whole stage takes, as far as is known.
    taken: dict[str, float] = {}

    def tell(stage: str, done: int, total: int, detail: str, **numbers: float | None) -> None:
        nonlocal latest
        now, part = time.perf_counter(), min(done / total, 1.0)
        begun, first, base = starts.setdefault(stage, (latest, now, part))
        latest = now
        place = order.index(stage) if stage in forecast else -1
        to_come = order[place + 1 :] if place >= 0 else [s for s in order if s not in starts]
        own = forecast.get(stage, 0.0)
        if part > base:
            taken[stage] = (now - first) / (part - base)
            left = taken[stage] * (1 - part)
        else:
            left = own * (1 - part) * _excess(taken, forecast, stage)
            if part == 1:
                taken[stage] = now - begun
        left += sum(forecast[s] * _excess(taken, forecast, s) for s in to_come)
        text = ", ".join(filter(None, (detail, f"{duration(left)} left in all" if left else "")))
        report(stage, done, total, text, seconds_left=round(left, 1), **numbers)

    return tell


def _excess(taken: Mapping[str, float], forecast: Mapping[str, float], stage: str) -> float:
    """Return how much longer than forecast stages took: those of a kind, or all; 1 if none did."""
    kind = KINDS.get(stage)
    known = [s for s in taken if forecast.get(s, 0.0) > 0]
    alike = [s for s in known if kind is not None and KINDS.get(s) == kind] or known
    promised = sum(forecast[s] for s in alike)
    return sum(taken[s] for s in alike) / promised if promised else 1.0


def duration(seconds: float) -> str:
    """Return a time in words: 5 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _opened(files: contextlib.ExitStack, path: Path, append: bool) -> TextIO | None:
    with contextlib.suppress(OSError):
        mode = "a" if append else "w"
        # Every line is on its way to the disk at once: a killed run leaves what it said.
        file = path.open(mode, buffering=1, encoding="utf-8")
        files.callback(_close, file)
        return file
    return None


def _close(file: TextIO) -> None:
    with contextlib.suppress(OSError):  # what a full disk has not taken is tried again here
        file.close()


def _write(file: TextIO | None, text: str) -> None:
    if file is not None:
        with contextlib.suppress(OSError):
            file.write(text + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
