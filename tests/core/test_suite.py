# heap: 1m
"""What every cryptography backend must do, asked of each one that runs here."""

import os

from keyferry_core import iana, suite
from keyferry_core._compat import CPYTHON
from keyferry_core.csr import parse_private_key
from keyferry_core.edhoc.messages import SUITES
from keyferry_core.errors import AuthenticationError, LocalError
from keyferry_core.suite_slots import SlotCrypto
from support.portable import raises, vectors

unhex = bytes.fromhex
KEY = bytes(range(16))
NONCE = bytes(range(13))
ALGORITHMS = ((iana.AES_CCM_16_64_128, 8), (iana.AES_CCM_16_128_128, 16))
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def backends():
    """One object of each backend."""
    result = [suite.Crypto(os.urandom), SlotCrypto(os.urandom)]
    if CPYTHON:
        from keyferry_core.suite_cryptography import CryptographyCrypto

        result.append(CryptographyCrypto(os.urandom))
    return result


def test_a_boards_own_backend_is_found():
    import sys

    class Board:
        crypto = SlotCrypto

    assert type(suite.for_board(os.urandom)) is type(backends()[2 if CPYTHON else 0])
    sys.modules["keyferry_board"] = Board
    try:
        assert type(suite.for_board(os.urandom)) is SlotCrypto
    finally:
        del sys.modules["keyferry_board"]


def test_a_key_for_tls():
    crypto = suite.Crypto(os.urandom)
    private, public = crypto.generate()
    assert parse_private_key(crypto.tls_key(private, public)) == (private, public)
    # what is inside does not come out
    element = SlotCrypto(os.urandom)
    raises(LocalError, element.tls_key, *element.generate())


def test_edhoc_suites():
    # RFC 9528, section 10.2: suite 2 has AEAD 10 and MACs of 8 bytes, suite 3 has 30 and 16.
    assert sorted(SUITES.items()) == [(2, (10, 8)), (3, (30, 16))]
    for alg, size in SUITES.values():
        assert suite.tag_length(alg) == size
    for alg in (0, 1, 9, 11, 31, -7, None):
        assert raises(LocalError, suite.tag_length, alg).name == "unsupported"


def test_randomness_is_the_callers():
    def source(length):
        return b"\x2a" * length

    for crypto in (suite.Crypto(source), SlotCrypto(source)):
        assert crypto.random(5) == b"*****"
    assert suite.Crypto(source).generate() == suite.Crypto(source).generate()
    if CPYTHON:
        from keyferry_core.suite_cryptography import CryptographyCrypto

        assert CryptographyCrypto(source).generate() == suite.Crypto(source).generate()


def test_key_agreement():
    all_of_them = backends()
    for ours in all_of_them:
        private, public = ours.generate()
        assert len(public) == 65
        assert public[0] == 4
        assert ours.public_key(private) == public
        assert ours.generate()[1] != public
        for theirs in all_of_them:
            other, other_public = theirs.generate()
            shared = ours.ecdh(private, other_public)
            assert len(shared) == 32
            assert theirs.ecdh(other, public) == shared
            assert theirs.ecdh(other, public[1:33]) == shared
            compressed = bytes([2 + (other_public[64] & 1)]) + other_public[1:33]
            assert ours.ecdh(private, compressed) == shared


def test_bad_points():
    for crypto in backends():
        private, public = crypto.generate()
        for bad in (
            b"",
            b"\x00",
            public[:64],
            public + b"\x00",
            b"\x00" + public[1:],
            b"\x06" + public[1:],
            b"\x07" + public[1:],
            public[:33],
            public[:64] + bytes([public[64] ^ 1]),
            bytes(65),
            b"\x04" + bytes(64),
            b"\x04" + b"\xff" * 64,
            b"\xff" * 32,
            # x = 1 has no y on the curve.
            bytes(31) + b"\x01",
            b"\x02" + bytes(31) + b"\x01",
            None,
        ):
            raises(AuthenticationError, crypto.ecdh, private, bad)
            assert crypto.verify(bad, b"", bytes(31) + b"\x01" + bytes(31) + b"\x01") is False
        signature = crypto.sign(private, b"message")
        assert crypto.verify(public, b"message", signature) is True
        for short in (public[1:33], bytes([2 + (public[64] & 1)]) + public[1:33]):
            assert crypto.verify(short, b"message", signature) is False


def test_bad_private_keys():
    for crypto in backends():
        public = crypto.generate()[1]
        for bad in (b"", bytes(32), b"\xff" * 32, N.to_bytes(32, "big"), bytes(33), None):
            assert raises(LocalError, crypto.public_key, bad).name == "bad-argument"
            assert raises(LocalError, crypto.ecdh, bad, public).name == "bad-argument"
            assert raises(LocalError, crypto.sign, bad, b"").name == "bad-argument"


