"""The profile ``rpk``: a raw public key for static Diffie-Hellman, endorsed by a certificate's key.

One key must not both sign and agree (RFC 9528, section 9.2), so a device has a second key for
agreement. Its claims set (CCS) names the device; the certificate's key signs the CCS once, as a
COSE_Sign1. Whoever trusts the certificate then trusts the small credential too.
"""

from keyferry_core import cbor
from keyferry_core._compat import sha256
from keyferry_core.cose_message import parse_sign1, sign1
from keyferry_core.edhoc.credentials import Credential, by_kid, ccs
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.iana import CNF_COSE_KEY, CWT_CNF, CWT_SUB, KEY_X, KEY_Y
from keyferry_core.names import check_name

KID_LENGTH = 8
# Bytes of an endorsed key at most: COSE_Sign1, CCS and a name of 63 characters.
MAX_ENDORSED = 280
# external_aad of the signature, so that it can serve for nothing else.
_CONTEXT = b"keyferry rpk"


def key_id(public: bytes) -> bytes:
    """The kid of an agreement key: 8 bytes of SHA-256 over its 65 bytes."""
    return sha256(public)[:KID_LENGTH]


def endorse(crypto, private: bytes, name: str, public: bytes) -> bytes:
    """The agreement key ``public`` of the device ``name``, signed by its certificate's key."""
    return sign1(crypto, private, ccs(check_name(name), key_id(public), public), _CONTEXT)


def credential(name: str, public: bytes) -> Credential:
    """EDHOC's credential for an agreement key: its CCS, referred to by kid."""
    kid = key_id(public)
    return by_kid(ccs(name, kid, public), kid, public)


def parse_endorsed(endorsed: bytes) -> tuple[str, Credential, bytes, bytes]:
    """``(name, credential, what is signed, signature)`` of an endorsed key, none of it verified.

    DecodeError for anything but what ``endorse`` makes. Whether the key is a point of the curve
    is checked where it is used.
    """
    if len(endorsed) > MAX_ENDORSED:
        raise DecodeError("rpk: too long", "too-large")
    claims, _, signed, signature = parse_sign1(endorsed, _CONTEXT)
    value = cbor.decode(claims)
    try:
        name = check_name(value[CWT_SUB])
        key = value[CWT_CNF][CNF_COSE_KEY]
        public = b"\x04" + key[KEY_X] + key[KEY_Y]
    except (TypeError, KeyError, IndexError):
        raise DecodeError("rpk: not a claims set with a key") from None
    found = credential(name, public)
    # there is one encoding of a name and a key, so nothing else can hide in the claims
    if found.cred != claims:
        raise DecodeError("rpk: the claims set has more or other claims")
    return name, found, signed, signature


def open_endorsed(crypto, signer: bytes, endorsed: bytes) -> tuple[str, Credential]:
    """``(name, credential)`` of a key that the certificate's 65-byte key ``signer`` endorsed.

    DecodeError, or AuthenticationError when another key signed.
    """
    name, found, signed, signature = parse_endorsed(endorsed)
    if not crypto.verify(signer, signed, signature):
        raise AuthenticationError("rpk: not endorsed by the certificate's key")
    return name, found
