"""One peer in a process of its own: ``python -m peers.worker NAME``, driven by `peers.rounds`.

Reads one JSON request per line and answers each with one JSON line. Whatever the peer itself prints
goes to the error stream.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import time

from measure.memory import peak_megabytes

from . import PEERS
from .shared import Prepared, SharedProblem

# What adapters and the libraries behind them raise when a problem is too large for them or their
# interface has changed.
FAILURES = (ArithmeticError, AttributeError, ImportError, LookupError, MemoryError, RuntimeError)
FAILURES += (TypeError, ValueError)


def limit_processors(threads: int) -> None:
    """Bind the process to as many processors as there are to be threads: some peers take all."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])


def time_call(prepared: Prepared, operation: str, seconds: float) -> dict:
    """Call an operation for at least some seconds; returns seconds per call."""
    function = prepared.operations[operation]
    calls, began = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - began < seconds:
        function()
        calls += 1
    return {"seconds": (time.perf_counter() - began) / calls}


def answer(state: dict, request: dict) -> dict:
    """Carry out one request."""
    if request["do"] == "prepare":
        shared = SharedProblem(request["box"], request["images"], request["threads"])
        # The arrays of the box before go first.
        state |= {"shared": shared, "prepared": None}
        state["prepared"] = state["adapter"].prepare(shared)
        first = {}
        for operation, function in state["prepared"].operations.items():
            began = time.perf_counter()
            function()
            first[operation] = time.perf_counter() - began
        prepared = state["prepared"]
        return {"first": first, "points": prepared.points, "what": prepared.what}
    if request["do"] == "error":
        return {"error": state["shared"].error(state["prepared"].checked())}
    if request["do"] == "peak":
        return {"peak_mb": peak_megabytes()}
    return time_call(state["prepared"], request["operation"], request["at_least"])


def main() -> None:
    """Answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = PEERS[sys.argv[1]]
    limit_processors(int(sys.argv[2]))
    state: dict = {}
    try:
        state["adapter"] = importlib.import_module(f"peers.{peer.module}")
        version = importlib.metadata.version(peer.package)
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        replies.write(json.dumps({"missing": f"{reason} ({peer.remedy})"}) + "\n")
        return
    replies.write(json.dumps({"version": version}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = answer(state, request)
        except FAILURES as error:
            reason = str(error).splitlines() or [""]
            reply = {"failed": f"{type(error).__name__}: {reason[0]}"}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
