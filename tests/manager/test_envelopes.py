"""Messages whose head was checked before: what the short way takes, the long way takes alike."""

import os
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyferry_core import signalling as sig
from keyferry_core.errors import DecodeError
from keyferry_manager.relay import wire
from keyferry_manager.relay.envelopes import PER_LINK, Envelopes
from support.relay_kit import FakeLink, World


def message(size, session=b"s" * 16, to="valve-2", **more):
    whole = {sig.TYPE: sig.MESSAGE, sig.FROM: "pump-7", sig.TO: to, sig.SESSION: session}
    return {**whole, sig.RECORD: os.urandom(size), **more}


def known(size=100):
    envelopes, link = Envelopes(), FakeLink("pump-7")
    payload = wire.encode(message(size))
    envelopes.keep(link, payload, wire.decode(payload))
    return envelopes, link, payload


def long_way(payload):
    try:
        return wire.decode(payload)
    except DecodeError:
        return None


SIZES = (1, 2, 22, 23, 24, 25, 254, 255, 256, 257, 1000, 8299, 8300)


@pytest.mark.parametrize("first", SIZES)
def test_the_same_map_for_every_length(first):
    envelopes, link, _ = known(first)
    for size in SIZES:
        payload = wire.encode(message(size))
        found = envelopes.decode(link, payload)
        assert found == wire.decode(payload)
        assert found is not None
    # a map that was handed out is the caller's own
    found[sig.RECORD] = found[sig.TO] = None
    again = wire.encode(message(5))
    assert envelopes.decode(link, again) == wire.decode(again)


@given(st.sampled_from(SIZES), st.data())
@settings(max_examples=1500, deadline=None)
def test_whatever_is_changed_is_judged_as_on_the_long_way(size, data):
    envelopes, link, _ = known()
    payload = bytearray(wire.encode(message(size)))
    for _ in range(data.draw(st.integers(0, 3))):
        # mostly in the head, and where the record begins
        payload[data.draw(st.integers(0, min(len(payload), 60) - 1))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.integers(0, 3))
    payload = bytes(payload[: len(payload) - cut]) + data.draw(st.binary(max_size=3))
    found = envelopes.decode(link, payload)
    if found is not None:
        assert found == long_way(payload)


@pytest.mark.parametrize(
    "record",
    [
        b"\x40",  # no byte
        b"\x58\x05hello",  # longer than necessary
        b"\x59\x00\x18" + bytes(24),
        b"\x5a\x00\x00\x01\x00" + bytes(256),
        b"\x45hell",  # cut short
        b"\x45hello!",  # and what comes after
        b"\x65hello",  # text
        b"\x5f\x45hello\xff",  # in pieces
        b"\x59\x20\x6d" + bytes(8301),  # one too many
        b"\x58",
        b"\x59\x01",
        b"",
        b"\xf6",
        b"\x18\x18",
    ],
)
def test_a_record_that_is_no_good(record):
    envelopes, link, payload = known(5)
    head = payload[: len(payload) - 6]
    assert envelopes.decode(link, head + b"\x45hello") is not None
    assert envelopes.decode(link, head + record) is None
    with pytest.raises(DecodeError):
        wire.decode(head + record)


def test_only_plain_records_are_remembered_and_only_for_their_link():
    envelopes, link = Envelopes(), FakeLink("pump-7")
    for other in (
        message(5, **{}) | {sig.MESSAGE_3: b"3"},
        message(5) | {sig.MESSAGE_4: b"4"},
        {key: value for key, value in message(5).items() if key != sig.RECORD}
        | {sig.MESSAGE_3: b"3"},
    ):
        payload = cbor2.dumps(other, canonical=True)
        envelopes.keep(link, payload, wire.decode(payload))
        assert envelopes.decode(link, payload) is None
    envelopes, link, payload = known()
    assert envelopes.decode(FakeLink("pump-7"), payload) is None
    envelopes.forget(link)
    envelopes.forget(link)
    assert envelopes.decode(link, payload) is None
    assert len(envelopes) == 0


