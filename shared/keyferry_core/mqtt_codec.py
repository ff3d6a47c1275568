"""MQTT 3.1.1 (OASIS Standard, 29 October 2014), the packets of both ends, QoS 0 and 1.

Encoders return bytes. ``Reader`` turns a byte stream into packets, and ``parse`` one packet whose
framing the caller has read. A packet is a tuple; its first item is the packet type, one of the
``TYPE_`` numbers:

    (TYPE_PUBLISH, topic, payload, qos, packet_id, retain, dup)      packet_id is 0 with QoS 0
    (TYPE_PUBACK, packet_id)
    (TYPE_CONNECT, client_id, clean_session, keep_alive, will, username, password)
                     keep_alive in seconds; will is None or (topic, payload, qos, retain);
                     username is text or None, password bytes or None
    (TYPE_CONNACK, code, session_present)
    (TYPE_SUBSCRIBE, packet_id, [(filter, qos), ...])
    (TYPE_SUBACK, packet_id, codes)                                  codes: bytes, one a filter
    (TYPE_UNSUBSCRIBE, packet_id, [filter, ...])
    (TYPE_UNSUBACK, packet_id)
    (TYPE_PINGREQ,) (TYPE_PINGRESP,) (TYPE_DISCONNECT,)

What a client needs stands in ``mqtt_client`` and can be had from here as well.

Which end may send which type, and when, is for the endpoint to judge. Whatever breaks the standard
raises DecodeError; its name is "too-large" for a packet above the limit, "unsupported" for a
protocol level other than 4 (the server answers with CONNACK 1, section 3.1.2.2) and for QoS 2,
else "malformed". After any of these the connection must be closed (section 4.8).
"""

from keyferry_core import mqtt_client
from keyferry_core.errors import DecodeError, LocalError
from keyferry_core.mqtt_client import (  # noqa: F401  the client's half is part of this interface
    ACCEPTED,
    BAD_CLIENT_ID,
    BAD_CREDENTIALS,
    BAD_PROTOCOL_LEVEL,
    DISCONNECT,
    MAX_REMAINING,
    NOT_AUTHORISED,
    PINGREQ,
    PINGRESP,
    SERVER_UNAVAILABLE,
    SUBSCRIBE_FAILED,
    TYPE_CONNACK,
    TYPE_CONNECT,
    TYPE_DISCONNECT,
    TYPE_PINGREQ,
    TYPE_PINGRESP,
    TYPE_PUBACK,
    TYPE_PUBLISH,
    TYPE_SUBACK,
    TYPE_SUBSCRIBE,
    TYPE_UNSUBACK,
    TYPE_UNSUBSCRIBE,
    check_filter,
    check_text,
    check_topic,
    checked_field,
    connect,
    fixed_header,
    packet_id_field,
    parse_publish,
    puback,
    publish,
    subscribe,
    take_field,
    take_packet_id,
    topic_field,
)


def _parse_connect(data: bytes, pos: int, end: int) -> tuple:
    protocol, pos = take_field(data, pos, end)
    if end - pos < 4:
        raise DecodeError("mqtt: cut short")
    if protocol != b"MQTT" or data[pos] != 4:
        # MQIsdp is version 3.1; MQTT with another level is 5.0 or the bridge mark of mosquitto.
        if protocol in (b"MQTT", b"MQIsdp"):
            raise DecodeError("mqtt: only protocol level 4 is spoken here", "unsupported")
        raise DecodeError("mqtt: not MQTT")
    flags = data[pos + 1]
    keep_alive = data[pos + 2] << 8 | data[pos + 3]
    will_qos = flags >> 3 & 3
    if flags & 1 or will_qos == 3 or (not flags & 0x04 and flags & 0x38):
        raise DecodeError("mqtt: bad connect flags")
    if flags & 0x40 and not flags & 0x80:
        raise DecodeError("mqtt: a password without a user name")  # MQTT-3.1.2-22
    raw, pos = take_field(data, pos + 4, end)
    client_id = check_text(raw)
    will = username = password = None
    if flags & 0x04:
        raw, pos = take_field(data, pos, end)
        payload, pos = take_field(data, pos, end)
        will = (check_topic(raw), payload, will_qos, bool(flags & 0x20))
    if flags & 0x80:
        raw, pos = take_field(data, pos, end)
        username = check_text(raw)
    if flags & 0x40:
        password, pos = take_field(data, pos, end)
    if pos != end:
        raise DecodeError("mqtt: trailing bytes")
    return (TYPE_CONNECT, client_id, bool(flags & 0x02), keep_alive, will, username, password)


