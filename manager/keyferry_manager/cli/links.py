"""``keyferry links``: which name is bound to which connection, now."""

import time
from typing import TYPE_CHECKING, Any

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    WatchOption,
    app,
    moment,
    utc,
    watch_store,
    write_table,
)
from keyferry_manager.config import Config
from keyferry_manager.store import LinkRow

if TYPE_CHECKING:
    from keyferry_manager.store import Store

_TRANSPORTS = {1: "mqtt", 2: "sip"}


@app.command()
def links(
    home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """List live links: the name that each was authenticated for, where from, and until when the
    device is registered. The running manager writes the list, at most a second late.
    """

    async def work(_config: Config, store: "Store") -> list[LinkRow]:
        return await store.presences.links()

    watch_store(home, work, _show, _value, as_json=as_json, watch=watch)


def _value(rows: list[LinkRow]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "link": row.link,
            "address": row.address,
            "transport": _TRANSPORTS.get(row.transport, str(row.transport)),
            "serial": row.serial,
            "since": utc(row.since),
            "addresses": list(row.addresses),
            "registered_until": utc(row.registered_until),
        }
        for row in rows
    ]


def _show(rows: list[LinkRow]) -> None:
    now = time.time()
    write_table(
        ("NAME", "LINK", "ADDRESS", "SERIAL", "SINCE", "REGISTERED UNTIL", "REACHABLE AT"),
        [
            (
                row.name,
                row.link,
                row.address,
                row.serial,
                moment(row.since),
                _until(row, now),
                ", ".join(row.addresses),
            )
            for row in rows
        ],
        "No device is connected.",
    )


def _until(row: LinkRow, now: float) -> str:
    if row.registered_until is None:
        return "not registered"
    if row.registered_until <= now:
        return "lapsed"
    return moment(row.registered_until)
