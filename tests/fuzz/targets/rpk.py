"""Endorsed keys: nobody but the certificate's key can make one, and nothing hides in its claims.

Input: a choice (odd: the claims alone, which are then signed by the right key), then bytes.
"""

from fuzz.kit import attempt, crypto
from keyferry_core import cbor, rpk
from keyferry_core.cose_message import parse_sign1, sign1
from keyferry_core.names import check_name

_CRYPTO = crypto(b"rpk")
_PRIVATE, _SIGNER = _CRYPTO.generate()
_, _AGREEMENT = _CRYPTO.generate()
_NAMES = ("pump-7", "a")
_ENDORSED = [rpk.endorse(_CRYPTO, _PRIVATE, name, _AGREEMENT) for name in _NAMES]


def decode(data: bytes) -> tuple:
    return attempt(rpk.parse_endorsed, data[1:])


def one_input(data: bytes) -> None:
    body = data[1:]
    own = bool(data[:1] and data[0] & 1)
    if own:  # a device that may sign what it likes
        body = sign1(_CRYPTO, _PRIVATE, body[: rpk.MAX_ENDORSED], rpk._CONTEXT)
    good, found = attempt(rpk.parse_endorsed, body)
    opened, result = attempt(rpk.open_endorsed, _CRYPTO, _SIGNER, body)
    assert good or not opened
    if not good:
        return
    name, credential, _, signature = found
    assert check_name(name) == name
    assert len(body) <= rpk.MAX_ENDORSED
    assert len(signature) == 64 or not opened
    # the credential is whole: its claims have one encoding, its key the size of a key
    assert len(credential.public) == 65
    assert parse_sign1(body, rpk._CONTEXT)[0] == credential.cred
    assert sorted(cbor.decode(credential.cred)) == [2, 8]
    assert credential.id_cred == cbor.encode({4: rpk.key_id(credential.public)})
    assert opened or not own
    if opened:
        assert result[0] == name
        assert result[1].cred == credential.cred
        assert own or name in _NAMES


def seeds() -> list:
    found = [b"\x00" + endorsed for endorsed in _ENDORSED]
    for name in _NAMES:
        found.append(b"\x01" + rpk.credential(name, _AGREEMENT).cred)
    return found
