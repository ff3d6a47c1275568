"""Arithmetic on P-256 (SP 800-186, section 3.2.1.3): point checks and scalar multiplication.

A point in work is (x, y, z) for the affine (x / z^2, y / 2z^3), and z = 0 at infinity. Holding y
doubled saves a shift in each doubling, a tenth of the small operations. Points that are added
come from packed tables as x || 2y, 64 bytes each.

What a multiplication does is said by a sequence of steps, one byte each: a doubling, or the
addition of one table entry. So one loop holds all the curve's formulas and their exceptions, and
serves the fixed base, any other point, and both together.

Scalars stand as digits without zeros: an odd k is the sum of +2^i and -2^i for i below a fixed
number of bits. Each digit costs one addition, so the order of operations is the same for every
scalar. Python's integers still take a time that depends on their values; the callers in p256.py
add what keeps those values apart from the secret: a random multiple of n, and a random z.
"""

from keyferry_core.errors import AuthenticationError
from keyferry_core.p256_table import TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

# Bits of a blinded scalar (k + r*n with r below 2^64): 64 digits of 5, or the comb's 5 teeth of 64.
BLINDED_BITS = 320
# Bits of a public scalar that was made odd by adding n, rounded up to whole digits.
PUBLIC_BITS = 260

# A step: 0 is a doubling. Otherwise bit 7 is set, bit 6 says "negative", bit 5 "from the point's
# own table, not the base point's", and bits 0 to 4 say which entry.
_NEGATIVE = 0x40
_OWN = 0x20
# From five sign bits to a step: 16 to 31 are the entries 0 to 15, 15 to 0 the same ones negated.
_STEPS = (
    b"\xcf\xce\xcd\xcc\xcb\xca\xc9\xc8\xc7\xc6\xc5\xc4\xc3\xc2\xc1\xc0"
    b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f"
)


def inverse(a: int, modulus: int) -> int:
    """1 / a mod ``modulus``, for 0 < a < modulus without a common factor (extended Euclid).

    Its time depends on ``a``: callers multiply a secret by a random number first.
    """
    # pow(a, -1, m) returns 0 on MicroPython, and pow(a, m - 2, m) takes several times as long.
    before, now = modulus, a
    s, t = 0, 1
    while now > 1:
        quotient, after = divmod(before, now)
        before, now = now, after
        s, t = t, s - quotient * t
    return t % modulus


