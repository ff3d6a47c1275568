# heap: 512k
from keyferry_core import signalling as sig
from keyferry_core import sip_check, sip_codec, sip_parts
from keyferry_core.errors import LocalError, code_of, rows
from keyferry_core.sip_fields import SipError
from support.portable import raises

SESSION = bytes(range(16))
MARK = b"0123456789abcdef"
BASE = [
    (b"Via", b"SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bK77;rport"),
    (b"From", b"<sip:gauge-2@plant.example>;tag=a1"),
    (b"To", b"<sip:pump-7@plant.example>"),
    (b"Call-ID", b"c1"),
    (b"CSeq", b"1 INVITE"),
]


def message(kind=b"", body=b"", more=()):
    fields = BASE + list(more)
    if kind:
        fields.append((b"Content-Type", kind))
    return sip_codec.request(b"INVITE", b"sip:pump-7@plant.example", fields, body)


def over(made):
    """The message after its way over a stream, held to all rules."""
    reader = sip_codec.Reader()
    reader.feed(sip_codec.encode(made))
    found = reader.next_message()
    sip_check.check(found)
    return found


def test_a_dialog_is_its_session():
    digits = sip_parts.call_id(SESSION)
    assert digits == b"000102030405060708090a0b0c0d0e0f"
    assert sip_parts.session_of(digits) == SESSION
    for other in (b"", digits[1:], digits + b"0", digits.upper(), b"x" * 32, b"c@" + digits[2:]):
        assert sip_parts.session_of(other) is None
    assert sip_parts.tags(SESSION) == (digits[:16], digits[16:])


def test_bodies_of_none_one_and_several_parts():
    assert sip_parts.join([], MARK) == (b"", b"")
    assert sip_parts.parts_of(message()) == []
    one = [(sip_parts.EDHOC, b"\x00\r\n--0123")]
    assert sip_parts.join(one, MARK) == one[0]
    assert sip_parts.parts_of(over(message(*sip_parts.join(one, MARK)))) == one
    three = [
        (sip_parts.EDHOC, b"\r\n\r\n--"),
        (sip_parts.CERTIFICATE, b"Content-Type: x/y\r\n\r\n"),
        (sip_parts.ENDORSED, b""),
    ]
    kind, body = sip_parts.join(three, MARK)
    assert sip_parts.parts_of(over(message(kind, body))) == three
    quoted = kind.replace(MARK, b'"' + MARK + b'"')
    assert sip_parts.parts_of(over(message(quoted, body))) == three
    raises(LocalError, sip_parts.join, [one[0], (sip_parts.DATA, b"--" + MARK)], MARK)


