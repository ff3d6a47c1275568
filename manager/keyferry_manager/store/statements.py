"""Statements that more than one module of the store needs."""

from typing import Any

from sqlalchemy import Table, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from keyferry_manager.problems import ChangedMeanwhile
from keyferry_manager.store import tables
from keyferry_manager.store.records import AuditEntry

# The longest detail kept in the audit trail, in characters: part of it can come from outside.
MAX_DETAIL = 1000


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


def audit_values(entry: AuditEntry) -> dict[str, Any]:
    """The row of an audit entry."""
    return {
        "at": entry.at,
        "event": entry.event,
        "outcome": entry.outcome,
        "name": entry.name[:255],
        "address": entry.address[:64],
        # PostgreSQL has no character 0 in its texts.
        "detail": entry.detail.replace("\0", "\N{REPLACEMENT CHARACTER}")[:MAX_DETAIL],
        "fields": dict(entry.fields),
    }
