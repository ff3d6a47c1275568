# heap: 1m
"""Whom an agent believes besides the CA, and what becomes of a manager that issues as it likes."""

import os

from keyferry_agent.agent import Agent
from keyferry_agent.pins import Pins
from keyferry_agent.store import Store
from keyferry_core import cbor, owner, pinned, suite
from keyferry_core import signalling as s
from keyferry_core._compat import sha256
from keyferry_core.errors import KeyferryError, LocalError, RemoteError
from support.agent_kit import (
    DATA,
    ISSUER,
    REALM,
    Folder,
    Hub,
    Party,
    certificate,
    fails,
    introduce,
    run,
    until,
)

crypto = suite.Crypto(os.urandom)
OWNER = crypto.generate()


def public_of(label):
    return bytes.fromhex(DATA["devices"][label]["public"])


def vouch(label):
    return owner.endorse(crypto, OWNER[0], REALM, label.split(" ")[-1], public_of(label))


def owned(hub, name, label=None, key=OWNER[1]):
    """A device that wants the owner's signature under its peers' keys."""
    party = Party(hub, name, label, trust="owner")
    if key is not None:
        party.folder.write("owner.pub", key)
    return party


def vouching_hub():
    hub = Hub()
    hub.vouches = {name: vouch(name) for name in ("panel-1", "pump-7")}
    return hub


def lying_hub():
    """A manager that hands out a certificate of its CA for another key, with a device behind it."""
    hub = vouching_hub()

    def meddle(message):
        if message[s.TYPE] in (s.CONNECT, s.ACCEPT) and message[s.FROM] == "pump-7":
            message[s.CREDENTIAL] = certificate("second pump-7")
        return message

    hub.meddle = meddle
    return hub


def test_an_owner_lets_them_in_with_either_profile():
    async def main():
        hub = vouching_hub()
        async with owned(hub, "panel-1") as a, owned(hub, "pump-7") as b:
            for profile in ("cert", "rpk"):
                session = await a.agent.connect("pump-7", 10, profile)
                other = await b.next()
                assert session.fingerprint == other.fingerprint
                await session.send(b"ping")
                assert await other.recv() == b"ping"
            told = a.events.all("peer-trust")[0]
            assert told["mode"] == "owner"
            assert len(told["own_key"]) == 16

    run(main())


def test_a_certificate_of_the_ca_alone_gets_in_where_the_ca_is_trusted_alone():
    async def main():
        hub = lying_hub()
        async with Party(hub, "panel-1") as a, Party(hub, "pump-7", "second pump-7") as b:
            session, other = await introduce(a, b)
            assert session.fingerprint == other.fingerprint

    run(main())


def test_and_is_refused_where_the_owner_has_to_sign():
    async def main():
        hub = lying_hub()
        async with owned(hub, "panel-1") as a, Party(hub, "pump-7", "second pump-7") as b:
            # the honest device's endorsement, then none at all
            for _ in range(2):
                error = await fails(RemoteError, a.agent.connect("pump-7", 10))
                assert error.name == "not-endorsed"
                assert not a.events.all("session-up")
                hub.vouches = {}
            # and the other way round
            error = await fails(RemoteError, b.agent.connect("panel-1", 10))
            assert error.name == "not-endorsed"
            assert a.events.all("session-refused")[-1]["error"] == "not-endorsed"

    run(main())


def test_only_who_asked_for_it_gets_what_an_older_version_would_refuse():
    async def main():
        hub = vouching_hub()
        async with owned(hub, "panel-1") as a, Party(hub, "pump-7") as b:
            await introduce(a, b)
            stated = {m[s.FROM]: m.get(s.TRUST) for m in hub.seen if m[s.TYPE] == s.REGISTER}
            assert stated == {"panel-1": s.TRUST_OWNER, "pump-7": None}

    run(main())


