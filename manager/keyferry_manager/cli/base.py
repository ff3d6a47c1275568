"""What all commands share: the Typer application, options, and how results and problems look.

Results go to standard output, problems to standard error: one sentence that says what to do next.
Exit codes: 0 done, 1 a problem, 2 wrong usage.
"""

import asyncio
import enum
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from keyferry_core.errors import DecodeError, KeyferryError
from keyferry_core.names import check_name, check_realm
from keyferry_manager.config import Config, check_host
from keyferry_manager.problems import ConfigProblem, Problem, StoreProblem

if TYPE_CHECKING:
    from keyferry_manager.store import Store

_Result = TypeVar("_Result")
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST = 31 * 86400
_PIPE_WIDTH = 2000
_WATCH_INTERVAL = 0.5


class Profile(enum.StrEnum):
    """How two devices agree on keys: docs/keys.md."""

    CERT = "cert"
    RPK = "rpk"


class ProblemGroup(TyperGroup):
    """Shows a Problem as its sentence, and ends with exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Problem as problem:
            report(str(problem))
        except KeyferryError as error:
            report(f"{error}.")
        raise typer.Exit(1)


app = typer.Typer(
    name="keyferry",
    cls=ProblemGroup,
    help="Introduce small devices to each other, with keys that nobody in between sees.",
    epilog="Start with: keyferry init keyferry-home --realm plant.example",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="markdown",
)


def report(sentence: str) -> None:
    """One sentence on standard error."""
    text = Text("keyferry: ", style="bold red")
    Console(stderr=True, soft_wrap=True).print(text.append(sentence, style="not bold default"))


def warn(sentence: str) -> None:
    """A warning on standard error; the command goes on."""
    text = Text("note: ", style="bold yellow")
    Console(stderr=True, soft_wrap=True).print(text.append(sentence, style="not bold default"))


def _name(text: str) -> str:
    try:
        return check_name(text)
    except DecodeError as error:
        raise typer.BadParameter(
            f"{text!r} is not a device's name ({error.detail.partition(': ')[2]})."
        ) from None


def _realm(text: str) -> str:
    try:
        return check_realm(text)
    except DecodeError as error:
        raise typer.BadParameter(
            f"{text!r} is not a domain name ({error.detail.partition(': ')[2]})."
        ) from None


def _host(text: str) -> str:
    try:
        return check_host(text, "host")
    except ConfigProblem:
        raise typer.BadParameter(
            f"{text!r} is neither an IP address nor a lower-case DNS name."
        ) from None


def _duration(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST:
        raise typer.BadParameter("write a time such as 30m, 24h or 7d, of 31 days at most.")
    return seconds


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="KEYFERRY_HOME",
        help="The manager's home, made by `keyferry init`.",
        file_okay=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, for scripts.")]
WatchOption = Annotated[
    bool,
    typer.Option(
        "--watch", help="Show it again at each change, until Ctrl-C; with --json one line each."
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", parser=_name, help="Device's name.")]
DEFAULT_HOME = Path("keyferry-home")

# For Annotated types of single commands.
name_parser = _name
realm_parser = _realm
host_parser = _host
duration_parser = _duration


def home_option(home: Path) -> str:
    """What must be added to a suggested command so that it finds this home."""
    known = Path(os.environ.get("KEYFERRY_HOME", DEFAULT_HOME))
    return "" if home.absolute() == known.absolute() else f" --home {shlex.quote(str(home))}"


def with_store(
    home: Path, work: Callable[[Config, "Store"], Awaitable[_Result]]
) -> tuple[Config, _Result]:
    """Open the store of a home, do ``work`` on it, close it."""
    # Imported here because it takes long, and many calls end before this point.
    from sqlalchemy.exc import DBAPIError

    from keyferry_manager.store import Store

    config = Config.load(home)

    async def run() -> _Result:
        async with Store.open(config.database_url) as store:
            await store.migrate()
            return await work(config, store)

    try:
        return config, asyncio.run(run())
    except DBAPIError as error:
        raise StoreProblem(f"the database did not answer ({error.orig}): try again.") from None


def watch_store(
    home: Path,
    work: Callable[[Config, "Store"], Awaitable[_Result]],
    show: Callable[[_Result], None],
    value: Callable[[_Result], object],
    *,
    as_json: bool,
    watch: bool,
) -> None:
    """Show what ``work`` finds, as ``show`` or as JSON of its ``value``: once, or with ``watch``
    again at each change until Ctrl-C."""

    async def run(config: Config, store: "Store") -> None:
        shown: object = None
        while True:
            found = await work(config, store)
            current = value(found)
            if current != shown:
                shown = current
                if not as_json:
                    if watch:
                        Console().clear()  # does nothing where no terminal is
                    show(found)
                elif watch:
                    sys.stdout.write(json.dumps(current, ensure_ascii=False) + "\n")
                else:
                    write_json(current)
                sys.stdout.flush()
            if not watch:
                return
            await asyncio.sleep(_WATCH_INTERVAL)

    with suppress(KeyboardInterrupt):
        with_store(home, run)


def write_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write(text: Text | str = "") -> None:
    """A line on standard output. Texts from outside come in as Text: they are no markup."""
    Console(soft_wrap=True, highlight=False).print(text)


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """A table, or the sentence ``empty`` when it would have no rows."""
    if not rows:
        write(Text(empty))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)  # one row, one line
    console.print(table)


def printable(text: str) -> str:
    """``text`` with everything escaped that could move a terminal's cursor."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def moment(seconds: float | None) -> str:
    """A time for people, in this machine's zone."""
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def utc(seconds: float | None) -> str | None:
    """A time for scripts: RFC 3339, UTC."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
