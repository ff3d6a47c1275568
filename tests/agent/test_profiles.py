# heap: 1m
"""The profiles cert and rpk between agents: who asks with what, and where the keys come from."""

from keyferry_agent.errors import SessionEnded
from keyferry_agent.store import Store
from keyferry_core import rpk, x509
from keyferry_core import signalling as s
from keyferry_core.errors import LocalError, RemoteError
from keyferry_core.suite import Crypto
from support.agent_kit import Hub, Party, certificate, fails, introduce, run


def _connects(hub):
    return [message for message in hub.seen if message[s.TYPE] == s.CONNECT]


def _registrations(hub, name):
    return [m for m in hub.seen if m[s.TYPE] == s.REGISTER and m[s.FROM] == name]


async def _talk(session, other):
    assert session.fingerprint == other.fingerprint
    await session.send(b"ping")
    assert await other.recv() == b"ping"
    await other.send(b"pong")
    assert await session.recv() == b"pong"


def test_rpk_by_configuration():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", profile="rpk") as a, Party(hub, "pump-7") as b:
            session, other = await introduce(a, b)
            await _talk(session, other)
            assert _connects(hub)[0][s.PROFILE] == s.PROFILE_RPK
            sizes = [a.events.all("message-" + str(n))[0]["bytes"] for n in (1, 2, 3)]
            assert sizes == [37, 61 + 37, 44 + 37]  # docs/keys.md; the binding twice

    run(main())


def test_each_side_asks_as_it_likes_and_answers_what_is_asked():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", profile="rpk") as a, Party(hub, "pump-7") as b:
            # its own setting is cert, so that is what it asks for; the other one answers
            back = await b.agent.connect("panel-1", 10)
            await _talk(back, await a.next())
            for profile, number in (("cert", s.PROFILE_CERT), ("rpk", s.PROFILE_RPK)):
                session = await b.agent.connect("panel-1", 10, profile)
                await _talk(session, await a.next())
                assert _connects(hub)[-1][s.PROFILE] == number
                await session.close()
            assert _connects(hub)[0][s.PROFILE] == s.PROFILE_CERT
            error = await fails(LocalError, a.agent.connect("pump-7", 10, "psk"))
            assert error.name == "bad-argument"

    run(main())


def test_both_profiles_at_the_same_time():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            one = await a.agent.connect("pump-7", 10, "cert")
            one_there = await b.next()
            two = await a.agent.connect("pump-7", 10, "rpk")
            two_there = await b.next()
            assert one.fingerprint != two.fingerprint
            for _ in range(3):
                await _talk(one, one_there)
                await _talk(two, two_there)
            await two.close()
            assert (await fails(SessionEnded, two_there.recv())).name == "session-closed"
            await _talk(one, one_there)

    run(main())


def test_the_key_is_made_once_and_registered_on_each_link():
    async def main():
        hub = Hub()
        async with Party(hub, "pump-7") as b:
            made = b.events.all("agreement-key-made")
            assert len(made) == 1
            endorsed = _registrations(hub, "pump-7")[0][s.PUBLIC_KEY]
            signer = x509.parse(certificate("pump-7")).public_key
            crypto = Crypto(lambda n: bytes(n))
            name, credential = rpk.open_endorsed(crypto, signer, endorsed)
            assert name == "pump-7"
            assert rpk.key_id(credential.public).hex() == made[0]["key_id"]
            store = Store(b.folder.path)
            private, kept = store.agreement
            assert kept == endorsed
            assert crypto.public_key(private) == credential.public
            assert private.hex() not in repr(b.events)
            assert private != store.identity[2]
            # a refresh of the registration does not say it again, a new link does
            await b.agent._register()
            assert s.PUBLIC_KEY not in _registrations(hub, "pump-7")[-1]
            hub.cut("pump-7")
            while len(b.events.all("registered")) < 3:
                await fails(RemoteError, b.agent.connect("nobody", 1))
            assert _registrations(hub, "pump-7")[-1][s.PUBLIC_KEY] == endorsed

    run(main())


def test_a_device_without_an_agreement_key_says_that_it_has_none():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            async with Party(hub, "pump-7", profile="cert-only") as b:
                assert s.PUBLIC_KEY not in _registrations(hub, "pump-7")[0]
                assert Store(b.folder.path).agreement is None
                hub.keys["pump-7"] = hub.keys["panel-1"]
                # a manager would refuse; one that does not is answered by the device
                error = await fails(RemoteError, a.agent.connect("pump-7", 10, "rpk"))
                assert error.name == "unsupported"
                error = await fails(RemoteError, b.agent.connect("panel-1", 10, "rpk"))
                assert error.name == "unsupported"
                session, other = await introduce(a, b)
                await _talk(session, other)

    run(main())


def test_a_manager_that_delivers_another_key_is_found_out():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", profile="rpk") as a, Party(hub, "pump-7") as b:
            crypto = Crypto(lambda n: b"\x07" * n)
            private, public = crypto.generate()
            good = hub.keys["pump-7"]
            for false in (
                hub.keys["panel-1"],  # well endorsed, by and for another device
                rpk.endorse(crypto, private, "pump-7", public),  # endorsed by a stranger
                good[:-1] + bytes([good[-1] ^ 1]),
                good[:-1],
            ):
                hub.keys["pump-7"] = false
                error = await fails(RemoteError, a.agent.connect("pump-7", 10))
                assert error.name in ("authentication-failed", "malformed")
                assert a.agent.sessions.count() == 0
            hub.keys["pump-7"] = good
            # the half-open ones that this left make room
            session, other = await introduce(a, b)
            await _talk(session, other)

    run(main())


def test_resolve_gives_the_key():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7"):
            found = await a.agent.resolve("pump-7")
            name, _, _, _ = rpk.parse_endorsed(found["public_key"])
            assert name == "pump-7"
            assert (await a.agent.resolve("panel-2"))["public_key"] is None

    run(main())
