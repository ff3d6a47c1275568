"""The store's part for tokens of the admin API."""

import time
from dataclasses import asdict

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyferry_manager.problems import Conflict, NotFound
from keyferry_manager.store import tables
from keyferry_manager.store.records import ApiToken

# Tokens in all, expired ones among them until they are removed.
_MOST = 1000


class ApiTokens:
    """The tokens. Each method is one transaction."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing

    async def add(self, token: ApiToken) -> None:
        """Keep a token. Conflict when its name is taken, or there are too many."""
        table = tables.api_tokens
        values = {**asdict(token), "scopes": list(token.scopes)}
        try:
            async with self._writing.begin() as connection:
                count = await connection.scalar(select(func.count()).select_from(table))
                if (count or 0) >= _MOST:
                    raise Conflict(f"there are {_MOST} tokens: remove some first.")
                await connection.execute(insert(table).values(values))
        except IntegrityError:
            raise Conflict(
                f"a token is called {token.name} already: choose another name, or remove it first."
            ) from None

    async def valid(self, digest: str, now: float | None = None) -> ApiToken | None:
        """The token with this SHA-256, while it holds."""
        table = tables.api_tokens
        query = select(table).where(table.c.hash == digest)
        async with self._reading.connect() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None or row["expires_at"] <= (time.time() if now is None else now):
            return None
        return ApiToken(**{**row, "scopes": tuple(row["scopes"])})

    async def remove(self, name: str) -> None:
        """Forget a token, so that it is good for nothing from now on."""
        table = tables.api_tokens
        async with self._writing.begin() as connection:
            removed = await connection.execute(delete(table).where(table.c.name == name))
        if not removed.rowcount:
            raise NotFound(
                f"no token is called {name}: 'keyferry token list' shows those there are."
            )
