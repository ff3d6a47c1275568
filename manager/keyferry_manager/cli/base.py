"""What all commands share: the Typer application, options, and how results and problems look.

Results go to standard output, problems to standard error: one sentence that says what to do next.
Exit codes: 0 done, 1 a problem, 2 wrong usage.
"""

import asyncio
import enum
import json
import os
import pwd
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from keyferry_core.errors import DecodeError, KeyferryError
from keyferry_core.names import check_name, check_realm
from keyferry_manager.admin.values import seconds
from keyferry_manager.admin.values import utc as utc
from keyferry_manager.config import Config, check_host
from keyferry_manager.problems import ConfigProblem, Problem, StoreProblem

if TYPE_CHECKING:
    from keyferry_manager.admin.remote import Remote
    from keyferry_manager.admin.service import Service
    from keyferry_manager.store import Store

_Result = TypeVar("_Result")
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST = 31 * 86400
_PIPE_WIDTH = 2000
_WATCH_INTERVAL = 0.5
# Rows asked for at once.
_PAGE = 500


class Trust(enum.StrEnum):
    """Who must vouch for a peer's key: docs/keys.md."""

    CA = "ca"
    OWNER = "owner"
    PINNED = "pinned"


class Profile(enum.StrEnum):
    """How two devices agree on keys: docs/keys.md."""

    CERT = "cert"
    RPK = "rpk"


class Carrier(enum.StrEnum):
    """How signalling travels between a device and its manager."""

    MQTT = "mqtt"
    SIP = "sip"


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


def group(name: str, help: str) -> typer.Typer:
    """Commands of their own under ``keyferry NAME``, which alone shows what there is."""
    commands = typer.Typer(cls=ProblemGroup, help=help, no_args_is_help=True)
    app.add_typer(commands, name=name)
    return commands


_verbose = False


@app.callback()
def _options(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Say whether a manager was asked, or its database read."
        ),
    ] = False,
) -> None:
    global _verbose
    _verbose = verbose


def _tell(sentence: str) -> None:
    if _verbose:
        Console(stderr=True, soft_wrap=True).print(Text(sentence, style="dim"))


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
LimitOption = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many, the newest.")
]

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


Admin: TypeAlias = "Service | Remote"


@asynccontextmanager
async def _admin(home: Path, config: Config) -> AsyncIterator[Admin]:
    """A running manager of this home, over its API; or the same operations on the store."""
    # Imported here because it takes long, and many calls end before this point.
    from keyferry_manager.admin.remote import Remote

    remote = Remote.connected(home)
    if remote is not None:
        _tell(f"asking the manager that serves {home}")
        async with remote:
            yield remote
        return
    from sqlalchemy.exc import DBAPIError

    from keyferry_manager.admin.service import Rights, Service
    from keyferry_manager.store import Store

    _tell(f"no manager serves {home}: working on its database")
    try:
        async with Store.open(config.database_url) as store:
            await store.migrate()
            yield Service(config, store, Rights(f"user:{user_name()}"))
    except DBAPIError as error:
        raise StoreProblem(f"the database did not answer ({error.orig}): try again.") from None


def with_admin(home: Path, work: Callable[[Admin], Awaitable[_Result]]) -> _Result:
    """Do ``work`` through the manager that serves this home, or on its store when none does."""
    config = Config.load(home)

    async def run() -> _Result:
        async with _admin(home, config) as admin:
            return await work(admin)

    return asyncio.run(run())


def user_name() -> str:
    """Who runs this command, as the system knows it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


async def rows(
    ask: Callable[[int, str | None], Awaitable[dict[str, Any]]], most: int | None = None
) -> list[dict[str, Any]]:
    """A whole list, page by page; ``most`` rows of it."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while most is None or len(found) < most:
        limit = _PAGE if most is None else min(_PAGE, most - len(found))
        page = await ask(limit, cursor)
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    return found


Value: TypeAlias = list[dict[str, Any]]


