"""STAR files as texts: names, encodings, line ends, quotes, and long files read in pieces."""

import numpy as np
import pytest

from fastcryo import InputError
from fastcryo.io import star
from fastcryo.io.relion import read_relion
from fastcryo.io.star import read_star, write_star

from .fuzz import mutate, star_seeds
from .test_star import MODERN, OPTICS, PARTICLES, block, read, refused


@pytest.mark.parametrize(
    "name", ["data_1.mrc", "_1.mrc", "$1.mrc", "loop_1.mrc", "'1.mrc", "[1].mrc", "m#1.mrc"]
)
def test_names_that_mean_something_to_cif_are_names(tmp_path, name):
    columns = {"rlnMicrographName": [name, "plain.mrc", name]} | PARTICLES
    text = block("optics", OPTICS) + block("particles", columns)
    found = read(tmp_path, text)
    assert len(found) == 3
    table = read_star(tmp_path / "particles.star")["particles"]
    assert table.strings("rlnMicrographName") == [name, "plain.mrc", name]
    assert table.strings("rlnImageName") == PARTICLES["rlnImageName"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_names_beyond_ascii_are_read_in_any_encoding(tmp_path, encoding):
    names = ["1@Jos\u00e9/a.mrcs", "2@Jos\u00e9/a.mrcs", "1@\u00c5/\u00e4.mrcs"]
    text = block("optics", OPTICS) + block("particles", PARTICLES | {"rlnImageName": names})
    path = tmp_path / "particles.star"
    path.write_bytes(text.encode(encoding))
    found = read_relion(path)
    assert [str(stack) for stack in found.stacks] == ["Jos\u00e9/a.mrcs", "\u00c5/\u00e4.mrcs"]


def test_a_row_that_is_cut_off_is_named_by_its_line(tmp_path):
    text = block("optics", OPTICS) + block("particles", PARTICLES)
    cut = text.rstrip()[:-4]
    refused(tmp_path, f"line {len(cut.splitlines())} has 12 values, 14 are needed", cut)


def test_old_line_ends_are_read(tmp_path):
    text = block("optics", OPTICS) + block("particles", PARTICLES)
    assert len(read(tmp_path, text.replace("\n", "\r"))) == 3


def test_tables_are_written_so_that_they_read_back_unchanged(tmp_path):
    tables = {
        "optics": {"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["two words"]},
        "particles": {"rlnA": ["0.5", "-1e-07"], "rlnImageName": ["1@a b/c.mrcs", "000002@d.mrcs"]},
    }
    write_star(tmp_path / "t.star", tables)
    found = read_star(tmp_path / "t.star")
    assert {
        name: {c: table.strings(c) for c in table.columns} for name, table in found.items()
    } == tables
    # RELION ends a table at an empty line, and starts the next at data_.
    assert "\n\ndata_particles\n" in (tmp_path / "t.star").read_text()


def outcome(path):
    """Return the tables of a file, or what is said of it."""
    try:
        tables = read_star(path)
    except InputError as error:
        return str(error)
    return {name: (table.name, dict(table.columns)) for name, table in tables.items()}


@pytest.mark.parametrize("piece", [40, 300])
def test_files_read_in_pieces_are_as_those_read_whole(tmp_path, monkeypatch, piece):
    """Long tables before and after what else a file can hold, and files with faults."""
    rows = {c: v * 10 for c, v in PARTICLES.items()}
    long = block("optics", OPTICS) + block("particles", rows)
    name = rows["rlnImageName"][20]
    texts = [
        long,
        block("particles", rows) + block("optics", OPTICS),
        long.replace("\n", "\r\n"),
        long.replace("a.mrcs", "Jos\u00e9/a.mrcs"),
        long.replace("a.mrcs", "~E9~/a.mrcs"),
        long.replace(name, f"'{name}'"),
        long.replace(name, "data_1.mrc"),
        long.replace("\n", "\n\n# a remark _rlnA\n"),
        long.replace(" ", "\n"),
        long.rstrip()[:-4],
        long + "1 2\n",
        long + block("particles", PARTICLES),
        long + block("Optics", OPTICS),
        long + "loop_\n_a\n1\n",
        long + "_a 1\n",
        long + "\n;\ndata_\n;\n",
        "data_general\n_a 1\n_b 2\n" + long,
        "_a 1\n" + long,
        *star_seeds(),
    ]
    raw = [text.encode() for text in texts]
    rng = np.random.default_rng(0)
    raw += [mutate(raw[i % 4], raw[0], rng) for i in range(200)]
    path = tmp_path / "t.star"
    for data in raw:
        path.write_bytes(data)
        whole = outcome(path)
        with monkeypatch.context() as patched:
            patched.setattr(star, "PIECE", piece)
            assert outcome(path) == whole


def test_long_plain_files_are_read_in_pieces(tmp_path, monkeypatch):
    """It saves two thirds of the memory, so it must not be lost unnoticed."""
    monkeypatch.setattr(star, "PIECE", len(MODERN) - 150)  # ends in a row
    monkeypatch.setattr(star, "_blocks", None)
    assert len(read(tmp_path, MODERN.replace("a.mrcs", "\u00e9.mrcs"))) == 3
