"""MQTT: a stream gives the same packets however it is cut, and each packet has one encoding.

Input: the choice of a limit, two sizes of pieces, then the stream.
"""

from fuzz.kit import attempt, pieces
from keyferry_core import mqtt_client
from keyferry_core import mqtt_codec as mqtt
from keyferry_core.errors import DecodeError

_LIMITS = (64, 5, 1024, 16500)


def _encode(packet: tuple) -> bytes:
    kind = packet[0]
    rest = packet[1:]
    if kind == mqtt.TYPE_CONNECT:
        client_id, clean, keep_alive, will, username, password = rest
        return mqtt.connect(client_id, keep_alive, clean, will, username, password)
    if kind == mqtt.TYPE_CONNACK:
        return mqtt.connack(rest[0], rest[1])
    if kind == mqtt.TYPE_PUBLISH:
        return mqtt.publish(rest[0], rest[1], rest[2], rest[3], rest[4], rest[5])
    if kind == mqtt.TYPE_PUBACK:
        return mqtt.puback(rest[0])
    if kind == mqtt.TYPE_SUBSCRIBE:
        return mqtt.subscribe(rest[0], rest[1])
    if kind == mqtt.TYPE_SUBACK:
        return mqtt.suback(rest[0], rest[1])
    if kind == mqtt.TYPE_UNSUBSCRIBE:
        return mqtt.unsubscribe(rest[0], rest[1])
    if kind == mqtt.TYPE_UNSUBACK:
        return mqtt.unsuback(rest[0])
    assert len(packet) == 1
    return bytes((kind << 4, 0))


def _split(raw: bytes) -> tuple:
    """The first byte of a packet, and what follows its length."""
    pos = 1
    while raw[pos] > 0x7F:
        pos += 1
    return raw[0], raw[pos + 1 :]


def _read(parts: list, limit: int) -> tuple:
    """``(packets with the part that completed each, the error's name and text)``."""
    reader = mqtt.Reader(limit)
    packets = []
    failure = None
    for number, part in enumerate(parts):
        reader.feed(part)
        try:
            for packet in reader:
                packets.append((packet, number))
        except DecodeError as error:
            if failure is None:
                failure = error
            assert error is failure  # the same one, on and on
        assert failure is not None or len(reader._partial) <= max(limit, 5)
        assert failure is None or not reader._data
    return packets, failure and (failure.name, failure.detail)


# What a client never receives.
_FOR_SERVERS = (1, 8, 10, 12, 14)


def _halves(first: int, body: bytes) -> tuple | None:
    """The packet, when it is one. The client's half of the codec must agree with the whole."""
    good, packet = attempt(mqtt.parse, first, body)
    for_client, seen = attempt(mqtt_client.parse, first, body)
    if for_client:
        assert good
        assert seen == packet
    else:
        assert not good or first >> 4 in _FOR_SERVERS
    return packet if good else None


def decode(data: bytes) -> object:
    """As an endpoint does it: one packet at a time, none kept."""
    reader = mqtt.Reader(_LIMITS[3])
    packet = failure = None
    for part in pieces(data[3:], b"\xff"):
        reader.feed(part)
        try:
            while (found := reader.next_packet()) is not None:
                packet = found
        except DecodeError as error:
            failure = error
            break
    return packet, failure


def one_input(data: bytes) -> None:
    if len(data) < 3:
        return
    limit = _LIMITS[data[0] & 3]
    stream = data[3:]
    whole, failure = _read([stream], limit)
    found = [packet for packet, _ in whole]
    single, error = _read(pieces(stream, b"\x00"), limit)
    assert [packet for packet, _ in single] == found
    assert error == failure
    mixed, error = _read(pieces(stream, data[1:3]), limit)
    assert [packet for packet, _ in mixed] == found
    assert error == failure
    start = 0
    for packet, last in single:
        raw = stream[start : last + 1]
        assert len(raw) <= limit
        head, body = _split(raw)
        assert _encode(packet) == mqtt_client.fixed_header(head, len(body)) + body
        assert _halves(head, body) == packet
        start = last + 1
    if stream:
        _halves(stream[0], stream[1:])


def seeds() -> list:
    packets = (
        mqtt.connect("pump-7", 60),
        mqtt.connect("a", 0, False, ("w/t", b"\x00gone", 1, True), "user", b"\xff\x00"),
        mqtt.connack(),
        mqtt.connack(mqtt.NOT_AUTHORISED),
        mqtt.publish("kf/u/a", b"hello"),
        mqtt.publish("kf/u/a", b"again", 1, 0x1234),
        mqtt.publish("kf/u/a", bytes(130), 1, 2),
        mqtt.publish("t", b"x", 1, 1, retain=True, dup=True),
        mqtt.puback(65535),
        mqtt.subscribe(10, [("a/b", 1), ("+/c/#", 2)]),
        mqtt.suback(10, [1, mqtt.SUBSCRIBE_FAILED]),
        mqtt.unsubscribe(11, ["a/b", "#"]),
        mqtt.unsuback(11),
        mqtt.PINGREQ,
        mqtt.PINGRESP,
        mqtt.DISCONNECT,
        b"\x30\x85\x00\x00\x03a/b",
        b"\x30\xff\xff\xff\x7f",
        b"\x30\xff\xff\xff\xff\x01",
    )
    found = [b"\x02\x01\x04" + packet for packet in packets]
    found.append(b"\x02\x00\x1e" + b"".join(packets[4:8]) + b"".join(packets[4:6]))
    return found
