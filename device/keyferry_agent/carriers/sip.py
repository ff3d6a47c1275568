"""Signalling over SIP and TLS (docs/sip.md): the core's client on a stream, with its times.

As with MQTT, one task reads, one writes and one watches the time. Bounds: QUEUE messages wait for
the writer; WINDOW kept ones, WINDOW_BYTES together, wait for their answer. A caller that finds no
room waits. Kept messages outlive the link, and ``resume`` sends again those without an answer; the
first message of a session is an ACK, which has none, so it goes out once.
"""

import asyncio
import gc

from keyferry_agent import clock
from keyferry_agent.errors import LinkError
from keyferry_core import signalling as s
from keyferry_core.errors import DecodeError
from keyferry_core.sip_client import Client
from keyferry_core.sip_codec import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

QUEUE = 8
WINDOW = 4
WINDOW_BYTES = 10240
# Of what the manager sends: a head, and a body with the largest record or two certificates.
MAX_HEAD = 4096
MAX_BODY = 10240
# Seconds for the first CRLF, the TLS handshake included, and between two looks at the time.
ANSWER_TIMEOUT = 15
LOOK = 10
# Bytes taken from the stream at once.
_PIECE = 512
# A body above so many bytes is read only when so many times its size of memory is free.
_LARGE = 512
_NEED = 8
_PING = b"\r\n\r\n"


def _has_room(size: int) -> bool:
    if not hasattr(gc, "mem_free"):
        return True  # CPython
    if gc.mem_free() < size:
        gc.collect()
    return gc.mem_free() >= size


