# heap: 1m
"""Sessions of agents: lost links, messages that are none, and bounds."""

import asyncio
import time

from keyferry_agent import sessions as sessions_module
from keyferry_agent.errors import SessionEnded
from keyferry_core import cbor
from keyferry_core import signalling as s
from keyferry_core.errors import LocalError, RemoteError, code_of
from support.agent_kit import NOW, Hub, Party, certificate, fails, introduce, run, set_clock, until


def test_a_session_survives_a_lost_link():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            instance = hub.instances["panel-1"]
            hub.allow_opening = False
            hub.cut("panel-1")
            await until(lambda: a.events.all("link-down"))
            sending = asyncio.create_task(session.send(b"kept while the link was down"))
            await asyncio.sleep(0.1)
            assert not sending.done()
            hub.allow_opening = True
            await asyncio.wait_for(sending, 5)
            assert await asyncio.wait_for(other.recv(), 5) == b"kept while the link was down"
            assert hub.instances["panel-1"] == instance
            await other.send(b"back")
            assert await asyncio.wait_for(session.recv(), 5) == b"back"
            assert len(a.events.all("registered")) == 2

    run(main())


def test_what_was_not_acknowledged_is_sent_again_and_taken_once():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            a.link.acknowledge = False
            await session.send(b"once")
            assert await asyncio.wait_for(other.recv(), 5) == b"once"
            hub.cut("panel-1")
            await until(lambda: len(b.events.all("message-refused")) == 1)
            await session.send(b"twice")
            assert await asyncio.wait_for(other.recv(), 5) == b"twice"
            assert not other.ended

    run(main())


def test_an_outage_longer_than_the_grace_ends_sessions():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", session_grace=30) as a, Party(hub, "pump-7") as b:
            session, _ = await introduce(a, b)
            hub.allow_opening = False
            hub.cut("panel-1")
            await until(lambda: a.events.all("link-down"))
            set_clock(NOW + 31)
            hub.allow_opening = True
            assert (await fails(SessionEnded, session.recv())).name == "peer-gone"
            await a.agent.connect("pump-7", 5)

    run(main())


def test_end_of_a_session_said_by_the_manager():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            for error in ("peer-restarted", "peer-gone", "access-denied", None):
                session, other = await introduce(a, b)
                message = {s.TYPE: s.END, s.SESSION: session.session_id}
                if error:
                    message[s.ERROR_CODE] = code_of(error)
                hub.reply(a.link, message)
                ended = await fails(SessionEnded, session.recv())
                assert ended.name == (error or "session-closed")
                await other.close()

    run(main())


def test_an_end_from_someone_else_is_no_end():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            for kind in (s.END, s.REJECT):
                message = {
                    s.TYPE: kind,
                    s.FROM: "valve-2",
                    s.TO: "panel-1",
                    s.SESSION: session.session_id,
                    s.ERROR_CODE: code_of("declined"),
                }
                a.link.deliver(cbor.encode(message))
            message = {s.TYPE: s.MESSAGE, s.FROM: "valve-2", s.TO: "panel-1"}
            message[s.SESSION] = session.session_id
            message[s.RECORD] = bytes(40)
            a.link.deliver(cbor.encode(message))
            await other.send(b"still here")
            assert await session.recv() == b"still here"
            assert not session.ended

    run(main())


def test_errors_about_one_message_do_not_end_the_session():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            for name in ("peer-offline", "too-many"):
                hub.refuse = {s.MESSAGE: name}
                await session.send(b"lost")
                await until(lambda: a.events.all("message-lost"))
                hub.refuse = {}
                error = await fails(RemoteError, session.send(b"not sent"))
                assert error.name == name
                assert not isinstance(error, SessionEnded)
                a.events.clear()
                await session.send(b"arrives")
                assert await other.recv() == b"arrives"
            hub.refuse = {s.MESSAGE: "unknown-session"}
            await session.send(b"lost")
            assert (await fails(SessionEnded, session.recv())).name == "unknown-session"

    run(main())


