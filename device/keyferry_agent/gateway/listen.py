"""HTTPS connections from strangers, bounded in number, size and time, on both runtimes."""

import asyncio
import gc

from keyferry_agent.errors import LinkError
from keyferry_core._compat import CPYTHON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

# Bytes of a request, with its headers; and seconds for TLS and the request to be there.
MAX_REQUEST = 4096
REQUEST_SECONDS = 15
# Seconds for a reader to take what is written.
WRITE_SECONDS = 30
_PIECE = 512
_NO_DELAY = (6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY


class Connection:
    """One connection: reader and writer, as Microdot uses them. ``address``: of the other side;
    ``certificate``: its verified possession, DER or None, once something was read.

    ``waiting``: nobody knows yet who it is, so it may have to make room for another.
    """

    def __init__(self, reader: "Any", writer: "Any", address: str) -> None:
        self.address = address
        self.certificate: bytes | None = None
        self.waiting = True
        self.left = MAX_REQUEST
        self.channel: Any = None  # what it waits for, given up when it goes
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._closed = False

    def get_extra_info(self, what: str) -> object:
        """Microdot asks for "peername"."""
        return (self.address, 0) if what == "peername" else None

    async def readline(self) -> bytes:
        """A line of the request. ValueError when it is too long for one."""
        while True:
            at = self._buffer.find(b"\n") + 1
            if at:
                line, self._buffer = self._buffer[:at], self._buffer[at:]
                return line
            data = await self._reader.read(min(_PIECE, self.left))
            if not data:
                raise EOFError
            self.left -= len(data)
            self._buffer += data
            if self.left <= 0:
                raise ValueError("request: more than 4096 bytes")

    async def readexactly(self, count: int) -> bytes:
        """Requests here have no body."""
        raise ValueError("request: a body")

    async def read(self, count: int) -> bytes:
        """Up to ``count`` bytes that follow the request, b"" at the end."""
        if self._buffer:
            data, self._buffer = self._buffer[:count], self._buffer[count:]
            return data
        return await self._reader.read(count)

    def write(self, data: bytes) -> None:
        """To be followed by ``drain``."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until it is on its way. LinkError when the other side takes nothing."""
        try:
            await asyncio.wait_for(self._drain(), WRITE_SECONDS)
        except asyncio.TimeoutError:
            raise LinkError("the third party reads nothing", "timeout") from None

    async def _drain(self) -> None:
        await self._writer.drain()

    async def awrite(self, data: bytes) -> None:
        """Microdot's way to write."""
        self._writer.write(data)
        await self.drain()

    async def aclose(self) -> None:
        """Microdot's way to close."""
        self.close()
        await self.wait_closed()

    def close(self) -> None:
        """To be followed by ``wait_closed``."""
        if not self._closed:
            self._closed = True
            self._writer.close()

    async def wait_closed(self) -> None:
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # it had gone already


class Listener:
    """Accepts connections and calls ``serve(connection)`` for each, at most ``limit`` at once.

    When they are all taken, the oldest that did not say who it is makes room, else the new one is
    closed: whoever only connects holds nobody up.
    """

    def __init__(
        self,
        certificate: bytes,
        key: bytes,
        clients: list,
        limit: int,
        serve: "Callable[[Connection], Awaitable]",
    ) -> None:
        self._files = certificate, key, clients
        self._limit = limit
        self._serve = serve
        self._open: list[tuple[Connection, asyncio.Task]] = []
        self._server = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, of the system's choice when ``port`` is 0 (CPython only says it).

        ValueError when TLS cannot use certificate and key; OSError.
        """
        more = _server_options(*self._files)
        self._server = server = await asyncio.start_server(self._accept, host, port, **more)
        return server.sockets[0].getsockname()[1] if CPYTHON else port

    async def stop(self) -> None:
        """Close the listener and all connections."""
        if self._server is not None:
            self._server.close()
        for _, task in list(self._open):
            task.cancel()
        if self._server is not None:
            await self._server.wait_closed()

    def count(self) -> int:
        """Connections that are open."""
        return len(self._open)

    async def _accept(self, reader: "Any", writer: "Any") -> None:
        connection = Connection(reader, writer, _address(writer))
        try:
            await self._admit(connection, asyncio.current_task())
        finally:
            connection.close()
            await connection.wait_closed()

    async def _admit(self, connection: Connection, task: "Any") -> None:
        if len(self._open) >= self._limit:
            for known, other in self._open:
                if known.waiting:
                    other.cancel()
                    self._open.remove((known, other))
                    break
            else:
                return
        entry = (connection, task)
        self._open.append(entry)
        try:
            _secure(connection, *self._files)
            await self._serve(connection)
        except (OSError, EOFError, ValueError):
            pass  # it went, or TLS did not come about
        except asyncio.CancelledError:
            pass  # it had to make room, or we stop
        finally:
            if entry in self._open:
                self._open.remove(entry)


if CPYTHON:
    import ssl

    from keyferry_agent.link_cpython import use_identity

    def _server_options(certificate: bytes, key: bytes, clients: list) -> dict:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        use_identity(context, certificate, key)
        if clients:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=b"".join(clients))
        return {"ssl": context, "ssl_handshake_timeout": REQUEST_SECONDS}

    def _secure(connection: Connection, certificate: bytes, key: bytes, clients: list) -> None:
        secure = connection._writer.get_extra_info("ssl_object")
        connection.certificate = secure.getpeercert(True)

    def _address(writer: "Any") -> str:
        return str(writer.get_extra_info("peername")[0])

else:
    import tls

    def _server_options(certificate: bytes, key: bytes, clients: list) -> dict:
        _context(certificate, key, clients, None)  # what is wrong with them shows now
        return {}

    def _context(certificate: bytes, key: bytes, clients: list, seen: "Any") -> "tls.SSLContext":
        context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if clients:
            context.verify_mode = tls.CERT_OPTIONAL  # pyright: ignore[reportAttributeAccessIssue]
            for client in clients:
                context.load_verify_locations(client)
            context.verify_callback = seen  # pyright: ignore[reportAttributeAccessIssue]
        return context

    def _secure(connection: Connection, certificate: bytes, key: bytes, clients: list) -> None:
        """Begin TLS. A context each: its callback is the only sight of a client's certificate.

        Optional verification lets any certificate through, since TLS proves the key all the same;
        the table knows whose it is, and when it ends.
        """

        def seen(encoded: bytes, depth: int) -> int:
            if depth == 0:
                connection.certificate = bytes(encoded)
            return 0

        gc.collect()  # a context takes 3 KiB in one piece, and TLS its buffers
        context = _context(certificate, key, clients, seen)
        plain = connection._reader.s
        plain.setsockopt(*_NO_DELAY)
        secure = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        connection._reader = connection._writer = asyncio.StreamReader(secure)

    def _address(writer: "Any") -> str:
        found = writer.get_extra_info("peername")
        if isinstance(found, tuple):
            return str(found[0])
        # the Unix port gives the system's own structure
        import socket

        try:
            return ".".join([str(byte) for byte in socket.sockaddr(found)[1]])  # pyright: ignore
        except (AttributeError, OSError):
            return bytes(found[4:8]).hex()
