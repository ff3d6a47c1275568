"""Questions about P-256, AES-CCM, HKDF and HMAC."""

import os

from keyferry_core import ccm, der, kdf, p256
from keyferry_core.errors import KeyferryError


def do_ecdh(private: bytes, public: bytes) -> bytes:
    """The shared secret with a point: 65 bytes, 33 compressed, or 32 for x alone."""
    return p256.ecdh(private, public, os.urandom)


def do_ecdh_spki(private: bytes, info: bytes) -> bytes:
    """The shared secret with the key of a SubjectPublicKeyInfo, DER."""
    reader = der.Reader(info)
    public = der.read_public_key(reader)
    reader.finish()
    return p256.ecdh(private, public, os.urandom)


def do_ecdsa(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature r || s is good, with SHA-256."""
    return p256.verify(public, message, signature)


def do_ecdsa_der(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is good, in the encoding that X.509 has."""
    return p256.verify(public, message, der.raw_signature(signature))


def do_sign(private: bytes, message: bytes) -> list:
    """``[public key, signature r || s, whether it verifies]``."""
    public = p256.public_key(private, os.urandom)
    signature = p256.sign(private, message, os.urandom)
    return [public, signature, p256.verify(public, message, signature)]


def do_ccm(key: bytes, nonce: bytes, aad: bytes, plaintext: bytes, sealed: bytes, tag: int) -> list:
    """``[plaintext sealed, sealed opened]``, the second a text when it is refused."""
    made = ccm.encrypt(key, nonce, aad, plaintext, tag)
    try:
        return [made, ccm.decrypt(key, nonce, aad, sealed, tag)]
    except KeyferryError as error:
        return [made, "refused (" + error.name + ")"]


def do_ccm_open(key: bytes, nonce: bytes, aad: bytes, sealed: bytes, tag: int) -> bytes:
    """The plaintext of ciphertext and tag; ``tag`` is the tag's length."""
    return ccm.decrypt(key, nonce, aad, sealed, tag)


def do_hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256, all 32 bytes."""
    return kdf.hmac_sha256(key, message)


def do_hkdf(salt: bytes, ikm: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA-256, both halves."""
    return kdf.hkdf_expand(kdf.hkdf_extract(salt, ikm), info, length)
