"""Reading again where a disk on the network answers at the second attempt."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PAUSES = (0.1, 1.0, 5.0)  # seconds before the attempts after the first
PASSING = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EREMOTEIO", "ECONNRESET")
    if hasattr(errno, name)
)

Result = TypeVar("Result")


def patiently(path: Path, read: Callable[[], Result]) -> Result:
    """Call `read`, and call it again if what fails may pass, such as an I/O error.

    Parameters
    ----------
    path : Path
        For the log.
    read : callable
        Reads from the start whenever it is called.

    Raises
    ------
    OSError
        An error that does not pass, or one that came back at every attempt.
    """
    for pause in PAUSES:
        try:
            return read()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            logging.getLogger("fastcryo").warning(
                "%s: %s, reading again in %g s", path, error.strerror, pause
            )
            time.sleep(pause)
    return read()
