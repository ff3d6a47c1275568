# heap: 512k
"""What differs between boards: by the port's own modules, and by the board's in their place."""

import asyncio
import sys

from keyferry_agent.board import Board
from keyferry_core import suite
from support import fake_board


class Module:
    """A module keyferry_board with these functions."""

    def __init__(self, **functions):
        for name in functions:
            setattr(self, name, functions[name])


class Agent:
    """What sleep() needs of one; ``failure`` is what its stop raises."""

    def __init__(self, failure=None):
        self.stopped = 0
        self._failure = failure

    async def stop(self):
        self.stopped += 1
        if self._failure is not None:
            raise self._failure


def on(port, work, **options):
    air = fake_board.install(port, **options)
    try:
        return work(air)
    finally:
        fake_board.remove()


def test_why_it_woke():
    for port, cause, name in (
        ("esp32", "DEEPSLEEP_RESET", "deep-sleep"),
        ("esp32", "WDT_RESET", "watchdog"),
        ("esp32", "PWRON_RESET", "power"),
        ("esp32", "HARD_RESET", "reset"),
        ("esp32", "SOFT_RESET", "soft-reset"),
        ("rp2", "WDT_RESET", "watchdog"),
        ("rp2", "PWRON_RESET", "power"),
    ):
        assert on(port, lambda air: Board().woke(), cause=cause) == name


def test_it_sleeps_with_its_radio_off_whatever_the_goodbye_was():
    for port in ("esp32", "rp2"):
        for failure in (None, OSError(5), ValueError("no")):

            def work(air, port=port, failure=failure):
                board, agent = Board(), Agent(failure)
                radio = board.radio()
                radio.active(True)
                asyncio.run(board.sleep(agent, 60000))
                assert (agent.stopped, air.slept) == (1, [60000])
                assert radio.active() is False
                assert radio.deinits == (1 if port == "rp2" else 0)

            on(port, work)


def test_the_boards_own_functions_come_first():
    did = []

    def work(air):
        sys.modules["keyferry_board"] = Module(
            crypto=lambda random: "element",
            set_time=lambda seconds: did.append(seconds),
            radio=lambda: "radio",
            led=lambda on: did.append(on),
            deep_sleep=lambda ms: did.append(ms),
            woke=lambda: "button",
        )
        board = Board()
        assert board.crypto(None) == "element"
        assert board.set_time(1800000000) is True
        assert (board.radio(), board.woke()) == ("radio", "button")
        board.led(True)
        board.deep_sleep(5)
        assert did == [1800000000, True, 5]
        assert (air.lamp, air.slept) == ([], [])
        # what it has not is the port's
        sys.modules["keyferry_board"] = Module(led=did.append)
        assert Board().radio() is air.radio
        assert Board().woke() == "power"

    on("rp2", work)


def test_a_board_with_nothing_does_nothing():
    board = Board()
    assert isinstance(board.crypto(None), suite.Crypto)
    assert board.radio() is None
    board.led(True)
    sys.modules["machine"] = Module()
    try:
        assert board.woke() == ""
        board.deep_sleep(5)
        board = Board()
        board.led(True)
    finally:
        del sys.modules["machine"]
