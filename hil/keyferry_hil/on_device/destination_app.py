"""A device behind a gateway: a status, streams of numbers, and the local ports of ports.json."""

import asyncio
import json

from keyferry_agent.agent import Agent
from keyferry_agent.gateway.destination import Destination


def report(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))


async def answer(path, asking):
    if path == "status":
        return {"pressure": 4.2, "asking": asking}
    if path == "large":
        return bytes(4000)
    if path == "text":
        return "one\ntwo"
    return None


async def stream(path, asking, emit):
    if path == "bad":
        raise ValueError("a fault of the application")
    sent = 0
    try:
        while path == "endless" or sent < 5:
            await emit({"number": sent} if path != "endless" else "x" * 500)
            sent += 1
            if path == "ticks":
                await asyncio.sleep(0.2)
    finally:
        report("stream-over", path=path, sent=sent)


async def main():
    agent = Agent(events=report)
    await agent.start()
    try:
        with open("/ports.json") as file:
            ports = json.load(file)
    except OSError:
        ports = []
    destination = Destination(answer, stream, ports, report)
    report("ready")
    async for session in agent.incoming():
        report("accepted", peer=session.peer, third_party=session.on_behalf_of)
        destination.serve(session)


asyncio.run(main())
