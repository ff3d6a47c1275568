"""MQTT 3.1.1 packets: against bytes written out by hand from the standard, in any slicing."""

from keyferry_core import mqtt_codec as mqtt
from keyferry_core.errors import DecodeError, LocalError
from support.portable import raises

# (encoded by our own encoder, the bytes of the standard, the packet that comes out)
GOOD = (
    (
        mqtt.connect("pump-7", 60),
        b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06pump-7",
        (mqtt.TYPE_CONNECT, "pump-7", True, 60, None, None, None),
    ),
    (
        mqtt.connect("a", 0, False, ("w/t", b"\x00gone", 1, True), "user", b"\xff\x00"),
        b"\x10\x23\x00\x04MQTT\x04\xec\x00\x00\x00\x01a\x00\x03w/t\x00\x05\x00gone\x00\x04user"
        b"\x00\x02\xff\x00",
        (mqtt.TYPE_CONNECT, "a", False, 0, ("w/t", b"\x00gone", 1, True), "user", b"\xff\x00"),
    ),
    (mqtt.connack(), b"\x20\x02\x00\x00", (mqtt.TYPE_CONNACK, 0, False)),
    (mqtt.connack(session_present=True), b"\x20\x02\x01\x00", (mqtt.TYPE_CONNACK, 0, True)),
    (mqtt.connack(mqtt.NOT_AUTHORISED), b"\x20\x02\x00\x05", (mqtt.TYPE_CONNACK, 5, False)),
    (
        mqtt.publish("kf/u/a", b"hello"),
        b"\x30\x0d\x00\x06kf/u/ahello",
        (mqtt.TYPE_PUBLISH, "kf/u/a", b"hello", 0, 0, False, False),
    ),
    (
        mqtt.publish("kf/u/a", b"", 1, 0x1234),
        b"\x32\x0a\x00\x06kf/u/a\x12\x34",
        (mqtt.TYPE_PUBLISH, "kf/u/a", b"", 1, 0x1234, False, False),
    ),
    (
        mqtt.publish("t", b"x", 1, 1, retain=True, dup=True),
        b"\x3b\x06\x00\x01t\x00\x01x",
        (mqtt.TYPE_PUBLISH, "t", b"x", 1, 1, True, True),
    ),
    (
        mqtt.publish("t", b"x", retain=True),
        b"\x31\x04\x00\x01tx",
        (mqtt.TYPE_PUBLISH, "t", b"x", 0, 0, True, False),
    ),
    (mqtt.puback(65535), b"\x40\x02\xff\xff", (mqtt.TYPE_PUBACK, 65535)),
    (
        mqtt.subscribe(10, [("a/b", 1), ("+/c/#", 2)]),
        b"\x82\x10\x00\x0a\x00\x03a/b\x01\x00\x05+/c/#\x02",
        (mqtt.TYPE_SUBSCRIBE, 10, [("a/b", 1), ("+/c/#", 2)]),
    ),
    (
        mqtt.suback(10, [1, mqtt.SUBSCRIBE_FAILED]),
        b"\x90\x04\x00\x0a\x01\x80",
        (mqtt.TYPE_SUBACK, 10, b"\x01\x80"),
    ),
    (
        mqtt.unsubscribe(11, ["a/b", "#"]),
        b"\xa2\x0a\x00\x0b\x00\x03a/b\x00\x01#",
        (mqtt.TYPE_UNSUBSCRIBE, 11, ["a/b", "#"]),
    ),
    (mqtt.unsuback(11), b"\xb0\x02\x00\x0b", (mqtt.TYPE_UNSUBACK, 11)),
    (mqtt.PINGREQ, b"\xc0\x00", (mqtt.TYPE_PINGREQ,)),
    (mqtt.PINGRESP, b"\xd0\x00", (mqtt.TYPE_PINGRESP,)),
    (mqtt.DISCONNECT, b"\xe0\x00", (mqtt.TYPE_DISCONNECT,)),
)

