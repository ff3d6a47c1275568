"""docs/gateway.md, command by command."""

from pathlib import Path

import pytest

from support.page import run_page

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"


@pytest.mark.needs("bash")
def test_the_page_does_what_it_says(tmp_path: Path):
    run_page(PAGE.read_text(encoding="utf-8"), tmp_path)