def test_forged_and_replayed_records_are_refused_and_the_session_goes_on():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            await session.send(b"one")
            assert await other.recv() == b"one"
            record = [m for m in hub.seen if m[s.TYPE] == s.MESSAGE and s.RECORD in m][-1]
            b.link.deliver(cbor.encode(record))
            forged = dict(record)
            forged[s.RECORD] = record[s.RECORD][:-1] + bytes([record[s.RECORD][-1] ^ 1])
            b.link.deliver(cbor.encode(forged))
            for length in (1, 2, 17, 100):
                forged[s.RECORD] = bytes(length)
                b.link.deliver(cbor.encode(forged))
            await session.send(b"two")
            assert await other.recv() == b"two"
            assert len(b.events.all("message-refused")) == 6

    run(main())


def test_bad_messages_never_kill_the_agent():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            a.events.clear()
            unknown = bytes(16)
            down = {s.FROM: s.MANAGER, s.TO: "panel-1"}
            peer = {s.FROM: "pump-7", s.TO: "panel-1"}
            taken = {s.TYPE: s.CONNECT, s.SESSION: session.session_id, s.PROFILE: 0}
            taken[s.MESSAGE_1] = b"x"
            bad = [
                down | {s.TYPE: s.REGISTERED, s.ID: 77},
                down | {s.TYPE: s.RESOLVED, s.ID: 1},
                down | {s.TYPE: s.REGISTERED},
                peer | {s.TYPE: s.REGISTERED, s.ID: 1},
                peer | {s.TYPE: s.ERROR, s.ERROR_CODE: 3},
                down | {s.TYPE: s.END, s.SESSION: unknown, s.TO: "pump-7"},
                peer | {s.TYPE: s.ACCEPT, s.SESSION: unknown, s.MESSAGE_2: b"x"},
                peer | {s.TYPE: s.ACCEPT, s.SESSION: session.session_id, s.MESSAGE_2: b"x"},
                peer
                | {
                    s.TYPE: s.CONNECT,
                    s.SESSION: session.session_id,
                    s.PROFILE: 0,
                    s.MESSAGE_1: b"x",
                },
            ]
            payloads = [cbor.encode(message) for message in bad]
            payloads += [b"", b"\xff", b"\xa0", b"\x80", b"\xbf", b"\x5b" + b"\xff" * 8, bytes(300)]
            for payload in payloads:
                a.link.deliver(payload)
            await until(lambda: len(a.events.all("message-refused")) == len(payloads))
            # these say nothing, but nothing is wrong with them either
            quiet = [
                down | {s.TYPE: s.ERROR},
                down | {s.TYPE: s.ERROR, s.ERROR_CODE: 9999, s.TEXT: "?"},
                down | {s.TYPE: s.ERROR, s.ID: 77},
                down | {s.TYPE: s.END, s.SESSION: unknown},
                peer | {s.TYPE: s.REJECT, s.SESSION: unknown, s.ERROR_CODE: 1},
            ]
            for message in quiet:
                a.link.deliver(cbor.encode(message))
            await other.send(b"alive")
            assert await session.recv() == b"alive"
            assert len(a.events.all("manager-error")) == 3
            assert not a.events.all("link-down")
            for error in a.events.all("message-refused"):
                assert error["error"] in ("malformed", "unsupported"), error

    run(main())


def test_a_useless_connect_is_rejected_with_its_reason():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            for number, (profile, message_1, error) in enumerate(
                (
                    (1, bytes(37), "malformed"),  # without the key that the profile needs
                    (0, b"\xff", "key-exchange-failed"),
                    (0, bytes(37), "key-exchange-failed"),
                )
            ):
                message = {
                    s.TYPE: s.CONNECT,
                    s.FROM: "panel-1",
                    s.TO: "pump-7",
                    s.SESSION: bytes([number]) * 16,
                    s.PROFILE: profile,
                    s.MESSAGE_1: message_1,
                    s.CREDENTIAL: certificate("panel-1"),
                }
                b.link.deliver(cbor.encode(message))
                await until(lambda wanted=number: hub.types().count("reject") == wanted + 1)
                assert hub.seen[-1][s.ERROR_CODE] == code_of(error), error
            assert not a.events.all("session-ended")

    run(main())


def test_half_open_sessions_are_bounded_and_the_oldest_goes():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7", max_half_open=2) as b:
            # three askers whose message_3 is late
            held = []

            def hold(message):
                if message[s.TYPE] == s.MESSAGE and s.MESSAGE_3 in message:
                    held.append(message)
                    return None
                return message

            hub.meddle = hold
            tasks = []
            for number in range(3):
                tasks.append(asyncio.create_task(a.agent.connect("pump-7", 20)))
                await until(lambda wanted=number: len(held) == wanted + 1)
            assert [event["reason"] for event in b.events.all("half-open-dropped")] == ["too-many"]
            # the one that had to go hears of it
            assert (await fails(RemoteError, tasks[0])).name == "too-many"
            hub.meddle = lambda message: message
            for message in held:
                b.link.deliver(cbor.encode(message))
            await tasks[1]
            await tasks[2]
            assert b.agent.sessions.count() == 2

    run(main())