# (what is wrong, the packet)
BAD = (
    ("type 0", b"\x00\x00"),
    ("type 15", b"\xf0\x00"),
    ("PINGREQ with flags", b"\xc1\x00"),
    ("PINGREQ with a body", b"\xc0\x01\x00"),
    ("DISCONNECT with a body", b"\xe0\x01\x00"),
    ("SUBSCRIBE without its flag", b"\x80\x06\x00\x01\x00\x01a\x00"),
    ("PUBACK too long", b"\x40\x03\x00\x01\x00"),
    ("PUBACK too short", b"\x40\x01\x01"),
    ("PUBACK 0", b"\x40\x02\x00\x00"),
    ("PUBLISH QoS 3", b"\x36\x06\x00\x01t\x00\x01x"),
    ("PUBLISH QoS 0 with DUP", b"\x38\x04\x00\x01tx"),
    ("PUBLISH packet id 0", b"\x32\x06\x00\x01t\x00\x00x"),
    ("PUBLISH without packet id", b"\x32\x04\x00\x01tx"),
    ("PUBLISH empty", b"\x30\x00"),
    ("PUBLISH half a length", b"\x30\x01\x00"),
    ("PUBLISH topic cut", b"\x30\x03\x00\x02t"),
    ("PUBLISH without topic", b"\x30\x03\x00\x00x"),
    ("PUBLISH to a wildcard", b"\x30\x05\x00\x03a/#"),
    ("PUBLISH to a wildcard", b"\x30\x05\x00\x03a/+"),
    ("PUBLISH topic with U+0000", b"\x30\x05\x00\x03a\x00b"),
    ("PUBLISH topic overlong", b"\x30\x04\x00\x02\xc0\xaf"),
    ("PUBLISH topic a surrogate", b"\x30\x05\x00\x03\xed\xa0\x80"),
    ("PUBLISH topic cut in a character", b"\x30\x04\x00\x02a\xc3"),
    ("CONNECT empty", b"\x10\x00"),
    ("CONNECT another protocol", b"\x10\x0d\x00\x04HTTP\x04\x02\x00\x00\x00\x01a"),
    ("CONNECT without client id", b"\x10\x0a\x00\x04MQTT\x04\x02\x00\x00"),
    ("CONNECT without keep-alive", b"\x10\x08\x00\x04MQTT\x04\x02"),
    ("CONNECT reserved flag", b"\x10\x0d\x00\x04MQTT\x04\x03\x00\x00\x00\x01a"),
    ("CONNECT password alone", b"\x10\x10\x00\x04MQTT\x04\x42\x00\x00\x00\x01a\x00\x01p"),
    ("CONNECT will QoS without will", b"\x10\x0d\x00\x04MQTT\x04\x0a\x00\x00\x00\x01a"),
    ("CONNECT will retain without will", b"\x10\x0d\x00\x04MQTT\x04\x22\x00\x00\x00\x01a"),
    ("CONNECT will QoS 3", b"\x10\x12\x00\x04MQTT\x04\x1e\x00\x00\x00\x01a\x00\x01t\x00\x00"),
    ("CONNECT will missing", b"\x10\x0d\x00\x04MQTT\x04\x06\x00\x00\x00\x01a"),
    ("CONNECT user name missing", b"\x10\x0d\x00\x04MQTT\x04\x82\x00\x00\x00\x01a"),
    ("CONNECT trailing", b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x01ab"),
    ("CONNACK long", b"\x20\x03\x00\x00\x00"),
    ("CONNACK flags", b"\x20\x02\x02\x00"),
    ("CONNACK code 6", b"\x20\x02\x00\x06"),
    ("CONNACK refused with session", b"\x20\x02\x01\x05"),
    ("SUBSCRIBE nothing", b"\x82\x02\x00\x01"),
    ("SUBSCRIBE id 0", b"\x82\x06\x00\x00\x00\x01a\x00"),
    ("SUBSCRIBE id cut", b"\x82\x01\x00"),
    ("SUBSCRIBE QoS missing", b"\x82\x05\x00\x01\x00\x01a"),
    ("SUBSCRIBE QoS 3", b"\x82\x06\x00\x01\x00\x01a\x03"),
    ("SUBSCRIBE reserved bits", b"\x82\x06\x00\x01\x00\x01a\x40"),
    ("SUBSCRIBE empty filter", b"\x82\x05\x00\x01\x00\x00\x00"),
    ("SUBSCRIBE '#' inside", b"\x82\x08\x00\x01\x00\x03#/a\x00"),
    ("SUBSCRIBE '#' beside", b"\x82\x07\x00\x01\x00\x02a#\x00"),
    ("SUBSCRIBE '+' beside", b"\x82\x09\x00\x01\x00\x04a+/b\x00"),
    ("UNSUBSCRIBE nothing", b"\xa2\x02\x00\x01"),
    ("UNSUBSCRIBE cut", b"\xa2\x05\x00\x01\x00\x02a"),
    ("SUBACK nothing", b"\x90\x02\x00\x01"),
    ("SUBACK bad code", b"\x90\x03\x00\x01\x03"),
    ("UNSUBACK short", b"\xb0\x01\x01"),
    ("remaining length of five bytes", b"\x30\x80\x80\x80\x80\x01"),
)


def _packets(reader: mqtt.Reader) -> list:
    return list(reader)


def test_encoders_give_the_bytes_of_the_standard() -> None:
    for ours, expected, _ in GOOD:
        assert ours == expected, (ours, expected)


def test_whole() -> None:
    for _, data, packet in GOOD:
        reader = mqtt.Reader(1024)
        reader.feed(data)
        assert _packets(reader) == [packet], packet
        assert reader.next_packet() is None


def test_byte_by_byte() -> None:
    stream = b"".join([data for _, data, _ in GOOD])
    reader = mqtt.Reader(1024)
    found = []
    for i in range(len(stream)):
        reader.feed(stream[i : i + 1])
        found.extend(_packets(reader))
    assert found == [packet for _, _, packet in GOOD]


def test_several_at_once_and_in_any_two_parts() -> None:
    stream = b"".join([data for _, data, _ in GOOD])
    expected = [packet for _, _, packet in GOOD]
    for cut in range(len(stream) + 1):
        reader = mqtt.Reader(1024)
        reader.feed(stream[:cut])
        found = _packets(reader)
        reader.feed(stream[cut:])
        found.extend(_packets(reader))
        assert found == expected, cut


def test_feeds_need_not_be_drained_one_by_one() -> None:
    reader = mqtt.Reader(1024)
    reader.feed(b"\xc0\x00\xd0")
    reader.feed(b"\x00")
    reader.feed(memoryview(b"\xe0\x00"))
    assert _packets(reader) == [(12,), (13,), (14,)]
    reader.feed(bytearray(b"\xc0\x00"))
    assert _packets(reader) == [(12,)]


def test_payloads_are_bytes_whatever_was_fed() -> None:
    data = mqtt.publish("t", b"x" * 300)
    for kind in (bytes, bytearray, memoryview):
        for cut in (0, 1, 2, 200, len(data)):
            reader = mqtt.Reader(1024)
            reader.feed(kind(data[:cut]))
            reader.next_packet()
            reader.feed(kind(data[cut:]))
            if cut < len(data):
                assert type(reader.next_packet()[2]) is bytes


def test_lengths_around_each_size_of_the_remaining_length() -> None:
    for size in (120, 123, 124, 125, 126, 127, 128, 129, 16378, 16379, 16380, 16381, 16382):
        payload = bytes(size)
        data = mqtt.publish("t", payload)
        reader = mqtt.Reader(20000)
        for at in range(0, len(data), 5000):
            reader.feed(data[at : at + 5000])
            packet = reader.next_packet()
        assert packet[2] == payload


def test_one_topic_after_another() -> None:
    # The reader keeps the last topic: it must not serve it for another one.
    reader = mqtt.Reader(1024)
    found = []
    for topic, qos in (("a", 0), ("a", 1), ("b", 1), ("a", 0), ("aa", 0), ("a", 1)):
        reader.feed(mqtt.publish(topic, b"x", qos, 7 if qos else 0))
        packet = reader.next_packet()
        found.append((packet[1], packet[3], packet[4]))
    assert found == [("a", 0, 0), ("a", 1, 7), ("b", 1, 7), ("a", 0, 0), ("aa", 0, 0), ("a", 1, 7)]
    reader.feed(b"\x32\x05\x00\x01a\x00\x00")
    raises(DecodeError, reader.next_packet)


def test_acknowledgements_that_come_together_are_taken_together() -> None:
    reader = mqtt.Reader(100)
    assert reader.take_pubacks(9) == []
    acks = b"".join([mqtt.puback(number) for number in (1, 0x1234, 0xFFFF, 4)])
    reader.feed(acks + mqtt.PINGREQ)
    assert reader.next_packet() == (mqtt.TYPE_PUBACK, 1)
    assert reader.take_pubacks(0) == []
    assert reader.take_pubacks(2) == [0x1234, 0xFFFF]
    assert reader.take_pubacks(9) == [4]
    assert reader.take_pubacks(9) == [], "a ping is none"
    assert reader.next_packet() == (mqtt.TYPE_PINGREQ,)
    assert reader.next_packet() is None
    # cut short, of another length, and without an identifier: next_packet judges them
    for pieces in ((acks[:6], acks[6:]), (acks[:5], acks[5:7], acks[7:])):
        seen = []
        for piece in pieces:
            reader.feed(piece)
            while True:
                packet = reader.next_packet()
                if packet is None:
                    break
                seen.append(packet[1])
                seen += reader.take_pubacks(9)
        assert seen == [1, 0x1234, 0xFFFF, 4]
    for bad in (b"\x40\x02\x00\x00", b"\x40\x03\x00\x01\x00", b"\x41\x02\x00\x01"):
        reader = mqtt.Reader(100)
        reader.feed(mqtt.puback(7) + bad)
        assert reader.take_pubacks(9) == [7]
        raises(DecodeError, reader.next_packet)
        assert reader.take_pubacks(9) == []


def test_malformed() -> None:
    for what, data in BAD:
        reader = mqtt.Reader(1024)
        reader.feed(data)
        error = raises(DecodeError, reader.next_packet)
        assert error.name == "malformed", what
        # byte by byte, and behind a good packet
        reader = mqtt.Reader(1024)
        reader.feed(b"\xc0\x00")
        failed = False
        for i in range(len(data)):
            reader.feed(data[i : i + 1])
            try:
                _packets(reader)
            except DecodeError:
                failed = True
        assert failed, what


def test_packets_cut_short_inside_their_length() -> None:
    # The header's length is made to fit: what is missing is missing for good.
    for _, data, packet in GOOD:
        if len(data) > 128:
            continue
        for keep in range(len(data) - 2):
            cut = bytes((data[0], keep)) + data[2 : 2 + keep]
            reader = mqtt.Reader(1024)
            reader.feed(cut)
            try:
                found = reader.next_packet()
            except DecodeError:
                continue
            # Payloads, lists and codes may end early and still be whole.
            assert found[0] == packet[0]
            assert found[0] in (mqtt.TYPE_PUBLISH, 8, 9, 10), cut


def test_another_protocol_level_is_told_apart() -> None:
    for data in (
        b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a",
        b"\x10\x0d\x00\x04MQTT\x84\x02\x00\x00\x00\x01a",
        b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01a",
    ):
        reader = mqtt.Reader(1024)
        reader.feed(data)
        assert raises(DecodeError, reader.next_packet).name == "unsupported"


def test_qos_2_is_unsupported() -> None:
    for data in (
        b"\x34\x06\x00\x01t\x00\x01x",
        b"\x50\x02\x00\x01",
        b"\x62\x02\x00\x01",
        b"\x70\x02\x00\x01",
    ):
        reader = mqtt.Reader(1024)
        reader.feed(data)
        assert raises(DecodeError, reader.next_packet).name == "unsupported"


def test_too_large_is_refused_at_the_header() -> None:
    fits = mqtt.publish("t", bytes(57))
    assert len(fits) == 62
    reader = mqtt.Reader(62)
    reader.feed(fits)
    assert reader.next_packet()[2] == bytes(57)
    reader = mqtt.Reader(61)
    reader.feed(fits[:2])
    assert raises(DecodeError, reader.next_packet).name == "too-large"
    reader = mqtt.Reader(100)
    reader.feed(b"\x30\xff\xff\xff\x7f")
    assert raises(DecodeError, reader.next_packet).name == "too-large"


def test_an_error_is_final() -> None:
    reader = mqtt.Reader(100)
    reader.feed(b"\xc0\x00\xf0\x00\xc0\x00")
    assert reader.next_packet() == (12,)
    raises(DecodeError, reader.next_packet)
    reader.feed(b"\xc0\x00")
    raises(DecodeError, reader.next_packet)


def test_longer_lengths_than_needed() -> None:
    reader = mqtt.Reader(100)
    reader.feed(b"\xc0\x80\x80\x00\x30\x84\x00\x00\x01tx")
    assert _packets(reader) == [(12,), (3, "t", b"x", 0, 0, False, False)]


def test_topics_beyond_ascii() -> None:
    for topic in ("é/ж", "一", "\U0001f511/x"):
        reader = mqtt.Reader(100)
        reader.feed(mqtt.publish(topic, b""))
        assert reader.next_packet()[1] == topic


def test_a_topic_encoded_once() -> None:
    field = mqtt.topic_field("kf/d/pump-7")
    assert mqtt.publish(field, b"x") == mqtt.publish("kf/d/pump-7", b"x")


def test_encoders_refuse_what_the_standard_refuses() -> None:
    for call in (
        lambda: mqtt.publish("", b""),
        lambda: mqtt.publish("a/#", b""),
        lambda: mqtt.publish("a\x00", b""),
        lambda: mqtt.publish("t" * 65536, b""),
        lambda: mqtt.publish("t", b"", qos=1),
        lambda: mqtt.publish("t", b"", qos=1, packet_id=65536),
        lambda: mqtt.publish("t", b"", qos=2, packet_id=1),
        lambda: mqtt.publish("t", b"", packet_id=1),
        lambda: mqtt.publish("t", b"", dup=True),
        lambda: mqtt.puback(0),
        lambda: mqtt.connect("a", 65536),
        lambda: mqtt.connect("a", -1),
        lambda: mqtt.connect("a", 1, password=b"p"),
        lambda: mqtt.connect("a", 1, will=("t", b"", 3, False)),
        lambda: mqtt.connect("a", 1, will=("", b"", 0, False)),
        lambda: mqtt.connack(6),
        lambda: mqtt.connack(1, True),
        lambda: mqtt.subscribe(1, []),
        lambda: mqtt.subscribe(1, [("a", 3)]),
        lambda: mqtt.subscribe(1, [("a#", 0)]),
        lambda: mqtt.suback(1, []),
        lambda: mqtt.suback(1, [3]),
        lambda: mqtt.unsubscribe(1, []),
        lambda: mqtt.unsubscribe(0, ["a"]),
    ):
        assert raises(LocalError, call).name == "bad-argument"
