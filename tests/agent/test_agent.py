# heap: 1m
"""Two agents and a hub: sessions, queues and bounds, and a manager or a peer that misbehaves."""

import asyncio
import os

from keyferry_agent import agent as agent_module
from keyferry_agent import clock
from keyferry_agent import sessions as sessions_module
from keyferry_agent.clock import uptime
from keyferry_agent.errors import LinkError, SessionEnded
from keyferry_agent.store import Store
from keyferry_core import cbor, p256
from keyferry_core import signalling as s
from keyferry_core.errors import DecodeError, LocalError, RemoteError, code_of
from keyferry_core.records import MAX_FORGED, MAX_RECORDS
from keyferry_core.session import Responder, rejection
from keyferry_core.suite_slots import SlotCrypto
from support.agent_kit import NOW, Hub, Party, certificate, fails, introduce, run, set_clock, until
from support.portable import raises


def test_two_agents_meet_and_talk():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            assert (session.peer, other.peer) == ("pump-7", "panel-1")
            assert session.fingerprint == other.fingerprint
            assert len(session.fingerprint) == 16
            for size in (0, 1, 100, 8192):
                await session.send(bytes(size))
                assert await other.recv() == bytes(size)
                await other.send(b"\xff" * size)
                assert await session.recv() == b"\xff" * size
            for number in range(40):
                await session.send(bytes([number]))
                await other.send(bytes([number, number]))
                assert await other.recv() == bytes([number])
                assert await session.recv() == bytes([number, number])
            assert a.events.names()[:3] == ["agreement-key-made", "link-up", "registered"]
            assert a.events.all("registered")[0]["seen"] == "192.0.2.7:1234"
            order = ["connect-sent", "message-1", "message-2", "message-3", "session-up"]
            assert a.events.names()[3:8] == order
            sizes = [a.events.all(step)[0]["bytes"] for step in order[1:4]]
            assert sizes == [b.events.all(step)[0]["bytes"] for step in order[1:4]]
            assert a.events.all("session-up")[0]["fingerprint"] == session.fingerprint.hex()
            assert a.events.all("session-up")[0]["initiated"] is True
            assert b.events.all("session-up")[0]["initiated"] is False
            # both applications see both legs, with what the manager verified
            assert (
                session.route
                == other.route
                == [
                    ["192.0.2.7:1234", s.TRANSPORT_MQTT_TLS, True, True],
                    ["192.0.2.1:8883", s.TRANSPORT_MQTT_TLS, True, True],
                ]
            )
            # the route that the device states is the one that it was told of
            connect = next(m for m in hub.seen if m[s.TYPE] == s.CONNECT)
            assert connect[s.ROUTE] == [["192.0.2.7:1234", s.TRANSPORT_MQTT_TLS, True]]

    run(main())


def test_nothing_secret_in_events_or_signalling():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            await session.send(b"attack at dawn")
            assert await other.recv() == b"attack at dawn"
            for party in (a, b):
                private = party.agent.sessions.identity.for_profile(0)[2]
                assert private.hex() not in repr(party.events)
                assert b"attack at dawn".hex() not in repr(party.events)
                assert "attack at dawn" not in repr(party.events)
            for message in hub.seen:
                assert b"attack at dawn" not in cbor.encode(message)

    run(main())


def test_close_ends_both_sides_after_what_was_sent_before():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            await session.send(b"last words")
            await session.close()
            await session.close()
            assert session.ended == "session-closed"
            assert (await fails(SessionEnded, session.send(b"more"))).name == "session-closed"
            assert (await fails(SessionEnded, session.recv())).name == "session-closed"
            await until(lambda: other.ended)
            assert await other.recv() == b"last words"
            assert (await fails(SessionEnded, other.recv())).name == "session-closed"
            assert (await fails(SessionEnded, other.send(b"more"))).name == "session-closed"
            assert b.events.all("session-ended")[0]["reason"] == "session-closed"
            assert a.agent.sessions.count() == b.agent.sessions.count() == 0
            assert hub.types()[-1] == "end"

    run(main())


