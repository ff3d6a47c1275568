"""The core's own primitives against OpenSSL's, by way of ``cryptography``, on random input."""

import hashlib
import hmac
import importlib.util
import os
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keyferry_core import _compat, ccm, kdf, p256, p256_point
from keyferry_core.errors import AuthenticationError
from keyferry_core.p256_point import N, P

ROOT = Path(__file__).parents[2]
CURVE = ec.SECP256R1()
SHA256 = ec.ECDSA(hashes.SHA256())
DETERMINISTIC = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)

# Half of them close to where carries, signs and ranges change.
SCALARS = st.one_of(
    st.integers(1, N - 1),
    st.integers(1, 1 << 16),
    st.integers(1, 1 << 16).map(lambda k: N - k),
    st.builds(
        lambda bit, off: max(1, min(N - 1, (1 << bit) + off)),
        st.integers(0, 255),
        st.integers(-2, 2),
    ),
)
SOURCES = st.one_of(
    st.just(os.urandom),
    st.integers(0, 255).map(lambda fill: lambda length: bytes([fill]) * length),
)


def number(k: int) -> bytes:
    return k.to_bytes(32, "big")


def encoded(key: ec.EllipticCurvePublicKey, form: PublicFormat) -> bytes:
    return key.public_bytes(Encoding.X962, form)


@given(k=SCALARS, source=SOURCES)
@settings(max_examples=300, deadline=None)
def test_public_key(k, source):
    theirs = ec.derive_private_key(k, CURVE).public_key()
    assert p256.public_key(number(k), source) == encoded(theirs, PublicFormat.UncompressedPoint)


@given(k=SCALARS, peer=SCALARS, source=SOURCES)
@settings(max_examples=200, deadline=None)
def test_ecdh(k, peer, source):
    key = ec.derive_private_key(peer, CURVE).public_key()
    shared = ec.derive_private_key(k, CURVE).exchange(ec.ECDH(), key)
    compressed = encoded(key, PublicFormat.CompressedPoint)
    for point in (encoded(key, PublicFormat.UncompressedPoint), compressed, compressed[1:]):
        assert p256.ecdh(number(k), point, source) == shared


@given(k=SCALARS, message=st.binary(max_size=200), source=SOURCES)
@settings(max_examples=200, deadline=None)
def test_sign(k, message, source):
    key = ec.derive_private_key(k, CURVE)
    r, s = decode_dss_signature(key.sign(message, DETERMINISTIC))
    assert p256.sign(number(k), message, source) == number(r) + number(s)


@given(k=SCALARS, message=st.binary(max_size=200), flip=st.integers(0, 511))
@settings(max_examples=150, deadline=None)
def test_verify(k, message, flip):
    key = ec.derive_private_key(k, CURVE)
    public = encoded(key.public_key(), PublicFormat.UncompressedPoint)
    r, s = decode_dss_signature(key.sign(message, SHA256))
    assert p256.verify(public, message, number(r) + number(s))
    assert not p256.verify(public, message + b"\x00", number(r) + number(s))
    wrong = (r << 256 | s) ^ 1 << flip
    assert not p256.verify(public, message, wrong.to_bytes(64, "big"))


