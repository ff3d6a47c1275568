"""A copy of the whole database in one file, made while others write to it, and brought back.

SQLite's own backup, or PostgreSQL's ``pg_dump`` and ``pg_restore``; both see one moment. A
password never stands in an argument list: PostgreSQL's programs get it in their environment.
"""

import glob
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import URL, make_url

from keyferry_manager.problems import StoreProblem

Kind = Literal["sqlite", "postgresql"]
_BUSY = 30.0
_MAX_SAID = 400


def kind_of(url: str) -> Kind:
    """Which database a checked URL names."""
    return "postgresql" if make_url(url).get_backend_name() == "postgresql" else "sqlite"


def copy_database(url: str, target: Path) -> Kind:
    """Write the database into ``target``, a file of ours that is empty. StoreProblem when not."""
    parsed = make_url(url)
    if kind_of(url) == "postgresql":
        arguments = ["--format=custom", "--no-owner", "--no-privileges", "--no-password"]
        with target.open("wb") as file:
            _run("pg_dump", parsed, [*arguments, f"--dbname={parsed.database or 'postgres'}"], file)
        return "postgresql"
    source = sqlite3.connect(
        f"{_file(parsed).absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY
    )
    try:
        copy = sqlite3.connect(target)
        try:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        finally:
            copy.close()
    except sqlite3.Error as error:
        raise StoreProblem(f"the database could not be copied: {error}.") from None
    finally:
        source.close()
    return "sqlite"


def check_empty(url: str) -> None:
    """StoreProblem when there is a database already where one would be restored to."""
    parsed = make_url(url)
    if kind_of(url) == "sqlite":
        for path in (_file(parsed), Path(f"{_file(parsed)}-wal")):
            if path.exists():
                raise StoreProblem(f"{path} exists already and is not overwritten: move it away.")
        return
    query = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()"
    arguments = ["--no-psqlrc", "--tuples-only", "--no-align", "--no-password", "-c", query]
    said = _run("psql", parsed, [*arguments, f"--dbname={parsed.database or 'postgres'}"], None)
    if said.strip() != "0":
        raise StoreProblem(
            f"the database {parsed.database or 'postgres'} has tables already and is not "
            "overwritten: make an empty one, and name it with --database."
        )


def restore_database(copy: Path, kind: Kind, url: str) -> None:
    """Bring a copy back as the database ``url``, which ``check_empty`` passed."""
    if kind_of(url) != kind:
        raise StoreProblem(
            f"the backup is of {_TITLES[kind]} and cannot become {_TITLES[kind_of(url)]}: name "
            "such a database with --database."
        )
    parsed = make_url(url)
    if kind == "postgresql":
        arguments = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
        database = f"--dbname={parsed.database or 'postgres'}"
        _run("pg_restore", parsed, [*arguments, "--no-password", database, str(copy)], None)
        return
    path = _file(parsed)
    try:
        with copy.open("rb") as source:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags, 0o600), "wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
    except OSError as error:
        raise StoreProblem(f"{path} cannot be written: {error.strerror}.") from None
    connection = sqlite3.connect(path)
    try:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.DatabaseError as error:
        found = str(error)
    finally:
        connection.close()
    if found != "ok":
        path.unlink()
        raise StoreProblem(f"the database in the backup is damaged: {found}.")


# inside

_TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def _file(parsed: URL) -> Path:
    return Path(parsed.database or "")


def _run(name: str, url: URL, arguments: list[str], output: object) -> str:
    """Run one of PostgreSQL's programs; its standard output as a text, or in a file."""
    program = _program(name)
    query = {key: str(value) for key, value in url.query.items()}
    settings = {
        "PGHOST": url.host or query.get("host"),
        "PGPORT": None if url.port is None else str(url.port),
        "PGUSER": url.username,
        "PGPASSWORD": None if url.password is None else str(url.password),
        "PGSSLMODE": query.get("sslmode") or query.get("ssl"),
        "PGCONNECT_TIMEOUT": "10",
    }
    environment = {**os.environ, **{key: value for key, value in settings.items() if value}}
    done = subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output or subprocess.PIPE,  # type: ignore[arg-type]
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:_MAX_SAID]
        raise StoreProblem(f"{name} failed: {said}")
    return (done.stdout or b"").decode(errors="replace")


def _program(name: str) -> str:
    folders = os.pathsep.join(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True))
    found = shutil.which(name) or shutil.which(name, path=folders)
    if found is None:
        raise StoreProblem(
            f"{name} is not installed: it comes with PostgreSQL's client (Debian: "
            "postgresql-client)."
        )
    return found