def test_recv_that_waits_hears_of_the_end():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            waiting = asyncio.create_task(fails(SessionEnded, other.recv()))
            await asyncio.sleep(0.05)
            await session.close()
            assert (await asyncio.wait_for(waiting, 5)).name == "session-closed"

    run(main())


def test_stop_says_goodbye():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            async with Party(hub, "pump-7") as b:
                _, other = await introduce(a, b)
                session = a.agent.sessions.standing()[0]
                link = b.link
            assert other.ended == "session-closed"
            await until(lambda: session.ended)
            assert session.ended == "session-closed"
            assert link.clean
            assert b.events.names()[-1] == "stopped"
            await fails(StopAsyncIteration, b.agent.incoming().__anext__())
            await b.agent.stop()

    run(main())


def test_refusals_of_the_manager_have_their_names():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            for name in ("access-denied", "unknown-name", "peer-offline", "too-many", "bad-route"):
                hub.refuse[s.CONNECT] = name
                error = await fails(RemoteError, a.agent.connect("pump-7", 5))
                assert error.name == name
                hub.refuse[s.RESOLVE] = name
                assert (await fails(RemoteError, a.agent.resolve("pump-7"))).name == name
            assert a.agent.sessions.count() == 0
            hub.refuse = {}
            found = await a.agent.resolve("pump-7")
            assert found == {
                "name": "pump-7",
                "online": False,
                "addresses": [],
                "expires": None,
                "certificate": None,
                "public_key": None,
            }

    run(main())


def test_names_that_cannot_be():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            await fails(DecodeError, a.agent.connect("Pump 7"))
            await fails(DecodeError, a.agent.resolve("manager"))
            await fails(LocalError, a.agent.connect("panel-1"))
            await fails(LocalError, a.agent.start())
            assert hub.types() == ["register"]

    run(main())


def test_calls_before_the_start():
    party = Party(Hub(), "panel-1")
    party.folder.__exit__()
    raises(LocalError, party.agent.incoming)

    async def main():
        await fails(LocalError, party.agent.connect("pump-7"))
        await fails(LocalError, party.agent.resolve("pump-7"))
        await fails(LocalError, party.agent.renew())
        await party.agent.stop()

    run(main())


def test_a_peer_that_never_answers():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7"):
            hub.meddle = lambda message: None if message[s.TYPE] == s.ACCEPT else message
            error = await fails(RemoteError, a.agent.connect("pump-7", 1))
            assert error.name == "timeout"
            await until(lambda: hub.types()[-1] == "end")
            assert hub.seen[-1][s.ERROR_CODE] == code_of("timeout")
            # message_3 that gets lost is a timeout as well, and leaves nothing behind
            hub.meddle = lambda message: None if message[s.TYPE] == s.MESSAGE else message
            error = await fails(RemoteError, a.agent.connect("pump-7", 1))
            assert error.name == "timeout"
            assert a.agent.sessions.count() == 0
            hub.meddle = lambda message: message
            await a.agent.connect("pump-7", 5)

    run(main())


def test_a_caller_that_gives_up():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7"):
            hub.meddle = lambda message: None if message[s.TYPE] == s.ACCEPT else message
            task = asyncio.create_task(a.agent.connect("pump-7", 30))
            await until(lambda: "connect" in hub.types())
            task.cancel()
            await fails(asyncio.CancelledError, task)
            await until(lambda: hub.types()[-1] == "end")
            assert a.agent.sessions.count() == 0

    run(main())


