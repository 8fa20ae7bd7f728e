"""STAR files as tables: blocks to columns of text, numbers on demand.

A column is one text, each value followed by `END`: a list of seven million short strings, which is
what 300000 particles have, would take half a gigabyte.
"""

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
    END,
    StarSyntaxError,
    blocks_by_lines,
    in_utf8,
    joined,
    plain_text,
    quoted_column,
    unmarked,
    unquoted_column,
)

LONGEST_LISTING = 8
LARGEST_INTEGER = 2**53
RELION_VERSION = "# version 30001\n\n"
# Bytes that are parsed at once, to the end of a line: gemmi takes three times as many for them.
PIECE = 2**20


@dataclass(frozen=True)
class Table:
    """One block of a STAR file.

    Parameters
    ----------
    path : Path
        The file, for messages.
    name : str
        The block's name without ``data_``.
    columns : dict of str to str
        Values as they stand in the file, each followed by `END`; keys without the leading
        underscore.
    """

    path: Path
    name: str
    columns: Mapping[str, str]

    def __len__(self) -> int:
        """Return the number of rows."""
        return next(iter(self.columns.values()), "").count(END)

    def __contains__(self, column: str) -> bool:
        """Tell whether the table has a column."""
        return column in self.columns

    def strings(self, column: str) -> list[str]:
        """Return a column as text without quotes."""
        return unquoted_column(self.columns[column])

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column as float64.

        Raises
        ------
        InputError
            A value that is no finite number: file, column, row and value are named.
        """
        try:
            values = np.array(self._values(column), dtype=np.float64)
        except ValueError:
            values = np.array([_number(text) for text in self.strings(column)])
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            more = f" ({len(bad)} rows have no number there)" if len(bad) > 1 else ""
            raise InputError(
                f"{self.path}: {column} in row {bad[0] + 1} of data_{self.name} is "
                f"{self._values(column)[bad[0]]!r}, a number is needed{more}"
            )
        return values

    def integers(self, column: str) -> NDArray[np.int64]:
        """Return a column of whole numbers; raises `InputError` as `numbers` does."""
        values = self.numbers(column)
        bad = np.flatnonzero((values != np.rint(values)) | (np.abs(values) > LARGEST_INTEGER))
        if len(bad):
            raise InputError(
                f"{self.path}: {column} in row {bad[0] + 1} of data_{self.name} is "
                f"{self._values(column)[bad[0]]!r}, a whole number is needed"
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

    def _values(self, column: str) -> list[str]:
        return self.columns[column].split(END)[:-1]


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
    raw = in_utf8(raw)
    if END.encode() in raw:
        raise InputError(f"{path}: not a valid STAR file (a binary file)")
    blocks = _blocks_in_pieces(path, raw) or _blocks(path, raw)
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
        loop.set_all_values([quoted_column(values) for values in columns.values()])
    options = cif.WriteOptions()
    options.align_loops = 30
    with replacing(path) as temporary:
        temporary.write_text(RELION_VERSION + document.as_string(options), encoding="utf-8")


def _blocks(path: Path, raw: bytes) -> dict[str, dict[str, str]]:
    """Parse a file in one go, and say what is wrong with it."""
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
    return blocks if raw.isascii() else _unmarked_blocks(blocks)


def _blocks_in_pieces(path: Path, raw: bytes) -> dict[str, dict[str, str]] | None:
    """Parse a long file piece by piece, each after the header of the table that it goes on with.

    None for a short file and for all that is not plain tables of one line per row, faults included.
    """
    if len(raw) <= PIECE or b"\n;" in raw or b"\r;" in raw:  # texts of several lines
        return None
    blocks: dict[str, dict[str, list[str] | str]] = {}
    header, start = "", 0
    while start < len(raw):
        stop = raw.find(b"\n", start + PIECE) + 1 or len(raw)
        try:
            document = cif.read_string(header + plain_text(raw[start:stop]))
            found = [(block.name.strip(), _columns(path, block)) for block in document]
        except (ValueError, RuntimeError):
            return None
        start = stop
        for number, (name, columns) in enumerate(found):
            if number == 0 and header:
                name = next(reversed(blocks))
            elif name.lower() in map(str.lower, blocks):
                return None
            parts = blocks.setdefault(name, {column: [] for column in columns})
            if list(parts) != list(columns):
                return None
            for column, values in columns.items():
                parts[column].append(values)
        tags = _loop_tags(document[-1]) if len(document) else []
        if not tags:
            return None
        header = "\n".join(["data_", "loop_", *tags, ""])
    for parts in blocks.values():
        for column in parts:  # one after another, so that none is there twice for long
            parts[column] = "".join(parts[column])
    return blocks if raw.isascii() else _unmarked_blocks(blocks)


def _unmarked_blocks(blocks: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {
        unmarked(name): {unmarked(column): unmarked(values) for column, values in columns.items()}
        for name, columns in blocks.items()
    }


def _columns(path: Path, block: cif.Block) -> dict[str, str]:
    loops = [item.loop for item in block if item.loop is not None]
    pairs = {item.pair[0]: item.pair[1] + END for item in block if item.pair is not None}
    if len(loops) > 1:
        raise InputError(f"{path}: data_{block.name.strip()} holds {len(loops)} tables, not one")
    if not loops:
        return {tag.removeprefix("_"): value for tag, value in pairs.items()}
    tags, values = loops[0].tags, loops[0].values
    return {tag.removeprefix("_"): joined(values[i :: len(tags)]) for i, tag in enumerate(tags)}


def _loop_tags(block: cif.Block) -> list[str]:
    return next((list(item.loop.tags) for item in block if item.loop is not None), [])


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
