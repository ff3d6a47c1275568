"""MQTT 3.1.1, what a client needs: packets it receives and packets it sends, QoS 0 and 1.

``mqtt_codec`` adds the server's half and documents the packets; it is a module of its own so that
a device need not carry it.
"""

from keyferry_core.errors import DecodeError, LocalError
from keyferry_core.utf8 import decode

TYPE_CONNECT = 1
TYPE_CONNACK = 2
TYPE_PUBLISH = 3
TYPE_PUBACK = 4
TYPE_SUBSCRIBE = 8
TYPE_SUBACK = 9
TYPE_UNSUBSCRIBE = 10
TYPE_UNSUBACK = 11
TYPE_PINGREQ = 12
TYPE_PINGRESP = 13
TYPE_DISCONNECT = 14

# CONNACK return codes (section 3.2.2.3)
ACCEPTED = 0
BAD_PROTOCOL_LEVEL = 1
BAD_CLIENT_ID = 2
SERVER_UNAVAILABLE = 3
BAD_CREDENTIALS = 4
NOT_AUTHORISED = 5
# SUBACK return code for a refused filter (section 3.9.3)
SUBSCRIBE_FAILED = 0x80

# Packets without any field, ready to send.
PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"
DISCONNECT = b"\xe0\x00"

# The largest remaining length that the four-byte form can say (section 2.2.3).
MAX_REMAINING = 268435455

_PROTOCOL = b"\x00\x04MQTT\x04"


# -- fields ----------------------------------------------------------------------------------


def check_text(raw: bytes) -> str:
    if b"\x00" in raw:
        raise DecodeError("mqtt: U+0000 in a string")  # MQTT-1.5.3-2
    return decode(raw)


def check_topic(raw: bytes) -> str:
    """A topic name: at least one character, no wildcard (MQTT-4.7.3-1, MQTT-3.3.2-2)."""
    if not raw or b"+" in raw or b"#" in raw:
        raise DecodeError("mqtt: an empty topic, or a wildcard in it")
    return check_text(raw)


def check_filter(raw: bytes) -> str:
    """A topic filter: a wildcard fills its level, and '#' is the last one (section 4.7.1)."""
    if not raw:
        raise DecodeError("mqtt: an empty topic filter")
    text = check_text(raw)
    levels = text.split("/")
    for level in levels[:-1]:
        if "#" in level or ("+" in level and level != "+"):
            raise DecodeError("mqtt: misplaced wildcard")
    last = levels[-1]
    if len(last) > 1 and ("#" in last or "+" in last):
        raise DecodeError("mqtt: misplaced wildcard")
    return text


