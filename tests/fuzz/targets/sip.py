"""SIP: a stream gives the same messages however it is cut, and a name has one reading.

Input: the choice of limits, two sizes of pieces, then the stream.
"""

from fuzz.kit import pieces
from keyferry_core import sip_check, sip_codec
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import DecodeError
from keyferry_core.sip_codec import Reader
from keyferry_core.sip_fields import SipError

second_opinion = None
if CPYTHON:
    from fuzz import second_opinion

_LIMITS = ((16384, 16384), (64, 8), (512, 64), (2048, 0))
_STATUSES = (400, 414, 416, 420, 483, 505, 513)


def _plain(message) -> tuple:
    return (
        message.method,
        message.uri,
        message.status,
        message.reason,
        message.fields,
        message.body,
    )


def _read(parts: list, limits: tuple) -> tuple:
    """``(messages, pings, the status and detail that ended it)``."""
    reader = Reader(limits[0], limits[1])
    found = []
    failure = None
    for part in parts:
        reader.feed(part)
        try:
            for message in reader:
                found.append(message)
        except SipError as error:
            if failure is None:
                failure = error
            assert error is failure  # the same one, on and on
        # whole heads and bodies are gone, so what is left is of one message
        assert len(reader._data) <= max(limits[0] + 3, limits[1])
    assert failure is None or failure.sip_status in _STATUSES
    return found, reader.pings, failure and (failure.sip_status, failure.detail)


def _judge(message) -> int:
    """0, or the status of the refusal."""
    try:
        sip_check.check(message)
    except SipError as error:
        assert error.sip_status in _STATUSES
        assert error.message is message
        return error.sip_status
    return 0


def decode(data: bytes) -> object:
    """As an endpoint does it."""
    reader = Reader()
    seen = []
    try:
        for part in pieces(data[3:], b"\xff"):
            reader.feed(part)
            for message in reader:
                seen = [_judge(message), message.method, message.uri, message.status, message.body]
    except DecodeError as error:
        return seen, error
    return seen, reader.pings


def one_input(data: bytes) -> None:
    if len(data) < 3:
        return
    limits = _LIMITS[data[0] & 3]
    stream = data[3:]
    whole, pings, failure = _read([stream], limits)
    for sizes in (b"\x00", data[1:3]):
        other, others_pings, error = _read(pieces(stream, sizes), limits)
        assert [_plain(message) for message in other] == [_plain(message) for message in whole]
        assert (others_pings, error) == (pings, failure)
    for message in whole:
        assert len(message.body) <= limits[1]
        assert len(message.fields) <= sip_codec.MAX_FIELDS
        _hold(message)
    try:
        _hold(sip_codec.parse(stream))
    except SipError as error:
        assert error.sip_status in _STATUSES


def _hold(message) -> None:
    """Built again it is the same message, and its verdict is the same."""
    status = _judge(message)
    again = sip_codec.parse(sip_codec.encode(message))
    assert _plain(again)[:4] == _plain(message)[:4]
    assert again.body == message.body
    kept = [field for field in message.fields if field[0] != b"content-length"]
    assert again.fields[: len(kept)] == kept
    if status:
        return
    assert _judge(again) == 0
    for name in (b"from", b"to", b"call-id", b"cseq"):
        assert message.count(name) == 1
    # only one URI in what names somebody, whatever is quoted around it
    for found in (message.from_(), message.to()):
        assert b"<" not in found.raw
        assert b">" not in found.raw
    if message.method:
        assert message.cseq()[1] == message.method
        answer = sip_codec.parse(sip_codec.encode(sip_codec.response(message, 404, b"t")))
        assert _judge(answer) == 0
        assert answer.to().get(b"tag") is not None
    if second_opinion:
        second_opinion.sip(message)


_VIA = b"Via: SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bK7;rport\r\n"


def _message(line: bytes, fields: bytes, body: bytes = b"") -> bytes:
    return line + b"\r\n" + fields + b"l: " + str(len(body)).encode() + b"\r\n\r\n" + body


def seeds() -> list:
    who = b"From: <sip:a@x.example>;tag=1\r\nTo: <sip:b@x.example>\r\nCall-ID: c@d\r\n"
    messages = (
        _message(
            b"MESSAGE sip:b@x.example SIP/2.0",
            _VIA + who + b"CSeq: 1 MESSAGE\r\nMax-Forwards: 70\r\nContent-Type: text/plain\r\n",
            b"hello",
        ),
        _message(
            b"REGISTER sips:x.example SIP/2.0",
            b"v: SIP / 2.0 / TCP h ;branch=z9hG4bKa ,SIP/2.0/TLS [::1]:5061;received=::1\r\n"
            b'f: "A \\" <sip:m@y>" <sip:a@x.example;lr;x=%41?q=r>\r\n ;tag=2;p="q"\r\n'
            b"t: sip:a@x.example\r\ni: 1\r\nCSeq: 0002\r\n REGISTER\r\n"
            b'm: <sip:a@192.0.2.7;transport=tls>;reg-id=1;q=0.7;+sip.instance="<urn:uuid:1>"\r\n'
            b"Expires: 60\r\nSupported: outbound, path\r\n",
        ),
        _message(
            b"REGISTER sip:x.example SIP/2.0",
            _VIA + who + b"CSeq: 3 REGISTER\r\nContact: *\r\nExpires: 0\r\n",
        ),
        _message(
            b"SIP/2.0 503 Busy",
            _VIA + who + b'CSeq: 1 INVITE\r\nRetry-After: 18 (a (b));x=1\r\nWarning: 399 h "no"\r\n'
            b"Date: Sat, 13 Nov 2010 23:29:00 GMT\r\n",
        ),
        _message(
            b"INVITE tel:+358 SIP/2.0",
            _VIA + who + b"CSeq: 4 INVITE\r\nRoute: <sip:p;lr>, <sip:[1:2::]>\r\nRequire: x\r\n"
            b"Accept: a/b;c=d\r\nRecord-Route: <sip:1.2.3.4>\r\n",
        ),
        _message(
            b"OPTIONS sip:x SIP/2.0",
            _VIA + b'From: "x" <sip:a@x.example>;p="y" <sip:m@x.example>\r\nTo: <sip:b>\r\n'
            b"Call-ID: c\r\nCSeq: 5 OPTIONS\r\n",
        ),
        b"OPTIONS sip:x SIP/3.0\r\n\r\n",
        b"\r\n\r\n\r\n",
    )
    found = [b"\x00\x02\x1e" + message for message in messages]
    found.append(b"\x00\x00\x20" + messages[0] + b"\r\n\r\n" + messages[3] + b"\r\n" + messages[2])
    found.append(b"\x02\x01\x40" + messages[0])
    found.append(b"\x01\x01\x40" + messages[2])
    return found
