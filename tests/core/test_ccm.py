# heap: 1m
"""AES-CCM against Wycheproof, RFC 3610 and NIST, and against RFC 3610 read block by block."""

from keyferry_core import ccm
from keyferry_core._compat import aes_ecb
from keyferry_core.errors import AuthenticationError, LocalError
from support.portable import raises, vectors

unhex = bytes.fromhex
KEY = bytes(range(16))
NONCE = bytes(range(100, 113))


def _by_the_block(key, nonce, aad, plaintext, tag_length):
    """RFC 3610 step by step, one block at a time."""
    block = aes_ecb(key)

    def xor(a, b):
        return bytes([x ^ y for x, y in zip(a, b)])  # noqa: B905

    size = 15 - len(nonce)
    flags = (64 if aad else 0) + 8 * ((tag_length - 2) // 2) + size - 1
    x = block(bytes([flags]) + nonce + len(plaintext).to_bytes(size, "big"))
    data = len(aad).to_bytes(2, "big") + aad if aad else b""
    for part in (data, plaintext):
        for i in range(0, len(part), 16):
            piece = part[i : i + 16]
            x = block(xor(x, piece + bytes(16 - len(piece))))
    out = b""
    for i in range(0, len(plaintext), 16):
        counter = bytes([size - 1]) + nonce + (i // 16 + 1).to_bytes(size, "big")
        out += xor(plaintext[i : i + 16], block(counter))
    zero = block(bytes([size - 1]) + nonce + bytes(size))
    return out + xor(x, zero)[:tag_length]


def test_wycheproof():
    valid = invalid = 0
    for group in vectors("wycheproof_aes_ccm")["testGroups"]:
        size = group["tagSize"] // 8
        for test in group["tests"]:
            key, iv, aad = unhex(test["key"]), unhex(test["iv"]), unhex(test["aad"])
            message, sealed = unhex(test["msg"]), unhex(test["ct"]) + unhex(test["tag"])
            if test["result"] == "valid":
                assert ccm.encrypt(key, iv, aad, message, size) == sealed, test["tcId"]
                assert ccm.decrypt(key, iv, aad, sealed, size) == message, test["tcId"]
                valid += 1
            else:
                error = raises(AuthenticationError, ccm.decrypt, key, iv, aad, sealed, size)
                assert error.name == "authentication-failed"
                invalid += 1
    assert (valid, invalid) == (65, 27)


def test_rfc3610_and_nist():
    count = 0
    for test in vectors("aes_ccm_rfc3610_nist")["tests"]:
        key, nonce, aad = unhex(test["key"]), unhex(test["nonce"]), unhex(test["aad"])
        message, sealed = unhex(test["msg"]), unhex(test["ct"])
        size = len(sealed) - len(message)
        assert ccm.encrypt(key, nonce, aad, message, size) == sealed, test["name"]
        assert ccm.decrypt(key, nonce, aad, sealed, size) == message, test["name"]
        count += 1
    assert count == 15


def test_lengths_against_the_plain_reading():
    for length in (0, 1, 15, 16, 17, 31, 255, 1023, 1024, 1025, 2048, 2049, 4113):
        for aad_length in (0, 1, 13, 14, 15, 30, 300):
            if length > 300 and aad_length > 14:
                continue
            aad = bytes([i * 7 & 255 for i in range(aad_length)])
            data = bytes([i * 5 & 255 for i in range(length)])
            sealed = ccm.encrypt(KEY, NONCE, aad, data, 16)
            assert sealed == _by_the_block(KEY, NONCE, aad, data, 16)
            assert ccm.decrypt(KEY, NONCE, aad, sealed, 16) == data


def test_every_nonce_and_tag_length():
    for nonce_length in range(7, 14):
        for tag_length in range(4, 17, 2):
            nonce = NONCE[:nonce_length]
            sealed = ccm.encrypt(KEY, nonce, b"aad", b"some plaintext here", tag_length)
            assert sealed == _by_the_block(KEY, nonce, b"aad", b"some plaintext here", tag_length)
            assert ccm.decrypt(KEY, nonce, b"aad", sealed, tag_length) == b"some plaintext here"


def test_each_bit_counts():
    sealed = ccm.encrypt(KEY, NONCE, b"aad", b"plaintext", 8)
    for i in range(8 * len(sealed)):
        wrong = bytearray(sealed)
        wrong[i // 8] ^= 1 << i % 8
        raises(AuthenticationError, ccm.decrypt, KEY, NONCE, b"aad", bytes(wrong), 8)
    for key, nonce, aad in (
        (bytes(16), NONCE, b"aad"),
        (KEY, bytes(13), b"aad"),
        (KEY, NONCE, b"aae"),
        (KEY, NONCE, b""),
        (KEY, NONCE[:12], b"aad"),
    ):
        raises(AuthenticationError, ccm.decrypt, key, nonce, aad, sealed, 8)


def test_cut_and_extended():
    sealed = ccm.encrypt(KEY, NONCE, b"", b"plaintext", 16)
    for end in range(len(sealed)):
        raises(AuthenticationError, ccm.decrypt, KEY, NONCE, b"", sealed[:end], 16)
    raises(AuthenticationError, ccm.decrypt, KEY, NONCE, b"", sealed + b"\x00", 16)
    # A shorter tag is another algorithm, not a prefix: its length is in the first block.
    raises(AuthenticationError, ccm.decrypt, KEY, NONCE, b"", sealed[:-8], 8)


def test_arguments():
    for call in (ccm.encrypt, ccm.decrypt):
        for key in (b"", KEY[:15], KEY + b"\x00", bytes(32)):
            assert raises(LocalError, call, key, NONCE, b"", bytes(16), 16).name == "bad-argument"
        for nonce in (b"", NONCE[:6], NONCE + b"\x00"):
            assert raises(LocalError, call, KEY, nonce, b"", bytes(16), 16).name == "bad-argument"
        for size in (-2, 0, 2, 3, 5, 15, 17, 18):
            assert raises(LocalError, call, KEY, NONCE, b"", bytes(16), size).name == "bad-argument"


def test_limits():
    longest = bytes(ccm.MAX_PLAINTEXT)
    sealed = ccm.encrypt(KEY, NONCE, b"", longest, 8)
    assert len(sealed) == 65543
    assert ccm.decrypt(KEY, NONCE, b"", sealed, 8) == longest
    # No two stretches share key stream: of the first bytes of each, all are different.
    assert len({sealed[i : i + 16] for i in range(0, 65535, 16)}) == 4096
    assert raises(LocalError, ccm.encrypt, KEY, NONCE, b"", bytes(65536), 8).name == "too-large"
    # Too long a ciphertext is the other side's doing, unlike too long a plaintext.
    raises(AuthenticationError, ccm.decrypt, KEY, NONCE, b"", bytes(65544), 8)
    for call in (ccm.encrypt, ccm.decrypt):
        assert raises(LocalError, call, KEY, NONCE, bytes(65280), bytes(8), 8).name == "too-large"
    sealed = ccm.encrypt(KEY, NONCE, bytes(65279), b"x", 8)
    assert ccm.decrypt(KEY, NONCE, bytes(65279), sealed, 8) == b"x"
