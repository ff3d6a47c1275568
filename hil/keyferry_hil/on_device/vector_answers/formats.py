"""Questions about CBOR, COSE and OSCORE's derivation."""

import os

from keyferry_core import cbor, cose, cose_message, records, suite
from keyferry_core.iana import AES_CCM_16_64_128

_KEY_LENGTH = 16
_IV_LENGTH = 13


def do_cbor(data: bytes) -> list:
    """``[the value encoded again, the value in diagnostic notation]``."""
    value = cbor.decode(data)
    return [cbor.encode(value), _diagnostic(value)]


def _diagnostic(value: object) -> str:
    """RFC 8949, section 8, as far as the subset goes; texts without escapes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return "h'" + value.hex() + "'"
    if isinstance(value, str):
        return '"' + value + '"'
    if isinstance(value, list):
        return "[" + ", ".join([_diagnostic(item) for item in value]) + "]"
    if isinstance(value, dict):
        # MicroPython's dicts keep no order, so: the order of the encoding
        pairs = [(cbor.encode(key), key) for key in value]
        pairs.sort(key=lambda pair: pair[0])
        return "{" + ", ".join([_pair(key, value[key]) for _, key in pairs]) + "}"
    if isinstance(value, cbor.Tag):
        return str(value.tag) + "(" + _diagnostic(value.value) + ")"
    return str(value)


def _pair(key: object, value: object) -> str:
    return _diagnostic(key) + ": " + _diagnostic(value)


def do_cose_sign1(public: bytes, message: bytes, external: bytes) -> list:
    """``[payload, what was signed]`` of a COSE_Sign1 that verifies."""
    crypto = suite.Crypto(os.urandom)
    payload, _ = cose_message.verify1(crypto, public, message, external)
    return [payload, cose_message.parse_sign1(message, external)[2]]


def do_cose_encrypt0(key: bytes, message: bytes, external: bytes) -> list:
    """``[plaintext, what the tag covers besides]`` of a COSE_Encrypt0."""
    plaintext = cose_message.decrypt0(suite.Crypto(os.urandom), key, message, external)
    items = cbor.decode(message)
    items = items.value if isinstance(items, cbor.Tag) else items
    protected = b"" if items[0] == b"\xa0" else items[0]
    return [plaintext, cose.enc_structure(protected, external)]


def do_oscore_context(secret: bytes, salt: bytes, id_context, sender: bytes, recipient: bytes):
    """What RFC 8613, section 3.2.1, derives, and the nonces for Partial IV 0, by name."""
    alg = AES_CCM_16_64_128

    def derive(identifier: bytes, kind: str, length: int) -> bytes:
        return records.oscore_derive(secret, salt, identifier, id_context, alg, kind, length)

    def info(identifier: bytes, kind: str, length: int) -> bytes:
        return cbor.encode([identifier, id_context, alg, kind, length])

    common_iv = derive(b"", "IV", _IV_LENGTH)
    return {
        "info_for_sender_key": info(sender, "Key", _KEY_LENGTH),
        "info_for_recipient_key": info(recipient, "Key", _KEY_LENGTH),
        "info_for_common_iv": info(b"", "IV", _IV_LENGTH),
        "sender_key": derive(sender, "Key", _KEY_LENGTH),
        "recipient_key": derive(recipient, "Key", _KEY_LENGTH),
        "common_iv": common_iv,
        "sender_nonce": records.nonce_base(sender, common_iv).to_bytes(_IV_LENGTH, "big"),
        "recipient_nonce": records.nonce_base(recipient, common_iv).to_bytes(_IV_LENGTH, "big"),
    }


def do_oscore_message(
    key: bytes, common_iv: bytes, identifier: bytes, number: int, aad_array: bytes, plaintext: bytes
):
    """Nonce, additional data and ciphertext of a message (RFC 8613, sections 5.2 to 5.4)."""
    crypto = suite.Crypto(os.urandom)
    nonce = (records.nonce_base(identifier, common_iv) ^ number).to_bytes(_IV_LENGTH, "big")
    aad = cose.enc_structure(b"", aad_array)
    ciphertext = crypto.seal(AES_CCM_16_64_128, key, nonce, aad, plaintext)
    opened = crypto.open(AES_CCM_16_64_128, key, nonce, aad, ciphertext)
    return {
        "kid": identifier,
        "encryption_key": key,
        "nonce": nonce,
        "aad": aad,
        "ciphertext": ciphertext,
        "plaintext": opened,
    }
