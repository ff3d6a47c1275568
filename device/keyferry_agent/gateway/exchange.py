"""Requests, streams and TCP connections inside one session, several at once.

Each record of the session is one frame:

    kind, 1 byte | channel, 2 bytes | content, at most CHUNK bytes

The side that began the session opens channels with ASK, WATCH or OPEN. Content flows as DATA,
ends with LAST, and is given up by either side with FAIL and an error's code. A side may have
WINDOW frames of DATA on their way that the other did not take; CREDIT says how many were taken.
So a slow reader holds up its own channel and nothing else, and memory is bounded:
MAX_CHANNELS * WINDOW frames, which the session's queue of 16 records holds.
"""

import asyncio
import gc

from keyferry_core.errors import DecodeError, KeyferryError, RemoteError, code_of, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keyferry_agent.sessions import PeerSession

ASK, WATCH, OPEN, TYPE, DATA, LAST, FAIL, CREDIT = range(8)
_OPENING = (ASK, WATCH, OPEN)

CHUNK = 512  # bytes of content in a frame
WINDOW = 4  # frames
MAX_CHANNELS = 3
MAX_PATH = 128  # characters

# What an answer can be, by number. Nothing that a browser would run.
TYPES = ("application/octet-stream", "text/plain; charset=utf-8", "application/json")

_PATH = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/"


def check_path(path: str) -> str:
    """Return ``path``: up to 128 letters, digits and ``-._~/``. DecodeError for all others."""
    if len(path) > MAX_PATH:
        raise DecodeError("path: at most 128 characters")
    for char in path:
        if char not in _PATH:
            raise DecodeError("path: letters, digits and -._~/ only")
    return path


class Channel:
    """One request, stream or connection. ``kind`` and ``content`` are what opened it."""

    def __init__(self, exchange: "Exchange", number: int, kind: int, content: bytes) -> None:
        self.kind = kind
        self.content = content
        self.type = 0  # of the answer, an index of TYPES
        self.length: int | None = None  # of the answer, in bytes
        self.error = ""  # why it was given up
        self.number = number
        self.task: asyncio.Task | None = None
        self._exchange = exchange
        self._queue: list[bytes | None] = []  # None is the end
        self._news = asyncio.Event()
        self._credit = WINDOW
        self._granted = asyncio.Event()
        self._taken = 0
        self._typed = False
        self._sent_all = False
        self._got_all = False

    async def send(self, data: bytes, kind: int = DATA) -> None:
        """Send up to CHUNK bytes; waits while the other side does not read. RemoteError."""
        while True:
            if self.error:
                raise RemoteError(self.error)
            if kind != DATA or self._credit:
                break
            self._granted.clear()
            await self._granted.wait()
        if kind == DATA:
            self._credit -= 1
        await self._exchange.send(self.number, kind, data)

    async def send_all(self, data: bytes) -> None:
        """``data`` of any length in pieces, and the end."""
        for at in range(0, len(data), CHUNK):
            await self.send(data[at : at + CHUNK])
        await self.finish()

    async def finish(self) -> None:
        """Nothing more will be sent."""
        if not self._sent_all and not self.error:
            self._sent_all = True
            await self.send(b"", LAST)
            self._close_if_done()

    async def opened(self) -> int:
        """Wait until the other side takes it; the type of what follows. RemoteError."""
        while not (self._typed or self._queue or self.error):
            self._news.clear()
            await self._news.wait()
        if self.error:
            raise RemoteError(self.error)
        return self.type

    async def wait(self) -> None:
        """Until ``recv`` has something to return. It can be cancelled. RemoteError."""
        while not (self._queue or self._got_all):
            if self.error:
                raise RemoteError(self.error)
            self._news.clear()
            await self._news.wait()

    async def recv(self) -> bytes | None:
        """The next piece, or None after the last. RemoteError when it was given up."""
        await self.wait()
        if self._got_all:
            return None
        data = self._queue.pop(0)
        if data is None:
            self._got_all = True
            self._close_if_done()
            return None
        self._taken += 1
        if self._taken >= WINDOW // 2 and not self.error:
            taken, self._taken = self._taken, 0
            await self._exchange.send(self.number, CREDIT, bytes((taken,)))
        return data

    async def give_up(self, error: str = "session-closed") -> None:
        """Tell the other side, if it is not over already."""
        if self.error or (self._sent_all and self._got_all):
            return
        self.end(error)
        try:
            await self._exchange.send(self.number, FAIL, code_of(error).to_bytes(2, "big"))
        except KeyferryError:
            pass  # the session is over, and with it the channel

    def end(self, error: str) -> None:
        """It is over for ``error``."""
        self.error = self.error or error
        self._news.set()
        self._granted.set()
        self._exchange.forget(self)

    def take(self, kind: int, content: bytes) -> None:
        """A frame for this channel. DecodeError."""
        if kind == FAIL:
            self.end(name_of(int.from_bytes(content[:2], "big")))
        elif kind == CREDIT:
            if len(content) != 1 or self._credit + content[0] > WINDOW:
                raise DecodeError("frame: more credit than was used")
            self._credit += content[0]
            self._granted.set()
        elif kind == TYPE:
            if len(content) not in (1, 5) or content[0] >= len(TYPES):
                raise DecodeError("frame: no such type")
            self.type = content[0]
            if len(content) == 5:
                self.length = int.from_bytes(content[1:], "big")
            self._typed = True
            self._news.set()
        else:
            if None in self._queue or self._got_all:
                raise DecodeError("frame: after the end")
            # LAST needs no credit, so there can be one more
            if kind == DATA and len(self._queue) + self._taken >= WINDOW:
                raise DecodeError("frame: more than was granted")
            self._queue.append(content if kind == DATA else None)
            self._news.set()

    def _close_if_done(self) -> None:
        if self._sent_all and self._got_all:
            self._exchange.forget(self)


