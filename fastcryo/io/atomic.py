"""Output files appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
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
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Do as `replacing` for a folder and all that the block writes into it.

    A link is followed, so that what it leads to is replaced on its own disk. A process that is
    killed leaves ``.NAME.PID.partial`` beside the folder, and nothing under the name itself.

    Yields
    ------
    Path
        An empty folder beside `path`, whose parents are made if need be.
    """
    path = Path(path).resolve()
    temporary, former = (
        path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("partial", "former")
    )
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            os.replace(path, former)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        for folder in (temporary, former):
            shutil.rmtree(folder, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> InputError:
    remedy = REMEDIES.get(error.errno, "choose a folder that you may write to")
    return InputError(f"{path}: cannot be written ({error.strerror or error}), {remedy}")
