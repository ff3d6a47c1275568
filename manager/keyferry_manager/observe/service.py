"""A running manager, observed: its parts, the listener, and what must be asked of the database."""

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cryptography import x509
from sqlalchemy.exc import SQLAlchemyError

from keyferry_manager.carriers.plain import PlainListener
from keyferry_manager.observe.collector import ManagerCollector, Metrics
from keyferry_manager.observe.listener import ObserveApp
from keyferry_manager.observe.measures import Measures, by_expiry

if TYPE_CHECKING:
    from keyferry_manager.audit import AuditTrail, BatchWriter
    from keyferry_manager.authority import Authority
    from keyferry_manager.carriers.tls import TlsListener
    from keyferry_manager.relay import Relay
    from keyferry_manager.store import Store

# Seconds that the database may take to answer a question about readiness.
_DATABASE = 2.0
# The part of the audit queue that may be full.
_FULL = 0.9


class Observation:
    """What one manager shows of itself. ``draining`` says that it is about to stop."""

    def __init__(
        self,
        measures: Measures,
        relay: "Relay",
        trail: "AuditTrail",
        writer: "BatchWriter",
        store: "Store",
        authority: "Authority",
        listeners: "Iterable[TlsListener]",
    ) -> None:
        self.draining = False
        self._measures = measures
        self._writer = writer
        self._store = store
        self._authority = authority
        collector = ManagerCollector(measures, relay, trail, writer, store, listeners)
        self.listener = PlainListener(ObserveApp(Metrics(collector).text, self.reasons))

    async def reasons(self) -> list[str]:
        """Why the manager is not ready, empty when it is."""
        found = []
        if self.draining:
            found.append("draining")
        try:
            async with asyncio.timeout(_DATABASE):
                await self._store.data_version()
        except (SQLAlchemyError, OSError, TimeoutError):
            found.append("database-unavailable")
        if self._writer.fullness >= _FULL:
            found.append("audit-queue-full")
        return found

    async def look(self) -> None:
        """Ask the database which certificates end when."""
        ends = await self._store.certificate_ends()
        self._measures.expiries = by_expiry(ends, time.time())
        server = x509.load_pem_x509_certificate(self._authority.server_file.read_bytes())
        authority = self._authority
        own = {"server": server, "issuing": authority.issuing, "root": authority.root}
        self._measures.own_expiries = {
            name: certificate.not_valid_after_utc.timestamp() for name, certificate in own.items()
        }