class Exchange:
    """All channels of ``session``. ``serve(channel)`` answers those that the other side opens;
    without it, it can open none. ``closed()`` is called when the session is over.
    """

    def __init__(
        self,
        session: "PeerSession",
        serve: "Callable[[Channel], Awaitable] | None" = None,
        closed: "Callable[[], None] | None" = None,
    ) -> None:
        self.session = session
        self._serve = serve
        self._closed = closed
        self._channels: dict[int, Channel] = {}
        self._number = 0
        self._task = asyncio.create_task(self._pump())

    def count(self) -> int:
        """Channels that are open."""
        return len(self._channels)

    async def open(self, kind: int, content: bytes) -> Channel:
        """A new channel. RemoteError("too-many") when MAX_CHANNELS are open."""
        if len(self._channels) >= MAX_CHANNELS:
            raise RemoteError("too-many", "channels of one session")
        while True:
            self._number = (self._number + 1) & 0xFFFF
            if self._number not in self._channels:
                break
        channel = Channel(self, self._number, kind, content)
        self._channels[channel.number] = channel
        try:
            await self.send(channel.number, kind, content)
            if kind != OPEN:
                channel._sent_all = True
        except BaseException:
            self.forget(channel)
            raise
        return channel

    async def send(self, number: int, kind: int, content: bytes) -> None:
        """One frame."""
        await self.session.send(bytes((kind,)) + number.to_bytes(2, "big") + content)

    async def close(self) -> None:
        """End the session, and all channels with it."""
        await self.session.close()

    def forget(self, channel: Channel) -> None:
        """A channel is over."""
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]

    async def _pump(self) -> None:
        error = "session-closed"
        try:
            while True:
                await self._take(await self.session.recv())
        except KeyferryError as failure:
            error = failure.name
        for channel in list(self._channels.values()):
            channel.end(error)
            if channel.task is not None:
                channel.task.cancel()
        if not self.session.ended:  # the peer does not keep to the frames
            try:
                await self.session.close()
            except KeyferryError:
                pass
        if self._closed is not None:
            self._closed()

    async def _take(self, frame: bytes) -> None:
        if not 3 <= len(frame) <= 3 + CHUNK or frame[0] > CREDIT:
            raise DecodeError("frame: malformed")
        kind, number, content = frame[0], int.from_bytes(frame[1:3], "big"), frame[3:]
        channel = self._channels.get(number)
        if kind not in _OPENING:
            if channel is not None:
                channel.take(kind, content)
                if kind == FAIL and channel.task is not None:
                    channel.task.cancel()
            return  # else it is over already, and the other side did not know
        if self._serve is None or channel is not None:
            raise DecodeError("frame: opens what is open, or cannot be")
        if len(self._channels) >= MAX_CHANNELS:
            await self.send(number, FAIL, code_of("too-many").to_bytes(2, "big"))
            return
        channel = self._channels[number] = Channel(self, number, kind, content)
        if kind != OPEN:
            channel._got_all = True
        channel.task = asyncio.create_task(self._answer(channel))

    async def _answer(self, channel: Channel) -> None:
        assert self._serve is not None
        gc.collect()  # records want room in one piece
        try:
            await self._serve(channel)
            await channel.finish()
        except KeyferryError as error:
            await channel.give_up(error.name)
        except Exception:  # of the application; what it was is its own affair
            await channel.give_up("internal")
