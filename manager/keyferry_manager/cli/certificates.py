"""``keyferry certificate``: what was issued to devices, and until when it holds."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from keyferry_manager.admin.values import seconds
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    ProblemGroup,
    Value,
    WatchOption,
    app,
    duration_parser,
    name_parser,
    rows,
    show_list,
    table,
    when,
)

commands = typer.Typer(
    cls=ProblemGroup, help="Look at the certificates of devices.", no_args_is_help=True
)
app.add_typer(commands, name="certificate")


@commands.callback()
def _group() -> None:
    """Look at the certificates of devices."""


@commands.command("list")
def list_certificates(
    device: Annotated[
        str | None,
        typer.Option("--device", parser=name_parser, metavar="NAME", help="Of this device only."),
    ] = None,
    expiring: Annotated[
        int | None,
        typer.Option(
            "--expiring",
            parser=duration_parser,
            metavar="TIME",
            help="Only devices whose newest certificate ends within so long (such as 14d), the "
            "soonest first; those that have ended too.",
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """List certificates, the newest first. A device that renews in time is in no list of
    `--expiring`: what is in it, is to be looked after."""

    async def work(admin: Admin) -> Value:
        found = await rows(lambda limit, cursor: admin.certificates(limit, cursor, device=device))
        if expiring is None:
            return found
        return ending(found, time.time() + expiring)

    show_list(home, work, _shown, as_json=as_json, watch=watch)


def ending(found: Value, before: float) -> Value:
    """The newest certificate of each device, if it ends ``before`` (Unix time) and was not
    revoked; the soonest first. ``found`` is newest first."""
    newest: dict[str, dict[str, object]] = {}
    for item in found:
        newest.setdefault(item["name"], item)
    due = [
        item
        for item in newest.values()
        if item["revoked"] is None and (seconds(str(item["expires"])) or 0.0) <= before
    ]
    return sorted(due, key=lambda item: (str(item["expires"]), str(item["name"])))


def _shown(found: Value) -> Table | Text:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return table(
        ("DEVICE", "STATE", "EXPIRES", "ISSUED", "WITH", "SERIAL"),
        [
            (
                item["name"],
                "revoked" if item["revoked"] else "ended" if item["expires"] < now else "holds",
                when(item["expires"]),
                when(item["issued"]),
                item["admission"],
                item["serial"],
            )
            for item in found
        ],
        "There is none.",
    )
