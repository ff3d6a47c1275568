"""``keyferry approvals``: first enrolments that wait for a person."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    Value,
    WatchOption,
    group,
    rows,
    show_list,
    table,
    when,
    with_admin,
    write,
    write_json,
)

commands = group("approvals", "Decide on first enrolments, where enrolment.admission is approve.")

WhichArgument = Annotated[
    str,
    typer.Argument(metavar="WHICH", help="Number of the request, or the device that has only one."),
]


@commands.command("list")
def list_approvals(
    home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """List what waits, and what was decided and not yet fetched.

    KEY is the SHA-256 of the public key that the device made: compare it with what the device
    shows, where it can show something.
    """

    async def work(admin: Admin) -> Value:
        return await rows(admin.approvals)

    show_list(home, work, _shown, as_json=as_json, watch=watch)


def _shown(found: Value) -> Table | Text:
    return table(
        ("WHICH", "DEVICE", "STATE", "WITH", "ADDRESS", "ASKED", "KEY"),
        [
            (
                str(item["which"]),
                item["name"],
                item["state"],
                item["admission"],
                item["address"],
                when(item["asked"]),
                item["key"],
            )
            for item in found
        ],
        "Nothing waits for approval.",
    )


@commands.command()
def approve(
    which: WhichArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Let a device have its certificate when it asks again."""
    _decide(home, which, True, as_json)


@commands.command()
def deny(
    which: WhichArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Refuse a device's request. Another key, or a changed mind, makes it a new one."""
    _decide(home, which, False, as_json)


def _decide(home: Path, which: str, approve: bool, as_json: bool) -> None:
    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.decide(which, approve)

    decided = with_admin(home, work)
    if as_json:
        write_json(decided)
    elif approve:
        write(Text(f"{decided['name']} gets its certificate when it asks again."))
    else:
        write(Text(f"{decided['name']} is refused with this key."))
