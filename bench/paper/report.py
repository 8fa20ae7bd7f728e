"""From records to the sections of docs/paper.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from bench.paper import records
from fastcryo.errors import InputError
from fastcryo.io.atomic import replacing


def sections(folder: Path, experiments: Mapping[str, ModuleType]) -> dict[str, str]:
    """Return the Markdown of every experiment that a folder holds records of.

    Parameters
    ----------
    folder : Path
    experiments : mapping of modules
        By name.

    Raises
    ------
    InputError
        No record in the folder.
    """
    found = records.read(folder)
    if not found:
        raise InputError(f"{folder}: holds no records, run an experiment with --out {folder}")
    made = {}
    for name in sorted(found):
        parts = [
            f"{_caption(record)}\n\n{experiments[name].markdown(record)}"
            for record in found[name].values()
        ]
        made[name] = "\n".join(parts)
    return made


def _caption(record: dict) -> str:
    machine = record["machine"]
    return (
        f"*{record['size']}*: {record['results']['data']} ({machine['processor']}, "
        f"{machine['threads']} threads, {record['seconds']:.0f} s)."
    )


def replace_sections(path: Path, made: Mapping[str, str]) -> None:
    """Replace what stands between ``<!-- e1 -->`` and ``<!-- /e1 -->`` in a document.

    Parameters
    ----------
    path : Path
    made : mapping of str
        Sections by name.

    Raises
    ------
    InputError
        A document that cannot be read or has no place for a section.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    text = path.read_text()
    for name, section in made.items():
        first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, opened, rest = text.partition(first)
        _, closed, after = rest.partition(last)
        if not (opened and closed):
            raise InputError(f"{path}: has no {first.strip()} ... {last} to put {name} into")
        text = f"{before}{first}\n{section}\n{last}{after}"
    with replacing(path) as temporary:
        temporary.write_text(text)
