"""Where the API is reached: a Unix socket in the home, and TCP where ``api.listen`` names it.

Over the socket the kernel says who asks: the manager's own user, or root, and both may do
everything. Over TCP each request has a token. Beyond this machine there is TLS, or no listener.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import stat
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp

from keyferry_manager.api.address import short_path
from keyferry_manager.api.guard import LocalPeer
from keyferry_manager.carriers.guarded import Guarded
from keyferry_manager.carriers.http import HttpEndpoint
from keyferry_manager.carriers.tls import ChannelPeer, Refusal, TlsLimits, TlsListener
from keyferry_manager.logs import log
from keyferry_manager.problems import ConfigProblem

_LOG = logging.getLogger("keyferry.api")
# Connections of one listener.
_CONNECTIONS = 64
_LIMITS = TlsLimits(
    connections=_CONNECTIONS,
    connections_per_address=_CONNECTIONS,
    handshakes=16,
    handshakes_per_address=16,
)
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Connections(ABC):
    """Counts the connections of one listener; each is an asyncio.Protocol of its own."""

    def __init__(self, endpoint: HttpEndpoint) -> None:
        self._endpoint = endpoint
        self._open: set[_Connection] = set()

    def protocol(self) -> asyncio.Protocol:
        return _Connection(self)

    @abstractmethod
    def identify(self, transport: asyncio.Transport) -> ChannelPeer | None:
        """Who is at the other end, None for whoever may not stay."""

    def opened(
        self, connection: "_Connection", transport: asyncio.Transport
    ) -> asyncio.Protocol | None:
        """The protocol for a connection that may stay, None for one that may not."""
        if len(self._open) >= _CONNECTIONS:
            log(_LOG, logging.WARNING, "api-connection-refused", detail="too many connections")
            return None
        peer = self.identify(transport)
        if peer is None:
            return None
        self._open.add(connection)
        return self._endpoint(peer)

    def closed(self, connection: "_Connection") -> None:
        self._open.discard(connection)

    def abort(self) -> None:
        """Drop every connection."""
        for connection in list(self._open):
            connection.abort()


class _Connection(Guarded):
    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    def _admit(self, transport: asyncio.Transport) -> asyncio.Protocol | None:
        return self._connections.opened(self, transport)

    def _gone(self) -> None:
        self._connections.closed(self)


class _Local(_Connections):
    def __init__(self, endpoint: HttpEndpoint, refused: Callable[[int], None]) -> None:
        super().__init__(endpoint)
        self._refused = refused

    def identify(self, transport: asyncio.Transport) -> ChannelPeer | None:
        sock = transport.get_extra_info("socket")
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in (0, os.geteuid()):
            self._refused(uid)
            return None
        return LocalPeer("local", None, uid)


class _Tcp(_Connections):
    def identify(self, transport: asyncio.Transport) -> ChannelPeer | None:
        name = transport.get_extra_info("peername")
        if not isinstance(name, tuple):
            return None
        host = str(name[0])
        return ChannelPeer(f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}", None)


class UnixListener:
    """The socket in the home: mode 0600, for the manager's user and root."""

    def __init__(self, app: ASGIApp, path: Path, refused: Callable[[int], None]) -> None:
        self.path = path.absolute()
        self._endpoint = HttpEndpoint(app)
        self._connections = _Local(self._endpoint, refused)
        self._server: asyncio.Server | None = None
        self._inode = 0

    async def start(self) -> None:
        """Listen. ConfigProblem when another manager answers there, or it cannot be made."""
        if _answers(self.path):
            raise ConfigProblem(
                f"another manager serves {self.path.parent}: stop it first, or choose another home."
            )
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind(sock)
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._connections.protocol, sock=sock, backlog=_CONNECTIONS
            )
        except OSError as error:
            sock.close()
            raise ConfigProblem(f"cannot listen on {self.path}: {error.strerror}.") from None

    def _bind(self, sock: socket.socket) -> None:
        # Nobody gets through before the mode is right: a socket that does not listen yet refuses.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(self.path.lstat().st_mode):
                self.path.unlink()
        with short_path(self.path) as name:
            sock.bind(name)
        os.chmod(self.path, 0o600)
        self._inode = self.path.stat().st_ino

    def stop_accepting(self) -> None:
        """Take no new connections, and the socket away."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(OSError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()

    async def stop(self) -> None:
        """Let requests end for a moment, then drop every connection."""
        self.stop_accepting()
        await self._endpoint.stop()
        self._connections.abort()


class TcpListener:
    """HTTP on this machine, or HTTPS anywhere."""

    def __init__(
        self,
        app: ASGIApp,
        context: ssl.SSLContext | None,
        on_refused: Callable[[Refusal], None],
    ) -> None:
        self._endpoint = HttpEndpoint(app)
        self._plain = _Tcp(self._endpoint)
        self._server: asyncio.Server | None = None
        self._tls: TlsListener | None = None
        if context is not None:
            self._tls = TlsListener("api", context, self._endpoint, on_refused, _LIMITS)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._tls is not None:
            return self._tls.port
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Listen. ConfigProblem beyond this machine without TLS, or when it cannot."""
        if self._tls is None and not is_loopback(host):
            raise ConfigProblem(
                f"api.listen: {host} is reached from other machines, and tokens would cross the "
                'network in the clear: set api.tls = "server", or listen on 127.0.0.1.'
            )
        try:
            if self._tls is not None:
                await self._tls.start(host, port)
                return
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                self._plain.protocol, host, port, backlog=_CONNECTIONS
            )
        except OSError as error:
            raise ConfigProblem(
                f"cannot listen on {host} port {port}: {error.strerror}. Change api.listen, or "
                "stop what has the port."
            ) from None

    def replace_context(self, context: ssl.SSLContext) -> None:
        """Use ``context`` for connections from now on."""
        if self._tls is not None:
            self._tls.replace_context(context)

    def stop_accepting(self) -> None:
        """Take no new connections."""
        if self._tls is not None:
            self._tls.stop_accepting()
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Let requests end for a moment, then drop every connection."""
        self.stop_accepting()
        await self._endpoint.stop()
        if self._tls is not None:
            await self._tls.stop()
        self._plain.abort()


def _answers(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(2.0)
        try:
            with short_path(path) as name:
                sock.connect(name)
        except TimeoutError:
            return True
        except OSError:
            return False
        return True
