"""The state of an SGD run on disk, so that a killed run goes on bit for bit."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fastcryo.errors import InputError
from fastcryo.io.atomic import replacing
from fastcryo.preconditioner import HutchinsonEstimate
from fastcryo.sgd import History, SGDState


def save_checkpoint(path: str | os.PathLike, state: SGDState, identity: str) -> None:
    """Write a state, whole or not at all.

    Parameters
    ----------
    path : path
        Ends in ``.npz``.
    state : SGDState
    identity : str
        What the run is about; `load_checkpoint` refuses another one.
    """
    arrays = {"volume": state.volume}
    if state.average is not None:
        arrays["average"] = state.average
    meta = {
        "identity": identity,
        "epoch": state.epoch,
        "averaged": state.averaged,
        "history": asdict(state.history),
        "rng": state.rng.bit_generator.state,
    }
    if state.estimate is not None:
        arrays["mean"] = state.estimate.mean
        arrays["smoothed"] = state.estimate.smoothed
        meta["beta"] = state.estimate.beta
        meta["probes"] = state.estimate.probes
    with replacing(path) as temporary:
        np.savez(temporary, meta=json.dumps(meta), **arrays)


def load_checkpoint(path: str | os.PathLike, identity: str) -> SGDState:
    """Read a state back.

    Raises
    ------
    InputError
        The file is damaged, or belongs to a run with other data or settings.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        meta = json.loads(str(arrays["meta"]))
        rng = np.random.Generator(getattr(np.random, meta["rng"]["bit_generator"])())
        rng.bit_generator.state = meta["rng"]
        found = meta["identity"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: this checkpoint cannot be read ({error}), delete it or use --overwrite"
        ) from error
    if found != identity:
        raise InputError(
            f"{path}: this checkpoint is of a run with other particles or settings, "
            "repeat that command with --resume, or start anew with --overwrite"
        )
    estimate = None
    if "mean" in arrays:
        estimate = HutchinsonEstimate(
            meta["beta"], arrays["mean"], arrays["smoothed"], meta["probes"]
        )
    return SGDState(
        volume=arrays["volume"],
        epoch=meta["epoch"],
        rng=rng,
        history=History(**meta["history"]),
        average=arrays.get("average"),
        averaged=meta["averaged"],
        estimate=estimate,
    )
