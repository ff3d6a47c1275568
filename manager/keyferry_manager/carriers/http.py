"""HTTP/1.1 on verified links: uvicorn's protocol, fed by the TLS listener.

uvicorn does no TLS here and opens no socket. Each connection's ChannelPeer goes into the ASGI
scope as ``scope["extensions"]["keyferry"]["peer"]``, first-hand; no header is asked who it is.
"""

import asyncio
import logging
from email.utils import formatdate
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.logs import log

_LOG = logging.getLogger("keyferry.http")
# Seconds in which a request's head must be complete, from the handshake or the last response.
_HEAD_TIMEOUT = 10.0
# Bytes of a request's head.
_MAX_HEAD = 16384


class HttpEndpoint:
    """Makes the protocols for one ASGI application: it is a factory for TlsListener."""

    def __init__(self, app: Any) -> None:
        self._config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=_MAX_HEAD,
        )
        self._config.load()
        self._state = ServerState()

    def __call__(self, peer: ChannelPeer) -> asyncio.Protocol:
        """A protocol for one connection."""
        return _HttpProtocol(self._config, self._state, peer)

    async def stop(self, grace: float = 2.0) -> None:
        """Let running requests end for ``grace`` seconds, then cancel them."""
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = list(self._state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)


class _HttpProtocol(H11Protocol):
    def __init__(self, config: uvicorn.Config, state: ServerState, peer: ChannelPeer) -> None:
        super().__init__(config, state, {})
        self.logger = _LOG
        self._peer = peer
        self._timer: asyncio.TimerHandle | None = None
        self._serving = self.app
        self.app = self._serve

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        log(_LOG, logging.INFO, "request-malformed", address=self._peer.address)
        super().send_400_response(msg)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self._cancel()
        scope["extensions"] = {"keyferry": {"peer": self._peer}}
        try:
            await self._serving(scope, receive, send)
        finally:
            self._await_head()

    # uvicorn's own keep-alive timer stops at the first byte: a head sent one byte a minute would
    # hold the connection for ever.

    def _await_head(self) -> None:
        if not self.transport.is_closing():
            self._timer = self.loop.call_later(_HEAD_TIMEOUT, self.transport.close)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
