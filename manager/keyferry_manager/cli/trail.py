"""``keyferry sessions``: who met whom."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from keyferry_core.names import subject
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    LimitOption,
    Value,
    WatchOption,
    app,
    name_parser,
    rows,
    show_list,
    table,
    when,
)

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
    watch: WatchOption = False,
) -> None:
    """List sessions between devices: who, when, how much; never what."""

    async def work(admin: Admin) -> Value:
        async def ask(size: int, cursor: str | None) -> dict[str, Any]:
            return await admin.sessions(size, cursor, device=device, open_only=open_only)

        return await rows(ask, limit)

    show_list(home, work, _sessions, as_json=as_json, watch=watch)


def _sessions(found: Value) -> Table | Text:
    return table(
        ("SESSION", "FROM", "TO", "STATE", "STARTED", "MESSAGES", "BYTES"),
        [
            (
                row["session"][:12],
                subject(row["from"], row["on_behalf_of"] or ""),
                row["to"],
                f"{row['state']}: {row['reason']}" if row["reason"] else row["state"],
                when(row["started"]),
                str(row["messages"]),
                str(row["bytes"]),
            )
            for row in found
        ],
        "No session yet.",
    )
