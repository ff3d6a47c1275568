"""Fixtures of many modules here. A module that wants another home makes its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.manager_kit import Home
from support.postgres import postgres
from support.stores import emptied


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home where ``pump-7`` may ask for ``valve-2``."""
    home = Home(tmp_path / "home")
    home.allow("pump-7", "valve-2")
    return home


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL."""
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/keyferry.db"
    return emptied(request.getfixturevalue("server"))
