# heap: 1m
"""Whom an agent believes besides the CA, and what becomes of a manager that issues as it likes."""

import os

from keyferry_core import owner, suite
from keyferry_core import signalling as s
from keyferry_core.errors import LocalError, RemoteError
from support.agent_kit import DATA, REALM, Hub, Party, certificate, fails, introduce, run

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
