"""A run of EDHOC in which one message is changed at one place: it fails, and stays failed.

Input: method, suite and step, then the changes. Messages are changed as they are on the wire, or
inside: what is encrypted is then encrypted anew, as a peer with the keys could do it.
"""

from fuzz.kit import Source, attempt, crypto, edit
from keyferry_core import cbor
from keyferry_core._compat import sha256
from keyferry_core.edhoc import messages
from keyferry_core.edhoc.credentials import by_kid, by_x5t, ccs
from keyferry_core.edhoc.initiator import Initiator
from keyferry_core.edhoc.party import FAILED
from keyferry_core.edhoc.responder import Responder
from keyferry_core.errors import StateError

_LABEL = 100
# Of a changed plaintext: with a tag and a head it still is a message that is looked into.
_LONGEST = messages.MAX_MESSAGE - 64
_EADS = (
    (),
    ((1, b"open"),),
    ((-_LABEL, bytes(range(32))),),
    ((-_LABEL, bytes(range(32))), (7, None)),
    ((7, b"last"),),
)
(
    _MESSAGE_1,
    _MESSAGE_2,
    _PLAINTEXT_2,
    _MESSAGE_3,
    _PLAINTEXT_3,
    _MESSAGE_4,
    _PLAINTEXT_4,
    _ERROR,
) = range(8)

_CALLS = (
    ("message_1", ()),
    ("read_message_1", (b"",)),
    ("message_2", (b"\x01",)),
    ("read_message_2", (b"",)),
    ("verify_message_2", (None,)),
    ("message_3", ()),
    ("read_message_3", (b"",)),
    ("verify_message_3", (None,)),
    ("message_4", ()),
    ("read_message_4", (b"",)),
    ("read_error", (b"",)),
    ("exporter", (0, b"", 16)),
    ("key_update", (b"",)),
)

_made = {}


def _parties(method: int) -> tuple:
    """Credential, private key and ephemeral key of both, the same in every run."""
    if method not in _made:
        backend = crypto(b"edhoc")
        found = []
        for name in ("panel-1", "pump-7"):
            private, public = backend.generate()
            if method == 0:
                credential = by_x5t(b"certificate of " + name.encode(), public)
            else:
                kid = sha256(public)[:8]
                credential = by_kid(ccs(name, kid, public), kid, public)
            found.append((credential, private, backend.generate()))
        _made[method] = found
    return _made[method]


def _assert_failed(party) -> None:
    assert party.state == FAILED
    assert not party.prk_out
    assert not party.prk_exporter
    assert party._private is None
    for name, arguments in _CALLS:
        call = getattr(party, name, None)
        if call is not None:
            try:
                call(*arguments)
            except StateError:
                continue
            raise AssertionError(name + " goes on after a failure")
    assert party.state == FAILED


def _refused(party, error) -> None:
    """What a failure says to the peer is an error message, and the run is over."""
    assert attempt(messages.parse_error, error.message)[0]
    _assert_failed(party)


def _run(data: bytes) -> None:
    source = Source(data)
    first = source.byte()
    method = 3 if first & 1 else 0
    suite = 3 if first & 2 else 2
    step = first >> 2 & 7
    backend = crypto(b"run")
    i, r = _parties(method)
    initiator = Initiator(
        backend, i[0], i[1], method, (suite,), b"\x0a", known_eads=(_LABEL,), ephemeral=i[2]
    )
    responder = Responder(
        backend, r[0], r[1], (method,), (3, 2), known_eads=(_LABEL,), ephemeral=r[2]
    )
    message_1 = initiator.message_1(_EADS[1])
    sent = edit(message_1, source) if step == _MESSAGE_1 else message_1
    good, result = attempt(responder.read_message_1, sent)
    if not good:
        assert sent != message_1
        _refused(responder, result)
        return
    # a key that is no point of the curve shows only now
    good, message_2 = attempt(responder.message_2, b"\x0b", _EADS[2])
    if not good:
        assert sent != message_1
        _assert_failed(responder)
        return
    same = sent == message_1
    if step == _ERROR and first & 32:
        _error(initiator, source)
        return

    body = cbor.decode(message_2)
    if step == _MESSAGE_2:
        received = edit(message_2, source)
    elif step == _PLAINTEXT_2:
        inner = edit(responder._crypt_2(body[32:]), source)[:_LONGEST]
        received = cbor.encode(body[:32] + responder._crypt_2(inner))
    else:
        received = message_2
    same = same and received == message_2
    good, result = attempt(initiator.read_message_2, received)
    if good:
        assert initiator.state == "authenticate_responder"
        assert not initiator.prk_out
        good, result = attempt(initiator.verify_message_2, r[0])
    if not good:
        assert not same
        _refused(initiator, result)
        return
    assert same  # message_1 and message_2 are in the transcript

    message_3 = initiator.message_3(_EADS[3])
    if step == _ERROR:
        _error(responder, source)
        return
    if step == _MESSAGE_3:
        received = edit(message_3, source)
    elif step == _PLAINTEXT_3:
        key, iv, aad = responder._aead_keys(responder._prk_3e2m, 3, responder._th_3)
        inner = backend.open(responder._aead, key, iv, aad, cbor.decode(message_3))
        inner = edit(inner, source)[:_LONGEST]
        received = cbor.encode(backend.seal(responder._aead, key, iv, aad, inner))
    else:
        received = message_3
    same = received == message_3
    good, result = attempt(responder.read_message_3, received)
    if good:
        assert not responder.prk_out
        good, result = attempt(responder.verify_message_3, i[0])
    if not good:
        assert not same
        _refused(responder, result)
        return
    assert same
    assert initiator.prk_out == responder.prk_out

    if step == _PLAINTEXT_4:  # a peer with the keys may say what it likes here
        key, iv, aad = responder._aead_keys(responder._prk_4e3m, 8, responder._th_4)
        inner = edit(messages.encode_ead(_EADS[4]), source)[:_LONGEST]
        received = cbor.encode(backend.seal(responder._aead, key, iv, aad, inner))
    else:
        message_4 = responder.message_4(_EADS[4])
        received = edit(message_4, source) if step == _MESSAGE_4 else message_4
        same = received == message_4
    good, result = attempt(initiator.read_message_4, received)
    if not good:
        assert step == _PLAINTEXT_4 or not same
        _refused(initiator, result)
        return
    assert step == _PLAINTEXT_4 or same
    assert initiator.state == "completed"
    for label, value in result:
        assert label != 0
        assert value is None or isinstance(value, bytes)
    assert initiator.exporter(0, b"", 16) == responder.exporter(0, b"", 16)


def _error(party, source: Source) -> None:
    """An error message, good or bad, ends the run."""
    good, result = attempt(party.read_error, edit(b"\x02\x82\x02\x03", source))
    if good:
        assert not isinstance(result[0], bool)
        assert isinstance(result[0], int)
        _assert_failed(party)
    else:
        _refused(party, result)


def decode(data: bytes) -> object:
    return _run(data)


def one_input(data: bytes) -> None:
    _run(data)


def seeds() -> list:
    found = []
    for choice in range(64):
        found.append(bytes((choice, 0)))
        if choice < 32 or choice >> 2 & 7 == _ERROR:
            # flip a bit, put a critical item in, cut short, each late and early
            found.append(bytes((choice, 1, 0, 0, 20, 1)))
            found.append(bytes((choice, 1, 2, 0, 40, 4, 0x38, 0x63, 0x41, 0)))
            found.append(bytes((choice, 1, 4, 0, 30)))
            found.append(bytes((choice, 1, 6, 0, 6, 0x20, 0x48, 1, 2, 3, 4)))
    return found
