"""Bytes of EDHOC's messages: as measured, and as the standards and others state them."""

import os
from dataclasses import dataclass

from keyferry_core.edhoc.credentials import Credential, by_kid, by_x5t, ccs
from keyferry_core.edhoc.initiator import Initiator
from keyferry_core.edhoc.responder import Responder
from keyferry_core.iana import METHOD_SIGN_SIGN, METHOD_STATIC_STATIC
from keyferry_core.suite_cryptography import CryptographyCrypto


@dataclass(frozen=True)
class Exchange:
    """One way to authenticate; ``stated``: message_1, message_2 and message_3 in bytes."""

    name: str
    method: int
    suite: int
    kid: int  # bytes of kid; 0: a certificate, by x5t
    stated: tuple[int, int, int]


# RFC 9528 states 37, 45 and 19 for static Diffie-Hellman with a kid of one byte (table 1 of its
# section 1.2); the others follow from its message formats for longer identifiers, MACs and
# signatures.
EXCHANGES = (
    Exchange("method 3, kid of 1 byte, suite 2", METHOD_STATIC_STATIC, 2, 1, (37, 45, 19)),
    Exchange("method 3, kid of 8 bytes, suite 2", METHOD_STATIC_STATIC, 2, 8, (37, 53, 28)),
    Exchange("method 3, kid of 8 bytes, suite 3", METHOD_STATIC_STATIC, 3, 8, (37, 61, 44)),
    Exchange("method 0, x5t, suite 2", METHOD_SIGN_SIGN, 2, 0, (37, 115, 90)),
    Exchange("method 0, x5t, suite 3", METHOD_SIGN_SIGN, 3, 0, (37, 115, 98)),
)
# The same job by others, bytes in all (draft-ietf-iotops-security-protocol-comparison).
OTHERS = {"TLS 1.3, raw public keys": 789, "DTLS 1.3, raw public keys": 880}


def measure(exchange: Exchange) -> tuple[int, int, int]:
    """Run the exchange, and the lengths of its three messages."""
    crypto = CryptographyCrypto(os.urandom)

    def party(number: int) -> tuple[bytes, Credential]:
        private, public = crypto.generate()
        if exchange.kid:
            kid = bytes([number]) * exchange.kid
            return private, by_kid(ccs("panel-1", kid, public), kid, public)
        return private, by_x5t(os.urandom(400), public)

    (private_i, own_i), (private_r, own_r) = party(1), party(2)
    initiator = Initiator(crypto, own_i, private_i, exchange.method, (exchange.suite,))
    responder = Responder(crypto, own_r, private_r, (exchange.method,), (exchange.suite,))
    message_1 = initiator.message_1()
    responder.read_message_1(message_1)
    message_2 = responder.message_2(b"\x01")
    initiator.read_message_2(message_2)
    initiator.verify_message_2(own_r)
    message_3 = initiator.message_3()
    responder.read_message_3(message_3)
    responder.verify_message_3(own_i)
    return len(message_1), len(message_2), len(message_3)
