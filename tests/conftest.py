"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

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