def test_another_certificate_is_refused_by_either_side():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            for label in ("valve-2", "second pump-7", "expired pump-7", "rogue pump-7", "panel-1"):

                def swap(message, label=label):
                    if message[s.TYPE] == s.ACCEPT:
                        message[s.CREDENTIAL] = certificate(label)
                    return message

                hub.meddle = swap
                error = await fails(RemoteError, a.agent.connect("pump-7", 5))
                assert error.name in ("authentication-failed", "key-exchange-failed"), label
                await until(lambda: hub.types()[-1] == "reject")

            def swap_first(message):
                if message[s.TYPE] == s.CONNECT:
                    message[s.CREDENTIAL] = certificate("valve-2")
                return message

            hub.meddle = swap_first
            error = await fails(RemoteError, a.agent.connect("pump-7", 5))
            assert error.name in ("authentication-failed", "key-exchange-failed")
            assert b.events.all("session-refused")
            assert b.agent.sessions.count() == a.agent.sessions.count() == 0

    run(main())


def test_a_manager_that_delivers_no_certificates():
    async def main():
        hub = Hub()
        hub.deliver_certificates = False
        for number in (1, 2):
            async with Party(hub, "panel-1", send_certificates=number) as a:
                async with Party(hub, "pump-7", send_certificates=number) as b:
                    session, other = await introduce(a, b)
                    await session.send(b"x")
                    assert await other.recv() == b"x"
                async with Party(hub, "pump-7"):
                    error = await fails(RemoteError, a.agent.connect("pump-7", 5))
                    assert error.name == "malformed"

    run(main())


def only_suites(suites, name):
    """A Responder for the agent ``name`` that takes no other suites."""

    def made(identity, trust, crypto, ephemeral):
        kept = suites if identity.name == name else (3, 2)
        return Responder(identity, trust, crypto, ephemeral, kept)

    return made


def test_a_peer_with_another_suite_is_asked_once_more():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            sessions_module.Responder = only_suites((2,), "pump-7")
            try:
                session, other = await introduce(a, b)
                await session.send(b"x")
                assert await other.recv() == b"x"
                assert hub.types()[2:5] == ["connect", "reject", "connect"]
                assert hub.seen[3][s.EDHOC_ERROR] == b"\x02\x02"
                assert a.events.all("suite-refused")[0]["suites"] == [3, 2]
                assert b.events.all("session-refused")[0]["error"] == "key-exchange-failed"
                # each of the others as it was
                await introduce(b, a)
                # nothing in common
                sessions_module.Responder = only_suites((7,), "pump-7")
                asked = hub.types().count("connect")
                error = await fails(RemoteError, a.agent.connect("pump-7", 5))
                assert error.name == "key-exchange-failed"
                assert hub.types().count("connect") == asked + 1
            finally:
                sessions_module.Responder = Responder
            assert a.agent.sessions.count() == b.agent.sessions.count() == 2

    run(main())


def test_a_peer_that_refuses_every_suite_is_asked_twice():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7"):
            answers = [b"\x02\x02", b"\x02\x03", b"\x02\x02"]

            def refuse(message):
                if message[s.TYPE] == s.ACCEPT:
                    message = rejection("pump-7", message, "declined")
                    message[s.TO] = "panel-1"
                    message[s.EDHOC_ERROR] = answers.pop(0)
                elif message[s.TYPE] == s.REJECT:
                    message[s.EDHOC_ERROR] = answers.pop(0)
                return message

            hub.meddle = refuse
            error = await fails(RemoteError, a.agent.connect("pump-7", 5))
            assert error.name == "key-exchange-failed"
            assert hub.types().count("connect") == 2
            assert a.agent.sessions.count() == 0

    run(main())


def test_keys_in_a_secure_element():
    async def main():
        hub = Hub()
        a, b = Party(hub, "panel-1"), Party(hub, "pump-7")
        for party in (a, b):
            store = Store(party.folder.path)
            name, realm, private, certified, issuer = store.identity
            store.set_identity(name, realm, b"\x00", certified, issuer)
            party.agent.crypto = SlotCrypto(os.urandom, [private])
        async with a, b:
            session, other = await introduce(a, b)
            await session.send(b"x")
            assert await other.recv() == b"x"

    run(main())


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


