# heap: 1m
"""NTP: servers that are right, that lie, and that want to be left alone; and who wins over whom."""

import asyncio
import json
import os
import socket

from agent.test_timekeeper import NOW, YEARS, Board, saying
from keyferry_agent import clock, config, ntp, timekeeper
from keyferry_agent.timekeeper import Floor
from keyferry_core.errors import KeyferryError, LocalError
from support.agent_kit import fails
from support.portable import raises

FROM_1900 = 2208988800
NONCE = bytes(range(8))


def reply(nonce, seconds, first=0x24, stratum=2, code=b"GPS\x00", distance=bytes(8), half=0):
    """An answer as RFC 5905, figure 8 has it. ``seconds``: Unix."""
    said = (seconds + FROM_1900) % (1 << 32)
    return (
        bytes((first, stratum, 6, 0xE9))
        + (distance + code + bytes(8) + nonce + bytes(8))
        + (said.to_bytes(4, "big") + bytes((half, 0, 0, 0)))
    )


class Server:
    """A UDP server on loopback; ``answers`` are bytes, or what makes bytes of a question."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.plain.setblocking(False)
        for _ in range(20):  # MicroPython does not say which port 0 became
            self.port = 20000 + int.from_bytes(os.urandom(2), "big") % 12000
            try:
                self.plain.bind(socket.getaddrinfo("127.0.0.1", self.port)[0][-1])
                return
            except OSError:
                pass
        raise OSError("no port")

    @property
    def place(self):
        return "127.0.0.1:" + str(self.port)

    async def serve(self):
        while True:
            try:
                question, sender = self.plain.recvfrom(512)
            except OSError:
                await asyncio.sleep(0.005)
                continue
            self.asked.append(question)
            answers = self.answers.pop(0) if self.answers else ()
            for answer in answers if isinstance(answers, (list, tuple)) else (answers,):
                data = answer(question[40:48]) if callable(answer) else answer
                self.plain.sendto(data, sender)

    def run(self, coroutine):
        async def main():
            task = asyncio.create_task(self.serve())
            try:
                return await asyncio.wait_for(coroutine, 60)
            finally:
                task.cancel()

        try:
            return asyncio.run(main())
        finally:
            self.plain.close()


def at(seconds, **fields):
    return lambda nonce: reply(nonce, seconds, **fields)


def ask(*answers, floor=NOW):
    server = Server(answers)
    found = server.run(ntp.ask("127.0.0.1", server.port, os.urandom, floor))
    assert len(server.asked) == 1
    question = server.asked[0]
    # client, version 4, and not a bit of our own clock
    assert (len(question), question[0], question[1:40]) == (48, 0x23, bytes(39))
    return found


def test_the_time_comes_out_to_the_second():
    assert ask(at(NOW)) == NOW
    assert ask(at(NOW, half=127)) == NOW
    assert ask(at(NOW, half=128)) == NOW + 1
    assert ask(at(NOW, first=0x1C)) == NOW  # version 3
    assert ask(lambda nonce: reply(nonce, NOW) + bytes(20)) == NOW  # with a MAC


def test_the_eras():
    # what is said is modulo 2^32 seconds since 1900: the floor says which of them
    for floor, said, found in (
        (NOW, NOW - 1, NOW - 1),
        (NOW, 2085978495, 2085978495),  # the last second of era 0
        (NOW, 2085978496, 2085978496),  # 2036-02-07 06:28:16
        (2085978490, 2085978500, 2085978500),
        (2085978500, 2085978490, 2085978490),
        (NOW, NOW + (1 << 31) - 1, NOW + (1 << 31) - 1),
    ):
        assert ntp.read(reply(NONCE, said, half=1), NONCE, floor) == found


def test_what_is_no_answer_to_our_question_is_passed_over():
    others = (b"", b"\x24", reply(NONCE, NOW), bytes(48), os.urandom(48))
    assert ask(*others, at(NOW + 7)) == NOW + 7
    assert ask(lambda nonce: reply(nonce, NOW)[:47], at(NOW + 7)) == NOW + 7
    for first in (0x23, 0x25, 0x26, 0x20, 0x2C, 0x14, 0x04):  # other modes, other versions
        assert ask(at(NOW, first=first), at(NOW + 7)) == NOW + 7


def test_a_flood_of_guesses_ends():
    server = Server([reply(NONCE, NOW)] * 16)
    error = server.run(fails(KeyferryError, ntp.ask("127.0.0.1", server.port, os.urandom, NOW)))
    assert (error.name, error.detail) == (
        "authentication-failed",
        "ntp: the answer to another question",
    )


def test_answers_of_no_use_are_named():
    for fields, name in (
        ({"stratum": 16}, "malformed"),
        ({"stratum": 255}, "malformed"),
        ({"first": 0xE4}, "malformed"),  # LI 3: not synchronised
        ({"stratum": 0, "code": b"INIT"}, "malformed"),
        ({"distance": b"\x00\x00\x00\x00\x00\x10\x00\x00"}, "malformed"),
        ({"distance": b"\xff\xff\xff\xff\x00\x00\x00\x00"}, "malformed"),
        ({"seconds": -FROM_1900}, "malformed"),
        ({"stratum": 0, "code": b"DENY"}, "access-denied"),
        ({"stratum": 0, "code": b"RSTR"}, "access-denied"),
        ({"stratum": 0, "code": b"RATE"}, "too-many"),
    ):
        seconds = fields.pop("seconds", NOW)
        error = raises(KeyferryError, ntp.read, reply(NONCE, seconds, **fields), NONCE, NOW)
        assert error.name == name and error.detail.startswith("ntp: "), (fields, str(error))


def test_nobody_there():
    kept, ntp.ANSWER_TIMEOUT = ntp.ANSWER_TIMEOUT, 0
    try:
        server = Server()
        error = server.run(fails(KeyferryError, ntp.ask("127.0.0.1", server.port, os.urandom, NOW)))
        assert error.name == "timeout"
        # closed now, which the network tells
        error = asyncio.run(
            fails(KeyferryError, ntp.ask("127.0.0.1", server.port, os.urandom, NOW))
        )
        assert error.name in ("timeout", "peer-gone")
        error = asyncio.run(fails(KeyferryError, ntp.ask("no-such.invalid", 123, os.urandom, NOW)))
        assert (error.name, error.detail[:5]) == ("peer-gone", "ntp: ")
    finally:
        ntp.ANSWER_TIMEOUT = kept


class Asking(Board):
    """A board whose NTP server gives ``answers``."""

    def __init__(self, shown, *answers, time_port=0):
        self.server = Server(*answers)
        Board.__init__(self, shown, time_port=time_port, ntp=self.server.place)

    def __enter__(self):
        timekeeper.NTP_BACKOFF = (0, 0)
        clock.ntp_at = 0
        return Board.__enter__(self)

    def __exit__(self, *what):
        timekeeper.NTP_BACKOFF = (30, 1024)
        clock.ntp_at = 0
        self.server.plain.close()
        Board.__exit__(self, *what)

    async def ensuring(self, doubt=False):
        ask = timekeeper.ensure(self.config, self.crypto(), self.event, doubt, self._open)
        serving = asyncio.create_task(self.server.serve())
        try:
            await asyncio.wait_for(ask, 60)
        finally:
            serving.cancel()

    @staticmethod
    def crypto():
        from keyferry_core import suite

        return suite.Crypto(os.urandom)

    def ensure(self, doubt=False):
        asyncio.run(self.ensuring(doubt))


def test_a_board_in_the_past_gets_the_time_which_moves_no_floor():
    for year in YEARS[:3]:
        with Asking(year, at(NOW)) as board:
            board.ensure()
            assert (board.shown, clock.now()) == (NOW, NOW)
            assert clock.by_ntp() and not clock.signed()
            name, fields = board.events[-1]
            assert (name, fields["was"], fields["signed"], fields["ntp"]) == (
                "time",
                year,
                False,
                True,
            )
            assert "clock.0" not in os.listdir(board.config.folder)
            # what was said is not asked for again
            board.ensure()
            assert len(board.server.asked) == 1


def test_a_clock_that_can_be_right_is_asked_about_only_in_doubt():
    with Asking(NOW + 400 * 86400, at(NOW + 60)) as board:
        board.ensure()
        assert board.server.asked == []
        assert clock.now() == NOW + 400 * 86400
        board.ensure(True)
        assert clock.now() == board.shown == NOW + 60


def test_times_that_cannot_be_are_not_believed():
    liars = [at(0), at(clock.BUILD_DATE - 1), at(YEARS[3] + 40 * 365 * 86400)]
    liars += [at(NOW, stratum=0), (reply(NONCE, NOW), at(NOW, stratum=0)), at(NOW, first=0xE4)]
    with Asking(YEARS[0], *(liars + [at(NOW)])) as board:
        board.ensure()
        assert clock.now() == NOW
        assert board.names() == ["time-failed"] * len(liars) + ["time"]
        errors = [fields["error"] for event, fields in board.events[:3]]
        assert errors == ["clock-wrong"] * 3, board.events
    # nor when the clock is doubted: then it stays as it is, and TLS judges
    with Asking(NOW, at(0)) as board:
        board.ensure(True)
        assert (clock.now(), board.names()) == (NOW, ["time-failed"])


def test_a_server_that_wants_no_questions_gets_none():
    with Asking(YEARS[0], at(NOW, stratum=0, code=b"DENY"), at(NOW), at(NOW)) as board:
        for _ in range(2):
            error = asyncio.run(fails(LocalError, board.ensuring()))
            assert error.name == "clock-wrong"
        assert len(board.server.asked) == 1
        assert board.names() == ["time-failed", "clock-not-set", "clock-not-set"]


def test_one_that_wants_fewer_is_asked_at_the_longest_interval():
    with Asking(YEARS[0], at(NOW, stratum=0, code=b"RATE"), at(NOW)) as board:
        timekeeper.NTP_BACKOFF = (0, 1024)

        async def main():
            asking = asyncio.create_task(board.ensuring())
            while not board.events:
                await asyncio.sleep(0.01)
            event, fields = board.events[0]
            assert (event, fields["error"], fields["retry_ms"]) == (
                "time-failed",
                "too-many",
                1024000,
            )
            assert clock.ntp_at == board.up + 1024
            asking.cancel()
            try:
                await asking
            except asyncio.CancelledError:
                pass

        asyncio.run(main())
        assert len(board.server.asked) == 1
        # and not sooner by another way either
        board.shown = NOW
        board.ensure(True)
        assert len(board.server.asked) == 1
        board.up += 1024
        board.ensure(True)
        assert len(board.server.asked) == 2


def test_questions_are_at_least_fifteen_seconds_apart():
    for value in (0, 255):
        chance = bytes([value])
        assert timekeeper.jitter(timekeeper.NTP_BACKOFF[0], lambda n, c=chance: c) >= 15000


def test_a_signed_time_wins_over_ntp_and_says_when_that_was_wrong():
    with Asking(YEARS[0], at(NOW + 5000), time_port=8480) as board:
        board.ensure()  # nobody signs
        assert clock.by_ntp() and clock.now() == NOW + 5000
        board.answers = [saying(NOW)]
        board.ensure(True)
        assert clock.signed() and not clock.by_ntp()
        assert clock.now() == board.shown == NOW
        assert board.names() == ["time-failed", "time", "ntp-wrong", "time"]
        assert board.events[2][1] == {"ntp": NOW + 5000, "now": NOW}
        assert Floor(board.config.folder).seconds == NOW
        # from then on nobody asks it
        board.shown = YEARS[0]
        board.ensure(True)
        assert clock.now() == NOW and len(board.server.asked) == 1


def test_what_the_configuration_may_say():
    good = {"name": "pump-7", "realm": "plant.example"}
    for text, found in (
        ("time.example", ("time.example", 123)),
        ("192.0.2.1:1123", ("192.0.2.1", 1123)),
        ("2001:db8::1", ("2001:db8::1", 123)),
    ):
        assert config.parse(dict(good, ntp=text)).ntp == found
    assert config.parse(good).ntp is None
    for text in ("", ":123", "a:", "a:0", "a:65536", "a:1x", "a:-1", "x" * 254, 7, None, True):
        error = raises(config.ConfigError, config.parse, dict(good, ntp=text))
        assert error.detail == "config.json: ntp: expected HOST or HOST:PORT", json.dumps(text)
