"""The MQTT codec against paho-mqtt over a socket, and against bytes that nobody wrote."""

import socket
import threading
from contextlib import suppress

import paho.mqtt.client as paho
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyferry_core import mqtt_codec as mqtt
from keyferry_core.errors import DecodeError

MAX = 1 << 17
WAIT = 10

packet_ids = st.integers(1, 0xFFFF)
payloads = st.binary(max_size=300)
# Surrogates cannot be encoded, and U+0000 is refused: see test_malformed in tests/core.
characters = st.characters(exclude_characters="\x00", exclude_categories=("Cs",))
texts = st.text(characters, max_size=30)
topics = st.text(
    st.characters(exclude_characters="\x00+#", exclude_categories=("Cs",)), min_size=1, max_size=30
)
level = st.one_of(st.just("+"), st.text(st.sampled_from("ab-é$ "), max_size=4))
filters = st.builds(
    lambda levels, rest: "/".join(levels) + rest,
    st.lists(level, min_size=1, max_size=4),
    st.sampled_from(("", "/#")),
).filter(bool) | st.just("#")


def encode(packet: tuple) -> bytes:
    """The packet back to bytes with our encoders."""
    kind = packet[0]
    if kind == mqtt.TYPE_PUBLISH:
        return mqtt.publish(*packet[1:])
    if kind == mqtt.TYPE_CONNECT:
        client_id, clean, keep_alive, will, username, password = packet[1:]
        return mqtt.connect(client_id, keep_alive, clean, will, username, password)
    one = {
        mqtt.TYPE_CONNACK: mqtt.connack,
        mqtt.TYPE_PUBACK: mqtt.puback,
        mqtt.TYPE_SUBSCRIBE: mqtt.subscribe,
        mqtt.TYPE_SUBACK: mqtt.suback,
        mqtt.TYPE_UNSUBSCRIBE: mqtt.unsubscribe,
        mqtt.TYPE_UNSUBACK: mqtt.unsuback,
    }
    if kind in one:
        return one[kind](*packet[1:])
    return {12: mqtt.PINGREQ, 13: mqtt.PINGRESP, 14: mqtt.DISCONNECT}[kind]


@st.composite
def publishes(draw: st.DrawFn) -> tuple:
    qos = draw(st.integers(0, 1))
    return (
        mqtt.TYPE_PUBLISH,
        draw(topics),
        draw(payloads),
        qos,
        draw(packet_ids) if qos else 0,
        draw(st.booleans()),
        draw(st.booleans()) if qos else False,
    )


@st.composite
def connects(draw: st.DrawFn) -> tuple:
    will = draw(st.none() | st.tuples(topics, payloads, st.integers(0, 2), st.booleans()))
    username = draw(st.none() | texts)
    password = draw(st.none() | payloads) if username is not None else None
    keep_alive = draw(st.integers(0, 0xFFFF))
    return (
        mqtt.TYPE_CONNECT,
        draw(texts),
        draw(st.booleans()),
        keep_alive,
        will,
        username,
        password,
    )


packets = st.one_of(
    publishes(),
    connects(),
    st.tuples(st.just(mqtt.TYPE_CONNACK), st.integers(0, 5), st.just(False)),
    st.tuples(st.just(mqtt.TYPE_PUBACK), packet_ids),
    st.tuples(
        st.just(mqtt.TYPE_SUBSCRIBE),
        packet_ids,
        st.lists(st.tuples(filters, st.integers(0, 2)), min_size=1, max_size=5),
    ),
    st.tuples(
        st.just(mqtt.TYPE_SUBACK),
        packet_ids,
        st.lists(st.sampled_from((0, 1, 2, 0x80)), min_size=1).map(bytes),
    ),
    st.tuples(
        st.just(mqtt.TYPE_UNSUBSCRIBE), packet_ids, st.lists(filters, min_size=1, max_size=5)
    ),
    st.tuples(st.just(mqtt.TYPE_UNSUBACK), packet_ids),
    st.sampled_from(((mqtt.TYPE_PINGREQ,), (mqtt.TYPE_PINGRESP,), (mqtt.TYPE_DISCONNECT,))),
)


