"""``keyferry device revoke`` and ``keyferry device remove``: end a certificate, or a device."""

import asyncio
import re
import time
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.text import Text

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    NameArgument,
    home_option,
    name_parser,
    warn,
    with_admin,
    write,
    write_json,
)
from keyferry_manager.cli.device import commands
from keyferry_manager.store import Reason

REASONS: tuple[str, ...] = get_args(Reason)
# Seconds between looks at whether a manager has seen to an order.
_POLL = 0.05


def _serial(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        raise typer.BadParameter("a serial is up to 32 hexadecimal digits, as openssl shows it.")
    return digits.zfill(32)


def _reason(text: str) -> str:
    for reason in REASONS:
        if text.replace("-", "").lower() == reason.lower():
            return reason
    raise typer.BadParameter(f"{text!r} is no reason of ours: {', '.join(REASONS)}.")


ReasonOption = Annotated[
    str,
    typer.Option(
        "--reason", parser=_reason, metavar="REASON", help=f"Of RFC 5280: {', '.join(REASONS)}."
    ),
]
WaitOption = Annotated[
    int,
    typer.Option(
        "--wait",
        min=0,
        max=600,
        metavar="SECONDS",
        help="How long to wait for the manager to say that everything is closed.",
    ),
]


@commands.command()
def revoke(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", parser=name_parser, help="All that this device has."),
    ] = None,
    serial: Annotated[
        str | None,
        typer.Option(
            parser=_serial,
            metavar="SERIAL",
            help="This certificate only, and every other one for the same key.",
        ),
    ] = None,
    reason: ReasonOption = "unspecified",
    wait: WaitOption = 5,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Revoke a device's certificates and their keys, for good, and end what is live of them.

    With NAME its factory identity and unused tokens end too; `keyferry device add NAME --again`
    lets it come back, with a new key. The command waits until the manager has closed the last
    link and session, and says how long that took.
    """
    if (name is None) == (serial is None):
        raise typer.BadParameter("give either a NAME or --serial.")
    _order(home, reason, wait, as_json, device=name or "", serial=serial or "")


@commands.command()
def remove(
    name: NameArgument,
    reason: ReasonOption = "cessationOfOperation",
    wait: WaitOption = 5,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Remove a device: revoke all that it has, and forget its name and its rules."""
    _order(home, reason, wait, as_json, device=name, remove=True)


def _order(home: Path, reason: str, wait: int, as_json: bool, **what: Any) -> None:
    async def work(admin: Admin) -> dict[str, Any]:
        order = await admin.revoke(reason, **what)  # type: ignore[arg-type]  # parsed above
        end = time.monotonic() + wait
        while order["done"] is None and time.monotonic() < end:
            await asyncio.sleep(_POLL)
            order = await admin.revocation(order["id"])
        return order

    order = with_admin(home, work)
    taken = order["seconds"]
    if as_json:
        write_json({key: value for key, value in order.items() if key != "id"})
        return
    what_ended = _count(order["certificates"], "certificate")
    name, why = order["name"], order["reason"]
    if what.get("remove"):
        write(Text(f"{name} is removed: {what_ended} revoked ({why})."))
    else:
        write(Text(f"{name}: {what_ended} revoked ({why})."))
    if taken is None:
        warn(
            f"no manager said within {wait} s that links and sessions are closed. If none is "
            "running there are none; one that starts sees to it."
        )
    else:
        ended = f"{_count(order['links'], 'link')} and {_count(order['sessions'], 'session')}"
        write(Text(f"Closed {ended}, {taken:.3f} s after the command."))
    if not what.get("serial") and not what.get("remove"):
        write(
            Text(
                "To let it enrol again: keyferry device add "
                f"{name} --again --factory{home_option(home)}"
            )
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
