# heap: 768k
"""Sessions of a device on SIP, against a manager that is scripted message by message."""

from keyferry_core import signalling as s
from keyferry_core import sip_parts
from keyferry_core.errors import LocalError, code_of, name_of
from keyferry_core.names import MANAGER
from support.portable import raises
from support.sip_script import (
    CHECKED,
    DIGITS,
    LEGS,
    PEER,
    REALM,
    SESSION,
    Device,
    answer,
    asked,
    asks,
    del_all,
    down,
    legs,
    stands,
    up,
)


def test_a_session_that_we_ask_for():
    for pieces in (0, 1, 7):
        device = Device(pieces)
        invite = asks(device)
        assert (invite.method, invite.uri) == (b"INVITE", b"sip:panel-1@plant.example")
        assert invite.first(b"call-id") == DIGITS
        assert invite.from_().get(b"tag") == DIGITS[:16]
        assert invite.to().get(b"tag") is None
        assert sip_parts.legs_of(invite, False) == LEGS[:1]
        assert invite.first(b"key-profile") == b"cert"
        assert sip_parts.parts_of(invite) == [(sip_parts.EDHOC, b"one")]
        assert device.hears(answer(invite, 100)) is None
        parts = [
            (sip_parts.EDHOC, b"two"),
            (sip_parts.CERTIFICATE, b"cert"),
            (sip_parts.ENDORSED, b"key"),
        ]
        found = device.hears(answer(invite, 200, legs(), parts, DIGITS[16:], PEER))
        assert (found[s.TYPE], found[s.FROM], found[s.MESSAGE_2]) == (s.ACCEPT, PEER, b"two")
        assert (found[s.CREDENTIAL], found[s.PUBLIC_KEY]) == (b"cert", b"key")
        assert found[s.ROUTE] == CHECKED
        message = up(s.MESSAGE, session=SESSION, message_3=b"three", record=b"r1")
        (ack,) = device.says(message, 1)
        assert (ack.method, ack.cseq()) == (b"ACK", (1, b"ACK"))
        assert ack.to().get(b"tag") == DIGITS[16:]
        assert sip_parts.parts_of(ack) == [(sip_parts.EDHOC, b"three"), (sip_parts.DATA, b"r1")]
        assert device.client.settled == [1]  # nobody answers it
        request = down(
            b"MESSAGE", 1, [(sip_parts.EDHOC, b"four"), (sip_parts.DATA, b"r2")], ours=True
        )
        found = device.hears(request)
        assert (found[s.MESSAGE_4], found[s.RECORD], found[s.FROM]) == (b"four", b"r2", PEER)
        assert device.written()[0].status == 200
        (request,) = device.says(up(s.MESSAGE, session=SESSION, record=b"\r\n--r3"), 2)
        assert (request.method, request.cseq()[0]) == (b"MESSAGE", 2)
        assert device.client.settled == [1]
        assert device.hears(answer(request)) is None
        assert device.client.settled == [1, 2]
        over = up(s.END, session=SESSION, error_code=code_of("limit-reached"))
        (bye,) = device.says(over, 3)
        assert (bye.method, bye.cseq()[0]) == (b"BYE", 3)
        assert sip_parts.reason_of(bye) == (code_of("limit-reached"), "", False)
        assert device.hears(answer(bye)) is None
        assert device.client.settled == [1, 2, 3]
        assert device.says(over, 4) == []  # it is over


