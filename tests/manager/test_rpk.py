"""Key exchange through a real manager: the profile rpk, its keys registered, checked, kept and
delivered; and another suite, asked for by EDHOC's own error message.

The devices are the core's own state machines, with paho-mqtt as their link.
"""

import os
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from keyferry_core import rpk, session
from keyferry_core import signalling as sig
from keyferry_core.edhoc.messages import EdhocError
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_core.trust import Trust
from support.command import answer, command
from support.manager_kit import REALM, Credentials, Home, PahoDevice, Running

CRYPTO = CryptographyCrypto(os.urandom)


class Device:
    """A device with a certificate, an agreement key, and a link."""

    def __init__(self, manager: Running, name: str) -> None:
        home = manager.home
        self.name = name
        self.credentials = home.device(name)
        self.private = private_key(self.credentials)
        self.agreement = CRYPTO.generate()
        self.identity = session.Identity(
            name,
            REALM,
            self.private,
            CRYPTO.public_key(self.private),
            self.credentials.der,
            self.agreement,
        )
        issuing = home.authority.issuing.public_bytes(serialization.Encoding.DER)
        self.trust = Trust(CRYPTO, REALM, issuing)
        self.endorsed = rpk.endorse(CRYPTO, self.private, name, self.agreement[1])
        self.connect(manager)

    def connect(self, manager: Running) -> None:
        self.link = PahoDevice(manager, self.name, self.credentials)
        self.link.connect()

    def register(self, endorsed: bytes | None = None) -> None:
        message: dict[int, Any] = {
            sig.TYPE: sig.REGISTER,
            sig.INSTANCE: self.link.instance,
            sig.ADDRESSES: [],
        }
        if endorsed is not None:
            message[sig.PUBLIC_KEY] = endorsed
        self.link.send(message)

    def registered(self, endorsed: bytes | None = None) -> None:
        self.register(endorsed)
        self.link.receive(sig.REGISTERED)


def private_key(credentials: Credentials) -> bytes:
    key: Any = serialization.load_pem_private_key(credentials.key.read_bytes(), None)
    return key.private_numbers().private_value.to_bytes(32, "big")


def introduced(pump: Device, valve: Device) -> tuple[session.Session, session.Session]:
    """Both ends of a session with the profile rpk; every message goes through the manager."""
    now = int(time.time())
    initiator = session.Initiator(pump.identity, pump.trust, CRYPTO, valve.name, sig.PROFILE_RPK)
    pump.link.send(initiator.connect())
    offered = valve.link.receive(sig.CONNECT)
    assert offered[sig.PUBLIC_KEY] == pump.endorsed
    assert offered[sig.CREDENTIAL] == pump.credentials.der
    responder = session.Responder(valve.identity, valve.trust, CRYPTO)
    valve.link.send(responder.on_connect(offered))
    accepted = pump.link.receive(sig.ACCEPT)
    assert accepted[sig.PUBLIC_KEY] == valve.endorsed
    assert accepted[sig.CREDENTIAL] == valve.credentials.der
    ours = initiator.on_accept(accepted, now)
    pump.link.send(ours.seal(b"open 40 %"))
    first = valve.link.receive(sig.MESSAGE)
    theirs = responder.on_message(first, now)
    assert theirs.open(first) == b"open 40 %"
    valve.link.send(theirs.seal(b"done"))
    assert ours.open(pump.link.receive(sig.MESSAGE)) == b"done"
    return ours, theirs


def test_two_devices_meet_with_raw_keys(home: Home, running: Running):
    pump, valve = Device(running, "pump-7"), Device(running, "valve-2")
    pump.registered(pump.endorsed)
    valve.registered(valve.endorsed)
    ours, theirs = introduced(pump, valve)
    assert ours.confirmed
    assert ours.fingerprint == theirs.fingerprint
    pump.link.send({sig.TYPE: sig.RESOLVE, sig.NAME: "valve-2"})
    found = pump.link.receive(sig.RESOLVED)
    assert found[sig.PUBLIC_KEY] == valve.endorsed
    assert found[sig.CREDENTIAL] == valve.credentials.der
    for device in (pump, valve):
        kid = rpk.key_id(device.agreement[1]).hex()
        assert home.audit("key-registered", key_id=kid)[0].name == device.name
        device.link.close()


