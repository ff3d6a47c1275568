"""One accepted TCP connection and the TLS on it, as an asyncio transport.

asyncio has a TLS transport of its own. Three things made us write this one over the public
``ssl.SSLObject``: asyncio's closes the socket before the alert leaves when it refuses a
certificate, so a client never learns why; it keeps a read buffer per connection where one per
listener does; and every write becomes its own record and system call, where a relay wants all
that one turn of the loop has for a link to go out together.
"""

import asyncio
import contextlib
import enum
import ssl
from collections.abc import Callable
from typing import Any, Protocol

# A TLS record carries at most this much plaintext (RFC 8446, section 5.1).
_RECORD = 16384
# Bytes in the socket's send buffer on our side before the protocol above is told to pause.
_HIGH_WATER = 64 * 1024
_LOW_WATER = 16 * 1024
# Seconds to wait for the peer to close after we did. Closing at once would answer bytes still
# under way with a TCP reset, which can throw away the alert or the refusal we have just sent.
_LINGER = 2.0
# Seconds a peer may leave our bytes standing without taking a single one.
_STALL = 30.0


class State(enum.Enum):
    """Where a connection is. It only moves downwards."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


# Looked up for each message, which an enum makes dear.
_HANDSHAKE, _OPEN = State.HANDSHAKE, State.OPEN


class Owner(Protocol):
    """What a connection needs from its listener."""

    buffer: memoryview

    def admit(self, connection: "TlsConnection") -> bool:
        """Whether this connection may start a handshake."""
        ...

    def schedule(self, step: Callable[[], None]) -> None:
        """Run a step of a handshake when it is its turn."""
        ...

    def handshake_done(self, connection: "TlsConnection") -> None:
        """The peer is verified: give the connection its protocol."""
        ...

    def handshake_failed(self, connection: "TlsConnection", error: Exception) -> None:
        """The handshake ended without a peer. Called once, and not after ``handshake_done``."""
        ...

    def closed(self, connection: "TlsConnection") -> None:
        """The socket is gone."""
        ...


class HandshakeTimeout(Exception):
    """The peer did not finish its handshake in time."""


class HandshakeAbandoned(Exception):
    """The peer went away in the middle of its handshake."""


class TlsConnection(asyncio.Transport, asyncio.BufferedProtocol):
    """The protocol of the socket below and the transport of the protocol above.

    ``get_extra_info`` knows ``ssl_object`` and ``sslcontext`` besides what the socket knows.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        owner: Owner,
        handshake_timeout: float,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._owner = owner
        self._context = context
        self._handshake_timeout = handshake_timeout
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._raw: asyncio.Transport | None = None
        self._protocol: asyncio.Protocol | None = None
        self.state = State.HANDSHAKE
        self._admitted = False
        self._failed = False
        self._timer: asyncio.TimerHandle | None = None
        self._app_paused = False  # the protocol above wants no more
        self._raw_paused = False  # what we last told the socket
        self._write_paused = False  # the socket takes no more
        self._stepping = False  # a step of the handshake waits for its turn
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._flush_scheduled = False
        self._stall_mark = 0

    # the protocol of the socket below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake's clock, or drop the connection when the listener is full."""
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        self._admitted = self._owner.admit(self)
        if not self._admitted:
            transport.abort()
            return
        transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)
        self._timer = self._loop.call_later(self._handshake_timeout, self._handshake_late)

    def get_buffer(self, sizehint: int) -> memoryview:
        """One buffer for all connections of a listener: it is empty again when a callback ends."""
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take ciphertext from the socket."""
        if self.state is _OPEN:
            self._incoming.write(self._owner.buffer[:nbytes])
            self._pump()
        elif self.state is _HANDSHAKE and self._admitted:
            self._incoming.write(self._owner.buffer[:nbytes])
            if not self._stepping:
                self._stepping = True
                self._owner.schedule(self._handshake_step)
            # Nothing more is read until the step had its turn, so nothing can pile up.
            self._update_reading()

    def eof_received(self) -> bool | None:
        """The peer closed its side. MicroPython does so without a close_notify."""
        if self.state is _HANDSHAKE:
            self._fail(HandshakeAbandoned("closed by the peer"))
        elif self.state is _OPEN:
            self._peer_closed()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: pass it on."""
        if self.state is _HANDSHAKE and self._admitted:
            self._fail(exc or HandshakeAbandoned("closed by the peer"))
        self.state = State.CLOSED
        self._cancel_timer()
        self._pending.clear()
        self._pending_size = 0
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(exc)
        self._owner.closed(self)

    def pause_writing(self) -> None:
        """The socket's send buffer is full. Reading stops too, so that a peer that never reads
        can make us answer nothing (TLS key updates, MQTT acknowledgements) without bound."""
        self._write_paused = True
        self._update_reading()
        if self.state is _OPEN:
            self._stall_mark = self._raw_backlog()
            self._cancel_timer()
            self._timer = self._loop.call_later(_STALL, self._check_stall)
            if self._protocol is not None:
                self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The socket's send buffer has room again."""
        self._write_paused = False
        if self.state is _OPEN:
            self._cancel_timer()
            if self._protocol is not None:
                self._protocol.resume_writing()
        self._update_reading()

    # the transport of the protocol above

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``ssl_object``, ``sslcontext``, and what the socket knows (``peername`` …)."""
        if name == "ssl_object":
            return self._ssl
        if name == "sslcontext":
            return self._context
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to ``protocol`` from now on. The caller calls its ``connection_made``."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol above."""
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        """Whether ``write`` would be thrown away."""
        return self.state is not _OPEN

    def is_reading(self) -> bool:
        """Whether data would be delivered."""
        return self.state is _OPEN and not self._app_paused

    def pause_reading(self) -> None:
        """Deliver nothing until ``resume_reading``."""
        self._app_paused = True
        self._update_reading()

    def resume_reading(self) -> None:
        """Deliver again, from the next turn of the loop."""
        if self._app_paused:
            self._app_paused = False
            self._update_reading()
            self._loop.call_soon(self._pump)

    def get_write_buffer_size(self) -> int:
        """Bytes written and not yet taken by the system."""
        return self._pending_size + self._raw_backlog()

    def can_write_eof(self) -> bool:
        """TLS closes both directions at once here."""
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, together with all else that this turn of the loop writes."""
        if self.state is not _OPEN or not data:
            return
        self._pending.append(bytes(data))
        self._pending_size += len(data)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Send what is written, then close_notify, then wait shortly for the peer to close."""
        if self.state is _OPEN:
            self._flush()
        if self.state is _OPEN:
            self._close_notify()
            self._drain()
        elif self.state is _HANDSHAKE:
            self.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._raw is not None:
            self._raw.abort()

    # inside

    def _raw_backlog(self) -> int:
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _update_reading(self) -> None:
        """Tell the socket to read exactly when somebody wants what it would bring."""
        if self._raw is None or self._raw.is_closing():
            return
        wanted = self.state is State.DRAINING or not (
            self._app_paused or self._write_paused or self._stepping
        )
        if wanted and self._raw_paused:
            self._raw_paused = False
            self._raw.resume_reading()
        elif not wanted and not self._raw_paused:
            self._raw_paused = True
            self._raw.pause_reading()

    def _send_out(self) -> None:
        data = self._outgoing.read()
        if data and self._raw is not None and not self._raw.is_closing():
            self._raw.write(data)

    def _handshake_step(self) -> None:
        self._stepping = False
        if self.state is not _HANDSHAKE or self._raw is None or self._raw.is_closing():
            return
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._send_out()
            self._update_reading()
            return
        except ssl.SSLError as error:
            self._send_out()  # the alert
            self._fail(error)
            self._drain()
            return
        self._send_out()
        self._cancel_timer()
        self.state = State.OPEN
        try:
            self._owner.handshake_done(self)
        except Exception as error:
            self._our_fault("the protocol did not start", error)
            return
        if self._write_paused and self._protocol is not None:
            self._protocol.pause_writing()
        self._update_reading()
        self._pump()  # the client's first bytes may have come with its last handshake message

    def _handshake_late(self) -> None:
        if self.state is _HANDSHAKE:
            self._fail(HandshakeTimeout(f"not done in {self._handshake_timeout:g} s"))
            self.abort()

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._owner.handshake_failed(self, error)

    def _pump(self) -> None:
        """Decrypt and deliver while somebody wants it."""
        while self.state is _OPEN and not self._app_paused:
            try:
                data = self._ssl.read(_RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self._send_out()  # the alert
                self._broken(error)
                return
            if not data:  # close_notify
                self._peer_closed()
                if self._raw is not None:
                    self._raw.close()
                return
            assert self._protocol is not None
            try:
                self._protocol.data_received(data)
            except Exception as error:  # a fault of ours ends this connection and no other
                self._our_fault("data_received failed", error)
                return
            # Asking OpenSSL for what is not there costs as much as delivering a message.
            if not self._incoming.pending and not self._ssl.pending():
                break
        if self._outgoing.pending:
            self._send_out()

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self.state is not _OPEN or not self._pending:
            return
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        self._pending_size = 0
        view = memoryview(data)
        done = 0
        try:
            while done < len(data):
                done += self._ssl.write(view[done:])
        except ssl.SSLError as error:
            self._broken(error)
            return
        self._send_out()

    def _close_notify(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # it wants the peer's, which we do not wait for
            self._ssl.unwrap()
        self._send_out()

    def _peer_closed(self) -> None:
        """The peer says no more: answer in kind, the socket is closed by the caller."""
        self._flush()
        if self.state is _OPEN:
            self._close_notify()
            self.state = State.DRAINING
            self._start_linger()

    def _drain(self) -> None:
        """Say no more, and read until the peer has closed as well."""
        self.state = State.DRAINING
        if self._raw is None or self._raw.is_closing():
            return
        self._start_linger()
        try:
            self._raw.write_eof()
        except OSError:
            self._raw.abort()
            return
        self._update_reading()

    def _start_linger(self) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(_LINGER, self.abort)

    def _our_fault(self, message: str, error: Exception) -> None:
        context = {"message": message, "exception": error, "transport": self}
        self._loop.call_exception_handler(context)
        self._broken(error)

    def _broken(self, error: Exception) -> None:
        """TLS failed after the handshake, or our own code did: nothing more can be said."""
        self._cancel_timer()
        if self._protocol is not None:
            protocol, self._protocol = self._protocol, None
            self._loop.call_soon(protocol.connection_lost, error)
        self._drain()

    def _check_stall(self) -> None:
        self._timer = None
        backlog = self._raw_backlog()
        if self.state is not _OPEN or not self._write_paused:
            return
        if backlog >= self._stall_mark:
            self.abort()
            return
        self._stall_mark = backlog
        self._timer = self._loop.call_later(_STALL, self._check_stall)
