"""The store's part for what is connected, and for the keys that devices registered."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyferry_manager.store import tables
from keyferry_manager.store.records import AgreementKey, LinkRow
from keyferry_manager.store.statements import touch, upsert


class Presences:
    """Links and keys, as a manager wrote them. Each method is one transaction."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing

    async def links(self) -> list[LinkRow]:
        """Every live link, by name."""
        table = tables.links
        query = select(table).order_by(table.c.name, table.c.since)
        async with self._reading.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [LinkRow(**{**row, "addresses": tuple(row["addresses"])}) for row in rows]

    async def forget_links(self) -> int:
        """Drop what a manager left when it was killed. How many there were."""
        async with self._writing.begin() as connection:
            return (await connection.execute(delete(tables.links))).rowcount

    async def park(self, document: dict[str, Any], at: float) -> None:
        """Leave a document for the next run, in the place of one that is there."""
        async with self._writing.begin() as connection:
            await connection.execute(delete(tables.parked))
            values = {"only": 1, "at": at, "document": document}
            await connection.execute(insert(tables.parked).values(values))

    async def take_parked(self) -> tuple[float, dict[str, Any]] | None:
        """When the last run left what, once only. None when it left nothing."""
        async with self._writing.begin() as connection:
            row = (await connection.execute(select(tables.parked))).first()
            await connection.execute(delete(tables.parked))
        return None if row is None else (row.at, row.document)

    async def keys(self) -> list[AgreementKey]:
        """Every registered key, by device."""
        table = tables.agreement_keys
        async with self._reading.connect() as connection:
            found = await connection.execute(select(table).order_by(table.c.device))
            rows = found.mappings().all()
        return [AgreementKey(**row) for row in rows]

    async def endorsements(self) -> dict[str, bytes]:
        """What the owner signed, by device."""
        table = tables.endorsements
        async with self._reading.connect() as connection:
            rows = (await connection.execute(select(table.c.device, table.c.endorsement))).all()
        return {row.device: row.endorsement for row in rows}

    async def endorse(self, device: str, endorsement: bytes, at: float) -> None:
        """Keep what the owner signed for a device that there is, in the place of an older one."""
        row = {"device": device, "endorsement": endorsement, "added_at": at}
        async with self._writing.begin() as connection:
            await _replace(connection, tables.endorsements, ("device",), [row])
            await touch(connection)

    async def anchors(self) -> dict[str, str]:
        """Which CA certificates each device holds, as it said last: by device, 16 digits."""
        table = tables.anchors
        async with self._reading.connect() as connection:
            rows = (await connection.execute(select(table.c.device, table.c.digest))).all()
        return {row.device: row.digest for row in rows}

    async def state_anchors(self, stated: Mapping[str, bytes], at: float) -> None:
        """Keep what devices said that they hold; only of devices that there are."""
        async with self._writing.begin() as connection:
            known = await _known(connection, stated)
            rows = [
                {"device": name, "digest": digest.hex(), "stated_at": at}
                for name, digest in stated.items()
                if name in known
            ]
            await _replace(connection, tables.anchors, ("device",), rows)


async def write_links(connection: AsyncConnection, links: Mapping[str, LinkRow | None]) -> None:
    """Set links by identifier; None takes one away."""
    ended = [link for link, row in links.items() if row is None]
    if ended:
        await connection.execute(delete(tables.links).where(tables.links.c.link.in_(ended)))
    rows = [asdict(row) for row in links.values() if row is not None]
    for row in rows:
        row["addresses"] = list(row["addresses"])
    await _replace(connection, tables.links, ("link",), rows)


async def write_keys(connection: AsyncConnection, keys: Iterable[AgreementKey]) -> None:
    """Set the key of each device; only of devices that there are."""
    latest = {key.device: asdict(key) for key in keys}
    if not latest:
        return
    known = await _known(connection, latest)
    rows = [row for device, row in latest.items() if device in known]
    await _replace(connection, tables.agreement_keys, ("device",), rows)


async def _known(connection: AsyncConnection, devices: Iterable[str]) -> set[str]:
    names = tables.devices.c.name
    query = select(names).where(names.in_(list(devices)))
    return set((await connection.execute(query)).scalars())


async def _replace(
    connection: AsyncConnection, table: Table, key: tuple[str, ...], rows: list[dict[str, Any]]
) -> None:
    if not rows:
        return
    statement = upsert(connection, table)
    changing = [column.name for column in table.columns if column.name not in key]
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(key),
            set_={name: statement.excluded[name] for name in changing},
        ),
        rows,
    )
