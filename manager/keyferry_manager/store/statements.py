"""Statements that more than one module of the store needs."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Table, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from keyferry_manager.problems import ChangedMeanwhile
from keyferry_manager.store import tables
from keyferry_manager.store.chain import START, chained
from keyferry_manager.store.records import AuditEntry

# Any number, the same in every manager: who appends to the audit trail holds it.
_AUDIT_LOCK = 0x6B666175


async def touch(connection: AsyncConnection, expected: int | None = None) -> None:
    """Say to every manager that devices, rules or the policy changed.

    ChangedMeanwhile, for the caller's transaction to end with, when the number was not
    ``expected``: what the caller decided on has changed since.
    """
    number = tables.revision.c.number
    statement = update(tables.revision).values({number: number + 1})
    if expected is not None:
        statement = statement.where(number == expected)
    if (await connection.execute(statement)).rowcount != 1:
        raise ChangedMeanwhile("devices or rules changed at the same moment: try again.")


def upsert(connection: AsyncConnection, table: Table) -> Any:
    """INSERT that may go on with ON CONFLICT."""
    # Both dialects have INSERT ... ON CONFLICT, each under its own name in SQLAlchemy.
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


async def append_audit(connection: AsyncConnection, entries: Sequence[AuditEntry]) -> None:
    """Append to the audit trail, each entry with the hash of the one before it.

    The last statement of its transaction, for whoever comes next waits from here to its end.
    """
    if not entries:
        return
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
        await connection.execute(select(func.pg_advisory_xact_lock(_AUDIT_LOCK)))
    table = tables.audit
    query = select(table.c.id, table.c.hash).order_by(table.c.id.desc()).limit(1)
    last = (await connection.execute(query)).first()
    number, head = (0, START) if last is None else (last.id, last.hash)
    await connection.execute(insert(table), chained(entries, number, head))


def by(actor: str) -> dict[str, Any]:
    """The field of an audit entry that says who did it, where that is known."""
    return {"actor": actor} if actor else {}
