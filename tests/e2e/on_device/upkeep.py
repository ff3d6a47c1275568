"""A device for test_agents.py, also on CPython: does what JSON lines on its console say, and counts
what it gets.

{"do": "connect", "to": NAME, "profile": PROFILE, "via": WAY}; {"do": "close"};
{"do": "send", "size": N, "count": N};
{"do": "renew", "new_key": BOOL}; {"do": "memory"}; {"do": "listen"};
{"do": "tell", "to": NAME, "size": N}; {"do": "resolve", "name": NAME};
{"do": "lie", "name": NAME, "leg": LEG}: from now on it says that it is NAME, and its leg is LEG;
{"do": "hurry"}: what is due within seconds is due at once;
{"do": "register"}: as the agent does when half of its registration's life is over

On CPython its argument is the folder of its files.
"""

import asyncio
import gc
import json
import sys

from keyferry_agent import agent as agent_module
from keyferry_agent.agent import Agent
from keyferry_agent.errors import SessionEnded
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import KeyferryError

FOLDER = sys.argv[1] if CPYTHON else "/"


def report(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))


async def standard_input():
    if not CPYTHON:
        return asyncio.StreamReader(sys.stdin)
    reader = asyncio.StreamReader()
    made = lambda: asyncio.StreamReaderProtocol(reader)  # noqa: E731
    await asyncio.get_running_loop().connect_read_pipe(made, sys.stdin)
    return reader


class Upkeep:
    def __init__(self, agent):
        self.agent = agent
        self.session = None
        self.received = 0
        self.tasks = []

    async def accept(self):
        async for session in self.agent.incoming():
            self.take(session, "accepted")

    def take(self, session, event):
        self.session = session
        self.received = 0
        self.tasks = [task for task in self.tasks if not task.done()]
        self.tasks.append(asyncio.create_task(self.count(session)))
        report(event, fingerprint=session.fingerprint.hex())

    async def count(self, session):
        try:
            while True:
                data = await session.recv()
                self.received += 1
                report("got", size=len(data), count=self.received)
        except SessionEnded as error:
            report("over", reason=error.name)

    async def listen(self):
        async for message in self.agent.messages():
            verified = [leg[3] for leg in message.route]
            report("told", sender=message.sender, size=len(message.data), verified=verified)

    async def do(self, command):
        what = command["do"]
        if what == "connect":
            profile, via = command.get("profile", ""), command.get("via", "relay")
            found = await self.agent.connect(command["to"], profile=profile, via=via)
            self.take(found, "connected")
        elif what == "close":
            await self.session.close()
        elif what == "send":
            for _ in range(command["count"]):
                await self.session.send(bytes(command["size"]))
        elif what == "tell":
            await self.agent.message(command["to"], bytes(command["size"]))
        elif what == "listen":
            self.tasks.append(asyncio.create_task(self.listen()))
        elif what == "resolve":
            found = await self.agent.resolve(command["name"])
            report("resolved", online=found["online"], certified=found["certificate"] is not None)
        elif what == "lie":  # as firmware would that somebody tampered with, on SIP
            client = self.agent._carrier._client
            client.me = client.user(command["name"])
            self.agent.sessions.leg = command["leg"]
        elif what == "renew":
            await self.agent.renew(command["new_key"])
        elif what == "hurry":
            agent_module.TICK = agent_module.FOLLOW_WITHIN = 1
        elif what == "register":
            await self.agent._register()

    async def run(self):
        self.tasks.append(asyncio.create_task(self.accept()))
        console = await standard_input()
        while True:
            line = await console.readline()
            if not line:
                return
            command = json.loads(line)
            problem = ""
            try:
                await self.do(command)
            except KeyferryError as error:
                problem = str(error)
            gc.collect()
            free = 0 if CPYTHON else gc.mem_free()
            report("done", what=command["do"], problem=problem, free=free)


async def main():
    agent = Agent(FOLDER, report)
    try:
        await agent.start()
    except KeyferryError as error:
        report("failed", error=error.name, detail=error.detail)
        return
    report("ready")
    await Upkeep(agent).run()


asyncio.run(main())
