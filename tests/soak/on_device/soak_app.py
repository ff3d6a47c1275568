"""A device for the soak: does what JSON lines on its console say, and tells how much heap it has.

{"do": "connect", "to": NAME}; {"do": "send", "count": N, "size": S}: records over the session;
{"do": "memory"}: after a collection, bytes of heap used, free, and the largest free piece.

What it receives it counts, and says so when ``{"do": "await", "count": N}`` came in all since the
last time. It links again at once, without the agent's waiting times.
"""

import asyncio
import gc
import json
import sys

from keyferry_agent import agent as agent_module
from keyferry_agent.agent import Agent
from keyferry_agent.errors import SessionEnded
from keyferry_core.errors import KeyferryError


def report(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))


def largest():
    """The largest piece that the heap can give, in bytes, to a 32nd."""
    size = gc.mem_free()
    while size > 32:
        try:
            bytearray(size)
        except MemoryError:
            size -= size // 32 + 1
        else:
            return size
    return 0


class Soak:
    def __init__(self, agent):
        self.agent = agent
        self.session = None
        self.received = 0
        self.wanted = 0
        self.tasks = []

    async def accept(self):
        async for session in self.agent.incoming():
            self.take(session, "accepted")

    def take(self, session, event):
        self.session = session
        self.tasks = [task for task in self.tasks if not task.done()]
        self.tasks.append(asyncio.create_task(self.count(session)))
        report(event)

    async def count(self, session):
        try:
            while True:
                await session.recv()
                self.received += 1
                self.look()
        except SessionEnded as error:
            report("over", reason=error.name)

    def look(self):
        if self.wanted and self.received >= self.wanted:
            report("received", count=self.received)
            self.received -= self.wanted
            self.wanted = 0

    async def do(self, command):
        what = command["do"]
        if what == "connect":
            self.take(await self.agent.connect(command["to"]), "connected")
        elif what == "send":
            data = bytes(command["size"])
            for _ in range(command["count"]):
                await self.session.send(data)
            report("sent")
        elif what == "await":
            self.wanted = command["count"]
            self.look()
        elif what == "memory":
            gc.collect()
            report("memory", used=gc.mem_alloc(), free=gc.mem_free(), largest=largest())

    async def run(self):
        self.tasks.append(asyncio.create_task(self.accept()))
        console = asyncio.StreamReader(sys.stdin)
        while True:
            line = await console.readline()
            if not line:
                return
            try:
                await self.do(json.loads(line))
            except KeyferryError as error:
                report("problem", text=str(error))


async def main():
    agent_module.BACKOFF = (0, 0)
    agent = Agent(events=report)
    await agent.start()
    report("ready")
    await Soak(agent).run()


asyncio.run(main())
