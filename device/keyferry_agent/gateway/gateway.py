"""The gateway: third parties come in by HTTPS, and go on in sessions with their destinations.

The gateway sees what it hands on, but for what goes through ``ports`` (opaque.py).
"""

import asyncio

from keyferry_agent import clock
from keyferry_agent.gateway import certificate, parties
from keyferry_agent.gateway.exchange import Channel, Exchange
from keyferry_agent.gateway.listen import Connection, Listener
from keyferry_core.errors import KeyferryError, RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from keyferry_agent.agent import Agent
    from keyferry_agent.gateway.parties import Party
    from keyferry_core.suite import Crypto

# Seconds for the link to the manager, and for the session, while a third party waits.
LINK_SECONDS = 30
SESSION_SECONDS = 30
_TICK = 5


class Refused(RemoteError):
    """The gateway itself says no; ``wait`` is for how many seconds."""

    def __init__(self, name: str, detail: str, wait: int = 0) -> None:
        super().__init__(name, detail)
        self.wait = wait


class Gateway:
    """The gateway whose ``gateway.json`` is in ``folder``, beside the agent's own files.

    ``make_agent()`` gives an agent that was not started; it is started when the first third party
    wants something, and with ``link_idle`` stopped when nobody did for so long. Or ``agent``: one
    that runs, and is used. ``events(event, **fields)`` as for the agent; no field is a secret.
    """

    def __init__(
        self,
        folder: str,
        events: "Callable[..., None]",
        crypto: "Crypto",
        make_agent: "Callable[[], Agent] | None" = None,
        agent: "Agent | None" = None,
    ) -> None:
        self.folder = folder if folder.endswith("/") else folder + "/"
        self.event = events
        self.table = parties.load(self.folder)
        self.failures = parties.Failures()
        self.listener: Listener | None = None
        self._crypto = crypto
        self._make_agent = make_agent
        self._agent = agent
        self._up: asyncio.Event | None = None  # while it starts
        self._failed: KeyferryError | None = None
        self._exchanges: dict[tuple[str, str], list] = {}  # [Event, Exchange or error, last used]
        self._used = 0
        self._task: Any = None
        self._starting: Any = None

    # -- for the application --

    async def start(self) -> int:
        """Listen. The port. ConfigError, OSError."""
        from keyferry_agent.gateway import pages

        table = self.table
        found = certificate.obtain(self.folder, table.hosts, self._crypto, self.event)
        serve = pages.server(self)
        self.listener = Listener(*found, table.certificates(), table.connections, serve)
        try:
            port = await self.listener.start(table.host, table.port)
        except ValueError as error:
            raise parties.ConfigError("gateway.crt, gateway.key: " + str(error)) from None
        self._task = asyncio.create_task(self._upkeep())
        self.event("gateway-listens", host=table.host, port=port, third_parties=len(table.parties))
        return port

    async def stop(self) -> None:
        """Close the listener, the sessions, and the link if it was made on demand."""
        if self._task is not None:
            self._task.cancel()
        if self.listener is not None:
            await self.listener.stop()
        for key in list(self._exchanges):
            await self._close(key)
        if self._make_agent is not None and self._agent is not None:
            await self._agent.stop()

    # -- for pages and opaque --

    def authenticate(self, connection: Connection, header: str) -> "Party":
        """Who is on ``connection``, by its certificate or ``header``. Refused."""
        wait = self.failures.wait(connection.address)
        if wait:
            raise Refused("too-many", "attempts", wait)
        party = None
        if connection.certificate is not None:
            party = self.table.by_certificate(connection.certificate, clock.now())
        if party is None and header:
            party = self.table.by_header(header)
        if party is None:
            if header or connection.certificate is not None:
                self.failures.add(connection.address)
                self.event("third-party-unknown", address=connection.address)
            raise Refused("bad-credentials", "no such token or certificate")
        connection.waiting = False
        return party

    def permit(self, party: "Party", destination: str, port: int | None = None) -> None:
        """Refused, and reported, unless the table lets ``party`` ask for ``destination``."""
        allowed = destination in party.to
        if port is not None:
            allowed = (destination, port) in party.ports
        if not allowed:
            self.event("third-party-denied", third_party=party.name, destination=destination[:63])
            raise Refused("access-denied", "not in the table of " + party.name)

    async def channel(self, party: "Party", destination: str, kind: int, content: bytes) -> Channel:
        """A channel to ``destination`` for ``party``, in the session that there is or in a new one.
        KeyferryError.
        """
        self._used = clock.uptime()
        key = (party.name, destination)
        entry = self._exchanges.get(key)
        if entry is None:
            entry = self._exchanges[key] = [asyncio.Event(), None, self._used]
            try:
                await self._connect(key, entry)
            except BaseException as error:
                entry[1] = error if isinstance(error, KeyferryError) else RemoteError("timeout")
                if self._exchanges.get(key) is entry:
                    del self._exchanges[key]
                raise
            finally:
                entry[0].set()
        else:
            await entry[0].wait()
        exchange = entry[1]
        if not isinstance(exchange, Exchange):
            raise exchange
        entry[2] = clock.uptime()
        return await exchange.open(kind, content)

    # -- inside --

    async def _connect(self, key: tuple, entry: list) -> None:
        name, destination = key
        agent = await self._link()
        try:
            session = await agent.connect(destination, SESSION_SECONDS, on_behalf_of=name)
        except KeyferryError as error:
            if error.name == "too-many" and await self._make_room():
                session = await agent.connect(destination, SESSION_SECONDS, on_behalf_of=name)
            else:
                self.event(
                    "third-party-refused",
                    third_party=name,
                    destination=destination,
                    error=error.name,
                    detail=error.detail,
                )
                raise

        def closed() -> None:
            if self._exchanges.get(key) is entry:
                del self._exchanges[key]

        entry[1] = Exchange(session, None, closed)
        self.event("third-party-session", third_party=name, destination=destination)

    async def _link(self) -> "Agent":
        """The agent, with a link. It is started when there is none."""
        if self._agent is None:
            assert self._make_agent is not None
            self._agent = self._make_agent()
            self._up = asyncio.Event()
            self._failed = None
            self._starting = asyncio.create_task(self._start(self._agent, self._up))
            self.event("link-on-demand")
        agent, up = self._agent, self._up
        if up is not None:
            try:
                await asyncio.wait_for(up.wait(), LINK_SECONDS)
            except asyncio.TimeoutError:
                raise RemoteError("timeout", "no link to the manager") from None
            if self._failed is not None:
                raise self._failed
        return agent

    async def _start(self, agent: "Agent", up: asyncio.Event) -> None:
        try:
            await agent.start()
        except KeyferryError as error:
            self._failed = error
            self._agent = None  # the next request tries anew
        up.set()

    async def _make_room(self) -> bool:
        """Close the session that was used least lately and has nothing open."""
        oldest = None
        for key, entry in self._exchanges.items():
            if isinstance(entry[1], Exchange) and not entry[1].count():
                if oldest is None or entry[2] < self._exchanges[oldest][2]:
                    oldest = key
        if oldest is None:
            return False
        await self._close(oldest)
        return True

    async def _close(self, key: tuple) -> None:
        entry = self._exchanges.pop(key, None)
        if entry is not None and isinstance(entry[1], Exchange):
            try:
                await entry[1].close()
            except KeyferryError:
                pass  # it was over

    async def _upkeep(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = clock.uptime()
            for key, entry in list(self._exchanges.items()):
                exchange = entry[1]
                if isinstance(exchange, Exchange):
                    if exchange.count():
                        entry[2] = self._used = now
                    elif entry[2] + self.table.idle <= now:
                        await self._close(key)
            idle = self.table.link_idle
            if idle and self._make_agent is not None and self._agent is not None:
                if not self._exchanges and self._used + idle <= now and self._up.is_set():
                    agent, self._agent = self._agent, None
                    self.event("link-idle")
                    await agent.stop()
