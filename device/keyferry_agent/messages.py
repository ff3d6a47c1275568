"""Plain messages from other devices, without a session: what came in and was not read yet.

The agent loads this module when the application asks for messages; before, they are declined.
"""

import asyncio

from keyferry_core import signalling as s

# What waits for the application: so many messages, so many bytes of them. One always fits.
QUEUE = 8
QUEUE_BYTES = 4096


class Message:
    """``data`` from the device ``sender``: the manager vouches for the name, and can read the data.

    ``route``: two legs, the sender's way to the manager and the manager's to us, each [address,
    transport, mutually authenticated, verified by the manager].
    """

    def __init__(self, sender: str, data: bytes, route: list) -> None:
        self.sender = sender
        self.data = data
        self.route = route


class Messages:
    """``async for message in agent.messages()``, until the agent stops."""

    def __init__(self) -> None:
        self._queue: list[Message] = []
        self._news = asyncio.Event()
        self._stopped = False

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> Message:
        while not self._queue:
            if self._stopped:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._queue.pop(0)

    def stop(self) -> None:
        """No more messages come in."""
        self._stopped = True
        self._news.set()

    def take(self, message: dict) -> str:
        """Keep a checked SEND: "", or the error that says why not."""
        data = message[s.DATA]
        waiting = 0
        for kept in self._queue:
            waiting += len(kept.data)
        if self._stopped:
            return "declined"
        if self._queue and (len(self._queue) >= QUEUE or waiting + len(data) > QUEUE_BYTES):
            return "too-many"
        self._queue.append(Message(message[s.FROM], data, message.get(s.ROUTE, [])))
        self._news.set()
        return ""
