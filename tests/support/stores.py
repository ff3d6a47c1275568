"""Databases for tests: emptied, opened as a store, or taken in hand."""

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy import text

from keyferry_manager.store import Store
from keyferry_manager.store.engine import WRITES, open_engine


def execute(url: str, *statements: str) -> None:
    """What somebody does who has the whole database in hand: all of it, or nothing."""

    async def main() -> None:
        engine = open_engine(url).execution_options(**{WRITES: True})
        try:
            async with engine.begin() as connection:
                for statement in statements:
                    await connection.execute(text(statement))
        finally:
            await engine.dispose()

    asyncio.run(main())


def execute_each(url: str, *statements: str) -> None:
    """The same, with each statement in force at once, as those on whole databases must be."""

    async def main() -> None:
        engine = open_engine(url).execution_options(**{WRITES: True})
        try:
            for statement in statements:
                async with engine.connect() as connection:
                    connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.execute(text(statement))
        finally:
            await engine.dispose()

    asyncio.run(main())


def emptied(url: str) -> str:
    """Take everything out of a PostgreSQL; its URL again."""
    execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return url


def run(url: str, work: Callable[[Store], Awaitable[None]]) -> None:
    """Do ``work`` with the store at ``url``, which has its tables then."""

    async def main() -> None:
        async with Store.open(url) as store:
            await store.migrate()
            await work(store)

    asyncio.run(main())