def test_a_reader_that_is_only_a_little_slow_loses_nothing():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7", receive_queue=2) as b:
            session, other = await introduce(a, b)

            async def send_all():
                for number in range(12):
                    await session.send(bytes([number]))

            task = asyncio.create_task(send_all())
            for number in range(12):
                await asyncio.sleep(0.03)
                assert await asyncio.wait_for(other.recv(), 5) == bytes([number])
            await task
            assert other.dropped == 0

    run(main())


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


def test_the_manager_may_be_late():
    async def main():
        hub = Hub()
        hub.connack = 3
        party = Party(hub, "panel-1")
        start = asyncio.create_task(party.agent.start())
        await until(lambda: len(party.events.all("link-down")) > 2)
        hub.connack = 0
        hub.refuse[s.REGISTER] = "internal"
        await until(lambda: party.events.all("link-down")[-1]["error"] == "internal")
        assert not start.done()
        hub.refuse = {}
        await asyncio.wait_for(start, 5)
        async with Party(hub, "pump-7"):
            await party.agent.connect("pump-7", 5)
        await party.agent.stop()
        party.folder.__exit__()

    run(main())


def test_a_device_with_our_identity_does_not_make_us_flap():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            agent_module.BACKOFF = (0, 3)
            hub.error(a.link, "replaced", {})
            await until(lambda: a.events.all("manager-error"))
            hub.cut("panel-1")
            await until(lambda: a.events.all("link-down"))
            assert a.events.all("link-down")[0]["retry_ms"] >= 1500

    run(main())


def test_the_registration_is_refreshed():
    async def main():
        agent_module.TICK = 0.05
        hub = Hub()
        async with Party(hub, "panel-1"):
            await asyncio.sleep(0.2)
            assert hub.types() == ["register"]
            set_clock(NOW + 1801)
            await until(lambda: hub.types() == ["register"] * 2)
            await asyncio.sleep(0.2)
            set_clock(NOW + 3700)
            await until(lambda: hub.types() == ["register"] * 3)

    run(main())


def test_no_link_is_a_timeout():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            hub.allow_opening = False
            agent_module.BACKOFF = (1, 1)
            hub.cut("panel-1")
            await until(lambda: a.events.all("link-down"))
            error = await fails(RemoteError, a.agent.connect("pump-7", 1))
            assert error.name == "timeout"

    run(main())


def test_a_request_ends_with_its_link():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            hub.meddle = lambda message: None if message[s.TYPE] == s.RESOLVE else message
            asking = asyncio.create_task(fails(RemoteError, a.agent.resolve("pump-7")))
            await until(lambda: hub.types()[-1] == "resolve")
            hub.cut("panel-1")
            error = await asyncio.wait_for(asking, 5)
            assert isinstance(error, LinkError)

    run(main())


class Counted:
    """Counts scalar multiplications: fixed-base, variable, double-scalar, since ``take``."""

    NAMES = ("multiply_base", "multiply", "multiply_both")

    def __enter__(self):
        self.counts = [0, 0, 0]
        self.kept = [getattr(p256, name) for name in self.NAMES]
        for kind, name in enumerate(self.NAMES):
            setattr(p256, name, self.counting(kind, self.kept[kind]))
        return self

    def counting(self, kind, function):
        def counted(*arguments):
            self.counts[kind] += 1
            return function(*arguments)

        return counted

    def take(self):
        counts, self.counts = self.counts, [0, 0, 0]
        return counts

    def __exit__(self, *what):
        for kind, name in enumerate(self.NAMES):
            setattr(p256, name, self.kept[kind])


