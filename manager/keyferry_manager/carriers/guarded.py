"""A plain connection that goes on to the protocol above it only if there is room for it."""

import asyncio
from abc import ABC, abstractmethod


class Guarded(asyncio.Protocol, ABC):
    """Stands before the protocol that ``_admit`` gives it; drops a connection that gets none."""

    def __init__(self) -> None:
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None

    @abstractmethod
    def _admit(self, transport: asyncio.Transport) -> asyncio.Protocol | None:
        """The protocol for this connection; None for one that may not stay."""

    @abstractmethod
    def _gone(self) -> None:
        """The connection is over. Called only for one that was admitted."""

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    # the transport's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._inner = self._admit(transport)
        if self._inner is None:
            transport.abort()
        else:
            self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is not None:
            self._gone()
            self._inner.connection_lost(exc)
