"""Write keyferry_core/p256_table.py: the multiples of the base point that p256.py looks up.

    python shared/tools/make_p256_table.py > shared/keyferry_core/p256_table.py

Plain affine arithmetic on purpose, and none of it shared with p256.py: what it computes is a check
on that file's formulas, not their echo. Curve: SP 800-186, section 3.2.1.3 (P-256).
"""

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

# A comb of TEETH teeth, SPACING bits apart, in PARTS parts: p256.py holds the same numbers.
TEETH = 5
SPACING = 64
PARTS = 2

HEADER = '''"""Multiples of the base point of P-256, made by shared/tools/make_p256_table.py.

Two parts of 16 points of 64 bytes. Point i of part m is 2^(32 m) times the sum of 2^256 G and
+/- 2^(64 j) G for j = 0 to 3, with plus where bit j of i is set. It stands as x || 2y mod p, which
is what the additions in p256.py take in. A bytes constant stays in flash where code is frozen or in
ROMFS, and costs 2 KiB of heap elsewhere; a list of integers would cost five times that everywhere.
"""

'''


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """The sum of two points, neither at infinity and not each other's negative."""
    if a == b:
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], P - 2, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], P - 2, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def doubled(point: tuple[int, int], times: int) -> tuple[int, int]:
    """2**times * point."""
    for _ in range(times):
        point = add(point, point)
    return point


def table() -> bytes:
    """The bytes of TABLE: 2048 of them."""
    entries = []
    for part in range(PARTS):
        teeth = [doubled(G, SPACING // PARTS * part + SPACING * j) for j in range(TEETH)]
        for index in range(1 << (TEETH - 1)):
            point = teeth[-1]
            for j in range(TEETH - 1):
                x, y = teeth[j]
                point = add(point, (x, y if index >> j & 1 else P - y))
            entries.append(point[0].to_bytes(32, "big") + (2 * point[1] % P).to_bytes(32, "big"))
    return b"".join(entries)


def source() -> str:
    """The whole text of p256_table.py."""
    data = table()
    lines = ["TABLE = (\n"]
    for at in range(0, len(data), 16):
        escapes = "".join(f"\\x{byte:02x}" for byte in data[at : at + 16])
        lines.append(f'    b"{escapes}"\n')
    return HEADER + "".join(lines) + ")\n"


if __name__ == "__main__":
    print(source(), end="")
