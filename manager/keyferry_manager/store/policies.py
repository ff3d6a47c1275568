"""The store's part for policies: every one that was ever in force."""

import time
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyferry_manager.store import tables
from keyferry_manager.store.records import AppliedPolicy
from keyferry_manager.store.statements import touch


class Policies:
    """The policies that were applied. Each method is one transaction."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing

    async def get(self, number: int | None = None) -> AppliedPolicy | None:
        """The policy in force, or the one with this id. None when there is none."""
        table = tables.policies
        query = select(table).order_by(table.c.id.desc()).limit(1)
        if number is not None:
            query = query.where(table.c.id == number)
        found = await self._found(query)
        return found[0] if found else None

    async def history(self, limit: int = 50) -> list[AppliedPolicy]:
        """The newest ``limit`` of them, newest first."""
        table = tables.policies
        return await self._found(select(table).order_by(table.c.id.desc()).limit(limit))

    async def apply(
        self,
        text: str,
        sha256: str,
        by: str,
        *,
        restores: int | None = None,
        expected: int | None = None,
    ) -> AppliedPolicy:
        """Bring a policy into force. StoreProblem, and nothing is changed, when ``data_version``
        is not ``expected`` any more."""
        values = {
            "applied_at": time.time(),
            "applied_by": by[:255],
            "sha256": sha256,
            "text": text,
            "restores": restores,
        }
        async with self._writing.begin() as connection:
            await touch(connection, expected)
            statement = insert(tables.policies).values(values).returning(tables.policies.c.id)
            number = (await connection.execute(statement)).scalar_one()
        return AppliedPolicy(id=number, **values)

    async def _found(self, query: Any) -> list[AppliedPolicy]:
        async with self._reading.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [AppliedPolicy(**row) for row in rows]
