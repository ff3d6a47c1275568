"""The CA as a process: its key, its store, its listener, and nothing else."""

import asyncio
import contextlib
import logging
import ssl
import time
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from keyferry_manager.audit import AuditTrail, BatchWriter
from keyferry_manager.authority import LocalAuthority
from keyferry_manager.ca.operations import Operations
from keyferry_manager.carriers.http import HttpEndpoint
from keyferry_manager.carriers.status import Status
from keyferry_manager.carriers.tls import TlsLimits, TlsListener, server_context
from keyferry_manager.config import Config
from keyferry_manager.logs import log
from keyferry_manager.problems import ConfigProblem
from keyferry_manager.store import Store

_LOG = logging.getLogger("keyferry.ca")
_RENEWAL_CHECK = 3600.0
_LIMITS = TlsLimits(
    connections=1000, connections_per_address=128, handshakes=128, handshakes_per_address=64
)


class CaServer:
    """``keyferry ca serve``: a home of the role ``ca``. ``start`` raises Problem."""

    def __init__(self, home: Path | str) -> None:
        self.config = Config.load(home)
        if self.config.role != "ca":
            raise ConfigProblem(
                f"{home} is the home of a manager: run 'keyferry serve', or make a CA's with "
                "'keyferry init --role ca'."
            )
        self._stack = contextlib.AsyncExitStack()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._listener.port

    async def start(self) -> None:
        """Open the store and the listener."""
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        log(_LOG, logging.INFO, "ca-started", realm=self.config.realm, port=self.port)

    async def stop(self) -> None:
        """Close everything, and write down what is left."""
        await self._stack.aclose()
        log(_LOG, logging.INFO, "ca-stopped")

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        self._store = store = await stack.enter_async_context(Store.open(config.database_url))
        await store.migrate()
        self._authority = authority = LocalAuthority(config)
        await authority.keep_server()
        writer = BatchWriter(store)
        writer.start()
        stack.push_async_callback(writer.stop)
        self._trail = AuditTrail(writer)
        stack.callback(self._trail.finish)
        app = Operations(config, store, authority, writer.entry).app()
        Status(config=config, store=store, authority=authority).add_to(app)
        endpoint = HttpEndpoint(app)
        self._listener = TlsListener(
            "ca", self._context(), endpoint, self._trail.connection_refused, _LIMITS
        )
        stack.push_async_callback(self._listener.stop)
        stack.push_async_callback(endpoint.stop)
        try:
            await self._listener.start(config.listen_host, config.est_port)
        except OSError as error:
            raise ConfigProblem(
                f"cannot listen on {config.listen_host} port {config.est_port}: "
                f"{error.strerror}. Change listen.est_port or listen.host."
            ) from None
        task = asyncio.get_running_loop().create_task(self._look_after())
        stack.push_async_callback(_end, task)

    def _context(self) -> ssl.SSLContext:
        return server_context(
            self._authority.server_file,
            self._authority.trusted_by_links(),
            certificate_required=False,  # lists and CA certificates are for anybody
        )

    async def _look_after(self) -> None:
        """Write down what the listener counted, and renew our own certificate when it is due."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _RENEWAL_CHECK
        while True:
            await asyncio.sleep(1.0)
            self._trail.tick()
            await self._finish_revocations()
            if loop.time() < due:
                continue
            due = loop.time() + _RENEWAL_CHECK
            try:
                if await self._authority.keep_server():
                    self._listener.replace_context(self._context())
            except Exception:  # the old certificate still holds; it is tried again
                _LOG.exception("renewal-failed")

    async def _finish_revocations(self) -> None:
        """Nothing is live here that a revocation could end: it stands, and that is all."""
        try:
            for order in await self._store.life.open_revocations():
                await self._store.life.finish_revocation(order.id, time.time(), 0, 0)
        except (SQLAlchemyError, OSError) as error:
            log(_LOG, logging.ERROR, "store-unavailable", error=type(error).__name__)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
