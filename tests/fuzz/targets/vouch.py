"""What a manager delivers under a peer's key: nothing but a signature lets a key in.

Input: a choice (bit 0: an owner's endorsement or a chain of successions; bit 1: the body is signed
by the right key; the rest: which key is pinned), then bytes.
"""

from fuzz.kit import attempt, crypto
from keyferry_core import cbor, owner, pinned
from keyferry_core.cose_message import parse_sign1, sign1

_CRYPTO = crypto(b"vouch")
_REALM, _NAME, _NOW = "plant.example", "pump-7", 1800000000
_OWNER = _CRYPTO.generate()
_KEYS = [_CRYPTO.generate() for _ in range(3)]
_STRANGER = _CRYPTO.generate()
_ENDORSED = owner.endorse(_CRYPTO, _OWNER[0], _REALM, _NAME, _KEYS[2][1])
_CHAIN = b""
for _i in (1, 2):
    _before, _signer = _KEYS[_i - 1]
    _CHAIN = pinned.succeed(_CRYPTO, _before, _signer, _REALM, _NAME, _KEYS[_i][1], _CHAIN)


def decode(data: bytes) -> tuple:
    if data[:1] and data[0] & 1:
        return attempt(owner.parse, data[1:])
    return attempt(pinned.last_key, data[1:])


def _owned(body: bytes, own: bool) -> None:
    if own:  # the owner may sign what it likes
        body = sign1(_CRYPTO, _OWNER[0], body[: owner.MAX_ENDORSEMENT], owner._CONTEXT)
    good, found = attempt(owner.parse, body)
    judge = owner.Owner(_CRYPTO, _REALM, _OWNER[1])
    let_in, _ = attempt(judge.judge, _NAME, _KEYS[2][1], body, _NOW)
    assert good or not let_in
    if good:
        assert len(body) <= owner.MAX_ENDORSEMENT
        assert len(found[2]) == 65
    if let_in:
        assert found[:3] == (_REALM, _NAME, _KEYS[2][1])
        assert own or parse_sign1(body)[0] == parse_sign1(_ENDORSED)[0]
    assert not attempt(judge.judge, _NAME, _STRANGER[1], body, _NOW)[0] or own


def _followed(body: bytes, own: bool, known: int) -> None:
    if own:  # the device may sign what it likes
        context = pinned._context(_REALM, _NAME, _KEYS[1][1])
        signed = sign1(_CRYPTO, _KEYS[1][0], body[:100], context)
        body = cbor.encode([cbor.decode(_CHAIN)[0], signed])
    good, last = attempt(pinned.last_key, body)
    pins = {_NAME: _KEYS[known][1]}
    judge = pinned.Pinned(_CRYPTO, _REALM, pins, 2)
    for public in (_KEYS[2][1], _STRANGER[1], _KEYS[0][1]):
        let_in, pin = attempt(judge.judge, _NAME, public, body, _NOW)
        if public == pins[_NAME]:
            assert let_in
            assert pin is None
        elif let_in:
            # a chain that leads there, of which at most what came before the pinned key is changed
            assert good
            assert last == public
            assert own or public == _KEYS[2][1]
            assert known < 2
            assert pin == (_NAME, pins[_NAME], public)
            assert [parse_sign1(item)[0] for item in cbor.decode(body)][-1] == public
    assert pins == {_NAME: _KEYS[known][1]}
    # it can be gone on from, or is refused
    more = attempt(pinned.succeed, _CRYPTO, *_KEYS[2], _REALM, _NAME, _STRANGER[1], body)
    if more[0]:
        assert len(cbor.decode(more[1])) <= pinned.MAX_SUCCESSIONS
    less = attempt(pinned.without_last, body)
    assert less[0] == more[0] or not body


def one_input(data: bytes) -> None:
    choice, body = (data[0], data[1:]) if data else (0, b"")
    if choice & 1:
        _owned(body, bool(choice & 2))
    else:
        _followed(body, bool(choice & 2), (choice >> 2) % 3)


def seeds() -> list:
    found = [b"\x01" + _ENDORSED, b"\x03" + parse_sign1(_ENDORSED)[0]]
    for known in range(3):
        found.append(bytes([known << 2]) + _CHAIN)
        found.append(bytes([known << 2 | 2]) + _KEYS[2][1])
    return found
