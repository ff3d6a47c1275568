"""ECDH and ECDSA on P-256 with SHA-256, in pure Python (SP 800-56A, FIPS 186-5, RFC 6979).

Private keys are 32 bytes, big-endian, from 1 to n - 1. Public keys are 65 bytes, 04 || x || y.
Signatures are 64 bytes, r || s. ``random`` is a callable from a number of bytes to that many bytes
of a cryptographic random source.

Against an observer of time or power: the order of curve operations is the same for every scalar;
a random multiple of n is added to each secret scalar, and its first point gets a random z, so that
no two runs work on the same numbers; what is inverted is multiplied by a random number first.
Python's integers are not constant-time, so this makes such an attack harder and does not rule it
out.
"""

from keyferry_core._compat import sha256
from keyferry_core.errors import AuthenticationError, LocalError
from keyferry_core.kdf import hmac_sha256
from keyferry_core.p256_point import (
    N,
    P,
    affine,
    decode,
    inverse,
    multiply,
    multiply_base,
    multiply_both,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Random = Callable[[int], bytes]

PRIVATE_LENGTH = 32
PUBLIC_LENGTH = 65
SIGNATURE_LENGTH = 64

# A source whose output is out of range this often, each time with odds of 2^-32, is broken.
_TRIES = 8


def _draw(random: "Random", length: int) -> int:
    data = random(length)
    if len(data) != length:
        raise LocalError("internal", "p256: the random source returned the wrong length")
    return int.from_bytes(data, "big")


def _scalar(private: bytes) -> int:
    if isinstance(private, bytes) and len(private) == PRIVATE_LENGTH:
        k = int.from_bytes(private, "big")
        if 0 < k < N:
            return k
    raise LocalError("bad-argument", "p256: a private key has 32 bytes and is 1 to n - 1")


def _blinded(k: int, random: "Random") -> tuple[int, int]:
    """An odd k + r*n with r of 64 bits, and a random z for the first point."""
    # Fewer would leave some bits of k bare: the upper half of n is long runs of ones and zeros.
    r = _draw(random, 8) >> 1 << 1
    # n is odd, so the parity of r decides that of the sum.
    return k + (r | (k & 1 ^ 1)) * N, _draw(random, 32) % (P - 1) + 1


def _encode(x: int, y: int) -> bytes:
    return b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")


def check_public(public: bytes) -> bytes:
    """Return ``public`` when it is 04, x and y of a point, else AuthenticationError."""
    if not isinstance(public, bytes) or len(public) != PUBLIC_LENGTH:
        raise AuthenticationError("p256: a public key has 65 bytes")
    decode(public)
    return public


def private_key(random: "Random") -> bytes:
    """A new private key, by rejection sampling (FIPS 186-5, A.2.2).

    LocalError("internal") when the random source is plainly broken.
    """
    for _ in range(_TRIES):
        k = _draw(random, PRIVATE_LENGTH)
        if 0 < k < N:
            return k.to_bytes(PRIVATE_LENGTH, "big")
    raise LocalError("internal", "p256: the random source is broken")


def generate(random: "Random") -> tuple[bytes, bytes]:
    """A new private key and its public key."""
    private = private_key(random)
    return private, public_key(private, random)


def public_key(private: bytes, random: "Random") -> bytes:
    """The public key of a private key. LocalError for one that is out of range."""
    x, y = affine(multiply_base(*_blinded(_scalar(private), random)))
    return _encode(x, y)


def ecdh(private: bytes, peer: bytes, random: "Random") -> bytes:
    """The x-coordinate, 32 bytes, of the private key times the peer's point.

    ``peer`` is a public key, its compressed form, or x alone (32 bytes: G_X and G_Y of EDHOC). The
    secret is the same for both points that share an x. AuthenticationError for a bad point,
    LocalError for a private key out of range.
    """
    scalar = _scalar(private)
    x, y = decode(peer)
    k, z = _blinded(scalar, random)
    return affine(multiply(k, x, y, z))[0].to_bytes(32, "big")


def _nonces(private: bytes, digest: int) -> "Iterator[int]":
    """The candidates for k of RFC 6979, section 3.2, in their order."""
    # bits2octets: the digest is as long as n, so reducing it mod n is all there is to do.
    seed = private + digest.to_bytes(32, "big")
    v = b"\x01" * 32
    key = bytes(32)
    for separator in (b"\x00", b"\x01"):
        key = hmac_sha256(key, v + separator + seed)
        v = hmac_sha256(key, v)
    while True:
        v = hmac_sha256(key, v)
        k = int.from_bytes(v, "big")
        if 0 < k < N:
            yield k
        key = hmac_sha256(key, v + b"\x00")
        v = hmac_sha256(key, v)


def sign(private: bytes, message: bytes, random: "Random") -> bytes:
    """The ECDSA signature r || s of SHA-256(message), deterministic (RFC 6979).

    ``random`` is for blinding alone: the signature does not depend on it, and a weak source does
    not give the key away. LocalError for a private key out of range.
    """
    d = _scalar(private)
    digest = int.from_bytes(sha256(message), "big") % N
    for k in _nonces(private, digest):
        r = affine(multiply_base(*_blinded(k, random)))[0] % N
        # s = (e + r d) / k, with b in both halves, so that neither d nor k is worked on bare.
        b = _draw(random, 32) % (N - 1) + 1
        s = (b * digest + b * d % N * r) * inverse(b * k % N, N) % N
        if r and s:
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    raise LocalError("internal", "p256: no nonce")


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` (r || s) over SHA-256(message) is of the key ``public`` (65 bytes).

    False for whatever is malformed or out of range too; both s and n - s are good, as the
    standards have it, so a signature must not serve as an identifier.
    """
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_LENGTH:
        return False
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    if not (0 < r < N and 0 < s < N):
        return False
    try:
        x, y = decode(check_public(public))
    except AuthenticationError:
        return False
    w = inverse(s, N)
    j = int.from_bytes(sha256(message), "big") * w % N
    k = r * w % N
    x, _, z = multiply_both(j if j & 1 else j + N, k if k & 1 else k + N, x, y)
    if not z:
        return False
    # The point's x mod n is r, so x / z^2 is r or r + n: compare without an inversion.
    square = z * z % P
    return x == r * square % P or (r + N < P and x == (r + N) * square % P)