def test_what_is_multiplied_between_a_message_and_its_answer():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            tables = a.agent.sessions, b.agent.sessions

            def both_ahead():
                return tables[0]._ahead is not None and tables[1]._ahead is not None

            steps = []
            counted = Counted()

            def count(message):
                steps.append((s.type_name(message), counted.take()))
                return message

            for peer_is_new in (1, 0, 0):
                await until(both_ahead)
                used = [sessions._ahead for sessions in tables]
                steps.clear()
                with counted:
                    hub.meddle = count
                    await introduce(a, b)
                    hub.meddle = lambda message: message
                assert [step[0] for step in steps] == ["connect", "accept", "message", "message"]
                connect, accept, message_3, message_4 = [step[1] for step in steps]
                assert connect == [0, 0, 0]
                # one agreement and one signature
                assert accept == [1, 1, 0]
                # the same and the peer's signature; a new certificate costs each side one more,
                # which the responder may have verified while it waited
                if not peer_is_new:
                    assert message_3 == [1, 1, 1]
                    assert message_4 == [0, 0, 1]
                both = [x + message_4[kind] for kind, x in enumerate(message_3)]
                assert both == [1, 1, 2 + 2 * peer_is_new]
                # used once
                await until(both_ahead)
                assert not [pair for pair in used if pair in [t._ahead for t in tables]]

    run(main())


def test_a_certificate_is_verified_while_message_3_is_awaited():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            held = []

            def hold(message):
                if s.MESSAGE_3 in message:
                    held.append(message)
                    return None
                return message

            hub.meddle = hold
            waiting = asyncio.create_task(a.agent.connect("pump-7", 10))
            await until(lambda: held)
            await asyncio.sleep(0.2)
            hub.meddle = lambda message: message
            with Counted() as counted:
                b.link.deliver(cbor.encode(held[0]))
                await waiting
                # the signature over the handshake alone
                assert counted.take() == [0, 0, 1]

    run(main())


def test_the_next_key_waits_until_nothing_is_due():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            await until(lambda: b.agent.sessions._ahead)
            hub.meddle = lambda message: None if message[s.TYPE] in (s.MESSAGE, s.END) else message
            with Counted() as counted:
                await fails(RemoteError, a.agent.connect("pump-7", 1))
                assert len(b.agent.sessions._half_open) == 1
                await asyncio.sleep(0.6)
                counted.take()
                await asyncio.sleep(0.6)
                # half open: message_3 may come at any moment
                assert counted.take() == [0, 0, 0]
                assert b.agent.sessions._ahead is None
                set_clock(NOW + 61)
                await b.agent.sessions.expire()
                await until(lambda: b.agent.sessions._ahead)
                assert counted.take() == [1, 0, 0]

    run(main())


def test_no_key_is_made_ahead_where_memory_is_short():
    async def main():
        hub = Hub()
        kept = sessions_module._memory_short
        sessions_module._memory_short = lambda: True
        try:
            async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
                await until(lambda: a.agent.sessions._making is None)
                assert a.agent.sessions._ahead is None
                session, other = await introduce(a, b)
                sessions_module._memory_short = kept
                # there is room again: the next look at what is due finds it
                a.agent.sessions.make_ahead()
                await until(lambda: a.agent.sessions._ahead)
                a.agent.sessions.forget_ahead()
                assert a.agent.sessions._ahead is None
                await session.send(b"as before")
                assert await other.recv() == b"as before"
            assert a.agent.sessions._ahead is None
            assert a.agent.sessions._making is None
        finally:
            sessions_module._memory_short = kept

    run(main())


def test_keys_are_renewed_by_time_and_nothing_in_flight_is_lost():
    async def main():
        agent_module.TICK = 0.05
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            held = []
            hub.meddle = held.append
            await session.send(b"late there")
            await other.send(b"late back")
            await until(lambda: len(held) == 2)
            hub.meddle = lambda message: message
            # a clock that is set does nothing
            clock.now = lambda: NOW + 90000
            await asyncio.sleep(0.2)
            assert session._core.records._send.generation == 0
            clock.uptime = lambda: NOW + 86500
            tables = session._core.records, other._core.records
            await until(lambda: [r._send.generation for r in tables] == [1, 1])
            await session.send(b"there")
            await other.send(b"back")
            assert await other.recv() == b"there"
            assert await session.recv() == b"back"
            b.link.deliver(cbor.encode(held[0]))
            a.link.deliver(cbor.encode(held[1]))
            assert await other.recv() == b"late there"
            assert await session.recv() == b"late back"
            assert [r.forged for r in tables] == [0, 0]
            assert [r._receive.generation for r in tables] == [1, 1]

    run(main())


