"""How a device's key came about, through the manager to the peers that pin keys."""

import os
from typing import Any

from keyferry_core import pinned, x509
from keyferry_core import signalling as sig
from keyferry_core.errors import code_of
from keyferry_core.suite_cryptography import CryptographyCrypto
from support.manager_kit import REALM, PahoDevice, Running

CRYPTO = CryptographyCrypto(os.urandom)
BEFORE, SIGNER = CRYPTO.generate()


def chain_to(device: PahoDevice, public: bytes = b"") -> bytes:
    key = public or certificate_point(device)
    return pinned.succeed(CRYPTO, BEFORE, SIGNER, REALM, device.name, key)


def certificate_point(device: PahoDevice) -> bytes:
    return device.running.look(
        lambda manager: (
            x509.parse(manager.relay.registry.get(device.name).link.certificate_der).public_key
        )
    )


def register(device: PahoDevice, **more: Any) -> dict[int, Any]:
    message: dict[int, Any] = {
        sig.TYPE: sig.REGISTER,
        sig.INSTANCE: device.instance,
        sig.ADDRESSES: [],
    }
    if "trust" in more:
        message[sig.TRUST] = more["trust"]
    if "vouch" in more:
        message[sig.VOUCH] = more["vouch"]
    device.send(message)
    return device.receive()


def met(pump: PahoDevice, valve: PahoDevice) -> tuple[bytes | None, bytes | None]:
    """What each side is told of the other."""
    pump.offer("valve-2")
    offered = valve.receive(sig.CONNECT)
    valve.accept(offered)
    return offered.get(sig.VOUCH), pump.receive(sig.ACCEPT).get(sig.VOUCH)


def test_who_pins_keys_is_told_and_nobody_else(running: Running):
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        of_pump, of_valve = chain_to(pump), chain_to(valve)
        register(pump, vouch=of_pump)
        register(valve, vouch=of_valve)
        assert met(pump, valve) == (None, None)
        register(valve, trust=sig.TRUST_PINNED)  # and what it said of itself stays
        assert met(pump, valve) == (of_pump, None)
        register(pump, trust=sig.TRUST_PINNED)
        assert met(pump, valve) == (of_pump, of_valve)
        register(pump, trust=sig.TRUST_OWNER)
        assert met(pump, valve) == (of_pump, None)
    # a new link speaks for itself
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        register(valve, trust=sig.TRUST_PINNED)
        assert met(pump, valve) == (None, None)


def test_what_is_said_of_another_key_is_refused_and_leaves_what_was_said(running: Running):
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        register(valve, trust=sig.TRUST_PINNED)
        good = chain_to(pump)
        register(pump, vouch=good)
        for bad, error in (
            (chain_to(pump, SIGNER), "authentication-failed"),
            (b"\x80", "malformed"),
            (good[:-1], "malformed"),
            (bytes(1500), "too-large"),
        ):
            answer = register(pump, vouch=bad)
            assert answer[sig.TYPE] == sig.ERROR
            assert answer[sig.ERROR_CODE] == code_of(error)
            assert met(pump, valve) == (good, None)
