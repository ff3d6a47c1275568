"""The application of a board under test: the bench's, on a line where bytes get lost or come in.

Beside the commands of ``bench_app``:

{"do": "burst", "to": NAME, "count": N, "size": BYTES}   N records; here "burst-sent", there
                                                         "burst-received" with bytes and ms
{"do": "ping"}                                           "pong": it lives
{"do": "end"}                                            stop; the program ends

A line that is no command is "command-refused", and nothing else happens. It is started by
``import hil_app; hil_app.run()``; "started" is its first word. ``run(True)`` is for boards without
a network: frames on the console's own line are its link, and nothing that has to do with a network
can be used, even where it is there ("network-used" says who tried).
"""

import asyncio
import gc
import json
import os
import sys
import time

import bench_app

from keyferry_agent.agent import Agent
from keyferry_agent.errors import SessionEnded
from keyferry_core.errors import KeyferryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from keyferry_agent.sessions import PeerSession

report = bench_app.report
_LONGEST = 400
_NETWORK = ("socket", "tls", "ssl", "network", "lwip")
_BURST, _LAST = b"\x00burst", b"\x00last"


class Absent:
    """A module that this board does not have."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        if name == "__name__":
            raise AttributeError(name)
        report("network-used", name=self._name + "." + name)
        raise AttributeError(name)


class Hil(bench_app.Bench):
    console: "Any" = None

    async def run(self) -> None:
        self._tasks.append(asyncio.create_task(self._accept()))
        console = self.console or asyncio.StreamReader(sys.stdin)
        while True:
            try:
                line = await console.readline()
            except UnicodeError:
                report("command-refused", error="UnicodeError", bytes=0)
                continue
            if not line:
                return
            try:
                command = json.loads(line)
                word = command.pop("do")
                if word == "end":
                    return
                action = getattr(self, "do_" + word)
                task = asyncio.create_task(action(**command))
            except Exception as error:
                if line.strip():
                    report("command-refused", error=type(error).__name__, bytes=len(line))
                continue
            self._tasks.append(task)
            self._tasks = [task for task in self._tasks if not task.done()]

    async def _read(self, session: "PeerSession") -> None:
        began = count = size = 0
        try:
            while True:
                data = await session.recv()
                if data.startswith(_BURST) or data.startswith(_LAST):
                    if not count:
                        began = time.ticks_ms()
                    count += 1
                    size += len(data)
                    if data.startswith(_LAST):
                        took = time.ticks_diff(time.ticks_ms(), began)
                        report(
                            "burst-received", peer=session.peer, count=count, bytes=size, took=took
                        )
                        count = size = 0
                    continue
                report("record-received", peer=session.peer, data=data.decode())
        except SessionEnded as error:
            report("session-over", peer=session.peer, reason=error.name)
        if self._sessions.get(session.peer) is session:
            del self._sessions[session.peer]

    async def do_connect(self, to: str, profile: str = "") -> None:
        began = time.ticks_ms()
        await super().do_connect(to, profile)
        report("connect-done", peer=to, took=time.ticks_diff(time.ticks_ms(), began))

    async def do_send(self, to: str, count: int) -> None:
        if to in self._sessions:
            await super().do_send(to, count)
        else:
            report("send-failed", peer=to, error="session-over")

    async def do_close(self, to: str) -> None:
        if to in self._sessions:
            await super().do_close(to)
        else:
            report("closed", peer=to)

    async def do_burst(self, to: str, count: int, size: int) -> None:
        filling = os.urandom(16)
        filling = _BURST + filling * (size // 16 + 1)
        began = time.ticks_ms()
        try:
            for _ in range(count - 1):
                await self._sessions[to].send(filling[:size])
            await self._sessions[to].send(_LAST + filling[5:size])
        except (KeyError, KeyferryError) as error:
            report("send-failed", peer=to, error=getattr(error, "name", "session-over"))
            return
        report("burst-sent", peer=to, count=count, took=time.ticks_diff(time.ticks_ms(), began))

    async def do_ping(self) -> None:
        report("pong")


async def join() -> None:
    """The Wi-Fi of ``/wifi.json``, on boards with a radio."""
    try:
        with open("/wifi.json") as file:
            known = json.load(file)
        network = __import__("network")
    except (OSError, ImportError):
        return
    radio = network.WLAN(network.STA_IF)
    radio.active(True)
    if not radio.isconnected():
        radio.connect(known["ssid"], known["password"])
    for _ in range(200):
        if radio.isconnected():
            return
        await asyncio.sleep_ms(100)  # pyright: ignore[reportAttributeAccessIssue]
    report("no-wifi")


async def main(serial: bool) -> None:
    gc.collect()
    report("started", used=gc.mem_alloc(), free=gc.mem_free())
    line = None
    more = {}
    if serial:
        for name in _NETWORK:
            sys.modules[name] = Absent(name)  # pyright: ignore[reportArgumentType]
        from keyferry_agent.uart import Line, Serial
        from keyferry_core.suite import for_board

        line = Line(sys.stdin.buffer, sys.stdout.buffer)
        more["crypto"] = crypto = for_board(os.urandom)
        more["network"] = Serial(line, crypto)
    else:
        await join()
    agent = Agent(events=report, **more)
    try:
        await agent.start()
    except KeyferryError as error:
        report("start-failed", error=error.name, detail=error.detail)
        return
    report("ready")
    bench = Hil(agent)
    bench.console = line
    await bench.run()
    await agent.stop()
    report("ended")


def run(serial: bool = False) -> None:
    asyncio.run(main(serial))
    asyncio.new_event_loop()
