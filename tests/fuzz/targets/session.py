"""Two devices and a manager that changes one message: both agree, or there is no session.

Input: profile and which message, then how it is changed: one field, or its bytes as a whole.
"""

from fuzz.kit import Random, Source, attempt, crypto, edit
from keyferry_core import cbor, rpk
from keyferry_core import signalling as s
from keyferry_core.session import Identity, Initiator, Responder, rejection
from keyferry_core.trust import Trust
from support.portable import vectors

_VECTORS = vectors("identities")
_REALM = _VECTORS["realm"]
_NOW = _VECTORS["now"]
_ISSUER = bytes.fromhex(_VECTORS["issuer"])
_LEG = ["192.0.2.7:8883", s.TRANSPORT_MQTT_TLS, True]
_NAMES = ("panel-1", "pump-7")


class _Device:
    def __init__(self, name: str, device: dict) -> None:
        self.name = name
        self.certificate = bytes.fromhex(device["certificate"])
        private = bytes.fromhex(device["private"])
        public = bytes.fromhex(device["public"])
        backend = crypto(name.encode())
        agreement = backend.generate()
        self.endorsed = rpk.endorse(backend, private, name, agreement[1])
        self.identity = Identity(name, _REALM, private, public, self.certificate, agreement)


_DEVICES = [_Device(name, _VECTORS["devices"][name]) for name in _NAMES]
del _VECTORS  # a board's heap is small


def _deliver(message: dict, sender: _Device, profile: int) -> dict:
    """What an honest manager makes of a message."""
    message = s.check(cbor.decode(cbor.encode(message)), True)
    if message[s.TYPE] in (s.CONNECT, s.ACCEPT):
        message[s.CREDENTIAL] = sender.certificate
        if profile == s.PROFILE_RPK:
            message[s.PUBLIC_KEY] = sender.endorsed
    if s.ROUTE in message:
        message[s.ROUTE] = [message[s.ROUTE][0] + [True], ["192.0.2.1:8883", 1, True, True]]
    return message


def _tamper(message: dict, source: Source) -> dict | None:
    """The message changed, None when the contract refuses what came of it."""
    choice = source.byte()
    if choice & 1:
        changed = edit(cbor.encode(message), source)
    else:
        keys = sorted(message)
        key = keys[(choice >> 1) % len(keys)]
        value = message[key]
        changed = dict(message)
        if key in (s.CREDENTIAL, s.PUBLIC_KEY) and choice & 128:  # of somebody else
            other = _DEVICES[source.byte() & 1]
            changed[key] = other.certificate if key == s.CREDENTIAL else other.endorsed
        elif isinstance(value, bytes):
            changed[key] = edit(value, source)
        elif isinstance(value, bool) or not isinstance(value, (int, str)):
            del changed[key]
        elif isinstance(value, int):
            changed[key] = source.number()
        else:
            changed[key] = _DEVICES[source.byte() & 1].name + ("", "a")[source.byte() & 1]
        changed = cbor.encode(changed)
    good, checked = attempt(_check, changed)
    # an agent looks at type, session and sender before anybody else does
    if not good or [checked[key] for key in (s.TYPE, s.TO)] != [message[s.TYPE], message[s.TO]]:
        return None
    return checked


def _check(data: bytes) -> dict:
    return s.check(cbor.decode(data), False)


def _records(session) -> tuple | None:
    box = session.records
    return box and (box.sent, box.received, box._highest, box._seen, box._receive.generation)


def _run(data: bytes) -> None:
    source = Source(data)
    first = source.byte()
    profile = first & 1
    step = first >> 1 & 7
    backend = crypto(b"session")
    backend.random = Random(b"session" + bytes((first,)))
    trusts = [Trust(backend, _REALM, _ISSUER) for _ in _DEVICES]
    a, b = _DEVICES
    # A manager that gave the session another number keeps both sides apart by it.
    numbers: dict = {}
    initiator = Initiator(a.identity, trusts[0], backend, b.name, profile)
    responder = Responder(b.identity, trusts[1], backend)
    same = True

    def relay(message: dict, sender: _Device) -> dict:
        message = _deliver(message, sender, profile)
        numbers.setdefault(message[s.TO], message[s.SESSION])
        message[s.SESSION] = numbers[message[s.TO]]
        return message

    def over(message: dict, sender: _Device, number: int) -> dict | None:
        nonlocal same
        message = relay(message, sender)
        if number != step:
            return message
        changed = _tamper(message, source)
        same = same and changed == message
        if changed is not None and number == 0:
            numbers[b.name] = changed[s.SESSION]
        return changed

    connect = over(initiator.connect(_LEG), a, 0)
    if connect is None:
        return
    numbers[a.name] = initiator.session_id
    good, accept = attempt(responder.on_connect, connect, _LEG)
    if not good:
        assert not same
        s.check(rejection(b.name, connect, accept.name), True)
        return
    accept = over(accept, b, 1)
    if accept is None:
        return
    good, session_a = attempt(initiator.on_accept, accept, _NOW)
    if not good:
        assert not same
        s.check(rejection(a.name, accept, session_a.name), True)
        return
    assert session_a.peer == b.name
    assert not session_a.confirmed

    sent = session_a.seal(b"hello")
    message = over(sent, a, 2)
    if message is None:
        return
    good, session_b = attempt(responder.on_message, message, _NOW)
    if not good:
        assert not same
        return
    assert session_b.peer == a.name
    assert session_a.fingerprint == session_b.fingerprint
    assert session_a.session_id == session_b.session_id
    if not _open(session_b, message, b"hello"):
        assert not same
        # the true record is as good as ever
        assert _open(session_b, relay(sent, a), b"hello")

    sent = session_b.seal(b"welcome") if step != 4 else session_b.confirm()
    message = over(sent, b, 3 if step == 3 else 4)
    if message is not None and not _open(session_a, message, b"welcome"):
        assert not same or step == 4
    if session_a.ended:
        return
    if step == 3:
        _open(session_a, relay(sent, b), b"welcome")
        assert session_a.confirmed
    sent = session_a.seal(b"bye")
    message = over(sent, a, 5)
    if message is not None and not _open(session_b, message, b"bye"):
        assert not same
    # whatever was changed on the way, both still hear each other
    assert not session_b.ended
    assert session_b.open(relay(session_a.seal(b"end"), a)) == b"end"
    last = session_b.close()
    assert _open(session_a, relay(last[0], b), b"") is False
    assert session_a.ended == "session-closed"


def _open(session, message: dict, data: bytes) -> bool:
    """Whether the message brought its data. Nothing else ever comes of one."""
    before = _records(session)
    good, found = attempt(session.open, message)
    if good and found is not None:
        assert found == data
        assert session.confirmed
        return True
    if not good and not session.ended:
        assert _records(session) == before
    return False


def decode(data: bytes) -> object:
    return _run(data)


def one_input(data: bytes) -> None:
    _run(data)


def seeds() -> list:
    found = []
    for choice in range(16):
        found.append(bytes((choice, 1, 0)))
        for key in range(0, 18, 2):
            found.append(bytes((choice, key, 1, 0, 0, 10, 1)))
        found.append(bytes((choice, 1, 1, 0, 0, 90, 1)))
    return found
