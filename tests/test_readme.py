"""The README's Python example runs as it stands."""

import re
from pathlib import Path

import pytest

from fastcryo.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture
def particles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "set", "--box", "64", "--count", "60", "--snr", "1"]) == 0
    monkeypatch.chdir(tmp_path / "set")


def test_the_example_runs(particles, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert names["density"].shape == (64, 64, 64)
    assert (names["curve"][1:4] > 0.9).all()
    assert float(capsys.readouterr().out.split()[-1]) > 0
