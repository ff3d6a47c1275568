"""``keyferry directory``: the directory of public keys as a process of its own."""

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from keyferry_manager import logs
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    ProblemGroup,
    Value,
    WatchOption,
    app,
    show_stored,
    table,
    utc,
    when,
)
from keyferry_manager.config import Config

if TYPE_CHECKING:
    from keyferry_manager.store import Store

commands = typer.Typer(
    cls=ProblemGroup,
    help="Keep certificates and public keys of devices in a process of its own.",
    no_args_is_help=True,
)
app.add_typer(commands, name="directory")


@commands.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    socket: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to listen; default: HOME/directory.sock."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the ready line and the log as JSON.")
    ] = False,
) -> None:
    """Run the directory until SIGTERM or Ctrl-C. Only its own user can open the socket."""
    config = Config.load(home)
    logs.configure(sys.stderr, as_json, logging.getLevelName(config.log_level.upper()))
    asyncio.run(_serve(home, socket, as_json))


async def _serve(home: Path, socket: Path | None, as_json: bool) -> None:
    from keyferry_manager.directory.server import DirectoryServer  # others start faster without

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = DirectoryServer(home, socket)
    await server.start()
    try:
        ready = {"event": "ready", "socket": str(server.path), "pid": os.getpid()}
        print(json.dumps(ready) if as_json else f"ready: {server.path}", flush=True)
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
