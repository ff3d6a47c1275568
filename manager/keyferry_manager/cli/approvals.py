"""``keyferry approvals``: first enrolments that wait for a person."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    ProblemGroup,
    app,
    moment,
    utc,
    with_store,
    write,
    write_json,
    write_table,
)
from keyferry_manager.config import Config
from keyferry_manager.store import Approval

if TYPE_CHECKING:
    from keyferry_manager.store import Store

commands = typer.Typer(
    cls=ProblemGroup,
    help="Decide on first enrolments, where enrolment.admission is approve.",
    no_args_is_help=True,
)
app.add_typer(commands, name="approvals")

WhichArgument = Annotated[
    str,
    typer.Argument(metavar="WHICH", help="Number of the request, or the device that has only one."),
]


@commands.command("list")
def list_approvals(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List what waits, and what was decided and not yet fetched.

    KEY is the SHA-256 of the public key that the device made: compare it with what the device
    shows, where it can show something.
    """

    async def work(_config: Config, store: "Store") -> list[Approval]:
        return await store.approvals.all()

    _, found = with_store(home, work)
    if as_json:
        write_json([_value(item) for item in found])
        return
    write_table(
        ("WHICH", "DEVICE", "STATE", "WITH", "ADDRESS", "ASKED", "KEY"),
        [
            (
                str(item.id),
                item.device,
                item.state,
                item.admission,
                item.address,
                moment(item.asked_at),
                item.key,
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


def _decide(home: Any, which: str, approve: bool, as_json: bool) -> None:
    async def work(_config: Config, store: "Store") -> Approval:
        return await store.approvals.decide(which, approve)

    _, decided = with_store(home, work)
    if as_json:
        write_json(_value(decided))
    elif approve:
        write(Text(f"{decided.device} gets its certificate when it asks again."))
    else:
        write(Text(f"{decided.device} is refused with this key."))


def _value(item: Approval) -> dict[str, Any]:
    return {
        "which": item.id,
        "name": item.device,
        "state": item.state,
        "admission": item.admission,
        "address": item.address,
        "asked": utc(item.asked_at),
        "decided": utc(item.decided_at),
        "key": item.key,
    }
