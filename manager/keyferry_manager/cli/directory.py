"""``keyferry directory``: the directory of public keys as a process of its own."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    Value,
    WatchOption,
    group,
    show_stored,
    table,
    utc,
    when,
)
from keyferry_manager.cli.serving import ServeJsonOption, configured, say_ready, until_stopped

if TYPE_CHECKING:
    from keyferry_manager.store import Store

commands = group(
    "directory", "Keep certificates and public keys of devices in a process of its own."
)


@commands.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    socket: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to listen; default: HOME/directory.sock."),
    ] = None,
    as_json: ServeJsonOption = False,
) -> None:
    """Run the directory until SIGTERM or Ctrl-C. Only its own user can open the socket."""
    configured(home, as_json)
    asyncio.run(_serve(home, socket, as_json))


async def _serve(home: Path, socket: Path | None, as_json: bool) -> None:
    from keyferry_manager.directory.server import DirectoryServer  # others start faster without

    stopping = until_stopped()
    server = DirectoryServer(home, socket)
    await server.start()
    try:
        say_ready(str(server.path), as_json, socket=str(server.path))
        await stopping.wait()
    finally:
        await server.stop()


@commands.command(name="list")
def list_(
    home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """List the newest certificate and the agreement key of each device in a directory's home."""

    async def work(store: "Store") -> Value:
        keys = {key.device: key.key_id for key in await store.presences.keys()}
        return [
            {
                "name": name,
                "serial": item.serial,
                "expires": utc(item.not_after),
                "key": item.key,
                "agreement_key": keys.get(name),
            }
            for name, item in sorted((await store.latest_certificates()).items())
        ]

    show_stored(home, work, _devices, as_json=as_json, watch=watch)


def _devices(found: Value) -> Table | Text:
    return table(
        ("DEVICE", "SERIAL", "UNTIL", "RPK KEY"),
        [
            (row["name"], row["serial"], when(row["expires"]), row["agreement_key"] or "")
            for row in found
        ],
        "Nothing was published here yet.",
    )
