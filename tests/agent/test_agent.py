# heap: 1m
"""Two agents and a hub: how they meet, talk and part, and who is refused."""

import asyncio
import os

from keyferry_agent import sessions as sessions_module
from keyferry_agent.errors import SessionEnded
from keyferry_agent.store import Store
from keyferry_core import cbor
from keyferry_core import signalling as s
from keyferry_core.errors import DecodeError, LocalError, RemoteError, code_of
from keyferry_core.session import Responder, rejection
from keyferry_core.suite_slots import SlotCrypto
from support.agent_kit import Hub, Party, certificate, fails, introduce, run, until
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