def take_field(data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """A field with a two-byte length (section 1.5.3): its bytes and the position after it."""
    start = pos + 2
    if start > end:
        raise DecodeError("mqtt: cut short")
    pos = start + (data[pos] << 8 | data[pos + 1])
    if pos > end:
        raise DecodeError("mqtt: cut short")
    return data[start:pos], pos


def take_packet_id(data: bytes, pos: int, end: int) -> int:
    if end - pos < 2:
        raise DecodeError("mqtt: cut short")
    packet_id = data[pos] << 8 | data[pos + 1]
    if not packet_id:
        raise DecodeError("mqtt: packet identifier 0")  # MQTT-2.3.1-1
    return packet_id


# -- packets that come in --------------------------------------------------------------------


def parse_publish(flags: int, data: bytes, pos: int, end: int) -> tuple:
    raw, pos = take_field(data, pos, end)
    qos = flags >> 1 & 3
    packet_id = 0
    if qos:
        if qos > 1:
            if qos == 3:
                raise DecodeError("mqtt: QoS 3")  # MQTT-3.3.1-4
            raise DecodeError("mqtt: QoS 2 is not offered", "unsupported")
        packet_id = take_packet_id(data, pos, end)
        pos += 2
    elif flags & 0x08:
        raise DecodeError("mqtt: DUP with QoS 0")  # MQTT-3.3.1-2
    return (
        TYPE_PUBLISH,
        check_topic(raw),
        data[pos:end],
        qos,
        packet_id,
        bool(flags & 0x01),
        bool(flags & 0x08),
    )


def _parse_connack(data: bytes, pos: int, end: int) -> tuple:
    if end - pos != 2:
        raise DecodeError("mqtt: wrong length")
    present, code = data[pos], data[pos + 1]
    if present > 1 or code > NOT_AUTHORISED or (present and code):
        raise DecodeError("mqtt: bad CONNACK")
    return (TYPE_CONNACK, code, bool(present))


def _parse_suback(data: bytes, pos: int, end: int) -> tuple:
    packet_id = take_packet_id(data, pos, end)
    codes = data[pos + 2 : end]
    if not codes:
        raise DecodeError("mqtt: SUBACK without a code")
    for code in codes:
        if code > 2 and code != SUBSCRIBE_FAILED:
            raise DecodeError("mqtt: bad SUBACK code")  # MQTT-3.9.3-2
    return (TYPE_SUBACK, packet_id, codes)


def parse(first: int, data: bytes, pos: int = 0, end: int | None = None) -> tuple:
    """The packet with the first byte ``first`` and the remaining bytes ``data[pos:end]``.

    Raises DecodeError, also for what a server never sends.
    """
    if end is None:
        end = len(data)
    kind = first >> 4
    flags = first & 0x0F
    if kind == TYPE_PUBLISH:
        return parse_publish(flags, data, pos, end)
    if flags:
        raise DecodeError("mqtt: reserved flags")  # MQTT-2.2.2-1
    if kind == TYPE_PUBACK or kind == TYPE_UNSUBACK:
        if end - pos != 2:
            raise DecodeError("mqtt: wrong length")
        return (kind, take_packet_id(data, pos, end))
    if kind == TYPE_PINGRESP:
        if pos != end:
            raise DecodeError("mqtt: wrong length")
        return (kind,)
    if kind == TYPE_CONNACK:
        return _parse_connack(data, pos, end)
    if kind == TYPE_SUBACK:
        return _parse_suback(data, pos, end)
    raise DecodeError("mqtt: a packet that no server sends")


# -- packets that go out ---------------------------------------------------------------------


def fixed_header(first: int, length: int) -> bytes:
    """The fixed header (section 2.2)."""
    if length < 0x80:
        return bytes((first, length))
    if length > MAX_REMAINING:
        raise LocalError("bad-argument", "mqtt: the packet is too long")
    head = bytearray((first,))
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


def field(value: bytes) -> bytes:
    length = len(value)
    if length > 0xFFFF:
        raise LocalError("bad-argument", "mqtt: a field of more than 65535 bytes")
    return bytes((length >> 8, length & 0xFF)) + value


def packet_id_field(packet_id: int) -> bytes:
    if not 0 < packet_id <= 0xFFFF:
        raise LocalError("bad-argument", "mqtt: a packet identifier is 1 to 65535")
    return bytes((packet_id >> 8, packet_id & 0xFF))


def checked_field(check: object, text: str) -> bytes:
    """``text`` as a field, held to the same rule as the texts that come in."""
    raw = text.encode()
    try:
        check(raw)  # type: ignore[operator]
    except DecodeError as error:
        raise LocalError("bad-argument", error.detail) from None
    return field(raw)


def topic_field(topic: str) -> bytes:
    """``topic`` checked and encoded once, for many calls of ``publish``."""
    return checked_field(check_topic, topic)


def publish(
    topic: str | bytes,
    payload: bytes,
    qos: int = 0,
    packet_id: int = 0,
    retain: bool = False,
    dup: bool = False,
) -> bytes:
    """PUBLISH. ``topic`` is text, or the bytes that ``topic_field`` made of it. QoS 0 or 1."""
    field = checked_field(check_topic, topic) if isinstance(topic, str) else topic
    if qos == 0:
        if dup or packet_id:
            raise LocalError("bad-argument", "mqtt: DUP and packet identifier need QoS 1")
        first = 0x31 if retain else 0x30
        return b"".join((fixed_header(first, len(field) + len(payload)), field, payload))
    if qos != 1:
        raise LocalError("bad-argument", "mqtt: QoS 0 or 1")
    first = 0x32 | (0x08 if dup else 0) | (0x01 if retain else 0)
    head = fixed_header(first, len(field) + 2 + len(payload))
    return b"".join((head, field, packet_id_field(packet_id), payload))


def puback(packet_id: int) -> bytes:
    """PUBACK, the answer to a PUBLISH of QoS 1."""
    return b"\x40\x02" + packet_id_field(packet_id)


def connect(
    client_id: str,
    keep_alive: int,
    clean_session: bool = True,
    will: tuple[str, bytes, int, bool] | None = None,
    username: str | None = None,
    password: bytes | None = None,
) -> bytes:
    """CONNECT. ``keep_alive`` in seconds, 0 for none; ``will`` is (topic, payload, qos, retain)."""
    if not 0 <= keep_alive <= 0xFFFF:
        raise LocalError("bad-argument", "mqtt: keep-alive is 0 to 65535 seconds")
    if password is not None and username is None:
        raise LocalError("bad-argument", "mqtt: a password without a user name")
    flags = 0x02 if clean_session else 0
    body = checked_field(check_text, client_id)
    if will is not None:
        topic, payload, qos, retain = will
        if not 0 <= qos <= 2:
            raise LocalError("bad-argument", "mqtt: QoS of the will")
        flags |= 0x04 | qos << 3 | (0x20 if retain else 0)
        body += checked_field(check_topic, topic) + field(payload)
    if username is not None:
        flags |= 0x80
        body += checked_field(check_text, username)
    if password is not None:
        flags |= 0x40
        body += field(password)
    body = _PROTOCOL + bytes((flags, keep_alive >> 8, keep_alive & 0xFF)) + body
    return fixed_header(0x10, len(body)) + body


def subscribe(packet_id: int, filters: list[tuple[str, int]]) -> bytes:
    """SUBSCRIBE to (filter, qos) pairs."""
    body = packet_id_field(packet_id)
    for text, qos in filters:
        if not 0 <= qos <= 2:
            raise LocalError("bad-argument", "mqtt: QoS 0 to 2")
        body += checked_field(check_filter, text) + bytes((qos,))
    if len(body) == 2:
        raise LocalError("bad-argument", "mqtt: no topic filter")
    return fixed_header(0x82, len(body)) + body
