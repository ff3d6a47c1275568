"""The application of a device on the bench: does what JSON lines on its console say.

{"do": "connect", "to": NAME}             a session with NAME; "connected" or "connect-failed";
                                          "profile": "cert" or "rpk" where not the configured one
{"do": "send", "to": NAME, "count": N}    N records with random contents, each "record-sent"
{"do": "close", "to": NAME}               close the session; "closed"
{"do": "resolve", "name": NAME}           "resolved" or "resolve-failed"
{"do": "renew", "new_key": BOOL}          a new certificate; "renewed" or "renew-failed"
{"do": "memory"}                          "memory": bytes of heap used and free

It accepts every session that the manager lets through, and reports each record and each end.
Only the agent's public interface is used, as in any other application.
"""

import asyncio
import gc
import json
import os
import sys

from keyferry_agent.agent import Agent
from keyferry_agent.errors import SessionEnded
from keyferry_core.errors import KeyferryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from keyferry_agent.sessions import PeerSession


def report(event: str, **fields: object) -> None:
    fields["event"] = event
    print(json.dumps(fields))


class Bench:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._sessions: dict[str, PeerSession] = {}
        self._tasks: list[asyncio.Task] = []

    async def run(self) -> None:
        self._tasks.append(asyncio.create_task(self._accept()))
        console = asyncio.StreamReader(sys.stdin)
        while True:
            line = await console.readline()
            if not line:
                return
            command = json.loads(line)
            action = getattr(self, "do_" + command.pop("do"))
            # In a task of its own: the next command need not wait for a slow peer.
            self._tasks.append(asyncio.create_task(action(**command)))
            self._tasks = [task for task in self._tasks if not task.done()]

    async def _accept(self) -> None:
        async for session in self._agent.incoming():
            self._keep(session, "accepted")

    def _keep(self, session: "PeerSession", event: str) -> None:
        self._sessions[session.peer] = session
        report(event, peer=session.peer, fingerprint=session.fingerprint.hex())
        self._tasks.append(asyncio.create_task(self._read(session)))

    async def _read(self, session: "PeerSession") -> None:
        try:
            while True:
                data = await session.recv()
                report("record-received", peer=session.peer, data=data.decode())
        except SessionEnded as error:
            report("session-over", peer=session.peer, reason=error.name)
        if self._sessions.get(session.peer) is session:
            del self._sessions[session.peer]

    async def do_connect(self, to: str, profile: str = "") -> None:
        try:
            session = await self._agent.connect(to, profile=profile)
        except KeyferryError as error:
            report("connect-failed", peer=to, error=error.name, text=error.text)
            return
        self._keep(session, "connected")

    async def do_send(self, to: str, count: int) -> None:
        own = self._agent.config.name
        try:
            for number in range(1, count + 1):
                data = own + " to " + to + ", record " + str(number) + ": " + os.urandom(12).hex()
                await self._sessions[to].send(data.encode())
                report("record-sent", peer=to, data=data)
        except KeyferryError as error:
            report("send-failed", peer=to, error=error.name)

    async def do_close(self, to: str) -> None:
        await self._sessions[to].close()
        report("closed", peer=to)

    async def do_resolve(self, name: str) -> None:
        try:
            found = await self._agent.resolve(name)
        except KeyferryError as error:
            report("resolve-failed", name=name, error=error.name)
            return
        report("resolved", name=name, online=found["online"])

    async def do_renew(self, new_key: bool = False) -> None:
        try:
            await self._agent.renew(new_key)
        except KeyferryError as error:
            report("renew-failed", error=error.name, detail=error.detail)
            return
        report("renewed", new_key=new_key)

    async def do_memory(self) -> None:
        gc.collect()
        report("memory", used=gc.mem_alloc(), free=gc.mem_free())


async def main() -> None:
    gc.collect()
    report("boot", used=gc.mem_alloc(), free=gc.mem_free())
    agent = Agent(events=report)
    await agent.start()
    report("ready")
    await Bench(agent).run()
    await agent.stop()


if __name__ == "__main__":
    asyncio.run(main())
