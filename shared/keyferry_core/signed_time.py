"""The time, signed by the manager for one device's nonce: for boards whose clock was never set.

The answer is a COSE_Sign1 (RFC 9052) by the key of the manager's own certificate, whose
chain stands beside it. It is fetched without TLS, which needs the time before it can
check a date, so all that TLS would check is checked here, but for the dates: chain up to the
pinned root, the realm's name, the purpose. The certificate must hold at the time that it signs.
"""

from keyferry_core import cbor, x509
from keyferry_core._compat import equal
from keyferry_core.cose_message import parse_sign1, sign1
from keyferry_core.errors import AuthenticationError, DecodeError

NONCE_LENGTH = 16
# Bytes of an answer at most: two certificates and what is around them.
MAX_ANSWER = 4608
# external_aad of the signature, and the content type in its protected header: so that it can
# serve for nothing else, and nothing else that this key signs can serve as a time.
_CONTEXT = b"keyferry time 1"
_TYPE = "application/keyferry-time"
_HEADER_TYPE = 3
# Content of the object identifier of id-kp-serverAuth, 1.3.6.1.5.5.7.3.1.
_SERVER_AUTH = b"\x2b\x06\x01\x05\x05\x07\x03\x01"
# No time after the year 2099.
_LATEST = 4102444800


def answer(crypto, private: bytes, chain: list[bytes], realm: str, nonce: bytes, now: int) -> bytes:
    """The answer to ``nonce``, 16 bytes. ``chain``: DER of the signer and of its issuer."""
    payload = cbor.encode([realm, nonce, now])
    signed = sign1(crypto, private, payload, _CONTEXT, {_HEADER_TYPE: _TYPE})
    return cbor.encode([list(chain), signed])


def open_answer(crypto, root: bytes, realm: str, nonce: bytes, data: bytes) -> int:
    """The time that an answer says, Unix seconds, once all of it has been verified.

    ``root``: the realm's root certificate, DER. DecodeError; AuthenticationError, also for the
    answer to another nonce: a replay.
    """
    if len(data) > MAX_ANSWER:
        raise DecodeError("time: too long", "too-large")
    value = cbor.decode(data)
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], list):
        raise DecodeError("time: expected certificates and a COSE_Sign1")
    chain, message = value
    if len(chain) != 2 or not isinstance(message, bytes):
        raise DecodeError("time: expected two certificates and a COSE_Sign1")
    for encoded in chain:
        if not isinstance(encoded, bytes):
            raise DecodeError("time: a certificate is a byte string")
    payload, header, signed, signature = parse_sign1(message, _CONTEXT)
    if header.get(_HEADER_TYPE) != _TYPE:
        raise AuthenticationError("time: signed for something else")
    content = cbor.decode(payload)
    if not isinstance(content, list) or len(content) != 3:
        raise DecodeError("time: expected realm, nonce and time")
    named, echoed, now = content
    if isinstance(now, bool) or not isinstance(now, int) or not 0 < now < _LATEST:
        raise DecodeError("time: not a time")
    if not isinstance(named, str) or not isinstance(echoed, bytes):
        raise DecodeError("time: expected realm, nonce and time")
    if not equal(echoed, nonce):
        raise AuthenticationError("time: the answer to another question")
    if named != realm:
        raise AuthenticationError("time: of another realm")
    signer = _signer(crypto, root, realm, chain, now)
    if not crypto.verify(signer.public_key, signed, signature):
        raise AuthenticationError("time: the signature does not verify")
    return now


def _signer(crypto, root: bytes, realm: str, chain: list, now: int) -> x509.Certificate:
    """The manager's certificate, verified up to the root, with dates that hold at ``now``."""
    top = x509.parse(root)
    issuer = x509.parse(chain[1])
    leaf = x509.parse(chain[0])
    for certificate in (top, issuer, leaf):
        x509.check_dates(certificate, now)
    if issuer.raw != top.raw:
        if not issuer.is_ca:
            raise AuthenticationError("time: the issuer is no CA")
        x509.verify(crypto, issuer, top)
    x509.verify(crypto, leaf, issuer)
    if leaf.is_ca or leaf.unknown_critical:
        raise AuthenticationError("time: not a server's certificate")
    if _SERVER_AUTH not in leaf.ext_key_usage or realm not in leaf.hosts:
        raise AuthenticationError("time: not signed by the manager of the realm")
    if not (leaf.key_usage or 0) & x509.DIGITAL_SIGNATURE:
        raise AuthenticationError("time: the signer's key is not for signatures")
    return leaf
