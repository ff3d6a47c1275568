"""Frames on a serial line, and the two ends of a connection over it, on a line that misbehaves."""

import os
from binascii import crc32

from keyferry_core import hdlc
from keyferry_core import serial_link as sl
from keyferry_core.errors import DecodeError, LocalError, RemoteError
from support.portable import raises

PAYLOADS = [b"\x00", bytes(range(192)), b"\x7e\x7d\x03\x11\x13\r\n" * 20, bytes(195)]


def frames(found):
    return [piece for is_frame, piece in found if is_frame]


def text(found):
    return b"".join([piece for is_frame, piece in found if not is_frame])


def test_the_frame_of_rfc_1662():
    """The check of "123456789" is the catalogued one of FCS-32, cbf43926, low byte first."""
    assert hdlc.encode(b"123456789") == b"\x7e123456789&9\xf4\xcb\x7e"
    # section 4.2: flag and escape are escaped, and each control character
    assert hdlc.encode(b"\x7e\x7d\x03")[:7] == b"\x7e\x7d\x5e\x7d\x5d\x7d\x23"


def test_whole_byte_by_byte_and_with_more_behind():
    for payload in PAYLOADS:
        encoded = hdlc.encode(payload)
        assert len(encoded) <= 2 * len(payload) + 10
        assert hdlc.Decoder(195).feed(encoded) == [(True, payload)]
        decoder = hdlc.Decoder(195)
        found = []
        for byte in encoded:
            found += decoder.feed(bytes([byte]))
        assert found == [(True, payload)]
        found = hdlc.Decoder(195).feed(b"before" + encoded + encoded + b"behind")
        assert found == [(False, b"before"), (True, payload), (True, payload), (False, b"behind")]


def test_no_control_character_is_in_a_frame():
    for payload in PAYLOADS:
        assert all([byte >= 0x20 for byte in hdlc.encode(payload)])


def test_text_between_frames_stays_whole():
    frame = hdlc.encode(b"payload")
    said = b'{"event": "a ~ b"}\r\n' + frame + b"raw REPL; CTRL-B to exit\r\n>" + frame + b"OK\x04"
    for size in (1, 3, 1000):
        decoder = hdlc.Decoder(195)
        found = []
        for start in range(0, len(said), size):
            found += decoder.feed(said[start : start + size])
        assert frames(found) == [b"payload"] * 2
        assert text(found) == said.replace(frame, b"")


def test_torn_wrong_and_oversize_frames_are_text_and_the_next_is_found():
    good = hdlc.encode(b"good")
    longest = hdlc.encode(os.urandom(195))
    wrong = b"\x7eabc" + (crc32(b"abc") ^ 1).to_bytes(4, "little") + b"\x7e"
    for bad in (
        b"\x7e",
        b"\x7e\x7e\x7e",
        b"\x7e\x7d\x7e",
        b"\x7e}}abcd\x7e",
        b"\x7e" + crc32(b"").to_bytes(4, "little") + b"\x7e",
        b"\x7e" + b"a" * 5000,
        hdlc.encode(bytes(196)),
        longest[:-30] + b"\n",
        wrong + b"\n",
    ):
        decoder = hdlc.Decoder(195)
        assert frames(decoder.feed(bad)) == []
        # what looked like a frame may cost the one behind it, and no more
        assert b"good" in frames(decoder.feed(good + good))
    # a flag was lost: on one side or the other
    decoder = hdlc.Decoder(195)
    assert frames(decoder.feed(good[1:] + good + good)) == [b"good"] * 2
    assert b"good" in frames(hdlc.Decoder(195).feed(good[:-1] + good + good))


def test_every_single_changed_or_lost_byte_is_found():
    encoded = hdlc.encode(b"a record")
    for at in range(len(encoded)):
        for wrong in (encoded[:at] + encoded[at + 1 :], encoded[:at] + b"?" + encoded[at + 1 :]):
            for payload in frames(hdlc.Decoder(195).feed(wrong)):
                assert payload == b"a record"


def test_noise_is_bounded_and_resynchronises():
    decoder = hdlc.Decoder(195)
    for _ in range(40):
        noise = os.urandom(300)
        found = decoder.feed(noise)
        assert frames(found) == []
        assert len(text(found)) <= len(noise) + 2 * (195 + 4) + 1
    decoder.feed(b"\n")
    assert frames(decoder.feed(hdlc.encode(b"x"))) == [b"x"]


def carry(a, b, heard, lose=None):
    """Bring frames from ``a`` to ``b`` and back until there are none."""
    while a.out or b.out:
        for one, other in ((a, b), (b, a)):
            while one.out:
                frame = one.out.pop(0)
                if lose is not None and lose():
                    continue
                message = other.receive(frame)
                if message is not None:
                    heard.append((one is a, message))


