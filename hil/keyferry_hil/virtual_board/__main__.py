"""The process of one virtual board; see ``--help``.

A line of JSON on standard output says that the port is there. The board ends with its standard
input, with SIGTERM, or when its control socket is told ``stop``.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from keyferry_hil.virtual_board.master import Master
from keyferry_hil.virtual_board.settings import FLASH_SIZE, Settings

_LINE = 1 << 16


def _settings() -> tuple[Settings, bool]:
    parser = argparse.ArgumentParser(
        prog="python -m keyferry_hil.virtual_board", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="where flash.img is or will be, and rom.img")
    parser.add_argument("--port", type=Path, required=True, help="the port's name: a symbolic link")
    parser.add_argument("--heap", default="256k", help="MicroPython's heap, such as 128k")
    parser.add_argument("--flash-size", type=int, default=FLASH_SIZE, help="bytes, of a new flash")
    parser.add_argument("--boot-ms", type=int, default=20, help="from power to the first line")
    parser.add_argument(
        "--unique-id", default="", help="hexadecimal, as machine.unique_id() has it"
    )
    parser.add_argument("--off", action="store_true", help="begin without power")
    known = vars(parser.parse_args())
    off = known.pop("off")
    return Settings(**known), off


def _order(master: Master, order: dict[str, Any], stop: asyncio.Event) -> dict[str, object]:
    word = order.pop("do")
    if word == "stop":
        stop.set()
    elif word == "noise":
        master.noise(base64.b64decode(order["data"]))
    elif word in ("plug", "unplug", "power_on", "power_off", "reset", "cut_at"):
        getattr(master, word)(**order)
    elif word != "status":
        return {"error": f"no such order: {word}"}
    return master.status()


async def _serve(settings: Settings, off: bool) -> None:
    stop = asyncio.Event()
    master = Master(settings)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.CancelledError):
            while line := await reader.readline():
                try:
                    answer = _order(master, json.loads(line), stop)
                except (ValueError, KeyError, TypeError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    def input_ended() -> None:
        if not os.read(0, 4096):
            stop.set()

    settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.control.unlink(missing_ok=True)
    # By way of the folder's descriptor: a socket's address has 108 bytes, a path may have more.
    folder = os.open(settings.folder, os.O_RDONLY)
    address = f"/proc/self/fd/{folder}/{settings.control.name}"
    server = await asyncio.start_unix_server(one, address, limit=_LINE)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(0, input_ended)
    master.plug()
    if not off:
        master.power_on()
    print(json.dumps({"event": "plugged", "port": str(settings.port), "pid": os.getpid()}))
    sys.stdout.flush()
    try:
        await stop.wait()
    finally:
        master.close()
        server.close()
        settings.control.unlink(missing_ok=True)
        os.close(folder)


if __name__ == "__main__":
    asyncio.run(_serve(*_settings()))
