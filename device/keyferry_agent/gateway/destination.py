"""The device behind a gateway: it answers, feeds streams, and lets TCP through to its ports."""

import asyncio
import json

from keyferry_agent.gateway.exchange import ASK, CHUNK, OPEN, TYPE, Channel, Exchange, check_path
from keyferry_core.errors import DecodeError, KeyferryError, RemoteError
from keyferry_core.names import subject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from keyferry_agent.sessions import PeerSession

# Bytes of a whole answer.
MAX_ANSWER = 32768
_CONNECT_SECONDS = 10
# Seconds for the one end of a connection to follow the other.
_LINGER_SECONDS = 60
_BYTES, _TEXT, _JSON = range(3)  # of exchange.TYPES


class Destination:
    """What this device offers in sessions that others begin.

    ``answer(path, asking)`` returns a dict or list (sent as JSON), a str or bytes, at most 32 KiB,
    or None where there is nothing. ``stream(path, asking, emit)`` awaits ``emit(item)`` for each
    item, at most 512 bytes of the same kinds; ``emit`` waits while the reader is slow. Both are
    coroutines, and ``asking`` is who asks: ``NAME``, or ``GATEWAY for NAME``. ``ports``: numbers
    of local TCP ports that may be reached, none by default. ``events(event, **fields)`` is told
    when the application's own code fails; who asked is told ``internal``.
    """

    def __init__(
        self,
        answer: "Callable[[str, str], Awaitable[Any]] | None" = None,
        stream: "Callable[[str, str, Any], Awaitable] | None" = None,
        ports: tuple | list = (),
        events: "Callable[..., None] | None" = None,
    ) -> None:
        self._events = events
        self._answer = answer
        self._stream = stream
        self._ports = ports

    def serve(self, session: "PeerSession") -> Exchange:
        """Serve ``session`` on the side, until it ends."""
        asking = subject(session.peer, session.on_behalf_of)

        async def serve(channel: Channel) -> None:
            try:
                await self._serve(channel, asking)
            except KeyferryError:
                raise
            except Exception as error:
                if self._events is not None:
                    self._events(
                        "answer-failed", asking=asking, error=type(error).__name__ + str(error.args)
                    )
                raise

        return Exchange(session, serve)

    async def _serve(self, channel: Channel, asking: str) -> None:
        if channel.kind == OPEN:
            await self._forward(channel)
            return
        try:
            path = check_path(channel.content.decode())
        except UnicodeError:
            raise DecodeError("path: not text") from None
        if channel.kind == ASK:
            found = None if self._answer is None else await self._answer(path, asking)
            if found is None:
                raise RemoteError("unknown-name", "nothing at this path")
            kind, data = _encoded(found)
            if len(data) > MAX_ANSWER:
                raise RemoteError("too-large", "an answer of more than 32 KiB")
            await channel.send(bytes((kind,)) + len(data).to_bytes(4, "big"), TYPE)
            await channel.send_all(data)
            return
        if self._stream is None:
            raise RemoteError("unknown-name", "no streams here")

        typed = False

        async def emit(item: "Any") -> None:
            nonlocal typed
            kind, data = _encoded(item)
            if not typed:
                typed = True
                await channel.send(bytes((kind,)), TYPE)
            if len(data) > CHUNK:
                raise RemoteError("too-large", "an item of more than 512 bytes")
            await channel.send(data)

        await self._stream(path, asking, emit)

    async def _forward(self, channel: Channel) -> None:
        port = int.from_bytes(channel.content, "big")
        if port not in self._ports:
            raise RemoteError("access-denied", "port " + str(port))
        try:
            opening = asyncio.open_connection("127.0.0.1", port)
            reader, writer = await asyncio.wait_for(opening, _CONNECT_SECONDS)
        except (OSError, asyncio.TimeoutError):
            raise RemoteError("peer-offline", "nothing listens on the port") from None
        await channel.send(bytes((_BYTES,)), TYPE)
        await join(channel, reader, writer)


async def join(channel: Channel, reader: "Any", writer: "Any") -> None:
    """Copy both ways between a channel and a connection until both ends are done; closes the
    connection.
    """
    sending = asyncio.create_task(_send(channel, reader))
    try:
        while True:
            data = await channel.recv()
            if data is None:
                break
            writer.write(data)
            await writer.drain()
        if hasattr(writer, "can_write_eof") and writer.can_write_eof():
            writer.write_eof()
        await asyncio.wait_for(sending, _LINGER_SECONDS)
    except asyncio.TimeoutError:
        await channel.give_up("timeout")
    except OSError:
        await channel.give_up("peer-gone")
    finally:
        sending.cancel()
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


async def _send(channel: Channel, reader: "Any") -> None:
    try:
        while True:
            data = await reader.read(CHUNK)
            if not data:
                break
            await channel.send(data)
        await channel.finish()
    except OSError:
        await channel.give_up("peer-gone")
    except KeyferryError:
        pass  # told to whoever receives


def _encoded(item: "Any") -> tuple[int, bytes]:
    if isinstance(item, bytes):
        return _BYTES, item
    if isinstance(item, str):
        return _TEXT, item.encode()
    return _JSON, json.dumps(item).encode()
