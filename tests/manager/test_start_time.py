"""What a command imports: no more than it needs, for some of it takes long."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from keyferry_manager import cli
from keyferry_manager.store.migrate import alembic_config, newest
from support.manager_kit import Home

SHOW = """
import sys
sys.argv[0] = "keyferry"
from keyferry_manager.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
print("\\n" + " ".join(["imported:", *sys.modules]))
sys.exit(code)
"""


def imported(*arguments: object) -> set[str]:
    """The packages that a command has imported when it is done."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("imported:")[2].split())


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("policy", "--help")])
def test_help_needs_no_database(arguments: tuple[str, ...]):
    found = imported(*arguments)
    assert "typer" in found
    assert not found & {"sqlalchemy", "alembic", "fastapi", "uvicorn", "asyncpg", "keyferry_hil"}


def test_a_command_imports_its_own_module_only():
    found = {
        name for name in imported("links", "--help") if name.startswith("keyferry_manager.cli.")
    }
    assert found == {"keyferry_manager.cli.base", "keyferry_manager.cli.links"}


def test_a_database_of_this_version_needs_no_migrations(tmp_path: Path):
    home = Home(tmp_path / "home")
    found = imported("links", "--home", home.folder)
    assert "sqlalchemy" in found
    assert not found & {"alembic", "fastapi", "uvicorn", "asyncpg", "cryptography"}


def test_the_newest_migration_is_the_one_that_alembic_knows():
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == newest()


def words(typer, word: str = "") -> set[tuple[str, str]]:
    """First words of commands, and the modules that they come from."""
    found = set()
    for command in typer.registered_commands:
        name = word or command.name or command.callback.__name__
        found.add((name, command.callback.__module__.split(".")[2]))
    for group in typer.registered_groups:
        found |= words(group.typer_instance, word or group.name)
    return found


def test_the_table_says_which_module_has_which_command():
    said = {(word, module) for module, heads in cli._COMMANDS.items() for word in heads}
    assert words(cli.app) == said


def test_what_is_no_command_is_said_with_all_that_there_are():
    done = subprocess.run(
        [sys.executable, "-m", "keyferry_manager", "lniks"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "lniks" in done.stderr
