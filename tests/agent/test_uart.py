# heap: 2m
"""A board without a network: its side of the serial line, against a computer played by the test."""

import asyncio
import os

from keyferry_agent.uart import Line, Serial
from keyferry_core import csr, hdlc, suite
from keyferry_core import serial_link as sl
from keyferry_core.errors import DecodeError, KeyferryError, LocalError
from support.agent_kit import fails, run, until
from support.portable import raises, vectors

crypto = suite.Crypto(os.urandom)
DATA = vectors("identities")
DEVICE = DATA["devices"]["pump-7"]
PRIVATE = bytes.fromhex(DEVICE["private"])
PUBLIC = bytes.fromhex(DEVICE["public"])
KEY = csr.private_key_der(PRIVATE, PUBLIC)
CERTIFICATE = bytes.fromhex(DEVICE["certificate"])
ROOTS = [b"a root"]


class Wire:
    """What the test hears of the board."""

    def __init__(self):
        self.decoder = hdlc.Decoder(sl.MAX_FRAME)
        self.frames = []
        self.deaf = 0  # frames that get lost

    def write(self, data):
        for is_frame, piece in self.decoder.feed(data):
            assert is_frame, piece
            if self.deaf:
                self.deaf -= 1
            else:
                self.frames.append(piece)


class Computer:
    """The other end: an End of the core, on a line in memory."""

    def __init__(self):
        self.wire = Wire()
        self.line = Line(self, self.wire)
        self.news = asyncio.Event()
        self.bytes = b""
        self.line._take = self.take
        self.line._waiting = lambda: (None, None)
        self.end = None
        self.heard = []

    async def take(self, *how):
        while not self.bytes:
            self.news.clear()
            await self.news.wait()
        data, self.bytes = self.bytes[:64], self.bytes[64:]
        return data

    def say(self, data):
        self.bytes += data
        self.news.set()

    def flush(self):
        while self.end.out:
            self.say(hdlc.encode(self.end.out.pop(0)))

    def send(self, kind, data=b""):
        self.end.send(kind, data)
        self.flush()

    async def hear(self, kind):
        """The next message of the board, which is of this kind."""
        for _ in range(1000):
            while self.wire.frames:
                frame = self.wire.frames.pop(0)
                if self.end is not None and frame == sl.reset(self.end.connection):
                    self.heard.append((sl.RESET, b""))
                    continue
                if self.end is None or (frame[0] & 0x7F == sl.OPEN and frame[2] == 0):
                    self.end = sl.End(frame[1])
                message = self.end.receive(frame)
                self.flush()
                if message is not None:
                    self.heard.append(message)
            while self.heard:
                message = self.heard.pop(0)
                if message[0] == sl.RESET and kind != sl.RESET:
                    continue  # of a connection before
                assert message[0] == kind, message
                return message[1]
            await asyncio.sleep(0.01)
        raise AssertionError("nothing came")

    def open(self, key=KEY):
        """The board's attempt to open a link, as a task."""
        serial = Serial(self.line, crypto)
        made = serial.context(ROOTS, CERTIFICATE, key)
        return asyncio.create_task(serial.open_link("host", 8883, "plant.example", made))

    async def opened(self):
        task = self.open()
        await self.hear(sl.OPEN)
        self.send(sl.OPENED)
        stream = await task
        await self.hear_acks()
        return stream

    async def hear_acks(self):
        """Take what the board acknowledged; what waited for that goes out."""
        await asyncio.sleep(0.02)
        while self.wire.frames:
            assert self.end.receive(self.wire.frames.pop(0)) is None
        self.flush()


def test_a_handshake_is_signed_on_the_board_once():
    async def main():
        computer = Computer()
        task = computer.open()
        request = sl.parse_open(await computer.hear(sl.OPEN))
        assert request == (8883, "plant.example", CERTIFICATE, ROOTS)
        transcript = os.urandom(32)
        computer.send(sl.SIGN, transcript)
        signature = await computer.hear(sl.SIGNATURE)
        content = sl.certificate_verify(transcript)
        assert crypto.verify(PUBLIC, content, signature)
        assert not crypto.verify(PUBLIC, transcript, signature)
        computer.send(sl.SIGN, os.urandom(32))
        error = await fails(KeyferryError, task)
        assert error.name == "malformed"

    run(main())


def test_it_signs_nothing_after_the_handshake_and_no_other_lengths():
    async def main():
        computer = Computer()
        stream = await computer.opened()
        computer.send(sl.SIGN, os.urandom(32))
        assert (await fails(KeyferryError, stream.read(1))).name == "malformed"
        stream.close()
        for length in (0, 31, 33, 64, 150):
            computer = Computer()
            task = computer.open()
            await computer.hear(sl.OPEN)
            computer.send(sl.SIGN, bytes(length))
            assert (await fails(KeyferryError, task)).name == "malformed"
            # the board says that it gave up
            assert await computer.hear(sl.RESET) == b""

    run(main())


