"""Turns of several peers on the same problem: interleaved round by round, one active at a time."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from . import LARGEST_ERROR, OPERATIONS

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
) -> Iterator[dict]:
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

    Yields
    ------
    dict
        After every box, all there is so far. ``peers``: name, version, what is computed;
        ``skipped``: reason by name; ``rows``: box, operation, peer, seconds (median), fastest,
        rounds, images_per_second, points; ``errors`` and ``peaks`` by box and peer.
    """
    what: dict[str, str] = {}
    rows, errors, peaks = [], [], []
    workers: list[Worker] = []
    try:
        for name in names:
            tell(f"starting {name}")
            workers.append(Worker(name, threads))
        for box in boxes:
            offered = {}
            for worker in alive(workers):
                tell(f"N = {box}: preparing {worker.name}")
                reply = prepare(worker, box, images, threads)
                if reply:
                    offered[worker.name] = reply
                    what[worker.name] = reply["what"]
                    errors.append({"box": box, "peer": worker.name, "error": reply["error"]})
            for operation in OPERATIONS:
                turn = {"do": "time", "operation": operation, "at_least": at_least}
                asked = [w for w in alive(workers) if operation in offered[w.name]["first"]]
                for name, seconds in take_turns(asked, turn, rounds, f"N = {box}", tell).items():
                    rows.append(
                        {
                            "box": box,
                            "operation": operation,
                            "peer": name,
                            "seconds": median(seconds),
                            "fastest": min(seconds),
                            "rounds": rounds,
                            "images_per_second": images / median(seconds),
                            "points": offered[name]["points"],
                        }
                    )
            for worker in alive(workers):
                peaks.append({"box": box, "peer": worker.name, **worker.ask(do="peak")})
            yield {
                "images": images,
                "threads": threads,
                "peers": [
                    {"name": w.name, "version": w.version, "what": what[w.name]}
                    for w in workers
                    if w.name in what
                ],
                "skipped": {w.name: w.problem for w in workers if w.problem},
                "rows": rows,
                "errors": errors,
                "peaks": peaks,
            }
    finally:
        for worker in workers:
            worker.close()


def prepare(worker: Worker, box: int, images: int, threads: int) -> dict:
    """Return what a peer offers for a problem, and its error; nothing if that is too large."""
    offered = worker.ask(do="prepare", box=box, images=images, threads=threads)
    error = worker.ask(do="error") if offered else {}
    if error and error["error"] > LARGEST_ERROR:
        worker.problem = f"its slices are off by {error['error']:.2g} of their norm"
    return {**offered, **error} if worker.problem is None else {}


def take_turns(
    workers: list[Worker], turn: dict, rounds: int, where: str, tell: Tell
) -> dict[str, list[float]]:
    """Return seconds per call by peer, of those that got through all rounds."""
    times = {worker.name: [] for worker in workers}
    for number in range(rounds):
        tell(f"{where}: {turn['operation']}, round {number + 1} of {rounds}")
        for worker in alive(workers):
            reply = worker.ask(**turn)
            if reply:
                times[worker.name].append(reply["seconds"])
    return {name: seconds for name, seconds in times.items() if len(seconds) == rounds}


def alive(workers: list[Worker]) -> list[Worker]:
    """Return the workers that can still be asked."""
    return [worker for worker in workers if worker.problem is None]
