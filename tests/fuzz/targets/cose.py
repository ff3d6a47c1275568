"""COSE messages: nobody but the key's holder can make one that is believed.

Input: a choice, then the message.
"""

from fuzz.kit import attempt, crypto
from keyferry_core import cbor, cose_message
from keyferry_core.iana import AES_CCM_16_64_128, AES_CCM_16_128_128

_CRYPTO = crypto(b"cose")
_PRIVATE, _PUBLIC = _CRYPTO.generate()
_KEY = bytes(range(16))
_NONCE = bytes(13)
_AAD = b"fuzz"
_PAYLOADS = (b"", b"This is the content.", bytes(300))
_SIGNED = [cose_message.sign1(_CRYPTO, _PRIVATE, payload, _AAD) for payload in _PAYLOADS]
_SEALED = [
    cose_message.encrypt0(_CRYPTO, alg, _KEY, _NONCE, payload, _AAD)
    for payload in _PAYLOADS
    for alg in (AES_CCM_16_64_128, AES_CCM_16_128_128)
]


def decode(data: bytes) -> tuple:
    if data[:1] and data[0] & 1:
        return attempt(cose_message.decrypt0, _CRYPTO, _KEY, data[1:], _AAD)
    return attempt(cose_message.parse_sign1, data[1:], _AAD)


def one_input(data: bytes) -> None:
    good, found = decode(data)
    if not good:
        return
    if data[0] & 1:
        assert found in _PAYLOADS
        return
    payload, protected, signed, signature = found
    items: object = cbor.decode(data[1:])
    if isinstance(items, cbor.Tag):
        items = items.value
    assert isinstance(items, list)
    assert items[2] == payload
    assert items[3] == signature
    assert not protected or cbor.encode(protected) == items[0]
    kind, header, external, content = cbor.decode(signed)
    assert (kind, external, content) == ("Signature1", _AAD, payload)
    assert header == items[0] or not protected
    for label in protected:
        assert label not in items[1]
    verified, result = attempt(cose_message.verify1, _CRYPTO, _PUBLIC, data[1:], _AAD)
    if verified:
        assert result == (payload, protected)
        assert payload in _PAYLOADS


def seeds() -> list:
    from support.portable import vectors

    found = [b"\x00" + data for data in _SIGNED] + [b"\x01" + data for data in _SEALED]
    twice = cbor.decode(_SIGNED[1])
    twice.value[1] = {1: -7}  # the algorithm in both headers
    found.append(b"\x00" + cbor.encode(twice))
    twice.value[0] = b""  # and in the one that is not signed
    found.append(b"\x00" + cbor.encode(twice))
    for case in vectors("cose_wg_subset")["examples"].values():
        message = bytes.fromhex(case["output"]["cbor"])
        found += [b"\x00" + message, b"\x01" + message]
    return found
