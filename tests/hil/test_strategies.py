"""Strategies, the application's console and flashing, above fakes of what a board can do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyferry_hil import application, probe
from keyferry_hil.app import App
from keyferry_hil.board import Board
from keyferry_hil.drivers.serial_log import SerialLog
from keyferry_hil.fakes import FakeConsole, FakeFiles, FakePower
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import BoardSpec, SerialPort
from keyferry_hil.strategies import Strategy

SEEN = probe.Seen("1.29.0", "a machine", "esp32", "c0ffee", "", 0, 100_000, 20_000)


class Still(Board):
    """A board whose every part is a fake. ``broken``: how often its prompt does not come."""

    def __init__(self, place: Path, broken: int = 0) -> None:
        super().__init__(BoardSpec("b", "esp32", SerialPort(path="/dev/none")), SerialLog(), place)
        self.power = self.reset = self.switch = FakePower()
        self.files = FakeFiles()
        self.broken = broken

    @property
    def repl(self) -> Any:
        return self.files

    def reopen(self) -> None:
        pass

    def to_prompt(self, *, soft_reset: bool = True) -> probe.Seen:
        self.forget_app()
        if self.broken:
            self.broken -= 1
            raise BenchProblem("no-answer", self.name, "nothing came")
        files = {path.removeprefix("/lib/"): data for path, data in self.files.items()}
        self.seen = replace(SEEN, firmware=probe.hash_of(files) if files else "")
        return self.seen


def test_a_board_that_hangs_gets_its_power_cut_once(tmp_path: Path) -> None:
    board = Still(tmp_path, broken=1)
    strategy = Strategy(board)
    strategy.to("booted")
    assert board.switch.done == ["off", "on"]
    assert strategy.state == "booted"
    strategy.to("off")
    assert board.switch.done == ["off", "on", "off"]
    board = Still(tmp_path, broken=2)
    with pytest.raises(BenchProblem, match="no-answer"):
        Strategy(board).to("booted")
    assert board.switch.done == ["off", "on"]
    board.hard_reset()
    assert board.switch.done[-1] == "reset"


def test_a_board_without_a_switch_says_what_is_missing(tmp_path: Path) -> None:
    board = Still(tmp_path, broken=1)
    board.power = None
    with pytest.raises(BenchProblem, match="no-answer"):
        Strategy(board).to("booted")
    with pytest.raises(BenchProblem, match="no-control"):
        Strategy(board).to("off")


@pytest.mark.timeout(300)
def test_an_application_is_written_once_and_checked(tmp_path: Path) -> None:
    board = Still(tmp_path)
    board.to_prompt()
    board.flash()
    wanted = application.compiled(tmp_path)
    assert board.files == {f"/lib/{name}": data for name, data in wanted.items()}
    written = board.files.read_file("/lib/hil_app.mpy")
    board.files.write_file("/lib/hil_app.mpy", b"mine")
    board.flash()  # it knows what the board said, and writes nothing
    assert board.files.read_file("/lib/hil_app.mpy") == b"mine"
    board.to_prompt()
    board.flash()
    assert board.files.read_file("/lib/hil_app.mpy") == written
    board.files.write_file("/lib/left_over.mpy", b"of another build")
    board.to_prompt()
    with pytest.raises(BenchProblem, match="wrong-firmware"):
        board.flash()
    board.files.remove("/lib/left_over.mpy")
    with pytest.raises(FileNotFoundError):
        board.files.read_file("/lib/left_over.mpy")


def test_events_are_found_in_what_a_line_makes_of_them() -> None:
    console = FakeConsole(
        [b'{"event": "a"', b', "n": 1}\r\nno', b'ise {"event": "a", "n": 2}\n{"event": 3}\n{"b\n'],
        lambda data: b'{"event": "pong"}\n' if b"ping" in data else b"",
    )
    app = App("b", console)
    assert app.wait_for("a", n=2)["n"] == 2
    assert [event["n"] for event in app.all("a")] == [1, 2]
    at = app.send("ping")
    assert bytes(console.written) == b'{"do": "ping"}\n'
    app.wait_for("pong", after=at)
    with pytest.raises(BenchProblem, match="app-silent"):
        app.wait_for("b", seconds=0.1)


def test_an_end_and_a_lost_port_have_names() -> None:
    app = App("b", FakeConsole([b"\x04Traceback\r\nValueError: no\r\n\x04>"]))
    with pytest.raises(BenchProblem, match=r"app-ended.*ValueError: no"):
        app.wait_for("a", seconds=5)
    with pytest.raises(BenchProblem, match="port-lost"):
        App("b", FakeConsole([b"x"], lost=True)).wait_for("a", seconds=5)
