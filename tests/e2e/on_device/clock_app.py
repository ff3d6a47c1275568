"""A device whose clock can be set: libfaketime, preloaded by the host, reads it from a file.

{"do": "jump", "seconds": N} moves the clock as something else on the board might.
"""

import asyncio
import json
import os
import sys

import vfs

from keyferry_agent import agent as agent_module
from keyferry_agent import clock
from keyferry_agent.agent import Agent
from keyferry_core.errors import KeyferryError

vfs.mount(vfs.VfsPosix("/"), "/host")
OFFSET = "/host" + os.getenv("FAKETIME_TIMESTAMP_FILE")


def move(seconds):
    with open(OFFSET) as file:
        offset = int(file.read())
    with open(OFFSET, "w") as file:
        offset += seconds
        file.write(("+" if offset >= 0 else "") + str(offset))


class Board:
    """In place of the module keyferry_board: what sets the clock of this board."""

    @staticmethod
    def set_time(seconds):
        move(seconds - clock.rtc())


sys.modules["keyferry_board"] = Board


def report(event, **fields):
    fields["event"] = event
    fields["rtc"] = clock.rtc()
    print(json.dumps(fields))


async def main():
    agent_module.TICK = 1
    agent = Agent(events=report)
    try:
        await agent.start()
    except KeyferryError as error:
        report("failed", error=error.name, detail=error.detail)
        return
    report("ready")
    console = asyncio.StreamReader(sys.stdin)
    while True:
        line = await console.readline()
        if not line:
            return
        move(json.loads(line)["seconds"])


asyncio.run(main())
