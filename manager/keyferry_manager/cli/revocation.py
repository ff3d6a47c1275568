"""``keyferry device revoke`` and ``keyferry device remove``: end a certificate, or a device."""

import asyncio
import re
import time
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.text import Text

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    NameArgument,
    home_option,
    name_parser,
    utc,
    warn,
    with_store,
    write,
    write_json,
)
from keyferry_manager.cli.device import commands
from keyferry_manager.config import Config
from keyferry_manager.store import Reason, Revocation

if TYPE_CHECKING:
    from keyferry_manager.store import Store

REASONS: tuple[str, ...] = get_args(Reason)
# Seconds between looks at whether a manager has seen to an order.
_POLL = 0.02


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


def _order(home: Any, reason: str, wait: int, as_json: bool, **what: Any) -> None:
    async def work(_config: Config, store: "Store") -> Revocation:
        order = await store.life.revoke(reason, **what)  # type: ignore[arg-type]  # parsed above
        end = time.monotonic() + wait
        while order.done_at is None and time.monotonic() < end:
            await asyncio.sleep(_POLL)
            order = await store.life.revocation(order.id) or order
        return order

    _, order = with_store(home, work)
    done = order.done_at
    seconds = None if done is None else max(0.0, done - order.ordered_at)
    if as_json:
        write_json(
            {
                "name": order.device,
                "reason": order.reason,
                "certificates": order.certificates,
                "ordered": utc(order.ordered_at),
                "done": utc(done),
                "links": order.links,
                "sessions": order.sessions,
                "seconds": None if seconds is None else round(seconds, 3),
            }
        )
        return
    what_ended = _count(order.certificates, "certificate")
    if what.get("remove"):
        write(Text(f"{order.device} is removed: {what_ended} revoked ({order.reason})."))
    else:
        write(Text(f"{order.device}: {what_ended} revoked ({order.reason})."))
    if seconds is None:
        warn(
            f"no manager said within {wait} s that links and sessions are closed. If none is "
            "running there are none; one that starts sees to it."
        )
    else:
        ended = f"{_count(order.links, 'link')} and {_count(order.sessions, 'session')}"
        write(Text(f"Closed {ended}, {seconds:.3f} s after the command."))
    if not what.get("serial") and not what.get("remove"):
        write(
            Text(
                "To let it enrol again: keyferry device add "
                f"{order.device} --again --factory{home_option(home)}"
            )
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
