"""``keyferry links``: which name is bound to which connection, now."""

import time
from typing import Any

from rich.table import Table
from rich.text import Text

from keyferry_manager.admin.values import seconds
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    Value,
    WatchOption,
    app,
    rows,
    show_list,
    table,
    when,
)


@app.command()
def links(
    home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """List live links: the name that each was authenticated for, where from, and until when the
    device is registered. The running manager writes the list, at most a second late.
    """

    async def work(admin: Admin) -> Value:
        return await rows(admin.links)

    show_list(home, work, _shown, as_json=as_json, watch=watch)


def _shown(found: Value) -> Table | Text:
    now = time.time()
    return table(
        (
            "NAME",
            "CARRIER",
            "LINK",
            "ADDRESS",
            "SERIAL",
            "SINCE",
            "REGISTERED UNTIL",
            "REACHABLE AT",
        ),
        [
            (
                row["name"],
                row["transport"],
                row["link"],
                row["address"],
                row["serial"],
                when(row["since"]),
                _until(row, now),
                ", ".join(row["addresses"]),
            )
            for row in found
        ],
        "No device is connected.",
    )


def _until(row: dict[str, Any], now: float) -> str:
    until = seconds(row["registered_until"])
    if until is None:
        return "not registered"
    return "lapsed" if until <= now else when(row["registered_until"])
