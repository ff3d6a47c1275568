"""Opening the database: SQLite in a file of mode 0600, or PostgreSQL."""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from keyferry_manager.problems import StoreProblem

# Milliseconds to wait for another writer: the command line works beside a running manager.
_BUSY_TIMEOUT = 5000
# An engine with this execution option takes SQLite's write lock when a transaction begins.
WRITES = "keyferry_writes"


def open_engine(url: str) -> AsyncEngine:
    """An engine for ``sqlite:///FILE`` or ``postgresql://…``. StoreProblem for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreProblem(
            "database.url is not a URL: leave it empty for SQLite, or write "
            "postgresql://user@host/keyferry."
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return create_async_engine(parsed.set(drivername="postgresql+asyncpg"), pool_pre_ping=True)
    if backend != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise StoreProblem(
            f"database.url: {backend!r} is not supported; use sqlite:///FILE or postgresql://…"
        )
    _create_private(Path(parsed.database))
    engine = create_async_engine(parsed.set(drivername="sqlite+aiosqlite"))
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _create_private(path: Path) -> None:
    # SQLite would make the file with the umask's mode. Its -wal and -shm files copy this one's.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreProblem(f"the database {path} cannot be made: {error.strerror}.") from None


def _prepare_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    # The driver's own transactions begin too late to cover reads: we begin them ourselves.
    connection.isolation_level = None
    cursor: Any = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT}")
    # In WAL, NORMAL may lose the last commits in a power cut: a used token would be fresh again.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads and then writes fails at once when another wrote in between,
    # whatever the busy timeout; taking the lock at the start waits instead.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