def test_half_open_sessions_expire():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            hub.meddle = lambda message: None if s.MESSAGE_3 in message else message
            await fails(RemoteError, a.agent.connect("pump-7", 1))
            # the END after the timeout takes it away; without that, time does
            hub.meddle = lambda message: None if message[s.TYPE] in (s.MESSAGE, s.END) else message
            await fails(RemoteError, a.agent.connect("pump-7", 1))
            await b.agent.sessions.expire()
            set_clock(NOW + 61)
            await b.agent.sessions.expire()
            reasons = [event["reason"] for event in b.events.all("half-open-dropped")]
            assert reasons == ["timeout", "timeout"]

    run(main())


def test_sessions_are_bounded_on_both_sides():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", max_sessions=3) as a:
            async with Party(hub, "pump-7", max_sessions=2) as b:
                first, _ = await introduce(a, b)
                await introduce(a, b)
                error = await fails(RemoteError, a.agent.connect("pump-7", 5))
                assert error.name == "too-many"
                await first.close()
                await until(lambda: b.agent.sessions.count() == 1)
                await introduce(a, b)
            async with Party(hub, "valve-2", max_sessions=9) as c:
                for _ in range(3):
                    await introduce(a, c)
                error = await fails(LocalError, a.agent.connect("valve-2", 5))
                assert error.name == "too-many"

    run(main())


def test_sessions_that_nobody_takes_are_bounded():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", max_sessions=9) as a:
            async with Party(hub, "pump-7", max_sessions=9, max_incoming=2) as b:
                await a.agent.connect("pump-7", 5)
                await a.agent.connect("pump-7", 5)
                error = await fails(RemoteError, a.agent.connect("pump-7", 5))
                assert error.name == "too-many"
                await b.next()
                await a.agent.connect("pump-7", 5)

    run(main())


def test_an_application_that_does_not_read_loses_records_and_holds_nobody_up():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7", receive_queue=3) as b:
            slow, unread = await introduce(a, b)
            quick, read = await introduce(a, b)
            for number in range(6):
                await slow.send(bytes([number]))
            await until(lambda: unread.dropped == 3)
            for number in range(20):
                await quick.send(bytes([number]))
                assert await read.recv() == bytes([number])
            for number in range(3):
                assert await unread.recv() == bytes([number])
            # it reads again, so nothing is lost any more
            await slow.send(b"new")
            assert await unread.recv() == b"new"
            assert unread.dropped == 3
            assert len(b.events.all("record-dropped")) == 3

    run(main())


async def nothing_lost(meanwhile):
    """Twelve records, room for two, a reader that is a little slow; ``meanwhile`` is awaited."""
    hub = Hub()
    async with Party(hub, "panel-1") as a, Party(hub, "pump-7", receive_queue=2) as b:
        session, other = await introduce(a, b)

        async def send_all():
            for number in range(12):
                await session.send(bytes([number]))

        tasks = [asyncio.create_task(send_all()), asyncio.create_task(meanwhile())]
        for number in range(12):
            await asyncio.sleep(0.03)
            assert await asyncio.wait_for(other.recv(), 5) == bytes([number])
        for task in tasks:
            await task
        assert other.dropped == 0


def test_a_reader_that_is_only_a_little_slow_loses_nothing():
    async def rest():
        pass

    run(nothing_lost(rest))


def test_a_board_that_was_busy_itself_drops_nothing():
    async def compute():
        for _ in range(3):
            await asyncio.sleep(0.02)
            time.sleep(sessions_module.STALL_SECONDS + 0.1)

    run(nothing_lost(compute))


def test_a_message_for_a_forgotten_session_is_answered_once():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            b.agent.sessions.end_all("internal")
            b.agent.sessions._gone = []
            await session.send(b"hello?")
            assert (await fails(SessionEnded, session.recv())).name == "unknown-session"
            assert (await fails(SessionEnded, other.recv())).name == "internal"

    run(main())
