"""The queue of first enrolments that wait for a person's word.

An approval is for one key of one device: whoever comes with another key waits anew.
"""

import time

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyferry_manager.problems import Conflict, NotFound
from keyferry_manager.store import tables
from keyferry_manager.store.records import Admission, Approval, AuditEntry
from keyferry_manager.store.statements import append_audit, by

# Of one device, and in all. A device that comes with ever new keys pushes out its own oldest.
_PER_DEVICE = 4
_IN_ALL = 10_000
# Seconds after which a request that nobody decided, or fetched, is forgotten.
_LIFE = 7 * 86400.0


class Approvals:
    """The part of the store that has the queue. Each method is one transaction."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing

    async def of_key(self, device: str, key: str) -> Approval | None:
        """What became of this device's request for this key, None when there is none."""
        table = tables.approvals
        query = select(table).where(table.c.device == device, table.c.key == key)
        async with self._reading.connect() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else Approval(**row._mapping)

    async def ask(
        self, device: str, key: str, admission: Admission, address: str, now: float
    ) -> bool:
        """Put a request into the queue. False when it is full, or has the key for another device.

        A device's oldest request makes room for its newest; a key that is in the queue stays as
        it is.
        """
        table = tables.approvals
        try:
            async with self._writing.begin() as connection:
                old = table.c.asked_at < now - _LIFE
                await connection.execute(delete(table).where(old))
                query = select(table.c.id).where(table.c.device == device)
                mine = (await connection.scalars(query.order_by(table.c.id))).all()
                extra = mine[: max(0, len(mine) - _PER_DEVICE + 1)]
                if extra:
                    await connection.execute(delete(table).where(table.c.id.in_(extra)))
                count = await connection.scalar(select(func.count()).select_from(table))
                if (count or 0) >= _IN_ALL:
                    return False
                values = {
                    "device": device,
                    "key": key,
                    "admission": admission,
                    "address": address[:64],
                    "asked_at": now,
                    "state": "waiting",
                }
                await connection.execute(insert(table).values(values))
                entry = AuditEntry(
                    now, "approval-asked", "ok", device, address, fields={"key": key}
                )
                await append_audit(connection, [entry])
        except IntegrityError:  # the same request twice at once, or the key of another device
            return await self.of_key(device, key) is not None
        return True

    async def all(self) -> list[Approval]:
        """Every request, oldest first."""
        table = tables.approvals
        async with self._reading.connect() as connection:
            rows = (await connection.execute(select(table).order_by(table.c.id))).all()
        return [Approval(**row._mapping) for row in rows]

    async def decide(self, which: str, approve: bool, actor: str = "") -> Approval:
        """Approve or deny a request: ``which`` is its number, or the device when it has only one.

        A Problem when there is none, or it is not clear which. A decision can be changed until
        the device has come back for its certificate.
        """
        table = tables.approvals
        now = time.time()
        number = int(which) if which.isdecimal() and len(which) < 19 else None
        query = select(table).where(table.c.device == which)
        if number is not None:
            query = select(table).where(table.c.id == number)
        async with self._writing.begin() as connection:
            rows = (await connection.execute(query.with_for_update())).all()
            if not rows:
                raise NotFound(
                    f"nothing of {which} waits for approval: 'keyferry approvals list' shows what "
                    "does."
                )
            if len(rows) > 1:
                numbers = ", ".join(str(row.id) for row in rows)
                raise Conflict(
                    f"{which} asked with several keys: say which request, of {numbers}; "
                    "'keyferry approvals list' shows their keys."
                )
            (row,) = rows
            state = "approved" if approve else "denied"
            values = {"state": state, "decided_at": now}
            await connection.execute(update(table).where(table.c.id == row.id).values(values))
            entry = AuditEntry(
                now, f"approval-{state}", "ok", row.device, fields={"key": row.key, **by(actor)}
            )
            await append_audit(connection, [entry])
        return Approval(**{**row._mapping, **values})
