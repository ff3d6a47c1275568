"""Alembic from code: bring a database to this version's tables, or say why not.

Alembic takes long to import, so it is asked only when there is something to do.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from keyferry_manager.problems import StoreProblem

if TYPE_CHECKING:
    from alembic.config import Config

# Any number, the same in every manager: two that start together migrate one after the other.
_LOCK = 0x6B667279
_MIGRATIONS = Path(__file__).parent / "migrations"
# Alembic's own, with one row: the revision that a database has.
_TABLE = "alembic_version"


def alembic_config() -> "Config":
    """The configuration for the migrations in this package (also for ``alembic revision``)."""
    from alembic.config import Config

    config = Config()
    # Alembic's options go through configparser, which reads % as its own.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def newest() -> str:
    """The revision of this version: the files of the migrations begin with their numbers."""
    return max(path.name for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))[:4]


def migrate(connection: Connection) -> None:
    """Upgrade to the newest tables inside the caller's transaction.

    StoreProblem when a newer Keyferry made the database: going back would lose data.
    """
    if _revision(connection) == newest():
        return
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    current = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise StoreProblem(
            f"the database is of a newer Keyferry (revision {current}): install that version, or "
            "restore the backup that was made before the upgrade."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, _TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {_TABLE}")).scalar()
