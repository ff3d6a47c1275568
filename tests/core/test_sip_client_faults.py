# heap: 768k
"""What a device on SIP must not believe, and what ends with time or its connection."""

from keyferry_core import signalling as s
from keyferry_core import sip_codec, sip_parts
from keyferry_core.errors import DecodeError, LocalError, code_of, name_of
from keyferry_core.sip_client import TRANSACTION
from keyferry_core.sip_dialogs import MAX_DIALOGS
from support.portable import raises
from support.sip_script import (
    DIGITS,
    PEER,
    SESSION,
    Device,
    alone,
    answer,
    asked,
    asks,
    del_all,
    down,
    legs,
    registers,
    stands,
    up,
)

# -- what it must not believe --


def test_bad_requests_get_their_status_and_end_no_session():
    device = Device()
    stands(device)
    record = [(sip_parts.DATA, b"r")]
    good = down(b"MESSAGE", 1, record, ours=True)

    def without(name):
        made = down(b"MESSAGE", 1, record, ours=True)
        made.fields = [field for field in made.fields if field[0] != name]
        return made

    def with_(name, value):
        made = without(name.lower())
        made.add(name, value)
        return made

    for made, expected in (
        (without(b"via"), (0, "malformed")),
        (without(b"from"), (0, "malformed")),
        (without(b"to"), (0, "malformed")),
        (without(b"cseq"), (0, "malformed")),
        (without(b"call-id"), (0, "malformed")),
        (without(b"content-type"), (400, "malformed")),
        (with_(b"CSeq", b"1 BYE"), (400, "malformed")),
        (with_(b"From", b"<sip:panel-1@plant.example>;tag=1"), (481, "unknown-session")),
        (with_(b"To", b"<sip:pump-7@plant.example>;tag=1"), (481, "unknown-session")),
        (with_(b"Call-ID", b"0" * 32), (481, "unknown-session")),
        (with_(b"Call-ID", b"other"), (481, "unknown-session")),
        (with_(b"Content-Type", b"text/html"), (415, "unsupported")),
        (with_(b"Content-Type", b"multipart/mixed"), (400, "malformed")),
        (with_(b"Content-Encoding", b"gzip"), (415, "unsupported")),
        (with_(b"Require", b"x"), (420, "unsupported")),
        (down(b"MESSAGE", 1, record), (481, "unknown-session")),  # of the other role
        (down(b"MESSAGE", 1, [], ours=True), (400, "malformed")),
        (down(b"MESSAGE", 1, [(sip_parts.DATA, b"r" * 8301)], ours=True), (400, "malformed")),
        (down(b"INVITE", 1, [(sip_parts.EDHOC, b"1")]), (400, "malformed")),  # it is there
        (down(b"UPDATE", 1, ours=True), (405, "malformed")),
        (down(b"OPTIONS", 1, ours=True), (405, "malformed")),
        (down(b"BYE", 1, (), [(b"Reason", b"SIP;cause=x")], ours=True), (400, "malformed")),
        (alone(b"INVITE", b"v=0", [(b"Content-Type", b"application/sdp")]), (415, "unsupported")),
        (alone(b"SUBSCRIBE"), (405, "malformed")),
        (alone(b"BYE"), (481, "unknown-session")),
        (alone(b"MESSAGE", b"x"), (415, "unsupported")),
        (alone(b"MESSAGE", b"x" * 2049, [(b"Content-Type", sip_parts.DATA)]), (400, "malformed")),
        (alone(b"MESSAGE", b"", (), ""), (400, "malformed")),
        (alone(b"MESSAGE", b"", legs()[:1]), (400, "malformed")),
        (alone(b"MESSAGE", b"", (), "Pump%208"), (400, "malformed")),
    ):
        status, name = device.refuses(made)
        if (status, name) != expected and status != 482:
            raise AssertionError(repr((made.method, made.fields[-1], status, name, expected)))
    assert device.hears(alone(b"OPTIONS")) is None
    offered = device.written()[0]
    assert (offered.status, offered.count(b"allow"), offered.count(b"accept")) == (200, 1, 1)
    found = device.hears(good)
    assert found[s.RECORD] == b"r"


def test_a_third_party():
    device = Device()
    message = up(s.CONNECT, session=bytes(16), profile=0, message_1=b"1", on_behalf_of="alice")
    assert device.says(message)[0].first(b"on-behalf-of") == b"alice"
    asking = [(b"On-Behalf-Of", b"alice")]
    one = [(sip_parts.EDHOC, b"1")]
    for wrong in (asking * 2, [(b"On-Behalf-Of", b"manager")], [(b"On-Behalf-Of", b"")]):
        assert device.refuses(down(b"INVITE", 1, one, wrong)) == (400, "malformed")
    assert device.hears(down(b"INVITE", 1, one, asking))[s.ON_BEHALF_OF] == "alice"