def test_messages_come_whole_and_in_order():
    a, b, heard = sl.End(7), sl.End(7), []
    long = os.urandom(1000)
    a.send(sl.OPEN, long)
    b.send(sl.DATA, b"back")
    a.send(sl.OPENED)
    carry(a, b, heard)
    assert [message for is_a, message in heard if is_a] == [(sl.OPEN, long), (sl.OPENED, b"")]
    assert (False, (sl.DATA, b"back")) in heard
    assert a.waiting == b.waiting == 0


def test_data_is_a_stream_in_pieces():
    a, b = sl.End(7), sl.End(7)
    for _ in range(30):  # the numbers go round
        heard, sent = [], os.urandom(2000)
        a.send(sl.DATA, sent)
        carry(a, b, heard)
        assert b"".join([data for _, (_, data) in heard]) == sent
        assert max([len(data) for _, (_, data) in heard]) == sl.MAX_DATA


def test_a_line_that_loses_a_quarter_of_all_frames_costs_time_only():
    a, b, heard = sl.End(7), sl.End(7), []
    lose = lambda: os.urandom(1)[0] < 64  # noqa: E731
    sent = [os.urandom(100) for _ in range(60)]
    for data in sent:
        a.send(sl.DATA, data)
        while a.waiting:
            carry(a, b, heard, lose)
            a.tick()
    assert [data for _, (_, data) in heard] == sent


def test_nobody_there_ends_in_a_named_error_within_half_a_minute():
    end = sl.End(1)
    end.send(sl.OPEN, b"x")
    sent = ticks = 0
    while True:
        sent += len(end.out)
        end.out.clear()
        try:
            end.tick()
        except RemoteError as error:
            assert error.name == "timeout"
            break
        ticks += 1
    assert ticks * sl.TICK == 30
    assert 10 < sent < 20


def test_what_is_held_is_not_acknowledged_and_comes_once():
    a, b, heard = sl.End(1), sl.End(1), []
    b.hold = True
    a.send(sl.DATA, b"1")
    a.send(sl.DATA, b"2")
    for _ in range(10):
        carry(a, b, heard)
        a.tick()
    assert [data for _, (_, data) in heard] == [b"1"]
    b.go_on()
    carry(a, b, heard)
    assert [data for _, (_, data) in heard] == [b"1", b"2"]


def test_frames_that_no_end_sends():
    for frame in (
        b"",
        b"\x05\x01",
        bytes([sl.DATA, 2, 0]),  # another connection
        bytes([0, 1, 0]),
        bytes([9, 1, 0]),
        bytes([sl.DATA, 1, 3]),  # two are missing
        bytes([sl.DATA, 1, 0]) + bytes(sl.MAX_DATA + 1),
    ):
        raises(DecodeError, sl.End(1).receive, frame)
    end = sl.End(1)
    for number in range(100):
        try:
            end.receive(bytes([sl.OPEN | sl.MORE, 1, number]) + bytes(sl.MAX_DATA))
        except DecodeError as error:
            assert error.name == "too-large"
            break
    assert number == sl.MAX_MESSAGE // sl.MAX_DATA
    # acknowledgements of nothing
    assert end.receive(bytes([sl.ACK, 1, 77])) is None
    assert end.receive(sl.reset(1)) == (sl.RESET, b"")
    raises(LocalError, end.send, sl.OPEN, bytes(sl.MAX_MESSAGE + 1))


def test_messages_in_cbor():
    request = sl.open_request(8883, "plant.example", b"leaf", [b"root"])
    assert sl.parse_open(request) == (8883, "plant.example", b"leaf", [b"root"])
    assert sl.parse_end(sl.end_of("authentication-failed", "no")) == ("authentication-failed", "no")
    for wrong in (b"", b"\xff", b"\x84", request[:-1], request + b"\x00"):
        raises(DecodeError, sl.parse_open, wrong)
        raises(DecodeError, sl.parse_end, wrong)
    for values in (
        (0, "plant.example", b"", [b"root"]),
        (True, "plant.example", b"", [b"root"]),
        (65536, "plant.example", b"", [b"root"]),
        (8883, "Plant", b"", [b"root"]),
        (8883, "plant.example", "", [b"root"]),
        (8883, "plant.example", b"", []),
        (8883, "plant.example", b"", [b"root"] * 5),
        (8883, "plant.example", b"", [b""]),
        (8883, "plant.example", b"", b"root"),
    ):
        raises(DecodeError, sl.parse_open, sl.open_request(*values))


def test_what_is_signed_is_a_handshake_and_nothing_else():
    """RFC 8446, section 4.4.3: the padding is what keeps the signature from any other use."""
    content = sl.certificate_verify(bytes(range(32)))
    assert content == b"\x20" * 64 + b"TLS 1.3, client CertificateVerify" + b"\0" + bytes(range(32))
    for length in (0, 31, 33, 48, 64):
        raises(DecodeError, sl.certificate_verify, bytes(length))
