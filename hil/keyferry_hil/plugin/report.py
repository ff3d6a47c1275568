"""One HTML file of a run, with everything in it: for a browser, without a network."""

import os
import platform
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pytest

from keyferry_hil.plugin import chart
from keyferry_hil.plugin.bench import Bench
from keyferry_hil.plugin.history import History

_TEMPLATE = Path(__file__).parent / "report.html"
_LONGEST = 20_000  # characters of a failure


class Plugin:
    """Gathers what all processes report, and writes it when the run ends."""

    def __init__(self, config: pytest.Config, bench: Bench) -> None:
        self._config = config
        self._bench = bench
        self._began = time.time()
        self._tests: dict[str, dict[str, Any]] = {}
        self._written = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self._tests.setdefault(
            report.nodeid,
            {
                "id": report.nodeid,
                "outcome": "passed",
                "seconds": {},
                "text": "",
                "boards": {},
                "measures": [],
                "attempts": [],
                "problem": "",
            },
        )
        test["seconds"][report.when] = report.duration
        known = getattr(report, "bench", None)
        if known:
            test.update({key: known[key] for key in ("boards", "measures", "attempts", "problem")})
        quarantined = getattr(report, "wasxfail", None)
        if report.failed:
            test["outcome"] = "failed" if report.when == "call" else "error"
        elif report.skipped and test["outcome"] == "passed":
            test["outcome"] = "quarantined" if quarantined else "skipped"
        if report.failed or report.skipped:
            text = quarantined or ""
            if not quarantined and isinstance(report.longrepr, tuple):
                text = report.longrepr[2]
            text = text or report.longreprtext
            test["text"] = (test["text"] + "\n" + text).strip()[-_LONGEST:]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self._tests:
            return
        history = History(self._bench.place / "history.jsonl")
        history.add(self._line(test) for test in self._tests.values())
        self._bench.place.mkdir(parents=True, exist_ok=True)
        path = self._bench.place / "report.html"
        temporary = path.with_suffix(".new")
        temporary.write_text(self._page(history), encoding="utf-8")
        os.replace(temporary, path)
        self._written = os.path.relpath(path)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._written:
            terminalreporter.line(f"report: {self._written}")

    def _line(self, test: dict[str, Any]) -> dict[str, Any]:
        outcome = "failed" if test["outcome"] == "error" else test["outcome"]
        return {
            "at": round(self._began, 3),
            "test": _short(test["id"]),
            "boards": sorted(test["boards"]),
            "outcome": outcome,
            "attempts": len(test["attempts"]) + 1,
            "seconds": round(sum(test["seconds"].values()), 3),
            "firmware": sorted({one.get("firmware", "") for one in test["boards"].values()}),
            "measures": test["measures"],
        }

    def _page(self, history: History) -> str:
        flakes = history.flakes()
        tests = sorted(self._tests.values(), key=lambda test: (_rank(test), test["id"]))
        for test in tests:
            test["name"] = _short(test["id"])
            test["took"] = sum(test["seconds"].values())
            test["flakes"] = {
                board: flakes[key]
                for board in test["boards"] or [""]
                if (key := (test["name"], board)) in flakes and flakes[key].rate
            }
        counts: dict[str, int] = defaultdict(int)
        for test in tests:
            counts[test["outcome"]] += 1
        grouped: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(dict)
        for (name, unit, board), values in history.series().items():
            grouped[name, unit][board] = values
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
            rig=self._bench.rig.name,
            began=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._began)),
            wall=time.time() - self._began,
            counts=dict(counts),
            tests=tests,
            boards=self._boards(tests),
            charts=[chart.chart(name, unit, boards) for (name, unit), boards in grouped.items()],
            width=chart.WIDTH,
            height=chart.HEIGHT,
            computer=f"{platform.platform(terse=True)}, Python {platform.python_version()}",
            keyferry=version("keyferry"),
        )

    def _boards(self, tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One row for each board of the rig, used or not."""
        rows = []
        for spec in self._bench.rig.boards:
            row: dict[str, Any] = {
                "name": spec.name,
                "type": spec.type,
                "port": str(spec.port),
                "features": ", ".join(sorted(spec.features)),
                "tests": 0,
                "failed": 0,
                "firmware": "",
                "version": "",
                "chip": "",
                "free": 0,
                "serials": [],
                "seconds": 0.0,
            }
            for test in tests:
                known = test["boards"].get(spec.name)
                if known is None:
                    continue
                row["tests"] += 1
                row["failed"] += test["outcome"] in ("failed", "error")
                row["seconds"] += test["took"]
                row["serials"] += known.get("serials", [])
                for key in ("firmware", "version", "chip", "free"):
                    row[key] = known.get(key) or row[key]
            rows.append(row)
        return rows


def _short(nodeid: str) -> str:
    """A test's name that is the same wherever the suites are."""
    path, separator, name = nodeid.partition("::")
    return path.rpartition("/")[2] + separator + name


def _rank(test: dict[str, Any]) -> int:
    order = ("failed", "error", "quarantined", "passed", "skipped")
    return order.index(test["outcome"])