def test_a_session_that_a_peer_asks_for():
    for pieces in (0, 1):
        device = Device(pieces)
        parts = [(sip_parts.EDHOC, b"one"), (sip_parts.CERTIFICATE, b"cert")]
        profile = [(b"Key-Profile", b"rpk")]
        found = device.hears(down(b"INVITE", parts=parts, fields=legs() + profile))
        assert (found[s.TYPE], found[s.FROM], found[s.SESSION]) == (s.CONNECT, PEER, SESSION)
        assert (found[s.MESSAGE_1], found[s.CREDENTIAL]) == (b"one", b"cert")
        assert (found[s.PROFILE], found[s.ROUTE]) == (s.PROFILE_RPK, CHECKED)
        (accepted,) = device.says(
            up(s.ACCEPT, session=SESSION, message_2=b"two", route=LEGS[:1]), 1
        )
        assert accepted.status == 200
        assert accepted.to().get(b"tag") == DIGITS[16:]
        assert sip_parts.parts_of(accepted) == [(sip_parts.EDHOC, b"two")]
        assert sip_parts.legs_of(accepted, False) == LEGS[:1]
        early = down(b"MESSAGE", 2, [(sip_parts.DATA, b"r")])
        assert device.refuses(early) == (481, "unknown-session")
        found = device.hears(down(b"ACK", 1, [(sip_parts.EDHOC, b"three")]))
        assert (found[s.TYPE], found[s.MESSAGE_3]) == (s.MESSAGE, b"three")
        assert device.written() == []
        assert device.hears(down(b"ACK", 1, [(sip_parts.EDHOC, b"three")])) is None  # once
        message = up(s.MESSAGE, session=SESSION, message_4=b"four")
        (request,) = device.says(message)
        assert request.method == b"MESSAGE"
        assert request.from_().get(b"tag") == DIGITS[16:]
        assert request.to().get(b"tag") == DIGITS[:16]
        found = device.hears(down(b"MESSAGE", 2, [(sip_parts.DATA, b"r" * 8300)]))
        assert found[s.RECORD] == b"r" * 8300
        del_all(device.client.out)
        said = [(b"Reason", sip_parts.reason(code_of("session-closed"), "bye"))]
        found = device.hears(down(b"BYE", 3, (), said))
        assert (found[s.TYPE], found[s.FROM], found[s.TEXT]) == (s.END, PEER, "bye")
        assert device.written()[0].status == 200
        found = device.hears(down(b"BYE", 4))
        assert device.written()[0].status == 481


def test_refusals_of_an_invite():
    device = Device()
    for status, who, kind, name in (
        (403, "", s.ERROR, "access-denied"),
        (404, "", s.ERROR, "unknown-name"),
        (410, "", s.ERROR, "device-gone"),
        (480, "", s.ERROR, "peer-offline"),
        (603, PEER, s.REJECT, "declined"),
        (488, PEER, s.REJECT, "key-exchange-failed"),
    ):
        invite = asks(device)
        warning = [(b"Warning", sip_parts.warning(REALM, code_of(name), "so"))]
        said = [(sip_parts.EDHOC, b"suites")] if kind == s.REJECT else []
        found = device.hears(answer(invite, status, warning, said, DIGITS[16:], who))
        assert (found[s.TYPE], found[s.FROM]) == (kind, who or MANAGER)
        assert (found[s.SESSION], name_of(found[s.ERROR_CODE])) == (SESSION, name)
        assert found[s.TEXT] == "so"
        if said:
            assert found[s.EDHOC_ERROR] == b"suites"
        # section 17.1.1.3: in the INVITE's own transaction
        (ack,) = device.written()
        assert ack.cseq() == (invite.cseq()[0], b"ACK")
        assert ack.top_via().get(b"branch") == invite.top_via().get(b"branch")
        assert ack.to().get(b"tag") == DIGITS[16:]
    refusal = answer(asks(device), 404)
    refusal.fields[2] = (b"to", b"To", b"<sip:panel-1@plant.example")
    assert device.hears(refusal)[s.TYPE] == s.ERROR
    assert device.written()[0].to().get(b"tag") is None


def test_refusals_of_ours():
    device = Device()
    request = down(b"INVITE", parts=[(sip_parts.EDHOC, b"one")])
    device.hears(request)
    refusal = up(
        s.REJECT, session=SESSION, error_code=code_of("declined"), text="busy", edhoc_error=b"e"
    )
    (response,) = device.says(refusal)
    assert response.status == 603
    assert sip_parts.error_of(response) == (code_of("declined"), "busy")
    assert sip_parts.parts_of(response) == [(sip_parts.EDHOC, b"e")]
    assert device.hears(down(b"ACK")) is None
    # after the 200: message_3 was bad
    asked(device)
    device.hears(down(b"ACK", 1, [(sip_parts.EDHOC, b"three")]))
    (bye,) = device.says(refusal)
    assert bye.method == b"BYE"
    assert sip_parts.reason_of(bye) == (code_of("declined"), "busy", True)
    assert sip_parts.parts_of(bye) == [(sip_parts.EDHOC, b"e")]
    # message_2 was bad
    device = Device()
    invite = asks(device)
    device.hears(answer(invite, 200, (), [(sip_parts.EDHOC, b"two")], DIGITS[16:], PEER))
    ack, bye = device.says(refusal)
    assert (ack.method, ack.body, bye.method) == (b"ACK", b"", b"BYE")
    assert sip_parts.reason_of(bye)[2] is True
    # and theirs
    stands(device)
    said = [(b"Reason", sip_parts.reason(code_of("authentication-failed"), "", True))]
    found = device.hears(down(b"BYE", 1, [(sip_parts.EDHOC, b"e")], said, ours=True))
    assert (found[s.TYPE], found[s.EDHOC_ERROR]) == (s.REJECT, b"e")