def _parse_filters(kind: int, data: bytes, pos: int, end: int) -> tuple:
    packet_id = take_packet_id(data, pos, end)
    pos += 2
    filters = []
    while pos < end:
        raw, pos = take_field(data, pos, end)
        if kind == TYPE_UNSUBSCRIBE:
            filters.append(check_filter(raw))
            continue
        if pos == end:
            raise DecodeError("mqtt: cut short")
        qos = data[pos]
        pos += 1
        if qos > 2:
            raise DecodeError("mqtt: bad requested QoS")  # MQTT-3.8.3-4
        filters.append((check_filter(raw), qos))
    if not filters:
        raise DecodeError("mqtt: no topic filter")  # MQTT-3.8.3-3, MQTT-3.10.3-2
    return (kind, packet_id, filters)


def parse(first: int, data: bytes, pos: int = 0, end: int | None = None) -> tuple:
    """The packet with the first byte ``first`` and the remaining bytes ``data[pos:end]``.

    Raises DecodeError.
    """
    if end is None:
        end = len(data)
    kind = first >> 4
    if kind == TYPE_SUBSCRIBE or kind == TYPE_UNSUBSCRIBE:
        if first & 0x0F != 2:
            raise DecodeError("mqtt: reserved flags")  # MQTT-2.2.2-1
        return _parse_filters(kind, data, pos, end)
    if kind == TYPE_PINGREQ or kind == TYPE_DISCONNECT:
        if first & 0x0F or pos != end:
            raise DecodeError("mqtt: reserved flags, or a wrong length")
        return (kind,)
    if kind == TYPE_CONNECT:
        if first & 0x0F:
            raise DecodeError("mqtt: reserved flags")
        return _parse_connect(data, pos, end)
    if 5 <= kind <= 7:
        raise DecodeError("mqtt: QoS 2 is not offered", "unsupported")
    if kind == 0 or kind == 15:
        raise DecodeError("mqtt: reserved packet type")
    return mqtt_client.parse(first, data, pos, end)


