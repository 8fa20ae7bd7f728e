"""Turns of several peers on the same problem: interleaved round by round, one active at a time."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from . import LARGEST_ERROR, OPERATIONS, PEERS

BENCH = Path(__file__).resolve().parents[1]
Tell = Callable[[str], None]


class Worker:
    """A peer's process, which answers one request at a time.

    Attributes
    ----------
    name : str
    version : str or None
    problem : str or None
        Why there is nothing more to be had from it.
    """

    def __init__(self, name: str, threads: int):
        environment = os.environ | {
            variable: str(threads)
            for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS")
        }
        self.name = name
        self.version = self.problem = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peers.worker", name, str(threads)],
            cwd=BENCH,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        hello = self._read()
        self.version = hello.get("version")
        self.problem = hello.get("missing", self.problem)

    def ask(self, **request: object) -> dict:
        """Return the answer to a request; an empty one, and `problem`, if it failed."""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.problem = self.problem or "its process has ended"
            return {}
        reply = self._read()
        if "failed" in reply:
            self.problem = reply["failed"]
            return {}
        return reply

    def close(self) -> None:
        """End the process."""
        # Closing sends what is left of a request, which a process that has died does not take.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self.problem = f"its process ended with status {status}"
        return {}


def compare(
    names: list[str],
    boxes: list[int],
    *,
    images: int,
    threads: int,
    rounds: int,
    at_least: float,
    tell: Tell,
) -> dict:
    """Time peers side by side.

    Parameters
    ----------
    names : list of str
        Of `peers.PEERS`.
    boxes : list of int
        N.
    images : int
        Images of the batch.
    threads : int
        Threads, and processors, of every peer.
    rounds : int
        Turns of every peer at every operation.
    at_least : float
        Seconds of a turn: short calls are repeated.
    tell : callable
        Called with a line on what is being done.

    Returns
    -------
    dict
        ``peers``: name, version, what is computed; ``skipped``: reason by name; ``rows``: box,
        operation, peer, seconds (median), fastest, rounds, images_per_second, points; ``errors``
        and ``peaks`` by box and peer.
    """
    skipped, versions, what = {}, {}, {}
    rows, errors, peaks = [], [], []
    workers = []
    try:
        for name in names:
            tell(f"starting {name}")
            worker = Worker(name, threads)
            workers.append(worker)
            versions[name] = worker.version
        for box in boxes:
            points = {}
            for worker in alive(workers):
                tell(f"N = {box}: preparing {worker.name}")
                reply = worker.ask(do="prepare", box=box, images=images, threads=threads)
                error = worker.ask(do="error") if reply else {}
                if error and error["error"] > LARGEST_ERROR:
                    worker.problem = f"its slices are off by {error['error']:.2g} of their norm"
                elif error:
                    points[worker.name] = reply["points"], sorted(reply["first"])
                    what[worker.name] = reply["what"]
                    errors.append({"box": box, "peer": worker.name, **error})
            for operation in OPERATIONS:
                times = {w.name: [] for w in alive(workers) if operation in points[w.name][1]}
                for number in range(rounds):
                    tell(f"N = {box}: {operation}, round {number + 1} of {rounds}")
                    for worker in alive(workers):
                        if worker.name not in times:
                            continue
                        reply = worker.ask(do="time", operation=operation, at_least=at_least)
                        if reply:
                            times[worker.name].append(reply["seconds"])
                for name, seconds in times.items():
                    if len(seconds) == rounds:
                        rows.append(
                            {
                                "box": box,
                                "operation": operation,
                                "peer": name,
                                "seconds": median(seconds),
                                "fastest": min(seconds),
                                "rounds": rounds,
                                "images_per_second": images / median(seconds),
                                "points": points[name][0],
                            }
                        )
            for worker in alive(workers):
                peaks.append({"box": box, "peer": worker.name, **worker.ask(do="peak")})
        skipped = {w.name: w.problem for w in workers if w.problem}
    finally:
        for worker in workers:
            worker.close()
    return {
        "images": images,
        "threads": threads,
        "peers": [
            {"name": name, "version": versions[name], "what": what[name]}
            for name in names
            if name in what
        ],
        "skipped": skipped,
        "remedies": {name: PEERS[name].remedy for name in skipped},
        "rows": rows,
        "errors": errors,
        "peaks": peaks,
    }


def alive(workers: list[Worker]) -> list[Worker]:
    """Return the workers that can still be asked."""
    return [worker for worker in workers if worker.problem is None]
