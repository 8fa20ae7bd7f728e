"""Output files appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fastcryo.errors import InputError

REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EFBIG: "choose another folder",
    errno.ENOENT: "create its folder first",
    errno.ENOTDIR: "create its folder first",
    errno.EISDIR: "choose another name",
}


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file under a temporary name and rename it when the block ends well.

    Whatever stops the block (Ctrl-C too) removes the half-written file and leaves a former file of
    that name as it was.

    Parameters
    ----------
    path : path
        The file to write or to replace.

    Yields
    ------
    Path
        The name to write to, in the same folder and with the same suffix.

    Raises
    ------
    InputError
        The file cannot be written: no such folder, no permission, disk full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        remedy = REMEDIES.get(error.errno, "choose a folder that you may write to")
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}), {remedy}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
