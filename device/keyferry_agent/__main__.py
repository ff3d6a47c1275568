"""A computer as a device of its realm, or as a gateway: a process in the foreground.

FOLDER has the files that 'keyferry device add' wrote. With a gateway.json in it ('keyferry gateway
add') it is a gateway; else a device, which keeps its link and lets the sessions that others begin
reach the local TCP ports named by --port. What happens is printed, one line of JSON an event.
SIGTERM and SIGINT end it. Exit status: 0 stopped, 1 an error, whose name is in the last event.
"""

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from keyferry_agent.agent import Agent
from keyferry_core.errors import KeyferryError, LocalError
from keyferry_core.suite import for_board


def show(event: str, **fields: object) -> None:
    """One event on standard output."""
    print(json.dumps({"event": event, **fields}), flush=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against a second process with the same identity. LocalError, OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError("wrong-state", "another process uses the folder") from None
        yield
    finally:
        os.close(handle)


async def be_device(folder: str, ports: list[int]) -> None:
    """A device that serves the sessions of others, until it is cancelled. KeyferryError."""
    from keyferry_agent.gateway.destination import Destination

    agent = Agent(folder, show)
    try:
        await agent.start()
        show("ready")
        destination = Destination(ports=ports, events=show)
        async for session in agent.incoming():
            show("accepted", peer=session.peer, third_party=session.on_behalf_of)
            destination.serve(session)
    finally:
        await agent.stop()


async def be_gateway(folder: str) -> None:
    """A gateway, until it is cancelled. KeyferryError, OSError."""
    try:
        from keyferry_agent.gateway.gateway import Gateway
        from keyferry_agent.gateway.pages import Microdot  # noqa: F401
    except ModuleNotFoundError:
        raise LocalError(
            "unsupported", "a gateway needs Microdot: install keyferry[gateway]"
        ) from None

    crypto = for_board(os.urandom)
    gateway = Gateway(folder, show, crypto, lambda: Agent(folder, show, crypto))
    try:
        port = await gateway.start()
        show("ready", port=port)
        await asyncio.Event().wait()
    finally:
        await gateway.stop()


async def run(folder: Path, ports: list[int]) -> int:
    """The exit status, when it was told to stop or cannot go on."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    gateway = (folder / "gateway.json").exists()
    work = be_gateway(str(folder)) if gateway else be_device(str(folder), ports)
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(told.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass  # as it was told
    except KeyferryError as error:
        show("failed", error=error.name, detail=error.detail)
        return 1
    except OSError as error:  # its port is taken, or none that it may have
        show("failed", error="bad-argument", detail=str(error))
        return 1
    return 0


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise ValueError
    return number


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="keyferry-agent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--port",
        type=_port,
        action="append",
        default=[],
        metavar="N",
        help="a TCP port of this machine that may be reached through sessions; may be repeated",
    )
    options = parser.parse_args()
    try:
        with alone(options.folder):
            return asyncio.run(run(options.folder, options.port))
    except KeyferryError as error:
        show("failed", error=error.name, detail=error.detail)
    except OSError as error:
        show("failed", error="bad-argument", detail=f"{options.folder}: {error.strerror}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
