"""The cryptography that the rest of the core calls, as one small object.

``Crypto`` does it in Python on any board. What has its own way (a secure element, a native module,
``suite_cryptography`` on CPython) is a class with the same methods, given to the agent or to a
session in place of this one, or found by ``for_board``; nothing else in the core knows the
difference. ``suite_slots`` is a fake of one, and docs/boards.md shows how to write it. Such a class

- may subclass ``Crypto`` and replace only what its hardware does;
- may hand out as ``private`` any bytes that stand for a key, such as the number of a slot: the
  core stores them and gives them back, and never looks inside;
- raises the errors named here, and lets no exception of its driver through;
- keeps tests/core/test_suite.py passing.
"""

from keyferry_core import ccm, p256
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import LocalError
from keyferry_core.iana import AES_CCM_16_64_128, AES_CCM_16_128_128

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Random = Callable[[int], bytes]

# Both algorithms of COSE that the core uses (RFC 9053, section 4.2) have these in common, in bytes.
KEY_LENGTH = 16
NONCE_LENGTH = 13


def tag_length(alg: int) -> int:
    """Bytes of tag that an AEAD adds, by its COSE number: 8 for 10, 16 for 30.

    LocalError("unsupported") for any other number.
    """
    if alg == AES_CCM_16_128_128:
        return 16
    if alg == AES_CCM_16_64_128:
        return 8
    raise LocalError("unsupported", "suite: COSE algorithm " + str(alg))


def check_nonce(nonce: bytes) -> bytes:
    """Return ``nonce`` when it has the 13 bytes that both algorithms ask for, else LocalError."""
    if len(nonce) != NONCE_LENGTH:
        raise LocalError("bad-argument", "suite: a nonce has 13 bytes")
    return nonce


class Crypto:
    """P-256, ES256 and AES-CCM with the core's own code.

    ``random`` is a callable from a number of bytes to that many bytes of the platform's
    cryptographic source (``os.urandom``); it is kept as ``random`` for callers.
    """

    def __init__(self, random: "Random") -> None:
        self.random = random

    def generate(self) -> tuple[bytes, bytes]:
        """A new key pair: private (32 bytes here) and public key (65 bytes, 04 || x || y)."""
        return p256.generate(self.random)

    def public_key(self, private: bytes) -> bytes:
        """The public key, 65 bytes. LocalError when ``private`` is no private key."""
        return p256.public_key(private, self.random)

    def ecdh(self, private: bytes, peer: bytes) -> bytes:
        """The shared x-coordinate, 32 bytes; ``peer`` is a public key or its x (32 bytes) alone.

        AuthenticationError when ``peer`` is not a point of the curve.
        """
        return p256.ecdh(private, peer, self.random)

    def sign(self, private: bytes, message: bytes) -> bytes:
        """The ES256 signature of ``message``, 64 bytes r || s."""
        return p256.sign(private, message, self.random)

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the ES256 signature is good. Malformed keys and signatures are False."""
        return p256.verify(public, message, signature)

    def tls_key(self, private: bytes, public: bytes) -> bytes:
        """What the platform's TLS loads as the key of the link's certificate: SEC1 DER.

        LocalError("bad-argument") when the private key is not there to be exported.
        """
        # needed once a start
        from keyferry_core.csr import private_key_der

        return private_key_der(private, public)

    def seal(self, alg: int, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
        """Ciphertext and tag. ``alg`` is 10 or 30, ``key`` has 16 bytes, ``nonce`` 13."""
        return ccm.encrypt(key, check_nonce(nonce), aad, plaintext, tag_length(alg))

    def open(self, alg: int, key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes) -> bytes:
        """The plaintext. AuthenticationError when the tag does not verify."""
        return ccm.decrypt(key, check_nonce(nonce), aad, ciphertext, tag_length(alg))


def for_board(random: "Random") -> Crypto:
    """What the board's module ``keyferry_board`` makes by ``crypto(random)``; else ``Crypto``,
    or on CPython ``suite_cryptography``'s, whose secret operations take constant time."""
    try:
        from keyferry_board import crypto  # pyright: ignore[reportMissingImports]
    except ImportError:
        if CPYTHON:
            from keyferry_core.suite_cryptography import CryptographyCrypto

            return CryptographyCrypto(random)
        return Crypto(random)
    return crypto(random)
