# heap: 1m
"""HMAC and HKDF against Wycheproof; the helpers of _compat."""

from keyferry_core import _compat, kdf
from keyferry_core.errors import LocalError
from support.portable import raises, vectors

unhex = bytes.fromhex


def test_wycheproof_hmac():
    valid = invalid = 0
    for group in vectors("wycheproof_hmac_sha256")["testGroups"]:
        size = group["tagSize"] // 8
        for test in group["tests"]:
            mac = kdf.hmac_sha256(unhex(test["key"]), unhex(test["msg"]))
            assert len(mac) == 32
            good = _compat.equal(mac[:size], unhex(test["tag"]))
            assert good == (test["result"] == "valid"), test["tcId"]
            if good:
                valid += 1
            else:
                invalid += 1
    assert (valid, invalid) == (66, 108)


def test_wycheproof_hkdf():
    valid = invalid = 0
    for group in vectors("wycheproof_hkdf_sha256")["testGroups"]:
        for test in group["tests"]:
            prk = kdf.hkdf_extract(unhex(test["salt"]), unhex(test["ikm"]))
            info = unhex(test["info"])
            if test["result"] == "valid":
                okm = kdf.hkdf_expand(prk, info, test["size"])
                assert okm == unhex(test["okm"]), test["tcId"]
                valid += 1
            else:
                error = raises(LocalError, kdf.hkdf_expand, prk, info, test["size"])
                assert error.name == "bad-argument"
                invalid += 1
    assert (valid, invalid) == (80, 3)


def test_hkdf_expand_lengths():
    prk = kdf.hkdf_extract(b"", b"ikm")
    longest = kdf.hkdf_expand(prk, b"info", kdf.MAX_OUTPUT)
    assert len(longest) == 8160
    for length in (0, 1, 31, 32, 33, 64, 65):
        assert kdf.hkdf_expand(prk, b"info", length) == longest[:length]
    for length in (-1, 8161):
        assert raises(LocalError, kdf.hkdf_expand, prk, b"", length).name == "bad-argument"
    # RFC 5869, 2.3: the PRK has at least HashLen bytes.
    assert raises(LocalError, kdf.hkdf_expand, prk[:31], b"", 16).name == "bad-argument"


def test_hmac_keys_at_the_block_length():
    # A key of 64 bytes stands for itself, one of 65 for its hash.
    long = bytes(range(65))
    assert kdf.hmac_sha256(long, b"m") == kdf.hmac_sha256(_compat.sha256(long), b"m")
    assert kdf.hmac_sha256(long[:64], b"m") != kdf.hmac_sha256(_compat.sha256(long[:64]), b"m")
    assert kdf.hmac_sha256(b"", b"m") == kdf.hmac_sha256(bytes(64), b"m")


def test_sha256_of_parts():
    empty = unhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    assert _compat.sha256() == _compat.sha256(b"") == empty
    abc = unhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert _compat.sha256(b"abc") == _compat.sha256(b"a", b"", bytearray(b"bc")) == abc


def test_equal():
    assert _compat.equal(b"", b"")
    assert _compat.equal(b"abc", b"abc")
    for other in (b"", b"ab", b"abcd", b"Abc", b"aBc", b"abC"):
        assert not _compat.equal(b"abc", other)
    tag = bytes(range(16))
    for i in range(128):
        wrong = bytearray(tag)
        wrong[i // 8] ^= 1 << i % 8
        assert not _compat.equal(tag, bytes(wrong))


def test_aes_block():
    # FIPS 197, appendix B: one block, the same through both interfaces, since CBC starts from zero.
    key = unhex("2b7e151628aed2a6abf7158809cf4f3c")
    block = unhex("3243f6a8885a308d313198a2e0370734")
    expected = unhex("3925841d02dc09fbdc118597196a0b32")
    assert _compat.aes_ecb(key)(block) == expected
    chain = _compat.aes_cbc(key)
    assert chain(block) == expected
    # The chain goes on where it was.
    mixed = (int.from_bytes(block, "big") ^ int.from_bytes(expected, "big")).to_bytes(16, "big")
    assert chain(block) == _compat.aes_ecb(key)(mixed)
