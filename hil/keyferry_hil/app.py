"""The application on a board, by its console: commands in, events out, one JSON line each."""

import json
import time
from collections.abc import Callable
from typing import Any

from keyferry_hil import diagnosis
from keyferry_hil.drivers.repl import Repl
from keyferry_hil.problems import BenchProblem
from keyferry_hil.protocols import Console

Event = dict[str, Any]
PATIENCE = 90.0  # seconds for anything a board does; a busy computer is slow
_LONGEST = 1 << 16


class App:
    """A conversation with the application that runs now."""

    def __init__(self, who: str, console: Console) -> None:
        self._who = who
        self._console = console
        self._partial = b""
        self.events: list[Event] = []
        self.other: list[str] = []  # lines that are no events
        self.ended = ""

    def start(
        self,
        repl: Repl,
        code: str,
        seconds: float = PATIENCE,
        through: Callable[[Console], Console] = lambda console: console,
    ) -> Event:
        """Start it; its event "started". ``through`` puts something between it and its line."""
        self._partial = b""
        self.ended = ""
        at = len(self.events)
        repl.start(code)
        self._console = through(self._console)
        return self.wait_for("started", seconds=seconds, after=at)

    def send(self, do: str, **fields: Any) -> int:
        """A command. What comes of it is after the returned position of the events."""
        position = len(self.events)
        self._console.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        return position

    def wait_for(
        self, *names: str, seconds: float = PATIENCE, after: int = 0, **fields: Any
    ) -> Event:
        """The first event after ``after`` with one of these names and all of these fields.

        BenchProblem: "app-silent" when it does not come in time, "app-ended" when the program
        ends or the board starts anew before.
        """
        end = time.monotonic() + seconds
        position = after
        while True:
            while position < len(self.events):
                event = self.events[position]
                position += 1
                if event["event"] in names and fields.items() <= event.items():
                    return event
            what = "/".join(names) + "".join(f" {k}={v!r}" for k, v in fields.items())
            if self.ended:
                raise BenchProblem("app-ended", self._who, f"before {what}: {self.ended}")
            left = end - time.monotonic()
            if left <= 0:
                last = self.events[-1]["event"] if self.events else "none"
                raise BenchProblem(
                    "app-silent", self._who, f"no {what} within {seconds:g} s; the last was {last}"
                )
            self._take(self._console.read_some(min(left, 1.0)))

    def pump(self, seconds: float = 0.0) -> None:
        """Take what has come, for ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            data = self._console.read_some(max(0.0, min(0.2, end - time.monotonic())))
            self._take(data)
            if not data and time.monotonic() >= end:
                return

    def _take(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LONGEST:
            self._partial = b""
        for line in lines:
            self._line(line)
        # The raw REPL's mark: what ran has ended.
        if b"\x04" in self._partial or any(b"\x04" in line for line in lines):
            said = [line for line in self.other if line.strip("\x04>\r ")]
            self.ended = "the program ended" + (f" ({said[-1]})" if said else "")
        elif diagnosis.starts(data):
            self.ended = "the board started anew"

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        at = text.find('{"')  # noise may come before it
        if at >= 0:
            try:
                event = json.loads(text[at:])
            except ValueError:
                event = None
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                event["at"] = time.time()
                self.events.append(event)
                return
        if text:
            self.other.append(text)
            del self.other[:-200]

    def all(self, name: str, after: int = 0) -> list[Event]:
        """The events of one name so far."""
        return [event for event in self.events[after:] if event["event"] == name]
