# heap: 1m
"""Records straight to the peer: over real TCP, with the relay to fall back to, and strangers."""

import asyncio
import os

from keyferry_agent import direct
from keyferry_agent.direct import label
from keyferry_agent.errors import SessionEnded
from keyferry_core import signalling as s
from keyferry_core.errors import LocalError, RemoteError
from support.agent_kit import Hub, Party, fails, run, until


def free_port():
    return 20000 + int.from_bytes(os.urandom(2), "big") % 12000


def reachable(hub):
    port = free_port()
    return Party(hub, "pump-7", direct_port=port, addresses=["127.0.0.1:" + str(port)])


def relayed(hub):
    return len([message for message in hub.seen if s.RECORD in message])


async def meet(a, b, via="auto"):
    session = await a.agent.connect(b.name, 10, via=via)
    taken = await b.next()
    if via == "auto":
        await until(lambda: session.path is not None and taken.path is not None)
    return session, taken


def test_records_go_straight_and_the_last_comes_before_the_end():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            async with reachable(hub) as b:
                here, there = await meet(a, b)
                before = relayed(hub)
                for number in range(30):
                    await here.send(b"to " + str(number).encode())
                    await there.send(b"fro " + str(number).encode())
                    assert await there.recv() == b"to " + str(number).encode()
                    assert await here.recv() == b"fro " + str(number).encode()
                assert relayed(hub) == before
                for number in range(5):
                    await here.send(bytes((number,)))
                await here.close()
                for number in range(5):
                    assert await there.recv() == bytes((number,))
                assert (await fails(SessionEnded, there.recv())).name == "session-closed"
                assert relayed(hub) == before
                await until(lambda: there.path is None and here.path is None)
                assert b.events.names().count("direct-up") == 1
                assert not b.events.all("message-refused")

    run(main())


def test_a_path_that_breaks_loses_nothing():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            async with reachable(hub) as b:
                here, there = await meet(a, b)
                got = []

                async def read():
                    while len(got) < 40:
                        got.append(int(await there.recv()))

                reading = asyncio.create_task(read())
                for number in range(40):
                    if number == 17:
                        there.path.close()
                    await here.send(str(number).encode())
                await asyncio.wait_for(reading, 20)
                assert got == list(range(40)), got
                assert here.path is None
                assert not here.ended
                assert relayed(hub) >= 20
                await there.send(b"and back")
                assert await here.recv() == b"and back"

    run(main())


def test_where_no_address_answers():
    async def main():
        hub = Hub()
        port = free_port()
        async with Party(hub, "panel-1") as a:
            async with Party(hub, "pump-7", addresses=["127.0.0.1:" + str(port), "nonsense"]) as b:
                here = await a.agent.connect("pump-7", 10, via="auto")
                there = await b.next()
                assert here.path is None
                assert len(a.events.all("direct-failed")) == 2
                await here.send(b"by the relay")
                assert await there.recv() == b"by the relay"
                await here.close()
                error = await fails(RemoteError, a.agent.connect("pump-7", 10, via="direct"))
                assert error.name == "peer-offline"
                await until(lambda: b.agent.sessions.count() == 0)
                await fails(LocalError, a.agent.connect("pump-7", 10, via="pigeon"))

    run(main())


def test_what_the_manager_ends_ends_here_too():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            async with reachable(hub) as b:
                here, there = await meet(a, b)
                for party in (a, b):
                    end = {s.TYPE: s.END, s.SESSION: here.session_id, s.ERROR_CODE: 3}
                    hub.reply(party.link, end)
                assert (await fails(SessionEnded, there.recv())).name == "access-denied"
                assert (await fails(SessionEnded, here.recv())).name == "access-denied"
                await until(lambda: here.path is None and there.path is None)
                await fails(SessionEnded, here.send(b"too late"))

    run(main())


def test_a_session_that_must_go_straight_ends_with_its_path():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            async with reachable(hub) as b:
                here, there = await meet(a, b, "direct")
                await until(lambda: there.path is not None)
                there.path.close()
                await fails(SessionEnded, here.recv())

    run(main())


def test_strangers_get_nothing_and_hold_nobody_up():
    async def main():
        direct.HELLO_SECONDS = 1
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            async with reachable(hub) as b:
                here, there = await meet(a, b)
                port = b.agent.config.direct_port
                hello = label(there) + b"\x00\x20" + b"\x41" + bytes(31)

                async def try_(data):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(data)
                    await writer.drain()
                    try:
                        answer = await asyncio.wait_for(reader.read(1), 5)
                    except OSError:
                        answer = b""
                    writer.close()
                    try:
                        await writer.wait_closed()
                    except OSError:
                        pass
                    return answer

                for data in (
                    b"",
                    b"GET / HTTP/1.1\r\n\r\n",
                    bytes(8) + b"\x00\x20" + bytes(32),
                    label(there) + b"\xff\xff",
                    label(there) + b"\x00\x00",
                    hello,
                    hello[:20],
                ):
                    assert await try_(data) == b"", data
                for _ in range(direct.MAX_BAD + 2):
                    assert await try_(hello) == b""
                # the path that stands goes on, and nothing counts as a forgery
                assert there._core.records.forged == 0
                await here.send(b"still here")
                assert await there.recv() == b"still here"
                await until(lambda: b.agent._direct._strangers == 0)

    try:
        run(main())
    finally:
        direct.HELLO_SECONDS = 5
