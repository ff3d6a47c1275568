"""What a CA that stands apart writes down: the managers it signs for, and what they asked for."""

import time
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Row, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyferry_manager.store import tables
from keyferry_manager.store.life import admissible
from keyferry_manager.store.records import AuditEntry, Certificate, RegistrationAuthority
from keyferry_manager.store.statements import append_audit, upsert


class Registration:
    """The part of the store that has registration authorities. A method is one transaction."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing

    async def add(self, name: str, hosts: Sequence[str]) -> None:
        """Register a manager whose device row is there. Again: its hosts are these from now on."""
        table = tables.registration_authorities
        values = {"name": name, "hosts": list(hosts), "created_at": int(time.time())}
        async with self._writing.begin() as connection:
            statement = upsert(connection, table).values(values)
            changed = {"hosts": statement.excluded.hosts}
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["name"], set_=changed)
            )

    async def get(self, name: str) -> RegistrationAuthority | None:
        """The manager of this name, None when there is none or it was removed."""
        found = [item for item in await self.all() if item.name == name]
        return found[0] if found else None

    async def all(self) -> list[RegistrationAuthority]:
        """Every manager that was not removed, by name."""
        table, devices = tables.registration_authorities, tables.devices
        query = (
            select(table)
            .join(devices, devices.c.name == table.c.name)
            .where(devices.c.removed_at.is_(None))
            .order_by(table.c.name)
        )
        async with self._reading.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [_authority(row) for row in rows]

    async def introducer(self, device: str) -> str | None:
        """Which manager introduced a device; None when nobody did."""
        table = tables.introduced
        async with self._reading.connect() as connection:
            return await connection.scalar(
                select(table.c.authority).where(table.c.device == device)
            )

    async def record(
        self, certificate: Certificate, authority: str, audit: AuditEntry, now: float
    ) -> bool:
        """Write down a device's certificate that ``authority`` asked for; the first one binds the
        name to it. False, and nothing is written: the name is another's, or the key is revoked.
        """
        devices, bound = tables.devices, tables.introduced
        name = certificate.device
        async with self._writing.begin() as connection:
            row = (await connection.execute(select(devices).where(devices.c.name == name))).first()
            if row is None:
                values = {"name": name, "created_at": int(now)}
                await connection.execute(insert(devices).values(values))
            owner = await connection.scalar(select(bound.c.authority).where(bound.c.device == name))
            if owner is None and row is None:
                values = {"device": name, "authority": authority, "at": now}
                await connection.execute(insert(bound).values(values))
            elif owner != authority:
                await connection.rollback()
                return False
            if not await admissible(connection, certificate, ""):
                await connection.rollback()
                return False
            await connection.execute(insert(tables.certificates).values(asdict(certificate)))
            await append_audit(connection, [audit])
        return True


def _authority(row: Row) -> RegistrationAuthority:
    return RegistrationAuthority(row.name, tuple(row.hosts), row.created_at)
