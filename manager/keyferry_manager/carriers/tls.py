"""The TLS listener that MQTT and EST share: who may connect, how often, and who it was.

The manager ends every TLS link itself, so the verified leaf certificate and the socket's own peer
address are seen first-hand. They are a link's whole identity: never a header, never a payload.
"""

import asyncio
import ssl
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyferry_manager.carriers.tls_connection import (
    HandshakeAbandoned,
    HandshakeTimeout,
    TlsConnection,
)
from keyferry_manager.counting import count_down
from keyferry_manager.observe.measures import Histogram

_READ_BUFFER = 16384

# X509_V_ERR_* of OpenSSL, which the ssl module passes on as verify_code
_BAD_SIGNATURE = 7
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_CA = (2, 18, 19, 20, 21, 24, 27, 79)
_REVOKED = 23
_WRONG_PURPOSE = 26


# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
_ENCODING_DER = 2  # _ssl.ENCODING_DER


@dataclass(frozen=True, slots=True)
class ChannelPeer:
    """Who is at the other end of a link: first-hand facts only.

    ``address`` is ``HOST:PORT`` (``[HOST]:PORT`` for IPv6) of the socket's peer.
    ``certificate_der`` is the leaf certificate that the TLS handshake verified, None when none
    was presented.
    """

    address: str
    certificate_der: bytes | None

    @property
    def host(self) -> str:
        """The address without the port and without brackets."""
        return self.address.rpartition(":")[0].strip("[]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A connection that did not get through its handshake. ``reason`` is one kebab-case word.

    ``certificate_der`` is a leaf that was refused as revoked. Its signature was not looked at.
    """

    listener: str
    address: str
    reason: str
    detail: str
    certificate_der: bytes | None = None


@dataclass(frozen=True, slots=True)
class TlsLimits:
    """Bounds on what strangers can hold. Times in seconds."""

    connections: int = 10_000
    connections_per_address: int = 2_000
    handshakes: int = 512
    handshakes_per_address: int = 128
    handshake_timeout: float = 10.0


ProtocolFactory = Callable[[ChannelPeer], asyncio.Protocol]


def server_context(
    certificate_file: Path,
    trusted: Sequence[bytes],
    *,
    certificate_required: bool,
    check_dates: bool = True,
    revoked: bytes = b"",
) -> ssl.SSLContext:
    """A context for TLS 1.2 and 1.3 that asks for a client certificate under ``trusted`` (DER).

    ``certificate_file`` is a PEM file with our private key and our certificate chain. Without
    ``certificate_required`` a client may come with none, but never with a bad one. Without
    ``check_dates`` whoever takes a certificate from here must look at its dates. ``revoked`` is
    a revocation list, PEM, of who issues to the clients: it must never end, for OpenSSL takes
    nobody under a list that did.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # TLS 1.2; 1.3 has only good ones
    # Every handshake shows the certificate anew: no tickets, so no resumption in TLS 1.3.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF  # MicroPython sends no close_notify
    context.load_cert_chain(certificate_file)
    context.load_verify_locations(cadata=b"".join(trusted))
    if not check_dates:
        context.verify_flags |= _NO_CHECK_TIME
    if revoked:
        with tempfile.NamedTemporaryFile() as file:  # ssl reads lists from files only
            file.write(revoked)
            file.flush()
            context.load_verify_locations(file.name)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.verify_mode = ssl.CERT_REQUIRED if certificate_required else ssl.CERT_OPTIONAL
    return context


def refusal_reason(error: Exception) -> tuple[str, str]:
    """One word for why a handshake failed, and the detail for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code == _EXPIRED:
            return "certificate-expired", error.verify_message
        if code == _NOT_YET_VALID:
            return "certificate-not-yet-valid", error.verify_message
        if code == _BAD_SIGNATURE:
            return "bad-signature", error.verify_message
        if code in _UNKNOWN_CA:
            return "unknown-ca", error.verify_message
        if code == _REVOKED:
            return "certificate-revoked", error.verify_message
        if code == _WRONG_PURPOSE:
            return "wrong-purpose", error.verify_message
        return "bad-certificate", error.verify_message
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return "no-certificate", "the client presented no certificate"
        detail = reason.lower().replace("_", " ") or str(error)
        if "ALERT" in reason:
            return "refused-by-client", detail
        return "not-our-tls", detail
    if isinstance(error, HandshakeTimeout):
        return "timeout", str(error)
    if isinstance(error, HandshakeAbandoned):
        return "abandoned", str(error)
    return "connection-lost", str(error)


def _address(connection: TlsConnection) -> tuple[str, str]:
    """``(host, HOST:PORT)`` of a connection's peer."""
    peername = connection.get_extra_info("peername")
    if not isinstance(peername, tuple):
        return "", ""
    host = str(peername[0]).partition("%")[0]
    return host, f"[{host}]:{peername[1]}" if ":" in host else f"{host}:{peername[1]}"


class TlsListener:
    """Accepts TCP, does the handshakes one at a time, and gives each verified peer a protocol.

    ``factory(peer)`` makes the protocol; its ``connection_made`` is called by the listener.
    ``on_refused`` hears of every connection that does not get that far; it must not block.
    """

    def __init__(
        self,
        name: str,
        context: ssl.SSLContext,
        factory: ProtocolFactory,
        on_refused: Callable[[Refusal], None],
        limits: TlsLimits | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or TlsLimits()
        # Handshakes that succeeded, by their time, and those that did not, by reason.
        self.handshake_seconds = Histogram()
        self.refusals: Counter[str] = Counter()
        # Every connection of this listener reads into this one buffer, and empties it at once.
        self.buffer = memoryview(bytearray(_READ_BUFFER))
        self._context = context
        self._factory = factory
        self._on_refused = on_refused
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: dict[TlsConnection, tuple[str, str]] = {}
        self._per_host: Counter[str] = Counter()
        self._handshaking: dict[TlsConnection, tuple[str, float]] = {}
        self._handshaking_per_host: Counter[str] = Counter()
        self._steps: deque[Callable[[], None]] = deque()
        self._idle: asyncio.Event | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Connections held now, in any state."""
        return len(self._connections)

    @property
    def handshakes(self) -> int:
        """Handshakes in progress."""
        return len(self._handshaking)

    async def start(self, host: str, port: int) -> None:
        """Listen on ``host`` and ``port`` (0: any free one). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._idle = asyncio.Event()
        self._idle.set()

        def accept() -> TlsConnection:
            return TlsConnection(loop, self._context, self, self.limits.handshake_timeout)

        self._server = await loop.create_server(accept, host, port, backlog=512)

    def replace_context(self, context: ssl.SSLContext) -> None:
        """Use ``context`` for connections from now on (a new server certificate, say)."""
        self._context = context

    def stop_accepting(self) -> None:
        """Take no new connections; those that are there go on."""
        if self._server is not None:
            self._server.close()

    async def stop(self, grace: float = 0.5) -> None:
        """Close every connection, drop those that are not gone after ``grace`` seconds."""
        self.stop_accepting()
        for connection in list(self._connections):
            connection.close()
        if self._idle is None:
            return
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._idle.wait()

    # called by the connections

    def admit(self, connection: TlsConnection) -> bool:
        """Count a new connection in, or refuse it when a bound is reached."""
        host, address = _address(connection)
        limits = self.limits
        full = ""
        if len(self._connections) >= limits.connections:
            full = "connections"
        elif len(self._handshaking) >= limits.handshakes:
            full = "handshakes"
        elif self._per_host[host] >= limits.connections_per_address:
            full = "connections of one address"
        elif self._handshaking_per_host[host] >= limits.handshakes_per_address:
            full = "handshakes of one address"
        if full:
            self._refuse(address, "too-many", full)
            return False
        assert self._idle is not None
        assert self._loop is not None
        self._idle.clear()
        self._connections[connection] = (host, address)
        self._per_host[host] += 1
        self._handshaking[connection] = host, self._loop.time()
        self._handshaking_per_host[host] += 1
        return True

    def schedule(self, step: Callable[[], None]) -> None:
        """Queue a step of a handshake. One runs per turn of the loop, so that a thousand devices
        that come back at once do not hold up the links that are there."""
        assert self._loop is not None
        self._steps.append(step)
        if len(self._steps) == 1:
            self._loop.call_soon(self._next_step)

    def handshake_done(self, connection: TlsConnection) -> None:
        """Give a verified peer its protocol."""
        began = self._end_handshake(connection)
        if began is not None and self._loop is not None:
            self.handshake_seconds.observe(self._loop.time() - began)
        certificate = connection.get_extra_info("ssl_object").getpeercert(True)
        peer = ChannelPeer(self._connections[connection][1], certificate)
        protocol = self._factory(peer)
        connection.set_protocol(protocol)
        protocol.connection_made(connection)

    def handshake_failed(self, connection: TlsConnection, error: Exception) -> None:
        """Report a handshake that failed."""
        self._end_handshake(connection)
        reason, detail = refusal_reason(error)
        leaf = None
        if reason == "certificate-revoked":
            leaf = _refused_leaf(connection.get_extra_info("ssl_object"))
        self._refuse(self._connections[connection][1], reason, detail, leaf)

    def closed(self, connection: TlsConnection) -> None:
        """Count a connection out."""
        self._end_handshake(connection)
        entry = self._connections.pop(connection, None)
        if entry is not None:
            count_down(self._per_host, entry[0])
        if not self._connections and self._idle is not None:
            self._idle.set()

    # inside

    def _next_step(self) -> None:
        assert self._loop is not None
        step = self._steps[0]
        try:
            step()
        finally:
            self._steps.popleft()
            if self._steps:
                self._loop.call_soon(self._next_step)

    def _end_handshake(self, connection: TlsConnection) -> float | None:
        """When it began, by the loop's clock; None when it had ended before."""
        host, began = self._handshaking.pop(connection, (None, None))
        if host is not None:
            count_down(self._handshaking_per_host, host)
        return began

    def _refuse(
        self, address: str, reason: str, detail: str, certificate_der: bytes | None = None
    ) -> None:
        self.refusals[reason] += 1
        self._on_refused(Refusal(self.name, address, reason, detail, certificate_der))


def _refused_leaf(ssl_object: Any) -> bytes | None:
    """The leaf that OpenSSL built a chain for and then refused.

    ``get_verified_chain`` is public from Python 3.13 on. Before, it is there under another name;
    should it be gone, an audit entry lacks a name, and nothing else depends on it.
    """
    inner = getattr(ssl_object, "_sslobj", None)
    try:
        chain = inner.get_verified_chain() or []  # type: ignore[union-attr]
        return bytes(chain[0].public_bytes(_ENCODING_DER))
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
