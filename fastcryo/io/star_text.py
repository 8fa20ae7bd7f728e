"""The text of STAR files, as programs and editors leave it.

gemmi reads CIF, which is ASCII, and in which some words mean something anywhere. RELION splits
lines at white space, whatever the words: ``_1.mrc``, ``data_1.mrc`` and ``$1.mrc`` name files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gemmi import cif

# Bytes beyond ASCII are marked, as ~E9~, while gemmi has them.
MARKS = {byte: f"~{byte:02X}~" for byte in range(0x80, 0x100)}
MARKED_RUN = re.compile(r"(?:~[89A-F][0-9A-F]~)+")
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"
# Of a value in a column; no STAR file holds it.
END = "\0"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
WORD = re.compile(r'"([^"]*)"(?=\s|$)|\'([^\']*)\'(?=\s|$)|(\S+)')
RESERVED_WORDS = r"data_|loop_|save_|stop_|global_|[_#$'\";\[\]]"
RESERVED = re.compile(rf"(?i){RESERVED_WORDS}")
TO_UNQUOTE = re.compile(rf"{END}(?:['\";]|[.?]{END})")
TO_QUOTE = re.compile(rf"(?i){END}(?:{RESERVED_WORDS}|[.?]?{END})|\s")


class StarSyntaxError(ValueError):
    """Text that is no STAR file; `of_row` if a row of a table is what is wrong."""

    def __init__(self, message: str, of_row: bool = False):
        super().__init__(message)
        self.of_row = of_row


def in_utf8(raw: bytes) -> bytes:
    """Return the bytes of a file without a byte order mark; UTF-16 becomes UTF-8."""
    if raw.startswith(UTF16_MARKS):
        raw = raw.decode("utf-16", errors="replace").encode()
    return raw.removeprefix(UTF8_MARK)


def plain_text(raw: bytes) -> str:
    """Return text in ASCII, with line feeds; other bytes are marked."""
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = raw.decode("latin-1")
    return text if raw.isascii() else text.translate(MARKS)


def unmarked(text: str) -> str:
    """Undo `plain_text` in a word or a column: UTF-8, or else Latin-1."""

    def decoded(found: re.Match) -> str:
        raw = bytes.fromhex(found[0].replace("~", ""))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    return MARKED_RUN.sub(decoded, text)


def joined(values: list[str]) -> str:
    """Return the values of a column as one text, each followed by `END`."""
    return END.join((*values, ""))


def quoted(value: str) -> str:
    """Quote a value where RELION, starfile and gemmi need it, by double quotes if possible."""
    plain = value and not re.search(r"\s", value) and not RESERVED.match(value)
    if plain and value not in (".", "?"):
        return value
    return f'"{value}"' if '"' not in value and "\n" not in value else cif.quote(value)


def unquoted_column(column: str) -> list[str]:
    """Return the values of a column, see `joined`, without quotes; unknown ones are empty."""
    values = column.split(END)[:-1]
    quotes = TO_UNQUOTE.search(END + column)
    return [cif.as_string(value) for value in values] if quotes else values


def quoted_column(values: Sequence[str]) -> Sequence[str]:
    """Quote the values of a column; one search finds that most columns need nothing."""
    text = END.join(("", *values, ""))
    return [quoted(value) for value in values] if TO_QUOTE.search(text) else values


def blocks_by_lines(text: str) -> dict[str, dict[str, str]]:
    """Read blocks as RELION does: a row per line, words between white space.

    Returns
    -------
    dict of str to dict of str to str
        Columns by the names of blocks, see `joined`; values quoted as gemmi does.

    Raises
    ------
    StarSyntaxError
        A line that is no part of a block, or a row with too few or too many values.
    """
    if CONTROL.search(text):
        raise StarSyntaxError("it holds control characters")
    blocks: dict[str, dict[str, list[str]]] = {}
    columns: dict[str, list[str]] | None = None
    in_loop = in_header = False
    for number, line in enumerate(text.split("\n"), 1):
        words = _words(line)
        if not words:
            continue
        first = words[0].lower()
        if len(words) == 1 and first.startswith("data_"):
            name = words[0][5:]
            if name.lower() in (known.lower() for known in blocks):
                raise StarSyntaxError(f"line {number}: a second block data_{name}")
            columns = blocks[name] = {}
            in_loop = in_header = False
        elif columns is None:
            raise StarSyntaxError(f"line {number}: expected block header (data_)")
        elif len(words) == 1 and first == "loop_":
            if in_loop:
                raise StarSyntaxError(f"line {number}: a second table in one block")
            columns.clear()
            in_loop = in_header = True
        elif in_header and len(words) == 1 and first.startswith("_"):
            if words[0][1:] in columns:
                raise StarSyntaxError(f"line {number}: duplicate tag {words[0]}")
            columns[words[0][1:]] = []
        elif in_loop:
            in_header = False
            if len(words) != len(columns):
                raise StarSyntaxError(
                    f"line {number} has {len(words)} values, {len(columns)} are needed", True
                )
            for values, word in zip(columns.values(), words, strict=True):
                values.append(cif.quote(word))
        elif len(words) == 2 and first.startswith("_"):
            columns[words[0][1:]] = [cif.quote(words[1])]
        else:
            raise StarSyntaxError(f"line {number}: expected a name and a value", True)
    return {name: {c: joined(v) for c, v in found.items()} for name, found in blocks.items()}


def _words(line: str) -> list[str]:
    """Split a line into words, without quotes; a word that begins with # ends it."""
    words = []
    for found in WORD.finditer(line):
        if found[3] is not None and found[3].startswith("#"):
            break
        words.append(next(part for part in found.groups() if part is not None))
    return words