def test_bodies_that_are_refused():
    kind, body = sip_parts.join([(sip_parts.EDHOC, b"1"), (sip_parts.DATA, b"2")], MARK)
    mark = b"--" + MARK
    for what, data in (
        (kind, body[1:]),
        (kind, b"preamble\r\n" + body),
        (kind, body[:-4]),
        (kind, body.replace(b"Content-Type", b"Content-Kind", 1)),
        (kind, body.replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n", 1)),
        (kind, mark + b"--\r\n"),
        (kind, body + mark),
        (kind, body[:-4] + body * 4),
        (b"multipart/mixed", body),
        (b'multipart/mixed;boundary=""', body),
        (b"multipart/mixed;boundary=" + b"x" * 71, body),
        (b"", b"x"),
    ):
        error = raises(SipError, sip_parts.parts_of, message(what, data))
        assert error.sip_status == 400
    encoded = message(sip_parts.DATA, b"x", [(b"Content-Encoding", b"gzip")])
    assert raises(SipError, sip_parts.parts_of, encoded).sip_status == 415


def test_parts_fill_a_message_in_their_order():
    keys = ((sip_parts.EDHOC, sig.MESSAGE_3), (sip_parts.DATA, sig.RECORD))
    found = {}
    sip_parts.fill(found, [(sip_parts.EDHOC, b"3"), (sip_parts.DATA, b"r")], keys)
    assert found == {sig.MESSAGE_3: b"3", sig.RECORD: b"r"}
    found = {}
    sip_parts.fill(found, [(sip_parts.DATA, b"r")], keys)
    assert found == {sig.RECORD: b"r"}
    for wrong in (
        [(sip_parts.DATA, b"r"), (sip_parts.EDHOC, b"3")],
        [(sip_parts.DATA, b"r"), (sip_parts.DATA, b"r")],
        [(b"image/png", b"")],
    ):
        assert raises(SipError, sip_parts.fill, {}, wrong, keys).sip_status == 415


def test_legs():
    stated = ["192.0.2.7:40001", sig.TRANSPORT_SIP_TLS, True]
    value = sip_parts.leg_value(stated, 1)
    assert value == b'addr="192.0.2.7:40001";leg=1;transport=tls;auth=mutual'
    field = (b"Hop-Security", value)
    assert sip_parts.legs_of(over(message(more=[field])), False) == [stated]
    assert sip_parts.legs_of(message(), False) is None
    checked = [
        ["[2001:db8::1]:5061", sig.TRANSPORT_MQTT_TLS, True, False],
        ["192.0.2.7:1", sig.TRANSPORT_SIP_TLS, True, True],
    ]
    fields = [(b"Hop-Security", sip_parts.leg_value(leg, n + 1)) for n, leg in enumerate(checked)]
    assert sip_parts.legs_of(over(message(more=fields)), True) == checked
    for wrong in (
        [field, field],
        [(b"Hop-Security", value + b", " + value)],
        [(b"Hop-Security", value.replace(b"leg=1", b"leg=2"))],
        [(b"Hop-Security", value.replace(b"=tls", b"=mqtts"))],
        [(b"Hop-Security", value.replace(b"=tls", b"=udp"))],
        [(b"Hop-Security", value.replace(b'"', b""))],
        [(b"Hop-Security", value.replace(b"192", b"1 2"))],
        [(b"Hop-Security", b"leg=1")],
        [(b"Hop-Security", b"")],
    ):
        raises(SipError, sip_parts.legs_of, message(more=wrong), False)
    raises(SipError, sip_parts.legs_of, message(more=[field]), True)


def test_every_error_comes_back_as_itself():
    for name, code, status, _, text in rows():
        assert sip_parts.status_of(code) == status
        answer = sip_codec.response(message(), status)
        answer.add(b"Warning", sip_parts.warning("plant.example", code, text))
        assert sip_parts.error_of(over(answer)) == (code, text)
        for reject in (False, True):
            bye = message(more=[(b"Reason", sip_parts.reason(code, text, reject))])
            assert sip_parts.reason_of(over(bye)) == (code, text, reject)
        bare = message(more=[(b"Reason", sip_parts.reason(code))])
        assert bare.first(b"reason").endswith(b';text="' + name.encode() + b'"')
        assert sip_parts.reason_of(over(bare)) == (code, "", False)
    hostile = sip_parts.warning("plant.example", 1, 'a"b\\c\r\nd')
    assert hostile.endswith(b'"malformed: a\'b/c  d"')


def test_errors_of_user_agents_that_know_no_names():
    for status, name in (
        (400, "malformed"),
        (403, "access-denied"),
        (415, "unsupported"),
        (480, "peer-offline"),
        (486, "declined"),
        (503, "too-many"),
        (603, "declined"),
    ):
        answer = sip_codec.response(message(), status)
        assert sip_parts.error_of(answer) == (code_of(name), "")
        answer.add(b"Warning", b'399 host "Something else: here"')
        assert sip_parts.error_of(answer) == (code_of(name), "Something else: here")
    q850 = message(more=[(b"Reason", b'Q.850;cause=16;text="x", SIP;cause=600')])
    assert sip_parts.reason_of(q850) == (code_of("declined"), "", False)
    assert sip_parts.reason_of(message(more=[(b"Reason", b"Q.850;cause=16")])) is None
    assert sip_parts.reason_of(message()) is None
    raises(SipError, sip_parts.reason_of, message(more=[(b"Reason", b"SIP;cause=x")]))


def test_who_speaks():
    def who(value):
        field = [(b"P-Asserted-Identity", value)]
        return sip_parts.asserted(over(message(more=field)), "plant.example")

    assert who(b"<sip:pump-7@plant.example>") == "pump-7"
    assert who(b"<sip:plant.example>") == ""
    assert who(b"<sip:pump-7@other.example>") == ""
    assert sip_parts.asserted(message(), "plant.example") == ""
