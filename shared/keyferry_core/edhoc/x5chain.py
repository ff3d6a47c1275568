"""Certificates that travel in ID_CRED_x itself, as x5chain (RFC 9360, section 2).

For peers whose certificate the manager cannot deliver: 550 to 1100 bytes more in message_2 and
message_3. A chain is the device's certificate, alone or with its issuing CA's, and nothing longer.
"""

from keyferry_core import cbor
from keyferry_core.edhoc.credentials import Credential
from keyferry_core.errors import DecodeError, LocalError
from keyferry_core.iana import X5CHAIN

MAX_CHAIN = 2
# Bytes of one certificate; two of them still fit into a message.
MAX_CERTIFICATE = 900
# How the ID_CRED_x map with this one label begins, in the one encoding that it has.
START = b"\xa1\x18\x21"


def by_x5chain(chain: tuple | list, public: bytes) -> Credential:
    """The credential of a device's DER certificate ``chain[0]`` with its 65-byte public key.

    CRED_x is that certificate alone (RFC 9528, section 3.5.2). LocalError for a chain that a peer
    would refuse.
    """
    if not 0 < len(chain) <= MAX_CHAIN:
        raise LocalError("bad-argument", "x5chain: one certificate, or with its issuing CA's")
    for certificate in chain:
        if not 0 < len(certificate) <= MAX_CERTIFICATE:
            raise LocalError("too-large", "x5chain: a certificate has at most 900 bytes")
    value = chain[0] if len(chain) == 1 else list(chain)
    return Credential(cbor.encode({X5CHAIN: value}), cbor.encode(chain[0]), public)


def certificates(id_cred: bytes) -> list:
    """The DER certificates of an ID_CRED_x that begins with START, the device's first; unverified.

    DecodeError for anything but one certificate, or a list of two.
    """
    value = cbor.decode(id_cred)
    value = value[X5CHAIN] if isinstance(value, dict) and len(value) == 1 else None
    # a list of one is not in RFC 9360: there the certificate stands for itself
    chain = value if isinstance(value, list) and len(value) == MAX_CHAIN else [value]
    for certificate in chain:
        if not isinstance(certificate, bytes) or not 0 < len(certificate) <= MAX_CERTIFICATE:
            raise DecodeError("x5chain: one certificate, or with its issuing CA's")
    return chain
