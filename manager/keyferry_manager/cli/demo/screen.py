"""What the demo shows: lines for a person as things happen, or the same as JSON lines."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyferry_manager.cli.base import printable

_STYLES = {"manager": "magenta", "host": "dim"}
_DEVICE_STYLES = ("cyan", "green", "yellow")
_WHO_WIDTH = 9


class Screen:
    """Prints steps and checks, and remembers which checks held and how long each phase took."""

    def __init__(self, as_json: bool) -> None:
        self.checks: list[tuple[str, bool]] = []
        self.phases: list[tuple[str, float]] = []
        self._json = as_json
        self._console = Console(highlight=False, soft_wrap=True)
        self._start = time.monotonic()
        self._styles = dict(_STYLES)

    @property
    def held(self) -> bool:
        """Whether there was a check, and every one held."""
        return bool(self.checks) and all(ok for _, ok in self.checks)

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """A part of the demo, timed."""
        if not self._json:
            self._console.print()
            self._console.print(Text(title, style="bold"))
        begun = time.monotonic()
        yield
        took = time.monotonic() - begun
        self.phases.append((title, took))
        self._write_json("phase", title=title, seconds=round(took, 3))

    def say(self, who: str, text: str, **fields: object) -> None:
        """``who`` did something. ``fields`` go into the JSON line only."""
        self._write_json("step", who=who, text=text, **fields)
        if not self._json:
            style = self._styles.setdefault(
                who, _DEVICE_STYLES[(len(self._styles) - len(_STYLES)) % len(_DEVICE_STYLES)]
            )
            line = Text(f"{self.elapsed():6.2f}  ", style="dim")
            line.append(f"{who:{_WHO_WIDTH}}", style=style)
            self._console.print(line.append(" " + printable(text), style="not dim default"))

    def detail(self, name: str, text: str, *, good: bool = True, **fields: object) -> None:
        """One thing that the manager looked at, below the line that caused it."""
        self._write_json("detail", name=name, text=text, good=good, **fields)
        if not self._json:
            line = Text(" " * (8 + _WHO_WIDTH + 3))
            line.append("ok  " if good else "no  ", style="green" if good else "red")
            self._console.print(line.append(f"{name:13}").append(printable(text), style="dim"))

    def check(self, what: str, ok: bool, detail: str = "") -> None:
        """A claim of the demo, with whether it held."""
        self.checks.append((what, ok))
        self._write_json("check", what=what, held=ok, detail=detail)
        if not self._json:
            mark, style = ("✓ ", "bold green") if ok else ("✗ ", "bold red")
            line = Text(" " * 8).append(mark, style=style)
            line.append(what, style="default" if ok else "bold red")
            first, *more = detail.splitlines() or [""]
            if first:
                line.append("  " + printable(first), style="dim")
            self._console.print(line)
            for text in more:  # a device's console
                self._console.print(Text(" " * 8 + printable(text), style="dim"))

    def table(self, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """A small table; in JSON its rows are in the steps already."""
        if self._json:
            return
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self._console.print()
        self._console.print(table)

    def note(self, text: str) -> None:
        """A sentence to the person; JSON leaves it out."""
        if not self._json:
            self._console.print(Text(text))

    def end(self, **fields: object) -> None:
        """The verdict and the time of each phase."""
        failed = [what for what, ok in self.checks if not ok]
        self._write_json(
            "result",
            held=self.held,
            checks=len(self.checks),
            failed=failed,
            seconds=round(self.elapsed(), 3),
            **fields,
        )
        if self._json:
            return
        self.table(
            ("TIME", "PHASE"), [(f"{seconds:6.2f} s", title) for title, seconds in self.phases]
        )
        self._console.print()
        if self.held:
            verdict = f"All {len(self.checks)} checks held, in {self.elapsed():.1f} s."
            self._console.print(Text(verdict, style="bold green"))
        else:
            verdict = f"{len(failed)} of {len(self.checks)} checks failed:"
            self._console.print(Text(verdict, style="bold red"))
            for what in failed:
                self._console.print(Text("  ✗ " + what, style="red"))

    def _write_json(self, event: str, **fields: object) -> None:
        if self._json:
            line = {"event": event, "at": round(self.elapsed(), 3), **fields}
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()
