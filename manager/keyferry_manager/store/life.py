"""The end of certificates: revocation by serial and by key, and devices that are removed.

A certificate is revoked when its serial is in ``revoked``, or its key is there with another one:
ECDSA signatures can be changed into other valid ones, so what is not signed, a certificate's
hash for one, says nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyferry_manager.problems import NotFound
from keyferry_manager.store import tables
from keyferry_manager.store.records import AuditEntry, Certificate, Reason, Revocation, Revoked
from keyferry_manager.store.statements import append_audit, by, touch, upsert


class Life:
    """The part of the store that ends things. Each method is one transaction."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing

    async def revoke(
        self,
        reason: Reason,
        *,
        device: str = "",
        serial: str = "",
        remove: bool = False,
        actor: str = "",
        now: float | None = None,
    ) -> Revocation:
        """Order a revocation: of one certificate and its key, or of all that ``device`` has.

        The second also ends the device's other ways to a certificate, factory identities and
        unused tokens; ``remove`` takes away the device itself and its rules. ``actor`` is who
        ordered it, for the audit trail. NotFound when
        there is no such device or certificate.
        """
        now = time.time() if now is None else now
        table = tables.certificates
        async with self._writing.begin() as connection:
            if serial:
                query = select(table.c.device).where(table.c.serial == serial)
                device = await connection.scalar(query) or ""
                if not device:
                    raise NotFound(
                        f"no certificate has the serial {serial}: 'keyferry device show NAME' "
                        "lists those of a device."
                    )
            await _lock(connection, device)
            mine = select(table.c.serial, table.c.device, table.c.key, table.c.not_after)
            if serial:
                key = select(table.c.key).where(table.c.serial == serial).scalar_subquery()
                mine = mine.where(table.c.key == key)
            else:
                await _end_admission(connection, device)
                mine = mine.where(table.c.device == device)
            if remove:
                await _remove(connection, device, int(now))
            known = select(tables.revoked.c.serial)
            rows = (await connection.execute(mine.where(table.c.serial.not_in(known)))).all()
            if rows:
                values = [{**row._mapping, "reason": reason, "revoked_at": now} for row in rows]
                await connection.execute(insert(tables.revoked), values)
            order = Revocation(0, device, reason, now, len(rows))
            values = asdict(order)
            del values["id"]
            done = await connection.execute(insert(tables.revocations).values(values))
            entry = AuditEntry(
                now,
                "device-removed"
                if remove
                else "certificate-revoked"
                if serial
                else "device-revoked",
                "ok",
                device,
                fields={"reason": reason, "serials": [row.serial for row in rows], **by(actor)},
            )
            await touch(connection)
            await append_audit(connection, [entry])
            assert done.inserted_primary_key is not None
            number = done.inserted_primary_key[0]
        return Revocation(number, device, reason, now, len(rows))

    async def revocation(self, number: int) -> Revocation | None:
        """An order by its number."""
        table = tables.revocations
        async with self._reading.connect() as connection:
            row = (await connection.execute(select(table).where(table.c.id == number))).first()
        return None if row is None else Revocation(**row._mapping)

    async def open_revocations(self) -> list[Revocation]:
        """Orders that no manager has seen to yet, oldest first."""
        table = tables.revocations
        query = select(table).where(table.c.done_at.is_(None)).order_by(table.c.id)
        async with self._reading.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [Revocation(**row._mapping) for row in rows]

    async def finish_revocation(
        self, number: int, done_at: float, links: int, sessions: int
    ) -> None:
        """Write down that nothing that an order ended is open any more."""
        table = tables.revocations
        values = {"done_at": done_at, "links": links, "sessions": sessions}
        async with self._writing.begin() as connection:
            await connection.execute(update(table).where(table.c.id == number).values(values))

    async def revoked(self, *, serial: str = "", key: str = "") -> Revoked | None:
        """Why this certificate or this key is not to be believed; None when it is."""
        async with self._reading.connect() as connection:
            return await _revoked(connection, serial, key)

    async def next_crl_number(self) -> int:
        """One more than the last, whichever manager of this database asked (RFC 5280, 5.2.3)."""
        table = tables.counters
        async with self._writing.begin() as connection:
            statement = upsert(connection, table).values(name="crl", value=1)
            number = await connection.scalar(
                statement.on_conflict_do_update(
                    index_elements=["name"], set_={"value": table.c.value + 1}
                ).returning(table.c.value)
            )
        assert number is not None
        return number

    async def skip_crl_numbers(self, count: int = 100_000) -> None:
        """Leave numbers out: those of lists that were signed since a backup was made."""
        table = tables.counters
        async with self._writing.begin() as connection:
            mine = update(table).where(table.c.name == "crl")
            await connection.execute(mine.values(value=table.c.value + count))

    async def all_revoked(self, since: float = 0.0) -> list[Revoked]:
        """Everything revoked that ends, or ended, at ``since`` or later, in order of time."""
        table = tables.revoked
        query = (
            select(table)
            .where(table.c.not_after >= since)
            .order_by(table.c.revoked_at, table.c.serial)
        )
        async with self._reading.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [Revoked(**row._mapping) for row in rows]


async def admissible(connection: AsyncConnection, certificate: Certificate, presented: str) -> bool:
    """Whether what let a device ask for this certificate still stands, within the transaction
    that writes it. Waits for a revocation of the device that is under way."""
    if not await _lock(connection, certificate.device, must_exist=False):
        # The insert that follows says so when there is no such device at all.
        table = tables.devices
        query = select(table.c.name).where(table.c.name == certificate.device)
        return await connection.scalar(query) is None
    serial = presented if certificate.admission == "renewal" else ""
    if await _revoked(connection, serial, certificate.key) is not None:
        return False
    if certificate.admission == "factory" and presented:
        table = tables.factory_identities
        query = select(table.c.device).where(table.c.fingerprint == presented)
        return await connection.scalar(query) == certificate.device
    return True


async def _lock(connection: AsyncConnection, device: str, must_exist: bool = True) -> bool:
    """Hold the device's row to the end of the transaction (SQLite holds everything)."""
    table = tables.devices
    query = select(table.c.name).where(table.c.name == device, table.c.removed_at.is_(None))
    found = await connection.scalar(query.with_for_update()) is not None
    if not found and must_exist:
        raise NotFound(
            f"no device is called {device}: 'keyferry device list' shows those there are."
        )
    return found


async def _end_admission(connection: AsyncConnection, device: str) -> None:
    factories, tokens = tables.factory_identities, tables.tokens
    await connection.execute(delete(factories).where(factories.c.device == device))
    approvals = tables.approvals
    await connection.execute(delete(approvals).where(approvals.c.device == device))
    await connection.execute(
        delete(tokens).where(tokens.c.device == device, tokens.c.used_at.is_(None))
    )


async def _remove(connection: AsyncConnection, device: str, now: int) -> None:
    table, rules = tables.devices, tables.allow_rules
    await connection.execute(update(table).where(table.c.name == device).values(removed_at=now))
    kept = tables.endorsements
    await connection.execute(delete(kept).where(kept.c.device == device))
    await connection.execute(
        delete(rules).where(or_(rules.c.initiator == device, rules.c.responder == device))
    )


async def _revoked(connection: AsyncConnection, serial: str, key: str) -> Revoked | None:
    table = tables.revoked
    asked: Sequence[object] = [table.c.serial == serial, table.c.key == key]
    row = (await connection.execute(select(table).where(or_(*asked)).limit(1))).first()  # type: ignore[arg-type]
    return None if row is None else Revoked(**row._mapping)
