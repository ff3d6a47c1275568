"""What is known of each test: its boards, their logs, figures. It goes with pytest's reports."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from keyferry_hil.board import Board
from keyferry_hil.plugin.bench import Bench
from keyferry_hil.probe import Seen
from keyferry_hil.problems import BenchProblem

_SHOWN = 150  # lines of a log in a report
_KEPT = 400


@dataclass
class Record:
    """One test, in all its attempts."""

    boards: dict[str, dict[str, Any]] = field(default_factory=dict)
    measures: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)  # why earlier ones failed
    problem: str = ""
    _live: list[tuple[Board, int]] = field(default_factory=list)

    def uses(self, board: Board) -> None:
        self._live.append((board, board.log.position()))
        self.boards[board.name] = {"type": board.spec.type, "log": []}

    def seen(self, board: Board) -> None:
        """What it said of itself."""
        seen: Seen | None = board.seen
        if seen is not None:
            self.boards[board.name].update(
                firmware=seen.firmware,
                version=seen.version,
                chip=seen.chip,
                free=seen.free,
                used=seen.used,
            )

    def device(self, board: Board, serial: str) -> None:
        """What it became."""
        self.seen(board)
        self.boards[board.name].setdefault("serials", []).append(serial)

    def measure(self, name: str, value: float, unit: str, board: str) -> None:
        self.measures.append({"name": name, "value": value, "unit": unit, "board": board})

    def again(self, why: str) -> None:
        """Another attempt follows."""
        self.attempts.append(why[-4000:])

    def logs(self) -> dict[str, list[str]]:
        return {board.name: board.log.since(at)[-_KEPT:] for board, at in self._live}

    def as_dict(self) -> dict[str, Any]:
        """For the process that writes the report: plain values only."""
        for board, _ in self._live:
            self.seen(board)
        for name, lines in self.logs().items():
            self.boards[name]["log"] = lines
        return {
            "boards": self.boards,
            "measures": self.measures,
            "attempts": self.attempts,
            "problem": self.problem,
        }

    def properties(self) -> list[tuple[str, str]]:
        """The same in short, for JUnit's XML."""
        found = []
        for name, known in self.boards.items():
            found.append(("board", name))
            if known.get("firmware"):
                found.append((f"{name}.firmware", known["firmware"]))
            found += [(f"{name}.certificate", serial) for serial in known.get("serials", ())]
        for one in self.measures:
            label = ".".join(filter(None, (one["board"], one["name"])))
            found.append((label, f"{one['value']:g} {one['unit']}"))
        if self.attempts:
            found.append(("attempts", str(len(self.attempts) + 1)))
        return found


_RECORD = pytest.StashKey[Record]()


def record_of(item: pytest.Item) -> Record:
    """The record of a test; the same for each attempt."""
    if _RECORD not in item.stash:
        item.stash[_RECORD] = Record()
    return item.stash[_RECORD]


class Plugin:
    """Hangs records onto reports."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        record = record_of(item)
        if call.excinfo is not None and isinstance(call.excinfo.value, BenchProblem):
            record.problem = call.excinfo.value.name
        if call.when == "teardown":  # JUnit's XML takes them from this report
            item.user_properties += record.properties()
        report = yield
        if report.failed:
            for name, lines in record.logs().items():
                if lines:
                    report.sections.append((f"serial log of {name}", "\n".join(lines[-_SHOWN:])))
        report.bench = record.as_dict()
        return report