def read(pieces: list[bytes]) -> tuple[list[tuple], str]:
    """All packets of ``pieces`` fed one after another, and the name of the error that ended it."""
    reader = mqtt.Reader(MAX)
    found = []
    for piece in pieces:
        reader.feed(piece)
        try:
            found.extend(reader)
        except DecodeError as error:
            return found, error.name
    return found, ""


@given(st.lists(packets, max_size=6), st.lists(st.integers(0, 2000), max_size=5))
def test_round_trip_in_any_slicing(sent: list[tuple], cuts: list[int]) -> None:
    stream = b"".join(encode(packet) for packet in sent)
    pieces = []
    last = 0
    for cut in [*sorted(c for c in cuts if c < len(stream)), len(stream)]:
        pieces.append(stream[last:cut])
        last = cut
    assert read(pieces) == (sent, "")


def hold_invariants(data: bytes) -> None:
    """Whatever the bytes: the core's own error or packets, the same in every slicing, and each
    packet that is accepted means exactly the bytes it came from."""
    found, error = read([data])
    assert read([data[i : i + 1] for i in range(len(data))]) == (found, error)
    again = b"".join(encode(packet) for packet in found)
    assert read([again]) == (found, "")
    if not error and not any(byte == 0x80 for byte in data):
        # Only a remaining length with leading zeros (it contains 0x80) may be said in two ways.
        assert data.startswith(again)


@given(st.binary(max_size=60))
@example(b"\x30\x02\x00\x00")
@example(b"\x82\x80\x00")
@example(b"\x30\xff\xff\xff\xff")
def test_any_bytes(data: bytes) -> None:
    hold_invariants(data)