def test_the_profile_cert_gets_no_keys(running: Running):
    pump, valve = Device(running, "pump-7"), Device(running, "valve-2")
    pump.registered(pump.endorsed)
    valve.registered(valve.endorsed)
    pump.link.offer("valve-2")
    offered = valve.link.receive(sig.CONNECT)
    assert sig.PUBLIC_KEY not in offered
    valve.link.accept(offered)
    assert sig.PUBLIC_KEY not in pump.link.receive(sig.ACCEPT)
    pump.link.close()
    valve.link.close()


def test_without_a_key_the_profile_is_unsupported(home: Home, running: Running):
    pump, valve = Device(running, "pump-7"), Device(running, "valve-2")

    def refused(whose: str) -> None:
        initiator = session.Initiator(pump.identity, pump.trust, CRYPTO, "valve-2", sig.PROFILE_RPK)
        pump.link.send(initiator.connect())
        assert pump.link.refusal("unsupported")[sig.SESSION] == initiator.session_id
        assert home.audit("unsupported", f"{whose} has no key for the profile rpk registered")

    pump.registered(pump.endorsed)
    valve.registered()
    refused("valve-2")
    valve.registered(valve.endorsed)
    # Another device of the name: its certificate has not endorsed the key of the one before.
    pump.link.close()
    pump = Device(running, "pump-7")
    pump.registered()
    refused("pump-7")
    assert valve.link.nothing()
    pump.link.close()
    valve.link.close()


def test_only_what_the_links_certificate_endorsed_is_taken(home: Home, running: Running):
    pump = Device(running, "pump-7")
    other = CRYPTO.generate()
    # x fits another y, so this one is no point of the curve
    no_point = pump.agreement[1][:33] + other[1][33:]
    cases = [
        (rpk.endorse(CRYPTO, other[0], "pump-7", pump.agreement[1]), "authentication-failed"),
        (rpk.endorse(CRYPTO, pump.private, "pump-8", pump.agreement[1]), "identity-mismatch"),
        (rpk.endorse(CRYPTO, pump.private, "pump-7", no_point), "authentication-failed"),
        (
            rpk.endorse(CRYPTO, pump.private, "pump-7", CRYPTO.public_key(pump.private)),
            "unsupported",
        ),
        (pump.endorsed[:-1], "malformed"),
        (b"\xa0", "malformed"),
        (bytes(280), "malformed"),
        (pump.endorsed[:-1] + bytes([pump.endorsed[-1] ^ 1]), "authentication-failed"),
    ]
    for endorsed, error in cases:
        pump.register(endorsed)
        assert pump.link.refusal(error)[sig.ID]
        assert home.audit(error)[-1].fields["type"] == "register"
    pump.link.send({sig.TYPE: sig.RESOLVE, sig.NAME: "valve-2"})
    pump.link.refusal("not-registered")
    pump.registered(pump.endorsed)
    assert running.look(lambda manager: manager.relay.keys.of(link_of(manager))) == pump.endorsed
    pump.link.close()


def link_of(manager: Any) -> Any:
    return manager.relay.registry.get("pump-7").link


def test_a_key_stays_over_registrations_links_and_restarts(home: Home):
    with home.running() as manager:
        pump, valve = Device(manager, "pump-7"), Device(manager, "valve-2")
        pump.registered(pump.endorsed)
        valve.registered(valve.endorsed)
        valve.registered()
        valve.link.close()
        valve.connect(manager)
        valve.registered()
        introduced(pump, valve)
        pump.link.close()
        valve.link.close()
    stored = home.store(lambda store: store.presences.keys())
    assert [(key.device, key.endorsed) for key in stored] == [
        ("pump-7", pump.endorsed),
        ("valve-2", valve.endorsed),
    ]
    assert stored[0].key_id == rpk.key_id(pump.agreement[1]).hex()
    assert answer(home.folder, "device", "show", "pump-7")["agreement_key"] == stored[0].key_id
    assert stored[0].key_id in command(home.folder, "device", "show", "pump-7").stdout
    assert stored[0].signer == CRYPTO.public_key(pump.private)
    with home.running() as manager:
        pump.connect(manager)
        valve.connect(manager)
        pump.registered()
        valve.registered()
        introduced(pump, valve)
        pump.link.close()
        valve.link.close()


