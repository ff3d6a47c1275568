"""The bench of one test process: the rig, the boards it has leased, the manager it runs."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyferry_hil import discovery, leases
from keyferry_hil.board import Board
from keyferry_hil.drivers.serial_log import SerialLog
from keyferry_hil.drivers.virtual import VirtualBoardProcess, VirtualControl
from keyferry_hil.manager import Manager
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import BoardSpec, Rig

# Times that a board may fail before others are preferred.
_SICK = 2


class Bench:
    """``place``: the folder of the report; serial logs are in ``logs`` below it."""

    def __init__(self, rig: Rig, place: Path, lease_wait: float) -> None:
        self.rig = rig
        self.place = place
        self.lease_wait = lease_wait
        self.leases = leases.Leases()
        self._cache = rig.state.parent  # one compiled application serves all rigs
        self._virtual: list[VirtualBoardProcess] = []
        self._failures: dict[str, int] = {}
        self._manager: Manager | None = None
        self._devices = 0

    def plug_in(self) -> None:
        """Start the virtual boards that do not run yet, all at once."""
        shutil.rmtree(self.place / "logs", ignore_errors=True)  # those of the run before
        specs = [spec for spec in self.rig.boards if spec.virtual is not None]
        wanted = [
            spec
            for spec in specs
            if not VirtualControl(spec.name, Path(spec.port.path).parent).runs()
        ]
        if wanted:
            with ThreadPoolExecutor(len(wanted)) as pool:
                self._virtual += pool.map(VirtualBoardProcess, wanted)

    def close(self) -> None:
        """Give everything back."""
        if self._manager is not None:
            self._manager.remove()
            self._manager = None
        self.leases.release()
        for board in self._virtual:
            board.stop()
        self._virtual.clear()

    def manager(self) -> Manager:
        """The manager of this process, which runs when this returns."""
        if self._manager is None:
            self._manager = Manager(self.rig.network, self.place / "logs")
        if not self._manager.runs():
            self._manager.start()
        return self._manager

    def device_name(self, board: Board) -> str:
        """A name that no device had before on this process's manager."""
        self._devices += 1
        return f"{board.name}-{self._devices}"

    def wifi(self, board: Board) -> dict[str, bytes]:
        """The file with the network that a board with a radio joins."""
        network = self.rig.network
        if not network.ssid or "wifi" not in board.features:
            return {}
        try:
            password = Path(network.password_file).expanduser().read_text().strip()
        except OSError as error:
            raise BenchProblem("rig-wrong", self.rig.name, f"password_file: {error}") from None
        known = {"ssid": network.ssid, "password": password}
        return {"wifi.json": json.dumps(known).encode()}

    @contextmanager
    def leased(self, count: int, features: frozenset[str], test: str) -> Iterator[list[Board]]:
        """``count`` boards that have these features, for as long as the context lasts.

        BenchProblem("no-board") when the rig has not so many, ("lease-held") when they did not
        become free in time.
        """
        logs = self.place / "logs" / _file_name(test)
        fitting = [
            board
            for board in (Board(spec, SerialLog(), self._cache) for spec in self.rig.boards)
            if features <= board.features
        ]
        if len(fitting) < count:
            wanted = f"{count} with {', '.join(sorted(features))}" if features else f"{count}"
            raise BenchProblem("no-board", self.rig.name, f"it has {len(fitting)}, not {wanted}")
        keys: dict[str, BoardSpec] = {}
        for board in sorted(fitting, key=self._preference):
            keys[self._key(board.spec)] = board.spec
        taken = self.leases.take_some(list(keys), count, self.lease_wait)
        boards = []
        try:
            for key in taken:
                log = SerialLog(logs.with_name(f"{logs.name}.{keys[key].name}.log"))
                board = Board(keys[key], log, self._cache)
                boards.append(board)
            yield boards
            for key in taken:
                self.leases.check(key)
        finally:
            for board in boards:
                _let_go(board)
                board.log.close()
            self.leases.release(taken)

    def _preference(self, board: Board) -> tuple[bool, int, float]:
        """Boards that work come first, and the plainest of those, so that tests which need more
        find the others free."""
        sick = self._failures.get(board.name, 0) >= _SICK
        return sick, len(board.features), hash((board.name, time.monotonic_ns()))

    def failed(self, board: str) -> None:
        """A board that did not come up."""
        self._failures[board] = self._failures.get(board, 0) + 1

    def works(self, board: str) -> None:
        self._failures.pop(board, None)

    @staticmethod
    def _key(spec: BoardSpec) -> str:
        try:
            return leases.key(discovery.locate(spec.name, spec.port))
        except BenchProblem:
            return str(spec.port)  # absent: who gets it hears so


def _let_go(board: Board) -> None:
    """Leave it at its prompt, if it can still be reached."""
    steps: list[Callable[[], object]] = [board.close]
    if board.app is not None and not board.app.ended:
        steps.insert(0, lambda: board.line.write(b"\r\x03\x03"))
    for step in steps:
        try:
            step()
        except BenchProblem:
            pass  # the next who has it hears of it


def _file_name(test: str) -> str:
    return re.sub(r"[^\w.-]+", "-", test.rpartition("/")[2])[:120]


BENCH = pytest.StashKey[Bench]()
