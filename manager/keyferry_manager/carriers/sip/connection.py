"""One TLS connection that carries SIP: who is at its end, framing, rate, time, and its end.

What the messages mean is ``SipLink``'s, which is made of this.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from keyferry_core.errors import RemoteError
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError
from keyferry_manager.carriers.sip.reading import LinkReader
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.identity import IdentityRefused

if TYPE_CHECKING:
    from keyferry_manager.carriers.sip.endpoint import SipEndpoint

_PER_TURN = 32


class Connection(asyncio.Protocol, ABC):
    """First whoever connected, then the link of a device: once ``_joined`` was called."""

    def __init__(self, endpoint: "SipEndpoint", peer: ChannelPeer, transport: int) -> None:
        self.endpoint = endpoint
        self.host = endpoint.host
        self._realm = endpoint.realm
        self._settings = endpoint.settings
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._reader = LinkReader(self._settings.max_body)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._online = False
        self._ended = False
        self._counted = False
        self._paused = False
        self._heard_at = self._begun_at = self._loop.time()
        self._bucket = float(self._settings.requests_per_second)
        self._bucket_at = self._heard_at
        self._certificate_ends = 0.0
        # What is written at the end of this turn of the loop.
        self._out: list[bytes] = []
        self.name = ""
        self.address = peer.address
        self.transport = transport
        self.certificate_der = peer.certificate_der or b""
        # What Record-Route says of us on this side.
        self.own_route = b""
        self._here = b""

    # what it is made for

    @abstractmethod
    def send(self, payload: bytes) -> bool:
        """The relay's link, as is ``close``."""

    @abstractmethod
    def close(self) -> None:
        """Send what can be sent, and end the link."""

    @abstractmethod
    def _joined(self) -> None:
        """It is the link of ``name`` now."""

    @abstractmethod
    def _handle(self, message: Message) -> None:
        """A whole message came."""

    @abstractmethod
    def _unreadable(self, error: SipError) -> None:
        """What follows cannot be framed: answer what can be answered."""

    @abstractmethod
    def _overdue(self, now: float) -> str:
        """Once a second: end what has waited too long. Why the connection must end, "" if not."""

    @abstractmethod
    def _gone(self) -> None:
        """Nothing more goes either way."""

    # the transport's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for its first word: whoever says nothing costs no look-up and takes nobody's
        place."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        host, port = transport.get_extra_info("sockname")[:2]
        self._here = (f"[{host}]" if ":" in host else host).encode()
        self.own_route = b"<sip:" + self._here + f":{port};transport=tls;lr>".encode()
        most = self._settings.waiting_per_certificate
        if not self.endpoint.arrivals.enter(self.certificate_der, most):
            self._ended = True
            self.refused("too-many", "connections of one certificate that wait")
            transport.abort()
            return
        self._counted = True
        self._timer = self._loop.call_later(self._settings.message_timeout, self._silent)

    def _silent(self) -> None:
        self._timer = None
        self.refused("not-registered", "nothing came")
        self._close("not-registered")

    def _begin(self) -> None:
        """Look up who it is; nothing is handled before that is known."""
        assert self._transport is not None
        self._transport.pause_reading()
        self._task = self.endpoint.arrivals.look_up(self._identify(), "sip-identify")

    async def _identify(self) -> None:
        try:
            identity = await self.host.identify(self._peer)
        except IdentityRefused as refusal:
            self.name = refusal.name
            self.refused(refusal.reason, refusal.detail)
            self._close(refusal.reason)
            return
        if self._ended:
            return
        self.name = identity.name
        now = self._loop.time()
        # A certificate opens the link, so the link ends with it.
        self._certificate_ends = now + identity.expires_at - time.time()
        try:
            self.host.link_up(self)
        except RemoteError as error:
            self.refused(error.name, error.detail)
            self._close(error.name)
            return
        self._joined()
        self._online = True
        self._count_out()
        self._heard_at = self._begun_at = now
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(1.0, self._check_times)
        self._resume_reading()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the device."""
        if self._ended:
            return
        self._heard_at = self._loop.time()
        if not self._reader.waiting:
            self._begun_at = self._heard_at
        self._reader.feed(data)
        if self._task is None:
            self._begin()
        elif self._online and self._resume is None:
            self._handle_messages()

    def eof_received(self) -> bool | None:
        """The device closed; the transport does the rest."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._task is not None:
            self._task.cancel()
        self._end("lost" if exc is None else f"lost: {exc}")

    def pause_writing(self) -> None:
        """The device reads too slowly: take nothing more from it, and no messages for it."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The transport has room."""
        self._paused = False
        self._resume_reading()

    # what the device sends

    def _handle_messages(self) -> None:
        turn = _PER_TURN
        while not self._ended and not self._paused:
            try:
                message = self._reader.next_message()
            except SipError as error:
                self.refused("sip-malformed", error.detail)
                self._unreadable(error)
                self._close("sip-malformed")
                return
            if self._reader.pings:
                self._reader.ponged()
                self.write(b"\r\n")
            if message is None:
                return
            self._begun_at = self._loop.time()
            self._handle(message)
            turn -= 1
            self._bucket -= 1.0
            if self._bucket < 1.0:
                now = self._loop.time()
                rate = self._settings.requests_per_second
                self._bucket = min(float(rate), self._bucket + (now - self._bucket_at) * rate)
                self._bucket_at = now
            if turn <= 0 or self._bucket < 1.0:
                # Others first. What is in the reader stays there; no more is read meanwhile.
                wait = 0.0 if self._bucket >= 1.0 else 32.0 / self._settings.requests_per_second
                if self._transport is not None:
                    self._transport.pause_reading()
                self._resume = self._loop.call_later(wait, self._continue)
                return

    def _continue(self) -> None:
        self._resume = None
        self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._online or self._ended or self._paused or self._resume is not None:
            return
        self._handle_messages()
        if self._transport is not None and not self._ended and self._resume is None:
            self._transport.resume_reading()

    # time and end

    @property
    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    def _check_times(self) -> None:
        """Once a second: what has waited too long."""
        self._timer = None
        now = self._loop.time()
        settings = self._settings
        reason = self._overdue(now)
        self.endpoint.tick(now)
        if now >= self._certificate_ends:
            reason = "certificate-expired"
        elif self._reader.waiting and now - self._begun_at > settings.message_timeout:
            reason = "message-timeout"
        if reason:
            self.refused(reason, "the connection is closed")
            self._close(reason)
            return
        if not self._ended:
            self._timer = self._loop.call_later(1.0, self._check_times)

    def write(self, data: bytes) -> None:
        """All that one turn of the loop has for this device goes out at once."""
        if self._ended:
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(b"".join(out))

    def refused(self, event: str, detail: str) -> None:
        """Write down something that the device must not do."""
        self.host.refused(event, self.name, self.address, detail)

    def _close(self, reason: str) -> None:
        self._flush()
        self._end(reason)
        if self._transport is not None:
            self._transport.close()

    def _end(self, reason: str) -> None:
        online = self._online
        self._leave()
        if online:
            self.host.link_down(self, False, reason)

    def _leave(self) -> None:
        self._online = False
        self._ended = True
        self._count_out()
        for timer in (self._timer, self._resume):
            if timer is not None:
                timer.cancel()
        self._timer = None
        self._out.clear()
        self._gone()

    def _count_out(self) -> None:
        if self._counted:
            self._counted = False
            self.endpoint.arrivals.leave(self.certificate_der)
