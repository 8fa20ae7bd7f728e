"""STAR files as tables: blocks to columns of text, numbers on demand."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gemmi import cif
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.io.atomic import replacing
from fastcryo.io.patience import patiently
from fastcryo.io.star_text import (
    MARKED,
    UTF16_MARKS,
    StarSyntaxError,
    blocks_by_lines,
    plain_text,
    quoted,
    unmarked,
    unmarked_columns,
)

LONGEST_LISTING = 8
LARGEST_INTEGER = 2**53
RELION_VERSION = "# version 30001\n\n"


@dataclass(frozen=True)
class Table:
    """One block of a STAR file.

    Parameters
    ----------
    path : Path
        The file, for messages.
    name : str
        The block's name without ``data_``.
    columns : dict of str to list of str
        Values as they stand in the file; keys without the leading underscore.
    """

    path: Path
    name: str
    columns: Mapping[str, list[str]]

    def __len__(self) -> int:
        """Return the number of rows."""
        return max(map(len, self.columns.values()), default=0)

    def __contains__(self, column: str) -> bool:
        """Tell whether the table has a column."""
        return column in self.columns

    def strings(self, column: str) -> list[str]:
        """Return a column as text without quotes."""
        return [cif.as_string(value) for value in self.columns[column]]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column as float64.

        Raises
        ------
        InputError
            A value that is no finite number: file, column, row and value are named.
        """
        try:
            values = np.array(self.columns[column], dtype=np.float64)
        except ValueError:
            values = np.array([_number(text) for text in self.strings(column)])
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            more = f" ({len(bad)} rows have no number there)" if len(bad) > 1 else ""
            raise InputError(
                f"{self.path}: {column} in row {bad[0] + 1} of data_{self.name} is "
                f"{self.columns[column][bad[0]]!r}, a number is needed{more}"
            )
        return values

    def integers(self, column: str) -> NDArray[np.int64]:
        """Return a column of whole numbers; raises `InputError` as `numbers` does."""
        values = self.numbers(column)
        bad = np.flatnonzero((values != np.rint(values)) | (np.abs(values) > LARGEST_INTEGER))
        if len(bad):
            raise InputError(
                f"{self.path}: {column} in row {bad[0] + 1} of data_{self.name} is "
                f"{self.columns[column][bad[0]]!r}, a whole number is needed"
            )
        return values.astype(np.int64)

    def require(self, columns: Sequence[str], purpose: str) -> None:
        """Raise `InputError` if columns are missing, naming them and what was found."""
        missing = [c for c in columns if c not in self]
        if missing:
            raise InputError(
                f"{self.path}: data_{self.name} lacks {', '.join(missing)}, {purpose} "
                f"(found {listing(self.columns)})"
            )


def read_star(path: str | os.PathLike) -> dict[str, Table]:
    """Read every block of a STAR file that holds a table or name-value pairs.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict of str to Table
        Keys are the blocks' names in lower case, the empty string for a nameless one; pairs make
        a table of one row.

    Raises
    ------
    InputError
        No such file, no STAR syntax, two blocks of one name, several tables in a block, no block.
    """
    path = Path(path)
    try:
        raw = patiently(path, path.read_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if b"\0" in raw and not raw.startswith(UTF16_MARKS):
        raise InputError(f"{path}: not a valid STAR file (a binary file)")
    text = plain_text(raw)
    try:
        document = cif.read_string(text)
    except (ValueError, RuntimeError) as error:  # syntax, and names that occur twice
        try:
            # Words that mean something to CIF are names of files to RELION.
            blocks = blocks_by_lines(text)
        except StarSyntaxError as other:
            reason = str(other) if other.of_row else _reason(error)
            raise InputError(f"{path}: not a valid STAR file ({reason})") from error
    else:
        blocks = {block.name.strip(): _columns(path, block) for block in document}
    if MARKED.search(text):
        blocks = {unmarked(name): unmarked_columns(c) for name, c in blocks.items()}
    tables = {name.lower(): Table(path, name, columns) for name, columns in blocks.items()}
    if not tables:
        raise InputError(f"{path}: an empty STAR file, without any data_ block")
    return tables


def listing(names: Iterable[str]) -> str:
    """Name the first few of many things for a message."""
    names = list(names)
    shown = ", ".join(names[:LONGEST_LISTING])
    if len(names) > LONGEST_LISTING:
        shown += f" and {len(names) - LONGEST_LISTING} more"
    return shown or "nothing"


def write_star(path: str | os.PathLike, tables: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Write tables as loops that RELION reads.

    Parameters
    ----------
    path : path
    tables : mapping of block names to mappings of column names to texts
        Names without ``data_`` and without the leading underscore.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    document = cif.Document()
    for name, columns in tables.items():
        loop = document.add_new_block(name).init_loop("_", list(columns))
        loop.set_all_values([[quoted(v) for v in values] for values in columns.values()])
    options = cif.WriteOptions()
    options.align_loops = 30
    with replacing(path) as temporary:
        temporary.write_text(RELION_VERSION + document.as_string(options), encoding="utf-8")


def _columns(path: Path, block: cif.Block) -> dict[str, list[str]]:
    loops = [item.loop for item in block if item.loop is not None]
    pairs = {item.pair[0]: [item.pair[1]] for item in block if item.pair is not None}
    if len(loops) > 1:
        raise InputError(f"{path}: data_{block.name.strip()} holds {len(loops)} tables, not one")
    if not loops:
        return {tag.removeprefix("_"): values for tag, values in pairs.items()}
    tags, values = loops[0].tags, loops[0].values
    return {tag.removeprefix("_"): values[i :: len(tags)] for i, tag in enumerate(tags)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _reason(error: Exception) -> str:
    """Turn gemmi's 'data:2:0(7): Wrong number of values' into 'line 2: Wrong number of values'."""
    found = re.fullmatch(r"\w+(?::(\d+))?(?::\d+\(\d+\):| in|:)\s*(.*)", str(error), re.DOTALL)
    if not found:
        return str(error)
    line, text = found.groups()
    return f"line {line}: {text}" if line else text
