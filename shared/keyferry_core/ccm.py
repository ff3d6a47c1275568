"""AES-CCM with 128-bit keys (RFC 3610, NIST SP 800-38C).

Both halves run over whole stretches of blocks, never block by block: the CBC-MAC is what AES-CBC
leaves in its last block, and the counter mode is one ECB call over all counter blocks, XORed to
the data as two large integers. Data above _STRETCH bytes goes through in stretches, into a buffer
made beforehand: a small heap need not find room for several copies of a large record, nor for one
more at the end, between the remains of its pieces.
"""

from keyferry_core._compat import aes_cbc, aes_ecb, equal
from keyferry_core.errors import AuthenticationError, LocalError

KEY_LENGTH = 16
# Bytes of plaintext and of associated data that one call takes. The first bound is the format's
# own for 13-byte nonces, the second the largest that has a two-byte length (RFC 3610, 2.2).
MAX_PLAINTEXT = 0xFFFF
MAX_AAD = 0xFEFF

_STRETCH = 1024


def _check(key: bytes, nonce: bytes, aad: bytes, tag_length: int) -> None:
    if len(key) != KEY_LENGTH:
        raise LocalError("bad-argument", "ccm: a key has 16 bytes")
    if not 7 <= len(nonce) <= 13:
        raise LocalError("bad-argument", "ccm: a nonce has 7 to 13 bytes")
    if tag_length not in (4, 6, 8, 10, 12, 14, 16):
        raise LocalError("bad-argument", "ccm: a tag has 4 to 16 bytes, an even number")
    if len(aad) > MAX_AAD:
        raise LocalError("too-large", "ccm: at most 65279 bytes of associated data")


def _counters(nonce: bytes, first: int, count: int) -> bytearray:
    """``count`` blocks A_i from i = ``first`` on (RFC 3610, 2.3): flags, nonce, i."""
    blocks = bytearray((bytes((14 - len(nonce),)) + nonce + bytes(15 - len(nonce))) * count)
    at = 15
    for i in range(first, first + count):
        blocks[at] = i & 0xFF
        # MAX_PLAINTEXT keeps i below 4097: two bytes, and every nonce leaves at least two.
        blocks[at - 1] = i >> 8
        at += 16
    return blocks


def _tag(
    key: bytes, nonce: bytes, aad: bytes, plaintext: bytes | bytearray, tag_length: int
) -> bytes:
    """U = T XOR S_0, cut to ``tag_length`` bytes (RFC 3610, 2.2 and 2.3)."""
    size = 15 - len(nonce)
    flags = (64 if aad else 0) | (tag_length - 2) // 2 << 3 | (size - 1)
    head = bytes((flags,)) + nonce + len(plaintext).to_bytes(size, "big")
    if aad:
        head += len(aad).to_bytes(2, "big") + aad
        head += bytes(-len(head) % 16)
    chain = aes_cbc(key)
    last = chain(head)
    view = memoryview(plaintext)
    for start in range(0, len(plaintext), _STRETCH):
        piece = view[start : start + _STRETCH]
        short = -len(piece) % 16
        last = chain(bytes(piece) + bytes(short) if short else piece)
    mask = aes_ecb(key)(_counters(nonce, 0, 1))
    mac = int.from_bytes(last[-16:], "big") ^ int.from_bytes(mask, "big")
    return mac.to_bytes(16, "big")[:tag_length]


def _crypt(key: bytes, nonce: bytes, data: bytes | memoryview, out: bytearray) -> None:
    """Put ``data`` XOR S_1, S_2, … at the start of ``out``: the same call encrypts and decrypts."""
    ecb = aes_ecb(key)
    view = memoryview(data)
    for start in range(0, len(view), _STRETCH):
        piece = view[start : start + _STRETCH]
        length = len(piece)
        stream = memoryview(ecb(_counters(nonce, 1 + start // 16, (length + 15) // 16)))
        mixed = int.from_bytes(stream[:length], "big") ^ int.from_bytes(piece, "big")
        out[start : start + length] = mixed.to_bytes(length, "big")


def encrypt(key: bytes, nonce: bytes, aad: bytes, plaintext: bytes, tag_length: int) -> bytes:
    """Ciphertext and tag: ``len(plaintext) + tag_length`` bytes.

    ``key`` has 16 bytes, ``nonce`` 7 to 13, never used twice with one key. LocalError
    ("bad-argument", or "too-large" above MAX_PLAINTEXT and MAX_AAD) for anything else.
    """
    _check(key, nonce, aad, tag_length)
    if len(plaintext) > MAX_PLAINTEXT:
        raise LocalError("too-large", "ccm: at most 65535 bytes of plaintext")
    out = bytearray(len(plaintext) + tag_length)
    _crypt(key, nonce, plaintext, out)
    out[len(plaintext) :] = _tag(key, nonce, aad, plaintext, tag_length)
    return bytes(out)


def decrypt(key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes, tag_length: int) -> bytes:
    """The plaintext of ciphertext and tag, once the tag has been verified in constant time.

    AuthenticationError when the tag is wrong or the ciphertext has an impossible length; nothing
    of the plaintext gets out then. LocalError for arguments that the wire has no part in.
    """
    _check(key, nonce, aad, tag_length)
    length = len(ciphertext) - tag_length
    if not 0 <= length <= MAX_PLAINTEXT:
        raise AuthenticationError("ccm: impossible length of ciphertext")
    plaintext = bytearray(length)
    _crypt(key, nonce, memoryview(ciphertext)[:length], plaintext)
    if not equal(_tag(key, nonce, aad, plaintext, tag_length), ciphertext[length:]):
        raise AuthenticationError("ccm: the tag does not verify")
    return bytes(plaintext)
