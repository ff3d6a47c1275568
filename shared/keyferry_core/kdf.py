"""HMAC-SHA-256 (RFC 2104) and HKDF-SHA-256 (RFC 5869)."""

from keyferry_core._compat import sha256
from keyferry_core.errors import LocalError

HASH_LENGTH = 32
MAX_OUTPUT = 255 * HASH_LENGTH

_BLOCK = 64
# As integers, so that a pad is one XOR and not 64 turns of an interpreted loop.
_INNER = int.from_bytes(b"\x36" * _BLOCK, "big")
_OUTER = int.from_bytes(b"\x5c" * _BLOCK, "big")


def hmac_sha256(key: bytes, *message: bytes) -> bytes:
    """HMAC-SHA-256, 32 bytes, of the message's parts in a row, which are never joined.

    Keys of any length; above 64 bytes they are hashed.
    """
    if len(key) > _BLOCK:
        key = sha256(key)
    padded = int.from_bytes(key + bytes(_BLOCK - len(key)), "big")
    inner = sha256((padded ^ _INNER).to_bytes(_BLOCK, "big"), *message)
    return sha256((padded ^ _OUTER).to_bytes(_BLOCK, "big"), inner)


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """PRK = HMAC-Hash(salt, IKM), RFC 5869 section 2.2. An empty salt is 32 zero bytes."""
    # HMAC pads its key with zeros, so the empty salt and the zero salt are one key already.
    return hmac_sha256(salt, ikm)


def hkdf_expand(prk: bytes, info: bytes | tuple, length: int) -> bytes:
    """OKM of ``length`` bytes (0 to 8160), RFC 5869 section 2.3. ``info`` may come in parts.

    LocalError for another length, or a ``prk`` shorter than 32 bytes.
    """
    if len(prk) < HASH_LENGTH:
        raise LocalError("bad-argument", "hkdf: a PRK has at least 32 bytes")
    if not 0 <= length <= MAX_OUTPUT:
        raise LocalError("bad-argument", "hkdf: 0 to 8160 bytes of output")
    parts = info if isinstance(info, tuple) else (info,)
    okm = block = b""
    counter = 1
    while len(okm) < length:
        # T(i) = HMAC-Hash(PRK, T(i-1) | info | i)
        block = hmac_sha256(prk, block, *parts, bytes((counter,)))
        okm += block
        counter += 1
    return okm[:length]
