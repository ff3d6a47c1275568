"""DER's primitives: whatever is accepted is the one encoding of what was read.

Input: a choice, then DER.
"""

from fuzz.kit import attempt
from keyferry_core import csr, der
from keyferry_core._compat import CPYTHON

second_opinion = None
if CPYTHON:
    from fuzz import second_opinion

# Levels and elements that the walk below goes through.
_DEPTH = 12
_ELEMENTS = 256


def _whole(call, data: bytes) -> object:
    reader = der.Reader(data)
    result = call(reader)
    reader.finish()
    return result


def _walk(reader: der.Reader, depth: int, left: list) -> int:
    """Enter whatever looks like a structure. Content bytes of all that was passed."""
    seen = 0
    while reader.more() and left[0]:
        left[0] -= 1
        start = reader.pos
        tag = reader.skip()
        assert start < reader.pos <= reader.end
        again = der.Reader(reader.data, start, reader.pos)
        assert again.peek() == tag
        inner = again.enter(tag)
        assert (
            der.Reader(reader.data, start, reader.pos).take(tag)
            == reader.data[inner.pos : inner.end]
        )
        if len(reader.data) < 65536:
            content = reader.data[inner.pos : inner.end]
            assert der.wrap(tag, content) == reader.data[start : reader.pos]
        seen += inner.end - inner.pos
        if tag & 0x20 and depth:
            _walk(inner, depth - 1, left)
    return seen


def _signature(data: bytes) -> tuple:
    good, raw = attempt(der.raw_signature, data)
    if good:
        assert len(raw) == 64
        assert der.encode_signature(raw) == data
    return good, raw


def _public_key(data: bytes) -> tuple:
    good, public = attempt(_whole, der.read_public_key, data)
    if good:
        assert der.public_key_info(public) == data
    return good, public


def _private_key(data: bytes) -> tuple:
    good, pair = attempt(csr.parse_private_key, data)
    if good:
        assert csr.private_key_der(pair[0], pair[1]) == data
    return good, pair


def _integer(data: bytes) -> tuple:
    good, value = attempt(_whole, der.Reader.integer, data)
    if good:
        assert 0 <= value < 1 << 160
        length = 1
        while value >> (8 * length - 1):
            length += 1
        assert der.wrap(der.INTEGER, value.to_bytes(length, "big")) == data
    return good, value


def _time(data: bytes) -> tuple:
    good, value = attempt(_whole, der.Reader.time, data)
    if good and second_opinion:
        second_opinion.seconds(data[2:].decode(), value)
    return good, value


def _flags(data: bytes) -> tuple:
    good, value = attempt(_whole, der.Reader.flags, data)
    if good:
        assert 0 < value < 1 << 16
        highest = 0
        while value >> (highest + 1):
            highest += 1
        content = bytearray(2 + (highest >> 3))
        content[0] = 7 - (highest & 7)
        for n in range(highest + 1):
            content[1 + (n >> 3)] |= (value >> n & 1) << (7 - (n & 7))
        assert der.wrap(der.BIT_STRING, bytes(content)) == data
    return good, value


def _oid(data: bytes) -> tuple:
    good, value = attempt(_whole, der.Reader.oid, data)
    if good:
        assert der.wrap(der.OID, value) == data
    return good, value


def _others(data: bytes) -> list:
    return [
        attempt(_whole, der.Reader.true, data),
        attempt(_whole, der.Reader.octets_of_bits, data),
        attempt(_walk, der.Reader(data), _DEPTH, [_ELEMENTS]),
    ]


_KINDS = (_others, _signature, _public_key, _private_key, _integer, _time, _flags, _oid)


def decode(data: bytes) -> object:
    return _KINDS[(data[0] if data else 0) & 7](data[1:])


def one_input(data: bytes) -> None:
    decode(data)


def seeds() -> list:
    from support.portable import vectors

    found = []
    for group in vectors("wycheproof_ecdsa_secp256r1_sha256")["testGroups"]:
        found += [b"\x01" + bytes.fromhex(case["sig"]) for case in group["tests"][::8]]
    for group in vectors("wycheproof_ecdh_secp256r1_spki_subset")["testGroups"]:
        found += [b"\x02" + bytes.fromhex(case["public"]) for case in group["tests"][::8]]
    certificates = vectors("certificates")
    found.append(b"\x03" + bytes.fromhex(certificates["key"]["sec1"]))
    found += [b"\x00" + bytes.fromhex(certificates["certificates"]["pump-7"]["der"])]
    found += [
        b"\x04" + bytes.fromhex(text) for text in ("020100", "0202008f", "021400" + "ff" * 19)
    ]
    found += [
        b"\x05\x17\x0d260101000000Z",
        b"\x05\x17\x0d000229235959Z",
        b"\x05\x17\x0d500101000000Z",
    ]
    found += [b"\x05\x18\x0f20500101000000Z", b"\x05\x18\x0f99991231235959Z"]
    found += [b"\x06" + bytes.fromhex(text) for text in ("03020780", "03020106", "0303070080")]
    found += [b"\x07\x06\x03\x55\x1d\x13", b"\x07\x06\x02\x81\x00", b"\x07\x06\x01\x80"]
    return found