def decode(encoded: bytes) -> tuple[int, int]:
    """x and y of a point as bytes: 04 || x || y, 02 or 03 || x (SEC 1), or x alone (RFC 9528).

    From x alone comes the y that is even. AuthenticationError for anything that is not a point of
    the curve in exactly one of these forms. The curve's cofactor is 1, so that is all there is to
    check, and infinity has no such form.
    """
    if not isinstance(encoded, bytes):
        encoded = b""
    length = len(encoded)
    if length == 65 and encoded[0] == 4:
        x = int.from_bytes(encoded[1:33], "big")
        y = int.from_bytes(encoded[33:], "big")
        if x < P and y < P and (y * y - (x * x - 3) * x - B) % P == 0:
            return x, y
    elif length == 32 or (length == 33 and 2 <= encoded[0] <= 3):
        x = int.from_bytes(encoded[-32:], "big")
        square = ((x * x - 3) * x + B) % P
        # p = 3 mod 4, so this is a root of the square if it has one.
        y = pow(square, (P + 1) // 4, P)
        if x < P and y * y % P == square:
            parity = encoded[0] & 1 if length == 33 else 0
            return x, (y if y & 1 == parity else P - y)
    raise AuthenticationError("p256: not a point of the curve")


def _signs(k: int, bits: int) -> bytes:
    """For odd k below 2^bits: the bits that say plus (1) or minus (0) to each 2^i, big-endian."""
    # k = sum of (2 b_i - 1) 2^i = 2 b - (2^bits - 1), so b = (k + 2^bits - 1) / 2.
    return ((k + (1 << bits) - 1) >> 1).to_bytes((bits + 7) // 8, "big")


def _digits(k: int, bits: int) -> bytearray:
    """Steps for k in digits of five bits, the highest first: odd multiples from 1 to 31."""
    steps = bytearray()
    signs = _signs(k, bits)
    # The bytes may hold up to seven leading bits that belong to no digit; they are zero.
    have = bits - 8 * len(signs)
    window = 0
    for byte in signs:
        window = (window << 8 | byte) & 0xFFF
        have += 8
        while have >= 5:
            have -= 5
            steps.append(_STEPS[window >> have & 31] | _OWN)
    return steps


def _comb(k: int) -> bytearray:
    """Steps for k times the base point: pairs for the columns (i, i + 32), i = 0 to 31."""
    steps = bytearray(64)
    signs = _signs(k, BLINDED_BITS)
    for at in range(8):
        # The same byte of each tooth: bits 8 at to 8 at + 7 of its 64.
        a, b, c, d, e = [signs[tooth - at] for tooth in (39, 31, 23, 15, 7)]
        part = at >> 2
        target = 16 * (at & 3) + part
        for bit in range(8):
            column = (
                (a >> bit & 1)
                | (b >> bit & 1) << 1
                | (c >> bit & 1) << 2
                | (d >> bit & 1) << 3
                | (e >> bit & 1) << 4
            )
            steps[target] = _STEPS[column] | part << 4
            target += 2
    return steps


def _program(digits: bytes, comb: bytes) -> "Iterator[int]":
    """All steps of a multiplication: digits are five doublings apart, columns of the comb one.

    One after the other: as one string they would be 385 bytes in one piece.
    """
    high = len(digits)
    if comb:
        high -= 7
    for i in range(high):
        for _ in range(5):
            yield 0
        yield digits[i]
    if comb:
        # The last seven digits share their 35 doublings with the comb.
        for i in range(34, -1, -1):
            yield 0
            if digits and i % 5 == 0:
                yield digits[-1 - i // 5]
            if i < 32:
                yield comb[2 * i]
                yield comb[2 * i + 1]


def _odd_multiples(x: int, y: int) -> list:
    """The table of Q, 3Q, 5Q … 31Q for Q = (x, y): 16 entries of x || 2y, 64 bytes each."""
    # Entries stand apart: a small heap that has seen some use has no 1024 bytes in one piece.
    # Every sum keeps one z in common with 2Q ("co-Z", Meloni), which makes an addition cost seven
    # products, not eleven. The factors of z are kept, so one inversion makes all points affine.
    # Q's order is prime, so no sum here meets its own negative or double.
    p = P
    slope = 3 * (x * x - 1) % p
    square = y * y % p
    qx = 4 * x * square % p
    qy = 8 * square * square % p
    dx = (slope * slope - 2 * qx) % p
    dy = (slope * (qx - dx) - qy) % p
    z = 2 * y % p
    table = []
    factors = []
    while True:
        table.append(qx.to_bytes(32, "big") + qy.to_bytes(32, "big"))
        if len(table) == 16:
            break
        factor = dx - qx
        factors.append(factor)
        z = z * factor % p
        square = factor * factor % p
        dx = dx * square % p
        qx = qx * square % p
        slope = dy - qy
        dy = dy * (dx - qx) % p
        qx = (slope * slope - dx - qx) % p
        qy = (slope * (dx - qx) - dy) % p
    inverted = inverse(z, p)
    for i in range(15, -1, -1):
        square = inverted * inverted % p
        qx = int.from_bytes(table[i][:32], "big") * square % p
        qy = int.from_bytes(table[i][32:], "big") * 2 * square % p * inverted % p
        table[i] = qx.to_bytes(32, "big") + qy.to_bytes(32, "big")
        if factors:
            inverted = inverted * factors.pop() % p
    return table


def _run(program: "Iterator[int]", own: list, z_start: int) -> tuple[int, int, int]:
    """Carry the steps out, from infinity on. The first entry is taken in with z = ``z_start``."""
    p = P
    base = TABLE
    number = int.from_bytes
    x = y = z = 0
    for step in program:
        if step:
            at = step & 0x1F
            if step & _OWN:
                table = own[at]
                at = 0
            else:
                table = base
                at <<= 6
            ax = number(table[at : at + 32], "big")
            ay = number(table[at + 32 : at + 64], "big")
            # Both signs are computed, so that choosing one takes no time of its own.
            ay = (ay, p - ay)[(step & _NEGATIVE) >> 6]
            if not z:
                z = z_start
                square = z * z % p
                x = ax * square % p
                y = ay * square % p * z % p
                continue
            square = z * z % p
            width = (ax * square - x) % p
            height = (ay * square % p * z - y) % p
            if width:
                double = width + width
                z = z * double % p
                square = double * double % p
                cube = width * square % p
                middle = x * square % p
                x = (height * height - cube - middle - middle) % p
                y = (height * (middle - x) - y * cube) * 2 % p
                continue
            if height:
                # The entry is the point's negative.
                z = 0
                continue
            # The entry is the point itself: the doubling below is their sum.
        square = z * z % p
        slope = (x - square) * (x + square) * 3 % p
        square = y * y % p
        z = y * z % p
        middle = x * square % p
        x = (slope * slope - middle - middle) % p
        y = ((middle - x) * slope * 2 - square * square) % p
    return x, y, z


def affine(point: tuple[int, int, int]) -> tuple[int, int]:
    """x and y of a point in work. It must not be at infinity."""
    x, y, z = point
    inverted = inverse(z, P)
    square = inverted * inverted % P
    y = y * square % P * inverted % P
    return x * square % P, ((y + P) >> 1 if y & 1 else y >> 1)


def multiply_base(k: int, z_start: int) -> tuple[int, int, int]:
    """k times the base point. k is odd and below 2^320; ``z_start`` is 1 to p - 1, random."""
    return _run(_program(b"", _comb(k)), [], z_start)


def multiply(k: int, x: int, y: int, z_start: int) -> tuple[int, int, int]:
    """k times (x, y), a point of the curve. k is odd and below 2^320; ``z_start`` as above."""
    return _run(_program(_digits(k, BLINDED_BITS), b""), _odd_multiples(x, y), z_start)


def multiply_both(j: int, k: int, x: int, y: int) -> tuple[int, int, int]:
    """j times the base point plus k times (x, y), for public j and k, odd and below 2^260."""
    return _run(_program(_digits(k, PUBLIC_BITS), _comb(j)), _odd_multiples(x, y), 1)
