# heap: 120k
"""The cryptography in less heap than the 128 KiB of the smallest board, many times over.

A heap this small comes apart into pieces: a large record must not need one more long stretch of it
after its own pieces have been strewn about.
"""

import os

from keyferry_core.iana import AES_CCM_16_128_128
from keyferry_core.suite import Crypto

crypto = Crypto(os.urandom)


def test_largest_records():
    key, nonce, aad = bytes(16), bytes(13), bytes(30)
    data = os.urandom(8192)
    for _ in range(30):
        sealed = crypto.seal(AES_CCM_16_128_128, key, nonce, aad, data)
        assert crypto.open(AES_CCM_16_128_128, key, nonce, aad, sealed) == data


def test_keys_and_signatures():
    private, public = crypto.generate()
    for i in range(10):
        other, other_public = crypto.generate()
        assert crypto.ecdh(private, other_public[1:33]) == crypto.ecdh(other, public)
        message = bytes([i])
        assert crypto.verify(public, message, crypto.sign(private, message))
