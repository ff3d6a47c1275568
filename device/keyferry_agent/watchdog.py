"""Feeds a board's watchdog for as long as the agent's loop turns.

A watchdog that a task feeds says that no task has stopped the others. The agent's longest piece
without a turn is one message of a handshake (docs/field.md has the figures).
"""

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds between two feeds.
PERIOD = 0.5


async def keep_feeding(feed: "Callable[[], object]") -> None:
    """Call ``feed`` now and every PERIOD seconds, until cancelled."""
    while True:
        feed()
        await asyncio.sleep(PERIOD)
