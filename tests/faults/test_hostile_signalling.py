"""Signalling from strangers: whatever the bytes, the relay answers with the core's own errors."""

import os

import cbor2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyferry_core import cbor, signalling
from keyferry_core import signalling as sig
from keyferry_core.errors import DecodeError, RemoteError
from keyferry_manager.policy import Rules
from keyferry_manager.relay import Relay, RelaySettings, wire


class Nobody:
    """A trail that nobody reads."""

    def ok(self, *_, **__):
        pass

    refused = ok

    def session(self, _):
        pass

    link = link_ended = key = session


class FakeLink:
    def __init__(self, name):
        self.name = name
        self.address = "192.0.2.1:4000"
        self.transport = 1
        self.certificate_der = b"certificate"
        self.sent = []

    def send(self, payload):
        self.sent.append(payload)
        return True

    def close(self):
        pass


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(width=16)
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | st.just(cbor2.undefined)
    | st.builds(cbor2.CBORSimpleValue, st.integers(0, 19))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.integers(-5, 30) | st.text(max_size=3), inner, max_size=5)
        | st.builds(cbor2.CBORTag, st.integers(0, 70000), inner)
    ),
    max_leaves=12,
)
MAPS = st.dictionaries(st.integers(0, 25), VALUES, max_size=12)


@given(st.binary(max_size=300))
@example(b"")
@example(bytes.fromhex("d81c" * 2000))
@example(bytes.fromhex("9bffffffffffffffff"))
@settings(max_examples=1500, deadline=None)
def test_any_bytes(payload):
    try:
        message = wire.decode(payload)
    except RemoteError:
        return
    assert cbor.decode(payload) == message


@given(VALUES | MAPS)
@settings(max_examples=1500, deadline=None)
def test_any_item_of_cbor_however_it_is_tagged(value):
    payload = cbor2.dumps(value, canonical=True)
    try:
        message = wire.decode(payload)
    except RemoteError:
        return
    assert cbor.decode(payload) == message
    assert wire.encode(message) == payload


@given(st.binary(max_size=200))
@settings(max_examples=1500, deadline=None)
def test_what_the_manager_reads_the_device_reads_the_same(payload):
    """Two decoders that differ are two truths: one for the checks and one for the peer."""
    try:
        ours = wire.decode_map(payload)
    except DecodeError:
        ours = None
    try:
        theirs = cbor.decode(payload)
    except DecodeError:
        theirs = None
    if ours is not None and theirs is not None:
        assert ours == theirs
    try:
        sent_on = wire.decode(payload)
    except DecodeError:
        return
    assert sent_on == theirs


def good_message(kind):
    message = {
        sig.TYPE: kind,
        sig.FROM: "pump-7",
        sig.TO: "manager" if kind in sig.TO_MANAGER else "valve-2",
    }
    samples = {
        sig.ID: 1, sig.INSTANCE: b"instance", sig.ADDRESSES: ["10.0.0.1:1"], sig.NAME: "valve-2",
        sig.SESSION: bytes(16), sig.PROFILE: 0, sig.MESSAGE_1: b"1", sig.MESSAGE_2: b"2",
        sig.ERROR_CODE: 8, sig.DATA: b"data", sig.REQUEST: b"request",
    }  # fmt: skip
    for key in sig.TYPES[kind][1]:
        message[key] = samples[key]
    if kind == sig.MESSAGE:
        message[sig.RECORD] = b"record"
    return message


@given(st.sampled_from(sig.FROM_DEVICE), st.data())
@settings(max_examples=1500, deadline=None)
def test_good_messages_with_something_wrong_never_get_past_the_checks(kind, data):
    relay = Relay(RelaySettings(), Nobody())
    relay.set_rules(Rules.of([("pump-7", "valve-2")]), ["pump-7", "valve-2"])
    pump, valve = FakeLink("pump-7"), FakeLink("valve-2")
    for link in (pump, valve):
        relay.link_up(link)
        register = {**good_message(sig.REGISTER), sig.FROM: link.name}
        relay.receive(link, cbor.encode(register))
    pump.sent.clear()
    valve.sent.clear()
    message = good_message(kind)
    key = data.draw(st.integers(0, 30))
    if data.draw(st.booleans()):
        message.pop(key, None)
    else:
        message[key] = data.draw(VALUES)
    payload = bytearray(cbor2.dumps(message, canonical=True))
    for _ in range(data.draw(st.integers(0, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    relay.receive(pump, bytes(payload))
    for link in (pump, valve):
        for raw in link.sent:
            received = signalling.check(cbor.decode(raw), False)
            assert received[sig.TO] == link.name
            assert received[sig.FROM] in ("pump-7", "manager"), "only what is true was sent on"
    assert pump.sent or valve.sent or kind in (sig.END, sig.REJECT)


def test_every_cut_of_every_message_is_refused():
    for kind in sig.FROM_DEVICE:
        whole = cbor.encode(good_message(kind))
        assert wire.decode(whole)
        for end in range(len(whole)):
            try:
                wire.decode(whole[:end])
            except DecodeError:
                continue
            raise AssertionError("a message that was cut short was taken")
        for more in (b"\x00", whole, os.urandom(3)):
            try:
                wire.decode(whole + more)
            except DecodeError:
                continue
            raise AssertionError("trailing bytes were taken")
