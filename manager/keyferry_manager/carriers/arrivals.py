"""Connections that are no device's link yet: bounded, and looked up without holding up others."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from keyferry_manager.counting import count_down


class Arrivals:
    """``waiting``: how many of each certificate there are. ``tasks``: look-ups under way."""

    def __init__(self) -> None:
        self.waiting: Counter[bytes] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()

    def enter(self, certificate_der: bytes, most: int) -> bool:
        """Count another one. False, and nothing counted, when ``most`` wait already."""
        if self.waiting[certificate_der] >= most:
            return False
        self.waiting[certificate_der] += 1
        return True

    def leave(self, certificate_der: bytes) -> None:
        """One that ``enter`` counted waits no more: it is a link now, or gone."""
        count_down(self.waiting, certificate_der)

    def look_up(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin to find out who it is. ``name`` is the task's."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def stop(self) -> None:
        """Give up look-ups under way."""
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