def test_without_an_owners_key_the_agent_does_not_start():
    async def main():
        hub = vouching_hub()
        for key in (None, b"", OWNER[1][:64], OWNER[1] + b"\x00", b"\x04" + bytes(64), bytes(300)):
            party = owned(hub, "panel-1", key=key)
            try:
                error = await fails(LocalError, party.agent.start())
                assert error.detail.endswith(
                    "owner.pub: expected a public key of 65 bytes, P-256"
                ) or ("owner.pub: missing" in error.detail or "more than" in error.detail)
            finally:
                party.folder.__exit__()

    run(main())


def pins_of(party):
    return Pins(party.folder.path + "/").of(REALM)


def again(hub, party):
    """The next start of a device on the same flash."""
    party.agent = Agent(party.folder.path, party.events, carrier=hub.carrier(party.name))
    return party.agent


def renewed(party, key, name="pump-7"):
    """Put a certificate of another key onto a device's flash, as a renewal with a new key does."""
    store = Store(party.folder.path)
    private = store.identity[2]
    chain = pinned.succeed(crypto, private, public_of(name), REALM, name, public_of(key))
    found = DATA["devices"][key]
    made = bytes.fromhex(found["private"]), bytes.fromhex(found["certificate"])
    store.set_identity(name, REALM, *made, ISSUER, b"", chain)


def test_the_first_key_of_a_peer_is_pinned_on_both_sides_and_outlives_a_start():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", trust="pinned") as a:
            async with Party(hub, "pump-7", trust="pinned") as b:
                for profile in ("cert", "rpk"):
                    session = await a.agent.connect("pump-7", 10, profile)
                    other = await b.next()
                    assert session.fingerprint == other.fingerprint
                assert pins_of(a) == {"pump-7": public_of("pump-7")}
                assert pins_of(b) == {"panel-1": public_of("panel-1")}
                told = a.events.all("peer-pinned")
                assert [(event["peer"], event["was"]) for event in told] == [("pump-7", "")]
                assert told[0]["key"] == b.events.all("peer-trust")[0]["own_key"]
                assert hub.trusts == {"panel-1": s.TRUST_PINNED, "pump-7": s.TRUST_PINNED}
            await a.agent.stop()
            await again(hub, a).start()
            hub.meddle = second_pump
            async with Party(hub, "pump-7", "second pump-7", trust="pinned") as b:
                for profile in ("cert", "rpk"):
                    error = await fails(RemoteError, a.agent.connect("pump-7", 10, profile))
                    assert error.name == "key-changed"
                    # it has not met panel-1 before
                    error = await fails(RemoteError, b.agent.connect("panel-1", 10, profile))
                    assert error.name == "key-changed"
                assert pins_of(a) == {"pump-7": public_of("pump-7")}
                # a peer that never had the key does not get pinned
                assert pins_of(b) == {}
                a.agent.unpin("valve-2")
                error = await fails(RemoteError, a.agent.connect("pump-7", 10))
                a.agent.unpin("pump-7")
                await a.agent.connect("pump-7", 10)
                assert pins_of(a) == {"pump-7": public_of("second pump-7")}
                a.agent.unpin()
                assert a.folder.names() == ["config.json", "identity.0", "identity.1"]

    run(main())


def second_pump(message):
    if message[s.TYPE] in (s.CONNECT, s.ACCEPT) and message[s.FROM] == "pump-7":
        message[s.CREDENTIAL] = certificate("second pump-7")
    return message


def test_a_key_that_the_one_before_signed_for_is_followed():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", trust="pinned") as a, Party(hub, "pump-7") as b:
            await introduce(a, b)
            await b.agent.stop()
            renewed(b, "second pump-7")
            hub.meddle = second_pump
            await again(hub, b).start()
            assert b.events.all("key-proved")
            # the manager holds back what the device said
            said, hub.vouches = hub.vouches, {}
            error = await fails(RemoteError, a.agent.connect("pump-7", 10))
            assert error.name == "key-changed"
            assert "another key of pump-7" in error.detail
            hub.vouches = said
            await introduce(a, b)
            assert pins_of(a) == {"pump-7": public_of("second pump-7")}
            was = a.events.all("peer-pinned")
            assert was[1]["was"] == was[0]["key"]
            # from now on the key is known without it, and the old one is not
            hub.vouches = {}
            await introduce(a, b)
            await b.agent.stop()
            hub.meddle = lambda message: message
            async with Party(hub, "pump-7") as old:
                error = await fails(RemoteError, a.agent.connect("pump-7", 10))
                assert error.name == "key-changed"
                error = await fails(RemoteError, old.agent.connect("panel-1", 10))
                assert error.name == "key-changed"

    run(main())


