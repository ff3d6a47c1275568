# heap: 1m
"""What an agent does by itself: registrations, keys ahead of time and new ones, ages and clocks."""

import asyncio

from keyferry_agent import agent as agent_module
from keyferry_agent import clock
from keyferry_agent import sessions as sessions_module
from keyferry_agent.clock import uptime
from keyferry_agent.errors import LinkError, SessionEnded
from keyferry_core import cbor, p256
from keyferry_core import signalling as s
from keyferry_core.errors import RemoteError
from keyferry_core.records import MAX_FORGED, MAX_RECORDS
from support.agent_kit import NOW, Hub, Party, fails, introduce, run, set_clock, until


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
