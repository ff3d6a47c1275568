# heap: 768k
"""A device's end of SIP against a manager that is scripted message by message."""

from keyferry_core import signalling as s
from keyferry_core import sip_parts
from keyferry_core.errors import code_of, name_of
from keyferry_core.names import MANAGER
from keyferry_core.sip_client import MAX_TAKEN, TRANSACTION
from support.sip_script import (
    CHECKED,
    LEGS,
    ME,
    PEER,
    REALM,
    Device,
    alone,
    answer,
    legs,
    registers,
    up,
)

# -- registration and requests to the manager --


def test_a_registration():
    device = Device()
    request = registers(device)
    assert (request.method, request.uri) == (b"REGISTER", b"sip:plant.example")
    assert request.to().uri.user == request.from_().uri.user == b"pump-7"
    contact = request.first(b"contact")
    start = b"<sip:pump-7@pump-7.invalid;transport=tls>;reg-id=1;+sip.instance="
    assert contact[: len(start)] == start
    assert request.first(b"call-id") == b"instance".hex().encode()
    assert b"outbound" in request.first(b"supported")
    found = device.hears(
        answer(
            request,
            200,
            [
                (b"Contact", contact + b";expires=1800"),
                (b"Flow-Timer", b"120"),
                (b"Require", b"outbound"),
                (b"Manager-Instance", b"0011223344556677"),
            ],
        )
    )
    assert found == {
        s.TYPE: s.REGISTERED,
        s.FROM: MANAGER,
        s.TO: ME,
        s.ID: 7,
        s.EXPIRES: 1800,
        s.SEEN: "192.0.2.9:50123",
        s.INSTANCE: bytes.fromhex("0011223344556677"),
    }
    assert device.client.flow_timer == 120
    again = registers(
        device,
        ["192.0.2.9:5061", "pump.example:7"],
        public_key=b"key",
        expires=60,
        anchors=b"anchors8",
    )
    assert again.first(b"trust-anchors") == b"anchors8".hex().encode()
    assert again.first(b"call-id") == request.first(b"call-id")
    assert again.cseq() == (2, b"REGISTER")
    assert again.count(b"contact") == 2
    # the same device is the same instance for ever
    assert again.first(b"contact").endswith(contact[contact.find(b";reg-id") :])
    assert again.first(b"expires") == b"60"
    assert sip_parts.parts_of(again) == [(sip_parts.ENDORSED, b"key")]
    contact = [(b"Contact", contact + b";expires=60"), (b"Trust-Anchors", b"0011223344556677")]
    found = device.hears(answer(again, 200, contact))
    assert found[s.ANCHORS] == bytes.fromhex("0011223344556677")
    device.client.leave(0)
    leaving = device.written()[0]
    assert (leaving.first(b"contact"), leaving.first(b"expires")) == (b"*", b"0")
    assert device.hears(answer(leaving)) is None


def test_what_a_registration_may_be_told():
    device = Device()
    for status, fields, name in (
        (
            403,
            [(b"Warning", sip_parts.warning(REALM, code_of("identity-mismatch")))],
        )
        + ("identity-mismatch",),
        (403, [(b"Warning", sip_parts.warning(REALM, code_of("bad-route"), "no"))], "bad-route"),
        (403, [], "access-denied"),
        (423, [(b"Min-Expires", b"60")], "declined"),
        (503, [], "too-many"),
        # what no manager says
        (200, [(b"Contact", b"<sip:a@b>;expires=x")], "malformed"),
        (200, [(b"Contact", b"<sip:a@b")], "malformed"),
        (200, [(b"Contact", b"<sip:a@b>;expires=0")], "malformed"),
        (200, [(b"Flow-Timer", b"-1")], "malformed"),
        (200, [(b"Manager-Instance", b"00")], "malformed"),
        (200, [(b"Trust-Anchors", b"001122334455667X")], "malformed"),
    ):
        found = device.hears(answer(registers(device), status, fields))
        assert found[s.TYPE] == s.ERROR
        assert found[s.FROM] == MANAGER
        assert (found[s.ID], name_of(found[s.ERROR_CODE])) == (7, name)
    assert device.client.expire(10**6) == []


