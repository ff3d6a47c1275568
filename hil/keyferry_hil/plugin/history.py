"""What came of earlier runs: a line of JSON for each test and run, kept beside the report.

The flake rate of a test on a board is the share of its attempts that failed, in the last RUNS
runs, where some failed and some did not; a test that always fails is broken, not flaky.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS = 100
_MOST_LINES = 20_000


@dataclass(frozen=True)
class Flake:
    """``failed`` of ``attempts`` failed."""

    failed: int
    attempts: int

    @property
    def rate(self) -> float:
        return self.failed / self.attempts if 0 < self.failed < self.attempts else 0.0


class History:
    """The lines of a file; those that cannot be read are left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        try:
            with path.open(encoding="utf-8") as file:
                for text in file:
                    try:
                        line = json.loads(text)
                    except ValueError:
                        continue  # a torn line of a run that was killed
                    if isinstance(line, dict) and isinstance(line.get("test"), str):
                        self.lines.append(line)
        except FileNotFoundError:
            pass

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Keep the lines of this run."""
        self.lines += lines
        del self.lines[:-_MOST_LINES]
        temporary = self._path.with_suffix(".new")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            for line in self.lines:
                file.write(json.dumps(line) + "\n")
        os.replace(temporary, self._path)

    def flakes(self) -> dict[tuple[str, str], Flake]:
        """Per test and board. A test without boards has the board ""."""
        runs: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for line in self.lines:
            if line.get("outcome") not in ("passed", "failed"):
                continue
            attempts = int(line.get("attempts", 1))
            failed = attempts - (line["outcome"] == "passed")
            for board in line.get("boards") or [""]:
                runs[line["test"], board].append((failed, attempts))
        return {
            key: Flake(sum(f for f, _ in last[-RUNS:]), sum(n for _, n in last[-RUNS:]))
            for key, last in runs.items()
        }

    def series(self) -> dict[tuple[str, str, str], list[tuple[float, float]]]:
        """Figures over the runs: (name, unit, board) to [(Unix seconds, value)], oldest first."""
        found: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
        for line in self.lines:
            for one in line.get("measures", ()):
                key = one["name"], one["unit"], one["board"]
                found[key].append((line["at"], one["value"]))
        return {key: values[-RUNS:] for key, values in sorted(found.items())}