@given(
    k=SCALARS,
    r=st.one_of(st.integers(0, 5), st.integers(0, (1 << 256) - 1), st.integers(N - 3, N + 3)),
    s=st.one_of(st.integers(0, 5), st.integers(0, (1 << 256) - 1), st.integers(N - 3, N + 3)),
    message=st.binary(max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_verify_says_the_same_of_anything(k, r, s, message):
    key = ec.derive_private_key(k, CURVE).public_key()
    try:
        key.verify(encode_dss_signature(r, s), message, SHA256)
        good = True
    except InvalidSignature:
        good = False
    public = encoded(key, PublicFormat.UncompressedPoint)
    assert p256.verify(public, message, number(r) + number(s)) == good


@given(j=SCALARS, k=SCALARS, log=SCALARS)
@settings(max_examples=200, deadline=None)
def test_two_multiplications_at_once(j, k, log):
    assume(j & 1)
    assume(k & 1)
    q = ec.derive_private_key(log, CURVE).public_key().public_numbers()
    point = p256_point.multiply_both(j, k, q.x, q.y)
    total = (j + k * log) % N
    if total == 0:
        assert point[2] == 0
    else:
        expected = ec.derive_private_key(total, CURVE).public_key().public_numbers()
        assert p256_point.affine(point) == (expected.x, expected.y)


@given(
    data=st.one_of(
        st.binary(max_size=70),
        st.binary(min_size=32, max_size=32).map(lambda x: b"\x02" + x),
        st.binary(min_size=32, max_size=32).map(lambda x: b"\x03" + x),
        st.integers(0, (1 << 256) - 1 - P).map(lambda x: b"\x02" + number(P + x)),
        st.binary(min_size=64, max_size=64).map(lambda xy: b"\x04" + xy),
    )
)
@settings(max_examples=500, deadline=None)
def test_points_from_any_bytes(data):
    expected = None
    # x alone and infinity (one zero byte) are forms of ours and theirs alone.
    if len(data) == 32:
        data = b"\x02" + data
    if len(data) in (33, 65):
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(CURVE, data)
            expected = key.public_numbers().x, key.public_numbers().y
        except ValueError:
            pass
    if expected:
        assert p256_point.decode(data) == expected
    else:
        with pytest.raises(AuthenticationError):
            p256_point.decode(data)


@given(a=st.integers(1, P - 1))
@settings(max_examples=500)
def test_inverse(a):
    assert p256_point.inverse(a, P) == pow(a, -1, P)
    if a < N:
        assert p256_point.inverse(a, N) == pow(a, -1, N)


def _rfc6979(private: bytes, digest: bytes):
    """RFC 6979, section 3.2, steps b to h, with Python's own HMAC."""
    h1 = number(int.from_bytes(digest, "big") % N)
    v, key = b"\x01" * 32, bytes(32)

    def mac(message):
        return hmac.new(key, message, "sha256").digest()

    key = mac(v + b"\x00" + private + h1)
    v = mac(v)
    key = mac(v + b"\x01" + private + h1)
    v = mac(v)
    while True:
        v = mac(v)
        if 0 < int.from_bytes(v, "big") < N:
            yield int.from_bytes(v, "big")
        key = mac(v + b"\x00")
        v = mac(v)


@given(k=SCALARS, digest=st.binary(min_size=32, max_size=32))
def test_nonces_after_the_first(k, digest):
    theirs = _rfc6979(number(k), digest)
    ours = p256._nonces(number(k), int.from_bytes(digest, "big") % N)
    for _ in range(4):
        assert next(ours) == next(theirs)


@given(key=st.binary(max_size=150), message=st.binary(max_size=300))
def test_hmac(key, message):
    assert kdf.hmac_sha256(key, message) == hmac.new(key, message, "sha256").digest()


@given(
    salt=st.binary(max_size=80),
    ikm=st.binary(max_size=80),
    info=st.binary(max_size=80),
    length=st.integers(1, 300),
)
def test_hkdf(salt, ikm, info, length):
    prk = kdf.hkdf_extract(salt, ikm)
    okm = kdf.hkdf_expand(prk, info, length)
    assert okm == HKDF(hashes.SHA256(), length, salt, info).derive(ikm)
    assert okm == HKDFExpand(hashes.SHA256(), length, info).derive(prk)


@given(parts=st.lists(st.binary(max_size=100), max_size=5))
def test_sha256(parts):
    assert _compat.sha256(*parts) == hashlib.sha256(b"".join(parts)).digest()


@given(
    key=st.binary(min_size=16, max_size=16),
    nonce=st.binary(min_size=7, max_size=13),
    aad=st.one_of(st.binary(max_size=64), st.integers(0, 65279).map(bytes)),
    plaintext=st.one_of(st.binary(max_size=64), st.integers(0, 65535).map(os.urandom)),
    tag_length=st.sampled_from((4, 6, 8, 10, 12, 14, 16)),
    flip=st.integers(0),
)
@settings(max_examples=300, deadline=None)
def test_ccm(key, nonce, aad, plaintext, tag_length, flip):
    theirs = AESCCM(key, tag_length)
    sealed = ccm.encrypt(key, nonce, aad, plaintext, tag_length)
    assert sealed == theirs.encrypt(nonce, plaintext, aad)
    assert ccm.decrypt(key, nonce, aad, sealed, tag_length) == plaintext
    wrong = bytearray(sealed)
    wrong[flip // 8 % len(wrong)] ^= 1 << flip % 8
    with pytest.raises(AuthenticationError):
        ccm.decrypt(key, nonce, aad, bytes(wrong), tag_length)
    with pytest.raises(InvalidTag):
        theirs.decrypt(nonce, bytes(wrong), aad)


def test_base_point_table_is_the_tools():
    path = ROOT / "shared/tools/make_p256_table.py"
    spec = importlib.util.spec_from_file_location("make_p256_table", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    table = (ROOT / "shared/keyferry_core/p256_table.py").read_text(encoding="ascii")
    assert tool.source() == table
    # And each entry against OpenSSL: its discrete logarithm is known.
    data = tool.table()
    for part in range(2):
        for index in range(16):
            log = 1 << 256
            for j in range(4):
                log += (1 if index >> j & 1 else -1) << (64 * j)
            key = ec.derive_private_key((log << (32 * part)) % N, CURVE)
            point = key.public_key().public_numbers()
            at = 64 * (16 * part + index)
            assert int.from_bytes(data[at : at + 32], "big") == point.x
            assert int.from_bytes(data[at + 32 : at + 64], "big") == 2 * point.y % P
