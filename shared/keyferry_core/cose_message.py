"""COSE_Sign1 and COSE_Encrypt0 as whole messages (RFC 9052, sections 4.2 and 5.2).

One algorithm for signatures, ES256 unless the caller names another, two for encryption
(AES-CCM-16-64-128 and -128-128); the caller's key decides which is meant, the header can only
agree. Messages are taken with their CBOR tag or without it, since the context says what they are.
"""

from keyferry_core import cbor
from keyferry_core.cose import enc_structure, sig_structure
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.iana import (
    AES_CCM_16_64_128,
    AES_CCM_16_128_128,
    COSE_ENCRYPT0_TAG,
    COSE_SIGN1_TAG,
    ES256,
    HEADER_ALG,
    HEADER_CRIT,
    HEADER_IV,
)

NONCE_LENGTH = 13


def _encode_header(header: dict) -> bytes:
    # an empty protected header is zero bytes, not an empty map (section 3)
    return cbor.encode(header) if header else b""


def _open(data: bytes, tag: int, length: int, what: str) -> tuple[list, dict, dict, bytes]:
    """The items of a message, both headers, and the protected one as it enters a structure."""
    value = cbor.decode(data)
    if isinstance(value, cbor.Tag):
        if value.tag != tag:
            raise DecodeError(what + ": another CBOR tag")
        value = value.value
    if not isinstance(value, list) or len(value) != length:
        raise DecodeError(what + ": wrong number of items")
    encoded, unprotected = value[0], value[1]
    if not isinstance(encoded, bytes) or not isinstance(unprotected, dict):
        raise DecodeError(what + ": headers are a byte string and a map")
    protected = cbor.decode(encoded) if encoded else {}
    if not isinstance(protected, dict):
        raise DecodeError(what + ": the protected header is a map")
    for label in protected:
        if label in unprotected:
            raise DecodeError(what + ": a label in both headers")
    if HEADER_CRIT in protected or HEADER_CRIT in unprotected:
        raise DecodeError(what + ": critical headers are not known here", "unsupported")
    return value, protected, unprotected, encoded if protected else b""


def _algorithm(protected: dict, unprotected: dict, what: str) -> int:
    alg = protected.get(HEADER_ALG, unprotected.get(HEADER_ALG))
    if isinstance(alg, bool) or not isinstance(alg, int):
        raise DecodeError(what + ": no algorithm that is known here", "unsupported")
    return alg


def sign1(
    crypto,
    private,
    payload: bytes,
    external_aad: bytes = b"",
    header: dict | None = None,
    alg: int = ES256,
) -> bytes:
    """``payload`` signed, as a tagged COSE_Sign1. ``header``: more protected labels.

    ``alg``: what ``crypto.sign`` does.
    """
    protected = {HEADER_ALG: alg}
    if header:
        protected.update(header)
    encoded = _encode_header(protected)
    signature = crypto.sign(private, sig_structure(encoded, external_aad, payload))
    return cbor.encode(cbor.Tag(COSE_SIGN1_TAG, [encoded, {}, payload, signature]))


def parse_sign1(
    data: bytes, external_aad: bytes = b"", alg: int = ES256
) -> tuple[bytes, dict, bytes, bytes]:
    """``(payload, protected header, what is signed, signature)`` of a COSE_Sign1 with ``alg``.

    Nothing has been verified. DecodeError for anything else.
    """
    items, protected, unprotected, encoded = _open(data, COSE_SIGN1_TAG, 4, "sign1")
    payload, signature = items[2], items[3]
    if not isinstance(payload, bytes) or not isinstance(signature, bytes):
        raise DecodeError("sign1: payload and signature are byte strings")
    if _algorithm(protected, unprotected, "sign1") != alg:
        raise DecodeError("sign1: another algorithm", "unsupported")
    return payload, protected, sig_structure(encoded, external_aad, payload), signature


def verify1(crypto, public: bytes, data: bytes, external_aad: bytes = b"") -> tuple[bytes, dict]:
    """``(payload, protected header)`` of a COSE_Sign1 by the 65-byte key ``public``.

    DecodeError: not a COSE_Sign1 with ES256. AuthenticationError: the signature does not verify.
    """
    payload, protected, signed, signature = parse_sign1(data, external_aad)
    if not crypto.verify(public, signed, signature):
        raise AuthenticationError("sign1: the signature does not verify")
    return payload, protected


def encrypt0(
    crypto, alg: int, key: bytes, nonce: bytes, plaintext: bytes, external_aad: bytes = b""
) -> bytes:
    """A tagged COSE_Encrypt0; ``nonce``, 13 bytes, goes into the unprotected header.

    A nonce must never be used twice with one key.
    """
    encoded = _encode_header({HEADER_ALG: alg})
    ciphertext = crypto.seal(alg, key, nonce, enc_structure(encoded, external_aad), plaintext)
    return cbor.encode(cbor.Tag(COSE_ENCRYPT0_TAG, [encoded, {HEADER_IV: nonce}, ciphertext]))


def decrypt0(crypto, key: bytes, data: bytes, external_aad: bytes = b"") -> bytes:
    """The plaintext of a COSE_Encrypt0 under a 16-byte key.

    DecodeError: not a COSE_Encrypt0 of a known kind. AuthenticationError: the tag is wrong.
    """
    items, protected, unprotected, encoded = _open(data, COSE_ENCRYPT0_TAG, 3, "encrypt0")
    alg = _algorithm(protected, unprotected, "encrypt0")
    if alg not in (AES_CCM_16_64_128, AES_CCM_16_128_128):
        raise DecodeError("encrypt0: this algorithm is not known here", "unsupported")
    nonce = protected.get(HEADER_IV, unprotected.get(HEADER_IV))
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_LENGTH:
        raise DecodeError("encrypt0: the nonce is 13 bytes")
    if not isinstance(items[2], bytes):
        raise DecodeError("encrypt0: the ciphertext is a byte string")
    return crypto.open(alg, key, nonce, enc_structure(encoded, external_aad), items[2])
