"""What a party authenticates with: CRED_x, ID_CRED_x and the public key in it (RFC 9528, 3.5)."""

from keyferry_core import cbor
from keyferry_core._compat import sha256
from keyferry_core.iana import (
    CNF_COSE_KEY,
    CRV_P256,
    CWT_CNF,
    CWT_SUB,
    KEY_CRV,
    KEY_KID,
    KEY_KTY,
    KEY_X,
    KEY_Y,
    KID,
    KTY_EC2,
    SHA_256_64,
    X5T,
)


class Credential:
    """One party's credential.

    ``id_cred``: the ID_CRED_x map's bytes. ``cred``: CRED_x as the CBOR item that enters the
    transcript. ``public``: the authentication key, 65 bytes, or 32 (x only) for static DH.
    """

    def __init__(self, id_cred: bytes, cred: bytes, public: bytes) -> None:
        self.id_cred = id_cred
        self.cred = cred
        self.public = public


def x5t(certificate: bytes) -> bytes:
    """ID_CRED_x that names a DER certificate by SHA-256/64: 14 bytes (RFC 9360)."""
    return cbor.encode({X5T: [SHA_256_64, sha256(certificate)[:8]]})


def by_x5t(certificate: bytes, public: bytes) -> Credential:
    """A certificate (DER), with its 65-byte public key, referred to by its hash."""
    return Credential(x5t(certificate), cbor.encode(certificate), public)


def ccs(subject: str, kid: bytes, public: bytes) -> bytes:
    """A CWT claims set for a raw 65-byte public key, as CBOR (RFC 9528, section 3.5.2)."""
    key = {KEY_KTY: KTY_EC2, KEY_KID: kid, KEY_CRV: CRV_P256, KEY_X: public[1:33]}
    key[KEY_Y] = public[33:]
    return cbor.encode({CWT_SUB: subject, CWT_CNF: {CNF_COSE_KEY: key}})


def by_kid(claims: bytes, kid: bytes, public: bytes) -> Credential:
    """A CCS (its CBOR bytes), with its public key, referred to by ``kid``."""
    return Credential(cbor.encode({KID: kid}), claims, public)
