"""The way to the manager over a serial line, for boards without a network (docs/hil.md).

A program on the computer at the other end has the TCP and TLS connections; the private key stays
here and signs each handshake. Neither ``socket`` nor ``tls`` is imported. Give it to the agent:

    line = Line(sys.stdin.buffer, sys.stdout.buffer)    # or twice a machine.UART
    agent = Agent(crypto=crypto, network=Serial(line, crypto))
"""

import asyncio
import select

from keyferry_agent.errors import LinkError
from keyferry_core import csr, hdlc
from keyferry_core import serial_link as sl
from keyferry_core.errors import DecodeError, KeyferryError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from keyferry_core.suite import Crypto

# Seconds until the other end has connected, signature included.
CONNECT_TIMEOUT = 60
# Bytes that wait for their reader, above which no more are asked for.
_ROOM = 512
# Bytes of text kept for ``readline``, and taken from the line at once.
_TEXT = 1024
_PIECE = 64


class Line:
    """A serial line that carries frames, and whatever else is said on it as text.

    ``source``: a stream with ``read`` that can be polled; ``sink``: one with ``write``. Both are
    binary. One connection at a time.
    """

    def __init__(self, source: "Any", sink: "Any") -> None:
        self._source = source
        self._sink = sink
        self._decoder = hdlc.Decoder(sl.MAX_FRAME)
        self._text = bytearray()
        self._news = asyncio.Event()
        self._task = None
        self.stream: Stream | None = None

    def start(self) -> None:
        """Read the line from now on, for as long as the program runs."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def readline(self) -> bytes:
        """A line of the text between the frames; b"" when the line has ended."""
        self.start()
        while True:
            at = self._text.find(b"\n") + 1
            if at:
                line = bytes(self._text[:at])
                self._text = self._text[at:]
                return line
            if self._task is None:
                return b""
            self._news.clear()
            await self._news.wait()

    def write(self, frame: bytes) -> None:
        """Send a frame."""
        self._sink.write(hdlc.encode(frame))

    def _waiting(self) -> tuple:
        reader = asyncio.StreamReader(self._source)
        poller = select.poll()
        poller.register(self._source, select.POLLIN)
        return reader, poller

    async def _take(self, reader: "Any", poller: "Any") -> bytes | None:
        """What has come, after waiting for it; b"" at the end."""
        if hasattr(self._source, "any"):  # a UART gives what it has
            return await reader.read(_PIECE)
        # others wait until they have all that was asked for
        data = piece = await reader.read(1)
        while piece and len(data) < _PIECE and poller.poll(0):
            piece = self._source.read(1)
            data += piece
        return data

    async def _run(self) -> None:
        ways = self._waiting()
        while True:
            data = await self._take(*ways)
            if data is None:
                continue
            if not data:
                break
            for is_frame, piece in self._decoder.feed(data):
                if is_frame:
                    self._frame(piece)
                else:
                    self._text += piece
                    if len(self._text) > _TEXT:
                        self._text = self._text[-_TEXT:]
                    self._news.set()
        self._task = None
        self._news.set()
        if self.stream is not None:
            self.stream.fail(LinkError("the serial line has ended"))

    def _frame(self, frame: bytes) -> None:
        stream = self.stream
        if stream is not None and len(frame) > 2 and frame[1] == stream.end.connection:
            stream.take(frame)
        elif len(frame) > 2 and frame[0] not in (sl.ACK, sl.RESET):
            self.write(sl.reset(frame[1]))


class Stream:
    """One connection, as asyncio's reader and writer are used by the carriers."""

    def __init__(self, line: Line, connection: int, sign: "Any") -> None:
        self.end = sl.End(connection)
        self._line = line
        self._sign = sign  # a function, until it was asked once
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._news = asyncio.Event()
        self._failed: KeyferryError | None = None
        self._open = False
        self._ended = False
        self._ticking = asyncio.create_task(self._tick())

    async def start(self, request: bytes) -> None:
        """Send OPEN, and wait until the other end is verified. KeyferryError."""
        self.end.send(sl.OPEN, request)
        self._flush()
        while not self._open:
            self._check()
            if self._ended:
                raise LinkError("the computer closed the link")
            await self._wait()

    async def read(self, most: int) -> bytes:
        """Up to so many bytes; b"" at the end. KeyferryError."""
        while not self._buffer:
            self._check()
            if self._ended:
                return b""
            await self._wait()
        data = bytes(self._buffer[:most])
        self._buffer = self._buffer[most:]
        if self.end.hold and len(self._buffer) < _ROOM:
            self.end.go_on()
            self._flush()
        return data

    async def readexactly(self, size: int) -> bytes:
        """So many bytes. EOFError, KeyferryError."""
        parts = []
        while size:
            data = await self.read(size)
            if not data:
                raise EOFError
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """For ``drain``, which sends it."""
        self._out.append(data)

    async def drain(self) -> None:
        """Until the computer has all that was written. KeyferryError, OSError."""
        while self._out or self.end.waiting:
            self._check()
            if self._ended:
                raise LinkError("the manager closed the link")
            if self._out and not self.end.waiting:
                data = self._out.pop(0)
                self.end.send(sl.DATA, data[: sl.MAX_DATA])
                if len(data) > sl.MAX_DATA:
                    self._out.insert(0, data[sl.MAX_DATA :])
                self._flush()
            await self._wait()

    def close(self) -> None:
        """End it here; the computer is told once."""
        if self._line.stream is self:
            self._line.stream = None
            self._line.write(sl.reset(self.end.connection))
        self._ticking.cancel()
        if self._failed is None:
            self.fail(LinkError("closed"))

    async def wait_closed(self) -> None:
        """Nothing to wait for."""

    # -- for the line --

    def fail(self, error: KeyferryError) -> None:
        """Whoever waits gets this error."""
        self._failed = error
        self._news.set()

    def take(self, frame: bytes) -> None:
        """A frame of this connection came."""
        self.end.hold = len(self._buffer) >= _ROOM
        try:
            message = self.end.receive(frame)
            if message is not None:
                self._message(*message)
        except KeyferryError as error:
            self.fail(error)
        self._flush()
        self._news.set()

    def _message(self, kind: int, data: bytes) -> None:
        if kind == sl.DATA and self._open:
            self._buffer += data
        elif kind == sl.SIGN and self._sign is not None:
            sign, self._sign = self._sign, None
            self.end.send(sl.SIGNATURE, sign(sl.certificate_verify(data)))
        elif kind == sl.OPENED and not self._open:
            self._open = True
            self._sign = None
        elif kind == sl.CLOSE:
            name, text = sl.parse_end(data)
            if name == "session-closed":
                self._ended = True
            else:
                self.fail(LinkError(text, name))
        elif kind == sl.RESET:
            self.fail(LinkError("the computer forgot the link"))
        else:
            raise DecodeError("serial: not now: kind " + str(kind))

    # -- inside --

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _flush(self) -> None:
        out = self.end.out
        while out:
            self._line.write(out.pop(0))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(sl.TICK)
            try:
                self.end.tick()
            except KeyferryError as error:
                self.fail(error)
                return
            self._flush()


class Serial:
    """What the agent takes in place of ``keyferry_agent.link``."""

    def __init__(self, line: Line, crypto: "Crypto") -> None:
        self._line = line
        self._crypto = crypto
        self._last = crypto.random(1)[0]

    def context(self, roots: list, certificate: bytes | None, private: bytes | None) -> tuple:
        """As ``link.context``. DecodeError for a key that is not P-256's."""
        sign = None
        if private is not None:
            key, _ = csr.parse_private_key(private)
            crypto = self._crypto
            sign = lambda message: crypto.sign(key, message)  # noqa: E731
        return roots, certificate or b"", sign

    async def open_link(self, host: str, port: int, realm: str, made: tuple) -> Stream:
        """As ``link.open_link``; the computer knows the host. KeyferryError."""
        roots, certificate, sign = made
        line = self._line
        if line.stream is not None:
            raise LocalError("wrong-state", "one connection at a time")
        line.start()
        self._last = (self._last + 1) & 0xFF
        line.stream = stream = Stream(line, self._last, sign)
        try:
            request = sl.open_request(port, realm, certificate, roots)
            await asyncio.wait_for(stream.start(request), CONNECT_TIMEOUT)
        except BaseException:
            stream.close()
            raise
        return stream
