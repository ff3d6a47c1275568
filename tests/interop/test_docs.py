"""The documentation against the sources: what is generated or named there is still true."""

import ast
import re
from pathlib import Path

from keyferry_agent import signal
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


def emitted() -> set[str]:
    """Every event that the agent's sources name."""
    found: set[str] = set()

    def names(node: ast.expr) -> list[str]:
        if isinstance(node, ast.IfExp):
            return names(node.body) + names(node.orelse)
        known = isinstance(node, ast.Constant) and isinstance(node.value, str)
        return [node.value] if known else []

    for path in (ROOT / "device" / "keyferry_agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                called = node.func
                name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
                if name in ("event", "_event", "_events"):
                    found.update(names(node.args[0]))
    return found - {"state"}  # the signal's own


def test_every_event_leads_to_the_state_that_the_page_says_or_to_none() -> None:
    page = (ROOT / "docs" / "boards.md").read_text()
    row = r"^\| `([a-z-]+)` \| (K\d\d) \| (\d) \| (.+) \|$"
    rows = re.findall(row, page, re.MULTILINE)
    assert {state: (code, int(flashes)) for state, code, flashes, _ in rows} == signal.STATES
    told = re.search(r"Events that lead to no state: (.+?)\.\n", page, re.DOTALL)
    assert told
    none = set(re.findall(r"`([a-z0-9-]+)`", told[1]))
    events = emitted()
    assert len(events) > 50
    leading = set()
    for state, _, _, why in rows:
        for event in re.findall(r"`([a-z0-9-]+)`", why):
            if event not in events:
                assert event in errors_and_reasons(), event
                continue
            leading.add(event)
        # what the row says first, without an error, is so
        for event in re.findall(r"`([a-z0-9-]+)`", re.split(" with |;", why)[0]):
            made = signal.Signal()
            made.state = "clock" if event == "time" else "unknown"
            made(event, retry_ms=1)
            error = re.search(rf"`{event}` with `([a-z-]+)`", why)
            if error:
                made.state = "unknown"
                made(event, error=error[1], reason=error[1])
            assert made.state == state, event
    assert leading | none == events, leading.symmetric_difference(events) ^ none
    assert leading & none == set()
    for event in none:
        made = signal.Signal()
        made.state = "unknown"
        made(event, error="x", detail="", retry_ms=1, reason="session-closed")
        assert made.state == "unknown", event


def errors_and_reasons() -> set[str]:
    return {row[0] for row in errors.rows()} | {"wrong-password"}
