"""Mutated files are read or refused in one sentence; ``python -m tests.fuzz`` tries many more."""

import errno
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcryo import InputError, read_particles
from fastcryo.io import patience
from fastcryo.io.mrc import Stack, open_stack, write_stack

from . import fuzz


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    files = fuzz.seeds(folder)
    for kind, seeds in files.items():
        for data in seeds:
            (folder / f"seed.{kind}").write_bytes(data)
            assert fuzz.read_everything(folder / f"seed.{kind}", kind) == "read"
    return folder, files


@pytest.mark.parametrize("kind", ["star", "cs", "mrc"])
def test_mutated_files_are_read_or_refused_in_bounded_time_and_memory(known, kind):
    folder, files = known

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32 - 1))
    def attempt(seed):
        rng = np.random.default_rng(seed)
        data, other = (files[kind][int(i)] for i in rng.integers(0, len(files[kind]), 2))
        path = folder / f"mutated.{kind}"
        path.write_bytes(fuzz.mutate(data, other, rng))
        fuzz.check(path, kind)

    attempt()


@pytest.mark.parametrize("count", [2**31 - 1, 10_000_000])
def test_a_header_that_promises_much_more_than_the_file_holds_costs_no_memory(tmp_path, count):
    import tracemalloc

    write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8)), 1.0)
    raw = bytearray((tmp_path / "a.mrcs").read_bytes())
    raw[8:12] = np.int32(count).tobytes()
    (tmp_path / "a.mrcs").write_bytes(raw)
    table = io.BytesIO()
    np.save(table, np.zeros(2, [("uid", "<u8")]))
    promised = table.getvalue().replace(b"'shape': (2,)", b"'shape': (999999999999,)", 1)
    (tmp_path / "p.cs").write_bytes(promised.replace(b" " * 11 + b"\n", b"\n", 1))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.mrcs: "):
        open_stack(tmp_path / "a.mrcs")
    with pytest.raises(InputError, match=r"p\.cs: truncated, 999999999999 rows"):
        read_particles(tmp_path / "p.cs")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def failing_reads(monkeypatch, code, times):
    """Make the first reads of pixels fail."""
    read, failures = Stack._read_once, iter([True] * times)

    def flaky(self, start, out):
        if next(failures, False):
            raise OSError(code, "Input/output error")
        read(self, start, out)

    monkeypatch.setattr(Stack, "_read_once", flaky)
    monkeypatch.setattr(patience, "PAUSES", (0, 0, 0))


def test_a_read_error_that_passes_is_survived_and_logged(tmp_path, monkeypatch, caplog):
    images = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    write_stack(tmp_path / "a.mrcs", images, 1.0)
    failing_reads(monkeypatch, errno.EIO, 2)
    out = np.zeros((2, 8, 8), np.float32)
    open_stack(tmp_path / "a.mrcs").read(1, out)
    np.testing.assert_array_equal(out, images[1:])
    assert len(caplog.records) == 2
    assert "a.mrcs: Input/output error, reading again" in caplog.text


@pytest.mark.parametrize(("code", "times"), [(errno.EIO, 4), (errno.EACCES, 1)])
def test_a_read_error_that_stays_is_one_sentence(tmp_path, monkeypatch, code, times):
    write_stack(tmp_path / "a.mrcs", np.zeros((3, 8, 8)), 1.0)
    failing_reads(monkeypatch, code, times)
    with pytest.raises(InputError, match=r"a\.mrcs: cannot be read \(Input/output error\)"):
        open_stack(tmp_path / "a.mrcs").read(0, np.zeros((8, 8), np.float32))


def test_names_of_stacks_are_read_only(tmp_path):
    """Whatever a table names, nothing is written, and what is no stack is refused."""
    rows = "1@../../outside.mrcs 1@/dev/zero 1@/etc/passwd 1@" + "x" * 5000
    text = fuzz.star_seeds()[0].split("\n")
    header, row = text[:-6], text[-1]
    before = sorted(Path(tmp_path).rglob("*"))
    for name in rows.split():
        path = tmp_path / "p.star"
        path.write_text("\n".join([*header, row.replace("6@a.mrcs", name)]))
        with pytest.raises(InputError):
            read_particles(path)
        path.unlink()
    assert sorted(Path(tmp_path).rglob("*")) == before
