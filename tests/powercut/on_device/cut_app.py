"""An agent whose flash stops at a chosen write, for the host to kill the process there.

KEYFERRY_CUT=N stops at write N from the start on. Commands, JSON lines on the console:
{"do": "arm", "writes": N}; {"do": "renew"}; {"do": "unpin"}; {"do": "meet", "to": NAME};
{"do": "talk", "to": NAME, "cut": N}: N records, of which the last is sealed and, at the cut, may
or may not have left.
"""

import asyncio
import json
import os
import sys

import vfs

from keyferry_agent.agent import Agent
from keyferry_core.errors import KeyferryError

BLOCK = 4096


def report(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))


class Flash:
    """The device's flash, as the boot code has it; ``left`` writes from now it stops for ever."""

    def __init__(self, path, left):
        self.blocks = os.stat(path)[6] // BLOCK
        self.file = open(path, "r+b")
        self.left = left

    def readblocks(self, block, data, offset=0):
        self.file.seek(block * BLOCK + offset)
        self.file.readinto(data)

    def writeblocks(self, block, data, offset=0):
        if self.left:
            self.left -= 1
            if not self.left:
                # half of it is there, and then the power goes
                self.file.seek(block * BLOCK + offset)
                self.file.write(data[: len(data) // 2])
                report("cut")
                while True:
                    sys.stdin.readline()
        self.file.seek(block * BLOCK + offset)
        self.file.write(data)

    def ioctl(self, operation, _argument):
        return {4: self.blocks, 5: BLOCK, 6: 0}.get(operation)


async def talk(agent, to, cut):
    session = await agent.connect(to)
    # key and sequence number together are what must never come twice
    fingerprint = session.fingerprint.hex()
    for number in range(cut):
        report("sealing", fingerprint=fingerprint, number=number)
        await session.send(b"record " + str(number).encode())
    report("cut")


async def serve(agent, flash):
    console = asyncio.StreamReader(sys.stdin)
    while True:
        line = await console.readline()
        if not line:
            return
        command = json.loads(line)
        what = command["do"]
        try:
            if what == "arm":
                flash.left = command["writes"]
            elif what == "renew":
                await agent.renew(True)
                report("renewed")
            elif what == "unpin":
                agent.unpin()
            elif what == "meet":
                await agent.connect(command["to"])
                report("met")
            elif what == "talk":
                await talk(agent, command["to"], command["cut"])
        except KeyferryError as error:
            report("failed", error=error.name, detail=error.detail)


async def accept(agent):
    async for session in agent.incoming():
        asyncio.create_task(take(session))


async def take(session):
    try:
        while True:
            await session.recv()
    except KeyferryError:
        pass


async def main():
    os.chdir("/rom")
    vfs.umount("/")
    vfs.mount(vfs.VfsPosix("/"), "/host")
    flash = Flash("/host" + os.getenv("KEYFERRY_FLASH"), int(os.getenv("KEYFERRY_CUT", "0")))
    vfs.mount(vfs.VfsLfs2(flash), "/")
    os.chdir("/")
    agent = Agent(events=report)
    await agent.start()
    accepting = asyncio.create_task(accept(agent))
    report("ready")
    await serve(agent, flash)
    accepting.cancel()


asyncio.run(main())