def show_list(
    home: Path,
    work: Callable[[Admin], Awaitable[Value]],
    shown: Callable[[Value], Table | Text],
    *,
    as_json: bool,
    watch: bool = False,
) -> None:
    """Show a list as ``shown`` or as JSON: once, or with ``watch`` at each change until Ctrl-C."""
    if not watch:
        found = with_admin(home, work)
        if as_json:
            write_json(found)
        else:
            write_shown(shown(found))
        return
    with ending_quietly(), _screen(as_json, shown) as show:
        follow_changes(home, work, show)


def show_stored(
    home: Path,
    work: Callable[["Store"], Awaitable[Value]],
    shown: Callable[[Value], Table | Text],
    *,
    as_json: bool,
    watch: bool = False,
) -> None:
    """``show_list`` of a home that has a database and no admin API: a CA's, a directory's."""
    if not watch:
        _, found = with_store(home, lambda _config, store: work(store))
        if as_json:
            write_json(found)
        else:
            write_shown(shown(found))
        return

    async def again(_config: Config, store: "Store") -> None:
        last: object = None
        while True:
            found = await work(store)
            if found != last:
                last = found
                show(found)
            await asyncio.sleep(_WATCH_INTERVAL)

    with ending_quietly(), _screen(as_json, shown) as show:
        with_store(home, again)


def follow_changes(
    home: Path, work: Callable[[Admin], Awaitable[Value]], show: Callable[[Value], None]
) -> None:
    """Do ``work`` again and again, and ``show`` what it finds whenever that has changed; a manager
    that stops or starts meanwhile changes only who is asked."""
    from keyferry_manager.admin.remote import Gone

    config = Config.load(home)

    async def run() -> None:
        last: object = None
        while True:
            with suppress(Gone):
                async with _admin(home, config) as admin:
                    while True:
                        found = await work(admin)
                        if found != last:
                            last = found
                            show(found)
                        await asyncio.sleep(_WATCH_INTERVAL)
            await asyncio.sleep(_WATCH_INTERVAL)

    asyncio.run(run())


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Ctrl-C, and a reader that has gone away, end a command that watches in good order."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _screen(
    as_json: bool, shown: Callable[[Value], Table | Text]
) -> Iterator[Callable[[Value], None]]:
    """How a list is shown again: a line of JSON, a drawing in place, or one below the other where
    no terminal is."""
    console = Console(highlight=False)
    if as_json:
        yield write_line
    elif not console.is_terminal:

        def again(found: Value) -> None:
            write_shown(shown(found))
            sys.stdout.flush()

        yield again
    else:
        with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
            yield lambda found: live.update(shown(found), refresh=True)


def write_line(value: object) -> None:
    """One line of JSON on standard output, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def write_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write(text: Text | str = "") -> None:
    """A line on standard output. Texts from outside come in as Text: they are no markup."""
    Console(soft_wrap=True, highlight=False).print(text)


def table(columns: Sequence[str], lines: Iterable[Sequence[str]], empty: str) -> Table | Text:
    """A table, or the sentence ``empty`` when it would have no rows."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for line in lines:
        made.add_row(*(Text(printable(cell)) for cell in line))
    return made if made.row_count else Text(empty)


def write_shown(shown: Table | Text) -> None:
    """A table, or a sentence in its place, on standard output."""
    if isinstance(shown, Text):
        write(shown)
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)  # one row, one line
    console.print(shown)


def write_table(columns: Sequence[str], lines: Iterable[Sequence[str]], empty: str) -> None:
    """The same of rows, at once."""
    write_shown(table(columns, lines, empty))


def printable(text: str) -> str:
    """``text`` with everything escaped that could move a terminal's cursor."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def moment(seconds: float | None) -> str:
    """A time for people, in this machine's zone."""
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def when(text: str | None) -> str:
    """The same of a time that was written for scripts."""
    return moment(seconds(text))