def test_signatures():
    all_of_them = backends()
    for signer in all_of_them:
        private, public = signer.generate()
        for message in (b"", b"message", bytes(1000)):
            signature = signer.sign(private, message)
            assert len(signature) == 64
            # RFC 6979: the same each time.
            assert signer.sign(private, message) == signature
            for verifier in all_of_them:
                assert verifier.verify(public, message, signature) is True
                assert verifier.verify(public, message + b"\x00", signature) is False
                for bad in (b"", signature[:63], signature + b"\x00", bytes(64), None):
                    assert verifier.verify(public, message, bad) is False
                r, s = signature[:32], signature[32:]
                for bad in (r + bytes(32), bytes(32) + s, r + N.to_bytes(32, "big"), s + r):
                    assert verifier.verify(public, message, bad) is False


def test_signatures_of_rfc6979():
    data = vectors("rfc6979_p256_sha256")
    for crypto in backends():
        if isinstance(crypto, SlotCrypto):
            continue
        for test in data["tests"]:
            signature = crypto.sign(unhex(data["x"]), test["msg"].encode())
            assert signature == unhex(test["r"] + test["s"])


def test_sealing():
    all_of_them = backends()
    for alg, size in ALGORITHMS:
        for length in (0, 1, 16, 100, 1024, 3000):
            data = os.urandom(length)
            sealed = all_of_them[0].seal(alg, KEY, NONCE, b"aad", data)
            assert len(sealed) == length + size
            for crypto in all_of_them:
                assert crypto.seal(alg, KEY, NONCE, b"aad", data) == sealed
                assert crypto.open(alg, KEY, NONCE, b"aad", sealed) == data
                bare = crypto.seal(alg, KEY, NONCE, b"", data)
                assert crypto.open(alg, KEY, NONCE, b"", bare) == data
                wrong = bytearray(sealed)
                wrong[length // 2] ^= 0x40
                for bad in (bytes(wrong), sealed[:-1], sealed + b"\x00", sealed[: size - 1], b""):
                    raises(AuthenticationError, crypto.open, alg, KEY, NONCE, b"aad", bad)
                raises(AuthenticationError, crypto.open, alg, KEY, NONCE, b"aae", sealed)
                raises(AuthenticationError, crypto.open, alg, KEY, bytes(13), b"aad", sealed)
                raises(AuthenticationError, crypto.open, alg, bytes(16), NONCE, b"aad", sealed)
                other = ALGORITHMS[0][0] + ALGORITHMS[1][0] - alg
                raises(AuthenticationError, crypto.open, other, KEY, NONCE, b"aad", sealed)


def test_vectors_with_13_byte_nonces():
    count = 0
    for test in vectors("aes_ccm_rfc3610_nist")["tests"]:
        key, nonce, aad = unhex(test["key"]), unhex(test["nonce"]), unhex(test["aad"])
        message, sealed = unhex(test["msg"]), unhex(test["ct"])
        for alg, size in ALGORITHMS:
            if len(sealed) - len(message) == size:
                for crypto in backends():
                    assert crypto.seal(alg, key, nonce, aad, message) == sealed, test["name"]
                    assert crypto.open(alg, key, nonce, aad, sealed) == message, test["name"]
                count += 1
    assert count == 15


def test_arguments_of_sealing():
    for crypto in backends():
        for call in (crypto.seal, crypto.open):
            for alg in (0, 1, 11, None):
                error = raises(LocalError, call, alg, KEY, NONCE, b"", bytes(20))
                assert error.name == "unsupported"
            for alg, _ in ALGORITHMS:
                for key in (b"", KEY[:15], KEY + b"\x00", KEY + KEY):
                    error = raises(LocalError, call, alg, key, NONCE, b"", bytes(20))
                    assert error.name == "bad-argument"
                for nonce in (b"", NONCE[:7], NONCE[:12], NONCE + b"\x00"):
                    error = raises(LocalError, call, alg, KEY, nonce, b"", bytes(20))
                    assert error.name == "bad-argument"
                error = raises(LocalError, call, alg, KEY, NONCE, bytes(65280), bytes(20))
                assert error.name == "too-large"
        for alg, size in ALGORITHMS:
            error = raises(LocalError, crypto.seal, alg, KEY, NONCE, b"", bytes(65536))
            assert error.name == "too-large"
            raises(AuthenticationError, crypto.open, alg, KEY, NONCE, b"", bytes(65536 + size))
