"""What is plugged in, what answers, and what is wrong: for ``keyferry bench list`` and ``doctor``.

Each board is looked at in a thread of its own, so that a dead one holds nobody up. A look takes
at most LIMIT seconds.
"""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from keyferry_hil import discovery, leases, probe
from keyferry_hil.drivers.line import SerialLine
from keyferry_hil.drivers.repl import ENTER_SECONDS, Repl
from keyferry_hil.drivers.serial_log import SerialLog
from keyferry_hil.drivers.virtual import VirtualBoardProcess, VirtualControl
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import BoardSpec, Rig

# Seconds for one board: its prompt, then either other speeds or its answer.
LIMIT = 60.0
_BAUDS = (115200, 9600, 57600, 230400, 460800, 921600, 38400, 1_000_000)
_ONE_BAUD = 1.5
_MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Finding:
    """One board: what it is, or what is wrong. ``seconds``: how long the look took."""

    board: str
    type: str
    port: str
    seen: probe.Seen | None
    problem: BenchProblem | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        problem = self.problem
        return {
            "board": self.board,
            "type": self.type,
            "port": self.port,
            "answers": None if self.seen is None else asdict(self.seen),
            "problem": None
            if problem is None
            else {"name": problem.name, "detail": problem.detail, "remedy": problem.remedy},
            "seconds": round(self.seconds, 2),
        }


def examine(rig: Rig, *, patience: float = ENTER_SECONDS) -> list[Finding]:
    """Look at all boards of a rig. Virtual ones that do not run are started for the look; a board
    that somebody has leased is left alone. ``patience``: seconds until a board's prompt."""
    known = discovery.plugged()
    with ThreadPoolExecutor(min(len(rig.boards), _MOST_AT_ONCE)) as pool:
        found = list(pool.map(lambda spec: _examine(spec, known, patience), rig.boards))
    chips = Counter(item.seen.chip for item in found if item.seen is not None and item.seen.chip)
    return [_one_of_two(item, chips) for item in found]


def _one_of_two(item: Finding, chips: Counter[str]) -> Finding:
    if item.seen is None or item.problem is not None or chips[item.seen.chip] < 2:
        return item
    detail = f"{chips[item.seen.chip]} boards say that they are {item.seen.chip}"
    return replace(item, problem=BenchProblem("same-serial", item.board, detail))


def _examine(spec: BoardSpec, known: Sequence[discovery.Plugged], patience: float) -> Finding:
    began = time.monotonic()
    port, seen, problem = "", None, None
    mine = leases.Leases()
    try:
        with ExitStack() as stack:
            stack.callback(mine.release)
            if spec.virtual is not None:
                mine.take([leases.key(spec.port.path)])
                _start_virtual(spec, stack)
            port = discovery.locate(spec.name, spec.port, list(known))
            mine.take([leases.key(port)])
            seen = _look(spec, port, patience)
            probe.check_firmware(spec, seen)
    except BenchProblem as error:
        problem = error
    took = time.monotonic() - began
    return Finding(spec.name, spec.type, port or str(spec.port), seen, problem, took)


def _start_virtual(spec: BoardSpec, stack: ExitStack) -> None:
    if not VirtualControl(spec.name, Path(spec.port.path).parent).runs():
        stack.callback(VirtualBoardProcess(spec).stop)


def _look(spec: BoardSpec, port: str, patience: float) -> probe.Seen:
    line = SerialLine(spec.name, port, spec.port.baud, SerialLog())
    try:
        repl = Repl(line)
        repl.enter(soft_reset=False, seconds=patience)
        seen = probe.look(spec.name, repl)
        repl.leave()
        return seen
    except BenchProblem as problem:
        line.close()
        if problem.name == "garbage":
            speed = _speed(spec, port, min(patience, _ONE_BAUD))
            if speed:
                raise BenchProblem(
                    "garbage", spec.name, f"at {spec.port.baud} baud; it speaks at {speed}"
                ) from None
        raise
    finally:
        line.close()


def _speed(spec: BoardSpec, port: str, seconds: float) -> int:
    """The speed at which a prompt comes, 0 for none."""
    for baud in _BAUDS:
        if baud == spec.port.baud:
            continue
        try:
            line = SerialLine(spec.name, port, baud, SerialLog())
        except BenchProblem:
            continue  # the port does not do this speed
        try:
            Repl(line).enter(soft_reset=False, seconds=seconds)
            return baud
        except BenchProblem:
            continue
        finally:
            line.close()
    return 0


def unlisted(rig: Rig) -> list[discovery.Plugged]:
    """USB serial ports that are plugged in and that no board of the rig has."""
    known = discovery.plugged()
    taken = set()
    for spec in rig.boards:
        try:
            taken.add(discovery.locate(spec.name, spec.port, known))
        except BenchProblem:
            continue  # it is in the findings
    return [item for item in known if item.path not in taken]


def places(rig: Rig) -> tuple[str, ...]:
    """Where each board is, or why it is nowhere, and what else is plugged in: it changes when a
    board comes or goes. No board is asked. Virtual ones, which come and go with who uses them,
    count as there.
    """
    known = discovery.plugged()
    found = [f"{item.path} {item.serial_number}" for item in known]
    for spec in rig.boards:
        if spec.virtual is not None:
            continue
        try:
            found.append(f"{spec.name} {discovery.locate(spec.name, spec.port, known)}")
        except BenchProblem as problem:
            found.append(f"{spec.name} {problem.name}")
    return tuple(found)
