"""What a manager in a process of its own has written down, once it has."""

import asyncio
from typing import Any

from keyferry_manager.cli.demo.stage import Stage

SECONDS = 30


async def audited(stage: Stage, event: str) -> list[dict[str, Any]]:
    """The audit entries of one kind, once there is one: the manager writes them in batches."""
    async with asyncio.timeout(SECONDS):
        while True:
            entries = await stage.keyferry("audit", "--home", str(stage.home))
            found = [entry for entry in entries if entry["event"] == event]
            if found:
                return found
            await asyncio.sleep(0.2)