def test_data_both_ways_with_text_between():
    async def main():
        computer = Computer()
        stream = await computer.opened()
        computer.say(b"a command\n")
        computer.send(sl.DATA, b"12345")
        computer.say(b"~another ~\r\n")
        computer.send(sl.DATA, b"678")
        assert await stream.readexactly(3) == b"123"
        got = b""
        await computer.hear_acks()
        while len(got) < 5:
            got += await stream.read(2)
        assert got == b"45678"
        assert await computer.line.readline() == b"a command\n"
        assert await computer.line.readline() == b"~another ~\r\n"
        sent = os.urandom(1000)
        stream.write(sent[:10])
        stream.write(sent[10:])
        drained = asyncio.create_task(stream.drain())
        got = b""
        while len(got) < 1000:
            got += await computer.hear(sl.DATA)
        await drained
        assert got == sent

    run(main())


def test_a_board_that_does_not_read_gets_no_more_than_it_has_room_for():
    async def main():
        computer = Computer()
        stream = await computer.opened()
        sent = os.urandom(3000)
        computer.send(sl.DATA, sent)
        for _ in range(20):
            await computer.hear_acks()
        held = len(stream._buffer)
        assert 512 <= held <= 512 + 2 * sl.MAX_DATA
        got = b""
        while len(got) < 3000:
            got += await stream.read(500)
            await computer.hear_acks()
        assert got == sent

    run(main())


def test_ends_have_names():
    async def main():
        for name, text in (("authentication-failed", "no"), ("peer-gone", "nobody")):
            computer = Computer()
            task = computer.open()
            await computer.hear(sl.OPEN)
            computer.send(sl.CLOSE, sl.end_of(name, text))
            error = await fails(KeyferryError, task)
            assert (error.name, error.detail) == (name, text)
        computer = Computer()
        stream = await computer.opened()
        computer.send(sl.DATA, b"last")
        computer.send(sl.CLOSE, sl.end_of("session-closed", ""))
        await until(lambda: stream._buffer)
        await computer.hear_acks()
        assert await stream.read(10) == b"last"
        assert await stream.read(10) == b""
        assert type(await fails(EOFError, stream.readexactly(1))) is EOFError
        stream.write(b"x")
        assert (await fails(KeyferryError, stream.drain())).name == "peer-gone"
        stream.close()
        stream = await computer.opened()
        computer.say(hdlc.encode(sl.reset(computer.end.connection)))
        assert (await fails(KeyferryError, stream.read(1))).name == "peer-gone"

    run(main())


def test_hostile_frames_end_the_link_and_not_the_board():
    async def main():
        computer = Computer()
        for frame in (
            bytes([sl.DATA]),
            bytes([0, 0, 0]),
            bytes([77, 0, 0]),
            bytes([sl.OPENED, 0, 0]),
            bytes([sl.CLOSE, 0, 0]) + b"\xff",
            bytes([sl.CLOSE, 0, 0]) + b"\x82\x61a\x61b",
            bytes([sl.DATA, 0, 9]) + b"from nowhere",
            bytes([sl.SIGNATURE, 0, 0]) + bytes(64),
        ):
            stream = await computer.opened()
            computer.wire.frames.clear()
            if len(frame) > 1:
                connection = computer.end.connection
                number = (frame[2] + 1) & 0xFF
                frame = bytes([frame[0], connection, number]) + frame[3:]
            noise = bytes([byte for byte in os.urandom(60) if byte >= 32])
            computer.say(noise + b"\n" + hdlc.encode(frame))
            if len(frame) > 1:
                error = await fails(KeyferryError, stream.read(1))
                assert error.name == "malformed", (frame, error)
            stream.close()
        # another connection's
        stream = await computer.opened()
        computer.wire.frames.clear()
        other = (computer.end.connection + 1) & 0xFF
        computer.say(hdlc.encode(bytes([sl.DATA, other, 0]) + b"stale"))
        await until(lambda: computer.wire.frames)
        assert computer.wire.frames == [sl.reset(other)]
        computer.send(sl.DATA, b"goes on")
        assert await stream.read(7) == b"goes on"

    run(main())


def test_lost_frames_are_sent_again():
    async def main():
        computer = Computer()
        computer.wire.deaf = 2
        stream = await computer.opened()
        computer.wire.deaf = 1
        stream.write(b"lost once")
        drained = asyncio.create_task(stream.drain())
        assert await computer.hear(sl.DATA) == b"lost once"
        await drained

    run(main())


def test_one_connection_at_a_time_and_keys_of_one_layout():
    async def main():
        computer = Computer()
        await computer.opened()
        serial = Serial(computer.line, crypto)
        made = serial.context(ROOTS, None, None)
        opening = serial.open_link("host", 8883, "plant.example", made)
        assert (await fails(LocalError, opening)).name == "wrong-state"
        raises(DecodeError, serial.context, ROOTS, CERTIFICATE, KEY[:-1])

    run(main())
