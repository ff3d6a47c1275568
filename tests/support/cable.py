"""A cable between a device and its manager that a test can cut, or make silent."""

import asyncio
import contextlib
from typing import Self


class Cable:
    """Forwards TCP between a port of ours and one of the manager, until it is cut.

    ``address``: where the manager sees connections come from, of 127/8. While ``silent`` nothing is
    carried and nothing is closed, as when a router forgot a connection: it is half open.
    ``bytes``: what the device sent, and what it got. ``turns``: how often the manager began to
    speak after the device, which is the round trips that the device waited for.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.bytes = [0, 0]
        self.turns = 0
        self._speaks = 1
        self.address = "127.0.0.1"
        self._carries = asyncio.Event()
        self._carries.set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._plugged, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Every connection ends, without a goodbye."""
        for writer in list(self._writers):
            writer.transport.abort()

    @property
    def silent(self) -> bool:
        return not self._carries.is_set()

    @silent.setter
    def silent(self, silent: bool) -> None:
        if silent:
            self._carries.clear()
        else:
            self._carries.set()

    async def _plugged(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._carries.wait()
            there, back = await asyncio.open_connection(
                "127.0.0.1", self._to, local_addr=(self.address, 0)
            )
        except OSError:
            writer.transport.abort()
            return
        for way, (source, target) in enumerate(((reader, back), (there, writer))):
            task = asyncio.create_task(self._carry(source, target, way))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: int
    ) -> None:
        self._writers.add(target)
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(16384):
                    await self._carries.wait()
                    self.bytes[way] += len(data)
                    self.turns += way > self._speaks
                    self._speaks = way
                    target.write(data)
                    await target.drain()
        finally:
            self._writers.discard(target)
            target.transport.abort()
