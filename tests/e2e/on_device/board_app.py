"""A device on a board with a radio, as far as tests/support/fake_board.py is one.

The host says by the environment where that is, which port it plays, and why it woke. Commands:
{"do": "work", "to": NAME}: a session, a record there and back; {"do": "sleep", "ms": N};
{"do": "air", "networks": {SSID: PASSWORD}}
"""

import asyncio
import json
import os
import sys

import vfs

vfs.mount(vfs.VfsPosix("/"), "/host")
sys.path.append("/host" + os.getenv("KEYFERRY_FAKES"))
import fake_board  # noqa: E402

from keyferry_agent import clock, wifi  # noqa: E402
from keyferry_agent.agent import Agent  # noqa: E402
from keyferry_agent.board import Board  # noqa: E402
from keyferry_agent.errors import SessionEnded  # noqa: E402
from keyferry_agent.signal import Signal  # noqa: E402
from keyferry_core.errors import KeyferryError  # noqa: E402


def report(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))


def asleep(ms):
    report("asleep", ms=ms)
    sys.exit(0)  # the board has lost all that it knew


def set_clock(seconds):
    """libfaketime's, where the host gave this board a wrong one."""
    place = os.getenv("FAKETIME_TIMESTAMP_FILE")
    if place:
        with open("/host" + place) as file:
            offset = int(file.read()) + seconds - clock.rtc()
        with open("/host" + place, "w") as file:
            file.write(("+" if offset >= 0 else "") + str(offset))


class Module:
    set_time = staticmethod(set_clock)


air = fake_board.install(os.getenv("KEYFERRY_PORT"), os.getenv("KEYFERRY_WOKE"), asleep)
air.networks = json.loads(os.getenv("KEYFERRY_AIR"))
sys.modules["keyferry_board"] = Module
wifi.LOOK = 0.05
wifi.LOOK_UP = 0.1


async def echo(session):
    try:
        while True:
            await session.send(await session.recv())
    except SessionEnded:
        pass


async def accept(agent):
    tasks = []
    async for session in agent.incoming():
        tasks = [task for task in tasks if not task.done()]
        tasks.append(asyncio.create_task(echo(session)))


async def work(agent, to):
    session = await agent.connect(to)
    await session.send(b"two bar")
    data = await session.recv()
    await session.close()
    report("worked", data=data.decode())


async def main():
    board = Board()
    signal = Signal(report, board.led)
    blinking = asyncio.create_task(signal.blink())
    report("woke", why=board.woke())
    agent = Agent(events=signal, board=board)
    try:
        await agent.start()
    except KeyferryError as error:
        report("failed", error=error.name, detail=error.detail)
        return
    report("ready", blinks=len(air.lamp) > 0)
    accepting = asyncio.create_task(accept(agent))
    console = asyncio.StreamReader(sys.stdin)
    while True:
        line = await console.readline()
        if not line:
            return
        command = json.loads(line)
        if command["do"] == "work":
            await work(agent, command["to"])
        elif command["do"] == "air":
            air.networks = command["networks"]
        else:
            blinking.cancel()
            accepting.cancel()
            await board.sleep(agent, command["ms"])


asyncio.run(main())