def test_an_invite_is_taken_back():
    end = up(s.END, session=SESSION, error_code=code_of("timeout"))
    # after a provisional response, before it, and when it was answered already
    device = Device()
    invite = asks(device)
    device.hears(answer(invite, 100))
    (cancel,) = device.says(end)
    assert (cancel.method, cancel.cseq()) == (b"CANCEL", (1, b"CANCEL"))
    assert cancel.top_via().get(b"branch") == invite.top_via().get(b"branch")
    assert cancel.to().get(b"tag") is None
    assert sip_parts.reason_of(cancel)[0] == code_of("timeout")
    assert device.hears(answer(cancel)) is None
    assert device.hears(answer(invite, 487, tag=DIGITS[16:])) is None
    assert [message.method for message in device.written()] == [b"ACK"]
    invite = asks(device)
    assert device.says(end) == []
    assert device.hears(answer(invite, 100)) is None
    assert [message.method for message in device.written()] == [b"CANCEL"]
    parts = [(sip_parts.EDHOC, b"two")]
    assert device.hears(answer(invite, 200, (), parts, DIGITS[16:], PEER)) is None
    assert [message.method for message in device.written()] == [b"ACK", b"BYE"]
    # the manager takes one back
    device = Device()
    device.hears(down(b"INVITE", parts=[(sip_parts.EDHOC, b"one")]))
    said = [(b"Reason", sip_parts.reason(code_of("peer-gone")))]
    assert device.refuses(down(b"CANCEL", branch=b"m2")) == (481, "unknown-session")
    found = device.hears(down(b"CANCEL", 1, (), said, ""))
    assert (found[s.TYPE], found[s.FROM]) == (s.END, MANAGER)
    assert name_of(found[s.ERROR_CODE]) == "peer-gone"
    written = device.written()
    assert [(m.status, m.cseq()[1]) for m in written] == [(200, b"CANCEL"), (487, b"INVITE")]
    assert device.says(up(s.ACCEPT, session=SESSION, message_2=b"two")) == []
    # too late
    asked(device)
    assert device.hears(down(b"CANCEL")) is None
    assert [message.status for message in device.written()] == [200]


def test_accepts_that_are_none():
    for parts, tag in (
        ([], DIGITS[16:]),
        ([(sip_parts.EDHOC, b"two")], b"other"),
        ([(b"application/sdp", b"v=0")], DIGITS[16:]),
        ([(sip_parts.EDHOC, b"2" * 2049)], DIGITS[16:]),
    ):
        device = Device()
        found = device.hears(answer(asks(device), 200, (), parts, tag, PEER))
        assert (found[s.TYPE], found[s.FROM]) == (s.ERROR, MANAGER)
        assert found[s.SESSION] == SESSION
        # to the manager it is a session that stands, so it has to be ended
        assert [message.method for message in device.written()] == [b"ACK", b"BYE"]


def test_messages_that_are_not_taken():
    for status, name in ((480, "peer-offline"), (503, "too-many"), (481, "unknown-session")):
        device = Device()
        stands(device)
        (request,) = device.says(up(s.MESSAGE, session=SESSION, record=b"r"), 8)
        found = device.hears(answer(request, status))
        assert (found[s.TYPE], found[s.SESSION], found[s.FROM]) == (s.ERROR, SESSION, MANAGER)
        assert name_of(found[s.ERROR_CODE]) == name
        assert 8 in device.client.settled
        message = up(s.MESSAGE, session=SESSION, record=b"r")
        if status == 481:
            raises(LocalError, device.says, message)
        else:
            assert len(device.says(message)) == 1
