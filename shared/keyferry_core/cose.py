"""The structures of COSE that EDHOC and records sign and encrypt (RFC 9052).

EDHOC and OSCORE use COSE's algorithms without its envelope on the wire, so only what goes under a
signature or a tag is built here.
"""

from keyferry_core import cbor


def sig_structure(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    """``Sig_structure`` of COSE_Sign1: the bytes that are signed (RFC 9052, section 4.4)."""
    return cbor.encode(["Signature1", protected, external_aad, payload])


def enc_structure(protected: bytes, external_aad: bytes) -> bytes:
    """``Enc_structure`` of COSE_Encrypt0: the AEAD's additional data (RFC 9052, section 5.3)."""
    return cbor.encode(["Encrypt0", protected, external_aad])
