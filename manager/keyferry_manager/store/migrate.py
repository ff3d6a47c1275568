"""Alembic from code: bring a database to this version's tables, or say why not."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from keyferry_manager.problems import StoreProblem

# Any number, the same in every manager: two that start together migrate one after the other.
_LOCK = 0x6B667279


def alembic_config() -> Config:
    """The configuration for the migrations in this package (also for ``alembic revision``)."""
    config = Config()
    # Alembic's options go through configparser, which reads % as its own.
    location = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", location)
    config.set_main_option("path_separator", "os")
    return config


def migrate(connection: Connection) -> None:
    """Upgrade to the newest tables inside the caller's transaction.

    StoreProblem when a newer Keyferry made the database: going back would lose data.
    """
    config = alembic_config()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise StoreProblem(
            f"the database is of a newer Keyferry (revision {current}): install that version, or "
            "restore the backup that was made before the upgrade."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
