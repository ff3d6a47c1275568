"""A manager that says anything to a device on SIP: clear answers, sound signalling, bounds kept.

Input: the seconds that have passed, two sizes of pieces, then the stream. The device has asked for
each thing that there is to ask for, has a session that stands, one that was asked for and one that
is offered to it.
"""

from fuzz.kit import pieces
from keyferry_core import signalling as s
from keyferry_core import sip_check, sip_codec, sip_parts
from keyferry_core.errors import DecodeError, LocalError
from keyferry_core.sip_client import MAX_ASKED, MAX_TAKEN, Client
from keyferry_core.sip_codec import Reader
from keyferry_core.sip_dialogs import MAX_DIALOGS

_STANDS = bytes(range(16))
_ASKED = bytes(range(1, 17))
_OFFERED = bytes(range(2, 18))
_MARK = b"0123456789abcdef"
_PEER = b"<sip:panel-1@plant.example>"


def _say(kind: int, to: str = "panel-1", **fields) -> dict:
    message = {s.TYPE: kind, s.FROM: "pump-7", s.TO: to}
    for key in fields:
        message[getattr(s, key.upper())] = fields[key]
    return message


def _device() -> tuple:
    """The client, and what the requests were that wait for their answer."""
    client = Client("pump-7", "plant.example", lambda count: b"\x5a" * count)
    invite = _say(s.CONNECT, session=_STANDS, profile=0, message_1=b"1")
    client.send(invite, 0)
    parts = [(sip_parts.EDHOC, b"2")]
    accepted = _answer(_read(client.out.pop())[0], 200, sip_parts.tags(_STANDS)[1], (), parts)
    assert client.receive(_read(accepted)[0], 0) is not None
    client.send(_say(s.MESSAGE, session=_STANDS, message_3=b"3"), 0)
    client.receive(_read(_offer())[0], 0)
    client.out.pop()
    for message in (
        _say(s.REGISTER, s.MANAGER, id=1, instance=b"instance", addresses=[]),
        _say(s.RESOLVE, s.MANAGER, id=2, name="panel-1"),
        _say(s.CERTIFY, s.MANAGER, id=3, request=b"csr"),
        _say(s.SEND, id=4, data=b"data"),
        _say(s.CONNECT, session=_ASKED, profile=1, message_1=b"1"),
        _say(s.MESSAGE, session=_STANDS, record=b"r"),
    ):
        client.send(message, 0)
    waiting = [_read(data)[0] for data in client.out]
    client.out = []
    return client, waiting


def _read(data: bytes) -> list:
    reader = Reader()
    reader.feed(data)
    return list(reader)


def _answer(request, status: int, tag: bytes, fields=(), parts=()) -> bytes:
    found = sip_codec.response(request, status, tag)
    via = found.fields[0][2] + b";received=192.0.2.7"
    found.fields[0] = (b"via", b"Via", via.replace(b";rport;", b";rport=5;"))
    for name, value in fields:
        found.add(name, value)
    kind, found.body = sip_parts.join(list(parts), _MARK)
    if kind:
        found.add(b"Content-Type", kind)
    return sip_codec.encode(found)


def _request(method: bytes, session: bytes, ours: bool, parts=(), fields=()) -> bytes:
    theirs, mine = sip_parts.tags(session)
    if ours:
        theirs, mine = mine, theirs
    to = b"<sip:pump-7@plant.example>"
    if method not in (b"INVITE", b"CANCEL"):
        to += b";tag=" + mine
    kind, body = sip_parts.join(list(parts), _MARK)
    lines = [
        (b"Via", b"SIP/2.0/TLS h;branch=z9hG4bKm"),
        (b"From", _PEER + b";tag=" + theirs),
        (b"To", to),
        (b"Call-ID", sip_parts.call_id(session)),
        (b"CSeq", b"1 " + method),
        (b"Max-Forwards", b"70"),
        (b"P-Asserted-Identity", _PEER),
    ] + list(fields)
    if kind:
        lines.append((b"Content-Type", kind))
    return sip_codec.encode(sip_codec.request(method, b"sip:pump-7@h", lines, body))


def _offer() -> bytes:
    return _request(b"INVITE", _OFFERED, False, [(sip_parts.EDHOC, b"1")])