def test_memory_is_bounded():
    envelopes, link = Envelopes(), FakeLink("pump-7")
    payloads = [wire.encode(message(9, os.urandom(16))) for _ in range(50)]
    for payload in payloads:
        envelopes.keep(link, payload, wire.decode(payload))
    found = [envelopes.decode(link, payload) is not None for payload in payloads]
    assert found == [False] * (50 - PER_LINK) + [True] * PER_LINK


def test_every_step_still_looks_at_each_message():
    world = World()
    world.open()
    for _ in range(3):
        world.say(world.pump, "valve-2")
        assert world.valve.take()[sig.RECORD] == b"record"
    taken = [step for step, _ in world.traced[-1][3]]
    assert taken == [
        "name",
        "registered",
        "peer",
        "session",
        "records",
        "unchanged",
        "deliver",
        "count",
    ]
    # the same bytes over another link are not its owner's
    payload = wire.encode(
        {sig.TYPE: sig.MESSAGE, sig.FROM: "pump-7", sig.TO: "valve-2",
         sig.SESSION: bytes(range(16)), sig.RECORD: b"record"}
    )  # fmt: skip
    third = world.join("third")
    world.relay.receive(third, payload)
    assert third.error() == "identity-mismatch"
    # a session that has ended, and a peer that went
    world.send(world.valve, {sig.TYPE: sig.END, sig.TO: "pump-7", sig.SESSION: bytes(range(16))})
    world.pump.take()
    world.relay.receive(world.pump, payload)
    assert world.pump.error() == "unknown-session"
    for link in (world.pump, third):
        world.relay.link_down(link, True, "gone")
    assert len(world.relay._envelopes) == 0


SEND = {
    sig.TYPE: sig.SEND,
    sig.FROM: "pump-7",
    sig.TO: "valve-2",
    sig.ID: 1,
    sig.DATA: b"x",
    sig.ROUTE: [["192.0.2.1:5061", sig.TRANSPORT_SIP_TLS, True]],
}
REPORT = {sig.TYPE: sig.DELIVERED, sig.FROM: "valve-2", sig.TO: "pump-7", sig.ID: 1}
MAPS: list[dict[int, Any]] = [
    {**SEND, sig.ID: 0xFFFFFFFF},
    {**SEND, sig.ID: 0x100000000},
    {**SEND, sig.ID: -1},
    {**SEND, sig.ID: True},
    {**SEND, sig.ID: "1"},
    {**SEND, sig.DATA: b""},
    {**SEND, sig.DATA: bytes(sig.MAX_PLAIN)},
    {**SEND, sig.DATA: bytes(sig.MAX_PLAIN + 1)},
    {**SEND, sig.DATA: "x"},
    {**SEND, sig.TO: "valve-3"},
    {**SEND, sig.TO: "Valve 3"},
    {**SEND, sig.ROUTE: [["x" * 65, sig.TRANSPORT_SIP_TLS, True]]},
    {**SEND, sig.RECORD: b"x"},
    {key: value for key, value in SEND.items() if key != sig.DATA},
    {key: value for key, value in SEND.items() if key != sig.ID},
    {**REPORT, sig.ID: 7},
    {**REPORT, sig.ID: None},
    {**REPORT, sig.DATA: b"x"},
    {**REPORT, sig.ERROR_CODE: 3},
    {key: value for key, value in REPORT.items() if key != sig.ID},
]


@pytest.mark.parametrize("number", range(len(MAPS)))
def test_a_map_is_held_to_the_same_rules_once_its_like_is_known(number: int) -> None:
    envelopes, link = Envelopes(), FakeLink("pump-7")
    for known in (SEND, REPORT):
        for _ in range(2):
            assert envelopes.check(link, dict(known)) == known
    made = MAPS[number]

    def said(check: Callable[[dict[int, Any]], object]) -> object:
        try:
            return check(dict(made))
        except DecodeError as error:
            return error.name, error.detail

    wanted = said(lambda found: sig.check(found, True))
    for _ in range(2):
        assert said(lambda found: envelopes.check(link, found)) == wanted


def test_what_is_known_of_maps_goes_with_the_link() -> None:
    envelopes, link = Envelopes(), FakeLink("pump-7")
    for number in range(20):
        envelopes.check(link, {**SEND, sig.TO: f"valve-{number}"})
    assert len(envelopes._made[link]) == PER_LINK
    envelopes.forget(link)
    assert not envelopes._made