def test_invites_that_are_no_connect():
    device = Device()
    one = [(sip_parts.EDHOC, b"1")]
    for made in (
        down(b"INVITE", 1, [(b"application/sdp", b"v=0")]),
        down(b"INVITE", 1, []),
        down(b"INVITE", 1, [(sip_parts.EDHOC, b"1" * 1025)]),
        down(b"INVITE", 1, one, [(b"Key-Profile", b"none")]),
        down(b"INVITE", 1, one, legs()[:1]),
        down(b"INVITE", 1, one, ours=True),
    ):
        status, _ = device.refuses(made)
        assert 400 <= status < 500
    assert device.hears(down(b"INVITE", 1, one)) is not None


def test_responses_to_nothing_are_dropped():
    device = Device()
    invite = asks(device)
    other = down(b"INVITE", branch=b"none")
    assert device.hears(answer(other, 200)) is None
    twice = answer(invite, 480, tag=DIGITS[16:])
    assert device.hears(twice) is not None
    del_all(device.client.out)
    assert device.hears(twice) is None
    assert device.written() == []
    bad = answer(invite, 200)
    bad.fields = [field for field in bad.fields if field[0] != b"via"]
    raises(DecodeError, device.hears, bad)


# -- time, and connections that end --


def test_what_is_not_answered_is_given_up():
    device = Device()
    registers(device)
    asks(device)
    other = bytes(16)
    ringing = device.says(up(s.CONNECT, session=other, profile=1, message_1=b"1"))[0]
    assert ringing.first(b"key-profile") == b"rpk"
    device.hears(answer(ringing, 180))
    assert device.client.expire(TRANSACTION - 1) == []
    found = device.client.expire(TRANSACTION)
    assert [name_of(message[s.ERROR_CODE]) for message in found] == ["timeout"] * 2
    assert found[0][s.ID] == 7
    assert found[1][s.SESSION] == SESSION
    assert device.says(up(s.END, session=SESSION)) == []
    assert [message[s.SESSION] for message in device.client.expire(180)] == [other]


def test_a_new_connection():
    device = Device()
    stands(device)
    other = bytes(16)
    invite = device.says(up(s.CONNECT, session=other, profile=0, message_1=b"1"))[0]
    device.hears(alone(b"MESSAGE"))
    device.says(up(s.MESSAGE, session=SESSION, record=b"lost"))
    device.client.new_link()
    assert device.client.out == []
    # sessions go on, and the INVITE is answered on the new one
    (request,) = device.says(up(s.MESSAGE, session=SESSION, record=b"r"))
    assert request.cseq() == (3, b"MESSAGE")
    tag = sip_parts.tags(other)[1]
    found = device.hears(answer(invite, 200, (), [(sip_parts.EDHOC, b"2")], tag, PEER))
    assert (found[s.TYPE], found[s.SESSION]) == (s.ACCEPT, other)
    # an INVITE of the manager is not
    third = Device()
    asked(third)
    third.client.new_link()
    assert third.says(up(s.END, session=SESSION)) == []


def test_dialogs_are_bounded_and_come_back():
    device = Device()
    stands(device)
    for number in range(MAX_DIALOGS):
        session = bytes(15) + bytes([number])
        device.says(up(s.CONNECT, session=session, profile=0, message_1=b"1"))
    raises(LocalError, device.says, up(s.MESSAGE, session=SESSION, record=b"r"))
    # the peer still has it: what it sends brings it back
    assert device.hears(down(b"MESSAGE", 2, [(sip_parts.DATA, b"r")], ours=True)) is not None
    del_all(device.client.out)
    (bye,) = device.says(up(s.END, session=SESSION, error_code=code_of("unknown-session")))
    assert (bye.method, bye.from_().get(b"tag")) == (b"BYE", DIGITS[:16])


def test_bodies_that_there_is_no_memory_for():
    device = Device()
    stands(device)
    request = down(b"MESSAGE", 1, [(sip_parts.DATA, b"r" * 100)], ours=True)
    assert device.client.skipped(request, 0) is None
    assert sip_parts.error_of(device.written()[0])[0] == code_of("too-large")
    reader = sip_codec.Reader()
    data = sip_codec.encode(down(b"MESSAGE", 1, [(sip_parts.DATA, b"r" * 100)], ours=True))
    reader.feed(data[:-30])
    assert reader.next_message() is None
    assert reader.missing == 30
    head = reader.without_body()
    assert (head.method, reader.missing, reader.waiting) == (b"MESSAGE", 0, False)
    reader.feed(sip_codec.encode(alone(b"OPTIONS")))
    assert reader.next_message().method == b"OPTIONS"
