"""HTTP without TLS on a listener of its own, bounded in connections, for what needs no secrecy."""

import asyncio
from collections import Counter
from typing import Any

from keyferry_manager.carriers.guarded import Guarded
from keyferry_manager.carriers.http import HttpEndpoint
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.counting import count_down


class PlainListener:
    """Plain TCP for an ASGI application. ``connections`` at a time, ``per_address`` of them from
    one address; others are closed at once."""

    def __init__(self, app: Any, connections: int = 64, per_address: int = 64) -> None:
        self._endpoint = HttpEndpoint(app)
        self._server: asyncio.Server | None = None
        self._connections = connections
        self._per_address = per_address
        self._open: Counter[str] = Counter()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Bounded(self), host, port)

    async def stop(self) -> None:
        """Stop listening, and let what is being answered end."""
        if self._server is not None:
            self._server.close()
        await self._endpoint.stop()

    # called by the connections

    def opened(self, transport: asyncio.Transport) -> tuple[str, asyncio.Protocol | None]:
        """The address and a protocol for a connection; None when there are too many."""
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        if self._open.total() >= self._connections or self._open[host] >= self._per_address:
            return host, None
        self._open[host] += 1
        return host, self._endpoint(ChannelPeer(f"{host}:{port}", None))

    def closed(self, host: str) -> None:
        """A connection that ``opened`` took is gone."""
        count_down(self._open, host)


class _Bounded(Guarded):
    """One connection, counted by its address."""

    def __init__(self, owner: PlainListener) -> None:
        super().__init__()
        self._owner = owner
        self._host = ""

    def _admit(self, transport: asyncio.Transport) -> asyncio.Protocol | None:
        self._host, protocol = self._owner.opened(transport)
        return protocol

    def _gone(self) -> None:
        self._owner.closed(self._host)