def test_names_are_resolved():
    device = Device()

    def resolve():
        return device.says(up(s.RESOLVE, to=MANAGER, id=9, name=PEER))[0]

    request = resolve()
    assert (request.method, request.uri) == (b"OPTIONS", b"sip:panel-1@plant.example")
    assert b"application/pkix-cert" in request.first(b"accept")
    contact = b"<sip:panel-1@192.0.2.7:5061;transport=tls>;expires=90"
    parts = [(sip_parts.CERTIFICATE, b"cert"), (sip_parts.ENDORSED, b"key")]
    found = device.hears(answer(request, 200, [(b"Contact", contact)], parts))
    assert found[s.ONLINE] is True
    assert (found[s.ADDRESSES], found[s.EXPIRES]) == (["192.0.2.7:5061"], 90)
    assert (found[s.CREDENTIAL], found[s.PUBLIC_KEY]) == (b"cert", b"key")
    gone = [(b"Warning", sip_parts.warning(REALM, code_of("peer-offline")))]
    found = device.hears(answer(resolve(), 480, gone))
    assert (found[s.TYPE], found[s.ONLINE], found[s.ADDRESSES]) == (s.RESOLVED, False, [])
    for status, name in ((404, "unknown-name"), (410, "device-gone"), (403, "access-denied")):
        found = device.hears(answer(resolve(), status))
        assert (found[s.TYPE], name_of(found[s.ERROR_CODE])) == (s.ERROR, name)
    found = device.hears(answer(resolve(), 200, (), [(b"text/html", b"x")]))
    assert name_of(found[s.ERROR_CODE]) == "unsupported"


def test_a_certificate_is_asked_for():
    device = Device()
    registers(device)
    request = device.says(up(s.CERTIFY, to=MANAGER, id=3, request=b"csr"))[0]
    assert request.count(b"contact") == 0
    assert sip_parts.parts_of(request) == [(sip_parts.REQUEST, b"csr")]
    parts = [(sip_parts.CERTIFICATE, b"mine"), (sip_parts.CERTIFICATE, b"issuer")]
    found = device.hears(answer(request, 200, (), parts))
    assert found[s.TYPE] == s.CERTIFIED
    assert (found[s.CREDENTIAL], found[s.ISSUER]) == (b"mine", b"issuer")


# -- plain messages --


def test_messages_without_a_session():
    device = Device()
    request = device.says(up(s.SEND, id=5, data=b"hello", route=LEGS[:1]), 44)[0]
    assert (request.method, request.uri) == (b"MESSAGE", b"sip:panel-1@plant.example")
    assert sip_parts.legs_of(request, False) == LEGS[:1]
    assert request.body == b"hello"
    assert device.client.settled == []
    found = device.hears(answer(request))
    assert (found[s.TYPE], found[s.FROM], found[s.ID]) == (s.DELIVERED, PEER, 5)
    assert device.client.settled == [44]
    # the peer's refusal and the manager's
    request = device.says(up(s.SEND, id=6, data=b""))[0]
    found = device.hears(answer(request, 603, who=PEER))
    assert (found[s.TYPE], found[s.FROM]) == (s.DELIVERED, PEER)
    assert name_of(found[s.ERROR_CODE]) == "declined"
    request = device.says(up(s.SEND, id=6, data=b""))[0]
    found = device.hears(answer(request, 480))
    assert (found[s.TYPE], found[s.FROM]) == (s.ERROR, MANAGER)
    # and the other way round
    for kind, error, status in (
        (b"text/plain;charset=utf-8", 0, 200),
        (sip_parts.DATA, code_of("declined"), 603),
        (sip_parts.DATA, code_of("too-many"), 503),
    ):
        asked = alone(b"MESSAGE", b"data", [(b"Content-Type", kind)] + legs())
        found = device.hears(asked)
        assert (found[s.TYPE], found[s.FROM], found[s.DATA]) == (s.SEND, PEER, b"data")
        assert found[s.ROUTE] == CHECKED
        assert device.written() == []
        said = up(s.DELIVERED, id=found[s.ID])
        if error:
            said[s.ERROR_CODE] = error
        (response,) = device.says(said)
        assert response.status == status
        assert response.first(b"via") == asked.first(b"via")
        assert device.says(said) == []  # once


def test_messages_that_nobody_answers_are_bounded():
    device = Device()
    for _ in range(MAX_TAKEN):
        assert device.hears(alone(b"MESSAGE")) is not None
    assert device.refuses(alone(b"MESSAGE")) == (503, "too-many")
    device.client.expire(TRANSACTION)
    assert device.hears(alone(b"MESSAGE")) is not None


def test_what_the_manager_says_of_no_request():
    device = Device()
    said = [(b"Reason", sip_parts.reason(code_of("replaced"), "another link"))]
    found = device.hears(alone(b"MESSAGE", b"", said, ""))
    assert (found[s.TYPE], found[s.FROM], found[s.TEXT]) == (s.ERROR, MANAGER, "another link")
    assert name_of(found[s.ERROR_CODE]) == "replaced"
    assert device.written()[0].status == 200
