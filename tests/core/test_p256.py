# heap: 4m
"""P-256 against Wycheproof, RFC 6979, and textbook arithmetic where formulas can fail."""

import os

from keyferry_core import p256, p256_point
from keyferry_core.errors import AuthenticationError, LocalError
from keyferry_core.p256_point import N, P
from keyferry_core.p256_table import TABLE
from support.portable import raises, vectors

unhex = bytes.fromhex
random = os.urandom

G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def zeros(length):
    """A random source that switches blinding off: r is 0 or 1, z is 1."""
    return bytes(length)


def add(a, b):
    """The sum of two affine points, by the textbook; None is infinity."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if a[1] != b[1]:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], P - 2, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], P - 2, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(k, point):
    """k times a point, by doubling and adding."""
    k %= N
    if k > N // 2:
        return negative(multiply(N - k, point))
    result = None
    while k:
        if k & 1:
            result = add(result, point)
        point = add(point, point)
        k >>= 1
    return result


def negative(point):
    return point and (point[0], P - point[1])


def number(k):
    return k.to_bytes(32, "big")


def encode(point):
    return b"\x04" + number(point[0]) + number(point[1])


def affine(point):
    return p256_point.affine(point) if point[2] else None


def test_table_computed_anew():
    assert len(TABLE) == 2 * 16 * 64
    teeth = [G]
    for _ in range(288):
        teeth.append(add(teeth[-1], teeth[-1]))
    for part in range(2):
        for index in range(16):
            point = teeth[32 * part + 256]
            for j in range(4):
                tooth = teeth[32 * part + 64 * j]
                point = add(point, tooth if index >> j & 1 else negative(tooth))
            at = 64 * (16 * part + index)
            assert TABLE[at : at + 32] == number(point[0])
            assert TABLE[at + 32 : at + 64] == number(2 * point[1] % P)


def test_wycheproof_ecdh():
    counts = {"valid": 0, "acceptable": 0, "invalid": 0}
    for group in vectors("wycheproof_ecdh_secp256r1_ecpoint")["testGroups"]:
        for test in group["tests"]:
            peer = unhex(test["public"])
            # Integers of DER: a leading zero byte, or fewer bytes than 32.
            private = number(int(test["private"], 16))
            if test["result"] == "invalid":
                raises(AuthenticationError, p256.ecdh, private, peer, random)
            else:
                # The one "acceptable" is a compressed point, which we take.
                shared = unhex(test["shared"])
                assert p256.ecdh(private, peer, random) == shared, test["tcId"]
                if counts["valid"] % 8 == 0:
                    assert p256.ecdh(private, peer[1:33], random) == shared, test["tcId"]
            counts[test["result"]] += 1
    assert counts == {"valid": 330, "acceptable": 1, "invalid": 24}


def test_wycheproof_ecdsa():
    valid = invalid = 0
    for group in vectors("wycheproof_ecdsa_secp256r1_sha256_p1363")["testGroups"]:
        public = unhex(group["publicKey"]["uncompressed"])
        assert p256.check_public(public) == public
        for test in group["tests"]:
            good = p256.verify(public, unhex(test["msg"]), unhex(test["sig"]))
            assert good == (test["result"] == "valid"), test["tcId"]
            if good:
                valid += 1
            else:
                invalid += 1
    assert (valid, invalid) == (173, 89)


def test_rfc6979():
    data = vectors("rfc6979_p256_sha256")
    private = unhex(data["x"])
    public = b"\x04" + unhex(data["ux"]) + unhex(data["uy"])
    assert p256.public_key(private, random) == public
    assert len(data["tests"]) == 2
    for test in data["tests"]:
        message = test["msg"].encode()
        digest = int.from_bytes(p256.sha256(message), "big") % N
        nonce = next(p256._nonces(private, digest))
        assert nonce == int(test["k"], 16)
        expected = unhex(test["r"] + test["s"])
        # Whatever the source of randomness gives, the signature is the same.
        for source in (random, random, zeros, lambda length: b"\xff" * length):
            assert p256.sign(private, message, source) == expected
        assert p256.verify(public, message, expected)


def test_scalars_at_both_ends():
    # Without blinding, these have the longest runs of one sign, and meet their own table entries.
    point = None
    for k in range(1, 36):
        point = add(point, G)
        for scalar, expected in ((k, point), (N - k, negative(point))):
            for source in (zeros, random):
                assert p256.public_key(number(scalar), source) == encode(expected), scalar
                shared = p256.ecdh(number(scalar), encode(G), source)
                assert shared == number(expected[0]), scalar


def test_scalars_with_one_bit():
    point = G
    for i in range(255):
        point = add(point, point)
        assert p256.public_key(number(2 << i), zeros) == encode(point)
        if i % 8 == 0:
            assert p256.ecdh(number(2 << i), encode(G), zeros) == number(point[0])


def test_largest_blinding():
    for k in (1, 2, N - 2, N - 1, N // 2, N // 2 + 1):
        for fill in (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xfe", b"\xff"):
            scalar, z = p256._blinded(k, lambda length: fill * length)  # noqa: B023
            assert scalar & 1 == 1
            assert scalar % N == k
            assert 0 < scalar < 1 << p256_point.BLINDED_BITS
            assert 0 < z < P
    full = lambda length: b"\xff" * length  # noqa: E731
    assert p256.public_key(number(N - 1), full) == encode(negative(G))
    assert p256.ecdh(number(N - 1), encode(G), full) == number(G[0])


def test_both_at_once_where_sums_collide():
    # j*G + k*Q with Q = +/- m*G: the accumulator meets the entry that it adds, or its negative.
    for m in (1, 2, 3, 31):
        positive = multiply(m, G)
        for q, log in ((positive, m), (negative(positive), N - m)):
            for j in (1, 3, 31, N - 2, N):
                for k in (1, 5, 31, N - 2):
                    expected = multiply(j + k * log, G)
                    assert affine(p256_point.multiply_both(j, k, q[0], q[1])) == expected
    # And the sums that are infinity: j = -k log(Q).
    for log in (1, 2, 5):
        q = multiply(log, G)
        for k in (1, 7, 123456789):
            j = N - k * log % N
            point = p256_point.multiply_both(j if j & 1 else j + N, k, q[0], q[1])
            assert point[2] == 0


def test_steps_that_need_care():
    run = p256_point._run
    table = p256_point._odd_multiples(G[0], G[1])
    one, three, minus_one = b"\xa0", b"\xa1", b"\xe0"
    double = b"\x00"
    for z in (1, 2, P - 1, 0x123456789ABCDEF):
        g = affine(run(one, table, z))
        assert g == G
        two = add(G, G)
        # The entry is the point itself.
        assert affine(run(one + one, table, z)) == two
        assert affine(run(one + double, table, z)) == two
        assert affine(run(one + double + one + three, table, z)) == multiply(6, G)
        assert affine(run(one + double + one + one, table, z)) == multiply(4, G)
        # Infinity: reached, doubled, and left again.
        assert run(one + minus_one, table, z)[2] == 0
        assert run(one + minus_one + double + double, table, z)[2] == 0
        assert affine(run(one + minus_one + double + three, table, z)) == multiply(3, G)
        assert affine(run(double + double + minus_one, table, z)) == negative(G)
    assert run(b"", table, 1)[2] == 0


def test_odd_multiples():
    for start in (G, multiply(5, G), (0, p256_point.decode(bytes(32))[1])):
        table = p256_point._odd_multiples(start[0], start[1])
        assert len(table) == 16
        point, two = start, add(start, start)
        for i in range(16):
            assert table[i] == number(point[0]) + number(2 * point[1] % P)
            point = add(point, two)


def test_inverse():
    for modulus in (P, N):
        for a in (1, 2, 3, 1 << 32, modulus // 2, modulus - 2, modulus - 1, G[0], G[1]):
            assert a * p256_point.inverse(a, modulus) % modulus == 1


def test_points_that_are_none():
    x, y = number(G[0]), number(G[1])
    good = b"\x04" + x + y
    assert p256.check_public(good) == good
    private = number(7)
    # 5 is the x of a point, and the y of another one: p + 5 must be neither.
    assert p256.ecdh(private, number(5), random)
    low = number(0xD7325D7646CD60D80A92738CEB345F844CFFAF35841022CAB176F692DE8DE1D7)
    assert p256.check_public(b"\x04" + low + number(5))
    bad = [
        b"",
        b"\x00",
        b"\x04",
        good[:-1],
        good + b"\x00",
        good[1:],
        b"\x00" + x + y,
        b"\x05" + x + y,
        b"\x06" + x + y,
        b"\x07" + x + y,
        b"\x04" + y + x,
        b"\x04" + x + number(G[1] + 1),
        b"\x04" + x + number(P),
        b"\x04" + number(P) + y,
        b"\x04" + bytes(64),
        b"\x04" + b"\xff" * 64,
        b"\x04" + low + number(5 + P),
        b"\x04" + number(5 + P) + number(p256_point.decode(number(5))[1]),
        b"\x01" + x,
        b"\x04" + x,
        b"\x05" + x,
        b"\x00" + x,
        b"\x02" + number(P),
        b"\x02" + number(P + 5),
        number(P),
        number(P + 5),
        b"\xff" * 32,
        x[:31],
        b"text that is no point but has the length of 65 bytes, padded: ...",
        bytearray(good),
        None,
        4,
        "x" * 65,
    ]
    for encoded in bad:
        raises(AuthenticationError, p256_point.decode, encoded)
        raises(AuthenticationError, p256.ecdh, private, encoded, random)
        assert p256.verify(encoded, b"", number(1) + number(1)) is False
    # check_public takes the one form that certificates have.
    for encoded in (x, b"\x02" + x, b"\x03" + x):
        raises(AuthenticationError, p256.check_public, encoded)
    for encoded in bad:
        raises(AuthenticationError, p256.check_public, encoded)


def test_x_alone():
    points = nones = 0
    for x in range(1, 60):
        square = (x * x * x - 3 * x + p256_point.B) % P
        # Euler's criterion.
        if pow(square, (P - 1) // 2, P) == 1:
            even, odd = [p256_point.decode(sign + number(x)) for sign in (b"\x02", b"\x03")]
            assert p256_point.decode(number(x)) == even
            assert even[1] % 2 == 0
            assert odd == negative(even)
            assert even[1] * even[1] % P == square
            points += 1
        else:
            for encoded in (number(x), b"\x02" + number(x), b"\x03" + number(x)):
                raises(AuthenticationError, p256_point.decode, encoded)
            nones += 1
    assert points > 20
    assert nones > 20


def test_private_keys_out_of_range():
    public = encode(G)
    for private in (
        b"",
        bytes(32),
        number(N),
        number(N + 1),
        b"\xff" * 32,
        number(1)[1:],
        b"\x00" + number(1),
        bytearray(number(1)),
        None,
        1,
    ):
        for call in (
            lambda: p256.public_key(private, random),  # noqa: B023
            lambda: p256.ecdh(private, public, random),  # noqa: B023
            lambda: p256.sign(private, b"", random),  # noqa: B023
        ):
            assert raises(LocalError, call).name == "bad-argument"


def test_generate_rejects_and_goes_on():
    good = number(N - 1)
    drawn = [bytes(32), number(N), b"\xff" * 32, good]

    def source(length):
        return drawn.pop(0) if drawn else bytes(length)

    assert p256.generate(source) == (good, encode(negative(G)))
    # A source that gives nothing usable ends in an error, not in a loop or a weak key.
    for broken in (zeros, lambda length: b"\xff" * length):
        assert raises(LocalError, p256.generate, broken).name == "internal"
    for broken in (lambda length: b"", lambda length: bytes(length + 1)):
        for call in (
            lambda: p256.generate(broken),  # noqa: B023
            lambda: p256.public_key(number(1), broken),  # noqa: B023
            lambda: p256.ecdh(number(1), encode(G), broken),  # noqa: B023
            lambda: p256.sign(number(1), b"", broken),  # noqa: B023
        ):
            assert raises(LocalError, call).name == "internal"


def test_two_parties():
    for _ in range(8):
        private_a, public_a = p256.generate(random)
        private_b, public_b = p256.generate(random)
        shared = p256.ecdh(private_a, public_b, random)
        assert shared == p256.ecdh(private_b, public_a, random)
        assert shared == p256.ecdh(private_b, public_a[1:33], random)
        signature = p256.sign(private_a, b"message", random)
        assert p256.verify(public_a, b"message", signature)
        assert not p256.verify(public_a, b"Message", signature)
        assert not p256.verify(public_b, b"message", signature)


def test_signatures_that_are_none():
    private, public = p256.generate(random)
    good = p256.sign(private, b"message", random)
    r, s = good[:32], good[32:]
    flipped = number(N - int.from_bytes(s, "big"))
    assert p256.verify(public, b"message", r + flipped)
    for bad in (
        b"",
        r,
        good[:-1],
        good + b"\x00",
        s + r,
        bytes(64),
        r + bytes(32),
        bytes(32) + s,
        r + number(N),
        number(N) + s,
        b"\xff" * 64,
        bytearray(good),
        None,
        "x" * 64,
    ):
        assert p256.verify(public, b"message", bad) is False
    for i in range(0, 512, 7):
        wrong = bytearray(good)
        wrong[i // 8] ^= 1 << i % 8
        assert not p256.verify(public, b"message", bytes(wrong))


def test_signature_that_leads_to_infinity():
    # Whoever knows the key can choose r = -e / d, which makes the verifier's sum vanish.
    digest = int.from_bytes(p256.sha256(b"message"), "big")
    for d in (1, 2, 3, 0xABCDEF):
        public = p256.public_key(number(d), random)
        r = N - digest * p256_point.inverse(d, N) % N
        for s in (1, 2, 5, N - 1):
            assert not p256.verify(public, b"message", number(r) + number(s))


def test_nonces_go_on():
    # RFC 6979, 3.2 h: a candidate that is refused leads to another one, never to the same.
    seen = []
    for k in p256._nonces(number(5), 6):
        assert 0 < k < N
        assert k not in seen
        seen.append(k)
        if len(seen) == 4:
            break
    assert next(p256._nonces(number(5), 6)) == seen[0]
    assert next(p256._nonces(number(5), 7)) != seen[0]
    assert next(p256._nonces(number(6), 6)) != seen[0]