class Reader:
    """Packets out of a byte stream.

    ``max_packet`` bounds a whole packet in bytes and with it the reader's memory: a packet is
    refused at its header, before its body arrives. A packet that lies whole in one ``feed`` is
    parsed where it lies. After an error every further call raises that error again.

    Remaining lengths longer than necessary (``0x85 0x00``) are accepted: version 3.1.1 does not
    forbid them.
    """

    def __init__(self, max_packet: int) -> None:
        self._max = max_packet
        self._data = b""
        self._pos = 0
        self._partial = bytearray()  # the start of a packet whose end has not come
        self._need = 0  # bytes that _partial must have before parsing can go on
        self._error: DecodeError | None = None
        # A link publishes to the same topic again and again: checked and decoded once.
        self._topic_raw = b""
        self._topic = ""

    def feed(self, data: bytes) -> None:
        """Take what came from the stream. Never raises; call ``next_packet`` until None."""
        if self._error:
            return
        if self._partial:
            self._partial += data
            if len(self._partial) >= self._need:
                self._data = bytes(self._partial)
                self._partial = bytearray()
        elif self._pos < len(self._data):
            self._data = self._data[self._pos :] + data
            self._pos = 0
        else:
            self._data = data if isinstance(data, bytes) else bytes(data)
            self._pos = 0

    def next_packet(self) -> tuple | None:
        """The next whole packet, or None until more is fed. Raises DecodeError."""
        if self._error:
            raise self._error
        try:
            return self._next()
        except DecodeError as error:
            self._error = error
            self._data = b""
            raise

    def take_pubacks(self, most: int) -> list[int]:
        """The packet identifiers of up to ``most`` PUBACKs that come next and lie whole in what
        was fed. Whatever else comes next, ``next_packet`` has. Never raises."""
        data = self._data
        pos = self._pos
        end = min(len(data), pos + 4 * most)
        found = []
        while pos + 4 <= end and data[pos] == 0x40 and data[pos + 1] == 2:
            packet_id = data[pos + 2] << 8 | data[pos + 3]
            if not packet_id:
                break
            found.append(packet_id)
            pos += 4
        self._pos = pos
        return found

    def _wait(self, need: int) -> None:
        self._partial = bytearray(memoryview(self._data)[self._pos :])
        self._need = need
        self._data = b""
        self._pos = 0

    def _next(self) -> tuple | None:
        data = self._data
        start = self._pos
        have = len(data)
        if have - start < 2:
            if start < have:
                self._wait(2)
            return None
        length = data[start + 1]
        pos = start + 2
        if length > 0x7F:
            length &= 0x7F
            shift = 7
            while True:
                if pos == have:
                    self._wait(pos - start + 1)
                    return None
                byte = data[pos]
                pos += 1
                length |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 21:
                    raise DecodeError("mqtt: a remaining length of more than four bytes")
        end = pos + length
        if end - start > self._max:
            raise DecodeError("mqtt: a packet of " + str(end - start) + " bytes", "too-large")
        if end > have:
            self._wait(end - start)
            return None
        self._pos = end
        first = data[start]
        if first == 0x30 or first == 0x32:  # PUBLISH, QoS 0 or 1, neither RETAIN nor DUP
            body = pos + 2
            raw = b""
            if body <= end:
                body += data[pos] << 8 | data[pos + 1]
                raw = data[pos + 2 : body]
                if body <= end and raw == self._topic_raw and raw:
                    packet_id = 0
                    if first == 0x32:
                        packet_id = take_packet_id(data, body, end)
                        body += 2
                    qos = first >> 1 & 1
                    return (TYPE_PUBLISH, self._topic, data[body:end], qos, packet_id, False, False)
            packet = parse_publish(first & 0x0F, data, pos, end)
            self._topic = packet[1]
            self._topic_raw = raw
            return packet
        if first == 0x40 and length == 2:  # PUBACK, one for each message that goes out
            packet_id = data[pos] << 8 | data[pos + 1]
            if packet_id:
                return (TYPE_PUBACK, packet_id)
        return parse(first, data, pos, end)

    def __iter__(self) -> "Reader":
        return self

    def __next__(self) -> tuple:
        packet = self.next_packet()
        if packet is None:
            raise StopIteration
        return packet


# -- encoders --------------------------------------------------------------------------------


def connack(code: int = ACCEPTED, session_present: bool = False) -> bytes:
    """CONNACK. A refusal never has a session present (MQTT-3.2.2-4)."""
    if not 0 <= code <= NOT_AUTHORISED or (code and session_present):
        raise LocalError("bad-argument", "mqtt: bad CONNACK")
    return bytes((0x20, 2, 1 if session_present else 0, code))


def suback(packet_id: int, codes: list[int] | bytes) -> bytes:
    """SUBACK, one code a filter: the granted QoS or SUBSCRIBE_FAILED."""
    for code in codes:
        if code not in (0, 1, 2, SUBSCRIBE_FAILED):
            raise LocalError("bad-argument", "mqtt: bad SUBACK code")
    if not codes:
        raise LocalError("bad-argument", "mqtt: SUBACK without a code")
    return fixed_header(0x90, 2 + len(codes)) + packet_id_field(packet_id) + bytes(codes)


def unsubscribe(packet_id: int, filters: list[str]) -> bytes:
    """UNSUBSCRIBE."""
    body = packet_id_field(packet_id)
    for text in filters:
        body += checked_field(check_filter, text)
    if len(body) == 2:
        raise LocalError("bad-argument", "mqtt: no topic filter")
    return fixed_header(0xA2, len(body)) + body


def unsuback(packet_id: int) -> bytes:
    """UNSUBACK."""
    return b"\xb0\x02" + packet_id_field(packet_id)
