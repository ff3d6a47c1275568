"""A certificate request (PKCS#10, RFC 2986) and the private key's own file format (RFC 5915)."""

from keyferry_core import der, names
from keyferry_core.errors import DecodeError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from keyferry_core.suite import Crypto

# Contents up to their value: the common name (2.5.4.3), the extensionRequest attribute
# (1.2.840.113549.1.9.14, RFC 2985, section 5.4.2), the subject alternative name (2.5.29.17).
_COMMON_NAME = b"\x06\x03\x55\x04\x03"
_EXTENSION_REQUEST = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e"
_ALTERNATIVE_NAME = b"\x06\x03\x55\x1d\x11"

# ECPrivateKey with its curve and public key has fixed lengths, so one layout of 121 bytes:
# _KEY_START, the private key, _KEY_MIDDLE, the public key.
_KEY_START = b"\x30\x77\x02\x01\x01\x04\x20"
_KEY_MIDDLE = b"\xa0\x0a" + der.P256 + b"\xa1\x44\x03\x42\x00"
_KEY_LENGTH = 121


def certificate_request(
    crypto: "Crypto", private: bytes, public: bytes, name: str, realm: str
) -> bytes:
    """A CertificationRequest, DER, for device ``name`` of ``realm``, signed by its own key.

    ``private``: 32 bytes; ``public``: 65 bytes, 04 || x || y. It asks for the common name ``name``
    and the identity URI. An authority is free to decide otherwise. About 300 bytes.
    """
    wrap = der.wrap
    uri = names.identity(name, realm).encode()
    subject = wrap(der.SEQUENCE, _COMMON_NAME, wrap(der.UTF8_STRING, name.encode()))
    alternative = wrap(der.SEQUENCE, wrap(0x86, uri))
    extension = wrap(der.SEQUENCE, _ALTERNATIVE_NAME, wrap(der.OCTET_STRING, alternative))
    wanted = wrap(der.SET, wrap(der.SEQUENCE, extension))
    info = wrap(
        der.SEQUENCE,
        b"\x02\x01\x00",  # version 1
        wrap(der.SEQUENCE, wrap(der.SET, subject)),
        der.public_key_info(public),
        wrap(0xA0, wrap(der.SEQUENCE, _EXTENSION_REQUEST, wanted)),
    )
    signature = der.encode_signature(crypto.sign(private, info))
    return wrap(der.SEQUENCE, info, der.ECDSA_SHA256, wrap(der.BIT_STRING, b"\x00", signature))


def private_key_der(private: bytes, public: bytes) -> bytes:
    """ECPrivateKey (RFC 5915, section 3), 121 bytes: what TLS on a device loads.

    ``private``: 32 bytes; ``public``: 65 bytes, 04 || x || y, of the same key.
    """
    if len(private) != 32 or len(public) != 65:
        raise LocalError("bad-argument", "key: 32 and 65 bytes are needed")
    return _KEY_START + private + _KEY_MIDDLE + public


def parse_private_key(encoded: bytes) -> tuple[bytes, bytes]:
    """``(private, public)`` of an ECPrivateKey on P-256 that has its curve and its public key.

    The one layout that ``private_key_der`` writes, as OpenSSL does; DecodeError for all others,
    and never with bytes of the key in it. That both belong together is not checked here.
    """
    middle = len(_KEY_START) + 32
    public = middle + len(_KEY_MIDDLE)
    if (
        len(encoded) != _KEY_LENGTH
        or encoded[: len(_KEY_START)] != _KEY_START
        or encoded[middle:public] != _KEY_MIDDLE
        or encoded[public] != 4
    ):
        raise DecodeError("key: not a P-256 ECPrivateKey with its public key")
    return bytes(encoded[len(_KEY_START) : middle]), bytes(encoded[public:])
