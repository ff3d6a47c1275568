"""What differs between the runtimes, found out once: SHA-256, AES blocks, constant-time equality.

MicroPython brings AES in ``cryptolib``; CPython has none of its own, so there the ``cryptography``
package is needed.
"""

import hashlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CPYTHON = sys.implementation.name == "cpython"


def sha256(*parts: bytes) -> bytes:
    """SHA-256 (FIPS 180-4) of the parts in a row, 32 bytes. The parts are never joined."""
    # One digest per object: a second one fails on MicroPython ("hash is final").
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.digest()


if CPYTHON:
    import hmac

    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    def equal(a: bytes, b: bytes) -> bool:
        """Whether two byte strings are the same, in a time that depends on their lengths alone."""
        return hmac.compare_digest(a, b)

    def aes_ecb(key: bytes) -> "Callable[[bytes], bytes]":
        """AES encryption of independent 16-byte blocks; the data is a multiple of 16 bytes."""
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update

    def aes_cbc(key: bytes) -> "Callable[[bytes], bytes]":
        """AES-CBC from a zero block, chaining on from call to call: the engine of a CBC-MAC."""
        return Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor().update

else:
    from cryptolib import aes  # pyright: ignore[reportMissingImports]

    def equal(a: bytes, b: bytes) -> bool:
        """Whether two byte strings are the same, in a time that depends on their lengths alone."""
        if len(a) != len(b):
            return False
        difference = 0
        for i in range(len(a)):
            difference |= a[i] ^ b[i]
        return difference == 0

    def aes_ecb(key: bytes) -> "Callable[[bytes], bytes]":
        """AES encryption of independent 16-byte blocks; the data is a multiple of 16 bytes."""
        return aes(key, 1).encrypt

    def aes_cbc(key: bytes) -> "Callable[[bytes], bytes]":
        """AES-CBC from a zero block, chaining on from call to call: the engine of a CBC-MAC."""
        return aes(key, 2, bytes(16)).encrypt
