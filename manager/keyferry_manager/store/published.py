"""The store's part for a directory in a process of its own."""

from dataclasses import asdict

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyferry_manager.store import tables
from keyferry_manager.store.records import Certificate


class Published:
    """Certificates that managers published here. Each method is one transaction."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing

    async def certificate(self, certificate: Certificate) -> bool:
        """Keep a certificate. False when there is another one with this serial."""
        table, devices = tables.certificates, tables.devices
        name = certificate.device
        async with self._writing.begin() as connection:
            known = await connection.scalar(
                select(table.c.fingerprint).where(table.c.serial == certificate.serial)
            )
            if known is not None:
                return known == certificate.fingerprint
            query = select(devices.c.name).where(devices.c.name == name)
            if await connection.scalar(query) is None:
                values = {"name": name, "created_at": int(certificate.issued_at)}
                await connection.execute(insert(devices).values(values))
            await connection.execute(insert(table).values(asdict(certificate)))
        return True
