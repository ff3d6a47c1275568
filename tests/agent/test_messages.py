# heap: 1m
"""Plain messages between agents, and sessions that a manager lost: each side learns of it."""

import asyncio

from keyferry_agent import agent as agent_module
from keyferry_agent import messages as messages_module
from keyferry_agent.errors import SessionEnded
from keyferry_core import cbor
from keyferry_core import signalling as s
from keyferry_core.errors import LocalError, RemoteError, code_of
from support.agent_kit import Hub, Party, fails, introduce, run, until


def _reports(hub):
    return [message for message in hub.seen if message[s.TYPE] == s.DELIVERED]


async def _next(party):
    return await asyncio.wait_for(party.agent.messages().__anext__(), 10)


def test_messages_both_ways_and_their_route():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            a.agent.messages()
            b.agent.messages()
            for data in (b"", b"x", bytes(s.MAX_PLAIN)):
                await a.agent.message("pump-7", data)
                message = await _next(b)
                assert (message.sender, message.data) == ("panel-1", data)
                assert message.route == [
                    ["192.0.2.7:1234", 1, True, True],
                    ["192.0.2.1:8883", 1, True, True],
                ]
                await b.agent.message("panel-1", data + b"!"[: s.MAX_PLAIN - len(data)])
                assert (await _next(a)).sender == "pump-7"
            assert len(_reports(hub)) == 6
            for report in _reports(hub):
                assert s.ERROR_CODE not in report
            for data in (bytes(s.MAX_PLAIN + 1), "text"):
                assert (await fails(LocalError, a.agent.message("pump-7", data))).name == (
                    "bad-argument"
                )
            # sessions are none of it
            session, other = await introduce(a, b)
            await session.send(b"in private")
            assert await other.recv() == b"in private"

    run(main())


def test_an_application_that_takes_no_messages_declines():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            assert (
                await fails(RemoteError, a.agent.message("pump-7", b"hello"))
            ).name == "declined"
            assert b.events.all("plain-message")[0]["error"] == "declined"
            b.agent.messages()
            await a.agent.message("pump-7", b"hello")
            assert (await _next(b)).data == b"hello"

    run(main())


def test_an_application_that_does_not_read_holds_a_bounded_queue():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            inbox = b.agent.messages()
            session, other = await introduce(a, b)
            for number in range(messages_module.QUEUE):
                await a.agent.message("pump-7", bytes([number]))
            for _ in range(3):
                assert (await fails(RemoteError, a.agent.message("pump-7", b"more"))).name == (
                    "too-many"
                )
            # the link goes on for everything else
            await session.send(b"still here")
            assert await other.recv() == b"still here"
            for number in range(messages_module.QUEUE):
                assert (await inbox.__anext__()).data == bytes([number])
            # bytes count as well
            await a.agent.message("pump-7", bytes(2048))
            await a.agent.message("pump-7", bytes(2048))
            assert (await fails(RemoteError, a.agent.message("pump-7", b"1"))).name == "too-many"
            await inbox.__anext__()
            await a.agent.message("pump-7", b"1")

    run(main())


def test_refusals_of_the_manager_have_their_names():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            for name in (
                "access-denied",
                "unknown-name",
                "device-gone",
                "peer-offline",
                "peer-gone",
                "too-many",
                "timeout",
            ):
                hub.refuse[s.SEND] = name
                assert (await fails(RemoteError, a.agent.message("pump-7", b"x"))).name == name
            hub.refuse = {}
            assert (await fails(RemoteError, a.agent.message("pump-7", b"x"))).name == (
                "peer-offline"
            )
            hub.refuse[s.RESOLVE] = "device-gone"
            assert (await fails(RemoteError, a.agent.resolve("pump-7"))).name == "device-gone"

    run(main())


def test_only_the_one_who_was_asked_can_report():
    async def main():
        hub = Hub()
        hub.meddle = lambda m: None if m[s.TYPE] == s.SEND else m
        async with Party(hub, "panel-1") as a:
            sending = asyncio.create_task(fails(RemoteError, a.agent.message("pump-7", b"x")))
            await until(lambda: "send" in hub.types())
            number = hub.seen[-1][s.ID]
            report = {s.TYPE: s.DELIVERED, s.FROM: "panel-2", s.TO: "panel-1", s.ID: number}
            a.link.deliver(cbor.encode(report))
            report[s.FROM] = "pump-7"
            report[s.ID] = number + 1
            a.link.deliver(cbor.encode(report))
            await until(lambda: len(a.events.all("message-refused")) == 2)
            assert not sending.done()
            # the first answer counts; what comes later is nobody's
            report[s.ID] = number
            report[s.ERROR_CODE] = code_of("too-many")
            a.link.deliver(cbor.encode(report))
            assert (await asyncio.wait_for(sending, 5)).name == "too-many"
            del report[s.ERROR_CODE]
            a.link.deliver(cbor.encode(report))
            await until(lambda: len(a.events.all("message-refused")) == 3)

    run(main())


def test_no_answer_and_no_link():
    async def main():
        hub = Hub()
        hub.meddle = lambda m: None if m[s.TYPE] == s.SEND else m
        kept = agent_module.ANSWER_TIMEOUT
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            agent_module.ANSWER_TIMEOUT = 1
            try:
                assert (await fails(RemoteError, a.agent.message("pump-7", b"x"))).name == "timeout"
            finally:
                agent_module.ANSWER_TIMEOUT = kept
            sending = asyncio.create_task(fails(RemoteError, a.agent.message("pump-7", b"x")))
            await until(lambda: hub.types().count("send") == 2)
            hub.cut("panel-1")
            assert (await asyncio.wait_for(sending, 5)).name == "peer-gone"
            hub.meddle = lambda m: m
            b.agent.messages()
            await a.agent.message("pump-7", b"after it is back")
            assert (await _next(b)).data == b"after it is back"

    run(main())


def test_stop_ends_the_messages():
    async def main():
        hub = Hub()
        async with Party(hub, "pump-7") as b:
            inbox = b.agent.messages()
            waiting = asyncio.create_task(fails(StopAsyncIteration, inbox.__anext__()))
            await asyncio.sleep(0.05)
        await asyncio.wait_for(waiting, 5)

    run(main())


def test_a_manager_that_started_anew_has_lost_the_sessions():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            # a link that comes back to the same run of the manager keeps the session
            hub.cut("pump-7")
            await until(lambda: len(b.events.all("registered")) == 2)
            await session.send(b"still there")
            assert await asyncio.wait_for(other.recv(), 5) == b"still there"
            # nobody sends anything: both wait, and both learn
            waiting = [
                asyncio.create_task(fails(SessionEnded, side.recv())) for side in (session, other)
            ]
            hub.boot = b"manager2"
            hub.cut("panel-1")
            hub.cut("pump-7")
            for task in waiting:
                assert (await asyncio.wait_for(task, 10)).name == "manager-restarted"
            assert a.agent.sessions.count() == b.agent.sessions.count() == 0
            session, other = await introduce(a, b)
            await session.send(b"anew")
            assert await other.recv() == b"anew"

    run(main())
