"""Fixtures for a manager that serves in this process; a module makes its own ``home``."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # a run of the core alone loads no manager
    from support.manager_kit import Home, Running


@pytest.fixture
def running(home: "Home") -> "Iterator[Running]":
    """A manager that serves the module's home."""
    with home.running() as running:
        yield running
