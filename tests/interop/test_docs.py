"""The documentation against the sources: what is generated or named there is still true."""

import re
from pathlib import Path

from keyferry_core import errors

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_the_page_of_errors_is_the_table() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(.+?)` \| (\d+) \| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert [
        (name, int(code), int(sip), int(http), text) for code, name, http, sip, text in rows
    ] == errors.rows()


def test_every_link_to_a_file_leads_somewhere() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [path.name for path in (ROOT / "docs").iterdir() if path.name != "README.md"]
    assert [name for name in pages if f"({name})" not in index] == []
