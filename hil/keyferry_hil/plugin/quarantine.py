"""Tests that are known to fail on some board: they run, and cannot fail the run.

The list is held to the truth: an entry whose test passes, has gone, or whose time is over, fails
the run. A TOML file:

    [[quarantine]]
    test = "test_link.py::test_enrols"
    board = "pico-1"            # or leave it out: on every board
    reason = "loses its Wi-Fi after a reset, issue 12"
    until = 2027-01-31
"""

import datetime
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyferry_hil.plugin.records import record_of
from keyferry_hil.problems import BenchProblem


@dataclass(frozen=True)
class Entry:
    """``test``: the end of a test's id. ``board``: "" for every one."""

    test: str
    reason: str
    board: str = ""
    until: datetime.date | None = None

    def fits(self, nodeid: str) -> bool:
        return nodeid == self.test or nodeid.endswith("/" + self.test)


def load(name: str | None) -> list[Entry]:
    """The entries of a file. BenchProblem("quarantine-wrong")."""
    if name is None:
        return []
    try:
        values = tomllib.loads(Path(name).read_text())
        entries = [Entry(**entry) for entry in values.pop("quarantine", [])]
    except (OSError, ValueError, TypeError) as error:
        raise BenchProblem("quarantine-wrong", name, str(error)) from None
    if values:
        raise BenchProblem("quarantine-wrong", name, f"{next(iter(values))}: unknown")
    today = datetime.date.today()
    for entry in entries:
        texts = (entry.test, entry.reason, entry.board)
        if not all(isinstance(text, str) for text in texts) or not entry.test or not entry.reason:
            raise BenchProblem("quarantine-wrong", name, "an entry needs test and reason, as texts")
        if entry.until is not None and not isinstance(entry.until, datetime.date):
            raise BenchProblem("quarantine-wrong", name, f"{entry.test}: until: expected a date")
        if entry.until is not None and entry.until < today:
            raise BenchProblem(
                "quarantine-wrong", name, f"{entry.test}: its time was over on {entry.until}"
            )
    return entries


class Plugin:
    """Runs in every process; whether the tests exist is for the one that prints the summary."""

    def __init__(self, config: pytest.Config, entries: list[Entry]) -> None:
        self._entries = entries
        self._config = config
        self._collected: set[str] = set()
        self.wrong: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._collected |= {item.nodeid for item in items}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node, ids: list[str]) -> None:
        self._collected |= set(ids)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        report = yield
        entry = self._entry(item)
        if entry is None or report.when == "teardown":
            return report
        if report.failed:
            report.outcome = "skipped"
            report.wasxfail = f"quarantined: {entry.reason}"
        elif report.when == "call" and report.passed:
            report.outcome = "failed"
            report.longrepr = (
                f"quarantine-wrong: {entry.test} passes: remove its entry ({entry.reason})"
            )
        return report

    def _entry(self, item: pytest.Item) -> Entry | None:
        boards = record_of(item).boards
        for entry in self._entries:
            meant = entry.fits(item.nodeid.partition("[")[0]) or entry.fits(item.nodeid)
            if meant and (not entry.board or entry.board in boards):
                return entry
        return None

    def _whole(self) -> bool:
        """Whether nothing was left out by a selection, so that what is absent does not exist."""
        option = self._config.option
        return not (
            option.keyword
            or option.markexpr
            or getattr(option, "lf", False)
            or any("::" in argument for argument in self._config.args)
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self._config, "workerinput") or not self._whole() or not self._collected:
            return
        for entry in self._entries:
            known = {name.partition("[")[0] for name in self._collected} | self._collected
            if not any(entry.fits(name) for name in known):
                self.wrong.append(f"quarantine-wrong: there is no test {entry.test}")
        if self.wrong and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.wrong:
            terminalreporter.line(line, red=True)
