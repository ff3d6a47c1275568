"""Records sealed and opened, and the runtime's own AES beside them."""

import os

from stopwatch import each

from keyferry_core._compat import CPYTHON
from keyferry_core.records import Records

SIZES = (16, 256, 1024)


def cases(crypto, identities):
    context, secret = bytes(32), bytes(range(32))
    found = {}

    def seal(data):
        def once():
            sender = Records(crypto, secret, b"\x00", b"\x01", context)
            return each(lambda: sender.protect(data))

        return once

    def open_(data):
        receiver = Records(crypto, secret, b"\x01", b"\x00", context)
        record = Records(crypto, secret, b"\x00", b"\x01", context).protect(data)

        def again():
            receiver._highest = -1  # as if the record had not been seen
            receiver.unprotect(record)

        return lambda: each(again)

    for size in SIZES:
        data = os.urandom(size)
        found["seal " + str(size)] = seal(data)
        found["open " + str(size)] = open_(data)
        found["raw " + str(size)] = _raw(data)
    return found


def _raw(data):
    """What the ratio is to: AES-CCM of ``cryptography``, or on MicroPython one ECB call."""
    if CPYTHON:
        from cryptography.hazmat.primitives.ciphers.aead import AESCCM

        cipher, nonce, aad = AESCCM(bytes(16)), bytes(13), bytes(48)
        return lambda: each(lambda: cipher.encrypt(nonce, data, aad))
    import cryptolib

    encrypt = cryptolib.aes(bytes(16), 1).encrypt
    return lambda: each(lambda: encrypt(data))
