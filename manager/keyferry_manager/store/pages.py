"""Lists, a page at a time: each begins behind the position where the page before it ended.

A position is the value of the columns that a list is ordered by, in their order. So a page costs
the same wherever it is, and rows that come or go meanwhile shift nothing.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import Select, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from keyferry_manager.store import tables
from keyferry_manager.store.records import (
    AllowRule,
    ApiToken,
    AppliedPolicy,
    Approval,
    AuditEntry,
    Certificate,
    Device,
    LinkRow,
    Revoked,
    SessionRow,
)

_Record = TypeVar("_Record")
Position = Sequence[Any]


class Pages:
    """The part of the store that lists. ``limit`` rows at most, behind ``position``."""

    def __init__(self, reading: AsyncEngine) -> None:
        self._reading = reading

    async def devices(self, limit: int, position: Position | None = None) -> list[Device]:
        """Devices that were not removed, by name."""
        table = tables.devices
        query = select(table).where(table.c.removed_at.is_(None))
        return await self._page(Device, query, [table.c.name], position, limit)

    async def latest_certificates(self, names: Sequence[str]) -> dict[str, Certificate]:
        """The newest certificate of each of these devices that has one."""
        table = tables.certificates
        newest = (
            select(func.max(table.c.issued_at))
            .where(table.c.device.in_(list(names)))
            .group_by(table.c.device)
        )
        query = select(table).where(table.c.device.in_(list(names)), table.c.issued_at.in_(newest))
        found = await self._all(Certificate, query.order_by(table.c.issued_at))
        return {item.device: item for item in found}

    async def revoked(self, serials: Sequence[str]) -> dict[str, Revoked]:
        """Which of these certificates are revoked, by serial."""
        table = tables.revoked
        query = select(table).where(table.c.serial.in_(list(serials)))
        return {item.serial: item for item in await self._all(Revoked, query)}

    async def certificates(
        self, limit: int, position: Position | None = None, *, device: str = ""
    ) -> list[Certificate]:
        """Certificates, newest first."""
        table = tables.certificates
        query = select(table)
        if device:
            query = query.where(table.c.device == device)
        order = [table.c.issued_at, table.c.serial]
        return await self._page(Certificate, query, order, position, limit, down=True)

    async def links(self, limit: int, position: Position | None = None) -> list[LinkRow]:
        """Live links, by name."""
        table = tables.links
        order = [table.c.name, table.c.link]
        return await self._page(LinkRow, select(table), order, position, limit)

    async def online(self, names: Sequence[str]) -> set[str]:
        """Which of these devices have a link."""
        table = tables.links
        query = select(table.c.name).where(table.c.name.in_(list(names)))
        async with self._reading.connect() as connection:
            return set((await connection.execute(query)).scalars())

    async def sessions(
        self,
        limit: int,
        position: Position | None = None,
        *,
        device: str = "",
        open_only: bool = False,
    ) -> list[SessionRow]:
        """Sessions, newest first."""
        table = tables.sessions
        query = select(table)
        if device:
            query = query.where(or_(table.c.initiator == device, table.c.responder == device))
        if open_only:
            query = query.where(table.c.ended_at.is_(None))
        order = [table.c.started_at, table.c.session]
        return await self._page(SessionRow, query, order, position, limit, down=True)

    async def approvals(self, limit: int, position: Position | None = None) -> list[Approval]:
        """Requests, oldest first."""
        table = tables.approvals
        return await self._page(Approval, select(table), [table.c.id], position, limit)

    async def rules(self, limit: int, position: Position | None = None) -> list[AllowRule]:
        """Pairs of ``keyferry allow``, by names."""
        table = tables.allow_rules
        order = [table.c.initiator, table.c.responder]
        return await self._page(AllowRule, select(table), order, position, limit)

    async def policies(self, limit: int, position: Position | None = None) -> list[AppliedPolicy]:
        """Applied policies, newest first."""
        table = tables.policies
        return await self._page(
            AppliedPolicy, select(table), [table.c.id], position, limit, down=True
        )

    async def audit(
        self,
        limit: int,
        position: Position | None = None,
        *,
        name: str = "",
        event: str = "",
        newest_first: bool = True,
    ) -> list[AuditEntry]:
        """Audit entries, in one direction or the other."""
        table = tables.audit
        query = select(table)
        if name:
            query = query.where(table.c.name == name)
        if event:
            query = query.where(table.c.event == event)
        return await self._page(AuditEntry, query, [table.c.id], position, limit, down=newest_first)

    async def api_tokens(self, limit: int, position: Position | None = None) -> list[ApiToken]:
        """Tokens of the admin API, by name."""
        table = tables.api_tokens
        return await self._page(ApiToken, select(table), [table.c.name], position, limit)

    async def counts(self) -> dict[str, int]:
        """How much there is: devices, links, open sessions, waiting approvals, rules."""
        devices, sessions, approvals = tables.devices, tables.sessions, tables.approvals
        asked = {
            "devices": select(func.count()).where(devices.c.removed_at.is_(None)),
            "links": select(func.count()).select_from(tables.links),
            "open_sessions": select(func.count()).where(sessions.c.ended_at.is_(None)),
            "waiting_approvals": select(func.count()).where(approvals.c.state == "waiting"),
            "rules": select(func.count()).select_from(tables.allow_rules),
        }
        async with self._reading.connect() as connection:
            return {name: await connection.scalar(query) or 0 for name, query in asked.items()}

    # inside

    async def _page(
        self,
        record: type[_Record],
        query: Select[Any],
        order: Sequence[Any],
        position: Position | None,
        limit: int,
        *,
        down: bool = False,
    ) -> list[_Record]:
        if position is not None:
            here, there = tuple_(*order), tuple(position)
            query = query.where(here < there if down else here > there)
        query = query.order_by(*(column.desc() if down else column for column in order))
        return await self._all(record, query.limit(limit))

    async def _all(self, record: type[_Record], query: Select[Any]) -> list[_Record]:
        names = [item.name for item in fields(record)]  # type: ignore[arg-type]  # all are records
        async with self._reading.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [record(**{name: _plain(row[name]) for name in names}) for row in rows]


def _plain(value: Any) -> Any:
    """Lists of JSON columns as the records have them."""
    return tuple(value) if isinstance(value, list) else value
