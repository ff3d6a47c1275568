# heap: 1m
"""Clocks that are wrong, servers that lie, and none at all: what a device takes for the time."""

import asyncio
import json
import os

from keyferry_agent import clock, config, timekeeper
from keyferry_agent.timekeeper import Floor
from keyferry_core import signed_time, suite
from keyferry_core.errors import LocalError
from support.agent_kit import Folder, fails
from support.portable import vectors

DATA = vectors("signed_time")
NOW = DATA["now"]
REALM = DATA["realm"]
YEARS = (0, 946684800, 1609459200, 4070908800)  # 1970, 2000, 2021, 2099
crypto = suite.Crypto(os.urandom)
KEPT = (clock.rtc, clock.uptime, clock.set_rtc)


class Board:
    """A device's folder and its clocks: one that was set to ``shown``, and one that only counts."""

    def __init__(self, shown, **settings):
        self.shown = shown
        self.up = 1000
        self.events = []
        self.answers = []
        self.asked = []
        self._folder = Folder()
        self._settings = dict({"name": "pump-7", "realm": REALM, "time_port": 8480}, **settings)

    def __enter__(self):
        folder = self._folder.__enter__()
        folder.write("config.json", json.dumps(self._settings).encode())
        folder.write("root.der", bytes.fromhex(DATA["root"]))
        self.config = config.load(folder.path)
        clock.rtc = lambda: self.shown
        clock.uptime = lambda: self.up
        clock.set_rtc = self._set
        clock._anchor = None
        timekeeper.BACKOFF = (0, 0)
        return self

    def __exit__(self, *what):
        clock.rtc, clock.uptime, clock.set_rtc = KEPT
        clock._anchor = None
        timekeeper.BACKOFF = (1, 60)
        self._folder.__exit__(*what)

    def _set(self, seconds):
        self.shown = seconds
        return True

    def event(self, event, **fields):
        self.events.append((event, fields))

    def names(self):
        return [event for event, _ in self.events]

    # as a connection to the time server

    async def _open(self):
        if not self.answers:
            raise OSError(111)
        return self, self

    def write(self, data):
        self.asked.append(bytes.fromhex(data.decode().split(" ")[1][6:]))
        answer = self.answers.pop(0)
        self.data = answer(self.asked[-1]) if callable(answer) else answer

    async def drain(self):
        pass

    async def read(self, count):
        data, self.data = self.data[:count], self.data[count:]
        return data

    def close(self):
        pass

    async def wait_closed(self):
        pass

    def ensure(self, doubt=False):
        async def main():
            await asyncio.wait_for(
                timekeeper.ensure(self.config, crypto, self.event, doubt, self._open), 60
            )

        asyncio.run(main())


def http(body, status=200):
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def saying(now, key="private", leaf="server", nonce=None):
    chain = [bytes.fromhex(DATA[leaf]), bytes.fromhex(DATA["issuing"])]
    private = bytes.fromhex(DATA[key])

    def answer(asked):
        return http(signed_time.answer(crypto, private, chain, REALM, nonce or asked, now))

    return answer


def test_a_board_that_boots_in_any_year_gets_the_time():
    for year in YEARS:
        with Board(year) as board:
            board.answers = [saying(NOW)]
            board.ensure()
            assert (board.shown, clock.now(), clock.signed()) == (NOW, NOW, True)
            name, fields = board.events[-1]
            assert (name, fields["was"], fields["now"], fields["signed"]) == (
                "time",
                year,
                NOW,
                True,
            )
            assert Floor(board.config.folder).seconds == NOW
            assert len(board.asked) == 1 and len(board.asked[0]) == 16


def test_a_clock_that_can_be_right_is_not_doubted():
    with Board(NOW) as board:
        board.ensure()
        assert (board.asked, board.events) == ([], [])
        assert clock.now() == NOW
        assert not clock.signed()


