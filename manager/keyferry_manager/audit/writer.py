"""Writing to the store in batches, so that nobody who has something to say waits for a database."""

import asyncio
import logging
import time
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from keyferry_manager.logs import log
from keyferry_manager.observe.measures import Histogram
from keyferry_manager.store.records import AgreementKey, AuditEntry, LinkRow, SessionRow

_LOG = logging.getLogger("keyferry.audit")
# Entries that may wait. A database that is away for long costs the newest ones, and it is counted.
_MAX_WAITING = 20_000
_BATCH = 1000
# Seconds between batches, after a failure, and for the last batch when the manager stops.
_INTERVAL = 0.5
_RETRY = 2.0
_LAST = 5.0


class Sink(Protocol):
    """The part of the store that is needed here."""

    async def write(
        self,
        *,
        audit: list[AuditEntry],
        sessions: list[SessionRow],
        links: dict[str, LinkRow | None],
        keys: list[AgreementKey],
    ) -> None:
        """Write all in one transaction."""
        ...


class BatchWriter:
    """Takes audit entries and states of sessions, links and keys, and writes them in the
    background."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._audit: list[AuditEntry] = []
        self._sessions: dict[str, SessionRow] = {}
        self._links: dict[str, LinkRow | None] = {}
        self._keys: dict[str, AgreementKey] = {}
        self._lost = 0
        # Entries and states lost in all, and how long each batch took.
        self.lost = 0
        self.seconds = Histogram()
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Entries and states not yet written."""
        return len(self._audit) + len(self._sessions) + len(self._links) + len(self._keys)

    @property
    def fullness(self) -> float:
        """How much of the room for what waits is taken, 0 to 1."""
        most = max(len(self._audit), len(self._sessions), len(self._links))
        return most / _MAX_WAITING

    def entry(self, entry: AuditEntry) -> None:
        """Write ``entry`` soon."""
        if len(self._audit) >= _MAX_WAITING:
            self._lose()
            return
        self._audit.append(entry)

    def session(self, row: SessionRow) -> None:
        """Write the state of a session soon; a later state of it replaces this one."""
        if row.session not in self._sessions and len(self._sessions) >= _MAX_WAITING:
            self._lose()
            return
        self._sessions[row.session] = row

    def link(self, link_id: str, row: LinkRow | None) -> None:
        """Write the state of a link soon, or that it is gone."""
        if link_id not in self._links and len(self._links) >= _MAX_WAITING:
            self._lose()
            return
        self._links[link_id] = row

    def key(self, key: AgreementKey) -> None:
        """Write a device's key soon; a later one of it replaces this one."""
        self._keys[key.device] = key

    def _lose(self) -> None:
        self._lost += 1
        self.lost += 1

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="audit-writer")

    async def stop(self) -> None:
        """Write what is left, for at most a few seconds."""
        self._stopping.set()
        try:
            async with asyncio.timeout(_LAST):
                if self._task is not None:
                    await self._task  # the batch under way; the timeout would cancel it
                while self.waiting and await self.flush():
                    pass
        except TimeoutError:
            pass
        if self.waiting or self._lost:
            log(_LOG, logging.ERROR, "audit-lost", entries=self.waiting + self._lost)

    async def flush(self) -> bool:
        """Write one batch now. False when the store refused; nothing is lost then."""
        if self._lost and len(self._audit) < _MAX_WAITING:
            fields = {"entries": self._lost}
            self._audit.append(AuditEntry(time.time(), "audit-lost", "failed", fields=fields))
            self._lost = 0
        entries = self._audit[:_BATCH]
        rows = [self._sessions[key] for key in list(self._sessions)[:_BATCH]]
        links = {key: self._links[key] for key in list(self._links)[:_BATCH]}
        keys = [self._keys[key] for key in list(self._keys)[:_BATCH]]
        if not (entries or rows or links or keys):
            return True
        began = time.perf_counter()
        try:
            await self._sink.write(audit=entries, sessions=rows, links=links, keys=keys)
        except (SQLAlchemyError, OSError) as error:
            detail = str(error).splitlines()[0]
            log(_LOG, logging.ERROR, "audit-not-written", waiting=self.waiting, error=detail)
            return False
        self.seconds.observe(time.perf_counter() - began)
        del self._audit[: len(entries)]
        for row in rows:
            if self._sessions.get(row.session) is row:
                del self._sessions[row.session]
        for link_id, link in links.items():
            if self._links[link_id] is link:
                del self._links[link_id]
        for key in keys:
            if self._keys[key.device] is key:
                del self._keys[key.device]
        return True

    async def _run(self) -> None:
        while not self._stopping.is_set():
            written = await self.flush()
            if written and max(len(self._audit), len(self._sessions), len(self._links)) >= _BATCH:
                continue
            try:
                async with asyncio.timeout(_INTERVAL if written else _RETRY):
                    await self._stopping.wait()
            except TimeoutError:
                pass
