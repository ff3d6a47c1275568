"""docs/api.md, command by command, and its tables against the sources."""

import re
from pathlib import Path

import pytest

from keyferry_hil.free_port import free_port
from keyferry_manager.admin.scopes import SCOPES
from keyferry_manager.api.problem import CODES
from support.page import run_page

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.mark.needs("bash", "curl")
def test_the_page_does_what_it_says(tmp_path: Path):
    run_page(PAGE.read_text(encoding="utf-8").replace("8442", str(free_port())), tmp_path)


def test_the_page_names_every_scope_and_every_error():
    page = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`([a-z]+:[a-z]+)`", page)
    assert set(named) - {"tokens:write"} == set(SCOPES) - {"tokens:write"}
    assert "`tokens:write`" in page
    rows = re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", page, re.MULTILINE)
    expected = [(str(status), code) for status, (code, _) in CODES.items()]
    assert rows == expected
