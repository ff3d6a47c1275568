"""The structures of COSE that EDHOC and records sign and encrypt (RFC 9052).

EDHOC and OSCORE use COSE's algorithms without its envelope on the wire, so only what goes under a
signature or a tag is built here.
"""

from keyferry_core import cbor


def sig_structure(protected: bytes, external_aad: bytes | tuple, payload: bytes) -> bytes:
    """``Sig_structure`` of COSE_Sign1: the bytes that are signed (RFC 9052, section 4.4).

    ``external_aad`` may come in parts: with a certificate in it, one copy of it is enough.
    """
    parts = external_aad if isinstance(external_aad, tuple) else (external_aad,)
    length = 0
    for part in parts:
        length += len(part)
    # an array of four, the text "Signature1"
    head = (b"\x84\x6aSignature1", cbor.encode(protected), cbor.bytes_head(length))
    return b"".join(head + parts + (cbor.encode(payload),))


def enc_structure(protected: bytes, external_aad: bytes) -> bytes:
    """``Enc_structure`` of COSE_Encrypt0: the AEAD's additional data (RFC 9052, section 5.3)."""
    return cbor.encode(["Encrypt0", protected, external_aad])