@given(
    packets, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3), st.data()
)
def test_changed_packets(
    packet: tuple, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    raw = bytearray(encode(packet))
    for at, value in changes:
        raw[at % len(raw)] = value
    cut = data.draw(st.integers(0, len(raw)))
    hold_invariants(bytes(raw[:cut]) if data.draw(st.booleans()) else bytes(raw))


class Endpoint:
    """One connection's worth of server, made of our codec; keeps every packet it read."""

    def __init__(self, code: int = mqtt.ACCEPTED) -> None:
        self.code = code
        self.packets: list[tuple] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self._listener.settimeout(WAIT)
        link, _ = self._listener.accept()
        with link:
            link.settimeout(WAIT)
            reader = mqtt.Reader(MAX)
            while data := link.recv(4096):
                reader.feed(data)
                for packet in reader:
                    self.packets.append(packet)
                    link.sendall(self._answer(packet))
                    if packet[0] == mqtt.TYPE_DISCONNECT:
                        return

    def _answer(self, packet: tuple) -> bytes:
        kind = packet[0]
        if kind == mqtt.TYPE_CONNECT:
            return mqtt.connack(self.code)
        if kind == mqtt.TYPE_SUBSCRIBE:
            codes = [
                min(qos, 1) if "/" in text else mqtt.SUBSCRIBE_FAILED for text, qos in packet[2]
            ]
            return mqtt.suback(packet[1], codes)
        if kind == mqtt.TYPE_UNSUBSCRIBE:
            return mqtt.unsuback(packet[1])
        if kind == mqtt.TYPE_PINGREQ:
            return mqtt.PINGRESP
        if kind == mqtt.TYPE_PUBLISH:  # acknowledge, and send it back as a server would
            back = mqtt.publish("echo/" + packet[1], packet[2], packet[3], packet[4])
            return (mqtt.puback(packet[4]) if packet[3] else b"") + back
        return b""

    def close(self) -> None:
        self._listener.close()
        self._thread.join(WAIT)


class Peer:
    """A paho-mqtt client with its callbacks turned into a list."""

    def __init__(self, endpoint: Endpoint, **options: object) -> None:
        self.heard: list[tuple] = []
        self._changed = threading.Condition()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, "pump-7", **options)
        self.client.on_connect = lambda _c, _u, _f, code, _p: self._note("connack", str(code))
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self._note(
            "suback", mid, [code.value for code in codes]
        )
        self.client.on_unsubscribe = lambda _c, _u, mid, _codes, _p: self._note("unsuback", mid)
        self.client.on_publish = lambda _c, _u, mid, _code, _p: self._note("published", mid)
        self.client.on_message = lambda _c, _u, message: self._note(
            "message", message.topic, message.payload, message.qos
        )
        self.port = endpoint.port

    def _note(self, *what: object) -> None:
        with self._changed:
            self.heard.append(what)
            self._changed.notify_all()

    def start(self) -> None:
        self.client.connect("127.0.0.1", self.port, keepalive=20)
        self.client.loop_start()

    def expect(self, *what: object) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: what in self.heard, WAIT), (what, self.heard)

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_paho_talks_to_our_codec() -> None:
    endpoint = Endpoint()
    peer = Peer(endpoint, clean_session=False)
    peer.client.username_pw_set("user-é", "secret")
    peer.client.will_set("kf/w", b"\x00gone", qos=1, retain=True)
    try:
        peer.start()
        peer.expect("connack", "Success")
        _, mid = peer.client.subscribe([("kf/d/pump-7", 1), ("a/+/#", 2), ("none", 0)])
        peer.expect("suback", mid, [1, 1, 0x80])
        for size in (0, 1, 100, 117, 118, 119, 120, 16370, 16371, 16372, 16373, 65536):
            payload = bytes(i & 0xFF for i in range(size))
            for qos in (0, 1):
                info = peer.client.publish("kf/u/pump-7", payload, qos)
                peer.expect("published", info.mid)
                peer.expect("message", "echo/kf/u/pump-7", payload, qos)
        info = peer.client.publish("ünï/\U0001f511", b"x", 1, retain=True)
        peer.expect("message", "echo/ünï/\U0001f511", b"x", 1)
        peer.expect("published", info.mid)
        _, mid = peer.client.unsubscribe(["a/+/#", "kf/d/pump-7"])
        peer.expect("unsuback", mid)
    finally:
        peer.stop()
        endpoint.close()
    first = endpoint.packets[0]
    will = ("kf/w", b"\x00gone", 1, True)
    assert first == (mqtt.TYPE_CONNECT, "pump-7", False, 20, will, "user-é", b"secret")
    assert endpoint.packets[1][2] == [("kf/d/pump-7", 1), ("a/+/#", 2), ("none", 0)]
    assert endpoint.packets[-1] == (mqtt.TYPE_DISCONNECT,)
    retained = [packet for packet in endpoint.packets if packet[0] == 3 and packet[5]]
    assert [packet[1] for packet in retained] == ["ünï/\U0001f511"]
    unsubscribed = [packet for packet in endpoint.packets if packet[0] == mqtt.TYPE_UNSUBSCRIBE]
    assert unsubscribed[0][2] == ["a/+/#", "kf/d/pump-7"]


@pytest.mark.parametrize(
    ("code", "heard"),
    [
        # Not code 1: paho then tries version 3.1 by itself and tells the application nothing.
        (mqtt.BAD_CLIENT_ID, "Client identifier not valid"),
        (mqtt.SERVER_UNAVAILABLE, "Server unavailable"),
        (mqtt.BAD_CREDENTIALS, "Bad user name or password"),
        (mqtt.NOT_AUTHORISED, "Not authorized"),
    ],
)
def test_paho_understands_each_refusal(code: int, heard: str) -> None:
    endpoint = Endpoint(code)
    peer = Peer(endpoint)
    try:
        with suppress(ConnectionError):
            peer.start()
        peer.expect("connack", heard)
    finally:
        peer.stop()
        endpoint.close()


@pytest.mark.parametrize("version", [paho.MQTTv31, paho.MQTTv5])
def test_other_protocol_versions_of_paho_are_told_apart(version: int) -> None:
    ours, theirs = socket.socketpair()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "a", protocol=version)
    with ours, theirs:
        ours.settimeout(WAIT)
        client._create_socket = lambda: theirs
        client.connect("127.0.0.1", 1)
        reader = mqtt.Reader(MAX)
        reader.feed(ours.recv(4096))
        with pytest.raises(DecodeError) as caught:
            reader.next_packet()
        assert caught.value.name == "unsupported"
