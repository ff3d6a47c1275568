"""The backend of CPython: ``suite.Crypto`` by way of the ``cryptography`` package.

About ten times as fast, and its secret operations are OpenSSL's constant-time ones. Not part of
what goes onto a device.
"""

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyferry_core.ccm import MAX_AAD, MAX_PLAINTEXT
from keyferry_core.errors import AuthenticationError, LocalError
from keyferry_core.p256 import PRIVATE_LENGTH, PUBLIC_LENGTH, SIGNATURE_LENGTH, private_key
from keyferry_core.p256_point import N
from keyferry_core.suite import KEY_LENGTH, Crypto, check_nonce, tag_length

_CURVE = ec.SECP256R1()
_VERIFYING = ec.ECDSA(SHA256())
_SIGNING = ec.ECDSA(SHA256(), deterministic_signing=True)


def _private(private: bytes) -> ec.EllipticCurvePrivateKey:
    if isinstance(private, bytes) and len(private) == PRIVATE_LENGTH:
        k = int.from_bytes(private, "big")
        if 0 < k < N:
            return ec.derive_private_key(k, _CURVE)
    raise LocalError("bad-argument", "p256: a private key has 32 bytes and is 1 to n - 1")


def _point(encoded: bytes, lengths: tuple[int, ...]) -> ec.EllipticCurvePublicKey:
    if isinstance(encoded, bytes) and len(encoded) in lengths:
        if len(encoded) == 32:
            encoded = b"\x02" + encoded
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, encoded)
        except ValueError:
            pass
    raise AuthenticationError("p256: not a point of the curve")


def _cipher(alg: int, key: bytes, nonce: bytes, aad: bytes) -> AESCCM:
    # AESCCM takes more kinds of keys and nonces than the suites have.
    length = tag_length(alg)
    if len(key) != KEY_LENGTH:
        raise LocalError("bad-argument", "ccm: a key has 16 bytes")
    check_nonce(nonce)
    if len(aad) > MAX_AAD:
        raise LocalError("too-large", "ccm: at most 65279 bytes of associated data")
    return AESCCM(key, tag_length=length)


class CryptographyCrypto(Crypto):
    """The same results as ``Crypto``, bit for bit: signatures too are deterministic (RFC 6979)."""

    def generate(self) -> tuple[bytes, bytes]:
        private = private_key(self.random)
        return private, self.public_key(private)

    def public_key(self, private: bytes) -> bytes:
        point = _private(private).public_key()
        return point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def ecdh(self, private: bytes, peer: bytes) -> bytes:
        return _private(private).exchange(ec.ECDH(), _point(peer, (65, 33, 32)))

    def sign(self, private: bytes, message: bytes) -> bytes:
        r, s = decode_dss_signature(_private(private).sign(message, _SIGNING))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        if not isinstance(signature, bytes) or len(signature) != SIGNATURE_LENGTH:
            return False
        r = int.from_bytes(signature[:32], "big")
        s = int.from_bytes(signature[32:], "big")
        try:
            key = _point(public, (PUBLIC_LENGTH,))
            key.verify(encode_dss_signature(r, s), message, _VERIFYING)
        except (AuthenticationError, InvalidSignature):
            return False
        return True

    def seal(self, alg: int, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
        cipher = _cipher(alg, key, nonce, aad)
        # Above this, OpenSSL fails with an InternalError for 13-byte nonces.
        if len(plaintext) > MAX_PLAINTEXT:
            raise LocalError("too-large", "ccm: at most 65535 bytes of plaintext")
        return cipher.encrypt(nonce, plaintext, aad)

    def open(self, alg: int, key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes) -> bytes:
        cipher = _cipher(alg, key, nonce, aad)
        if not 0 <= len(ciphertext) - tag_length(alg) <= MAX_PLAINTEXT:
            raise AuthenticationError("ccm: impossible length of ciphertext")
        try:
            return cipher.decrypt(nonce, ciphertext, aad)
        except InvalidTag:
            raise AuthenticationError("ccm: the tag does not verify") from None