def test_pins_that_cannot_be_kept_let_nobody_in_and_leave_what_there_is():
    async def main():
        hub = Hub()
        a = Party(hub, "panel-1", trust="pinned", max_pins=1)
        b, c = Party(hub, "pump-7"), Party(hub, "valve-2")
        async with a, b, c:
            os.mkdir(a.folder.path + "/pins.1")  # where the first pins would go
            for asks, answers in ((a, b), (b, a)):
                error = await fails(KeyferryError, asks.agent.connect(answers.name, 10))
                assert error.name == "storage-failed"
                await until(lambda: not a.agent.sessions.count() + b.agent.sessions.count())
                assert pins_of(a) == {}
                assert a.events.all("store-failed")[-1]["error"] == "storage-failed"
                assert not a.events.all("session-up")
            os.rmdir(a.folder.path + "/pins.1")
            await introduce(a, b)
            error = await fails(RemoteError, a.agent.connect("valve-2", 10))
            assert error.name == "too-many"
            error = await fails(RemoteError, c.agent.connect("panel-1", 10))
            assert error.name == "too-many"
            await introduce(b, a)
            # both files go bad
            await a.agent.stop()
            a.folder.write("pins.0", b"KFS1" + bytes(40))
            a.folder.write("pins.1", b"")
            await again(hub, a).start()
            assert a.events.all("pins-lost")[0]["error"] == "storage-failed"
            for name in ("pump-7", "valve-2"):
                error = await fails(RemoteError, a.agent.connect(name, 10))
                assert error.name == "storage-failed"
            error = await fails(KeyferryError, unpin(a, "pump-7"))
            assert error.name == "storage-failed"
            await unpin(a, "")
            await introduce(a, b)

    run(main())


async def unpin(party, name):
    party.agent.unpin(name)


def test_a_device_that_pins_nothing_says_so():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1") as a:
            error = await fails(LocalError, unpin(a, ""))
            assert error.name == "wrong-state"
            assert "pins.0" not in a.folder.names()

    run(main())


def test_a_factory_reset_forgets_peers_and_another_realm_does_not_know_them():
    async def main():
        hub = Hub()
        async with Party(hub, "panel-1", trust="pinned") as a, Party(hub, "pump-7") as b:
            await introduce(a, b)
            assert Pins(a.folder.path + "/").of("other.example") == {}
            await a.agent.factory_reset()
            assert a.folder.names() == ["config.json"]

    run(main())


def test_what_is_no_file_of_pins():
    with Folder() as place:
        key = bytes(65)
        good = {1: 1, 2: REALM, 3: {"pump-7": key}}
        for change in (
            {},
            {2: 7},
            {3: []},
            {3: {"pump-7": key[:64]}},
            {3: {"pump-7": "k"}},
            {3: {"manager": key}},
            {3: {7: key}},
            {4: 1},
        ):
            state = dict(good)
            state.update(change)
            body = cbor.encode(state)
            place.write("pins.1", b"KFS1" + sha256(body) + body)
            pins = Pins(place.path + "/")
            assert pins.damaged == (1 if change else 0)
            assert pins.of(REALM) == ({} if change else {"pump-7": key})
        pins = Pins(place.path + "/")
        pins.put(REALM, {"a" * 60 + str(100 + i): key for i in range(64)})
        assert len(Pins(place.path + "/").of(REALM)) == 64