def test_without_a_time_server():
    # nothing is configured: a clock that was never set is told at once
    for year in YEARS[:3]:
        with Board(year, time_port=0) as board:

            async def main():
                ask = timekeeper.ensure(board.config, crypto, board.event)
                error = await fails(LocalError, ask)
                assert error.name == "clock-wrong"

            asyncio.run(main())
            assert board.names() == ["clock-not-set"]
    # one that is ahead goes on: TLS judges, and its error names the clock
    for settings in ({}, {"time_port": 0}):
        with Board(YEARS[3], **settings) as board:
            board.ensure()
            assert clock.now() == YEARS[3]
            assert "time-failed" in board.names() or settings


def test_what_does_not_answer_is_asked_again_until_it_does():
    for year in YEARS[:3]:
        with Board(year) as board:
            board.answers = [b"", http(b"", 503), http(b"\xff"), saying(NOW)]
            board.ensure()
            assert clock.now() == NOW
            assert board.names() == ["time-failed"] * 3 + ["time"]
            assert len(set(board.asked)) == 4, "each question has a nonce of its own"


def test_a_server_that_lies_is_not_believed():
    liars = [
        saying(NOW, "device private", "device"),
        saying(NOW, "private", "server of another name"),
        saying(NOW, "device private"),
        saying(YEARS[1]),
        saying(YEARS[2]),
        saying(YEARS[3]),
        saying(NOW, nonce=bytes(16)),
    ]
    for year in YEARS[:3]:
        with Board(year) as board:
            board.answers = liars + [saying(NOW + 5)]
            board.ensure()
            assert clock.now() == NOW + 5
            assert board.names() == ["time-failed"] * len(liars) + ["time"]
    with Board(YEARS[3]) as board:
        board.answers = liars[:1]
        board.ensure()
        assert clock.now() == YEARS[3]  # confirmed by nobody, and set back by nobody


def test_no_time_before_the_last_one_that_was_kept():
    with Board(YEARS[1]) as board:
        board.answers = [saying(NOW + 40 * 86400)]
        board.ensure()
        clock._anchor = None
        board.shown = YEARS[1]
        board.events.clear()
        # signed and fresh, and still of the past: a manager whose clock was set back, say
        board.answers = [saying(NOW), saying(NOW + 40 * 86400 + 60)]
        board.ensure()
        assert clock.now() == NOW + 40 * 86400 + 60
        name, fields = board.events[0]
        assert (name, fields["error"]) == ("time-failed", "clock-wrong")
        # and the clock of the board alone is not believed either
        clock._anchor = None
        board.shown = NOW
        board.answers = [saying(NOW + 40 * 86400 + 90)]
        board.ensure()
        assert clock.now() == NOW + 40 * 86400 + 90


def test_the_floor_is_written_once_a_day_at_most():
    with Board(YEARS[1]) as board:
        for more, generation in ((0, 1), (3600, 1), (86399, 1), (86400, 2), (90000, 2)):
            board.answers = [saying(NOW + more)]
            board.ensure(True)
            assert Floor(board.config.folder).generation == generation


def test_a_clock_that_jumps_while_the_device_runs():
    with Board(YEARS[1]) as board:
        board.answers = [saying(NOW)]
        board.ensure()
        right = NOW
        for jump in YEARS:
            board.up += 10
            right += 10
            board.shown = jump
            assert clock.now() == right
            # with nobody to ask it is set to what was counted since the last signed time
            board.ensure(True)
            assert (board.shown, clock.now()) == (right, right)
            board.shown = jump
            right += 3  # what the counter was behind
            board.answers = [saying(right)]
            board.ensure(True)
            assert board.shown == clock.now() == right


def test_a_flash_that_takes_no_floor_stops_nothing():
    with Board(YEARS[1]) as board:
        kept = Floor.commit

        def full(self, state):
            from keyferry_agent.slots import StoreError

            raise StoreError("store: the flash is full")

        Floor.commit = full
        try:
            board.answers = [saying(NOW)]
            board.ensure()
        finally:
            Floor.commit = kept
        assert clock.now() == NOW
        assert board.events[-1][1]["error"] == "storage-failed"