def _run(parts: list, now: int) -> tuple:
    """All that the agent hears and all that the manager reads."""
    client, _ = _device()
    reader = Reader(4096, 10240)
    heard = []
    for part in parts:
        reader.feed(part)
        try:
            for message in reader:
                try:
                    found = client.receive(message, now)
                except DecodeError:
                    found = False
                if found:
                    s.check(found, False)
                    assert found[s.TO] == "pump-7"
                    found = found.copy()
                heard.append(found)
                heard += client.expire(now)
                assert len(client._asked) <= MAX_ASKED
                assert len(client._taken) <= MAX_TAKEN
                assert len(client._dialogs._kept) <= MAX_DIALOGS
        except DecodeError:
            break  # of the framing: the link would end
    written = client.out
    client.out = []
    for message in heard:
        if message and message[s.TYPE] == s.SEND:
            client.send(_say(s.DELIVERED, message[s.FROM], id=message[s.ID]), 1)
    ended = [message[s.SESSION] for message in heard if message and s.SESSION in message]
    try:
        client.send(_say(s.MESSAGE, session=_STANDS, record=b"on"), 1)
    except LocalError:
        # nothing but its end ends a session
        assert _STANDS in ended
    client.expire(10000)
    assert not client._asked
    return heard, written


def decode(data: bytes) -> object:
    return _run(pieces(data[3:], b"\xff"), 0)


def one_input(data: bytes) -> None:
    if len(data) < 3:
        return
    whole = _run([data[3:]], data[0])
    assert _run(pieces(data[3:], data[1:3]), data[0]) == whole
    for out in whole[1]:
        for message in _read(out):
            # an answer repeats what it was asked with, so only what we say ourselves is sound
            if message.method:
                sip_check.check(message)


def seeds() -> list:
    _, waiting = _device()
    record = [(sip_parts.DATA, b"record")]
    message_2 = [(sip_parts.EDHOC, b"2"), (sip_parts.CERTIFICATE, b"c"), (sip_parts.ENDORSED, b"k")]
    legs = [
        (sip_parts.HOP_SECURITY, sip_parts.leg_value(["192.0.2.7:1", 2, True, True], 1)),
        (sip_parts.HOP_SECURITY, sip_parts.leg_value(["192.0.2.9:2", 1, True, False], 2)),
    ]
    who = [(b"P-Asserted-Identity", _PEER)]
    contact = [(b"Contact", b"<sip:panel-1@192.0.2.7:5061>;expires=60"), (b"Flow-Timer", b"9")]
    instance = [(sip_parts.MANAGER_INSTANCE, _MARK)]
    certificates = [(sip_parts.CERTIFICATE, b"c"), (sip_parts.CERTIFICATE, b"i")]
    tag = sip_parts.tags(_ASKED)[1]
    reason = [(b"Reason", sip_parts.reason(18, "so", True))]
    warning = [(b"Warning", sip_parts.warning("plant.example", 3, "so"))]
    streams = [
        _answer(waiting[0], 200, b"m", contact + instance),
        _answer(waiting[1], 200, b"m", contact, message_2[1:]),
        _answer(waiting[1], 480, b"m", [(b"Warning", b'399 h "peer-offline"')]),
        _answer(waiting[2], 200, b"m", (), certificates),
        _answer(waiting[3], 200, b"m"),
        _answer(waiting[3], 603, b"m", who),
        _answer(waiting[4], 100, b"") + _answer(waiting[4], 200, tag, who + legs, message_2),
        _answer(waiting[4], 403, tag, warning),
        _answer(waiting[4], 488, tag, who, [(sip_parts.EDHOC, b"e")]),
        _answer(waiting[5], 481, b"m"),
        _request(b"MESSAGE", _STANDS, True, record),
        _request(b"MESSAGE", _STANDS, True, [(sip_parts.EDHOC, b"4")] + record),
        _request(b"BYE", _STANDS, True, [(sip_parts.EDHOC, b"e")], reason),
        _request(b"INVITE", bytes(16), False, [(sip_parts.EDHOC, b"1")], legs),
        _request(b"CANCEL", _OFFERED, False, (), reason),
        _request(b"ACK", _OFFERED, False, record),
        _request(b"OPTIONS", _STANDS, True),
        b"\r\n\r\n" + _request(b"MESSAGE", _STANDS, True, record) + b"\r\n",
    ]
    alone = _request(b"MESSAGE", _STANDS, True, [(sip_parts.TEXT, b"hello")], legs)
    digits = sip_parts.call_id(_STANDS)
    alone = alone.replace(digits, b"c@h").replace(b">;tag=" + digits[:16], b">")
    streams.append(alone)
    streams.append(alone.replace(b"P-Asserted-Identity", b"X") + alone)
    return [b"\x00\x02\x1e" + stream for stream in streams]
