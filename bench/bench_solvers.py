"""The tables of the solvers at toy sizes: do they run, and do they say what they should."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def load(monkeypatch):
    """Return a function that imports a script of this folder."""
    monkeypatch.syspath_prepend(HERE)

    def by_name(name):
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return by_name


def bench_solvers_tables(load, tmp_path, capsys):
    load("solvers").main(["all", "--quick", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "solvers.json").read_text())
    damped = record["solvers"][1]["rows"]
    assert damped["SVRG (default), n/10"]["excess"] < 0.1 * min(
        damped[f"{name}, n/10"]["excess"] for name in ("plain SGD", "estimated (Algorithm 1)")
    )
    assert all(row["excess"] < 1e-6 for name, row in damped.items() if "CG" in name)
    assert record["diagonal"]["difference"] < 1e-5
    even = [k["kappa"] for k in record["kappa"] if k["views"] == "even" and k["scaling"]]
    assert all(20 < kappa < 30 for kappa in even)
    assert (tmp_path / "solvers.md").read_text().strip() in capsys.readouterr().out
