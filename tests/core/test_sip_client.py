# heap: 768k
"""A device's end of SIP against a manager that is scripted message by message."""

from keyferry_core import signalling as s
from keyferry_core import sip_check, sip_codec, sip_parts
from keyferry_core.errors import DecodeError, LocalError, code_of, name_of
from keyferry_core.names import MANAGER
from keyferry_core.sip_client import MAX_TAKEN, TRANSACTION, Client
from keyferry_core.sip_dialogs import MAX_DIALOGS
from support.portable import raises

REALM = "plant.example"
ME = "pump-7"
PEER = "panel-1"
SESSION = bytes(range(16))
DIGITS = sip_parts.call_id(SESSION)
LEGS = [["192.0.2.7:40001", 2, True], ["192.0.2.9:50123", 2, True]]
CHECKED = [LEGS[0] + [True], LEGS[1] + [False]]
VIA = b"SIP/2.0/TLS plant.example;branch=z9hG4bK"


def user(name):
    return b"<sip:" + name.encode() + b"@plant.example>"


class Device:
    """A client, with all that it writes read again and held to the rules of SIP."""

    def __init__(self, pieces=0):
        self.count = 0
        self.client = Client(ME, REALM, self.random)
        self.now = 0
        self.pieces = pieces
        self.reader = sip_codec.Reader()

    def random(self, count):
        self.count += 1
        return bytes([self.count & 255]) * count

    def says(self, message, key=0):
        """The messages that signalling of ours becomes."""
        self.client.send(message, self.now, key)
        return self.written()

    def written(self):
        reader = sip_codec.Reader()
        for data in self.client.out:
            reader.feed(data)
        del_all(self.client.out)
        found = list(reader)
        assert not reader.waiting
        for message in found:
            sip_check.check(message)
        return found

    def hears(self, message):
        """The signalling that a message of the manager becomes, however it is cut."""
        data = sip_codec.encode(message)
        size = self.pieces or len(data)
        for at in range(0, len(data), size):
            self.reader.feed(data[at : at + size])
        found = None
        for message in self.reader:
            found = self.client.receive(message, self.now)
        if found is not None:
            s.check(found, False)
        return found

    def refuses(self, message):
        """``(status, error's name)`` that a request of the manager is answered with."""
        error = raises(DecodeError, self.hears, message)
        written = self.written()
        if not written:
            return 0, error.name
        assert len(written) == 1
        assert written[0].status == error.sip_status
        return written[0].status, name_of(sip_parts.error_of(written[0])[0])


def del_all(items):
    while items:
        items.pop()


def up(kind, **fields):
    message = {s.TYPE: kind, s.FROM: ME, s.TO: fields.pop("to", PEER)}
    for key in fields:
        message[getattr(s, key.upper())] = fields[key]
    return message


def answer(request, status=200, fields=(), parts=(), tag=b"m1", who=""):
    """The manager's response."""
    found = sip_codec.response(request, status, tag)
    via = found.fields[0][2].replace(b";rport", b";rport=50123") + b";received=192.0.2.9"
    found.fields[0] = (b"via", b"Via", via)
    if who:
        found.add(b"P-Asserted-Identity", user(who))
    for name, value in fields:
        found.add(name, value)
    kind, found.body = sip_parts.join(list(parts), b"0123456789abcdef")
    if kind:
        found.add(b"Content-Type", kind)
    return found


def down(method, number=1, parts=(), fields=(), who=PEER, ours=False, branch=b"m1", call_id=DIGITS):
    """The manager's request in the session, which we began if it is ``ours``."""
    tags = sip_parts.tags(SESSION)
    theirs, mine = tags if not ours else (tags[1], tags[0])
    to = user(ME)
    if method not in (b"INVITE", b"CANCEL"):
        to += b";tag=" + mine
    kind, body = sip_parts.join(list(parts), b"0123456789abcdef")
    lines = [
        (b"Via", VIA + branch),
        (b"Max-Forwards", b"70"),
        (b"From", user(PEER) + b";tag=" + theirs),
        (b"To", to),
        (b"Call-ID", call_id),
        (b"CSeq", str(number).encode() + b" " + method),
    ]
    if who:
        lines.append((b"P-Asserted-Identity", user(who)))
    lines += list(fields)
    if kind:
        lines.append((b"Content-Type", kind))
    return sip_codec.request(method, b"sip:pump-7@pump-7.invalid;transport=tls", lines, body)


def alone(method, body=b"", fields=(), who=PEER, number=1):
    """The manager's request outside dialogs."""
    sender = user(who) if who else b"<sip:plant.example>"
    lines = [
        (b"Via", VIA + b"a1"),
        (b"Max-Forwards", b"70"),
        (b"From", sender + b";tag=x"),
        (b"To", user(ME)),
        (b"Call-ID", b"x@plant.example"),
        (b"CSeq", str(number).encode() + b" " + method),
    ]
    if who:
        lines.append((b"P-Asserted-Identity", sender))
    lines += list(fields)
    return sip_codec.request(method, b"sip:pump-7@pump-7.invalid", lines, body)


def legs():
    return [
        (sip_parts.HOP_SECURITY, sip_parts.leg_value(CHECKED[0], 1)),
        (sip_parts.HOP_SECURITY, sip_parts.leg_value(CHECKED[1], 2)),
    ]


def registers(device, addresses=(), **more):
    return device.says(
        up(
            s.REGISTER,
            to=MANAGER,
            id=7,
            instance=b"instance",
            addresses=list(addresses),
            **more,
        )
    )[0]


def asks(device):
    """A session that we ask for, up to the INVITE."""
    message = up(s.CONNECT, session=SESSION, profile=0, message_1=b"one", route=LEGS[:1])
    return device.says(message)[0]


def stands(device):
    """A session that we asked for and that was accepted and confirmed."""
    invite = asks(device)
    parts = [(sip_parts.EDHOC, b"two"), (sip_parts.CERTIFICATE, b"cert")]
    device.hears(answer(invite, 200, legs(), parts, DIGITS[16:], PEER))
    device.says(up(s.MESSAGE, session=SESSION, message_3=b"three"))


def asked(device):
    """A session that a peer asks for, up to the 200."""
    device.hears(down(b"INVITE", parts=[(sip_parts.EDHOC, b"one")], fields=legs()))
    return device.says(up(s.ACCEPT, session=SESSION, message_2=b"two", route=LEGS[:1]))[0]


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


# -- sessions --


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
