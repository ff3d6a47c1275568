"""A Keyferry node that sends back whatever its peers send. Copy it and put your own work in.

It enrols on its first start, then waits for sessions. What happens is printed as one line of JSON
an event; nothing secret is ever in it.
"""

import asyncio
import json

from keyferry_agent.agent import Agent
from keyferry_agent.board import Board
from keyferry_agent.errors import SessionEnded


def show(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))


async def echo(session):
    try:
        while True:
            await session.send(await session.recv())
    except SessionEnded as end:
        show("echo-ended", peer=session.peer, reason=end.name)


async def main():
    agent = Agent(events=show, board=Board())
    await agent.start()
    async for session in agent.incoming():
        asyncio.create_task(echo(session))


if __name__ == "__main__":
    asyncio.run(main())
