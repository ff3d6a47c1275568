"""A gateway: says what happens, a JSON line an event, and its memory for each line it reads."""

import asyncio
import gc
import json
import os
import sys

from keyferry_agent.agent import Agent
from keyferry_agent.gateway.gateway import Gateway
from keyferry_core.errors import KeyferryError
from keyferry_core.suite import for_board


def report(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))


async def main():
    gc.threshold(8192)
    crypto = for_board(os.urandom)
    try:
        gateway = Gateway("/", report, crypto, lambda: Agent("/", report, crypto))
        await gateway.start()
    except KeyferryError as error:
        report("failed", error=error.name, detail=error.detail)
        return
    report("ready")
    console = asyncio.StreamReader(sys.stdin)
    while await console.readline():
        gc.collect()
        report("memory", free=gc.mem_free(), used=gc.mem_alloc())


asyncio.run(main())
