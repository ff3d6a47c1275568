"""``keyferry sessions``: who met whom."""

from typing import TYPE_CHECKING, Annotated

import typer

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    app,
    moment,
    name_parser,
    utc,
    with_store,
    write_json,
    write_table,
)
from keyferry_manager.config import Config
from keyferry_manager.store import SessionRow

if TYPE_CHECKING:
    from keyferry_manager.store import Store

LimitOption = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many, the newest.")
]
OfOption = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", parser=name_parser, help="Of this device only."),
]


@app.command()
def sessions(
    limit: LimitOption = 50,
    device: OfOption = None,
    open_only: Annotated[
        bool, typer.Option("--open", help="Only those that have not ended.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List sessions between devices: who, when, how much; never what."""

    async def work(_config: Config, store: "Store") -> list[SessionRow]:
        return await store.sessions(limit, device=device or "", open_only=open_only)

    _, rows = with_store(home, work)
    if as_json:
        write_json(
            [
                {
                    "session": row.session,
                    "from": row.initiator,
                    "to": row.responder,
                    "state": row.state,
                    "started": utc(row.started_at),
                    "ended": utc(row.ended_at),
                    "reason": row.end_reason,
                    "messages": row.messages,
                    "bytes": row.octets,
                }
                for row in rows
            ]
        )
        return
    write_table(
        ("SESSION", "FROM", "TO", "STATE", "STARTED", "MESSAGES", "BYTES"),
        [
            (
                row.session[:12],
                row.initiator,
                row.responder,
                f"{row.state}: {row.end_reason}" if row.end_reason else row.state,
                moment(row.started_at),
                str(row.messages),
                str(row.octets),
            )
            for row in rows
        ],
        "No session yet.",
    )