def test_a_new_key_takes_the_place_of_the_old_one(home: Home, running: Running):
    pump, valve = Device(running, "pump-7"), Device(running, "valve-2")
    pump.registered(pump.endorsed)
    pump.registered(pump.endorsed)
    valve.registered(valve.endorsed)
    renewed = CRYPTO.generate()
    pump.identity = session.Identity(
        "pump-7",
        REALM,
        pump.private,
        CRYPTO.public_key(pump.private),
        pump.credentials.der,
        renewed,
    )
    pump.endorsed = rpk.endorse(CRYPTO, pump.private, "pump-7", renewed[1])
    pump.registered(pump.endorsed)
    introduced(pump, valve)
    kid = rpk.key_id(renewed[1]).hex()
    assert home.audit("key-registered", key_id=kid)
    entries = home.store(lambda store: store.audit_entries(event="key-registered"))
    assert len([entry for entry in entries if entry.name == "pump-7"]) == 2
    pump.link.close()
    valve.link.close()


def test_a_manager_in_the_middle_cannot_pass_another_key(running: Running):
    """What the manager delivers is checked by the devices themselves."""
    pump, valve = Device(running, "pump-7"), Device(running, "valve-2")
    pump.registered(pump.endorsed)
    valve.registered(valve.endorsed)
    now = int(time.time())
    initiator = session.Initiator(pump.identity, pump.trust, CRYPTO, "valve-2", sig.PROFILE_RPK)
    pump.link.send(initiator.connect())
    offered = valve.link.receive(sig.CONNECT)
    responder = session.Responder(valve.identity, valve.trust, CRYPTO)
    valve.link.send(responder.on_connect(offered))
    accepted = pump.link.receive(sig.ACCEPT)
    mallory = CRYPTO.generate()
    accepted[sig.PUBLIC_KEY] = rpk.endorse(CRYPTO, mallory[0], "valve-2", mallory[1])
    with pytest.raises(session.AuthenticationError):
        initiator.on_accept(accepted, now)
    pump.link.close()
    valve.link.close()


def test_another_suite_is_negotiated_through_the_manager(home: Home, running: Running):
    pump, valve = Device(running, "pump-7"), Device(running, "valve-2")
    pump.registered()
    valve.registered()
    now = int(time.time())

    def ask(suites: tuple, taken: tuple) -> tuple:
        initiator = session.Initiator(pump.identity, pump.trust, CRYPTO, "valve-2", suites=suites)
        responder = session.Responder(valve.identity, valve.trust, CRYPTO, suites=taken)
        pump.link.send(initiator.connect())
        offered = valve.link.receive(sig.CONNECT)
        try:
            answer = responder.on_connect(offered)
        except EdhocError as error:
            answer = session.rejection("valve-2", offered, error.name, error.message)
        valve.link.send(answer)
        return initiator, responder

    initiator, _ = ask((3,), (2,))
    rejected = pump.link.receive(sig.REJECT)
    assert rejected[sig.EDHOC_ERROR] == b"\x02\x02"
    suites = initiator.on_reject(rejected)
    assert suites == (3, 2)
    initiator, responder = ask(suites, (2,))
    one = initiator.on_accept(pump.link.receive(sig.ACCEPT), now)
    pump.link.send(one.seal(b"x"))
    first = valve.link.receive(sig.MESSAGE)
    other = responder.on_message(first, now)
    assert other.open(first) == b"x"
    assert one.fingerprint == other.fingerprint
    # a peer that takes the better one is not talked down
    initiator, _ = ask(suites, (3, 2))
    rejected = pump.link.receive(sig.REJECT)
    assert rejected[sig.EDHOC_ERROR] == b"\x02\x82\x03\x02"
    pump.link.close()
    valve.link.close()