def test_a_session_ends_after_a_week():
    async def main():
        agent_module.TICK = 0.05
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            clock.uptime = lambda: NOW + 7 * 86400
            await until(lambda: session.ended and other.ended)
            # whoever looks first says so to the other
            assert {session.ended, other.ended} <= {"limit-reached", "session-closed"}
            assert "limit-reached" in (session.ended, other.ended)
            assert a.agent.sessions.count() == b.agent.sessions.count() == 0
            await introduce(a, b)

    run(main())


def test_the_last_record_ends_the_session_for_both():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            session._core.records.sent = MAX_RECORDS - 1
            assert (await fails(SessionEnded, session.send(b"x"))).name == "limit-reached"
            assert session.ended == "limit-reached"
            assert (await fails(SessionEnded, other.recv())).name == "session-closed"

    run(main())


def test_too_many_forgeries_end_the_session_for_both():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            other._core.records.forged = MAX_FORGED
            await session.send(b"x")
            assert (await fails(SessionEnded, other.recv())).name == "limit-reached"
            assert (await fails(SessionEnded, session.recv())).name == "limit-reached"

    run(main())


def test_uptime_counts_and_never_goes_back():
    async def main():
        start = last = uptime()
        for _ in range(50):
            await asyncio.sleep(0.05)
            assert last <= uptime() <= last + 30
            last = uptime()
            if last > start:
                return
        raise AssertionError("it stands still")

    run(main())


def test_a_clock_that_is_set_does_not_move_what_is_due():
    async def main():
        agent_module.TICK = 0.05
        hub = Hub()
        async with Party(hub, "panel-1", session_grace=30) as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            hub.meddle = lambda message: None if message[s.TYPE] in (s.MESSAGE, s.END) else message
            await fails(RemoteError, a.agent.connect("pump-7", 1))
            hub.meddle = lambda message: message
            shown = [NOW]
            clock.now = lambda: shown[0]
            for days in (20, -20, 0):
                shown[0] = NOW + 86400 * days
                hub.cut("panel-1")
                await until(lambda: "panel-1" in hub.links and a.agent._up.is_set())
                await asyncio.sleep(0.2)
                assert len(b.agent.sessions._half_open) == 1
            assert hub.types().count("register") == 5
            await session.send(b"still there")
            assert await other.recv() == b"still there"

    run(main())


def test_a_peer_takes_only_the_third_parties_that_it_was_told_of():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as gateway:
            async with Party(hub, "pump-7", third_parties=["panel-1 for alice"]) as pump:
                async with Party(hub, "valve-2") as valve:
                    connect = gateway.agent.connect
                    for name, party in (("pump-7", "bob"), ("valve-2", "alice")):
                        error = await fails(RemoteError, connect(name, 10, on_behalf_of=party))
                        assert error.name == "access-denied"
                    assert pump.events.all("third-party-refused")[0]["third_party"] == (
                        "panel-1 for bob"
                    )
                    assert len(valve.events.all("third-party-refused")) == 1
                    session = await connect("pump-7", 10, on_behalf_of="alice")
                    taken = await pump.next()
                    assert session.on_behalf_of == taken.on_behalf_of == "alice"
                    assert session.fingerprint == taken.fingerprint
                    await fails(RemoteError, connect("pump-7", 10, on_behalf_of="A for b"))

    run(main())


def test_a_manager_that_names_another_third_party_is_found_out():
    async def main():
        hub = Hub()

        def lie(message):
            if message[s.TYPE] == s.CONNECT:
                message[s.ON_BEHALF_OF] = "alice"
            return message

        hub.meddle = lie
        async with Party(hub, "panel-1") as gateway:
            async with Party(hub, "pump-7", third_parties=["panel-1 for alice"]) as pump:
                connect = gateway.agent.connect
                error = await fails(RemoteError, connect("pump-7", 10, on_behalf_of="bob"))
                assert error.name == "authentication-failed"
                assert pump.agent.sessions.count() == 0

    run(main())
