"""A device's end of SIP, and what a scripted manager says to it. Runs on both runtimes."""

from keyferry_core import signalling as s
from keyferry_core import sip_check, sip_codec, sip_parts
from keyferry_core.errors import DecodeError, name_of
from keyferry_core.names import MANAGER
from keyferry_core.sip_client import Client
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