class SipCarrier:
    """One device's link; it can be opened again after it ended.

    ``client``: name, realm and source of random bytes. ``opener()`` gives (reader, writer), asyncio
    streams with a verified manager behind them. ``skipped(bytes)`` is told of each body that there
    was no memory for.
    """

    transport = s.TRANSPORT_SIP_TLS

    def __init__(
        self,
        client: tuple,
        keep_alive: int,
        opener: "Callable[[], Awaitable]",
        skipped: "Callable[[int], None]",
    ) -> None:
        self.skipped = skipped
        self._client = Client(*client)
        self._keep_alive = keep_alive
        self._opener = opener
        self._reader = None
        self._writer = None
        self._framing = Reader(MAX_HEAD, MAX_BODY)
        self._kept: list[tuple[int, dict, int]] = []  # (key, message, bytes) without an answer
        self._kept_bytes = 0
        self._key = 0
        self._work = asyncio.Event()  # the writer has something to do
        self._room = asyncio.Event()  # something moved: whoever waits for room looks again
        self._ready = False  # registered: kept messages may go out
        self._heard = True  # since the last look
        self._reading = False

    # -- the life of a link --

    async def open(self) -> None:
        """Connect, and see that the manager is there. KeyferryError, OSError, ValueError,
        EOFError."""
        self._client.new_link()
        self._framing = Reader(MAX_HEAD, MAX_BODY)
        self._reader, self._writer = await self._opener()
        # A keep-alive before all else: the errors of the handshake come up here, and not later.
        self._writer.write(_PING)
        await asyncio.wait_for(self._writer.drain(), ANSWER_TIMEOUT)
        if await asyncio.wait_for(self._reader.readexactly(2), ANSWER_TIMEOUT) != b"\r\n":
            raise DecodeError("sip: expected CRLF")

    async def run(self, handler: "Callable[[Any], Awaitable]") -> None:
        """Hand what comes to ``handler``, for ``decode``, until the link ends: always with an
        exception. While ``handler`` takes its time nothing more is read."""
        reading = asyncio.current_task()
        failed: list[str] = []
        writer = asyncio.create_task(self._write_all(reading, failed))
        watch = asyncio.create_task(self._watch(reading, failed, handler))
        try:
            while True:
                message = self._framing.next_message()
                if message is not None:
                    await handler(message)
                    continue
                missing = self._framing.missing
                if missing > _LARGE and not _has_room(_NEED * missing):
                    await self._skip(missing, handler)
                    continue
                self._reading = True
                data = await self._reader.read(_PIECE)
                self._reading = False
                if not data:
                    raise EOFError
                self._heard = True
                self._framing.feed(data)
        except asyncio.CancelledError:
            if failed:
                raise LinkError(failed[0], "timeout") from None
            raise
        finally:
            self._ready = False
            writer.cancel()
            watch.cancel()

    async def close(self, politely: bool = False) -> None:
        """Close the link if there is one; ``politely`` with an end of the registration. Never
        raises."""
        writer, self._writer = self._writer, None
        self._ready = False
        self._room.set()
        if writer is None:
            return
        try:
            if politely:
                self._client.leave(clock.uptime())
                while self._client.out:
                    writer.write(self._client.out.pop(0))
                await asyncio.wait_for(writer.drain(), 2)
        except Exception:
            pass  # it is gone already, which is what was wanted
        try:
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), 2)
        except Exception:
            pass

    # -- signalling as payloads --

    @staticmethod
    def encode(message: dict) -> dict:
        """What ``send`` and ``keep`` take: it becomes a message of SIP when there is a link."""
        return message

    def decode(self, payload: "Any") -> dict | None:
        """The signalling in what ``run`` hands over, if it is any. DecodeError."""
        if isinstance(payload, dict):
            return payload  # what the client says itself: no answer came
        try:
            return self._client.receive(payload, clock.uptime())
        finally:
            self._settle()
            self._work.set()

    # -- sending --

    async def send(self, payload: dict) -> None:
        """Send once. LinkError when there is no link."""
        while len(self._client.out) >= QUEUE and self._writer is not None:
            self._room.clear()
            await self._room.wait()
        if self._writer is None:
            raise LinkError("there is no link")
        self._put(payload, 0)

    async def keep(self, payload: dict, wait: bool = True) -> None:
        """Send, again after each new link until it was answered.

        Waits for room, for hours if there is no link. With ``wait`` False it does not: for
        answers given from inside ``run``'s handler, whose number is bounded elsewhere.
        """
        size = len(payload.get(s.RECORD, b""))
        while wait and not self._fits(size):
            self._room.clear()
            await self._room.wait()
        self._key += 1
        self._kept.append((self._key, payload, size))
        self._kept_bytes += size
        if self._ready:
            self._put(payload, self._key)

    def resume(self) -> None:
        """The link is registered: send what an earlier link left without an answer."""
        self._ready = True
        for key, message, _ in list(self._kept):
            self._put(message, key)
        self._room.set()

    async def flush(self, seconds: int) -> None:
        """Wait until all that was sent has been written and answered, so long at most."""
        for _ in range(seconds * 20):
            if self._writer is None or not (self._client.out or self._kept):
                return
            await asyncio.sleep(0.05)

    # -- inside --

    def _fits(self, length: int) -> bool:
        if not self._ready or len(self._kept) >= WINDOW:
            return False
        return not self._kept or self._kept_bytes + length <= WINDOW_BYTES

    def _put(self, message: dict, key: int) -> None:
        try:
            self._client.send(message, clock.uptime(), key)
        except BaseException:
            self._client.settled.append(key)
            raise
        finally:
            self._settle()
            self._work.set()

    def _settle(self) -> None:
        """What was answered is kept no longer."""
        settled, self._client.settled = self._client.settled, []
        for key in settled:
            for at in range(len(self._kept)):
                if self._kept[at][0] == key:
                    self._kept_bytes -= self._kept.pop(at)[2]
                    self._room.set()
                    break

    async def _write_all(self, reading, failed: list[str]) -> None:
        out = self._client.out
        try:
            while True:
                while out:
                    self._writer.write(out.pop(0))
                    self._room.set()
                    await self._writer.drain()
                self._work.clear()
                await self._work.wait()
        except (OSError, ValueError, AttributeError) as error:
            # AttributeError: closed meanwhile
            failed.append("writing failed: " + str(error))
            reading.cancel()

    async def _watch(self, reading, failed: list[str], handler) -> None:
        """Keep-alive (RFC 5626, section 4.4.1), and requests that nobody answers."""
        asked = 0  # uptime: the ping that waits for its answer
        pinged = clock.uptime()
        while True:
            await asyncio.sleep(min(LOOK, self._keep_alive / 2))
            now = clock.uptime()
            heard, self._heard = self._heard, False
            if heard or not self._reading:
                asked = 0
            elif asked and now - asked >= LOOK:
                failed.append("the manager is silent")
                reading.cancel()
                return
            for message in self._client.expire(now):
                await handler(message)
            self._settle()
            every = self._keep_alive
            if self._client.flow_timer:
                every = min(every, self._client.flow_timer * 4 // 5)
            if now - pinged >= every - LOOK // 2 and not asked:
                asked = pinged = now
                self._client.out.append(_PING)
                self._work.set()

    async def _skip(self, length: int, handler) -> None:
        """Let a body pass that there is no memory for."""
        message = self._framing.without_body()
        left = length
        while left:
            piece = await self._reader.read(min(left, _LARGE))
            if not piece:
                raise EOFError
            left -= len(piece)
        self.skipped(length)
        found = None if message is None else self._client.skipped(message, clock.uptime())
        self._settle()
        self._work.set()
        if found is not None:
            await handler(found)
