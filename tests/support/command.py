"""The ``keyferry`` command, run in this process. CPython only."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from keyferry_manager.cli import app


def command(home: Path, *arguments: object, code: int = 0) -> Any:
    """Run a command on a home, and hold it to its exit code."""
    environment = {"KEYFERRY_HOME": str(home), "COLUMNS": "200"}
    result = CliRunner().invoke(app, [str(item) for item in arguments], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def answer(home: Path, *arguments: object) -> Any:
    """What a command says with ``--json``."""
    return json.loads(command(home, *arguments, "--json").stdout)
