"""One-time enrolment tokens: made here, shown once, and kept as a hash."""

import base64
import hashlib
import secrets

_PREFIX = "kft_"
_BYTES = 20  # 160 bits


def new_token() -> str:
    """A fresh token, to be shown once: 160 random bits that a person can type."""
    digits = base64.b32encode(secrets.token_bytes(_BYTES)).decode().lower()
    return _PREFIX + digits


def token_hash(token: str) -> str:
    """What the store keeps of a token.

    One SHA-256 is right here. A slow, salted hash protects what people choose, because that can
    be guessed; nobody guesses 160 random bits, at whatever speed, and no two are alike.
    """
    return hashlib.sha256(token.encode()).hexdigest()
