"""The API of one running manager: its application and its listeners."""

import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack

from keyferry_manager.api.address import SOCKET_NAME
from keyferry_manager.api.application import application
from keyferry_manager.api.guard import Guard, user_name
from keyferry_manager.api.listeners import TcpListener, UnixListener
from keyferry_manager.audit import AuditTrail
from keyferry_manager.config import Config, split_address
from keyferry_manager.store import Store


class AdminApi:
    """Starts with the manager and stops with it. ``context`` makes the TLS of ``api.tls``."""

    def __init__(
        self,
        config: Config,
        store: Store,
        trail: AuditTrail,
        context: Callable[[], ssl.SSLContext],
    ) -> None:
        self._config = config
        self._trail = trail
        self._context = context
        self._app = app = application(config, store)

        def guard() -> Guard:
            # One each, so that whoever fills TCP leaves the operator the socket.
            return Guard(app, store.api_tokens, trail.refused)

        self._unix = UnixListener(guard(), config.home / SOCKET_NAME, self._refused_user)
        self.tcp: TcpListener | None = None
        if config.api_listen:
            made = context() if config.api_tls == "server" else None
            self.tcp = TcpListener(guard(), made, trail.connection_refused)

    async def start(self, stack: AsyncExitStack) -> None:
        """Listen until ``stack`` is closed."""
        stack.push_async_callback(self._unix.stop)
        await self._unix.start()
        if self.tcp is not None:
            host, port = split_address(self._config.api_listen, "api.listen")
            stack.push_async_callback(self.tcp.stop)
            await self.tcp.start(host, port)

    def adopt(self, config: Config) -> None:
        """Go by other settings from now on; where it listens is in force from the next start."""
        self._app.state.config = config

    def renew(self) -> None:
        """Use the manager's new certificate."""
        if self.tcp is not None and self._config.api_tls == "server":
            self.tcp.replace_context(self._context())

    @property
    def port(self) -> int | None:
        """The port of TCP, if there is one."""
        return None if self.tcp is None else self.tcp.port

    def _refused_user(self, uid: int) -> None:
        self._trail.refused(
            "api-refused", "", "local", f"user {user_name(uid)} is not the manager's"
        )
