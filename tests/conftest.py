"""Fixtures shared by all tests."""

import shutil
from pathlib import Path

import pytest

from fastcryo.cli import main

from .command_line import BOX, COUNT

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Return a function from path parts to a file of the data made by others; skips if missing."""

    def find(*parts):
        path = SHARED_DATA.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"data made by others not found: {'/'.join(parts)}")
        return path

    return find


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a folder with a small simulated data set."""
    folder = tmp_path_factory.mktemp("simulated")
    command = f"simulate {folder}/set --box {BOX} --count {COUNT} --snr 1 --angpix 4 --seed 5"
    assert main(command.split()) == 0
    return folder / "set"


@pytest.fixture
def copy(data, tmp_path):
    """Return a copy of the data set that a test may damage."""
    return shutil.copytree(data, tmp_path / "set")
